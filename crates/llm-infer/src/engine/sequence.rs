//! One request on its way through the engine.

use super::request::{Completion, Event, FinishReason, RequestId, Timings};
use crate::adapters::AdapterId;
use crate::grammar::Grammar;
use crate::pages::{PageTable, Picture};
use crate::sampling::{self, Choice, History, Sampling};
use crate::speculative::Controller;
use crate::{Image, Result};
use llm_tensor::burn::tensor::Tensor;
use llm_tokenizer::DecodeStream;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Sequence {
    pub id: RequestId,
    /// Prompt with its placeholders multiplied, then what was generated.
    pub tokens: Vec<u32>,
    pub prompt: usize,
    /// Where each image stands, and which it is.
    pub pictures: Vec<Picture>,
    pub images: Vec<Shown>,
    pub sampling: Sampling,
    pub logprobs: Vec<f32>,
    pub table: PageTable,
    pub adapter: Option<AdapterId>,
    /// Tokens whose keys and values are in the cache.
    pub computed: usize,
    pub text: Option<StopText>,
    pub end_token: Option<u32>,
    pub priority: i32,
    pub deadline: Option<Instant>,
    pub user: u64,
    /// The language the answer is in, after the tokens so far.
    pub grammar: Option<Grammar>,
    pub clock: Clock,
    pub cached_tokens: usize,
    /// Gave its pages back once; what it finds in the cache now is its own.
    pub preempted: bool,
    /// Keys and values outside the pool.
    pub swapped: Option<Swapped>,
    /// The last step that computed something of it.
    pub last_step: u64,
    /// The last step in which it had to wait for its turn.
    pub last_wait: u64,
    /// How much to guess.
    pub guessing: Option<Controller>,
    /// What probably follows `tokens`, to be checked in this step.
    pub guesses: Vec<u32>,
    /// Tokens whose keys and values the draft model has.
    pub drafted: usize,
}

/// An image of a sequence.
#[derive(Debug)]
pub(super) struct Shown {
    pub image: Image,
    /// `[P, D]` from the step in which its first row is due to that in which its last one is.
    pub features: Option<Tensor<2>>,
}

/// Pages copied out of the pool, the first of them the sequence's first; none for those behind the window.
#[derive(Debug)]
pub(super) struct Swapped {
    pub pages: Vec<Option<Vec<u8>>>,
    pub computed: usize,
    pub bytes: usize,
}

/// When things happened.
#[derive(Debug)]
pub(super) struct Clock {
    pub submitted: Instant,
    pub started: Option<Instant>,
    pub first_token: Option<Instant>,
}

impl Clock {
    pub fn start() -> Self {
        Self { submitted: Instant::now(), started: None, first_token: None }
    }

    /// In the queue so far.
    pub fn queued(&self) -> Duration {
        self.started.unwrap_or_else(Instant::now) - self.submitted
    }

    fn timings(&self) -> Timings {
        let now = Instant::now();
        let started = self.started.unwrap_or(now);
        let first = self.first_token.unwrap_or(now);
        Timings { queue: started - self.submitted, prefill: first - started, decode: now - first }
    }
}

/// Looks for stop texts in the generated text.
#[derive(Debug)]
pub(super) struct StopText {
    stream: DecodeStream,
    text: String,
}

impl StopText {
    pub fn new(stream: DecodeStream) -> Self {
        Self { stream, text: String::new() }
    }

    /// Feed a token; true when a stop text is complete.
    fn push(&mut self, token: u32, stops: &[String]) -> bool {
        let Some(piece) = self.stream.push(token) else { return false };
        let longest = stops.iter().map(String::len).max().unwrap_or(0);
        let mut from = self.text.len().saturating_sub(longest);
        while !self.text.is_char_boundary(from) {
            from -= 1;
        }
        self.text.push_str(&piece);
        stops.iter().any(|s| self.text[from..].contains(s.as_str()))
    }
}

