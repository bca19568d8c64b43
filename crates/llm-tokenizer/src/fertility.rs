//! Fertility: what a language or domain costs in tokens, and how much less of a context window it gets than English.
//!
//! Words are Unicode words (UAX 29) that hold a letter or digit. The share of the context is the text, counted in bytes
//! per token, that fits the same number of tokens, relative to English: 0.7 means a window holds 30 % less text. Bytes
//! favour scripts with many bytes a letter; `characters_per_token` is given as well (Petrov et al. 2023, arXiv 2305.15425).

use crate::sample::Sample;
use crate::tokenizer::Tokenizer;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use unicode_segmentation::UnicodeSegmentation;

/// The group of samples without a language or domain.
const UNKNOWN: &str = "unknown";
const ENGLISH: &str = "en";

/// Raw counts of a group of texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Texts.
    pub documents: u64,
    /// UTF-8 bytes.
    pub bytes: u64,
    /// Unicode scalar values.
    pub characters: u64,
    /// Unicode words.
    pub words: u64,
    /// Words that are one token, taken with the blank before them.
    #[serde(rename = "single_token_word_count")]
    pub single_token_words: u64,
    /// Tokens.
    pub tokens: u64,
}

impl Counts {
    /// Counts of one text.
    pub fn of(tokenizer: &Tokenizer, text: &str) -> Self {
        let mut counts = Self { documents: 1, bytes: text.len() as u64, characters: text.chars().count() as u64, ..Self::default() };
        counts.tokens = tokenizer.encode(text).len() as u64;
        for (at, word) in text.unicode_word_indices() {
            let start = if text[..at].ends_with(' ') { at - 1 } else { at };
            counts.words += 1;
            counts.single_token_words += u64::from(tokenizer.encode(&text[start..at + word.len()]).len() == 1);
        }
        counts
    }

    fn add(&mut self, other: &Self) {
        self.documents += other.documents;
        self.bytes += other.bytes;
        self.characters += other.characters;
        self.words += other.words;
        self.single_token_words += other.single_token_words;
        self.tokens += other.tokens;
    }
}

/// A group's counts and what follows from them.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Group {
    /// What was counted.
    #[serde(flatten)]
    pub counts: Counts,
    /// Fertility proper.
    pub tokens_per_word: f64,
    /// Compression.
    pub bytes_per_token: f64,
    /// Compression, blind to the script's bytes.
    pub characters_per_token: f64,
    /// Share of words that are one token (STRR).
    pub single_token_words: f64,
    /// Bytes per token relative to English; `null` without English text.
    pub context_share: Option<f64>,
}

/// The report, `fertility.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fertility {
    /// Size of the tokenizer's vocabulary.
    pub vocab_size: usize,
    /// All text.
    pub total: Group,
    /// By language code.
    pub by_lang: BTreeMap<String, Group>,
    /// By domain.
    pub by_domain: BTreeMap<String, Group>,
    /// By `lang/domain`.
    pub by_lang_and_domain: BTreeMap<String, Group>,
}

/// Counts of samples as they come.
#[derive(Debug)]
pub struct Measure {
    tokenizer: Tokenizer,
    groups: BTreeMap<(String, String), Counts>,
}

impl Measure {
    /// Nothing counted yet.
    pub fn new(tokenizer: Tokenizer) -> Self {
        Self { tokenizer, groups: BTreeMap::new() }
    }

    /// Count some samples, on all threads.
    pub fn feed(&mut self, samples: &[Sample]) {
        let counts: Vec<Counts> = samples.par_iter().map(|s| Counts::of(&self.tokenizer, &s.text)).collect();
        for (sample, counts) in samples.iter().zip(&counts) {
            let name = |field: &Option<String>| field.clone().filter(|f| !f.is_empty()).unwrap_or_else(|| UNKNOWN.to_string());
            self.groups.entry((name(&sample.lang), name(&sample.domain))).or_default().add(counts);
        }
    }

    /// The report.
    pub fn finish(&self) -> Fertility {
        let mut total = Counts::default();
        let (mut langs, mut domains) = (BTreeMap::<String, Counts>::new(), BTreeMap::<String, Counts>::new());
        for ((lang, domain), counts) in &self.groups {
            total.add(counts);
            langs.entry(lang.clone()).or_default().add(counts);
            domains.entry(domain.clone()).or_default().add(counts);
        }
        let english = langs.get(ENGLISH).filter(|c| c.tokens > 0).map(|c| ratio(c.bytes, c.tokens));
        let group = |counts: &Counts| Group {
            counts: *counts,
            tokens_per_word: ratio(counts.tokens, counts.words),
            bytes_per_token: ratio(counts.bytes, counts.tokens),
            characters_per_token: ratio(counts.characters, counts.tokens),
            single_token_words: ratio(counts.single_token_words, counts.words),
            context_share: english.map(|english| ratio(counts.bytes, counts.tokens) / english),
        };
        Fertility {
            vocab_size: self.tokenizer.vocab_size(),
            total: group(&total),
            by_lang: langs.iter().map(|(name, c)| (name.clone(), group(c))).collect(),
            by_domain: domains.iter().map(|(name, c)| (name.clone(), group(c))).collect(),
            by_lang_and_domain: self.groups.iter().map(|((lang, domain), c)| (format!("{lang}/{domain}"), group(c))).collect(),
        }
    }
}

/// 0 for nothing over nothing: JSON has no NaN.
fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainer::{TrainerConfig, train};

    #[test]
    fn a_language_the_vocabulary_does_not_know_costs_more() {
        let english = "the cat sat on the mat and the dog sat on the log ".repeat(20);
        let tokenizer = train([&english], &TrainerConfig { vocab_size: 340, ..TrainerConfig::default() }).unwrap();
        let mut measure = Measure::new(tokenizer);
        let sample = |text: &str, lang: &str| Sample { text: text.to_string(), lang: Some(lang.to_string()), domain: None };
        measure.feed(&[sample("the cat sat", "en"), sample("Großmütter hüpfen", "de")]);
        let report = measure.finish();
        let (en, de) = (report.by_lang["en"], report.by_lang["de"]);
        assert_eq!((en.counts.words, en.context_share), (3, Some(1.0)));
        assert!(de.tokens_per_word > 4.0 && de.context_share.unwrap() < 0.6, "{de:?}");
        assert!(en.single_token_words > 0.6, "{en:?}");
        assert_eq!(report.total.counts.tokens, en.counts.tokens + de.counts.tokens);
        assert!(report.by_lang_and_domain.contains_key("de/unknown"));
    }
}
