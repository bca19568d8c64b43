//! Continuous batching: at every step, running sequences get one token or several and waiting prompts get a share of the batch.
//!
//! One step is one forward pass over a mix of single tokens, guesses and prompt pieces (chunked prefill, Agrawal et al., Sarathi,
//! 2023).
//!
//! | file | job |
//! |---|---|
//! | `request` | what goes in and comes out |
//! | `config` | sizes and habits |
//! | `sequence` | a request on its way: its tokens, pages, clock; its next tokens from logits |
//! | `queue` | who is next: priority, age, the user's share |
//! | `schedule` | who gets pages, who has to give them back, how many tokens of whom are in a step |
//! | `swap` | a preempted sequence's pages outside the pool |
//! | `draft` | guesses of a smaller model |
//! | `step` | the pass and what follows from it |
//! | `resume` | going on with what another engine began |
//! | `pace` | what a guess costs on this machine |
//! | `stats` | what was done |
//!
//! Whatever is batched, shared, cut, preempted or guessed, the tokens of a request are those it gets alone: a token is a function of
//! logits, history and (seed, position). In floating point the logits of a row may differ in their last bits with the number
//! of rows in a pass; [`EngineConfig::exact`] takes that away too.
//!
//! An image is as many placeholders in the prompt as it has tokens, and rows of its features take their places, chunk by chunk.

mod config;
mod draft;
mod pace;
mod queue;
mod request;
mod resume;
mod schedule;
mod sequence;
mod stats;
mod step;
mod swap;

pub use config::{EngineConfig, Preemption, Speculation};
pub use request::{Completion, Event, FinishReason, Request, RequestId, Timings};
pub use stats::Stats;

use crate::pages::{PageTable, PagedKv, Picture};
use crate::vision::FeatureCache;
use crate::{AdapterId, Adapters, Error, Image, Model, Result, Vision};
use draft::Draft;
use llm_arch::{Decoder, DecoderConfig, KvPool};
use llm_tokenizer::Tokenizer;
use pace::Pace;
use queue::Queue;
use sequence::{Clock, Sequence, Shown, StopText};
use std::path::Path;
use std::time::Instant;

/// Generates for many requests at once on one thread; forward passes use all cores.
#[derive(Debug)]
pub struct Engine {
    decoder: Decoder,
    adapters: Adapters,
    vision: Option<Vision>,
    features: FeatureCache,
    tokenizer: Tokenizer,
    eos: Vec<u32>,
    config: EngineConfig,
    pool: KvPool,
    kv: PagedKv,
    draft: Option<Draft>,
    queue: Queue,
    running: Vec<Sequence>,
    finished: Vec<Event>,
    next_id: u64,
    capacity: usize,
    /// How far back any layer looks, if all layers have a window.
    window: Option<usize>,
    /// The next request did not fit when so many pages were free.
    blocked: Option<(RequestId, usize)>,
    swapped_bytes: usize,
    pace: Pace,
    stats: Stats,
}

/// The largest window, if every layer has one.
fn window(config: &DecoderConfig) -> Option<usize> {
    let windows: Option<Vec<usize>> = (0..config.num_hidden_layers).map(|layer| config.window(layer)).collect();
    windows?.into_iter().max()
}

/// Angles within the context depend on how long a sequence is, so that its beginning is not that of a longer one.
fn stretched(config: &DecoderConfig) -> bool {
    config.rope_scaling.depends_on_length() && config.inverse_frequencies(1) != config.inverse_frequencies(config.max_position_embeddings)
}

impl Engine {
    /// Allocate the cache for a model. Its [`Model::draft`], if it has one, makes the guesses of [`Speculation::Draft`].
    pub fn new(model: &Model, config: EngineConfig) -> Result<Self> {
        config.check()?;
        let decoder = model.decoder.untracked();
        let context = decoder.config().max_position_embeddings;
        let pages = match config.kv_pages {
            0 => {
                let each = KvPool::page_bytes(decoder.config(), config.page_size, config.kv_dtype);
                (context.div_ceil(config.page_size) * config.max_batch).min((1 << 30) / each).max(1)
            }
            n => n,
        };
        let window = window(decoder.config());
        // A window needs itself, and a page begun at either end.
        let slides = window.is_some_and(|w| pages * config.page_size >= w + 2 * config.page_size);
        let engine = Self {
            pool: KvPool::new(decoder.config(), pages, config.page_size, config.kv_dtype),
            kv: PagedKv::new(pages, config.page_size, config.prefix_cache && !stretched(decoder.config())),
            draft: None,
            capacity: if slides { context } else { context.min(pages * config.page_size) },
            window: window.filter(|_| slides),
            decoder,
            adapters: Adapters::default(),
            vision: model.vision.clone(),
            features: FeatureCache::default(),
            tokenizer: model.tokenizer.clone(),
            eos: model.eos_token_ids.clone(),
            queue: Queue::new(config.aging),
            config,
            running: Vec::new(),
            finished: Vec::new(),
            next_id: 0,
            blocked: None,
            swapped_bytes: 0,
            pace: Pace::default(),
            stats: Stats::default(),
        };
        match (&model.draft, config.speculation) {
            (Some(draft), Speculation::Draft { .. }) => engine.with_draft(draft),
            _ => Ok(engine),
        }
    }

