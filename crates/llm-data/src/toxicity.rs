//! Toxicity by lists of words and phrases, one file per language; a learned score is a [`crate::classifier::ClassifierStep`].
//!
//! No list comes with the program: what counts is for the user to say. A file has one word or phrase a line (`#` begins a comment);
//! lists of the form "List of Dirty, Naughty, Obscene, and Otherwise Bad Words" fit as they are. A match must stand between word
//! boundaries, except in languages that are written without spaces. Lists are counted per thousand words and in number, because one
//! word in a book is not what a page full of them is.

use crate::document::Document;
use crate::error::{Error, Result, io};
use crate::step::{Rule, Step, Trace, Verdict};
use aho_corasick::AhoCorasick;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Settings of the step `toxicity words`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WordListConfig {
    /// Name in funnels.
    pub name: String,
    /// Language (ISO 639-1) to file; `any` is used for all languages, beside their own.
    pub lists: BTreeMap<String, PathBuf>,
    /// Greatest number of matches that passes.
    pub max_matches: Option<u64>,
    /// Greatest share of matches among the words that passes.
    pub max_share: Option<f64>,
}

impl Default for WordListConfig {
    fn default() -> Self {
        Self { name: "word list".into(), lists: BTreeMap::new(), max_matches: None, max_share: Some(0.005) }
    }
}

/// The step.
#[derive(Debug)]
pub struct WordListStep {
    config: WordListConfig,
    lists: BTreeMap<String, AhoCorasick>,
}

/// Languages without spaces between words.
const UNSPACED: &[&str] = &["ja", "zh", "th", "lo", "km", "my"];

impl WordListStep {
    /// Read the lists.
    pub fn new(config: WordListConfig) -> Result<Self> {
        if config.lists.is_empty() {
            return Err(Error::Config(format!("{}: no lists; set lists.LANGUAGE to a file with one word a line", config.name)));
        }
        if config.max_matches.is_none() && config.max_share.is_none() {
            return Err(Error::Config(format!("{}: neither max_matches nor max_share is set, so the step would do nothing", config.name)));
        }
        let mut lists = BTreeMap::new();
        for (lang, path) in &config.lists {
            let text = std::fs::read_to_string(path).map_err(io(path, "cannot read"))?;
            let words: Vec<String> = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(plain).collect();
            if words.is_empty() {
                return Err(Error::Format { path: path.clone(), message: "holds no word; expected one word or phrase a line".into() });
            }
            let automaton = AhoCorasick::new(&words);
            let automaton = automaton.map_err(|e| Error::Format { path: path.clone(), message: format!("cannot be searched for: {e}") })?;
            lists.insert(lang.clone(), automaton);
        }
        Ok(Self { config, lists })
    }

    /// Matches in `text` and its words.
    pub fn count(&self, text: &str, lang: &str) -> (u64, u64) {
        let text = plain(text);
        let unspaced = UNSPACED.contains(&lang);
        let inside = |c: Option<char>| !unspaced && c.is_some_and(char::is_alphanumeric);
        let mut count = 0;
        for list in ["any", lang].iter().filter_map(|l| self.lists.get(*l)) {
            let whole = list.find_overlapping_iter(&text).map(|m| (m.start(), m.end()));
            let whole = whole.filter(|(start, end)| !inside(text[..*start].chars().next_back()) && !inside(text[*end..].chars().next()));
            let mut found: Vec<(usize, usize)> = whole.collect();
            // The longest of those that begin at a place, none within another.
            found.sort_by_key(|(start, end)| (*start, usize::MAX - end));
            let mut from = 0;
            for (start, end) in found {
                if start >= from {
                    (count, from) = (count + 1, end);
                }
            }
        }
        let words = if unspaced { text.chars().filter(|c| c.is_alphanumeric()).count() } else { text.split_whitespace().count() };
        (count, words as u64)
    }
}

/// Lower-case, every run of white space one space.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.extend(word.chars().flat_map(char::to_lowercase));
    }
    out
}

impl Step for WordListStep {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn checks(&self) -> Vec<String> {
        vec![format!("{} matches", self.config.name), format!("{} share", self.config.name)]
    }

    fn rules(&self) -> Vec<Rule> {
        let rule = |what: &str, max| Rule::new(format!("{} {what}", self.config.name), format!("{}/{what}", self.config.name), None, max);
        vec![rule("matches", self.config.max_matches.map(|m| m as f64)), rule("share", self.config.max_share)]
    }

    fn apply(&self, document: &mut Document, trace: &mut Trace) -> Result<Verdict> {
        let config = &self.config;
        let lang = document.lang.as_deref().unwrap_or_default();
        if !self.lists.contains_key("any") && !self.lists.contains_key(lang) {
            return Ok(Verdict::Keep);
        }
        let (matches, words) = self.count(&document.text, lang);
        let share = matches as f64 / words.max(1) as f64;
        trace.signal(format!("{}/matches", config.name), matches as f64, None, config.max_matches.map(|m| m as f64));
        trace.signal(format!("{}/share", config.name), share, None, config.max_share);
        if let Some(max) = config.max_matches.filter(|max| matches > *max) {
            return Ok(Verdict::drop(format!("{} matches", config.name), matches, max));
        }
        if let Some(max) = config.max_share.filter(|max| share > *max) {
            return Ok(Verdict::drop(format!("{} share", config.name), (share * 1e6).round() / 1e6, max));
        }
        Ok(Verdict::Keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(words: &str, lang: &str) -> WordListStep {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.txt");
        std::fs::write(&path, words).unwrap();
        WordListStep::new(WordListConfig {
            lists: [(lang.to_string(), path)].into(),
            max_matches: Some(1),
            max_share: Some(0.2),
            ..WordListConfig::default()
        })
        .unwrap()
    }

    #[test]
    fn whole_words_and_phrases_count() {
        let step = step("# mild\nDarn\ndarn it\nblast  it\nüble\n", "en");
        assert_eq!(step.count("Darn! The darned sock, darn it.\nBlast\nit; blasting.", "en"), (3, 9));
        assert_eq!(step.count("Die ÜBLE Übleres", "en").0, 1);
        // What only begins like a phrase hides nothing.
        assert_eq!(step.count("blast itdarn darn itch", "en").0, 1);
        assert_eq!(step.count("darn", "de").0, 0, "not that language's list");
    }

    #[test]
    fn languages_without_spaces_match_anywhere() {
        assert_eq!(step("坏\n", "zh").count("这是坏人。", "zh"), (1, 4));
    }

    #[test]
    fn limits_drop_with_value_and_threshold() {
        let step = step("darn", "any");
        let apply = |text: &str| {
            let mut document = Document { text: text.into(), ..Document::default() };
            step.apply(&mut document, &mut Trace::default()).unwrap()
        };
        assert_eq!(apply("darn it all, said the old man"), Verdict::Keep);
        assert_eq!(apply("darn it, darn it"), Verdict::drop("word list matches", 2, 1));
        assert_eq!(apply("darn it"), Verdict::drop("word list share", 0.5, 0.2));
    }
}
