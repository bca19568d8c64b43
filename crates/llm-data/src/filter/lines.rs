//! Lines as Python cuts them, with their hashes and lengths in characters.

use super::classes::is_space;
use super::hash::hash64;

/// Characters of a text.
pub fn chars(text: &str) -> usize {
    text.as_bytes().iter().filter(|b| (**b as i8) >= -0x40).count()
}

/// Without white space at both ends (Python's `str.strip`).
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.splitlines`: also at vertical tabs, form feeds, separators U+001C to U+001E, U+0085, U+2028 and U+2029; a line break at the
/// end starts no further line.
pub fn split_lines(text: &str) -> impl Iterator<Item = &str> {
    let bytes = text.as_bytes();
    let mut from = 0;
    std::iter::from_fn(move || {
        if from >= bytes.len() {
            return None;
        }
        let start = from;
        let mut i = from;
        let (end, next) = loop {
            let Some(&b) = bytes.get(i) else { break (i, i) };
            match b {
                b'\r' if bytes.get(i + 1) == Some(&b'\n') => break (i, i + 2),
                b'\n' | b'\r' | 0x0b | 0x0c | 0x1c..=0x1e => break (i, i + 1),
                0xc2 if bytes.get(i + 1) == Some(&0x85) => break (i, i + 2),
                0xe2 if bytes.get(i + 1) == Some(&0x80) && matches!(bytes.get(i + 2), Some(0xa8 | 0xa9)) => break (i, i + 3),
                _ => i += 1,
            }
        };
        from = next;
        Some(&text[start..end])
    })
}

/// Pieces between runs of at least `least` line feeds; pieces at the ends may be empty (Python's `re.split(r"\n{least,}")`).
pub fn split_runs(text: &str, least: usize) -> impl Iterator<Item = &str> {
    let bytes = text.as_bytes();
    let mut from = Some(0);
    std::iter::from_fn(move || {
        let start = from?;
        let mut i = start;
        while i < bytes.len() {
            if bytes[i] != b'\n' {
                i += 1;
                continue;
            }
            let run = bytes[i..].iter().take_while(|b| **b == b'\n').count();
            if run >= least {
                from = Some(i + run);
                return Some(&text[start..i]);
            }
            i += run;
        }
        from = None;
        Some(&text[start..])
    })
}

/// Second and later occurrences among some pieces: how many pieces, how many repeat, and the characters of those.
pub fn duplicates<'a>(pieces: impl Iterator<Item = &'a str>, table: &mut super::hash::Table, room: usize) -> (usize, usize, usize) {
    table.start(room);
    let (mut all, mut repeated, mut repeated_chars) = (0, 0, 0);
    for piece in pieces {
        all += 1;
        if table.seen(hash64(piece.as_bytes())) {
            repeated += 1;
            repeated_chars += chars(piece);
        }
    }
    (all, repeated, repeated_chars)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_pythons() {
        let lines = |t: &'static str| split_lines(t).collect::<Vec<_>>();
        assert_eq!(lines("a\nb\r\nc\rd\u{2028}e\u{85}f\u{b}\n"), ["a", "b", "c", "d", "e", "f", ""]);
        assert_eq!(lines("a\n\nb"), ["a", "", "b"]);
        assert!(lines("").is_empty());
        assert_eq!(lines("a\n"), ["a"]);
    }

    #[test]
    fn runs_are_pythons() {
        let runs = |t: &'static str, n| split_runs(t, n).collect::<Vec<_>>();
        assert_eq!(runs("a\nb\n\n\nc\n", 1), ["a", "b", "c", ""]);
        assert_eq!(runs("a\nb\n\n\nc\n", 2), ["a\nb", "c\n"]);
        assert_eq!(runs("", 1), [""]);
        assert_eq!(runs("\n", 1), ["", ""]);
    }

    #[test]
    fn characters_and_white_space() {
        assert_eq!(chars("aé漢😀"), 4);
        assert_eq!(strip("\u{1c} \u{a0}a b\u{3000}\n"), "a b");
    }
}
