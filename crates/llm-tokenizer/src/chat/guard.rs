//! Marks inside rendered chat text: where the assistant speaks, and which text came from messages.
//!
//! Five Unicode noncharacters are reserved. `BREAK` stands inside every control token's text that a message contains, so
//! the matcher cannot find it; `BEGIN` and `END` enclose generation blocks; `MARK` is put into a message to see where its
//! text comes out; `ESCAPE` spells the five themselves when a message holds them. All are taken out again before encoding,
//! so no text is ever changed.

use crate::added::AddedToken;
use serde_json::{Map, Value};
use std::ops::Range;

pub const BREAK: char = '\u{fdd0}';
pub const BEGIN: char = '\u{fdd1}';
pub const END: char = '\u{fdd2}';
const ESCAPE: char = '\u{fdd3}';
pub const MARK: char = '\u{fdd4}';
/// The reserved characters; a template may not contain them.
pub const RESERVED: [char; 5] = [BREAK, BEGIN, END, ESCAPE, MARK];

/// Rendered text with marks.
#[derive(Debug)]
pub struct Marked(pub String);

/// Text without marks and the byte ranges in which the assistant speaks.
#[derive(Debug, PartialEq, Eq)]
pub struct Unmarked {
    pub text: String,
    /// Sorted, disjoint, not empty.
    pub spans: Vec<Range<usize>>,
    pub speaking_after: bool,
    /// True if a control token's text had to be broken.
    pub guarded: bool,
}

impl Marked {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn unmark(&self) -> Unmarked {
        Unmarked::new(&self.0, false)
    }
}

impl Unmarked {
    /// `speaking`: whether the assistant speaks at the start of `marked`.
    pub fn new(marked: &str, speaking: bool) -> Self {
        let mut text = String::with_capacity(marked.len());
        let mut spans = Vec::new();
        let mut guarded = false;
        let mut since = speaking.then_some(0);
        let mut close = |since: &mut Option<usize>, end: usize| {
            if let Some(start) = since.take().filter(|&start| start < end) {
                spans.push(start..end);
            }
        };
        let mut chars = marked.chars();
        while let Some(c) = chars.next() {
            match c {
                BREAK => guarded = true,
                BEGIN => since = since.or(Some(text.len())),
                END => close(&mut since, text.len()),
                ESCAPE => {
                    let which = chars.next().and_then(|d| d.to_digit(5)).unwrap_or(3);
                    text.push(RESERVED[which as usize]);
                }
                c => text.push(c),
            }
        }
        let speaking_after = since.is_some();
        close(&mut since, text.len());
        Self { text, spans, speaking_after, guarded }
    }
}

/// Makes message strings harmless for one tokenizer.
#[derive(Debug)]
pub struct Guard<'a> {
    tokens: Vec<&'a str>,
}

impl<'a> Guard<'a> {
    /// Special tokens and the image token always; other added tokens (`<tool_call>` in Qwen) only in what the assistant did not
    /// say, because templates look for them in its earlier turns. Runs of blanks are no control tokens.
    pub fn new(added: &'a [AddedToken], image: Option<&str>, assistant: bool) -> Self {
        let is_control = |t: &&AddedToken| t.special || image == Some(&t.content) || !(assistant || t.content.trim().is_empty());
        let mut tokens: Vec<&str> = added.iter().filter(is_control).map(|t| t.content.as_str()).filter(|t| !t.is_empty()).collect();
        tokens.sort_unstable_by_key(|t| std::cmp::Reverse(t.len()));
        Self { tokens }
    }

