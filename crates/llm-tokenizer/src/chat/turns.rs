//! Where the assistant speaks in a template without `{% generation %}` blocks, found by comparing renderings.
//!
//! A turn is the content with whatever the template puts around it as the model's own words (reasoning, calls) and the
//! end-of-turn token: what a completion-only loss is to see, and what a model has to write after the generation prompt.
//!
//! - It begins where the generation prompt ends: `messages[..i]` rendered with one is the beginning of the whole. If the
//!   template writes no such prompt, or one that the turn does not begin with (DeepSeek-R1 opens a thought that it strips from
//!   earlier turns), a mark in the place of the content shows where the text begins. The blanks before it belong to the turn
//!   if the prompt ends before them (Mistral).
//! - It ends where `messages[..=i]` ends, if that is the beginning of the whole. If not (Qwen3 strips reasoning from earlier
//!   turns), a mark after the content shows what the template writes behind it, in the conversation up to there and in the whole.
//! - Blanks behind the last control token of the turn are the template's, such as ChatML's newline. Without a control token
//!   the template's own blanks at the end are left out, and an end-of-text token that only a later turn brings is taken in.
//!
//! A turn that would hold text of another message is refused. Whatever else is not settled by this is an error, too, that names the
//! message: a wrong mask would train a model on the wrong text.

use super::guard::{BEGIN, BREAK, END, MARK, Marked};
use super::message::Message;
use super::template::{RenderOptions, Trial};
use crate::added::{Piece, unchanged};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use std::ops::Range;

/// A conversation and its rendering.
#[derive(Debug)]
pub struct Turns<'a> {
    tokenizer: &'a Tokenizer,
    messages: &'a [Message],
    options: &'a RenderOptions,
    /// With the marks that guard it, without those of generation blocks.
    whole: String,
}

/// An added token in a marked text.
#[derive(Debug, Clone)]
pub struct Found {
    pub id: u32,
    pub range: Range<usize>,
}

impl<'a> Turns<'a> {
    /// `whole` is the rendering of all messages with these options.
    pub fn new(tokenizer: &'a Tokenizer, messages: &'a [Message], options: &'a RenderOptions, whole: &Marked) -> Self {
        Self { tokenizer, messages, options, whole: plain(whole) }
    }

    /// The rendering with the assistant's turns enclosed in marks, as generation blocks would do it.
    pub fn marked(&self) -> Result<Marked> {
        let added = added_tokens(self.tokenizer, &self.whole);
        let mut text = String::with_capacity(self.whole.len() + 16);
        let mut done = 0;
        for i in (0..self.messages.len()).filter(|&i| self.messages[i].role == "assistant") {
            let mut turn = self.turn(i)?;
            if turn.start < done {
                return Err(self.unclear(i, "begins", "by the comparison it begins before the turn before it ends"));
            }
            if turn.is_empty() {
                continue;
            }
            // A run of blanks may be one added token: half a token cannot be said.
            if let Some(cut) = containing(&added, turn.start) {
                turn.start = cut.start.max(done);
            }
            if let Some(cut) = containing(&added, turn.end) {
                turn.end = cut.end;
            }
            text.push_str(&self.whole[done..turn.start]);
            text.push(BEGIN);
            text.push_str(&self.whole[turn.clone()]);
            text.push(END);
            done = turn.end;
        }
        text.push_str(&self.whole[done..]);
        Ok(Marked(text))
    }

    /// The rendering that [`Turns::turn`] points into.
    pub fn text(&self) -> &str {
        &self.whole
    }

    /// Bytes of the rendering that message `i`, the assistant's, adds as its turn.
    pub fn turn(&self, i: usize) -> Result<Range<usize>> {
        let start = self.start(i)?;
        let end = self.end(i, start)?;
        Ok(start..end.max(start))
    }

