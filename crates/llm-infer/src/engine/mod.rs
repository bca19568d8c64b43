//! Continuous batching: at every step, running sequences get one token and waiting prompts get a share of the batch.
//!
//! One step is one forward pass over a mix of single tokens and prompt pieces (chunked prefill, Agrawal et al., Sarathi,
//! 2023). When the cache runs out of pages the youngest sequence gives its pages back and is computed again later; its
//! tokens do not change, because they depend on (seed, position) only.
//!
//! An image is as many placeholders in the prompt as it has tokens, and rows of its features take their places, chunk by chunk.

mod config;
mod request;
mod resume;
mod stats;

pub use config::{EngineConfig, Preemption, Speculation};
pub use request::{Completion, Event, FinishReason, Request, RequestId, Timings};
pub use stats::Stats;

use crate::pages::{PagedKv, Picture};
use crate::sampling::{self, Choice, History, Sampling};
use crate::vision::{self, FeatureCache};
use crate::{Error, Image, Model, Result, Vision};
use llm_arch::{CachedBatch, Decoder, KvPool};
use llm_tensor::burn::tensor::Tensor;
use llm_tensor::host;
use llm_tensor::rayon::prelude::*;
use llm_tokenizer::{DecodeStream, Tokenizer};
use std::collections::VecDeque;
use std::time::Instant;

#[derive(Debug)]
struct Sequence {
    id: RequestId,
    /// Prompt with its placeholders multiplied, then what was generated.
    tokens: Vec<u32>,
    prompt: usize,
    /// Where each image stands, and which it is.
    pictures: Vec<Picture>,
    images: Vec<Shown>,
    sampling: Sampling,
    logprobs: Vec<f32>,
    pages: Vec<u32>,
    /// Tokens whose keys and values are in the cache.
    computed: usize,
    text: Option<StopText>,
    end_token: Option<u32>,
    deadline: Option<Instant>,
    submitted: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
    cached_tokens: usize,
}

/// An image of a sequence.
#[derive(Debug)]
struct Shown {
    image: Image,
    /// `[P, D]` from the step in which its first row is due to that in which its last one is.
    features: Option<Tensor<2>>,
}

/// Looks for stop texts in the generated text.
#[derive(Debug)]
struct StopText {
    stream: DecodeStream,
    text: String,
}

impl StopText {
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

/// Generates for many requests at once on one thread; forward passes use all cores.
#[derive(Debug)]
pub struct Engine {
    decoder: Decoder,
    vision: Option<Vision>,
    features: FeatureCache,
    tokenizer: Tokenizer,
    eos: Vec<u32>,
    config: EngineConfig,
    pool: KvPool,
    kv: PagedKv,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    finished: Vec<Event>,
    next_id: u64,
    capacity: usize,
    stats: Stats,
}

impl Engine {
    /// Allocate the cache for a model.
    pub fn new(model: &Model, config: EngineConfig) -> Result<Self> {
        config.check()?;
        let decoder = model.decoder.untracked();
        let context = decoder.config().max_position_embeddings;
        let pages = match config.kv_pages {
            0 => {
                (context.div_ceil(config.page_size) * config.max_batch).min((1 << 30) / KvPool::page_bytes(decoder.config(), config.page_size)).max(1)
            }
            n => n,
        };
        Ok(Self {
            pool: KvPool::new(decoder.config(), pages, config.page_size),
            kv: PagedKv::new(pages, config.page_size),
            capacity: context.min(pages * config.page_size),
            decoder,
            vision: model.vision.clone(),
            features: FeatureCache::default(),
            tokenizer: model.tokenizer.clone(),
            eos: model.eos_token_ids.clone(),
            config,
            waiting: VecDeque::new(),
            running: Vec::new(),
            finished: Vec::new(),
            next_id: 0,
            stats: Stats::default(),
        })
    }

    /// The weights changed (a trainer took a step): use the new ones from the next step on. Requires an idle engine, as
    /// cached keys belong to the old weights.
    pub fn set_decoder(&mut self, decoder: &Decoder) -> Result<()> {
        if !self.is_idle() {
            return Err(Error::Request("weights cannot change while requests are running".into()));
        }
        self.decoder = decoder.untracked();
        Ok(())
    }

