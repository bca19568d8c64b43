//! Pipelines we do not run ourselves (SentencePiece-style BPE, Unigram, WordPiece, unusual pre-tokenisers) run in the
//! `tokenizers` crate behind the same interface, slower but complete.

use crate::error::{Result, format};
use std::collections::HashSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use tokenizers::{ModelWrapper, Tokenizer as Reference};

/// A tokenizer of the `tokenizers` crate, once with special tokens recognised in text and once without.
#[derive(Debug)]
pub struct Fallback {
    trusted: Reference,
    untrusted: Reference,
    /// Control tokens but for the one that stands for the unknown.
    control: HashSet<u32>,
    names: Vec<String>,
    /// What a character becomes that no vocabulary has.
    strange: Option<u32>,
}

fn ids(reference: &Reference, text: &str) -> Vec<u32> {
    guarded(|| reference.encode_fast(text, false).map(|e| e.get_ids().to_vec()).unwrap_or_default())
}

/// The library panics on some pipelines that it loads (a `Strip` decoder that cuts more than there is). [`Fallback::from_json`] tries them
/// and refuses; what it missed gives nothing here, and the panic's message on standard error.
fn guarded<T: Default>(call: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_default()
}

fn with_offsets(reference: &Reference, text: &str, before: usize) -> Vec<(u32, Range<usize>)> {
    guarded(|| match reference.encode(text, false) {
        Ok(e) => e.get_ids().iter().zip(e.get_offsets()).map(|(&id, &(start, end))| (id, before + start..before + end)).collect(),
        Err(_) => Vec::new(),
    })
}

fn first_length(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}

impl Fallback {
    /// From the text of a `tokenizer.json`; `path` is named in errors.
    pub fn from_json(text: &str, path: &Path) -> Result<Self> {
        let panicked = |_| {
            let what = "the `tokenizers` library panics on this file (its message is above): look at its model, pre_tokenizer and decoder";
            Err(format(path, what))
        };
        catch_unwind(AssertUnwindSafe(|| Self::read(text, path))).unwrap_or_else(panicked)
    }

    fn read(text: &str, path: &Path) -> Result<Self> {
        let mut trusted = text.parse::<Reference>().map_err(|e| format(path, format!("not a tokenizer.json: {e}")))?;
        trusted.with_truncation(None).map_err(|e| format(path, e.to_string()))?;
        trusted.with_padding(None);
        // A model without a token for the unknown fails only when it meets one: better now than in a long run.
        let strange = trusted.encode_fast("\u{10ffd}", false).map_err(|e| format(path, format!("cannot encode unknown characters: {e}")))?;
        trusted.encode_fast("a\u{10ffd}\u{1f9ff}\0", false).map_err(|e| format(path, format!("cannot encode unknown characters: {e}")))?;
        let special = trusted.get_added_tokens_decoder().into_iter().filter(|(id, token)| token.special && !strange.get_ids().contains(id));
        let (control, names) = special.map(|(id, token)| (id, token.content)).unzip();
        for text in ["", " ", "a", "\u{2581}a b", "Hello, World! 12 \n\t日本 é\u{301}"] {
            let ids = trusted.encode_fast(text, false).map(|e| e.get_ids().to_vec()).unwrap_or_default();
            trusted.decode(&ids, true).ok();
            ids.iter().for_each(|&id| drop(trusted.decode(&[id], false)));
        }
        (0..trusted.get_vocab_size(true).min(512) as u32).for_each(|id| drop(trusted.decode(&[id], false)));
        let mut untrusted = trusted.clone();
        untrusted.set_encode_special_tokens(true);
        Ok(Self { trusted, untrusted, control, names, strange: strange.get_ids().last().copied() })
    }

    /// Ids of `text`.
    pub fn encode(&self, text: &str, special: bool) -> Vec<u32> {
        if special {
            return ids(&self.trusted, text);
        }
        let found = ids(&self.untrusted, text);
        if !found.iter().any(|id| self.control.contains(id)) {
            return found;
        }
        // Some models find control tokens on their own (Unigram has them in its vocabulary): cut them in two.
        let cuts = self.cuts(text);
        cuts.windows(2).flat_map(|cut| ids(&self.untrusted, &text[cut[0]..cut[1]])).filter(|id| !self.control.contains(id)).collect()
    }

    /// [`Fallback::encode`] with byte ranges in `text`.
    pub fn encode_with_offsets(&self, text: &str, special: bool) -> Vec<(u32, Range<usize>)> {
        if special {
            return with_offsets(&self.trusted, text, 0);
        }
        let found = with_offsets(&self.untrusted, text, 0);
        if !found.iter().any(|(id, _)| self.control.contains(id)) {
            return found;
        }
        let cuts = self.cuts(text);
        let pieces = cuts.windows(2).flat_map(|cut| with_offsets(&self.untrusted, &text[cut[0]..cut[1]], cut[0]));
        pieces.filter(|(id, _)| !self.control.contains(id)).collect()
    }

    /// Places within control tokens, the beginning and the end.
    fn cuts(&self, text: &str) -> Vec<usize> {
        let mut cuts: Vec<usize> = self.names.iter().flat_map(|name| text.match_indices(name.as_str()).map(|(at, c)| at + first_length(c))).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        cuts
    }

    /// Text of `ids`.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        guarded(|| self.trusted.decode(ids, skip_special).unwrap_or_default())
    }

    /// The token for what the vocabulary cannot spell.
    pub fn unk_id(&self) -> Option<u32> {
        match self.trusted.get_model() {
            ModelWrapper::BPE(bpe) if bpe.byte_fallback => None,
            ModelWrapper::BPE(bpe) => self.trusted.token_to_id(bpe.unk_token.as_ref()?),
            ModelWrapper::WordPiece(model) => self.trusted.token_to_id(&model.unk_token),
            ModelWrapper::WordLevel(model) => self.trusted.token_to_id(&model.unk_token),
            ModelWrapper::Unigram(model) if model.byte_fallback() => None,
            ModelWrapper::Unigram(_) => self.strange,
        }
    }

    /// The token is spelled `<0xE2>`.
    pub fn is_byte(&self, id: u32) -> bool {
        self.trusted.id_to_token(id).is_some_and(|token| byte(&token).is_some())
    }

    /// Every vocabulary entry with the bytes it most likely stands for.
    pub fn vocab(&self) -> Vec<(Vec<u8>, u32)> {
        self.trusted.get_vocab(true).into_iter().map(|(token, id)| (piece_bytes(&token), id)).collect()
    }
}

fn byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>').filter(|t| t.len() == 2)?;
    u8::from_str_radix(hex, 16).ok()
}

/// SentencePiece spelling: `▁` is a blank, `<0xE2>` is a byte.
fn piece_bytes(token: &str) -> Vec<u8> {
    match byte(token) {
        Some(byte) => vec![byte],
        None => token.replace('\u{2581}', " ").into_bytes(),
    }
}
