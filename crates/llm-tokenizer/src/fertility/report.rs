//! What follows from the counts: [`Report`], which is `fertility.json`.

use super::UNKNOWN;
use super::count::Counts;
use super::examples::Example;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A group's counts and what follows from them. `null` is what needs text of the reference language, or translations, where there
/// are none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// What was counted.
    #[serde(flatten)]
    pub counts: Counts,
    /// Fertility proper.
    pub tokens_per_word: f64,
    /// Fertility of scripts without blanks between words.
    pub tokens_per_character: f64,
    /// Compression.
    pub bytes_per_token: f64,
    /// Compression, blind to the script's bytes.
    pub characters_per_token: f64,
    /// Share of words that are one token (STRR).
    pub single_token_words: f64,
    /// Share of tokens that are the unknown token; several unknown characters may be one.
    pub unknown_share: f64,
    /// Bytes per token relative to the reference: the text that fits a context window.
    pub context_share: Option<f64>,
    /// Tokens per byte relative to the reference: the inverse.
    pub parity_per_byte: Option<f64>,
    /// Texts that have a translation into the reference language.
    pub parallel_texts: u64,
    /// Tokens of these texts relative to those of their translations.
    pub parity_parallel: Option<f64>,
    /// The inverse: the meaning that fits a context window.
    pub context_share_parallel: Option<f64>,
    /// Work of training on a byte relative to the reference; each token takes the same.
    pub training_flops_per_byte: Option<f64>,
    /// Bytes in the cache of keys and values for 1000 characters relative to the reference; each token takes the same.
    pub kv_cache_per_1000_characters: Option<f64>,
}

/// What groups are compared with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reference {
    bytes_per_token: f64,
    tokens_per_byte: f64,
    tokens_per_character: f64,
}

impl Reference {
    /// `None` where there is no text or no token.
    pub fn of(counts: &Counts) -> Option<Self> {
        (counts.tokens > 0).then(|| Self {
            bytes_per_token: ratio(counts.bytes, counts.tokens),
            tokens_per_byte: ratio(counts.tokens, counts.bytes),
            tokens_per_character: ratio(counts.tokens, counts.characters),
        })
    }
}

impl Group {
    pub(super) fn of(counts: &Counts, reference: Option<Reference>) -> Self {
        let tokens_per_character = ratio(counts.tokens, counts.characters);
        let reference = reference.filter(|_| counts.tokens > 0);
        let per_byte = reference.map(|r| ratio(counts.tokens, counts.bytes) / r.tokens_per_byte);
        Self {
            counts: *counts,
            tokens_per_word: ratio(counts.tokens, counts.words),
            tokens_per_character,
            bytes_per_token: ratio(counts.bytes, counts.tokens),
            characters_per_token: ratio(counts.characters, counts.tokens),
            single_token_words: ratio(counts.single_token_words, counts.words),
            unknown_share: ratio(counts.unknown_tokens, counts.tokens),
            context_share: reference.map(|r| ratio(counts.bytes, counts.tokens) / r.bytes_per_token),
            parity_per_byte: per_byte,
            parallel_texts: 0,
            parity_parallel: None,
            context_share_parallel: None,
            training_flops_per_byte: per_byte,
            kv_cache_per_1000_characters: reference.map(|r| tokens_per_character / r.tokens_per_character),
        }
    }

    pub(super) fn set_parallel(&mut self, texts: u64, parity: f64) {
        self.parallel_texts = texts;
        self.parity_parallel = Some(parity).filter(|p| *p > 0.0);
        self.context_share_parallel = self.parity_parallel.map(|p| 1.0 / p);
    }
}

/// What one tokenizer makes of the samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fertility {
    /// The tokenizer's name.
    pub name: String,
    /// Size of its vocabulary.
    pub vocab_size: usize,
    /// Its token for what it cannot spell; `null` where it has none.
    pub unknown_id: Option<u32>,
    /// All text.
    pub total: Group,
    /// By language code.
    pub by_lang: BTreeMap<String, Group>,
    /// By domain.
    pub by_domain: BTreeMap<String, Group>,
    /// By `lang/domain`.
    pub by_lang_and_domain: BTreeMap<String, Group>,
    /// Tokens relative to those of the first tokenizer, by language code.
    pub tokens_vs_first: BTreeMap<String, f64>,
}

/// All tokenizers on the same samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The language others are compared with.
    pub reference: String,
    /// In the order in which they were given.
    pub tokenizers: Vec<Fertility>,
    /// A sentence of each language, cut by each tokenizer.
    pub examples: Vec<Example>,
}

impl Report {
    /// `fertility.json`: at the top what the first tokenizer makes of the samples (all there is where one is measured), then every
    /// tokenizer under `tokenizers`, the examples, and a sentence for each language.
    pub fn to_json(&self) -> serde_json::Result<Value> {
        let mut all = match self.tokenizers.first().map(serde_json::to_value).transpose()? {
            Some(Value::Object(first)) => first,
            _ => Map::new(),
        };
        if let Value::Object(rest) = serde_json::to_value(self)? {
            all.extend(rest);
        }
        let sentences: Map<String, Value> = self.langs().into_iter().map(|lang| (lang.to_string(), self.sentence(lang).into())).collect();
        all.insert("sentences".to_string(), sentences.into());
        Ok(all.into())
    }

    /// Languages: the one others are compared with, then by code, text without a language last.
    pub fn langs(&self) -> Vec<&str> {
        let mut langs: Vec<&str> = self.tokenizers.first().map(|t| t.by_lang.keys().map(String::as_str).collect()).unwrap_or_default();
        langs.sort_by_key(|lang| (*lang != self.reference, *lang == UNKNOWN));
        langs
    }

    /// True if a context window can be compared with that of the reference language.
    pub fn has_reference(&self) -> bool {
        self.tokenizers.iter().any(|t| t.by_lang.get(&self.reference).is_some_and(|g| g.context_share.is_some()))
    }

    /// True if some samples are translations of others.
    pub fn has_parallel(&self) -> bool {
        self.tokenizers.iter().any(|t| t.by_lang.values().any(|g| g.parity_parallel.is_some()))
    }
}

/// 0 for nothing over nothing: JSON has no NaN.
pub(super) fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}
