//! Byte-level BPE: our own encoder, and reading a `tokenizer.json` into it if it is a pipeline we know, that is one of the
//! pre-tokenisations of [`crate::pretokenize`] with no normaliser or NFC. Anything else is refused here.

use crate::added::AddedToken;
use crate::bpe::{Bpe, Merges, Rule, WholeWords};
use crate::byte_level;
use crate::error::{Result, format};
use crate::pretokenize::Pattern;
use crate::scratch::Scratch;
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc, is_nfc_quick};

/// The encoder of ordinary text.
#[derive(Debug)]
pub struct Native {
    pattern: Pattern,
    nfc: bool,
    bpe: Bpe,
}

/// What the JSON of a BPE model section holds.
#[derive(Debug, Deserialize)]
pub struct BpeSection {
    pub vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
    #[serde(default)]
    pub ignore_merges: bool,
    #[serde(default)]
    pub byte_fallback: bool,
    #[serde(default)]
    pub fuse_unk: bool,
    #[serde(default)]
    pub unk_token: Option<String>,
}

impl BpeSection {
    /// Merges as `a b`.
    pub fn merge_lines(&self) -> Vec<String> {
        self.merges.iter().filter_map(Merge::pair).map(|(a, b)| format!("{a} {b}")).collect()
    }

    /// Merges as ids, `(left, right, joined)`, in rank order.
    pub fn rules(&self, path: &Path) -> Result<Vec<(u32, u32, u32)>> {
        let id = |token: &str| self.vocab.get(token).copied();
        let mut join = String::new();
        let mut rules = Vec::with_capacity(self.merges.len());
        for (rank, merge) in self.merges.iter().enumerate() {
            let rule = merge.pair().and_then(|(a, b)| {
                join.clear();
                join.extend([a, b]);
                Some((id(a)?, id(b)?, id(&join)?))
            });
            rules.push(rule.ok_or_else(|| format(path, format!("model.merges[{rank}]: {merge:?} needs both parts and their join in model.vocab")))?);
        }
        Ok(rules)
    }
}

/// `["a", "b"]`, or `"a b"` in files of older versions.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

impl Merge {
    fn pair(&self) -> Option<(&str, &str)> {
        match self {
            Self::Pair(a, b) => Some((a, b)),
            Self::Line(line) => line.split_once(' '),
        }
    }
}

/// A vocabulary entry's bytes and id.
pub type VocabEntry = (Vec<u8>, u32);

impl Native {
    /// `None` if the pipeline is not one of ours; an error if it is but the file is damaged.
    pub fn from_json(json: &Value, added: &[AddedToken], path: &Path) -> Result<Option<(Self, Vec<VocabEntry>)>> {
        let Some((pattern, nfc)) = pipeline(json) else {
            return Ok(None);
        };
        let affects_text = |t: &AddedToken| t.lstrip || t.rstrip || t.single_word || (t.normalized && nfc && !is_nfc(&t.content));
        if added.iter().any(affects_text) {
            return Ok(None);
        }
        let section = BpeSection::deserialize(&json["model"]).map_err(|e| format(path, format!("model: {e}")))?;
        let merges = section.rules(path)?;
        let rules: Vec<Rule> = (0..).zip(&merges).map(|(rank, &(left, right, joined))| Rule { left, right, rank, joined }).collect();
        let vocab: Vec<VocabEntry> = section.vocab.iter().filter_map(|(token, &id)| Some((byte_level::from_alphabet(token)?, id))).collect();
        Ok(Self::new(pattern, nfc, &vocab, &rules, section.ignore_merges).map(|native| (native, vocab)))
    }

