//! What happens to text before it is cut into pieces.
//!
//! Source: `Normalizer::Normalize` of SentencePiece's `normalizer.cc`; the two pipelines of Llama-like `tokenizer.json` files are the
//! same without a character map, except that `Metaspace` puts no blank before text that begins with one.

use super::charsmap::Charsmap;
use super::model::PieceModel;
use super::trie::Trie;
use std::ops::Range;

/// A blank inside pieces, U+2581.
pub const BLANK: &str = "\u{2581}";

/// When a blank is put in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// Never.
    Never,
    /// Of every text, and of what follows a control token.
    Always,
    /// The same, unless it begins with a blank.
    UnlessBlank,
    /// Only of the beginning of the whole text, unless it begins with a blank.
    First,
}

/// A normaliser.
#[derive(Debug)]
pub struct Normalizer {
    pub prefix: Prefix,
    charsmap: Charsmap,
    /// Strings that are left alone.
    user_defined: Option<Trie>,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
    whitespace_as_suffix: bool,
}

impl Normalizer {
    /// Of a SentencePiece model; `user_defined` holds its user-defined pieces.
    pub fn of(model: &PieceModel, user_defined: Option<Trie>) -> Self {
        Self {
            prefix: if model.add_dummy_prefix { Prefix::Always } else { Prefix::Never },
            charsmap: model.charsmap.clone(),
            user_defined,
            remove_extra_whitespaces: model.remove_extra_whitespaces,
            escape_whitespaces: model.escape_whitespaces,
            whitespace_as_suffix: model.whitespace_as_suffix,
        }
    }

    /// Blanks to `▁`, and a prefix.
    pub fn plain(prefix: Prefix) -> Self {
        Self {
            prefix,
            charsmap: Charsmap::default(),
            user_defined: None,
            remove_extra_whitespaces: false,
            escape_whitespaces: true,
            whitespace_as_suffix: false,
        }
    }

    /// True if every blank becomes `▁` and nothing else changes, but for a prefix.
    pub fn is_plain(&self) -> bool {
        self.charsmap.is_identity() && !self.remove_extra_whitespaces && self.escape_whitespaces && !self.whitespace_as_suffix
    }

    /// Bytes that the prefix adds to `text`; `first`: nothing stands before it.
    pub fn prefixes(&self, text: &str, first: bool) -> bool {
        let begins_blank = || text.starts_with(' ') || text.starts_with(BLANK);
        !text.is_empty()
            && match self.prefix {
                Prefix::Never => false,
                Prefix::Always => !self.whitespace_as_suffix,
                Prefix::UnlessBlank => !begins_blank(),
                Prefix::First => first && !begins_blank(),
            }
    }

    /// Give the normalised text to `out`.
    pub fn normalize(&self, whole: &str, first: bool, out: &mut impl Sink) {
        let blank = if self.escape_whitespaces { BLANK } else { " " };
        let mut text = whole;
        // Bytes of the whole before `text`.
        let place = |text: &str| whole.len() - text.len();
        if self.remove_extra_whitespaces {
            loop {
                let (piece, length) = self.step(text);
                if length == 0 || piece != " " {
                    break;
                }
                text = &text[length..];
            }
        }
        if text.is_empty() {
            return;
        }
        if self.prefixes(text, first) {
            // It counts to the first character, as in the `tokenizers` library.
            let first = text.chars().next().map_or(0, char::len_utf8);
            out.put(blank, place(text)..place(text) + first);
        }
        if self.is_plain() && self.user_defined.is_none() {
            while let Some(at) = text.find(' ') {
                out.copy(&text[..at], place(text));
                out.put(BLANK, place(text) + at..place(text) + at + 1);
                text = &text[at + 1..];
            }
            out.copy(text, place(text));
            return;
        }
        let start = out.text().len();
        let mut after_space = self.remove_extra_whitespaces;
        while !text.is_empty() {
            let (mut piece, length) = self.step(text);
            let source = place(text)..place(text) + length;
            if after_space {
                piece = piece.trim_start_matches(' ');
            }
            if !piece.is_empty() {
                if piece == &text[..length] && !piece.contains(' ') {
                    out.copy(piece, source.start);
                } else {
                    let mut bytes = [0; 4];
                    piece.chars().for_each(|c| out.put(if c == ' ' { blank } else { c.encode_utf8(&mut bytes) }, source.clone()));
                }
                after_space = piece.ends_with(' ');
            }
            text = &text[length..];
            after_space &= self.remove_extra_whitespaces;
        }
        if self.remove_extra_whitespaces {
            while out.text().len() > start && out.text().ends_with(blank) {
                out.cut(out.text().len() - blank.len());
            }
        }
        if self.whitespace_as_suffix && self.prefix == Prefix::Always {
            out.put(blank, whole.len()..whole.len());
        }
    }

    /// What the beginning of `text` becomes, and how many of its bytes that is about; nothing of nothing.
    fn step<'a>(&'a self, text: &'a str) -> (&'a str, usize) {
        if let Some((length, _)) = self.user_defined.as_ref().and_then(|trie| trie.longest(text.as_bytes())) {
            return (&text[..length], length);
        }
        if let Some(found) = self.charsmap.longest(text) {
            return found;
        }
        let length = text.chars().next().map_or(0, char::len_utf8);
        (&text[..length], length)
    }
}

/// What normalised text is given to.
pub trait Sink {
    /// Append text that stands in the source as it is, from byte `at` on.
    fn copy(&mut self, text: &str, at: usize);
    /// Append text that stands for some bytes of the source.
    fn put(&mut self, text: &str, source: Range<usize>);
    /// Keep so many bytes.
    fn cut(&mut self, length: usize);
    /// All there is.
    fn text(&self) -> &str;
}

impl Sink for String {
    fn copy(&mut self, text: &str, _: usize) {
        self.push_str(text);
    }

    fn put(&mut self, text: &str, _: Range<usize>) {
        self.push_str(text);
    }

    fn cut(&mut self, length: usize) {
        self.truncate(length);
    }

    fn text(&self) -> &str {
        self
    }
}

/// Normalised text and where it comes from.
#[derive(Debug, Default)]
pub struct Aligned {
    pub text: String,
    /// For every byte of `text` the bytes of the source it stands for.
    source: Vec<Range<u32>>,
}

impl Sink for Aligned {
    fn copy(&mut self, text: &str, at: usize) {
        self.text.push_str(text);
        self.source.extend((at as u32..(at + text.len()) as u32).map(|i| i..i + 1));
    }

    fn put(&mut self, text: &str, source: Range<usize>) {
        self.text.push_str(text);
        self.source.resize(self.text.len(), source.start as u32..source.end as u32);
    }

    fn cut(&mut self, length: usize) {
        self.text.truncate(length);
        self.source.truncate(length);
    }

    fn text(&self) -> &str {
        &self.text
    }
}

impl Aligned {
    /// Bytes of the source that some bytes of the text stand for.
    pub fn source(&self, bytes: Range<usize>) -> Range<usize> {
        match self.source.get(bytes) {
            Some([first, .., last]) => first.start as usize..last.end as usize,
            Some([only]) => only.start as usize..only.end as usize,
            _ => 0..0,
        }
    }
}
