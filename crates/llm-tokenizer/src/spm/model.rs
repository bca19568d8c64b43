//! [`PieceModel`]: what a SentencePiece model is, whatever file it came from, and its `.model` file (`sentencepiece_model.proto`).

use crate::formats::protobuf::{Fields, Message};
use crate::spm::charsmap::Charsmap;

/// How text is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Maximise the sum of scores (Kudo 2018, arXiv 1804.10959).
    Unigram,
    /// Join the best-scored adjacent pair until none is left.
    Bpe,
}

/// What a piece is for; numbers as in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceType {
    /// Ordinary.
    Normal = 1,
    /// Stands for what has no piece.
    Unknown = 2,
    /// Never found in text.
    Control = 3,
    /// Found before everything else.
    UserDefined = 4,
    /// Not given out.
    Unused = 5,
    /// `<0x00>` to `<0xFF>`.
    Byte = 6,
}

impl PieceType {
    /// From the number in the file.
    pub fn from_number(number: i32) -> Option<Self> {
        [Self::Normal, Self::Unknown, Self::Control, Self::UserDefined, Self::Unused, Self::Byte].into_iter().find(|&t| t as i32 == number)
    }
}

/// One entry of the vocabulary; its place is its id.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Its text, `▁` for a blank.
    pub text: String,
    /// Log probability (Unigram) or minus the rank (BPE).
    pub score: f32,
    /// What it is for.
    pub kind: PieceType,
}

/// A SentencePiece model.
#[derive(Debug, Clone)]
pub struct PieceModel {
    pub kind: Kind,
    pub pieces: Vec<Piece>,
    pub byte_fallback: bool,
    pub charsmap: Charsmap,
    /// Name of the normalisation rule, e.g. `nmt_nfkc`.
    pub rule: String,
    pub add_dummy_prefix: bool,
    pub remove_extra_whitespaces: bool,
    pub escape_whitespaces: bool,
    pub whitespace_as_suffix: bool,
    /// What an unknown piece is decoded to.
    pub unk_surface: String,
    pub bos_piece: String,
    pub eos_piece: String,
    pub pad_piece: String,
    /// The trainer's and denormaliser's messages as they were, written back unchanged.
    trainer: Vec<u8>,
}

impl PieceModel {
    /// A model that was not read from a `.model` file, with SentencePiece's defaults.
    pub fn new(kind: Kind, pieces: Vec<Piece>, byte_fallback: bool) -> Self {
        Self {
            kind,
            pieces,
            byte_fallback,
            charsmap: Charsmap::default(),
            rule: "identity".into(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: false,
            escape_whitespaces: true,
            whitespace_as_suffix: false,
            unk_surface: " \u{2047} ".into(),
            bos_piece: "<s>".into(),
            eos_piece: "</s>".into(),
            pad_piece: "<pad>".into(),
            trainer: Vec::new(),
        }
    }

    /// Read a `.model` file. The error names the message and field.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut normalized = false;
        let mut model = Self { remove_extra_whitespaces: true, rule: String::new(), ..Self::new(Kind::Unigram, Vec::new(), false) };
        for field in Fields::of(bytes) {
            match field? {
                (1, field) => {
                    let at = model.pieces.len();
                    let piece = field.bytes().ok_or_else(|| format!("pieces[{at}] is not a message"))?;
                    model.pieces.push(parse_piece(piece).map_err(|e| format!("pieces[{at}]: {e}"))?);
                }
                (2, field) => {
                    model.trainer = field.bytes().ok_or("trainer_spec is not a message")?.to_vec();
                    let trainer = std::mem::take(&mut model.trainer);
                    model.read_trainer(&trainer).map_err(|e| format!("trainer_spec: {e}"))?;
                    model.trainer = trainer;
                }
                (3, field) => {
                    normalized = true;
                    let normalizer = field.bytes().ok_or("normalizer_spec is not a message")?;
                    model.read_normalizer(normalizer).map_err(|e| format!("normalizer_spec: {e}"))?;
                }
                (5, field) => {
                    let denormalizer = field.bytes().ok_or("denormalizer_spec is not a message")?;
                    for inner in Fields::of(denormalizer) {
                        let (number, value) = inner.map_err(|e| format!("denormalizer_spec: {e}"))?;
                        if number == 2 && value.bytes().is_some_and(|map| !map.is_empty()) {
                            return Err("denormalizer_spec: a character map for decoding is not supported".into());
                        }
                    }
                }
                _ => {}
            }
        }
        if !normalized {
            return Err(format!("ends after {} pieces without normalizer_spec: the file is cut off or no SentencePiece model", model.pieces.len()));
        }
        model.check()?;
        Ok(model)
    }

