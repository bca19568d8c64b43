//! What "the same text" means: documents, lines and paragraphs.

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// BLAKE3 of the text in NFC with every run of white space as one space.
pub fn normalised_hash(text: &str) -> [u8; 32] {
    let mut normal = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !normal.is_empty() {
            normal.push(' ');
        }
        if word.is_ascii() || is_nfc_quick(word.chars()) == IsNormalized::Yes {
            normal.push_str(word);
        } else {
            normal.extend(word.nfc());
        }
    }
    *blake3::hash(normal.as_bytes()).as_bytes()
}

/// The first 16 bytes of [`normalised_hash`] as two numbers: enough for any corpus (a chance of 10^-15 at 10^12 texts).
pub fn key(text: &str) -> (u64, u64) {
    let hash = normalised_hash(text);
    let part = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| hash[at + i]));
    (part(0), part(8))
}

/// Byte ranges of the lines with at least `min_chars` characters besides white space around them; the line break belongs to its line.
pub fn lines(text: &str, min_chars: usize) -> Vec<(usize, usize)> {
    let mut start = 0;
    let mut found = Vec::new();
    for line in text.split_inclusive('\n') {
        if line.trim().chars().count() >= min_chars {
            found.push((start, start + line.len()));
        }
        start += line.len();
    }
    found
}

/// Byte ranges of the paragraphs, which end with blank lines, with at least `min_chars` characters; the blank lines belong to them.
pub fn paragraphs(text: &str, min_chars: usize) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let (mut start, mut at, mut blank) = (0, 0, false);
    let mut add = |start: usize, end: usize| {
        if text[start..end].trim().chars().count() >= min_chars {
            found.push((start, end));
        }
    };
    for line in text.split_inclusive('\n') {
        let is_blank = line.trim().is_empty();
        if blank && !is_blank {
            add(start, at);
            start = at;
        }
        blank = is_blank;
        at += line.len();
    }
    add(start, at);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_and_composition_do_not_matter_but_case_does() {
        assert_eq!(normalised_hash("a  b\n c"), normalised_hash(" a b c"));
        assert_eq!(normalised_hash("u\u{308}ber"), normalised_hash("über"));
        assert_ne!(normalised_hash("a b"), normalised_hash("A b"));
        assert_ne!(normalised_hash("a b"), normalised_hash("ab"));
    }

    #[test]
    fn ranges_of_lines_and_paragraphs() {
        let text = "one line\n\n \nsecond part\nof it\n\nx\n";
        assert_eq!(lines(text, 5).iter().map(|(s, e)| &text[*s..*e]).collect::<Vec<_>>(), ["one line\n", "second part\n", "of it\n"]);
        assert_eq!(paragraphs(text, 2).iter().map(|(s, e)| &text[*s..*e]).collect::<Vec<_>>(), ["one line\n\n \n", "second part\nof it\n\n"]);
        assert_eq!(paragraphs("", 1), []);
        assert_eq!(paragraphs("ab", 1), [(0, 2)]);
    }
}
