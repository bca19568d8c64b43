//! How long an answer thinks: the tokens up to `</think>`.
//!
//! The trace itself stays hidden from whoever grades the answer (`llm-verify` tells the two apart); its length is what costs time.

use llm_tokenizer::Tokenizer;

/// The tokens that open and close the trace; none where the vocabulary has no such tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Thinking {
    open: Option<u32>,
    close: Option<u32>,
}

impl Thinking {
    /// Of a tokenizer with `<think>` and `</think>` as tokens of their own.
    pub fn of(tokenizer: &Tokenizer) -> Self {
        Self { open: tokenizer.special_id("<think>"), close: tokenizer.special_id("</think>") }
    }

    /// Can it be measured?
    pub fn known(&self) -> bool {
        self.close.is_some()
    }

    /// Tokens of `answer` up to the end of its trace, both marks included; all of them if the trace has no end. The template may have opened
    /// it in the prompt already.
    pub fn tokens(&self, prompt: &[u32], answer: &[u32]) -> usize {
        let Some(close) = self.close else { return 0 };
        if let Some(end) = answer.iter().rposition(|&id| id == close) {
            return end + 1;
        }
        let last = prompt.iter().rev().find(|&&id| Some(id) == self.open || id == close);
        let opened = last.is_some_and(|&id| id != close) || answer.iter().any(|&id| Some(id) == self.open);
        if opened { answer.len() } else { 0 }
    }
}

/// What thinking beyond `allowed` tokens costs: in proportion, 1 at twice as many; nothing if `allowed` is 0.
pub fn excess(tokens: usize, allowed: usize) -> f32 {
    match allowed {
        0 => 0.0,
        allowed => (tokens.saturating_sub(allowed) as f32 / allowed as f32).min(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, an answer that never stops thinking counts as one that never began.
    #[test]
    fn thinking_is_what_stands_before_its_end() {
        let thinking = Thinking { open: Some(1), close: Some(2) };
        assert_eq!(thinking.tokens(&[9], &[1, 5, 5, 2, 7]), 4);
        assert_eq!(thinking.tokens(&[9, 1], &[5, 5, 2, 7]), 3);
        assert_eq!(thinking.tokens(&[9, 1], &[5, 5, 5]), 3);
        assert_eq!(thinking.tokens(&[9], &[1, 5, 5]), 3);
        assert_eq!(thinking.tokens(&[1, 5, 2, 9], &[5, 5]), 0);
        assert_eq!(Thinking::default().tokens(&[1], &[5, 2]), 0);
    }

    #[test]
    fn beyond_the_bound_it_costs_in_proportion() {
        assert_eq!([excess(8, 10), excess(15, 10), excess(20, 10), excess(99, 10), excess(99, 0)], [0.0, 0.5, 1.0, 1.0, 0.0]);
    }
}
