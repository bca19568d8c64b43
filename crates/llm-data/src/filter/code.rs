//! Source code in the manner of The Stack and StarCoder (Kocetkov et al., 2022; Li et al., 2023; Lozhkov et al., 2024): profile
//! `code:stack`.
//!
//! Mean and greatest length of lines, share of letters and digits, share of letters, letters per token (words and single signs, which
//! finds tables of numbers that the shares let through), encoded data (base64, hexadecimal bytes, escaped Unicode: the longest run and
//! the share of all), files that say a program wrote them, and XML in disguise. Documents that are no code pass.

use super::classes::{LETTER, is};
use super::limits::{Bound, Judge, Limits, limits};
use super::lines::{chars, split_lines};
use super::tutorial::generated_marker;
use crate::document::Document;
use crate::error::{Error, Result};
use crate::step::{Rule, Step, Trace, Verdict};
use regex::Regex;

/// Name of the profile.
pub const NAME: &str = "code:stack";

limits! {
    /// Limits of `code:stack`.
    pub struct CodeStackLimits {
        /// Characters of the file.
        min_chars = 100.0,
        /// Characters of the file.
        max_chars = 1_000_000.0,
        /// Lines.
        max_lines = 100_000.0,
        /// Mean length of a line in characters.
        max_mean_line_chars = 100.0,
        /// Longest line in characters.
        max_line_chars = 1000.0,
        /// Share of letters and digits.
        min_alphanumeric = 0.25,
        /// Share of letters.
        min_alphabetic = 0.25,
        /// Letters per token: a token is a run of letters, digits and `_`, or one other sign that is not white space.
        min_letters_per_token = 0.8,
        /// Longest run of encoded data in characters.
        max_encoded_run = 1024.0,
        /// Characters in runs of encoded data as a share of all.
        max_encoded = 0.5,
        /// 1 if the first lines say that a program wrote the file.
        max_generated = 0.0,
        /// 1 if the file begins with an XML declaration.
        max_xml = 0.0,
    }
}

/// The profile.
#[derive(Debug)]
pub struct CodeStack {
    pub(super) bounds: Vec<Bound>,
    encoded: [Regex; 3],
}

impl CodeStack {
    /// With these limits.
    pub fn new(limits: &CodeStackLimits) -> Result<Self> {
        let regex = |pattern: &str| Regex::new(pattern).map_err(|e| Error::Config(format!("code:stack: {e}")));
        let encoded =
            [regex(r"[a-zA-Z0-9+/\n=]{64,}")?, regex(r"(?:\b(?:0x|\\x)?[0-9a-fA-F]{2}(?:,|\b\s*)){8,}")?, regex(r"(?:\\u[0-9a-fA-F]{4}){8,}")?];
        Ok(Self { bounds: limits.bounds(), encoded })
    }

    /// The longest run of encoded data and the sum of all, in characters (all are ASCII). A run of base64 that has neither a digit
    /// nor a sign is a long word or a list of words on lines, not data.
    fn encoded(&self, text: &str) -> (usize, usize) {
        let (mut longest, mut all) = (0, 0);
        for (i, pattern) in self.encoded.iter().enumerate() {
            for found in pattern.find_iter(text) {
                if i == 0 && !found.as_str().bytes().any(|b| b.is_ascii_digit() || b == b'+' || b == b'/') {
                    continue;
                }
                longest = longest.max(found.len());
                all += found.len();
            }
        }
        (longest, all.min(text.len()))
    }
}

impl Step for CodeStack {
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
        if !document.is_code() {
            return Ok(Verdict::Keep);
        }
        let text = document.text.as_str();
        let mut judge = Judge::new(NAME, &self.bounds, trace);
        let all = chars(text);
        let (mut lines, mut longest, mut in_lines) = (0usize, 0usize, 0usize);
        for line in split_lines(text) {
            let n = chars(line);
            lines += 1;
            longest = longest.max(n);
            in_lines += n;
        }
        let _ = judge.check("chars", all as f64)
            && judge.check("lines", lines as f64)
            && judge.check("mean_line_chars", in_lines as f64 / lines.max(1) as f64)
            && judge.check("line_chars", longest as f64)
            && self.shares(text, all, &mut judge);
        Ok(judge.verdict())
    }
}

impl CodeStack {
    fn shares(&self, text: &str, all: usize, judge: &mut Judge) -> bool {
        let (mut letters, mut alphanumeric, mut tokens, mut in_word) = (0usize, 0usize, 0usize, false);
        for c in text.chars() {
            let letter = if c.is_ascii() { c.is_ascii_alphabetic() } else { is(c, LETTER) };
            let digit = !letter && c.is_numeric();
            letters += usize::from(letter);
            alphanumeric += usize::from(letter || digit);
            let word = letter || digit || c == '_';
            tokens += usize::from(if word { !in_word } else { !c.is_whitespace() });
            in_word = word;
        }
        let share = |n: usize| n as f64 / all.max(1) as f64;
        if !judge.check("alphanumeric", share(alphanumeric))
            || !judge.check("alphabetic", share(letters))
            || !judge.check("letters_per_token", letters as f64 / tokens.max(1) as f64)
        {
            return false;
        }
        let (longest, encoded) = self.encoded(text);
        let head = text.char_indices().nth(100).map_or(text, |(i, _)| &text[..i]);
        judge.check("encoded_run", longest as f64)
            && judge.check("encoded", share(encoded))
            && judge.check("generated", f64::from(u8::from(generated_marker(text).is_some())))
            && judge.check("xml", f64::from(u8::from(head.contains("<?xml version="))))
    }
}