    /// `None` if a byte that text can hold has no token. `whole_words`: a word that is a token is not merged but taken.
    pub fn new(pattern: Pattern, nfc: bool, vocab: &[VocabEntry], rules: &[Rule], whole_words: bool) -> Option<Self> {
        let mut byte_ids = [u32::MAX; 256];
        for (bytes, id) in vocab {
            if let [byte] = bytes[..] {
                byte_ids[usize::from(byte)] = *id;
            }
        }
        // Some vocabularies leave out the bytes that UTF-8 never has.
        let is_possible = |byte: usize| !matches!(byte, 0xC0 | 0xC1 | 0xF5..);
        if byte_ids.iter().enumerate().any(|(byte, &id)| id == u32::MAX && is_possible(byte)) {
            return None;
        }
        let whole_words = if whole_words { vocab.iter().map(|(bytes, id)| (bytes.as_slice().into(), *id)).collect() } else { WholeWords::default() };
        Some(Self { pattern, nfc, bpe: Bpe::new(byte_ids, Merges::new(rules), whole_words) })
    }

    /// How text is cut into words.
    pub fn pattern(&self) -> Pattern {
        self.pattern
    }

    /// True if text is brought to NFC first.
    pub fn nfc(&self) -> bool {
        self.nfc
    }

    /// True if [`Native::normalize`] leaves `text` as it is.
    pub fn keeps(&self, text: &str) -> bool {
        !self.nfc || text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes
    }

    /// What the pipeline's normaliser makes of `text`.
    pub fn normalize<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.keeps(text) { Cow::Borrowed(text) } else { Cow::Owned(text.nfc().collect()) }
    }

    /// True if `text` is one word of the pre-tokenisation and stays as it is: rules can make one token of it.
    pub fn is_word(&self, text: &str) -> bool {
        self.keeps(text) && self.pattern.words(text).count() == 1
    }

    /// Append the ids of a piece of ordinary, normalised text.
    pub fn encode(&self, text: &str, scratch: &mut Scratch, out: &mut Vec<u32>) {
        let Scratch { cache, bpe, .. } = scratch;
        let bytes = text.as_bytes();
        let mut start = 0;
        for word in self.pattern.words(text) {
            let end = start + word.len();
            cache.encode(bytes, start, end, out, |out| self.bpe.encode_word(&bytes[start..end], bpe, out));
            start = end;
        }
    }
}

/// Pre-tokenisation and "is NFC applied" of a pipeline we run ourselves.
fn pipeline(json: &Value) -> Option<(Pattern, bool)> {
    let model = &json["model"];
    let unset = |name: &str| matches!(&model[name], Value::Null | Value::Bool(false)) || model[name].as_str() == Some("");
    let plain = model["type"].as_str().is_none_or(|t| t == "BPE")
        && model["vocab"].is_object()
        && model["merges"].is_array()
        && ["continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"].iter().all(|name| unset(name))
        && model["dropout"].as_f64().unwrap_or(0.0) == 0.0;
    if !plain || json["decoder"]["type"] != "ByteLevel" {
        return None;
    }
    let nfc = match json["normalizer"]["type"].as_str() {
        None => false,
        Some("NFC") => true,
        Some("Sequence") if json["normalizer"]["normalizers"].as_array().is_some_and(Vec::is_empty) => false,
        Some(_) => return None,
    };
    Some((pattern(&json["pre_tokenizer"])?, nfc))
}

fn pattern(step: &Value) -> Option<Pattern> {
    let no_prefix = |step: &Value| step["add_prefix_space"] == false;
    match step["type"].as_str()? {
        "ByteLevel" if no_prefix(step) && step["use_regex"].as_bool().unwrap_or(true) => Some(Pattern::Gpt2),
        "Sequence" => match step["pretokenizers"].as_array()?.as_slice() {
            [only] => pattern(only),
            [split, bytes] if split["type"] == "Split" && bytes["type"] == "ByteLevel" && bytes["use_regex"] == false && no_prefix(bytes) => {
                let isolated = split["behavior"] == "Isolated" && split["invert"] == false;
                isolated.then(|| Pattern::from_regex(split["pattern"]["Regex"].as_str()?)).flatten()
            }
            _ => None,
        },
        _ => None,
    }
}
