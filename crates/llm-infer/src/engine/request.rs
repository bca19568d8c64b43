//! What goes into the engine and what comes out of it.

use crate::Image;
use crate::adapters::AdapterId;
use crate::grammar::Grammar;
use crate::sampling::Sampling;
use std::time::{Duration, Instant};

/// What to generate.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Token ids, at least one, with one placeholder for each image.
    pub prompt: Vec<u32>,
    /// How to continue.
    pub sampling: Sampling,
    /// The images of the placeholders, in order.
    pub images: Vec<Image>,
    /// Lower numbers are served first; requests of equal priority in the order of their arrival.
    pub priority: i32,
    /// Waiting or running, the request ends here with what it has.
    pub deadline: Option<Instant>,
    /// Whose request it is. Among equal priorities the user who was served least is next; requests of one user keep their order.
    pub fairness: u64,
    /// The language that the answer must be in, at its beginning.
    pub grammar: Option<Grammar>,
    /// The adapter ([`crate::Engine::load_adapter`]) to answer with; none for the model itself.
    pub adapter: Option<AdapterId>,
}

impl Request {
    /// A request of text only.
    pub fn new(prompt: Vec<u32>, sampling: Sampling) -> Self {
        Self { prompt, sampling, ..Self::default() }
    }

    /// The same with images.
    pub fn with_images(mut self, images: Vec<Image>) -> Self {
        self.images = images;
        self
    }
}

/// Names a request within its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// An end token, a stop text, or a grammar that is complete.
    Stop,
    /// `max_tokens` or the context was reached, or the parser of a grammar gave up: the answer is cut off.
    Length,
    /// The caller gave up.
    Cancelled,
    /// [`Request::deadline`] passed.
    Deadline,
}

/// How long the parts of a request took. They add up to its time in the engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// From submission until its first pass; all there is for a request that never had one.
    pub queue: Duration,
    /// From there to the first token.
    pub prefill: Duration,
    /// From the first token to the end.
    pub decode: Duration,
}

/// A finished generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Generated tokens, without the end token. A stop text's tokens are included.
    pub tokens: Vec<u32>,
    /// Log-probability of each under the unmodified distribution.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// The token that ended it, if one did; it is not among `tokens`.
    pub end_token: Option<u32>,
    /// Tokens of the prompt whose keys and values were in the cache when the request was first scheduled.
    pub cached_tokens: usize,
    /// How long it took.
    pub timings: Timings,
}

impl Completion {
    /// Nothing but these tokens: one that no engine timed.
    pub fn of(tokens: Vec<u32>, logprobs: Vec<f32>, finish_reason: FinishReason) -> Self {
        Self { tokens, logprobs, finish_reason, end_token: None, cached_tokens: 0, timings: Timings::default() }
    }
}

/// What a step produced.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A request left the queue. Once for each that is computed at all, also when it is preempted later.
    Started {
        /// Whose.
        id: RequestId,
        /// Tokens of its prompt that were in the cache.
        cached_tokens: usize,
        /// How long it waited.
        queued: Duration,
    },
    /// One more token.
    Token {
        /// Whose.
        id: RequestId,
        /// The token.
        token: u32,
        /// Its log-probability.
        logprob: f32,
        /// Alternatives, if asked for.
        top: Vec<(u32, f32)>,
    },
    /// The end.
    Done {
        /// Whose.
        id: RequestId,
        /// Everything generated.
        completion: Completion,
    },
}
