//! Pieces to text, one at a time.
//!
//! Sources: `SentencePieceProcessor::Decode` of `sentencepiece_processor.cc`, and the decoders `Replace`, `ByteFallback`, `Fuse`, `Strip`
//! of the `tokenizers` library. They differ: the one gives U+FFFD for each byte that is not UTF-8 and all that is, the other gives U+FFFD
//! for every byte of a run of bytes that is not UTF-8 as a whole; the one drops the blank of the first piece, the other the first
//! character of the text if it is a blank.

use super::model::PieceModel;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// As `sentencepiece` does.
    SentencePiece {
        /// Blanks dropped from the beginning of the text's first piece.
        drop: Drop,
    },
    /// As a `tokenizer.json` says.
    HuggingFace {
        /// Drop a blank at the beginning.
        strip: bool,
        /// Bytes are put together.
        byte_fallback: bool,
    },
}

/// Blanks that are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drop {
    /// None.
    Nothing,
    /// One.
    One,
    /// All.
    All,
}

impl Rules {
    /// Those of a SentencePiece model.
    pub fn of(model: &PieceModel) -> Self {
        let drop = match (model.remove_extra_whitespaces, model.add_dummy_prefix) {
            (true, _) => Drop::All,
            (_, true) => Drop::One,
            _ => Drop::Nothing,
        };
        Self::SentencePiece { drop }
    }

    fn puts_bytes_together(self) -> bool {
        !matches!(self, Self::HuggingFace { byte_fallback: false, .. })
    }
}

/// What a token is to the decoder.
#[derive(Debug, Clone, Copy)]
pub enum Token<'a> {
    /// One byte of a character.
    Byte(u8),
    /// Text, `▁` already a blank.
    Text(&'a [u8]),
    /// Text that is not looked at: a control token shown, or what stands for the unknown.
    Verbatim(&'a [u8]),
}

/// Decoder of one text.
#[derive(Debug, Clone)]
pub struct PieceDecoder {
    rules: Rules,
    /// The next piece may lose its blank.
    at_start: bool,
    bytes: Vec<u8>,
}

impl PieceDecoder {
    /// At the beginning of a text.
    pub fn new(rules: Rules) -> Self {
        Self { rules, at_start: true, bytes: Vec::new() }
    }

    /// Append what is certain after `token` to `out`.
    pub fn push(&mut self, token: Token<'_>, out: &mut Vec<u8>) {
        match token {
            Token::Byte(byte) if self.rules.puts_bytes_together() => {
                self.bytes.push(byte);
                if matches!(self.rules, Rules::SentencePiece { .. }) {
                    self.give_whole_characters(out);
                }
            }
            Token::Byte(byte) => self.push_text(format!("<0x{byte:02X}>").as_bytes(), out),
            Token::Text(text) => {
                self.end_bytes(out);
                self.push_text(text, out);
            }
            Token::Verbatim(text) => {
                self.end_bytes(out);
                match self.rules {
                    Rules::HuggingFace { .. } => self.push_text(text, out),
                    Rules::SentencePiece { .. } => {
                        self.at_start &= text.is_empty();
                        out.extend_from_slice(text);
                    }
                }
            }
        }
    }

    /// Append what is left.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.end_bytes(out);
    }

    fn push_text(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let mut rest = text;
        if self.at_start {
            let blanks = text.iter().take_while(|&&b| b == b' ').count();
            let dropped = match self.rules {
                Rules::SentencePiece { drop: Drop::All } => blanks,
                Rules::SentencePiece { drop: Drop::One } | Rules::HuggingFace { strip: true, .. } => blanks.min(1),
                _ => 0,
            };
            rest = &text[dropped..];
            // SentencePiece goes on dropping with `remove_extra_whitespaces` until something was seen.
            self.at_start = text.is_empty() || (rest.is_empty() && self.rules == Rules::SentencePiece { drop: Drop::All });
        }
        out.extend_from_slice(rest);
    }

    fn give_whole_characters(&mut self, out: &mut Vec<u8>) {
        loop {
            match std::str::from_utf8(&self.bytes) {
                Ok(_) => {
                    self.at_start &= self.bytes.is_empty();
                    out.append(&mut self.bytes);
                    return;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    if error.error_len().is_none() && valid == 0 {
                        return;
                    }
                    self.at_start = false;
                    out.extend(self.bytes.drain(..valid));
                    if error.error_len().is_none() {
                        return;
                    }
                    self.bytes.remove(0);
                    out.extend("\u{fffd}".bytes());
                }
            }
        }
    }

    /// The run of bytes is over.
    fn end_bytes(&mut self, out: &mut Vec<u8>) {
        if self.bytes.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.bytes);
        let text = match (self.rules, std::str::from_utf8(&bytes)) {
            (Rules::HuggingFace { .. }, Ok(_)) => bytes,
            _ => "\u{fffd}".repeat(bytes.len()).into_bytes(),
        };
        match self.rules {
            Rules::HuggingFace { .. } => self.push_text(&text, out),
            Rules::SentencePiece { .. } => {
                self.at_start = false;
                out.extend(text);
            }
        }
    }
}