/// What the model said to the last tokens of a sequence.
pub(super) struct Verdict {
    pub choices: Vec<Choice>,
    /// Guesses that stand.
    pub accepted: usize,
    pub reason: Option<FinishReason>,
}

impl Sequence {
    /// Tokens that are still to be computed before the next one can be chosen; never 0.
    pub fn missing(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// One token a step from here on.
    pub fn decodes(&self) -> bool {
        self.missing() == 1
    }

    /// Tokens that may still be generated.
    pub fn rest(&self) -> usize {
        self.sampling.max_tokens - (self.tokens.len() - self.prompt)
    }

    /// Tokens that were generated elsewhere. It did not stop there the first time.
    pub fn resume(&mut self, tokens: &[u32], logprobs: &[f32]) -> Result<()> {
        for &token in tokens {
            self.grammar.as_mut().map_or(Ok(()), |grammar| grammar.accept(token))?;
            if let Some(text) = &mut self.text {
                text.push(token, &self.sampling.stop);
            }
        }
        self.tokens.extend(tokens);
        self.logprobs.extend(logprobs);
        Ok(())
    }

    /// The next tokens by the rows of logits `[1 + guesses, V]` of the last token and of each guess. Every token is the one that would be chosen
    /// without guesses: a choice is a function of logits, history and (seed, position), and a guess stands if it is the choice. So the
    /// distribution is the model's by construction, whoever guesses. An answer whose grammar gives up is cut off like one that is too long.
    pub fn choose(&mut self, logits: &[f32], vocab: usize, end_ids: &[u32]) -> Verdict {
        let mut verdict = Verdict { choices: Vec::new(), accepted: 0, reason: None };
        for (i, logits) in logits.chunks_exact(vocab).enumerate() {
            let allowed = match self.grammar.as_mut().map(Grammar::mask) {
                Some(Ok(mask)) => Some(mask.words()),
                Some(Err(_)) => {
                    verdict.reason = Some(FinishReason::Length);
                    break;
                }
                None => None,
            };
            let history = History { tokens: &self.tokens, prompt_len: self.prompt, end_ids, allowed };
            let choice = sampling::choose(logits, &self.sampling, history);
            let token = choice.token;
            let before = self.tokens.len();
            verdict.reason = self.push(&choice, end_ids);
            if self.tokens.len() > before {
                verdict.choices.push(choice);
            }
            if verdict.reason.is_some() || self.guesses.get(i) != Some(&token) {
                break;
            }
            verdict.accepted += 1;
        }
        verdict
    }

    /// Add a token; tells whether the sequence ends.
    fn push(&mut self, choice: &Choice, end_ids: &[u32]) -> Option<FinishReason> {
        let token = choice.token;
        if end_ids.contains(&token) || self.sampling.stop_ids.contains(&token) {
            self.end_token = Some(token);
            return Some(FinishReason::Stop);
        }
        if self.grammar.as_mut().is_some_and(|g| g.accept(token).is_err()) {
            return Some(FinishReason::Length);
        }
        self.clock.first_token.get_or_insert_with(Instant::now);
        self.tokens.push(token);
        self.logprobs.push(choice.logprob);
        if self.text.as_mut().is_some_and(|t| t.push(token, &self.sampling.stop)) {
            return Some(FinishReason::Stop);
        }
        if self.grammar.as_ref().is_some_and(Grammar::must_stop) {
            return Some(FinishReason::Stop);
        }
        (self.rest() == 0).then_some(FinishReason::Length)
    }

    /// The last event of the sequence.
    pub fn done(mut self, finish_reason: FinishReason) -> Event {
        let completion = Completion {
            tokens: self.tokens.split_off(self.prompt),
            logprobs: self.logprobs,
            finish_reason,
            end_token: self.end_token,
            cached_tokens: self.cached_tokens,
            timings: self.clock.timings(),
        };
        Event::Done { id: self.id, completion }
    }
}
