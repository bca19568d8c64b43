//! SentencePiece: pieces of whole sentences, blanks and all, found by merging (BPE) or by the best path (Unigram).
//!
//! | file | job |
//! |---|---|
//! | [`model`] | the pieces and settings, and the `.model` file |
//! | [`normalize`], [`charsmap`] | text before it is cut |
//! | [`bpe`], [`unigram`], [`trie`] | cutting |
//! | [`decode`] | ids to text |
//! | [`json`] | to and from the pipelines of a `tokenizer.json` |
//!
//! Ids and text are those of the `sentencepiece` library for models from its files, and those of the `tokenizers` library for a
//! `tokenizer.json`. The two differ in which merges there are, in how a Unigram's sums are rounded, and in how bytes become text.

pub mod bpe;
pub mod charsmap;
pub mod decode;
pub mod json;
pub mod model;
pub mod normalize;
pub mod trie;
pub mod unigram;

use crate::error::{Result, format};
use crate::scratch::Scratch;
use crate::spm::bpe::PieceBpe;
use crate::spm::model::{Kind, Piece, PieceModel, PieceType, byte_of};
use crate::spm::normalize::{Aligned, BLANK, Normalizer};
use crate::spm::trie::Trie;
use crate::spm::unigram::Unigram;
use std::ops::Range;
use std::path::Path;

/// An encoder of pieces.
#[derive(Debug)]
pub struct Spm {
    pub normalizer: Normalizer,
    algorithm: Algorithm,
    pub decoding: decode::Rules,
    /// By id.
    kinds: Vec<PieceType>,
    unknown: Unknown,
    /// The model, where the tokenizer came from one.
    pub model: Option<Box<PieceModel>>,
}

#[derive(Debug)]
enum Algorithm {
    Bpe(Box<PieceBpe>),
    Unigram(Unigram),
}

/// What characters without a piece become.
#[derive(Debug, Clone)]
pub struct Unknown {
    pub id: u32,
    /// Ids of the 256 bytes, if they stand for it instead.
    pub bytes: Option<Box<[u32; 256]>>,
    /// A run of unknown characters is one token.
    pub fuse: bool,
}

impl Unknown {
    /// Append what stands for `text`, which has no piece. `start`: where this text's ids begin in `out`.
    pub fn push(&self, text: &str, start: usize, out: &mut Vec<u32>) {
        match &self.bytes {
            Some(bytes) => out.extend(text.bytes().map(|b| bytes[usize::from(b)])),
            None if self.fuse && out[start..].last() == Some(&self.id) => {}
            None => out.push(self.id),
        }
    }
}

/// Ids and how many bytes of the normalised text each stands for.
#[derive(Debug, Default)]
pub struct Spans {
    spans: Vec<(u32, usize)>,
    /// A run of unknown characters does not go back beyond this.
    start: usize,
}

impl Spans {
    fn push(&mut self, id: u32, length: usize) {
        self.spans.push((id, length));
    }

    /// What follows is not one run with what was before.
    fn anew(&mut self) {
        self.start = self.spans.len();
    }

    fn unknown(&mut self, text: &str, unknown: &Unknown) {
        match (&unknown.bytes, self.spans[self.start..].last_mut()) {
            (Some(bytes), _) => self.spans.extend(text.bytes().map(|b| (bytes[usize::from(b)], 1))),
            (None, Some((id, length))) if unknown.fuse && *id == unknown.id => *length += text.len(),
            (None, _) => self.spans.push((unknown.id, text.len())),
        }
    }
}

/// The 256 byte pieces, if all are there.
pub fn byte_ids<'a>(pieces: impl Iterator<Item = (&'a str, u32)>) -> Option<Box<[u32; 256]>> {
    let mut ids = Box::new([u32::MAX; 256]);
    for (text, id) in pieces {
        if let Some(byte) = byte_of(text) {
            ids[usize::from(byte)] = id;
        }
    }
    ids.iter().all(|&id| id != u32::MAX).then_some(ids)
}

