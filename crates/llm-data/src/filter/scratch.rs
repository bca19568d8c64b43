//! Working memory of one thread: word splitters, the words of the document at hand, tables for n-grams.
//!
//! Several profiles look at the same text one after the other; its words are cut once and remembered by the text's hash.

use super::hash::{Powers, Table, append, hash64};
use super::languages::Language;
use super::words::{Word, WordSplitter, split_at_spaces};
use std::cell::RefCell;

/// How a text was cut.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    English,
    Other,
    Spaces,
}

/// See the module.
#[derive(Default)]
pub struct Scratch {
    english: Option<WordSplitter>,
    other: Option<WordSplitter>,
    of: Option<(u64, usize, Kind)>,
    /// Words of the text last prepared.
    pub words: Vec<Word>,
    /// Words of a part of it.
    pub part: Vec<Word>,
    /// Counts of n-grams or lines.
    pub table: Table,
    /// For hashes of n-grams.
    pub powers: Powers,
    /// Hashes of the n-grams of the present length.
    pub grams: Vec<u64>,
    /// Polynomial of the first `i` words run together, and the bytes in them.
    pub prefixes: Vec<(u64, usize)>,
    /// Characters in the first `i` words.
    pub chars: Vec<u32>,
    prefixed: bool,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Work with this thread's memory.
pub fn with<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut scratch) => work(&mut scratch),
        // A step called from within another: memory of its own.
        Err(_) => work(&mut Scratch::default()),
    })
}

fn splitter<'a>(english: &'a mut Option<WordSplitter>, other: &'a mut Option<WordSplitter>, language: Language) -> &'a mut WordSplitter {
    let slot = if language == Language::English { english } else { other };
    slot.get_or_insert_with(|| WordSplitter::new(language))
}

impl Scratch {
    /// Cut `text` into [`Scratch::words`], unless they are there already.
    pub fn prepare(&mut self, text: &str, language: Language) {
        let kind = if language == Language::English { Kind::English } else { Kind::Other };
        let key = (hash64(text.as_bytes()), text.len(), kind);
        if self.of == Some(key) {
            return;
        }
        splitter(&mut self.english, &mut self.other, language).split(text, &mut self.words);
        self.of = Some(key);
        self.prefixed = false;
    }

    /// Cut `text` at white space into [`Scratch::words`].
    pub fn prepare_spaces(&mut self, text: &str) {
        split_at_spaces(text, &mut self.words);
        self.of = Some((hash64(text.as_bytes()), text.len(), Kind::Spaces));
        self.prefixed = false;
    }

    /// Cut a part of the text into [`Scratch::part`].
    pub fn prepare_part(&mut self, text: &str, language: Language) {
        splitter(&mut self.english, &mut self.other, language).split(text, &mut self.part);
    }

    /// Fill [`Scratch::prefixes`] and [`Scratch::chars`] for the words prepared.
    pub fn prepare_prefixes(&mut self) {
        if self.prefixed {
            return;
        }
        self.prefixed = true;
        self.prefixes.clear();
        self.chars.clear();
        let (mut polynomial, mut bytes, mut chars) = (0, 0, 0);
        self.prefixes.push((0, 0));
        self.chars.push(0);
        for word in &self.words {
            polynomial = append(polynomial, word.polynomial, self.powers.get(word.len as usize));
            bytes += word.len as usize;
            chars += word.chars;
            self.prefixes.push((polynomial, bytes));
            self.chars.push(chars);
        }
    }
}
