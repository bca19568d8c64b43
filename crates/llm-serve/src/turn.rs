//! The assistant's turn as it grows: tokens of one choice -> thinking, content and calls.
//!
//! [`Assembler`] makes text of tokens, [`ToolParser`] finds calls in the text. Whole and streamed replies, OpenAI's and Anthropic's,
//! are worded from the same [`Part`]s.

use crate::assemble::{Assembler, Piece};
use crate::reasoning::Segment;
use crate::tools::{self, Call, Format, ToolParser};

/// News of one choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// More of the thinking.
    Reasoning(String),
    /// More of the answer.
    Content(String),
    /// A complete call.
    Call {
        /// Counts the calls of the choice from 0.
        index: usize,
        /// For the message that answers it.
        id: String,
        /// What to call.
        call: Call,
    },
}

/// State of one choice.
pub struct Turn {
    assembler: Assembler,
    tools: Option<Tools>,
}

/// How calls are looked for and named.
#[derive(Debug, Clone)]
pub struct ToolRules {
    /// How the model writes them.
    pub format: Format,
    /// Of the request's tools.
    pub names: Vec<String>,
    /// A grammar makes the reply bare JSON.
    pub bare: bool,
    /// The turn ends with the first call.
    pub single: bool,
    /// Makes the ids of calls differ from those of other replies.
    pub salt: u64,
}

struct Tools {
    parser: ToolParser,
    rules: ToolRules,
    calls: usize,
}

impl Turn {
    /// Text alone.
    pub fn new(assembler: Assembler) -> Self {
        Self { assembler, tools: None }
    }

    /// With calls; `choice` is the number of the choice.
    pub fn with_tools(assembler: Assembler, rules: ToolRules, choice: usize) -> Self {
        let parser = ToolParser::new(rules.format, rules.names.clone(), rules.bare);
        let rules = ToolRules { salt: mix(rules.salt, choice as u64), ..rules };
        Self { assembler: assembler.showing(rules.format.markers()), tools: Some(Tools { parser, rules, calls: 0 }) }
    }

    /// Take in one token: the segment it counts for, and what it completes.
    pub fn push(&mut self, token: u32) -> (Segment, Vec<Part>) {
        let (segment, pieces) = self.assembler.push(token);
        let mut parts = self.read(pieces);
        if self.assembler.stopped() {
            self.close(&mut parts);
        }
        (segment, parts)
    }

    /// No more tokens: release what was held back.
    pub fn finish(&mut self) -> Vec<Part> {
        let pieces = self.assembler.finish();
        let mut parts = self.read(pieces);
        self.close(&mut parts);
        parts
    }

    /// Nothing that follows belongs to the turn: a stop string was completed, or the only call there may be.
    pub fn ended(&self) -> bool {
        self.assembler.stopped() || self.tools.as_ref().is_some_and(Tools::full)
    }

    /// The stop string that ended it.
    pub fn stop(&self) -> Option<&str> {
        self.assembler.stop()
    }

    /// There was a call.
    pub fn called(&self) -> bool {
        self.tools.as_ref().is_some_and(|t| t.calls > 0)
    }

    fn read(&mut self, pieces: Vec<Piece>) -> Vec<Part> {
        let mut parts = Vec::new();
        for Piece { segment, text } in pieces {
            match (segment, &mut self.tools) {
                (Segment::Reasoning, _) => parts.push(Part::Reasoning(text)),
                (Segment::Content, None) => parts.push(Part::Content(text)),
                (Segment::Content, Some(tools)) => {
                    let found = tools.parser.push(&text);
                    tools.number(found, &mut parts);
                }
            }
        }
        parts
    }

    fn close(&mut self, parts: &mut Vec<Part>) {
        if let Some(tools) = &mut self.tools {
            let found = tools.parser.finish();
            tools.number(found, parts);
        }
    }
}

impl Tools {
    fn full(&self) -> bool {
        self.rules.single && self.calls > 0
    }

    fn number(&mut self, found: Vec<tools::Part>, parts: &mut Vec<Part>) {
        for part in found {
            if self.full() {
                return;
            }
            parts.push(match part {
                tools::Part::Text(text) => Part::Content(text),
                tools::Part::Call(call) => {
                    let index = self.calls;
                    self.calls += 1;
                    Part::Call { index, id: call_id(self.rules.format, mix(self.rules.salt, index as u64)), call }
                }
            });
        }
    }
}

/// Mistral's templates insist on nine letters and digits; elsewhere OpenAI's prefix stands in front of them.
fn call_id(format: Format, mut number: u64) -> String {
    let digits: String = std::iter::repeat_with(|| {
        let digit = (number % 36) as u32;
        number /= 36;
        char::from_digit(digit, 36).unwrap_or('0')
    })
    .take(9)
    .collect();
    if format == Format::Mistral { digits } else { format!("call_{digits}") }
}

/// Scrambles two numbers into one (the finaliser of SplitMix64).
fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_add(b.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_calls_are_valid_and_differ() {
        let ids: std::collections::BTreeSet<String> = (0..100).flat_map(|salt| (0..8).map(move |i| call_id(Format::Hermes, mix(salt, i)))).collect();
        assert_eq!(ids.len(), 800);
        let mistral = call_id(Format::Mistral, mix(1, 2));
        assert!(mistral.len() == 9 && mistral.chars().all(|c| c.is_ascii_alphanumeric()), "{mistral}");
    }
}