    /// What every loader must make sure of.
    pub fn check(&self) -> Result<(), String> {
        if self.pieces.is_empty() {
            return Err("there are no pieces: not a SentencePiece model".into());
        }
        if !self.pieces.iter().any(|p| p.kind == PieceType::Unknown) {
            return Err("no piece has type UNKNOWN".into());
        }
        if let Some(at) = self.pieces.iter().position(|p| p.text.is_empty()) {
            return Err(format!("pieces[{at}] is empty"));
        }
        if let Some(at) = self.pieces.iter().position(|p| p.score.is_nan()) {
            return Err(format!("pieces[{at}]: the score is not a number"));
        }
        if let Some(at) = self.pieces.iter().position(|p| p.kind == PieceType::Byte && byte_of(&p.text).is_none()) {
            return Err(format!("pieces[{at}]: {:?} has type BYTE and is not of the form <0x41>", self.pieces[at].text));
        }
        if self.byte_fallback && self.pieces.iter().filter(|p| p.kind == PieceType::Byte).count() != 256 {
            return Err("byte_fallback needs the 256 pieces <0x00> to <0xFF>".into());
        }
        Ok(())
    }

    fn read_trainer(&mut self, message: &[u8]) -> Result<(), String> {
        for field in Fields::of(message) {
            let (number, value) = field?;
            let text = || value.text().map(str::to_string).ok_or_else(|| format!("field {number} is not text"));
            match number {
                3 => {
                    self.kind = match value.int() {
                        Some(1) => Kind::Unigram,
                        Some(2) => Kind::Bpe,
                        Some(3) => return Err("model_type WORD is not supported; UNIGRAM and BPE are".into()),
                        Some(4) => return Err("model_type CHAR is not supported; UNIGRAM and BPE are".into()),
                        other => return Err(format!("model_type {other:?} is unknown")),
                    }
                }
                24 => self.whitespace_as_suffix = value.bool().ok_or("treat_whitespace_as_suffix is not a bool")?,
                35 => self.byte_fallback = value.bool().ok_or("byte_fallback is not a bool")?,
                44 => self.unk_surface = text()?,
                46 => self.bos_piece = text()?,
                47 => self.eos_piece = text()?,
                48 => self.pad_piece = text()?,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer(&mut self, message: &[u8]) -> Result<(), String> {
        for field in Fields::of(message) {
            let (number, value) = field?;
            let flag = || value.bool().ok_or_else(|| format!("field {number} is not a bool"));
            match number {
                1 => self.rule = value.text().ok_or("name is not text")?.to_string(),
                2 => self.charsmap = Charsmap::parse(value.bytes().ok_or("precompiled_charsmap is not bytes")?)?,
                3 => self.add_dummy_prefix = flag()?,
                4 => self.remove_extra_whitespaces = flag()?,
                5 => self.escape_whitespaces = flag()?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The `.model` file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut file = Message::default();
        for piece in &self.pieces {
            let mut message = Message::default();
            message.bytes(1, piece.text.as_bytes()).float(2, piece.score);
            if piece.kind != PieceType::Normal {
                message.int(3, piece.kind as i32);
            }
            file.bytes(1, &message.0);
        }
        if self.trainer.is_empty() {
            let id = |name: &str| self.pieces.iter().position(|p| p.text == name).map_or(-1, |at| at as i32);
            let unknown = self.pieces.iter().position(|p| p.kind == PieceType::Unknown).unwrap_or_default();
            let mut trainer = Message::default();
            trainer.int(3, if self.kind == Kind::Bpe { 2 } else { 1 }).int(4, self.pieces.len() as i32);
            trainer.int(24, self.whitespace_as_suffix.into()).int(35, self.byte_fallback.into());
            trainer.int(40, unknown as i32).int(41, id(&self.bos_piece)).int(42, id(&self.eos_piece)).int(43, id(&self.pad_piece));
            trainer.bytes(44, self.unk_surface.as_bytes()).bytes(45, self.pieces[unknown].text.as_bytes());
            trainer.bytes(46, self.bos_piece.as_bytes()).bytes(47, self.eos_piece.as_bytes()).bytes(48, self.pad_piece.as_bytes());
            file.bytes(2, &trainer.0);
        } else {
            file.bytes(2, &self.trainer);
        }
        let mut normalizer = Message::default();
        normalizer.bytes(1, self.rule.as_bytes()).bytes(2, self.charsmap.as_bytes());
        normalizer.int(3, self.add_dummy_prefix.into()).int(4, self.remove_extra_whitespaces.into()).int(5, self.escape_whitespaces.into());
        file.bytes(3, &normalizer.0);
        file.0
    }
}

fn parse_piece(message: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: PieceType::Normal };
    for field in Fields::of(message) {
        match field? {
            (1, value) => piece.text = value.text().ok_or("piece is not UTF-8 text")?.to_string(),
            (2, value) => piece.score = value.float().ok_or("score is not a float")?,
            (3, value) => {
                piece.kind = value.int().and_then(PieceType::from_number).ok_or_else(|| format!("type {:?} is unknown (1 to 6)", value.int()))?
            }
            _ => {}
        }
    }
    Ok(piece)
}

/// The byte of `<0x41>`.
pub fn byte_of(piece: &str) -> Option<u8> {
    let hex = piece.strip_prefix("<0x")?.strip_suffix('>').filter(|hex| hex.len() == 2)?;
    u8::from_str_radix(hex, 16).ok()
}
