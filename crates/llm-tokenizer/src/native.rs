//! Reading a `tokenizer.json` into our own encoder, if it is a pipeline we know: byte-level BPE after GPT-2's, Llama 3's
//! or Qwen 2's pre-tokenisation, with no normaliser or NFC. Anything else is refused here and runs in the `tokenizers`
//! crate ([`crate::fallback`]).

use crate::added::AddedToken;
use crate::bpe::{Bpe, Merges, Scratch};
use crate::byte_level;
use crate::cache::WordCache;
use crate::error::{Result, format};
use crate::pretokenize::Pattern;
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc, is_nfc_quick};

/// The encoder of ordinary text.
#[derive(Debug)]
pub struct Native {
    pattern: Pattern,
    nfc: bool,
    bpe: Bpe,
    /// Caches and buffers of calls that are not running; a call borrows one.
    workspaces: Mutex<Vec<Workspace>>,
}

#[derive(Debug, Default)]
struct Workspace {
    cache: WordCache,
    scratch: Scratch,
}

/// What the JSON of a model section holds.
#[derive(Debug, Deserialize)]
struct BpeSection {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
    #[serde(default)]
    ignore_merges: bool,
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
        let mut vocab = Vec::with_capacity(section.vocab.len());
        let mut byte_ids = [u32::MAX; 256];
        let mut whole_words = HashMap::new();
        for (token, &id) in &section.vocab {
            let Some(bytes) = byte_level::from_alphabet(token) else {
                continue;
            };
            if let [byte] = bytes[..] {
                byte_ids[usize::from(byte)] = id;
            }
            if section.ignore_merges {
                whole_words.insert(bytes.clone().into_boxed_slice(), id);
            }
            vocab.push((bytes, id));
        }
        // Some vocabularies leave out the bytes that UTF-8 never has.
        let is_possible = |byte: usize| !matches!(byte, 0xC0 | 0xC1 | 0xF5..);
        if byte_ids.iter().enumerate().any(|(byte, &id)| id == u32::MAX && is_possible(byte)) {
            return Ok(None);
        }
        let mut rules = Vec::with_capacity(section.merges.len());
        for (rank, merge) in section.merges.iter().enumerate() {
            let id = |token: &str| section.vocab.get(token).copied();
            let rule = merge.pair().and_then(|(a, b)| Some((id(a)?, id(b)?, id(&format!("{a}{b}"))?)));
            let rule = rule.ok_or_else(|| format(path, format!("model.merges[{rank}]: {merge:?} needs both parts and their join in model.vocab")))?;
            rules.push(rule);
        }
        let native = Self { pattern, nfc, bpe: Bpe::new(byte_ids, Merges::new(&rules), whole_words), workspaces: Mutex::default() };
        Ok(Some((native, vocab)))
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

    /// Run `body` with a function that appends the ids of a piece of ordinary, normalised text.
    pub fn with_encoder<R>(&self, body: impl FnOnce(&mut dyn FnMut(&str, &mut Vec<u32>)) -> R) -> R {
        let lock = || self.workspaces.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut workspace = lock().pop().unwrap_or_default();
        let result = body(&mut |text, out| self.encode(text, &mut workspace, out));
        lock().push(workspace);
        result
    }

    fn encode(&self, text: &str, workspace: &mut Workspace, out: &mut Vec<u32>) {
        let Workspace { cache, scratch } = workspace;
        for word in self.pattern.words(text) {
            let word = word.as_bytes();
            cache.encode(word, out, |out| self.bpe.encode_word(word, scratch, out));
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