impl Spm {
    /// From a SentencePiece model; `path` is named in errors.
    pub fn new(model: PieceModel, path: &Path) -> Result<Self> {
        model.check().map_err(|e| format(path, e))?;
        let pieces = &model.pieces;
        let entries = |kind: PieceType| pieces.iter().enumerate().filter(move |(_, p)| p.kind == kind).map(|(id, p)| (p.text.as_str(), id as u32));
        let user_defined = || {
            let strings = entries(PieceType::UserDefined).map(|(text, id)| (text.as_bytes(), id));
            strings.clone().next().is_some().then(|| Trie::new(strings))
        };
        let unknown = Unknown {
            id: entries(PieceType::Unknown).next().map_or(0, |(_, id)| id),
            bytes: if model.byte_fallback { byte_ids(entries(PieceType::Byte)) } else { None },
            fuse: true,
        };
        let algorithm = match model.kind {
            Kind::Unigram => Algorithm::Unigram(Unigram::new(&model)),
            Kind::Bpe => Algorithm::Bpe(Box::new(PieceBpe::from_scores(pieces, user_defined()).map_err(|e| format(path, e))?)),
        };
        Ok(Self {
            normalizer: Normalizer::of(&model, user_defined()),
            algorithm,
            decoding: decode::Rules::of(&model),
            kinds: pieces.iter().map(|p| p.kind).collect(),
            unknown,
            model: Some(Box::new(model)),
        })
    }

    /// Append the ids of a text without added tokens; `first`: nothing stands before it.
    pub fn encode(&self, text: &str, first: bool, scratch: &mut Scratch, out: &mut Vec<u32>) {
        let mut normal = std::mem::take(&mut scratch.text);
        normal.clear();
        self.normalizer.normalize(text, first, &mut normal);
        match &self.algorithm {
            Algorithm::Bpe(bpe) => bpe.encode(&normal, &self.unknown, scratch, out),
            Algorithm::Unigram(unigram) => unigram.encode(&normal, &self.unknown, scratch, out),
        }
        scratch.text = normal;
    }

    /// Ids of a text without added tokens, and the bytes of it that each stands for; `first`: nothing stands before it.
    pub fn encode_with_offsets(&self, text: &str, first: bool, scratch: &mut Scratch) -> Vec<(u32, Range<usize>)> {
        let mut normal = Aligned::default();
        self.normalizer.normalize(text, first, &mut normal);
        let mut spans = Spans::default();
        match &self.algorithm {
            Algorithm::Bpe(bpe) => bpe.spans(&normal.text, &self.unknown, &mut scratch.bpe, &mut spans),
            Algorithm::Unigram(unigram) => unigram.spans(&normal.text, &self.unknown, scratch, &mut spans),
        }
        let mut at = 0;
        let source = |(id, length): (u32, usize)| {
            at += length;
            (id, normal.source(at - length..at))
        };
        spans.spans.into_iter().map(source).collect()
    }

    /// The piece for what has none, unless bytes stand for that.
    pub fn unknown_id(&self) -> Option<u32> {
        self.unknown.bytes.is_none().then_some(self.unknown.id)
    }

    /// What a piece is for.
    pub fn kind(&self, id: u32) -> Option<PieceType> {
        self.kinds.get(id as usize).copied()
    }

    /// `"BPE"` or `"Unigram"`.
    pub fn name(&self) -> &'static str {
        match self.algorithm {
            Algorithm::Bpe(_) => "BPE",
            Algorithm::Unigram(_) => "Unigram",
        }
    }
}

/// The bytes a piece stands for in text.
pub fn piece_bytes(piece: &Piece, unk_surface: &str) -> Vec<u8> {
    match piece.kind {
        PieceType::Byte => byte_of(&piece.text).map_or(Vec::new(), |b| vec![b]),
        PieceType::Unknown => unk_surface.as_bytes().to_vec(),
        _ => piece.text.replace(BLANK, " ").into_bytes(),
    }
}
