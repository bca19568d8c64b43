//! Text to hashed words, the same for benchmarks and documents.
//!
//! Tools disagree on what a word is, so the rule has a name: `words` (ours), `janitor` (lm-evaluation-harness), `datatrove`
//! (its `simplify_text` with words between white space; its own word splitter is spaCy's).

use serde::{Deserialize, Serialize};

/// How text becomes words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalisation {
    /// Lower case without diacritics; runs of letters and digits are words, each CJK character is one.
    #[default]
    Words,
    /// Lower case, ASCII punctuation deleted, split at white space.
    Janitor,
    /// Lower case without diacritics, numbers as `0`, punctuation as space, split at white space.
    Datatrove,
}

/// The words of a text: hashes and byte ranges.
#[derive(Debug, Clone, Default)]
pub struct Words {
    /// One hash a word.
    pub hashes: Vec<u64>,
    /// Where each stands.
    pub spans: Vec<(u32, u32)>,
}

const BASIS: u64 = 0xCBF2_9CE4_8422_2325;

fn step(hash: u64, byte: u64) -> u64 {
    (hash ^ byte).wrapping_mul(0x0000_0100_0000_01B3)
}

pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What a character does to the word being read.
enum Action {
    /// Belongs to it, as this character.
    Take(char),
    /// Belongs to it and counts for nothing.
    Skip,
    /// Is a digit of it (`datatrove`).
    Digit,
    /// Ends it.
    Break,
    /// Ends it and is a word by itself.
    Alone(char),
}

fn is_cjk(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30FF}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{3FFFF}')
}

/// Without its marks: the first character of the canonical decomposition.
fn base(c: char) -> char {
    let mut first = None;
    unicode_normalization::char::decompose_canonical(c, |d| first = first.or(Some(d)));
    first.unwrap_or(c)
}

/// What each ASCII byte does under [`Normalisation::Words`]: its lower case, or 0 to end the word.
const ASCII: [u8; 128] = {
    let mut table = [0u8; 128];
    let mut b = 0;
    while b < 128 {
        if (b as u8).is_ascii_alphanumeric() {
            table[b] = (b as u8).to_ascii_lowercase();
        }
        b += 1;
    }
    table
};

fn action(c: char, normalisation: Normalisation) -> Action {
    match normalisation {
        Normalisation::Words if is_cjk(c) => Action::Alone(c),
        Normalisation::Words | Normalisation::Datatrove if unicode_normalization::char::is_combining_mark(c) => Action::Skip,
        Normalisation::Words if c.is_alphanumeric() => Action::Take(base(c)),
        Normalisation::Words => Action::Break,
        Normalisation::Janitor if c.is_whitespace() => Action::Break,
        Normalisation::Janitor if c.is_ascii_punctuation() => Action::Skip,
        Normalisation::Janitor => Action::Take(c),
        Normalisation::Datatrove if c.is_numeric() => Action::Digit,
        Normalisation::Datatrove if c.is_alphabetic() => Action::Take(base(c)),
        Normalisation::Datatrove => Action::Break,
    }
}

/// Read the words of `text` into `out`, which is cleared first. Texts of 4 GiB and more end there.
pub fn words(text: &str, normalisation: Normalisation, out: &mut Words) {
    out.hashes.clear();
    out.spans.clear();
    let text = if text.len() > u32::MAX as usize { &text[..text.floor_char_boundary(u32::MAX as usize)] } else { text };
    let bytes = text.as_bytes();
    let (mut hash, mut start, mut taken, mut in_number) = (BASIS, 0usize, false, false);
    let mut at = 0;
    macro_rules! end {
        ($at:expr) => {
            if taken {
                out.hashes.push(mix(hash));
                out.spans.push((start as u32, $at as u32));
                hash = BASIS;
                taken = false;
            }
            in_number = false;
        };
    }
    while at < bytes.len() {
        let b = bytes[at];
        if b < 128 && normalisation == Normalisation::Words {
            let lower = ASCII[usize::from(b)];
            if lower != 0 {
                if !taken {
                    (start, taken) = (at, true);
                }
                hash = step(hash, u64::from(lower));
            } else {
                end!(at);
            }
            at += 1;
            continue;
        }
        let Some(c) = text[at..].chars().next() else { break };
        match action(c, normalisation) {
            Action::Take(c) => {
                if !taken {
                    (start, taken) = (at, true);
                }
                hash = c.to_lowercase().fold(hash, |h, c| step(h, u64::from(u32::from(c))));
                in_number = false;
            }
            Action::Digit => {
                if !taken {
                    (start, taken) = (at, true);
                }
                if !in_number {
                    hash = step(hash, u64::from(b'0'));
                }
                in_number = true;
            }
            Action::Skip => {}
            Action::Break => {
                // The decimal point inside a number.
                let decimal = in_number && matches!(c, '.' | ',') && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
                if !decimal {
                    end!(at);
                }
            }
            Action::Alone(c) => {
                end!(at);
                out.hashes.push(mix(step(BASIS, u64::from(u32::from(c)))));
                out.spans.push((at as u32, (at + c.len_utf8()) as u32));
            }
        }
        at += c.len_utf8();
    }
    if taken {
        out.hashes.push(mix(hash));
        out.spans.push((start as u32, bytes.len() as u32));
    }
}

