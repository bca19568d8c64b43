//! Streaming decode: text appears as soon as its last byte is known.

use crate::spm::decode::PieceDecoder;
use crate::tokenizer::{Engine, Tokenizer};

/// See [`Tokenizer::decode_stream`]. Everything given out, put together, is what [`Tokenizer::decode`] gives.
#[derive(Debug)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    skip_special: bool,
    /// Models of pieces only: blanks at the beginning, bytes that are not text yet.
    pieces: Option<PieceDecoder>,
    /// Bytes of an unfinished character.
    pending: Vec<u8>,
    /// Fallback pipelines only: ids so far and how much of their text was given out.
    ids: Vec<u32>,
    given: usize,
}

impl DecodeStream {
    pub(crate) fn new(tokenizer: Tokenizer, skip_special: bool) -> Self {
        let pieces = match &tokenizer.0.engine {
            Engine::Pieces(spm) => Some(PieceDecoder::new(spm.decoding)),
            _ => None,
        };
        Self { tokenizer, skip_special, pieces, pending: Vec::new(), ids: Vec::new(), given: 0 }
    }

    /// The text that `id` completes, `None` if it completes none.
    pub fn push(&mut self, id: u32) -> Option<String> {
        match (&self.tokenizer.0.engine, &mut self.pieces) {
            (Engine::Fallback(_), _) => return self.push_fallback(id),
            (Engine::Pieces(spm), Some(decoder)) => {
                if let Some(token) = self.tokenizer.piece(spm, id, self.skip_special) {
                    decoder.push(token, &mut self.pending);
                }
            }
            _ if self.skip_special && self.tokenizer.is_special(id) => {}
            _ => self.pending.extend_from_slice(self.tokenizer.token_bytes(id).unwrap_or_default()),
        }
        let text = take_complete(&mut self.pending);
        (!text.is_empty()).then_some(text)
    }

    /// What is left at the end: U+FFFD for an unfinished character, else nothing.
    pub fn finish(mut self) -> String {
        if matches!(self.tokenizer.0.engine, Engine::Fallback(_)) {
            let text = self.tokenizer.decode(&self.ids, self.skip_special);
            return text.get(self.given..).unwrap_or_default().to_string();
        }
        if let Some(decoder) = &mut self.pieces {
            decoder.finish(&mut self.pending);
        }
        String::from_utf8_lossy(&self.pending).into_owned()
    }

    /// A pipeline's decoder may look at its neighbours (blanks at word starts), so the whole text is decoded again and
    /// the new part given out, unless it may still change. Quadratic, but these pipelines are not the hot path.
    fn push_fallback(&mut self, id: u32) -> Option<String> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids, self.skip_special);
        let new = text.get(self.given..).filter(|new| !new.is_empty() && !new.ends_with('\u{fffd}'))?;
        self.given = text.len();
        Some(new.to_string())
    }
}

/// Move everything but an unfinished last character out of `pending`, as `from_utf8_lossy` reads it.
fn take_complete(pending: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut at = 0;
    loop {
        match std::str::from_utf8(&pending[at..]) {
            Ok(valid) => {
                text.push_str(valid);
                pending.clear();
                return text;
            }
            Err(error) => {
                let end = at + error.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&pending[at..end]));
                match error.error_len() {
                    Some(bad) => {
                        text.push('\u{fffd}');
                        at = end + bad;
                    }
                    None => {
                        pending.drain(..end);
                        return text;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::take_complete;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn byte_by_byte_is_the_same_as_at_once(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0xC0u8..0xF5, 0x80u8..0xC0], 0..40)) {
            let (mut pending, mut text) = (Vec::new(), String::new());
            for &byte in &bytes {
                pending.push(byte);
                text.push_str(&take_complete(&mut pending));
            }
            text.push_str(&String::from_utf8_lossy(&pending));
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