    fn start(&self, i: usize) -> Result<usize> {
        let prompt = self.render(i, true);
        if let Some(prompt) = &prompt
            && self.whole.starts_with(prompt.as_str())
            && self.render(i, false).as_ref() != Some(prompt)
        {
            return Ok(prompt.len());
        }
        let unclear = |why: &str| self.unclear(i, "begins", why);
        let tried = self.tried(self.messages.len(), Trial::Replace(i)).map_err(|why| unclear(&why))?;
        let before = tried.before;
        if !self.whole.starts_with(&before) {
            return Err(unclear("what comes before its text depends on the text, and it does not begin with the generation prompt"));
        }
        let blanks = before.len() - before.trim_end().len();
        let prompt = prompt.unwrap_or_default();
        let cuts = (0..=blanks).filter(|cut| before.is_char_boundary(before.len() - cut));
        let shared = |cut: &usize| (common_suffix(&prompt, &before[..before.len() - cut]), std::cmp::Reverse(*cut));
        Ok(before.len() - cuts.max_by_key(shared).unwrap_or(0))
    }

    fn end(&self, i: usize, start: usize) -> Result<usize> {
        let is_last = i + 1 == self.messages.len();
        if is_last && self.options.continue_final_message {
            return Ok(self.whole.len());
        }
        let through = self.render(i + 1, false).filter(|through| self.whole.starts_with(through.as_str()) && through.len() >= start);
        let end = match through {
            Some(through) => {
                self.alone(i, through.len() - start)?;
                through.len()
            }
            None => self.end_by_difference(i, start)?,
        };
        let said = &self.whole[start..end];
        if let Some(last) = self.last_ending(said) {
            return Ok(start + last.end);
        }
        let tail = self.tried(i + 1, Trial::Append(i)).map(|tried| tried.after).unwrap_or_default();
        let end = match said.strip_suffix(tail.as_str()) {
            Some(content) if tail.trim().is_empty() => start + content.len(),
            _ => start + said.trim_end().len(),
        };
        Ok(self.closing(end).unwrap_or(end))
    }

    /// By what follows the content: `tail` if the conversation ended there, `rest` in the whole.
    fn end_by_difference(&self, i: usize, start: usize) -> Result<usize> {
        let unclear = |why: &str| self.unclear(i, "ends", why);
        let rest = self.tried(self.messages.len(), Trial::Append(i)).map_err(|why| unclear(&why))?.after;
        let content_end = match self.whole.strip_suffix(rest.as_str()) {
            Some(before) if before.len() >= start => before.len(),
            Some(_) => return Err(unclear("its text is not shown where the turn is")),
            None => return Err(unclear("what comes after its text depends on the text")),
        };
        let calls = self.messages[i].tool_calls.is_some();
        let tail = match self.tried(i + 1, Trial::Append(i)) {
            Ok(tried) => tried.after,
            Err(why) => {
                // How the turn ends is not known then, but for an end-of-text token right behind the content.
                let closing = if calls { None } else { self.closing(content_end) };
                let why = format!("in the conversation up to there: {why}, and no end-of-text token follows");
                return closing.ok_or_else(|| unclear(&why));
            }
        };
        self.alone(i, tail.len())?;
        if rest.starts_with(&tail) {
            return Ok(content_end + tail.len());
        }
        let added = added_tokens(self.tokenizer, &tail);
        let mut common = common_prefix(&tail, &rest);
        if let Some(cut) = containing(&added, common) {
            common = cut.start;
        }
        match self.last_ending(&tail[..common]) {
            Some(last) if !calls => Ok(content_end + last.end),
            _ => Err(unclear("the template writes something else after it once more messages follow")),
        }
    }

    /// An error if the last `length` bytes of the conversation up to message `i` hold text of another message.
    fn alone(&self, i: usize, length: usize) -> Result<()> {
        let options = RenderOptions { add_generation_prompt: false, continue_final_message: false, ..self.options.clone() };
        let text = self.tokenizer.render_trial(&self.messages[..=i], &options, Some(Trial::Others(i)))?;
        let text = plain(&text);
        let own = text.rfind(MARK).map_or(text.len(), |at| text.len() - at - MARK.len_utf8());
        if own < length {
            return Err(self.unclear(i, "ends", "text of another message comes after its own"));
        }
        Ok(())
    }

