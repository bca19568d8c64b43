//! Where tokens come from in a text, in bytes.

use crate::added::Piece;
use crate::native::Native;
use crate::spm::normalize::{Aligned, Sink};
use crate::tokenizer::{Engine, Tokenizer};
use std::ops::Range;
use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Ids and the bytes of the text that each stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoding {
    /// As [`Tokenizer::encode`] gives them.
    pub ids: Vec<u32>,
    /// For every id a range of bytes in the text. A blank that the tokenizer puts in front counts to the first character. The ranges are
    /// in order and on character boundaries, so tokens that share a character overlap.
    pub offsets: Vec<Range<usize>>,
}

impl Tokenizer {
    /// [`Tokenizer::encode`] with offsets; slower, as words are not remembered.
    pub fn encode_with_offsets(&self, text: &str) -> Encoding {
        self.offsets(text, false)
    }

    /// [`Tokenizer::encode_with_special`] with offsets.
    pub fn encode_with_special_and_offsets(&self, text: &str) -> Encoding {
        self.offsets(text, true)
    }

    fn offsets(&self, text: &str, special: bool) -> Encoding {
        let found = match &self.0.engine {
            Engine::Fallback(fallback) => fallback.encode_with_offsets(text, special),
            engine => {
                let (mut found, mut at, mut first) = (Vec::new(), 0, true);
                self.0.added.split_raw(text, special, |piece| {
                    match (piece, engine) {
                        (Piece::Token(id, token), _) => {
                            found.push((id, at..at + token.len()));
                            at += token.len();
                        }
                        (Piece::Text(part), Engine::ByteLevel(native)) => {
                            let normal = native.aligned(part);
                            let mut inner = 0;
                            self.0.added.split_normalized(&normal.text, special, |piece| {
                                let ids = match piece {
                                    Piece::Token(id, _) => vec![id],
                                    Piece::Text(plain) => self.byte_level_ids(native, plain),
                                };
                                for id in ids {
                                    let start = inner;
                                    inner += self.token_bytes(id).map_or(0, <[u8]>::len);
                                    found.push((id, shifted(normal.source(start..inner), at)));
                                }
                            });
                            at += part.len();
                        }
                        (Piece::Text(part), _) => {
                            let ids = self.plain_with_offsets(part, first);
                            found.extend(ids.into_iter().map(|(id, range)| (id, shifted(range, at))));
                            at += part.len();
                        }
                    }
                    first = false;
                });
                found
            }
        };
        let whole = |range: Range<usize>| text.floor_char_boundary(range.start)..text.ceil_char_boundary(range.end);
        let (ids, offsets) = found.into_iter().map(|(id, range)| (id, whole(range))).unzip();
        Encoding { ids, offsets }
    }

    /// Ids of untrusted text without added tokens, and the bytes of it that each stands for; `first`: nothing stands before it.
    pub(crate) fn plain_with_offsets(&self, text: &str, first: bool) -> Vec<(u32, Range<usize>)> {
        match &self.0.engine {
            Engine::Fallback(fallback) => fallback.encode_with_offsets(text, false),
            Engine::Pieces(spm) => self.0.pool.with(|scratch| spm.encode_with_offsets(text, first, scratch)),
            Engine::ByteLevel(native) => {
                let normal = native.aligned(text);
                let mut at = 0;
                let source = |id: u32| {
                    let start = at;
                    at += self.token_bytes(id).map_or(0, <[u8]>::len);
                    (id, normal.source(start..at))
                };
                self.byte_level_ids(native, &normal.text).into_iter().map(source).collect()
            }
        }
    }

    fn byte_level_ids(&self, native: &Native, normal: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.0.pool.with(|scratch| native.encode(normal, scratch, &mut ids));
        ids
    }
}

fn shifted(range: Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}

impl Native {
    /// The normalised text with its source.
    fn aligned(&self, text: &str) -> Aligned {
        let mut out = Aligned::default();
        if self.keeps(text) {
            out.copy(text, 0);
            return out;
        }
        // Composition never reaches over a character that starts anew and stays as it is.
        let stays = |c: char| canonical_combining_class(c) == 0 && is_nfc_quick(std::iter::once(c)) == IsNormalized::Yes;
        let mut begins: Vec<usize> = text.char_indices().filter(|&(i, c)| i == 0 || stays(c)).map(|(i, _)| i).collect();
        begins.push(text.len());
        for part in begins.windows(2) {
            let source = &text[part[0]..part[1]];
            let normal: String = source.nfc().collect();
            if normal == source { out.copy(source, part[0]) } else { out.put(&normal, part[0]..part[1]) }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Result;
    use crate::trainer::{TrainerConfig, train};
    use proptest::prelude::*;

    #[test]
    fn composed_characters_keep_their_place() -> Result<()> {
        let tokenizer = train(["the cat sat on the mat"], &TrainerConfig { vocab_size: 280, ..TrainerConfig::default() })?;
        let mut json: serde_json::Value = serde_json::from_str(&tokenizer.json().unwrap()).unwrap();
        json["normalizer"] = serde_json::json!({"type": "NFC"});
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
        let nfc = Tokenizer::load(dir.path())?;
        let text = "xe\u{301}<|eot_id|>\u{1100}\u{1161}y";
        let encoding = nfc.encode_with_offsets(text);
        assert_eq!(encoding.ids, nfc.encode(text));
        let slices: Vec<&str> = encoding.offsets.iter().map(|range| &text[range.clone()]).collect();
        assert_eq!(slices[..3], ["x", "e\u{301}", "e\u{301}"]);
        assert_eq!(slices[slices.len() - 4..], ["\u{1100}\u{1161}", "\u{1100}\u{1161}", "\u{1100}\u{1161}", "y"]);
        Ok(())
    }

    proptest! {
        #[test]
        fn ranges_are_in_order_and_cover_the_text(text in "([a-z ]|é|日本|😀|<\\|eot_id\\|>|e\u{301}){0,30}") {
            thread_local!(static TOKENIZER: Tokenizer = train(["the cat sat on the mat é"], &TrainerConfig { vocab_size: 290, ..TrainerConfig::default() }).unwrap());
            TOKENIZER.with(|tokenizer| {
                for (encoding, ids) in [
                    (tokenizer.encode_with_offsets(&text), tokenizer.encode(&text)),
                    (tokenizer.encode_with_special_and_offsets(&text), tokenizer.encode_with_special(&text)),
                ] {
                    assert_eq!(encoding.ids, ids);
                    let mut end = 0;
                    for range in &encoding.offsets {
                        assert!(range.start <= end && range.end >= end && text.get(range.clone()).is_some());
                        end = range.end;
                    }
                    assert_eq!(end, text.len());
                }
            });
        }
    }
}
