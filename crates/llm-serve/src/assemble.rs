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
    /// Control tokens that stay in the text.
    shown: Vec<(u32, String)>,
    open: Option<OpenSegment>,
    stopped: bool,
    stop: Option<String>,
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
        Self::new(tokenizer, splitter, stops)
    }

    fn new(tokenizer: &Tokenizer, splitter: ReasoningSplitter, stops: &[String]) -> Self {
        Self { tokenizer: tokenizer.clone(), splitter, stops: stops.to_vec(), shown: Vec::new(), open: None, stopped: false, stop: None }
    }

    /// The same, but these control tokens are text of the reply, for a parser that looks for them.
    #[must_use]
    pub fn showing(mut self, names: &[&str]) -> Self {
        let special = |name: &&str| self.tokenizer.special_id(name).filter(|&id| self.tokenizer.is_special(id)).map(|id| (id, name.to_string()));
        self.shown = names.iter().filter_map(special).collect();
        self
    }

    /// For text completions: everything is content.
    pub fn text(tokenizer: &Tokenizer, stops: &[String]) -> Self {
        let splitter = ReasoningSplitter::new(None, None, &[]);
        Self::new(tokenizer, splitter, stops)
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
            && let Some(text) = open.text(token, &self.tokenizer, &self.shown)
        {
            let released = open.matcher.push(&text);
            self.stopped |= released.stopped;
            if released.stopped {
                self.stop = open.matcher.matched().map(str::to_string);
            }
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

    /// Which one it was.
    pub fn stop(&self) -> Option<&str> {
        self.stop.as_deref()
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
        if released.stopped {
            self.stopped = true;
            self.stop = open.matcher.matched().map(str::to_string);
        }
        add(pieces, open.segment, released.text);
    }
}

impl OpenSegment {
    /// The text that `token` completes.
    fn text(&mut self, token: u32, tokenizer: &Tokenizer, shown: &[(u32, String)]) -> Option<String> {
        let Some((_, name)) = shown.iter().find(|(id, _)| *id == token) else { return self.decoder.push(token) };
        let before = std::mem::replace(&mut self.decoder, tokenizer.decode_stream(true));
        Some(before.finish() + name)
    }
}

/// The model's first token would be a thought: the template opened one behind the header of the assistant's turn.
pub fn starts_thinking(tokenizer: &Tokenizer, prompt: &[u32]) -> bool {
    let (open, close) = (tokenizer.special_id("<think>"), tokenizer.special_id("</think>"));
    let last = generation_prompt(tokenizer, prompt, &[open, close]).iter().rev().find(|&&id| Some(id) == open || Some(id) == close);
    open.is_some() && last.copied() == open
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
