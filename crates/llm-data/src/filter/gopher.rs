//! Gopher's rules (Rae et al., 2021, appendix A.1) in the reading of datatrove 0.10.1: profile `gopher:datatrove`.
//!
//! Repetition: shares of duplicate paragraphs and lines, where the second and later occurrences count; the share of characters in the
//! most frequent 2-, 3- and 4-gram of words; the share of characters in repeated 5- to 10-grams, scanned from the left, where a
//! repetition is skipped as a whole and words are run together. All shares of characters are of the whole text.
//! Quality: number and mean length of words that are not punctuation, `#` and ellipses per word, bullet points and ellipses per line,
//! words with a letter, stop words.

use super::classes::is_space;
use super::hash::{combine, hash64, tail};
use super::languages::{Language, LanguageSetting};
use super::limits::{Bound, Judge, Limits, limits};
use super::lines::{chars, duplicates, split_lines, split_runs, strip};
use super::scratch::{self, Scratch};
use super::words::{HAS_LETTER, NON_SYMBOL};
use crate::document::Document;
use crate::error::Result;
use crate::step::{Rule, Step, Trace, Verdict};

/// Name of the profile.
pub const NAME: &str = "gopher:datatrove";

limits! {
    /// Limits of `gopher:datatrove`.
    pub struct GopherDatatroveLimits {
        /// Characters of the text; 0 stands for an empty document.
        min_chars = 1.0,
        /// Share of paragraphs (between empty lines) that repeat one before.
        max_dup_para_frac = 0.30,
        /// Their characters as a share of all.
        max_dup_para_char_frac = 0.20,
        /// Share of lines that repeat one before.
        max_dup_line_frac = 0.30,
        /// Their characters as a share of all.
        max_dup_line_char_frac = 0.20,
        /// Characters in the most frequent pair of words, as a share of all.
        max_top_2_gram = 0.20,
        /// The same for three words.
        max_top_3_gram = 0.18,
        /// The same for four words.
        max_top_4_gram = 0.16,
        /// Characters in repeated runs of five words, as a share of all.
        max_dup_5_gram = 0.15,
        /// The same for six words.
        max_dup_6_gram = 0.14,
        /// The same for seven words.
        max_dup_7_gram = 0.13,
        /// The same for eight words.
        max_dup_8_gram = 0.12,
        /// The same for nine words.
        max_dup_9_gram = 0.11,
        /// The same for ten words.
        max_dup_10_gram = 0.10,
        /// Words that are not punctuation.
        min_words = 50.0,
        /// Words that are not punctuation.
        max_words = 100_000.0,
        /// Their mean length in characters.
        min_mean_word_chars = 3.0,
        /// Their mean length in characters.
        max_mean_word_chars = 10.0,
        /// `#` per word.
        max_hash_ratio = 0.1,
        /// Ellipses per word.
        max_ellipsis_ratio = 0.1,
        /// Share of lines that begin with a bullet point.
        max_bullet_lines = 0.9,
        /// Share of lines that end in an ellipsis.
        max_ellipsis_lines = 0.3,
        /// Share of words with a letter.
        min_alpha_words = 0.8,
        /// Different stop words.
        min_stop_words = 2.0,
    } also {
        /// Check repetition (the first half of the list).
        repetition: bool = true,
        /// Check quality (the second half).
        quality: bool = true,
    }
}

const TOP: [&str; 3] = ["top_2_gram", "top_3_gram", "top_4_gram"];
const DUPLICATE: [&str; 6] = ["dup_5_gram", "dup_6_gram", "dup_7_gram", "dup_8_gram", "dup_9_gram", "dup_10_gram"];

/// The profile.
#[derive(Debug)]
pub struct GopherDatatrove {
    limits: GopherDatatroveLimits,
    pub(super) bounds: Vec<Bound>,
    language: LanguageSetting,
}

impl GopherDatatrove {
    /// With these limits.
    pub fn new(limits: GopherDatatroveLimits, language: LanguageSetting) -> Self {
        Self { bounds: limits.bounds(), limits, language }
    }
}

impl Step for GopherDatatrove {
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
        let (text, language) = (document.text.as_str(), self.language.of(document));
        let mut judge = Judge::new(NAME, &self.bounds, trace);
        scratch::with(|scratch| {
            let all = chars(text);
            let _ = judge.check("chars", all as f64)
                && (!self.limits.repetition || repetition(text, all, language, scratch, &mut judge))
                && (!self.limits.quality || quality(text, language, scratch, &mut judge));
        });
        Ok(judge.verdict())
    }
}

