//! Documents in several languages: a label for every paragraph, neighbours of one language joined.

use super::Backend;
use std::collections::BTreeMap;
use std::ops::Range;

/// Consecutive paragraphs of one language.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// ISO 639-1; empty when nothing in the document could be told.
    pub lang: String,
    /// Mean score of the paragraphs that were told, weighted by their letters.
    pub score: f32,
    /// Bytes of the text, ends of lines included: the spans cover the text.
    pub range: Range<usize>,
    /// Letters in it.
    pub letters: usize,
}

/// Label the paragraphs of `text` (separated by blank lines).
///
/// A paragraph of fewer than `min_letters` letters, or that the backend is less sure of than `min_score`, has too little to go by: it
/// joins what is before it, or at the beginning what comes after.
pub fn paragraphs(backend: &Backend, text: &str, min_letters: usize, min_score: f32) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    // Weight of the scores in the last span.
    let mut told = 0f32;
    for range in blocks(text) {
        let block = &text[range.clone()];
        let letters = block.chars().filter(|c| c.is_alphabetic()).count();
        let found = if letters < min_letters { None } else { backend.identify(block).filter(|f| f.score >= min_score) };
        let weight = letters as f32;
        match (spans.last_mut(), found) {
            (Some(last), None) => {
                last.range.end = range.end;
                last.letters += letters;
            }
            (Some(last), Some(found)) if last.lang == found.code || last.lang.is_empty() => {
                last.score = (last.score * told + found.score * weight) / (told + weight).max(1.0);
                told += weight;
                last.lang = found.code;
                last.range.end = range.end;
                last.letters += letters;
            }
            (_, found) => {
                told = if found.is_some() { weight } else { 0.0 };
                let (lang, score) = found.map_or((String::new(), 0.0), |f| (f.code, f.score));
                spans.push(Span { lang, score, range, letters });
            }
        }
    }
    spans
}

/// Paragraphs with the blank lines after them.
fn blocks(text: &str) -> Vec<Range<usize>> {
    let (mut out, mut start, mut at, mut blank) = (Vec::new(), 0, 0, false);
    for line in text.split_inclusive('\n') {
        let empty = line.trim().is_empty();
        if blank && !empty && text[start..at].contains(|c: char| !c.is_whitespace()) {
            out.push(start..at);
            start = at;
        }
        blank = empty;
        at += line.len();
    }
    if start < text.len() {
        out.push(start..text.len());
    }
    out
}

/// Share of the letters per language.
pub fn shares(spans: &[Span]) -> BTreeMap<String, f64> {
    let all = spans.iter().map(|s| s.letters).sum::<usize>().max(1) as f64;
    let mut shares = BTreeMap::new();
    for span in spans.iter().filter(|s| !s.lang.is_empty()) {
        *shares.entry(span.lang.clone()).or_default() += span.letters as f64 / all;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DE: &str = "Der Übersetzer prüft zur Übersetzungszeit, ob alle Verweise gültig sind, und lehnt das Programm sonst ab.";
    const EN: &str = "The compiler checks that all references are valid, and refuses to build the program when they are not.";
    const ES: &str = "El compilador comprueba que todas las referencias sean válidas y rechaza el programa cuando no lo son.";

    #[test]
    fn neighbours_of_one_language_are_joined_and_short_ones_follow() {
        let text = format!("1.\n\n{DE}\n\n{DE}\n\nJa.\n\n{EN}\n\n\n{ES}\n");
        let spans = paragraphs(&Backend::Builtin, &text, 20, 0.0);
        let langs: Vec<&str> = spans.iter().map(|s| s.lang.as_str()).collect();
        assert_eq!(langs, ["de", "en", "es"]);
        assert!(text[spans[0].range.clone()].starts_with("1.") && text[spans[0].range.clone()].ends_with("Ja.\n\n"));
        let shares = shares(&spans);
        assert!((shares.values().sum::<f64>() - 1.0).abs() < 1e-9 && shares["de"] > 0.45, "{shares:?}");
    }

    proptest! {
        #[test]
        fn spans_cover_any_text(text in "[a-zäéß ,.\n\r\t你]{0,400}") {
            let spans = paragraphs(&Backend::Builtin, &text, 10, 0.3);
            let mut at = 0;
            for span in &spans {
                prop_assert_eq!(span.range.start, at);
                at = span.range.end;
            }
            prop_assert!(at == text.len());
        }
    }
}