    /// Every string and key in `value`, recursively.
    pub fn value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(items) => items.into_iter().map(|v| self.value(v)).collect(),
            Value::Object(fields) => Value::Object(fields.into_iter().map(|(k, v)| (self.text(&k), self.value(v))).collect::<Map<_, _>>()),
            other => other,
        }
    }

    /// A message. A role in plain letters and the types of parts are left alone: templates compare them and put the role between
    /// `<|` and `|>`.
    pub fn message(&self, message: Value) -> Value {
        let Value::Object(fields) = message else {
            return self.value(message);
        };
        let is_plain = |role: &Value| role.as_str().is_some_and(|r| r.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        let guarded = fields.into_iter().map(|(k, v)| match v {
            v if k == "role" && is_plain(&v) => (k, v),
            Value::Array(parts) if k == "content" => (k, parts.into_iter().map(|p| self.part(p)).collect()),
            v => (self.text(&k), self.value(v)),
        });
        Value::Object(guarded.collect())
    }

    fn part(&self, part: Value) -> Value {
        let Value::Object(fields) = part else {
            return self.value(part);
        };
        let guarded = fields.into_iter().map(|(k, v)| match k.as_str() {
            "type" if v == "text" || v == "image" => (k, v),
            "text" => (k, self.value(v)),
            _ => (self.text(&k), self.value(v)),
        });
        Value::Object(guarded.collect())
    }

    /// Break every control token in `text`, whole or sticking out at an end (the template may put text there that
    /// completes it, with or without the blanks around the message).
    pub fn text(&self, text: &str) -> String {
        let mut breaks: Vec<usize> = Vec::new();
        for token in &self.tokens {
            let first = token.chars().next().map_or(0, char::len_utf8);
            let last = token.chars().next_back().map_or(0, char::len_utf8);
            if first == token.len() {
                // One character cannot be broken inside; a break before it tells the caller of the matcher.
                breaks.extend(text.match_indices(token).map(|(at, _)| at));
                continue;
            }
            // Overlapping occurrences count, so look again one character further.
            let mut from = 0;
            while let Some(at) = text.get(from..).and_then(|rest| rest.find(token)) {
                breaks.push(from + at + first);
                from += at + first;
            }
            let inner = token.char_indices().skip(1).map(|(i, _)| i);
            for cut in inner {
                let (head, tail) = token.split_at(cut);
                let trimmed = text.trim_end();
                if trimmed.ends_with(head) {
                    breaks.push(trimmed.len() - head.len() + first);
                }
                let skipped = text.len() - text.trim_start().len();
                if text[skipped..].starts_with(tail) {
                    breaks.push(skipped + tail.len() - last);
                }
            }
        }
        breaks.sort_unstable();
        breaks.dedup();
        let mut out = String::with_capacity(text.len() + breaks.len() * 3);
        let mut breaks = breaks.into_iter().peekable();
        for (i, c) in text.char_indices() {
            if breaks.next_if_eq(&i).is_some() {
                out.push(BREAK);
            }
            match RESERVED.iter().position(|&r| r == c) {
                Some(which) => out.extend([ESCAPE, (b'0' + which as u8) as char]),
                None => out.push(c),
            }
        }
        if breaks.peek().is_some() {
            out.push(BREAK);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens() -> Vec<AddedToken> {
        vec![AddedToken::special(0, "<|eot_id|>"), AddedToken::special(1, "<|a|><|b|>"), AddedToken::special(2, "aa")]
    }

    #[test]
    fn pieces_that_would_join_up_are_broken_too() {
        let added = tokens();
        let guard = Guard::new(&added, None, true);
        for (left, right) in [("<|eot_", "id|>"), ("x <|eot_id|", "> y"), ("a", "a"), ("<|a|> ", "<|b|>")] {
            let joined = guard.text(left).trim().to_string() + guard.text(right).trim();
            assert!(added.iter().all(|t| !joined.contains(&t.content)), "{left:?} + {right:?} -> {joined:?}");
        }
    }

    proptest! {
        #[test]
        fn guarded_text_has_no_control_token_and_unmarks_to_itself(text in "([<|>a_ \u{fdd0}-\u{fdd4}]|<\\|eot_id\\|>|<\\|a\\|>|<\\|b\\|>){0,12}", template_left in "<?\\|?", template_right in "\\|?>?") {
            let added = tokens();
            let guarded = Guard::new(&added, None, true).text(&text);
            prop_assert!(added.iter().all(|t| !guarded.contains(&t.content)));
            prop_assert_eq!(Unmarked::new(&guarded, false).text, text);
            for framed in [format!("{template_left}{guarded}"), format!("{guarded}{template_right}")] {
                prop_assert!(added.iter().all(|t| !framed.contains(&t.content)));
            }
        }
    }
}
