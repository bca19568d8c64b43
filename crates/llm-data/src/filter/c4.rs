//! C4's rules (Raffel et al., 2020, section 2.2) in the reading of datatrove 0.10.1: profile `c4`. **Changes the text.**
//!
//! Lines go that hold a word of more than 1000 characters, fewer than three words, no terminal punctuation (switchable; FineWeb does
//! without), `javascript` or a phrase about cookies and conditions; marks of citation are cut out of the others. A document goes when
//! a line that reaches that rule says `lorem ipsum` or has a `{`, or when fewer than five sentences are left.
//!
//! datatrove stops at the first line that drops the document, so of two reasons it names the one that comes first in the text; here
//! it is always the first of the list. The verdict is the same.

use super::classes::is_space;
use super::languages::{Language, LanguageSetting};
use super::limits::{Bound, Judge, Limits, limits};
use super::lines::{chars, split_lines, strip};
use super::scratch;
use super::words::count_sentences;
use crate::document::Document;
use crate::error::{Error, Result};
use crate::step::{Rule, Step, Trace, Verdict};
use aho_corasick::AhoCorasick;
use regex::Regex;
use std::borrow::Cow;

/// Name of the profile.
pub const NAME: &str = "c4";

limits! {
    /// Limits of `c4`.
    pub struct C4Limits {
        /// Lines with `lorem ipsum`; they never stay unless this is `inf`.
        max_lorem_ipsum = 0.0,
        /// Lines with `{`; they never stay unless this is `inf`.
        max_curly_bracket = 0.0,
        /// Sentences in the lines that stay.
        min_sentences = 5.0,
    } also {
        /// Drop lines that do not end in `. ? ! " '`, or that end in `...`.
        terminal_punctuation: bool = true,
        /// Drop lines with fewer words than this.
        min_words_per_line: usize = 3,
        /// Drop lines with a word of more characters than this.
        max_word_chars: usize = 1000,
        /// Cut `[1]`, `[]`, `[edit]` and `[citation needed]` out.
        remove_citations: bool = true,
        /// Drop lines with `javascript`.
        drop_javascript: bool = true,
        /// Drop lines about cookies, privacy and terms of use.
        drop_policy: bool = true,
    }
}

/// The profile.
#[derive(Debug)]
pub struct C4 {
    limits: C4Limits,
    pub(super) bounds: Vec<Bound>,
    language: LanguageSetting,
    citation: Regex,
    /// Phrases per language: `lorem ipsum`, `javascript`, then those about policies.
    phrases: [AhoCorasick; 3],
}

/// What becomes of one line.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Kept,
    LongWord,
    NoTerminal,
    FewWords,
    LoremIpsum,
    JavaScript,
    Curly,
    Policy,
}

impl C4 {
    /// With these limits.
    pub fn new(limits: C4Limits, language: LanguageSetting) -> Result<Self> {
        let wrong = |e: &dyn std::fmt::Display| Error::Config(format!("c4: {e}"));
        let phrases = |language: Language| {
            let policy = language.policy_phrases().iter().map(|p| (*p).to_string());
            let upper = language.policy_phrases().iter().map(|p| p.to_uppercase());
            let all = ["lorem ipsum".to_string(), "javascript".to_string()].into_iter().chain(policy).chain(upper);
            AhoCorasick::builder().ascii_case_insensitive(true).build(all).map_err(|e| wrong(&e))
        };
        Ok(Self {
            bounds: limits.bounds(),
            limits,
            language,
            citation: Regex::new(r"\[\d*\]|\[edit\]|\[citation needed\]").map_err(|e| wrong(&e))?,
            phrases: [phrases(Language::English)?, phrases(Language::German)?, phrases(Language::Spanish)?],
        })
    }

    fn phrases(&self, language: Language) -> &AhoCorasick {
        &self.phrases[match language {
            Language::English => 0,
            Language::German => 1,
            Language::Spanish => 2,
        }]
    }

    /// The line as it would be kept, and its fate.
    fn line<'a>(&self, line: &'a str, phrases: &AhoCorasick) -> (Cow<'a, str>, Fate) {
        let line = strip(line);
        let (mut words, mut long) = (0, false);
        for word in line.split(is_space).filter(|w| !w.is_empty()) {
            words += 1;
            long |= word.len() > self.limits.max_word_chars && chars(word) > self.limits.max_word_chars;
        }
        if long {
            return (line.into(), Fate::LongWord);
        }
        let line = if self.limits.remove_citations && line.contains('[') { self.citation.replace_all(line, "") } else { line.into() };
        if self.limits.terminal_punctuation && (!line.ends_with(['.', '?', '!', '"', '\'']) || line.ends_with("...")) {
            return (line, Fate::NoTerminal);
        }
        if words < self.limits.min_words_per_line {
            return (line, Fate::FewWords);
        }
        let (mut lorem, mut script, mut policy) = (false, false, false);
        for found in phrases.find_iter(line.as_ref()) {
            match found.pattern().as_usize() {
                0 => lorem = true,
                1 => script = true,
                _ => policy = true,
            }
        }
        let fate = if lorem && self.limits.max_lorem_ipsum.is_finite() {
            Fate::LoremIpsum
        } else if script && self.limits.drop_javascript {
            Fate::JavaScript
        } else if self.limits.max_curly_bracket.is_finite() && line.contains('{') {
            Fate::Curly
        } else if policy && self.limits.drop_policy {
            Fate::Policy
        } else {
            Fate::Kept
        };
        (line, fate)
    }
}

impl Step for C4 {
    fn name(&self) -> &str {
        NAME
    }

    fn checks(&self) -> Vec<String> {
        super::check_names(NAME, &self.bounds)
    }

    fn rules(&self) -> Vec<Rule> {
        super::rules_of(NAME, &self.bounds)
    }

    fn apply(&self, document: &mut Document, trace: &mut Trace) -> Result<Verdict> {
        let language = self.language.of(document);
        let phrases = self.phrases(language);
        let everything = trace.everything;
        let mut judge = Judge::new(NAME, &self.bounds, trace);
        let mut kept = String::with_capacity(document.text.len());
        let mut fates = [0u64; 8];
        let mut sentences = 0usize;
        scratch::with(|scratch| {
            for line in split_lines(&document.text) {
                let (line, fate) = self.line(line, phrases);
                fates[fate as usize] += 1;
                if fate != Fate::Kept {
                    continue;
                }
                scratch.prepare_part(&line, language);
                sentences += count_sentences(&line, &scratch.part);
                if !kept.is_empty() {
                    kept.push('\n');
                }
                kept.push_str(&line);
            }
        });
        let _ = judge.check("lorem_ipsum", fates[Fate::LoremIpsum as usize] as f64)
            && judge.check("curly_bracket", fates[Fate::Curly as usize] as f64)
            && judge.check("sentences", sentences as f64);
        let removed = [
            ("lines with a long word", Fate::LongWord),
            ("lines without terminal punctuation", Fate::NoTerminal),
            ("lines with few words", Fate::FewWords),
            ("lines with javascript", Fate::JavaScript),
            ("lines about policies", Fate::Policy),
        ];
        for (what, fate) in removed {
            judge.count(what, fates[fate as usize]);
        }
        if judge.keeps() || everything {
            let stripped = strip(&kept);
            document.text = if stripped.len() == kept.len() { kept } else { stripped.to_string() };
        }
        Ok(judge.verdict())
    }
}
