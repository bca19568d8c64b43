//! MinHash signatures equal to those of datatrove 0.10, bit for bit (English).
//!
//! Steps of its `MinhashDedupSignature`: simplify the text (lower case, numbers, punctuation, white space, diacritics), cut it into
//! words, hash every n-gram joined by spaces, and take the least of `(x * a + b) mod (2^61 - 1)` for each function. Two things are
//! easily missed: the product wraps modulo 2^64 before the remainder is taken, as NumPy's does, and the `a` and `b` come from the
//! legacy generator `RandomState(seed)`.

use super::hashes::{Mt19937, sha1_u64, xxh64};
use crate::filter::languages::Language;
use crate::filter::words::{Word, WordSplitter};
use regex::Regex;
use std::cell::RefCell;
use std::sync::LazyLock;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

const PRIME: u64 = (1 << 61) - 1;
const LANES: usize = 8;

/// datatrove's hash family.
#[derive(Debug)]
pub struct Datatrove {
    ngram: usize,
    functions: usize,
    a: Vec<u64>,
    b: Vec<u64>,
    sha1: bool,
}

thread_local! {
    /// The splitter remembers pieces, so each thread has its own.
    static WORDS: RefCell<(WordSplitter, Vec<Word>)> = RefCell::new((WordSplitter::new(Language::English), Vec::new()));
}

impl Datatrove {
    /// `functions` is `num_buckets * hashes_per_bucket` of its `MinhashConfig`.
    pub fn new(ngram: usize, functions: usize, seed: u32, sha1: bool) -> Self {
        let mut rng = Mt19937::new(seed);
        let mut a: Vec<u64> = (0..functions).map(|_| rng.randint(1, PRIME)).collect();
        let mut b: Vec<u64> = (0..functions).map(|_| rng.randint(0, PRIME)).collect();
        a.resize(functions.next_multiple_of(LANES), 1);
        b.resize(functions.next_multiple_of(LANES), 0);
        Self { ngram, functions, a, b, sha1 }
    }

    /// The signature; empty for a text with fewer words than an n-gram, which datatrove leaves out.
    pub fn signature(&self, text: &str) -> Vec<u64> {
        let simple = simplify(text);
        WORDS.with_borrow_mut(|(splitter, words)| {
            splitter.split(&simple, words);
            let words: Vec<&str> = words.iter().map(|w| &simple[w.start..w.start + w.len as usize]).collect();
            self.signature_of_words(&words)
        })
    }

    /// The signature of a list of words.
    pub fn signature_of_words(&self, words: &[&str]) -> Vec<u64> {
        if words.len() < self.ngram {
            return Vec::new();
        }
        let mut joined = String::new();
        let mut places = Vec::with_capacity(words.len());
        for word in words {
            if !joined.is_empty() {
                joined.push(' ');
            }
            let start = joined.len();
            joined.push_str(word);
            places.push((start, joined.len()));
        }
        let hash = if self.sha1 { sha1_u64 } else { xxh64 };
        let shingles: Vec<u64> = places.windows(self.ngram).map(|w| hash(&joined.as_bytes()[w[0].0..w[self.ngram - 1].1])).collect();
        let mut signature = vec![u64::MAX; self.a.len()];
        minima(&shingles, &self.a, &self.b, &mut signature);
        signature.truncate(self.functions);
        signature
    }
}

fn minima(shingles: &[u64], a: &[u64], b: &[u64], signature: &mut [u64]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512dq") {
        // SAFETY: the two instruction sets that the function is compiled for were just found on this machine.
        return unsafe { minima_avx512(shingles, a, b, signature) };
    }
    minima_portable(shingles, a, b, signature);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq")]
fn minima_avx512(shingles: &[u64], a: &[u64], b: &[u64], signature: &mut [u64]) {
    minima_portable(shingles, a, b, signature);
}

#[inline(always)]
fn minima_portable(shingles: &[u64], a: &[u64], b: &[u64], signature: &mut [u64]) {
    for ((signature, a), b) in signature.chunks_exact_mut(LANES).zip(a.chunks_exact(LANES)).zip(b.chunks_exact(LANES)) {
        let (mut least, mut factor, mut offset) = ([u64::MAX; LANES], [0; LANES], [0; LANES]);
        least.copy_from_slice(signature);
        factor.copy_from_slice(a);
        offset.copy_from_slice(b);
        for &x in shingles {
            for lane in 0..LANES {
                let v = x.wrapping_mul(factor[lane]).wrapping_add(offset[lane]);
                let folded = (v & PRIME) + (v >> 61);
                // Of `folded` and `folded - PRIME` the one that did not wrap is the remainder, and the smaller.
                let reduced = folded.min(folded.wrapping_sub(PRIME));
                least[lane] = least[lane].min(reduced);
            }
        }
        signature.copy_from_slice(&least);
    }
}

static DIGIT: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{Nd}$").ok());
static NONSPACING: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{Mn}$").ok());

fn is(pattern: &LazyLock<Option<Regex>>, c: char) -> bool {
    pattern.as_ref().is_some_and(|p| p.is_match(c.encode_utf8(&mut [0; 4])))
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && c.is_numeric() && is(&DIGIT, c))
}

/// datatrove's `PUNCTUATION`.
fn is_punctuation(c: char) -> bool {
    match c {
        '\t' | '\n' => false,
        '\0'..='\x7F' => c.is_ascii_punctuation() || c.is_ascii_control(),
        '\u{80}'..='\u{9F}' => true,
        _ => matches!(
            c,
            '«' | '´' | '»' | '–' | '—' | '’' | '“' | '”' | '„' | '…' | '∶' | '━' | '►' | '、' | '。' | '〈'
                ..='」' | '【' | '】' | '！' | '％' | '（' | '）' | '，' | '．' | '１' | '：' | '；' | '？' | '～'
        ),
    }
}