    /// A smaller model of the same vocabulary makes the guesses of [`Speculation::Draft`]. It has keys and values of its own for every page of
    /// the cache. Requires an idle engine.
    pub fn with_draft(mut self, model: &Model) -> Result<Self> {
        if !matches!(self.config.speculation, Speculation::Draft { .. }) {
            return Err(Error::Request("engine: a draft model without `speculation: Draft` has nothing to do".into()));
        }
        let (vocab, theirs) = (self.decoder.config().vocab_size, model.decoder.config().vocab_size);
        if vocab != theirs {
            return Err(Error::Request(format!(
                "the draft model {} has {theirs} tokens, the model {vocab}: they cannot guess for each other",
                model.id
            )));
        }
        let draft = Draft::new(model, self.kv.pages(), self.config.page_size, self.config.kv_dtype);
        // What the model does not look at any more, the draft model may.
        self.window = self.window.filter(|w| window(model.decoder.config()).is_some_and(|theirs| theirs <= *w));
        if self.window.is_none() {
            self.capacity = self.capacity.min(self.kv.pages() * self.config.page_size);
        }
        self.draft = Some(draft);
        Ok(self)
    }

    /// The weights changed (a trainer took a step): use the new ones from the next step on. Requires an idle engine, as
    /// cached keys belong to the old weights; what is kept of them is dropped.
    pub fn set_decoder(&mut self, decoder: &Decoder) -> Result<()> {
        if !self.is_idle() {
            return Err(Error::Request("weights cannot change while requests are running".into()));
        }
        if self.adapters.loaded().next().is_some() {
            return Err(Error::Request("weights cannot change while adapters are loaded: they were made for the old ones".into()));
        }
        self.decoder = decoder.untracked();
        self.clear_cache();
        Ok(())
    }

    /// Read a LoRA adapter (a PEFT folder) for requests that name it. Running requests go on.
    pub fn load_adapter(&mut self, dir: &Path) -> Result<AdapterId> {
        self.adapters.load(&mut self.decoder, dir)
    }

    /// The same under the number that it had in the engine whose place this one takes.
    pub fn load_adapter_as(&mut self, id: AdapterId, dir: &Path) -> Result<()> {
        self.adapters.load_as(&mut self.decoder, id, dir)
    }

    /// Forget an adapter. Refused while a request uses it.
    pub fn unload_adapter(&mut self, id: AdapterId) -> Result<()> {
        let users = self.queue.waiting.iter().chain(&self.running).filter(|s| s.adapter == Some(id)).count();
        if users > 0 {
            return Err(Error::Request(format!("adapter {} cannot be unloaded: {users} requests use it", id.0)));
        }
        self.adapters.unload(&mut self.decoder, id)
    }

    /// The adapters that are loaded.
    pub fn adapters(&self) -> &Adapters {
        &self.adapters
    }

    /// Forget what the cache keeps for later requests. Running ones go on.
    pub fn clear_cache(&mut self) {
        self.kv.clear();
    }

    /// Longest prompt plus answer.
    pub fn context_length(&self) -> usize {
        self.capacity
    }

    /// Queue a request.
    pub fn submit(&mut self, request: Request) -> Result<RequestId> {
        let Request { prompt, mut sampling, images, priority, deadline, fairness, grammar, adapter } = request;
        let vocab = self.decoder.config().vocab_size as u32;
        if prompt.is_empty() {
            return Err(Error::Request("the prompt has no tokens".into()));
        }
        if let Some(id) = prompt.iter().find(|&&id| id >= vocab) {
            return Err(Error::Request(format!("token {id} is not in the vocabulary of {vocab}")));
        }
        let (prompt, pictures) = self.expand(prompt, &images)?;
        if prompt.len().saturating_add(sampling.max_tokens) > self.capacity {
            return Err(Error::ContextLength { prompt: prompt.len(), max_tokens: sampling.max_tokens, context: self.capacity });
        }
        sampling.check(vocab as usize)?;
        adapter.map_or(Ok(()), |id| self.adapters.check(id))?;
        // A model that sees cannot show: a generated placeholder would stand for nothing.
        sampling.logit_bias.extend(self.vision.as_ref().map(|v| (v.image_token_id(), f32::NEG_INFINITY)));
        let id = RequestId(self.next_id);
        self.next_id += 1;
        if sampling.max_tokens == 0 {
            self.finished.push(Event::Done { id, completion: Completion::of(vec![], vec![], FinishReason::Length) });
            return Ok(id);
        }
        self.queue.join(fairness);
        self.queue.waiting.push(Sequence {
            id,
            prompt: prompt.len(),
            tokens: prompt,
            pictures,
            images: images.into_iter().map(|image| Shown { image, features: None }).collect(),
            text: (!sampling.stop.is_empty()).then(|| StopText::new(self.tokenizer.decode_stream(false))),
            sampling,
            logprobs: Vec::new(),
            table: PageTable::new(adapter.map(|id| id.0)),
            adapter,
            computed: 0,
            end_token: None,
            priority,
            deadline,
            user: fairness,
            grammar,
            clock: Clock::start(),
            cached_tokens: 0,
            preempted: false,
            swapped: None,
            last_step: 0,
            last_wait: 0,
            guessing: self.guessing(),
            guesses: Vec::new(),
            drafted: 0,
        });
        Ok(id)
    }

