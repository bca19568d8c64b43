//! Which part of a reply is thinking: decided on token ids, never on text.
//!
//! `<think>` and `</think>` are single control tokens. A model that *writes* the eight characters `</think>` while it
//! thinks, or a user who asks it to, produces ordinary text tokens, and those stay where they are. That is why the
//! splitter sits before the decoder and not behind it.

/// A part of the assistant's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment {
    /// Between `<think>` and `</think>`: `reasoning_content` in the API.
    Reasoning,
    /// The answer: `content` in the API.
    Content,
}

/// Routes tokens to segments.
#[derive(Debug, Clone)]
pub struct ReasoningSplitter {
    open: Option<u32>,
    close: Option<u32>,
    segment: Segment,
}

impl ReasoningSplitter {
    /// `open` and `close` are the ids of `<think>` and `</think>`, if the vocabulary has them. Some chat templates end
    /// with `<think>`, so the reply starts inside it: `prompt` tells.
    pub fn new(open: Option<u32>, close: Option<u32>, prompt: &[u32]) -> Self {
        let last = prompt.iter().rev().find(|&&id| Some(id) == open || Some(id) == close);
        let segment = if open.is_some() && last.copied() == open { Segment::Reasoning } else { Segment::Content };
        Self { open, close, segment }
    }

    /// The segment that `token` belongs to, or `None` for the markers themselves.
    pub fn push(&mut self, token: u32) -> Option<Segment> {
        if Some(token) == self.open {
            self.segment = Segment::Reasoning;
        } else if Some(token) == self.close {
            self.segment = Segment::Content;
        } else {
            return Some(self.segment);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::Segment::{Content, Reasoning};
    use super::*;

    const OPEN: u32 = 100;
    const CLOSE: u32 = 101;

    fn route(prompt: &[u32], tokens: &[u32]) -> Vec<(u32, Segment)> {
        let mut splitter = ReasoningSplitter::new(Some(OPEN), Some(CLOSE), prompt);
        tokens.iter().filter_map(|&t| splitter.push(t).map(|s| (t, s))).collect()
    }

    #[test]
    fn markers_switch_and_disappear() {
        assert_eq!(route(&[], &[OPEN, 1, 2, CLOSE, 3]), [(1, Reasoning), (2, Reasoning), (3, Content)]);
    }

    #[test]
    fn a_reply_without_markers_is_content() {
        assert_eq!(route(&[], &[1, 2]), [(1, Content), (2, Content)]);
    }

    #[test]
    fn a_reply_cut_while_thinking_is_all_reasoning() {
        assert_eq!(route(&[], &[OPEN, 1]), [(1, Reasoning)]);
    }

    #[test]
    fn a_prompt_that_ends_inside_think_starts_there() {
        assert_eq!(route(&[OPEN, 7, CLOSE, 8, OPEN], &[1, CLOSE, 2]), [(1, Reasoning), (2, Content)]);
        // Earlier turns that closed their thinking do not count.
        assert_eq!(route(&[OPEN, 7, CLOSE, 8], &[1]), [(1, Content)]);
    }

    #[test]
    fn a_stray_close_is_dropped_and_a_second_think_reopens() {
        assert_eq!(route(&[], &[CLOSE, 1, OPEN, 2, CLOSE, 3]), [(1, Content), (2, Reasoning), (3, Content)]);
    }

    #[test]
    fn without_the_tokens_in_the_vocabulary_nothing_is_special() {
        let mut splitter = ReasoningSplitter::new(None, None, &[OPEN]);
        assert_eq!(splitter.push(OPEN), Some(Content));
        assert_eq!(splitter.push(CLOSE), Some(Content));
    }
}
