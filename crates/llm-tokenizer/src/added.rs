//! Added tokens: strings that are found in the text before pre-tokenisation, control tokens above all.

use crate::error::{Result, format};
use aho_corasick::{AhoCorasick, MatchKind};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

/// One added token.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AddedToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub content: String,
    /// A control token: left out by `decode(.., skip_special = true)`, never made from untrusted text.
    #[serde(default)]
    pub special: bool,
    /// Matched after normalisation.
    #[serde(default)]
    pub normalized: bool,
    /// Only as a whole word.
    #[serde(default)]
    pub single_word: bool,
    /// Swallows blanks before it.
    #[serde(default)]
    pub lstrip: bool,
    /// Swallows blanks after it.
    #[serde(default)]
    pub rstrip: bool,
}

impl AddedToken {
    /// A control token.
    pub fn special(id: u32, content: &str) -> Self {
        Self { id, content: content.to_string(), special: true, normalized: false, single_word: false, lstrip: false, rstrip: false }
    }
}

/// A piece of text between or at added tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Ordinary text, never empty.
    Text(&'a str),
    /// An added token.
    Token(u32, &'a str),
}

/// The normaliser that does nothing.
pub fn unchanged(text: &str) -> Cow<'_, str> {
    Cow::Borrowed(text)
}

/// All added tokens of a tokenizer and the matchers over them.
#[derive(Debug)]
pub struct AddedTokens {
    tokens: Vec<AddedToken>,
    by_content: HashMap<String, u32>,
    /// First pass: tokens with `normalized = false`, second pass: the others.
    passes: [Matcher; 2],
    /// The same without the special ones.
    ordinary: [Matcher; 2],
}

#[derive(Debug)]
struct Matcher(Option<(AhoCorasick, Vec<u32>)>);

impl Matcher {
    fn new(tokens: &[&AddedToken], path: &Path) -> Result<Self> {
        let tokens: Vec<_> = tokens.iter().filter(|t| !t.content.is_empty()).collect();
        if tokens.is_empty() {
            return Ok(Self(None));
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|t| &t.content))
            .map_err(|e| format(path, format!("added tokens: {e}")))?;
        Ok(Self(Some((automaton, tokens.iter().map(|t| t.id).collect()))))
    }

    fn split<'a>(&self, text: &'a str, mut each: impl FnMut(Piece<'a>)) {
        let mut done = 0;
        if let Some((automaton, ids)) = &self.0 {
            for found in automaton.find_iter(text) {
                if found.start() > done {
                    each(Piece::Text(&text[done..found.start()]));
                }
                each(Piece::Token(ids[found.pattern().as_usize()], &text[found.range()]));
                done = found.end();
            }
        }
        if done < text.len() {
            each(Piece::Text(&text[done..]));
        }
    }
}

impl AddedTokens {
    /// `path` is named in errors.
    pub fn new(tokens: Vec<AddedToken>, path: &Path) -> Result<Self> {
        let pick = |normalized: bool, special: bool| {
            let chosen: Vec<_> = tokens.iter().filter(|t| t.normalized == normalized && (special || !t.special)).collect();
            Matcher::new(&chosen, path)
        };
        let passes = [pick(false, true)?, pick(true, true)?];
        let ordinary = [pick(false, false)?, pick(true, false)?];
        let by_content = tokens.iter().map(|t| (t.content.clone(), t.id)).collect();
        Ok(Self { tokens, by_content, passes, ordinary })
    }

    /// Every added token, in file order.
    pub fn tokens(&self) -> &[AddedToken] {
        &self.tokens
    }

    /// Id of an added token by its text.
    pub fn id(&self, content: &str) -> Option<u32> {
        self.by_content.get(content).copied()
    }

    /// Cut `text` at added tokens; special ones count only if `special`. `normalize` is applied to what lies between
    /// tokens of the first pass.
    pub fn split(&self, text: &str, special: bool, normalize: impl Fn(&str) -> Cow<'_, str>, mut each: impl FnMut(Piece<'_>)) {
        self.split_raw(text, special, |piece| match piece {
            Piece::Text(text) => self.split_normalized(&normalize(text), special, &mut each),
            token => each(token),
        });
    }

    /// The first pass of [`AddedTokens::split`]: pieces are slices of `text`, in order.
    pub fn split_raw<'a>(&self, text: &'a str, special: bool, each: impl FnMut(Piece<'a>)) {
        self.pass(0, special).split(text, each);
    }

    /// The second pass, over normalised text.
    pub fn split_normalized<'a>(&self, text: &'a str, special: bool, each: impl FnMut(Piece<'a>)) {
        self.pass(1, special).split(text, each);
    }

    fn pass(&self, number: usize, special: bool) -> &Matcher {
        if special { &self.passes[number] } else { &self.ordinary[number] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_match_wins_and_special_tokens_need_permission() {
        let mut plain = AddedToken::special(3, "<tool>");
        plain.special = false;
        let tokens = vec![AddedToken::special(1, "<|a|>"), AddedToken::special(2, "<|a|>b"), plain];
        let added = AddedTokens::new(tokens, Path::new("t.json")).unwrap();
        let cut = |special| {
            let mut pieces = Vec::new();
            added.split("x<|a|>b<|a|><tool>", special, unchanged, |p| pieces.push(format!("{p:?}")));
            pieces
        };
        assert_eq!(cut(true), [r#"Text("x")"#, r#"Token(2, "<|a|>b")"#, r#"Token(1, "<|a|>")"#, r#"Token(3, "<tool>")"#]);
        assert_eq!(cut(false), [r#"Text("x<|a|>b<|a|>")"#, r#"Token(3, "<tool>")"#]);
    }
}