    /// Every placeholder becomes as many as its image has tokens.
    fn expand(&self, prompt: Vec<u32>, images: &[Image]) -> Result<(Vec<u32>, Vec<Picture>)> {
        let Some(vision) = &self.vision else {
            if images.is_empty() {
                return Ok((prompt, Vec::new()));
            }
            return Err(Error::Request(format!("{} images for a model that reads text only", images.len())));
        };
        let placeholders = vision.placeholders(&prompt);
        if placeholders != images.len() {
            let id = vision.image_token_id();
            return Err(Error::Request(format!("the prompt has {placeholders} image tokens (id {id}) but {} images came with it", images.len())));
        }
        let mut tokens = Vec::with_capacity(prompt.len() + images.len() * vision.tokens_per_image());
        let mut pictures = Vec::with_capacity(images.len());
        for id in prompt {
            if id != vision.image_token_id() {
                tokens.push(id);
                continue;
            }
            let (start, image) = (tokens.len(), &images[pictures.len()]);
            vision.check(image)?;
            tokens.resize(start + vision.tokens_per_image(), id);
            pictures.push(Picture { tokens: start..tokens.len(), hash: image.shared_hash() });
        }
        Ok((tokens, pictures))
    }

    /// Stop a request; its pages are free at once. Unknown and finished ids are ignored.
    pub fn cancel(&mut self, id: RequestId) {
        self.end(id, FinishReason::Cancelled);
    }

    /// End a request before its time.
    fn end(&mut self, id: RequestId, reason: FinishReason) {
        if let Some(at) = self.queue.waiting.iter().position(|s| s.id == id) {
            let sequence = self.queue.waiting.swap_remove(at);
            self.finish(sequence, reason);
        } else if let Some(at) = self.running.iter().position(|s| s.id == id) {
            let sequence = self.running.swap_remove(at);
            self.finish(sequence, reason);
        }
    }

    /// End what took longer than it may.
    fn expire(&mut self) {
        let now = Instant::now();
        let late = |s: &&Sequence| s.deadline.is_some_and(|deadline| deadline <= now);
        let ids: Vec<RequestId> = self.queue.waiting.iter().chain(&self.running).filter(late).map(|s| s.id).collect();
        ids.into_iter().for_each(|id| self.end(id, FinishReason::Deadline));
    }

    fn finish(&mut self, mut sequence: Sequence, reason: FinishReason) {
        self.kv.release(&mut sequence.table);
        self.swapped_bytes -= sequence.swapped.take().map_or(0, |s| s.bytes);
        self.queue.leave(sequence.user);
        self.finished.push(sequence.done(reason));
    }

    /// Nothing left to do.
    pub fn is_idle(&self) -> bool {
        self.queue.waiting.is_empty() && self.running.is_empty() && self.finished.is_empty()
    }

    /// Requests generating now, and requests waiting.
    pub fn load(&self) -> (usize, usize) {
        (self.running.len(), self.queue.waiting.len())
    }

    /// Images that went through the vision tower so far. One that was seen lately, or whose keys are in the cache, does not again.
    pub fn images_computed(&self) -> usize {
        self.features.computed
    }

    /// Pages of the cache that no sequence holds, those that keep a prefix for later included.
    pub fn free_pages(&self) -> usize {
        self.kv.free_pages()
    }

    /// What was done so far, and what is going on.
    pub fn stats(&self) -> Stats {
        Stats {
            running: self.running.len(),
            waiting: self.queue.waiting.len(),
            kv_pages: self.kv.pages(),
            kv_pages_used: self.kv.pages() - self.kv.free_pages(),
            ..self.stats
        }
    }

    /// Run requests to their ends; completions in the order of the requests. Other requests in the engine go on as well, but
    /// their events are dropped, so do not mix the two ways of use.
    pub fn generate(&mut self, requests: Vec<Request>) -> Result<Vec<Completion>> {
        self.generate_with(requests, |_| {})
    }

    /// [`Engine::generate`] that reports how many requests have ended after every step.
    pub fn generate_with(&mut self, requests: Vec<Request>, mut progress: impl FnMut(usize)) -> Result<Vec<Completion>> {
        let ids = requests.into_iter().map(|r| self.submit(r)).collect::<Result<Vec<_>>>()?;
        let mut done = std::collections::HashMap::new();
        while !self.is_idle() {
            for event in self.step()? {
                if let Event::Done { id, completion } = event {
                    done.insert(id, completion);
                }
            }
            progress(done.len());
        }
        Ok(ids.iter().filter_map(|id| done.remove(id)).collect())
    }
}