    /// Longest prompt plus answer.
    pub fn context_length(&self) -> usize {
        self.capacity
    }

    /// Queue a request.
    pub fn submit(&mut self, request: Request) -> Result<RequestId> {
        let Request { prompt, mut sampling, images, deadline, .. } = request;
        let vocab = self.decoder.config().vocab_size as u32;
        if prompt.is_empty() {
            return Err(Error::Request("the prompt has no tokens".into()));
        }
        if let Some(id) = prompt.iter().find(|&&id| id >= vocab) {
            return Err(Error::Request(format!("token {id} is not in the vocabulary of {vocab}")));
        }
        let (prompt, pictures) = self.expand(prompt, &images)?;
        if prompt.len() + sampling.max_tokens > self.capacity {
            return Err(Error::ContextLength { prompt: prompt.len(), max_tokens: sampling.max_tokens, context: self.capacity });
        }
        sampling.check(vocab as usize)?;
        // A model that sees cannot show: a generated placeholder would stand for nothing.
        sampling.logit_bias.extend(self.vision.as_ref().map(|v| (v.image_token_id(), f32::NEG_INFINITY)));
        let id = RequestId(self.next_id);
        self.next_id += 1;
        if sampling.max_tokens == 0 {
            self.finished.push(Event::Done { id, completion: Completion::of(vec![], vec![], FinishReason::Length) });
            return Ok(id);
        }
        let text = (!sampling.stop.is_empty()).then(|| StopText { stream: self.tokenizer.decode_stream(false), text: String::new() });
        self.waiting.push_back(Sequence {
            id,
            prompt: prompt.len(),
            tokens: prompt,
            pictures,
            images: images.into_iter().map(|image| Shown { image, features: None }).collect(),
            sampling,
            logprobs: Vec::new(),
            pages: Vec::new(),
            computed: 0,
            text,
            end_token: None,
            deadline,
            submitted: Instant::now(),
            started: None,
            first_token: None,
            cached_tokens: 0,
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

    fn end(&mut self, id: RequestId, reason: FinishReason) {
        if let Some(at) = self.waiting.iter().position(|s| s.id == id) {
            if let Some(sequence) = self.waiting.remove(at) {
                self.finish(sequence, reason);
            }
        } else if let Some(at) = self.running.iter().position(|s| s.id == id) {
            let sequence = self.running.remove(at);
            self.finish(sequence, reason);
        }
    }

    /// Nothing left to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty() && self.finished.is_empty()
    }

    /// Requests generating now, and requests waiting.
    pub fn load(&self) -> (usize, usize) {
        (self.running.len(), self.waiting.len())
    }

    /// Images that went through the vision tower so far. One that was seen lately, or whose keys are in the cache, does not again.
    pub fn images_computed(&self) -> usize {
        self.features.computed
    }

    /// Pages of the cache nobody uses.
    pub fn free_pages(&self) -> usize {
        self.kv.free_pages()
    }

    /// What was done so far, and what is going on.
    pub fn stats(&self) -> Stats {
        let kv_pages_used = self.kv.pages() - self.kv.free_pages();
        Stats { running: self.running.len(), waiting: self.waiting.len(), kv_pages: self.kv.pages(), kv_pages_used, ..self.stats }
    }

    /// End what took longer than it may.
    fn expire(&mut self) {
        let now = Instant::now();
        let late = |s: &Sequence| s.deadline.is_some_and(|d| d <= now);
        let ids: Vec<RequestId> = self.waiting.iter().chain(&self.running).filter(|s| late(s)).map(|s| s.id).collect();
        ids.into_iter().for_each(|id| self.end(id, FinishReason::Deadline));
    }

    fn finish(&mut self, sequence: Sequence, finish_reason: FinishReason) {
        self.kv.release(&sequence.pages);
        let tokens = sequence.tokens[sequence.prompt..].to_vec();
        self.stats.generation_tokens += tokens.len() as u64;
        let (now, submitted) = (Instant::now(), sequence.submitted);
        let started = sequence.started.unwrap_or(now);
        let first = sequence.first_token.unwrap_or(now).max(started);
        let timings = Timings { queue: started - submitted, prefill: first - started, decode: now - first };
        let completion = Completion {
            end_token: sequence.end_token,
            cached_tokens: sequence.cached_tokens,
            timings,
            ..Completion::of(tokens, sequence.logprobs, finish_reason)
        };
        self.finished.push(Event::Done { id: sequence.id, completion });
    }

    /// Give every running sequence room for its next token, preempting the youngest while pages are short.
    fn make_room(&mut self) {
        let mut i = 0;
        while i < self.running.len() {
            let needed = self.running[i].tokens.len();
            if self.kv.reserve(&mut self.running[i].pages, needed) {
                i += 1;
                continue;
            }
            let Some(mut victim) = self.running.pop() else { break };
            self.stats.preemptions += 1;
            self.kv.release(&victim.pages);
            victim.pages.clear();
            victim.computed = 0;
            victim.images.iter_mut().for_each(|shown| shown.features = None);
            self.waiting.push_front(victim);
        }
    }

    fn admit(&mut self) {
        while self.running.len() < self.config.max_batch {
            let Some(mut sequence) = self.waiting.pop_front() else { break };
            sequence.pages = self.kv.share_prefix(&sequence.tokens, &sequence.pictures);
            sequence.computed = sequence.pages.len() * self.config.page_size;
            if !self.kv.reserve(&mut sequence.pages, sequence.tokens.len()) {
                self.kv.release(&sequence.pages);
                sequence.pages.clear();
                self.waiting.push_front(sequence);
                break;
            }
            if sequence.started.is_none() {
                let now = Instant::now();
                (sequence.started, sequence.cached_tokens) = (Some(now), sequence.computed);
                self.stats.prompt_tokens += sequence.prompt as u64;
                self.stats.prefix_cache_queries += sequence.prompt as u64;
                self.stats.prefix_cache_hits += sequence.computed as u64;
                let queued = now - sequence.submitted;
                self.finished.push(Event::Started { id: sequence.id, cached_tokens: sequence.computed, queued });
            }
            // Everything scheduled below is written before it is read, so a twin admitted next may already point to it.
            let room = self.config.max_step_tokens.saturating_sub(self.running.iter().map(|s| s.tokens.len() - s.computed).sum());
            if room >= sequence.tokens.len() - sequence.computed {
                self.kv.publish(&sequence.pages, &sequence.tokens, &sequence.pictures, sequence.tokens.len());
            }
            self.running.push(sequence);
        }
    }

    /// Which sequences go on, in this order, and by how many tokens. Continuations first: they are one token each and somebody is waiting
    /// for them.
    fn schedule(&self) -> Vec<(usize, usize)> {
        let mut budget = self.config.max_step_tokens;
        let mut order: Vec<usize> = (0..self.running.len()).collect();
        order.sort_by_key(|&i| (self.running[i].tokens.len() - self.running[i].computed > 1, i));
        let mut share = |i: usize| {
            let n = (self.running[i].tokens.len() - self.running[i].computed).min(budget);
            budget -= n;
            (i, n)
        };
        order.into_iter().map(&mut share).collect()
    }

    /// Features of the images that are due now; those further back wait, so that a step takes no longer than it must.
    fn look(&mut self, schedule: &[(usize, usize)]) -> Result<()> {
        let Some(eyes) = &self.vision else { return Ok(()) };
        for &(i, n) in schedule {
            let Sequence { pictures, images, computed, .. } = &mut self.running[i];
            for (picture, shown) in pictures.iter().zip(images) {
                let due = picture.tokens.start < *computed + n && *computed < picture.tokens.end;
                if due && shown.features.is_none() {
                    shown.features = Some(self.features.features(eyes, &shown.image)?);
                }
            }
        }
        Ok(())
    }

    /// One forward pass; returns what it produced. Does nothing when idle.
    pub fn step(&mut self) -> Result<Vec<Event>> {
        self.expire();
        self.make_room();
        self.admit();
        let mut events = std::mem::take(&mut self.finished);
        if self.running.is_empty() {
            return Ok(events);
        }
        self.stats.steps += 1;
        let schedule = self.schedule();
        self.look(&schedule)?;
        let (mut ids, mut positions, mut pages) = (Vec::new(), Vec::new(), Vec::new());
        let (mut seen, mut rows) = (Vec::new(), Vec::new());
        for &(i, n) in &schedule {
            let sequence = &self.running[i];
            let now = sequence.computed..sequence.computed + n;
            for (picture, shown) in sequence.pictures.iter().zip(&sequence.images) {
                let due = picture.tokens.start.max(now.start)..picture.tokens.end.min(now.end);
                if let Some(features) = shown.features.as_ref().filter(|_| !due.is_empty()) {
                    let part = features.clone().narrow(0, due.start - picture.tokens.start, due.len());
                    seen.push((ids.len() + due.start - now.start, part));
                }
            }
            for position in now {
                ids.push(sequence.tokens[position]);
                positions.push(position as u32);
                pages.push(sequence.pages.as_slice());
            }
            if n > 0 && sequence.computed + n == sequence.tokens.len() {
                rows.push((i, ids.len() - 1));
            }
        }
        let batch = CachedBatch { ids: ids.into(), positions: positions.into(), pages };
        let hidden = if seen.is_empty() {
            self.decoder.hidden_cached(&batch, &mut self.pool)
        } else {
            self.decoder.hidden_cached_from(vision::place(self.decoder.embed(batch.ids.clone()), seen), &batch, &mut self.pool)
        };
        let d = self.decoder.config().hidden_size;
        let device = hidden.device();
        let hidden = host::to_vec(hidden);
        for &(i, n) in &schedule {
            let sequence = &mut self.running[i];
            sequence.computed += n;
            for (picture, shown) in sequence.pictures.iter().zip(&mut sequence.images) {
                shown.features.take_if(|_| picture.tokens.end <= sequence.computed);
            }
        }
        for sequence in &self.running {
            self.kv.publish(&sequence.pages, &sequence.tokens, &sequence.pictures, sequence.computed);
        }
        if rows.is_empty() {
            return Ok(events);
        }
        let picked: Vec<f32> = rows.iter().flat_map(|&(_, row)| hidden[row * d..(row + 1) * d].iter().copied()).collect();
        let logits = host::to_vec(self.decoder.logits(host::from_vec(picked, [rows.len(), d], &device)));
        let vocab = self.decoder.config().vocab_size;
        let (running, end_ids) = (&self.running, &self.eos);
        let choices: Vec<Choice> = rows
            .par_iter()
            .zip(logits.par_chunks_exact(vocab))
            .map(|(&(i, _), logits)| {
                let Sequence { tokens, prompt, sampling, .. } = &running[i];
                sampling::choose(logits, sampling, History { tokens, prompt_len: *prompt, end_ids })
            })
            .collect();
        let mut ended = Vec::new();
        for (&(i, _), choice) in rows.iter().zip(choices) {
            if let Some(reason) = self.accept(i, choice, &mut events) {
                ended.push((i, reason));
            }
        }
        ended.sort_unstable_by_key(|e| std::cmp::Reverse(e.0));
        for (i, reason) in ended {
            let sequence = self.running.remove(i);
            self.finish(sequence, reason);
        }
        events.append(&mut self.finished);
        Ok(events)
    }

    /// Add a token to a sequence; tells whether it ends.
    fn accept(&mut self, i: usize, choice: Choice, events: &mut Vec<Event>) -> Option<FinishReason> {
        let sequence = &mut self.running[i];
        let Choice { token, logprob, top } = choice;
        if self.eos.contains(&token) || sequence.sampling.stop_ids.contains(&token) {
            sequence.end_token = Some(token);
            return Some(FinishReason::Stop);
        }
        sequence.first_token.get_or_insert_with(Instant::now);
        sequence.tokens.push(token);
        sequence.logprobs.push(logprob);
        events.push(Event::Token { id: sequence.id, token, logprob, top });
        if sequence.text.as_mut().is_some_and(|t| t.push(token, &sequence.sampling.stop)) {
            return Some(FinishReason::Stop);
        }
        (sequence.tokens.len() - sequence.prompt >= sequence.sampling.max_tokens).then_some(FinishReason::Length)
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