/// Base of the polynomial over word hashes.
const BASE: u64 = 0x9E37_79B9_7F4A_7C15;

/// Hashes of all runs of `n` words: `sum of w[i + j] * BASE^(n - 1 - j)` modulo 2^64, rolled.
pub(super) struct Rolling<'a> {
    words: &'a [u64],
    n: usize,
    power: u64,
    hash: u64,
    at: usize,
}

impl<'a> Rolling<'a> {
    pub(super) fn new(words: &'a [u64], n: usize) -> Self {
        let power = (1..n).fold(1u64, |p, _| p.wrapping_mul(BASE));
        Self { words, n, power, hash: 0, at: 0 }
    }
}

/// The hash of one run of words, equal to what [`Rolling`] says of it.
pub(super) fn run_hash(words: &[u64]) -> u64 {
    words.iter().fold(0u64, |h, w| h.wrapping_mul(BASE).wrapping_add(*w))
}

/// The key of a run: lengths do not mix.
pub(super) fn key(hash: u64, n: usize) -> u64 {
    mix(hash ^ (n as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93))
}

impl Iterator for Rolling<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.at == 0 {
            self.hash = run_hash(self.words.get(..self.n)?);
        } else {
            let new = *self.words.get(self.at + self.n - 1)?;
            let old = self.words[self.at - 1];
            self.hash = self.hash.wrapping_sub(old.wrapping_mul(self.power)).wrapping_mul(BASE).wrapping_add(new);
        }
        self.at += 1;
        Some(self.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(text: &str, normalisation: Normalisation) -> Vec<&str> {
        let mut out = Words::default();
        words(text, normalisation, &mut out);
        out.spans.iter().map(|(a, b)| &text[*a as usize..*b as usize]).collect()
    }

    fn hashes(text: &str, normalisation: Normalisation) -> Vec<u64> {
        let mut out = Words::default();
        words(text, normalisation, &mut out);
        out.hashes
    }

    #[test]
    fn each_rule_splits_as_it_says() {
        let text = "Janet’s don't $2.50, x_1 每天";
        assert_eq!(split(text, Normalisation::Words), ["Janet", "s", "don", "t", "2", "50", "x", "1", "每", "天"]);
        assert_eq!(split(text, Normalisation::Janitor), ["Janet’s", "don't", "2.50,", "x_1", "每天"]);
        assert_eq!(split(text, Normalisation::Datatrove), ["Janet", "s", "don", "t", "2.50", "x", "1", "每天"]);
        let same = |a: &str, b: &str, n| assert_eq!(hashes(a, n), hashes(b, n), "{a} {b}");
        same("Café STRASSE", "cafe\u{301} strasse", Normalisation::Words);
        same("don't!", "Dont", Normalisation::Janitor);
        same("In 1999, 3.5 million", "in 7 42 million", Normalisation::Datatrove);
        assert_ne!(hashes("a b", Normalisation::Words), hashes("ab", Normalisation::Words));
    }

    proptest! {
        #[test]
        fn rolling_is_the_hash_of_each_window(words in prop::collection::vec(any::<u64>(), 0..40), n in 1usize..15) {
            let rolled: Vec<u64> = Rolling::new(&words, n).collect();
            let direct: Vec<u64> = words.windows(n).map(run_hash).collect();
            prop_assert_eq!(rolled, direct);
        }

        #[test]
        fn spans_are_ordered_and_lie_on_characters(text in any::<String>()) {
            for normalisation in [Normalisation::Words, Normalisation::Janitor, Normalisation::Datatrove] {
                let mut out = Words::default();
                words(&text, normalisation, &mut out);
                prop_assert!(out.spans.iter().all(|(a, b)| a < b && text.get(*a as usize..*b as usize).is_some()));
                prop_assert!(out.spans.windows(2).all(|w| w[0].1 <= w[1].0));
            }
        }
    }
}
