//! Conversations, pairs and prompts as token ids, through the tokenizer's chat template, with a mask of what is trained.
//!
//! The mask is the template's own (`{% generation %}`), or found by comparing renderings where it has none: the assistant's text with its
//! end of turn, and nothing else; the label -100 elsewhere, in Hugging Face's terms. Of a pair only the last answer is trained, and both
//! sides begin with the same ids.
//!
//! A template can drop what it is given: an answer, a thought, tool calls. That would train on nothing or on half of a row, so every answer
//! is looked for in the rendering and in its own trained tokens.

use super::{Conversation, Labelled, Pair};
use llm_tokenizer::{Message, RenderOptions, Tokenizer};
use llm_train::sequences::Sequence;
use serde_json::Value;
use std::ops::Range;

/// Rows to ids.
#[derive(Debug, Clone, Copy)]
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    context: usize,
}

/// A sequence and where its first trained token is.
type Encoded = (Sequence, usize);

impl<'a> Encoder<'a> {
    /// For sequences of at most `context` tokens.
    pub fn new(tokenizer: &'a Tokenizer, context: usize) -> Self {
        Self { tokenizer, context }
    }

    /// A whole conversation; every answer behind its prompt is trained.
    pub fn conversation(&self, row: &Conversation) -> Result<Sequence, String> {
        Ok(self.encode(&row.messages, row.prompt, row.tools.as_ref())?.0)
    }

    /// Chosen and rejected, with the same prompt.
    pub fn pair(&self, row: &Pair) -> Result<(Sequence, Sequence), String> {
        let side = |name: &str, answer: &[Message]| self.answer(&row.prompt, answer).map_err(|e| format!("`{name}`: {e}"));
        let (chosen, from) = side("chosen", &row.chosen)?;
        let (rejected, other) = side("rejected", &row.rejected)?;
        if from != other || chosen.ids[..from] != rejected.ids[..from] {
            return Err("the chat template writes the prompt of chosen and rejected differently, so their answers cannot be compared".into());
        }
        if chosen.ids == rejected.ids {
            return Err("chosen and rejected are the same tokens: the chat template drops what tells them apart".into());
        }
        Ok((chosen, rejected))
    }

    /// A prompt and its answer; the answer is trained.
    pub fn labelled(&self, row: &Labelled) -> Result<Sequence, String> {
        Ok(self.answer(&row.prompt, &row.completion)?.0)
    }

    /// A prompt up to where the answer begins.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>, String> {
        let ids = self.tokenizer.chat_ids(messages, true).map_err(|e| e.to_string())?;
        if ids.len() >= self.context {
            return Err(format!("{} prompt tokens leave no room for an answer in the context of {}", ids.len(), self.context));
        }
        Ok(ids)
    }

    fn answer(&self, prompt: &[Message], answer: &[Message]) -> Result<Encoded, String> {
        self.encode(&[prompt, answer].concat(), prompt.len(), None)
    }

    /// Train the answers from message `first` on.
    fn encode(&self, messages: &[Message], first: usize, tools: Option<&Value>) -> Result<Encoded, String> {
        let options = RenderOptions { tools: tools.cloned(), ..RenderOptions::default() };
        let tokens = self.tokenizer.apply_chat_template_with(messages, &options).map_err(|e| e.to_string())?;
        let (ids, mut loss_mask) = (tokens.ids, tokens.assistant_mask);
        if ids.len() > self.context {
            return Err(format!("{} tokens do not fit the context of {}", ids.len(), self.context));
        }
        let answers = |messages: &[Message]| messages.iter().filter(|m| m.role == "assistant").count();
        let (turns, said) = (spans(&loss_mask), answers(messages));
        if turns.is_empty() {
            return Err("no assistant tokens to train on; expected a message with role \"assistant\" that the chat template shows".into());
        }
        if turns.len() != said {
            return Err(format!("the chat template shows {} turns of the assistant for {said} answers", turns.len()));
        }
        self.all_shown(messages, &options, &ids, &turns)?;
        for turn in &turns[..answers(&messages[..first])] {
            loss_mask[turn.clone()].fill(false);
        }
        let from = loss_mask.iter().position(|trained| *trained).unwrap_or(ids.len());
        Ok((Sequence { ids, loss_mask }, from))
    }

    /// Every answer is in the rendering, and trained tokens hold more than its end.
    fn all_shown(&self, messages: &[Message], options: &RenderOptions, ids: &[u32], turns: &[Range<usize>]) -> Result<(), String> {
        let rendered = self.tokenizer.render_chat(messages, options).map_err(|e| e.to_string())?;
        let said = messages.iter().enumerate().filter(|(_, m)| m.role == "assistant");
        for ((i, message), turn) in said.zip(turns) {
            // Templates of reasoning models take earlier thoughts out of the text.
            let visible = message.content.rsplit("</think>").next().unwrap_or_default().trim();
            let spoken = || self.tokenizer.decode(&ids[turn.clone()], true);
            if !rendered.contains(visible) || (visible.contains(char::is_alphanumeric) && spoken().trim().is_empty()) {
                return Err(format!("the chat template drops the answer messages[{i}]; take another template"));
            }
            let name = message.tool_calls.as_ref().and_then(|calls| calls[0]["function"]["name"].as_str());
            if name.is_some_and(|name| !rendered.contains(name)) {
                return Err(format!("the chat template drops the tool calls of messages[{i}]; take one that shows them"));
            }
            let thought = message.reasoning_content.as_deref().unwrap_or_default().trim();
            if i + 1 == messages.len() && !rendered.contains(thought) {
                return Err(format!("the chat template drops the reasoning_content of messages[{i}]; take one that shows it"));
            }
        }
        Ok(())
    }
}

/// The runs of trained tokens.
pub(crate) fn spans(mask: &[bool]) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    for (i, _) in mask.iter().enumerate().filter(|(_, trained)| **trained) {
        match out.last_mut().filter(|last| last.end == i) {
            Some(last) => last.end = i + 1,
            None => out.push(i..i + 1),
        }
    }
    out
}