fn repetition(text: &str, all: usize, language: Language, scratch: &mut Scratch, judge: &mut Judge) -> bool {
    let of_text = |n: usize| n as f64 / all as f64;
    let room = text.bytes().filter(|b| *b == b'\n').count() + 1;
    let (n, repeated, repeated_chars) = duplicates(split_runs(strip(text), 2), &mut scratch.table, room);
    if !judge.check("dup_para_frac", repeated as f64 / n as f64) || !judge.check("dup_para_char_frac", of_text(repeated_chars)) {
        return false;
    }
    let (n, repeated, repeated_chars) = duplicates(split_runs(text, 1), &mut scratch.table, room);
    if !judge.check("dup_line_frac", repeated as f64 / n as f64) || !judge.check("dup_line_char_frac", of_text(repeated_chars)) {
        return false;
    }
    scratch.prepare(text, language);
    scratch.prepare_prefixes();
    for (n, signal) in (2..).zip(TOP) {
        if !judge.check(signal, of_text(top_gram(scratch, n, n - 1).unwrap_or(0))) {
            return false;
        }
    }
    for (n, signal) in (5..).zip(DUPLICATE) {
        if !judge.check(signal, of_text(repeated_grams(scratch, n))) {
            return false;
        }
    }
    true
}

/// Characters in all occurrences of the most frequent n-gram, the earliest of those equally frequent; `between`: characters counted
/// for the blanks in one n-gram. Must be called with n = 2, 3, 4 in turn: the hashes of the n-grams grow by one word each time.
pub(super) fn top_gram(scratch: &mut Scratch, n: usize, between: usize) -> Option<usize> {
    let Scratch { words, grams, table, chars, .. } = scratch;
    if n == 2 {
        grams.clear();
        grams.extend(words.iter().map(|w| w.hash));
    }
    if words.len() < n {
        grams.clear();
        return None;
    }
    grams.truncate(words.len() + 1 - n);
    table.start(grams.len());
    let (mut best_count, mut best_first) = (0, 0);
    for (i, gram) in grams.iter_mut().enumerate() {
        *gram = combine(*gram, words[i + n - 1].hash);
        let (count, first) = table.add(*gram, i);
        if count > best_count || (count == best_count && first < best_first) {
            (best_count, best_first) = (count, first);
        }
    }
    let first = best_first as usize;
    Some(((chars[first + n] - chars[first]) as usize + between) * best_count as usize)
}

/// Characters in repeated n-grams, from the left: a repetition is counted and skipped, anything else remembered.
fn repeated_grams(scratch: &mut Scratch, n: usize) -> usize {
    let Scratch { words, table, chars, prefixes, powers, .. } = scratch;
    if words.len() < n {
        return 0;
    }
    table.start(words.len());
    let (mut repeated, mut i) = (0, 0);
    while i + n <= words.len() {
        let ((head, from), (whole, to)) = (prefixes[i], prefixes[i + n]);
        // The length takes part, so that only strings of one length can collide.
        let key = combine(tail(whole, head, powers.get(to - from)), (to - from) as u64);
        if table.seen(key) {
            repeated += (chars[i + n] - chars[i]) as usize;
            i += n;
        } else {
            i += 1;
        }
    }
    repeated
}

/// Occurrences of `needle` that do not overlap.
fn count(text: &str, needle: &str) -> usize {
    text.matches(needle).count()
}

fn quality(text: &str, language: Language, scratch: &mut Scratch, judge: &mut Judge) -> bool {
    scratch.prepare(text, language);
    let words = &scratch.words;
    let (mut plain, mut plain_chars, mut alphabetic) = (0usize, 0usize, 0usize);
    for word in words {
        if word.flags & NON_SYMBOL != 0 {
            plain += 1;
            plain_chars += word.chars as usize;
        }
        alphabetic += usize::from(word.flags & HAS_LETTER != 0);
    }
    let per_word = |n: usize| n as f64 / words.len() as f64;
    if !judge.check("words", plain as f64)
        || !judge.check("mean_word_chars", plain_chars as f64 / plain as f64)
        || !judge.check("hash_ratio", per_word(text.bytes().filter(|b| *b == b'#').count()))
        || !judge.check("ellipsis_ratio", per_word(count(text, "...") + count(text, "…")))
    {
        return false;
    }
    let (mut lines, mut bullets, mut ellipses) = (0usize, 0usize, 0usize);
    for line in split_lines(text) {
        lines += 1;
        let start = line.trim_start_matches(is_space);
        bullets += usize::from(start.starts_with(['•', '-']));
        let end = line.trim_end_matches(is_space);
        ellipses += usize::from(end.ends_with("...") || end.ends_with('…'));
    }
    if !judge.check("bullet_lines", bullets as f64 / lines as f64)
        || !judge.check("ellipsis_lines", ellipses as f64 / lines as f64)
        || !judge.check("alpha_words", per_word(alphabetic))
    {
        return false;
    }
    judge.check("stop_words", stop_words(text, language, scratch) as f64)
}

/// Different stop words in the text.
fn stop_words(text: &str, language: Language, scratch: &Scratch) -> usize {
    let list = language.stop_words();
    let hashes: Vec<u64> = list.iter().map(|w| hash64(w.as_bytes())).collect();
    let longest = list.iter().map(|w| w.len()).max().unwrap_or(0);
    let mut seen = 0u64;
    for word in scratch.words.iter().filter(|w| w.len as usize <= longest) {
        if let Some(i) = hashes.iter().position(|h| *h == word.hash) {
            let found = text.get(word.start..word.start + word.len as usize) == Some(list[i]);
            seen |= u64::from(found) << i;
            if seen.count_ones() as usize == list.len() {
                break;
            }
        }
    }
    seen.count_ones() as usize
}
