//! Words as spaCy's blank English tokenizer cuts them, which is what datatrove counts.
//!
//! Text is cut at white space, each piece by the rules of spaCy (`word_rules`). What happens to a piece depends on the piece alone, so
//! a cache makes the common case a look-up. German and Spanish use the same rules without the English exceptions.

use super::classes::{LETTER, PUNCT, SENTENCE, SYMBOL, class};
use super::hash::{hash64, polynomial};
use super::languages::Language;
use super::word_rules::{Piece, Rules};

/// The word has a letter in it.
pub const HAS_LETTER: u8 = 1;
/// The word has a character that is no punctuation (datatrove's set).
pub const NON_SYMBOL: u8 = 2;
/// All characters are punctuation (Unicode's category P).
pub const ALL_PUNCT: u8 = 4;
/// One character that ends a sentence.
pub const ENDS_SENTENCE: u8 = 8;

/// A word: where it is, how long it is, what is in it, and its hashes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Word {
    /// First byte.
    pub start: usize,
    /// Bytes.
    pub len: u32,
    /// Characters.
    pub chars: u32,
    /// [`HAS_LETTER`] and the others.
    pub flags: u8,
    /// 64-bit hash of the word.
    pub hash: u64,
    /// Polynomial of the word, for n-grams that run words together.
    pub polynomial: u64,
}

/// Longest piece that is kept in the cache, in bytes.
const MAX_CACHED: usize = 48;
const SLOTS: usize = 1 << 15;
const ARENA: usize = 1 << 20;

#[derive(Debug, Clone, Copy)]
struct Slot {
    hash: u64,
    /// Of the piece's bytes in the arena.
    text: u32,
    len: u16,
    /// Of its words.
    words: u16,
    first: u32,
}

/// Splits text into words; keep one per thread, because it remembers pieces.
#[derive(Debug)]
pub struct WordSplitter {
    rules: &'static Rules,
    slots: Vec<Slot>,
    arena: Vec<u8>,
    known: Vec<Word>,
    chars: Vec<(usize, char)>,
}

fn describe(text: &str, start: usize) -> Word {
    let (mut flags, mut chars) = (ALL_PUNCT, 0);
    let mut first = 0;
    for c in text.chars() {
        let bits = class(c);
        first = if chars == 0 { bits } else { first };
        chars += 1;
        flags |= if bits & LETTER != 0 { HAS_LETTER } else { 0 };
        flags |= if bits & SYMBOL == 0 { NON_SYMBOL } else { 0 };
        flags &= if bits & PUNCT == 0 { !ALL_PUNCT } else { 0xff };
    }
    if chars == 1 && first & SENTENCE != 0 {
        flags |= ENDS_SENTENCE;
    }
    Word { start, len: text.len() as u32, chars, flags, hash: hash64(text.as_bytes()), polynomial: polynomial(text.as_bytes()) }
}

/// Bytes of the white space character at `i`, 0 if it is another character, and the length of that.
fn space_at(bytes: &[u8], i: usize) -> (bool, usize) {
    match bytes[i] {
        b @ 0..=0x7f => (b == b' ' || (9..=13).contains(&b) || (28..=31).contains(&b), 1),
        0xc2 => (matches!(bytes.get(i + 1), Some(0x85 | 0xa0)), 2),
        0xc0..=0xdf => (false, 2),
        first @ 0xe0..=0xef => {
            let pair = (bytes.get(i + 1).copied().unwrap_or(0), bytes.get(i + 2).copied().unwrap_or(0));
            let space = match (first, pair.0) {
                (0xe1, 0x9a) => pair.1 == 0x80,
                (0xe2, 0x80) => matches!(pair.1, 0x80..=0x8a | 0xa8 | 0xa9 | 0xaf),
                (0xe2, 0x81) => pair.1 == 0x9f,
                (0xe3, 0x80) => pair.1 == 0x80,
                _ => false,
            };
            (space, 3)
        }
        _ => (false, 4),
    }
}

