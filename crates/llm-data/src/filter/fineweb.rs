//! FineWeb's own quality filter (Penedo et al., 2024, section 3.6; datatrove 0.10.1): profile `fineweb`.
//!
//! Shares of lines that end in terminal punctuation, of short lines and of characters in repeated lines, and line breaks per word.
//! The whole FineWeb recipe is the chain `url`, `gopher:datatrove`, `c4` without terminal punctuation, `fineweb`.

use super::classes::{TERMINAL, is};
use super::hash::hash64;
use super::languages::LanguageSetting;
use super::limits::{Bound, Judge, Limits, limits};
use super::lines::{chars, strip};
use super::scratch;
use crate::document::Document;
use crate::error::Result;
use crate::step::{Rule, Step, Trace, Verdict};

/// Name of the profile.
pub const NAME: &str = "fineweb";

limits! {
    /// Limits of `fineweb`.
    pub struct FineWebLimits {
        /// Lines that are not blank.
        min_lines = 1.0,
        /// Share of lines that end in terminal punctuation.
        min_line_punct = 0.12,
        /// Share of lines of at most `short_line_chars` characters.
        max_short_lines = 0.67,
        /// Characters of lines that repeat one before, as a share of all but line breaks.
        max_dup_line_char_frac = 0.01,
        /// Line breaks per word.
        max_newlines_per_word = 0.3,
    } also {
        /// Longest line that is short.
        short_line_chars: usize = 30,
    }
}

/// The profile.
#[derive(Debug)]
pub struct FineWeb {
    limits: FineWebLimits,
    pub(super) bounds: Vec<Bound>,
    language: LanguageSetting,
}

impl FineWeb {
    /// With these limits.
    pub fn new(limits: FineWebLimits, language: LanguageSetting) -> Self {
        Self { bounds: limits.bounds(), limits, language }
    }
}

impl Step for FineWeb {
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
        let text = document.text.as_str();
        let mut judge = Judge::new(NAME, &self.bounds, trace);
        scratch::with(|scratch| {
            let newlines = text.bytes().filter(|b| *b == b'\n').count();
            scratch.table.start(newlines + 1);
            let (mut lines, mut ended, mut short, mut repeated) = (0usize, 0usize, 0usize, 0usize);
            for line in text.split('\n').filter(|l| !strip(l).is_empty()) {
                lines += 1;
                ended += usize::from(line.chars().next_back().is_some_and(|c| is(c, TERMINAL)));
                let n = chars(line);
                short += usize::from(n <= self.limits.short_line_chars);
                repeated += if scratch.table.seen(hash64(line.as_bytes())) { n } else { 0 };
            }
            let of_lines = |n: usize| n as f64 / lines as f64;
            let _ = judge.check("lines", lines as f64)
                && judge.check("line_punct", of_lines(ended))
                && judge.check("short_lines", of_lines(short))
                && judge.check("dup_line_char_frac", repeated as f64 / (chars(text) - newlines) as f64)
                && {
                    scratch.prepare(text, language);
                    judge.check("newlines_per_word", newlines as f64 / scratch.words.len() as f64)
                };
        });
        Ok(judge.verdict())
    }
}