/// datatrove's `simplify_text` with its default settings.
pub fn simplify(text: &str) -> String {
    let lower = text.to_lowercase();
    let mut simple = String::with_capacity(lower.len());
    let mut space = false;
    let mut push = |c: char| {
        if c == ' ' {
            space = true;
            return;
        }
        if space && !simple.is_empty() {
            simple.push(' ');
        }
        space = false;
        simple.push(c);
    };
    let mut chars = lower.chars().peekable();
    while let Some(c) = chars.next() {
        if is_digit(c) {
            while chars.next_if(|c| is_digit(*c)).is_some() {}
            // One separator with digits after it belongs to the number.
            if chars.peek().is_some_and(|c| matches!(c, '.' | ',' | '،' | '٫' | '⎖' | '⎗' | '⎘')) {
                let mut ahead = chars.clone();
                ahead.next();
                if ahead.next_if(|c| is_digit(*c)).is_some() {
                    while ahead.next_if(|c| is_digit(*c)).is_some() {}
                    chars = ahead;
                }
            }
            push('0');
        } else if c.is_whitespace() || is_punctuation(c) {
            push(' ');
        } else {
            push(c);
        }
    }
    if simple.is_ascii() {
        return simple;
    }
    let bare: String = simple.nfd().filter(|c| c.is_ascii() || !(is_combining_mark(*c) && is(&NONSPACING, *c))).collect();
    bare.trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simplified_texts() {
        assert_eq!(simplify("  It's 1,234.5 — or 3.14.15!\n\nÄÖ é ≠ İ "), "it s 0 0 or 0 0 ao e = i");
        assert_eq!(simplify("ΟΔΟΣ １２ ٣٫٤"), "οδος 0 0");
        assert_eq!(simplify("..."), "");
    }

    #[test]
    fn parameters_are_those_of_numpy() {
        // numpy.random.RandomState(1).randint(1, 2**61 - 1, dtype=uint64, size=112)[[0, 1, 111]], then randint(0, ...)[[0, 111]]
        let datatrove = Datatrove::new(5, 112, 1, false);
        assert_eq!([datatrove.a[0], datatrove.a[1], datatrove.a[111]], [775_169_054_918_279_404, 1_758_426_461_858_698_313, 223_865_076_026_037_746]);
        assert_eq!([datatrove.b[0], datatrove.b[111]], [1_062_448_801_025_099_917, 1_097_409_548_522_419_201]);
    }

    #[test]
    fn signatures_are_those_of_datatrove() {
        // First and last component and the sum of all 112 modulo 2^64, from datatrove 0.10.1.
        let text = "It's 1,234.5 km — or 5km? Ångström ≠ “ΟΔΟΣ”, don't/cant ☺x☺ 7€ €9; naïve İstanbul 日本語 and so on.";
        let expected = [
            (false, 25_226_265_100_916_916u64, 94_360_898_057_688_541u64, 10_148_441_066_664_155_545u64),
            (true, 173_093_438_422_731_922, 158_306_870_627_393_286, 11_691_490_007_385_596_415),
        ];
        for (sha1, first, last, sum) in expected {
            let signature = Datatrove::new(5, 112, 1, sha1).signature(text);
            assert_eq!((signature[0], signature[111], signature.iter().fold(0u64, |s, v| s.wrapping_add(*v))), (first, last, sum));
        }
    }

    #[test]
    fn vector_code_and_scalar_code_agree() {
        let datatrove = Datatrove::new(5, 112, 7, false);
        let shingles: Vec<u64> = (0..300u64).map(|i| xxh64(&i.to_le_bytes())).chain([0, u64::MAX, PRIME]).collect();
        let least = |i: usize| shingles.iter().map(|x| x.wrapping_mul(datatrove.a[i]).wrapping_add(datatrove.b[i]) % PRIME).min();
        let mut vector = vec![u64::MAX; 112];
        minima(&shingles, &datatrove.a, &datatrove.b, &mut vector);
        let mut portable = vec![u64::MAX; 112];
        minima_portable(&shingles, &datatrove.a, &datatrove.b, &mut portable);
        assert_eq!(vector, (0..112).filter_map(least).collect::<Vec<_>>());
        assert_eq!(vector, portable);
    }

    fn words(text: &str) -> Vec<&str> {
        let mut found = Vec::new();
        WordSplitter::new(Language::English).split(text, &mut found);
        found.iter().map(|w| &text[w.start..w.start + w.len as usize]).collect()
    }

    #[test]
    fn rules_that_survive_the_simplification() {
        assert_eq!(words("i cant go 0km for 0€ or €0"), ["i", "ca", "nt", "go", "0", "km", "for", "0", "€", "or", "€", "0"]);
        assert_eq!(words("a©b ☺x☺ theyllve 0th km"), ["a", "©", "b", "☺", "x", "☺", "they", "ll", "ve", "0th", "km"]);
        assert_eq!(words("☺dont ‘s ‘a x=y"), ["☺", "do", "nt", "‘s", "‘", "a", "x", "=", "y"]);
    }

    #[test]
    fn short_texts_have_no_signature() {
        assert!(Datatrove::new(5, 112, 1, false).signature("only four words here").is_empty());
        assert_eq!(Datatrove::new(5, 112, 1, false).signature("now there are five words").len(), 112);
    }
}