    /// The last control token of `said`, if only blanks follow it.
    fn last_ending(&self, said: &str) -> Option<Range<usize>> {
        let ends = |found: &Found| self.tokenizer.is_special(found.id) || self.tokenizer.eos_id() == Some(found.id);
        let last = added_tokens(self.tokenizer, said).into_iter().rfind(ends)?;
        said[last.range.end..].trim().is_empty().then_some(last.range)
    }

    /// The end of an end-of-text token that follows `end`, blanks between them allowed.
    fn closing(&self, end: usize) -> Option<usize> {
        let rest = &self.whole[end..];
        let next = added_tokens(self.tokenizer, rest).into_iter().next()?;
        let follows = Some(next.id) == self.tokenizer.eos_id() && rest[..next.range.start].trim().is_empty();
        follows.then_some(end + next.range.end)
    }

    /// The first `n` messages; `None` if the template refuses them.
    fn render(&self, n: usize, add_generation_prompt: bool) -> Option<String> {
        let options = RenderOptions { add_generation_prompt, continue_final_message: false, ..self.options.clone() };
        self.tokenizer.render_marked(&self.messages[..n], &options).ok().map(|marked| plain(&marked))
    }

    /// What surrounds the mark in the first `n` messages, or why that is not known.
    fn tried(&self, n: usize, trial: Trial) -> Result<Tried, String> {
        let whole = n == self.messages.len();
        let options = RenderOptions {
            add_generation_prompt: whole && self.options.add_generation_prompt,
            continue_final_message: whole && self.options.continue_final_message,
            ..self.options.clone()
        };
        tried(self.tokenizer, &self.messages[..n], &options, trial)
    }

    fn unclear(&self, i: usize, what: &str, why: &str) -> Error {
        let role = &self.messages[i].role;
        Error::Template(format!(
            "has no {{% generation %}} blocks and it is unclear where the turn of messages[{i}] ({role}) {what}: {why}; enclose what the \
             assistant says in {{% generation %}} .. {{% endgeneration %}}"
        ))
    }
}

/// The text around a mark.
#[derive(Debug)]
pub struct Tried {
    pub before: String,
    pub after: String,
}

/// Render with a mark in one message, which has to come out once.
pub fn tried(tokenizer: &Tokenizer, messages: &[Message], options: &RenderOptions, trial: Trial) -> Result<Tried, String> {
    let text = plain(&tokenizer.render_trial(messages, options, Some(trial)).map_err(|e| e.to_string())?);
    match text.matches(MARK).count() {
        0 => Err("the template does not show its text".to_string()),
        1 => {
            let (before, after) = text.split_once(MARK).unwrap_or_default();
            Ok(Tried { before: before.to_string(), after: after.to_string() })
        }
        n => Err(format!("the template shows its text {n} times")),
    }
}

fn plain(marked: &Marked) -> String {
    marked.as_str().replace([BEGIN, END], "")
}

/// Every added token that the template wrote into `marked`, in order.
pub fn added_tokens(tokenizer: &Tokenizer, marked: &str) -> Vec<Found> {
    let (mut found, mut at, mut broken) = (Vec::new(), 0, false);
    tokenizer.0.added.split(marked, true, unchanged, |piece| {
        let (Piece::Token(_, text) | Piece::Text(text)) = piece;
        let range = at..at + text.len();
        at = range.end;
        match piece {
            // A token of one character after a break is a message's.
            Piece::Token(id, text) if !(broken && text.chars().nth(1).is_none()) => {
                found.push(Found { id, range });
                broken = false;
            }
            _ => broken = text.ends_with(BREAK),
        }
    });
    found
}

fn containing(found: &[Found], at: usize) -> Option<Range<usize>> {
    let after = found.partition_point(|f| f.range.end <= at);
    found.get(after).map(|f| f.range.clone()).filter(|range| range.start < at)
}

fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum()
}

fn common_suffix(a: &str, b: &str) -> usize {
    a.chars().rev().zip(b.chars().rev()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum()
}
