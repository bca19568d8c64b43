//! Tokens of one choice -> pieces of text with their segment.
//!
//! Control tokens route ([`ReasoningSplitter`]), the decoder waits for whole characters, the stop matcher holds back what
//! may become a stop string. Streamed and whole replies both come from here, so they cannot differ.

use crate::reasoning::{ReasoningSplitter, Segment};
use crate::stop::StopMatcher;
use llm_tokenizer::{DecodeStream, Tokenizer};

/// Text that is ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Thinking or answer.
    pub segment: Segment,
    /// Never empty.
    pub text: String,
}

/// State of one choice.
pub struct Assembler {
    tokenizer: Tokenizer,
    splitter: ReasoningSplitter,
    stops: Vec<String>,
    open: Option<OpenSegment>,
    stopped: bool,
}

struct OpenSegment {
    segment: Segment,
    decoder: DecodeStream,
    matcher: StopMatcher,
}

impl Assembler {
    /// For chat: thinking is split off.
    pub fn chat(tokenizer: &Tokenizer, prompt: &[u32], stops: &[String]) -> Self {
        let (open, close) = (tokenizer.special_id("<think>"), tokenizer.special_id("</think>"));
        let splitter = ReasoningSplitter::new(open, close, generation_prompt(tokenizer, prompt, &[open, close]));
        Self { tokenizer: tokenizer.clone(), splitter, stops: stops.to_vec(), open: None, stopped: false }
    }

    /// For text completions: everything is content.
    pub fn text(tokenizer: &Tokenizer, stops: &[String]) -> Self {
        let splitter = ReasoningSplitter::new(None, None, &[]);
        Self { tokenizer: tokenizer.clone(), splitter, stops: stops.to_vec(), open: None, stopped: false }
    }

    /// Take in one token. Returns the segment it counts for and the text it releases (possibly of an earlier segment too).
    pub fn push(&mut self, token: u32) -> (Segment, Vec<Piece>) {
        let mut pieces = Vec::new();
        let Some(segment) = self.splitter.push(token) else {
            self.close_segment(&mut pieces);
            return (Segment::Reasoning, pieces);
        };
        if self.stopped {
            return (segment, pieces);
        }
        if self.open.as_ref().is_none_or(|open| open.segment != segment) {
            self.close_segment(&mut pieces);
            self.open = Some(OpenSegment { segment, decoder: self.tokenizer.decode_stream(true), matcher: StopMatcher::new(&self.stops) });
        }
        if let Some(open) = &mut self.open
            && let Some(text) = open.decoder.push(token)
        {
            let released = open.matcher.push(&text);
            self.stopped |= released.stopped;
            add(&mut pieces, segment, released.text);
        }
        (segment, pieces)
    }

    /// No more tokens: release what was held back.
    pub fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        self.close_segment(&mut pieces);
        pieces
    }

    /// A stop string was completed; the rest of the tokens is not part of the reply.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    fn close_segment(&mut self, pieces: &mut Vec<Piece>) {
        let Some(mut open) = self.open.take() else { return };
        if self.stopped {
            return;
        }
        let mut released = open.matcher.push(&open.decoder.finish());
        if !released.stopped {
            released.text.push_str(&open.matcher.finish());
        }
        self.stopped |= released.stopped;
        add(pieces, open.segment, released.text);
    }
}

/// What the template put behind the last control token, i.e. behind the header of the assistant's turn. Some vocabularies
/// (Qwen3) call `<think>` an ordinary token that user text can contain; this part of the prompt is never the user's.
fn generation_prompt<'p>(tokenizer: &Tokenizer, prompt: &'p [u32], markers: &[Option<u32>]) -> &'p [u32] {
    let header_end = prompt.iter().rposition(|&id| tokenizer.is_special(id) && !markers.contains(&Some(id)));
    &prompt[header_end.map_or(0, |at| at + 1)..]
}

fn add(pieces: &mut Vec<Piece>, segment: Segment, text: String) {
    if !text.is_empty() {
        pieces.push(Piece { segment, text });
    }
}
