//! Long plain texts: chapters apart.
//!
//! A book as one document would break two things: the 100,000-word limit would drop the long ones, and a held-out split
//! by document would hold out a whole book or none of it. So a long text is cut at chapter headings; where there are
//! none (plays, letters), at paragraph ends near a target size.

use regex::Regex;
use std::sync::LazyLock;

/// Texts below this size stay whole.
pub const WHOLE_BYTES: usize = 24_000;
/// Size aimed at where there are no headings.
pub const PIECE_BYTES: usize = 16_000;
/// A chapter above this is cut again at paragraph ends.
pub const MAX_CHAPTER_BYTES: usize = 48_000;
/// A chapter below this is joined with the next one.
const MIN_CHAPTER_BYTES: usize = 1_500;

fn is_heading(line: &str) -> bool {
    static HEADING: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let numeral = r"(?:\d{1,3}|[IVXLC]{1,7})";
        let named =
            format!(r"(?i:chapter|book|part|act|scene|kapitel|buch|teil|akt|szene|aufzug|cap[ií]tulo|libro|parte|acto|escena)\s+(?-i:{numeral})\b");
        let ordinal = r"(?i:erster|zweiter|dritter|vierter|fünfter|erstes|zweites|drittes|viertes)\s+(?i:teil|akt|aufzug|kapitel|buch)";
        let spanish = r"(?i:cap[ií]tulo|parte)\s+(?i:primer[oa]?|segund[oa]|tercer[oa]?)\b";
        Regex::new(&format!(r"^\s{{0,8}}(?:{named}|{ordinal}|{spanish}|{numeral}\.?\s*$)")).ok()
    });
    line.len() <= 120 && HEADING.as_ref().is_some_and(|r| r.is_match(line))
}

/// Cut a long text into chapter-size pieces; concatenated they are the text.
pub fn chapters(text: &str) -> Vec<&str> {
    if text.len() <= WHOLE_BYTES {
        return vec![text];
    }
    let mut cuts = vec![0];
    let (mut at, mut blank_before) = (0, true);
    for line in text.split_inclusive('\n') {
        let blank = line.trim().is_empty();
        // A heading follows an empty line and does not run on into prose that merely starts with "I" or "Part II".
        if !blank && blank_before && is_heading(line.trim_end()) && at - cuts[cuts.len() - 1] >= MIN_CHAPTER_BYTES {
            cuts.push(at);
        }
        blank_before = blank;
        at += line.len();
    }
    cuts.push(text.len());
    let mut pieces: Vec<&str> = Vec::new();
    for window in cuts.windows(2) {
        let chapter = &text[window[0]..window[1]];
        let target = if cuts.len() > 4 { MAX_CHAPTER_BYTES } else { PIECE_BYTES };
        pieces.extend(at_paragraphs(chapter, target));
    }
    pieces
}

/// Equal pieces of at most about `target` bytes that end at an empty line, else at a line end, else between characters.
fn at_paragraphs(text: &str, target: usize) -> Vec<&str> {
    let count = text.len().div_ceil(target.max(1)).max(1);
    let size = text.len().div_ceil(count);
    let mut pieces = Vec::new();
    let mut rest = text;
    while rest.len() > size + size / 4 {
        let from = floor(rest, size - size / 4);
        let to = floor(rest, size + size / 4);
        let window = &rest[from..to];
        let cut = match (window.find("\n\n"), window.find('\n'), window.find(". ")) {
            (Some(at), _, _) => from + at + 2,
            (None, Some(at), _) => from + at + 1,
            (None, None, Some(at)) => from + at + 2,
            _ => to,
        };
        if cut == 0 {
            break;
        }
        pieces.push(&rest[..cut]);
        rest = &rest[cut..];
    }
    pieces.push(rest);
    pieces
}

/// The last character boundary at or before `at`.
pub(super) fn floor(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headings_of_three_languages() {
        for yes in [
            "CHAPTER I. Down the Rabbit-Hole",
            "Chapter 12",
            "Kapitel 3",
            "ERSTER TEIL",
            "Capítulo XIV. Donde se ponen",
            "IV",
            "III.",
            "Capítulo primero",
        ] {
            assert!(is_heading(yes), "{yes}");
        }
        for no in ["I am a sentence", "Chapter and verse", "Part of it", "Die Teile", "Capital", "A"] {
            assert!(!is_heading(no), "{no}");
        }
    }

    #[test]
    fn a_book_is_cut_at_its_chapters() {
        let chapter = |n: usize| format!("Chapter {n}\n\n{}\n\n", "A sentence of the story. ".repeat(300));
        let book: String = (1..=8).map(chapter).collect();
        let pieces = chapters(&book);
        assert_eq!(pieces.len(), 8);
        assert!(pieces.iter().all(|p| p.starts_with("Chapter")));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn pieces_are_the_text_and_bounded(words in proptest::collection::vec("(Chapter [0-9]|[a-zäß]{1,9}|\n|\n\n|II\n)", 0..9000)) {
            let text = words.join(" ");
            let pieces = chapters(&text);
            prop_assert_eq!(pieces.concat(), text.as_str());
            prop_assert!(pieces.iter().all(|p| p.len() <= MAX_CHAPTER_BYTES * 5 / 4));
        }
    }
}
