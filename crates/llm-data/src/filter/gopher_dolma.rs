//! Gopher's rules in the reading of Dolma 1.2 (`taggers/gopher.py`): profile `gopher:dolma`.
//!
//! Where it differs from `gopher:datatrove`: words are what stands between white space; **all** copies of a line or n-gram count as
//! duplicates, not the second and later; characters are counted without white space, and duplicate n-grams against all n-grams; word
//! length is the median; a word *with* `#` or an ellipsis in it is a symbol; bullet points are `*` and `-` in the first column; stop
//! words count as often as they occur. Every value is rounded to five decimals before a limit sees it, as Dolma stores them; a text of
//! fewer than n words has no n-gram signal. Dolma only tags; the limits are Gopher's. The mixers of Dolma 1.5 and 1.6 have the same but for
//! `max_dup_line_char_frac` = 0.3, and what they ask of the most frequent n-grams never applies: they look for `..._2gram` where the tagger
//! writes `..._2grams`.

use super::gopher::top_gram;
use super::hash::{combine, hash64};
use super::languages::{Language, LanguageSetting};
use super::limits::{Bound, Judge, Limits, limits};
use super::lines::chars;
use super::scratch::{self, Scratch};
use super::words::HAS_LETTER;
use crate::document::Document;
use crate::error::Result;
use crate::step::{Rule, Step, Trace, Verdict};

/// Name of the profile.
pub const NAME: &str = "gopher:dolma";

limits! {
    /// Limits of `gopher:dolma`.
    pub struct GopherDolmaLimits {
        /// Words.
        min_words = 50.0,
        /// Words.
        max_words = 100_000.0,
        /// Median length of a word in characters.
        min_median_word_chars = 3.0,
        /// Median length of a word in characters.
        max_median_word_chars = 10.0,
        /// Share of words with `#` or `…` in them.
        max_symbol_ratio = 0.1,
        /// Share of words with a letter.
        min_alpha_words = 0.8,
        /// Stop words, each as often as it occurs.
        min_stop_words = 2.0,
        /// Share of lines that begin with `*` or `-`.
        max_bullet_lines = 0.9,
        /// Share of lines that end in `…`.
        max_ellipsis_lines = 0.3,
        /// Share of lines that have a copy.
        max_dup_line_frac = 0.30,
        /// Their characters as a share of those that are not white space.
        max_dup_line_char_frac = 0.20,
        /// Characters in the most frequent pair of words, as a share of those that are not white space.
        max_top_2_gram = 0.20,
        /// The same for three words.
        max_top_3_gram = 0.18,
        /// The same for four words.
        max_top_4_gram = 0.16,
        /// Characters in runs of five words that have a copy, as a share of those in all runs of five.
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
    }
}

const TOP: [&str; 3] = ["top_2_gram", "top_3_gram", "top_4_gram"];
const DUPLICATE: [&str; 6] = ["dup_5_gram", "dup_6_gram", "dup_7_gram", "dup_8_gram", "dup_9_gram", "dup_10_gram"];

/// The profile.
#[derive(Debug)]
pub struct GopherDolma {
    pub(super) bounds: Vec<Bound>,
    language: LanguageSetting,
}

impl GopherDolma {
    /// With these limits.
    pub fn new(limits: &GopherDolmaLimits, language: LanguageSetting) -> Self {
        Self { bounds: limits.bounds(), language }
    }
}

impl Step for GopherDolma {
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
        let mut judge = Judge::new(NAME, &self.bounds, trace);
        scratch::with(|scratch| measure(&document.text, language, scratch, &mut judge));
        Ok(judge.verdict())
    }
}

/// Rounded to five decimals, exactly and halves to even, as Python's `round` does.
fn rounded(value: f64) -> f64 {
    format!("{value:.5}").parse().unwrap_or(value)
}

/// The middle of the sorted lengths, the mean of the two middle ones for an even number; 0 for none.
fn median(lengths: &mut [u32]) -> f64 {
    let n = lengths.len();
    if n == 0 {
        return 0.0;
    }
    let upper = *lengths.select_nth_unstable(n / 2).1;
    if n % 2 == 1 {
        return f64::from(upper);
    }
    let lower = lengths[..n / 2].iter().copied().max().unwrap_or(upper);
    (f64::from(lower) + f64::from(upper)) / 2.0
}

