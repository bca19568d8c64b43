//! What happens to text before it is cut into pieces.
//!
//! Source: `Normalizer::Normalize` of SentencePiece's `normalizer.cc`; the two pipelines of Llama-like `tokenizer.json` files are the
//! same without a character map, except that `Metaspace` puts no blank before text that begins with one.

use super::charsmap::Charsmap;
use super::model::PieceModel;
use super::trie::Trie;

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

    /// Append the normalised text to `out`.
    pub fn normalize(&self, mut text: &str, first: bool, out: &mut String) {
        let blank = if self.escape_whitespaces { BLANK } else { " " };
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
            out.push_str(blank);
        }
        if self.is_plain() && self.user_defined.is_none() {
            let mut rest = text;
            while let Some(at) = rest.find(' ') {
                out.push_str(&rest[..at]);
                out.push_str(BLANK);
                rest = &rest[at + 1..];
            }
            out.push_str(rest);
            return;
        }
        let start = out.len();
        let mut after_space = self.remove_extra_whitespaces;
        while !text.is_empty() {
            let (mut piece, length) = self.step(text);
            if after_space {
                piece = piece.trim_start_matches(' ');
            }
            if !piece.is_empty() {
                piece.chars().for_each(|c| if c == ' ' { out.push_str(blank) } else { out.push(c) });
                after_space = piece.ends_with(' ');
            }
            text = &text[length..];
            after_space &= self.remove_extra_whitespaces;
        }
        if self.remove_extra_whitespaces {
            while out.len() > start && out.ends_with(blank) {
                out.truncate(out.len() - blank.len());
            }
        }
        if self.whitespace_as_suffix && self.prefix == Prefix::Always {
            out.push_str(blank);
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