/// The pieces of a text between white space: first byte and the byte after.
fn pieces(text: &str) -> impl Iterator<Item = (usize, usize)> {
    let bytes = text.as_bytes();
    let mut i = 0;
    std::iter::from_fn(move || {
        while i < bytes.len() {
            match space_at(bytes, i) {
                (true, n) => i += n,
                (false, _) => break,
            }
        }
        let start = i;
        while i < bytes.len() {
            match space_at(bytes, i) {
                (true, _) => break,
                (false, n) => i += n,
            }
        }
        (i > start).then_some((start, i))
    })
}

/// Words between white space, into `out`, which is emptied first.
pub fn split_at_spaces(text: &str, out: &mut Vec<Word>) {
    out.clear();
    out.extend(pieces(text).map(|(start, end)| describe(&text[start..end], start)));
}

impl WordSplitter {
    /// For texts in `language`.
    pub fn new(language: Language) -> Self {
        let empty = Slot { hash: 0, text: 0, len: 0, words: 0, first: 0 };
        Self { rules: Rules::of(language), slots: vec![empty; SLOTS], arena: Vec::new(), known: Vec::new(), chars: Vec::new() }
    }

    /// The words of `text` into `out`, which is emptied first.
    pub fn split(&mut self, text: &str, out: &mut Vec<Word>) {
        out.clear();
        for (start, end) in pieces(text) {
            self.piece(&text[start..end], start, out);
        }
    }

    fn piece(&mut self, piece: &str, start: usize, out: &mut Vec<Word>) {
        if piece.len() > MAX_CACHED {
            return self.cut(piece, start, out);
        }
        let hash = hash64(piece.as_bytes());
        let at = hash as usize & (SLOTS - 1);
        let slot = self.slots[at];
        if slot.hash == hash && usize::from(slot.len) == piece.len() {
            let text = slot.text as usize;
            if &self.arena[text..text + piece.len()] == piece.as_bytes() {
                let first = slot.first as usize;
                out.extend(self.known[first..first + usize::from(slot.words)].iter().map(|w| Word { start: w.start + start, ..*w }));
                return;
            }
        }
        let before = out.len();
        self.cut(piece, start, out);
        if self.arena.len() + piece.len() > ARENA {
            self.arena.clear();
            self.known.clear();
            self.slots.fill(Slot { hash: 0, text: 0, len: 0, words: 0, first: 0 });
        }
        let words = &out[before..];
        self.slots[at] =
            Slot { hash, text: self.arena.len() as u32, len: piece.len() as u16, words: words.len() as u16, first: self.known.len() as u32 };
        self.arena.extend_from_slice(piece.as_bytes());
        self.known.extend(words.iter().map(|w| Word { start: w.start - start, ..*w }));
    }

    fn cut(&mut self, piece: &str, start: usize, out: &mut Vec<Word>) {
        // Letters only, and no exception: the piece is the word.
        if piece.bytes().all(|b| b.is_ascii_alphabetic()) && self.rules.exception(piece).is_none() {
            out.push(describe(piece, start));
            return;
        }
        self.chars.clear();
        self.chars.extend(piece.char_indices());
        let ends = self.rules.cut(&Piece { text: piece, chars: &self.chars }, true);
        let mut from = 0;
        for end in self.rules.mend(piece, ends) {
            out.push(describe(&piece[from..end], start + from));
            from = end;
        }
    }
}

/// Number of sentences in `text` with these words, as spaCy's sentencizer counts them: a sentence ends before the first token after its
/// final punctuation that is no punctuation itself. White space between words is a token too, unless it is one blank. Nothing at all
/// is one sentence.
pub fn count_sentences(text: &str, words: &[Word]) -> usize {
    let (mut sentences, mut ended, mut at) = (1, false, 0);
    let is_token = |gap: &str| !gap.is_empty() && gap != " ";
    for word in words {
        let ends = word.flags & ENDS_SENTENCE != 0;
        if ended && is_token(&text[at..word.start]) {
            sentences += 1;
            ended = false;
        }
        if ended && word.flags & ALL_PUNCT == 0 && !ends {
            sentences += 1;
            ended = false;
        } else if ends {
            ended = true;
        }
        at = word.start + word.len as usize;
    }
    sentences + usize::from(ended && is_token(&text[at..]))
}