fn measure(text: &str, language: Language, scratch: &mut Scratch, judge: &mut Judge) -> bool {
    scratch.prepare_spaces(text);
    scratch.prepare_prefixes();
    let n = scratch.words.len();
    let share = |part: usize, whole: usize| rounded(part as f64 / whole.max(1) as f64);
    let words_chars = scratch.chars.last().copied().unwrap_or(0) as usize;
    let mut lengths: Vec<u32> = scratch.words.iter().map(|w| w.chars).collect();
    let (mut symbols, mut alphabetic, mut stops) = (0, 0, 0);
    for word in &scratch.words {
        let word_text = &text[word.start..word.start + word.len as usize];
        symbols += usize::from(word_text.contains(['#', '…']));
        alphabetic += usize::from(word.flags & HAS_LETTER != 0);
        stops += usize::from(language.stop_words().contains(&word_text));
    }
    if !judge.check("words", n as f64)
        || !judge.check("median_word_chars", median(&mut lengths))
        || !judge.check("symbol_ratio", share(symbols, n))
        || !judge.check("alpha_words", share(alphabetic, n))
        || !judge.check("stop_words", stops as f64)
    {
        return false;
    }
    let (mut lines, mut bullets, mut ellipses) = (0, 0, 0);
    let table = &mut scratch.table;
    table.start(text.bytes().filter(|b| *b == b'\n').count() + 1);
    for line in text.split('\n') {
        lines += 1;
        bullets += usize::from(line.starts_with(['*', '-']));
        ellipses += usize::from(line.ends_with('…'));
        table.add(hash64(line.as_bytes()), 0);
    }
    let (mut copies, mut copied) = (0, 0);
    for line in text.split('\n').filter(|l| table.count(hash64(l.as_bytes())) > 1) {
        copies += 1;
        copied += chars(line);
    }
    if !judge.check("bullet_lines", share(bullets, lines))
        || !judge.check("ellipsis_lines", share(ellipses, lines))
        || !judge.check("dup_line_frac", share(copies, lines))
        || !judge.check("dup_line_char_frac", share(copied, words_chars))
    {
        return false;
    }
    for (n, signal) in (2..).zip(TOP) {
        if top_gram(scratch, n, 0).is_some_and(|top| !judge.check(signal, share(top, words_chars))) {
            return false;
        }
    }
    for (n, signal) in (5..).zip(DUPLICATE) {
        if copied_grams(scratch, n).is_some_and(|(copied, all)| !judge.check(signal, share(copied, all))) {
            return false;
        }
    }
    true
}

/// Characters in n-grams that have a copy, and in all n-grams; `None` without n words. The hashes grow by one word with each call, after [`top_gram`].
fn copied_grams(scratch: &mut Scratch, n: usize) -> Option<(usize, usize)> {
    let Scratch { words, grams, table, chars, .. } = scratch;
    if words.len() < n {
        grams.clear();
        return None;
    }
    grams.truncate(words.len() + 1 - n);
    table.start(grams.len());
    for (i, gram) in grams.iter_mut().enumerate() {
        *gram = combine(*gram, words[i + n - 1].hash);
        table.add(*gram, i);
    }
    let (mut copied, mut all) = (0, 0);
    for (i, gram) in grams.iter().enumerate() {
        let length = (chars[i + n] - chars[i]) as usize;
        all += length;
        copied += if table.count(*gram) > 1 { length } else { 0 };
    }
    Some((copied, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, a value on a limit is judged otherwise than from what Dolma stores.
    #[test]
    fn values_are_rounded_as_pythons() {
        let cases =
            [(1.0 / 64.0, 0.01562), (3.0 / 64.0, 0.04688), (0.100_004, 0.1), (0.100_006, 0.10001), (2.0 / 3.0, 0.66667), (1.0, 1.0), (0.0, 0.0)];
        for (value, expected) in cases {
            assert_eq!(rounded(value), expected, "{value}");
        }
    }

    fn judged(text: &str) -> (Verdict, Trace) {
        let step = GopherDolma::new(&GopherDolmaLimits::default(), LanguageSetting::default());
        let (mut document, mut trace) = (Document { text: text.into(), ..Document::default() }, Trace::everything());
        (step.apply(&mut document, &mut trace).unwrap(), trace)
    }

    /// If this fails, what is stored for short texts is a 0 that Dolma does not store.
    #[test]
    fn short_texts_have_no_long_n_grams() {
        let names = |text: &str| judged(text).1.signals.iter().filter(|s| s.name.ends_with("_gram")).count();
        assert_eq!([names(""), names("one"), names("a b"), names("a b c d e f"), names("a b c d e f g h i j")], [0, 0, 1, 5, 9]);
        let value = |text: &str, signal: &str| judged(text).1.signals.iter().find(|s| s.name.ends_with(signal)).unwrap().value;
        // Empty lines are copies of each other; white space only has no characters to be a share of.
        assert_eq!((value(" \n \n", "/dup_line_frac"), value(" \n \n", "/dup_line_char_frac")), (0.66667, 2.0));
        assert_eq!((value("\n\n", "/dup_line_frac"), value("\n\n", "/dup_line_char_frac")), (1.0, 0.0));
        assert_eq!((value("", "/dup_line_frac"), value("", "/median_word_chars")), (0.0, 0.0));
        // Python's white space, but only line feeds end lines.
        assert_eq!((value("a\u{1c}b\u{a0}c\u{2028}d\u{200b}e", "/words"), value("-a\r-b\u{85}-c\n-d", "/bullet_lines")), (4.0, 1.0));
    }

    /// If this fails, a share that is above a limit only after the fifth decimal drops a document that Dolma keeps.
    #[test]
    fn a_share_is_on_the_limit_when_its_rounded_value_is() {
        // 10,001 of 100,000 words with `#` are 0.10001; 10,000 of 99,999 are 0.100001.
        let text = |marked: usize, all: usize| (0..all).map(|i| format!("{}of{i} ", if i < marked { "#" } else { "" })).collect::<String>();
        let symbols = |marked: usize, all: usize| judged(&format!("the and {}", text(marked, all - 2))).0;
        assert_eq!(symbols(10_000, 99_999), Verdict::Keep);
        assert!(matches!(symbols(10_001, 100_000), Verdict::Drop(reason) if reason.check.ends_with("/symbol_ratio")));
    }
}
