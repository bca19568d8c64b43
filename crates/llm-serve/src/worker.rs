//! The engine's thread: the only place that touches the model.
//!
//! HTTP handlers send a job through a channel and read [`Update`]s from another one; the thread lets requests join
//! between two engine steps (continuous batching is the engine's own doing). Nobody sends "cancel": a client that goes
//! away drops its receiver, the thread sees the closed channel before the next step and frees the request.
//!
//! A panic or an error inside a step fails the request that caused it and no other: see `worker/recovery.rs`.
//!
//! The thread never waits for a client. Updates go into a bounded channel; who lets it run full is cut.

mod recovery;

use crate::error::{ApiError, Error, Result};
use crate::metrics::Metrics;
use crate::metrics::catalogue::{Ended, Finished};
use llm_infer::adapters::AdapterId;
use llm_infer::{Completion, Engine, EngineConfig, Event, FinishReason, Model, Request, RequestId, TokenScore};
use std::collections::HashMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc as blocking;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Updates that a call may lag behind, in tokens of all its choices.
const LAG: usize = 8192;

/// Sees every request that the engine holds, and how many tokens it has generated, before each step. For tests: what it panics at is a
/// fault of that step.
#[derive(Clone)]
pub struct StepHook(pub Arc<Look>);

type Look = dyn Fn(&Request, usize) + Send + Sync;

impl fmt::Debug for StepHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StepHook(..)")
    }
}

/// News about one running request.
#[derive(Debug)]
pub enum Update {
    /// The request left the queue.
    Started {
        /// Tokens of its prompt that were in the cache.
        cached_tokens: usize,
        /// How long it waited.
        queued: Duration,
    },
    /// A token was generated.
    Token {
        /// Its id.
        token: u32,
        /// Natural logarithm of its probability.
        logprob: f32,
        /// The most probable tokens, when asked for.
        top: Vec<(u32, f32)>,
    },
    /// The request ended.
    Done(FinishReason),
    /// The request was lost.
    Failed(String),
}

/// The engine's end of the channel of a call.
#[derive(Debug, Clone)]
struct Outlet {
    sender: mpsc::Sender<(usize, Update)>,
    overrun: Arc<AtomicBool>,
}

impl Outlet {
    /// Never waits. What does not fit ends the call.
    fn send(&self, index: usize, update: Update) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.sender.try_send((index, update)) {
            self.overrun.store(true, Ordering::Relaxed);
        }
    }

    /// Nobody reads, or not fast enough.
    fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.overrun.load(Ordering::Relaxed)
    }
}

struct Job {
    requests: Vec<Request>,
    updates: Outlet,
    accepted: oneshot::Sender<Result<(), ApiError>>,
}

/// Log-probabilities of the tokens of one prompt, from its second token on.
pub type PromptScores = Vec<TokenScore>;

type Question = Box<dyn FnOnce(&Model, &mut Engine) + Send>;

enum Command {
    Run(Job),
    /// Something else for which the model has to be at hand.
    Ask(Question),
    Score {
        prompts: Vec<Vec<u32>>,
        top: usize,
        answer: oneshot::Sender<Result<Vec<PromptScores>, ApiError>>,
    },
    Stop,
}

/// Handle to the engine thread; clones share it.
#[derive(Debug, Clone)]
pub struct Worker {
    commands: blocking::Sender<Command>,
    active: Arc<AtomicUsize>,
    alive: Weak<()>,
}

/// Running requests of one HTTP call. Dropping it cancels them.
#[derive(Debug)]
pub struct Generation {
    updates: mpsc::Receiver<(usize, Update)>,
    overrun: Arc<AtomicBool>,
}

impl Generation {
    /// The next update and the index of the request it belongs to.
    pub async fn next(&mut self) -> Option<(usize, Update)> {
        if self.overrun.swap(false, Ordering::Relaxed) {
            return Some((0, Update::Failed("the client reads more slowly than the model writes".into())));
        }
        self.updates.recv().await
    }
}

impl Worker {
    /// Start the thread. `load` runs on it, because the model never leaves it; `describe` says what the handlers need to
    /// know of the model. Returns when the model is ready or cannot be loaded.
    pub async fn start<T: Send + 'static>(
        load: impl FnOnce() -> Result<Model> + Send + 'static,
        config: EngineConfig,
        watch: Watch,
        describe: impl FnOnce(&Model, &Engine) -> T + Send + 'static,
    ) -> Result<(Self, T)> {
        let (commands, inbox) = blocking::channel();
        let (ready, loaded) = oneshot::channel();
        let active = Arc::new(AtomicUsize::new(0));
        let gauge = Arc::clone(&active);
        // The thread owns this token; when it ends, for whatever reason, the weak reference tells.
        let token = Arc::new(());
        let alive = Arc::downgrade(&token);
        std::thread::Builder::new().name("engine".into()).spawn(move || {
            let _token = token;
            let model = match load() {
                Ok(model) => model,
                Err(error) => return drop(ready.send(Err(error))),
            };
            match Engine::new(&model, config) {
                Ok(engine) => {
                    if ready.send(Ok(describe(&model, &engine))).is_ok() {
                        EngineLoop { model: &model, config, engine, running: HashMap::new(), active: gauge, watch }.run(&inbox);
                    }
                }
                Err(error) => drop(ready.send(Err(error.into()))),
            }
        })?;
        let description = loaded.await.map_err(|_| Error::Engine("it panicked while loading the model".into()))??;
        Ok((Self { commands, active, alive }, description))
    }

    /// Hand requests to the engine; it takes all of them or none.
    pub async fn submit(&self, requests: Vec<Request>) -> Result<Generation, ApiError> {
        let gone = || ApiError::unavailable("the engine is not running");
        let (sender, updates) = mpsc::channel(LAG);
        let (accepted, answer) = oneshot::channel();
        let overrun = Arc::new(AtomicBool::new(false));
        let outlet = Outlet { sender, overrun: Arc::clone(&overrun) };
        self.commands.send(Command::Run(Job { requests, updates: outlet, accepted })).map_err(|_| gone())?;
        match answer.await.map_err(|_| gone())? {
            Ok(()) => Ok(Generation { updates, overrun }),
            Err(error) => Err(error),
        }
    }

    /// How likely are the prompts' own tokens, with the `top` likeliest at each place. Running requests wait for it.
    pub async fn score(&self, prompts: Vec<Vec<u32>>, top: usize) -> Result<Vec<PromptScores>, ApiError> {
        let gone = || ApiError::unavailable("the engine is not running");
        let (answer, scores) = oneshot::channel();
        self.commands.send(Command::Score { prompts, top, answer }).map_err(|_| gone())?;
        scores.await.map_err(|_| gone())?
    }

    /// A unit vector for each text: the hidden state of its last token. Running requests wait for it.
    pub async fn embed(&self, texts: Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>, ApiError> {
        self.ask(move |model, _| llm_infer::embed(model, &texts, llm_infer::Pooling::Last, true)).await
    }

    /// Read a PEFT folder; requests may name it from then on.
    pub async fn load_adapter(&self, dir: PathBuf) -> Result<AdapterId, ApiError> {
        self.ask(move |_, engine| engine.load_adapter(&dir)).await
    }

    /// Forget an adapter.
    pub async fn unload_adapter(&self, id: AdapterId) -> Result<(), ApiError> {
        self.ask(move |_, engine| engine.unload_adapter(id)).await
    }

    /// Run something between two steps, and wait for its answer.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Model, &mut Engine) -> llm_infer::Result<T> + Send + 'static,
    ) -> Result<T, ApiError> {
        let gone = || ApiError::unavailable("the engine is not running");
        let (sender, answer) = oneshot::channel();
        let question = move |model: &Model, engine: &mut Engine| {
            let answer = std::panic::catch_unwind(AssertUnwindSafe(|| question(model, engine)));
            let answer = answer.map_or_else(|_| Err(ApiError::internal("the model panicked")), |answer| answer.map_err(|e| refused(&e)));
            // Whoever asked may have gone.
            let _ = sender.send(answer);
        };
        self.commands.send(Command::Ask(Box::new(question))).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Requests that the engine holds at this moment.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// The engine thread is there.
    pub fn alive(&self) -> bool {
        self.alive.strong_count() > 0
    }

    /// End the thread; requests still running fail with a message.
    pub fn stop(&self) {
        // An error means that the thread is gone already.
        let _ = self.commands.send(Command::Stop);
    }
}

/// What watches the engine.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// For tests.
    pub hook: Option<StepHook>,
}

/// A request that the engine holds, and all that is needed to go on with it in another engine.
struct Running {
    index: usize,
    updates: Outlet,
    request: Request,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    /// Steps that failed with it inside.
    strikes: usize,
    submitted: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Instant,
}

impl Running {
    fn ended(&self, reason: Finished) -> Ended {
        Ended {
            reason,
            prompt: self.request.prompt.len(),
            generated: self.tokens.len(),
            max_tokens: self.request.sampling.max_tokens,
            total: self.submitted.elapsed(),
            inference: self.started.map(|at| at.elapsed()),
            decode: self.first_token.map(|at| at.elapsed()),
        }
    }

    fn fail(self, why: &str, metrics: &Metrics) {
        metrics.ended(&self.ended(Finished::Error));
        self.updates.send(self.index, Update::Failed(why.to_string()));
    }
}

/// The engine's refusal of a request, with the field at fault if it is one.
fn refused(error: &llm_infer::Error) -> ApiError {
    match error {
        llm_infer::Error::Tensor(llm_tensor::Error::Sampling { field, .. }) => ApiError::invalid(*field, error.to_string()),
        _ => ApiError::bad_request(error.to_string()),
    }
}

struct EngineLoop<'m> {
    model: &'m Model,
    config: EngineConfig,
    engine: Engine,
    running: HashMap<RequestId, Running>,
    active: Arc<AtomicUsize>,
    watch: Watch,
}

impl EngineLoop<'_> {
    fn run(mut self, inbox: &blocking::Receiver<Command>) {
        loop {
            let first = if self.engine.is_idle() {
                match inbox.recv() {
                    Ok(command) => Some(command),
                    Err(_) => return,
                }
            } else {
                inbox.try_recv().ok()
            };
            for command in first.into_iter().chain(inbox.try_iter()) {
                match command {
                    Command::Run(job) => self.admit(job),
                    Command::Ask(question) => question(self.model, &mut self.engine),
                    Command::Score { prompts, top, answer } => {
                        let model = self.model;
                        let all = || prompts.iter().map(|prompt| llm_infer::score_top(model, prompt, top).map_err(|e| refused(&e))).collect();
                        let scores = std::panic::catch_unwind(AssertUnwindSafe(all));
                        // Whoever asked may have gone.
                        let _ = answer.send(scores.unwrap_or_else(|_| Err(ApiError::internal("the model panicked"))));
                    }
                    Command::Stop => return self.fail_all("the server is shutting down"),
                }
            }
            self.cancel_abandoned();
            match self.step() {
                Ok(events) => self.forward_all(events),
                Err(why) => {
                    if !self.recover(&why) {
                        return;
                    }
                }
            }
            self.active.store(self.running.len(), Ordering::Relaxed);
        }
    }

    /// One step of the engine; what goes wrong in it is told in words.
    fn step(&mut self) -> Result<Vec<Event>, String> {
        let Self { engine, running, watch, .. } = self;
        let step = || {
            if let Some(StepHook(hook)) = &watch.hook {
                running.values().for_each(|r| hook(&r.request, r.tokens.len()));
            }
            engine.step()
        };
        match std::panic::catch_unwind(AssertUnwindSafe(step)) {
            Ok(Ok(events)) => Ok(events),
            Ok(Err(error)) => Err(error.to_string()),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
                Err(format!("it panicked: {}", text.unwrap_or("without a message")))
            }
        }
    }

    fn forward_all(&mut self, events: Vec<Event>) {
        let mut computed = 0;
        for event in events {
            computed += self.forward(event);
        }
        if computed > 0 {
            self.watch.metrics.step_tokens.observe(computed as f64);
        }
        self.watch.metrics.engine(self.engine.stats());
    }

    fn admit(&mut self, job: Job) {
        let mut ids = Vec::with_capacity(job.requests.len());
        for (index, request) in job.requests.into_iter().enumerate() {
            let submitted = std::panic::catch_unwind(AssertUnwindSafe(|| self.engine.submit(request.clone())));
            let refusal = match submitted {
                Ok(Ok(id)) => {
                    ids.push((id, index, request));
                    continue;
                }
                Ok(Err(error)) => refused(&error),
                Err(_) => ApiError::internal("the engine panicked at this request"),
            };
            ids.into_iter().for_each(|(id, ..)| self.engine.cancel(id));
            let _ = job.accepted.send(Err(refusal));
            return;
        }
        self.active.store(self.running.len() + ids.len(), Ordering::Relaxed);
        let now = Instant::now();
        for (id, index, request) in ids {
            let running = Running {
                index,
                updates: job.updates.clone(),
                request,
                tokens: Vec::new(),
                logprobs: Vec::new(),
                strikes: 0,
                submitted: now,
                started: None,
                first_token: None,
                last_token: now,
            };
            self.running.insert(id, running);
        }
        // Nobody listening any more shows as a closed update channel right after.
        let _ = job.accepted.send(Ok(()));
    }

    fn cancel_abandoned(&mut self) {
        let Self { engine, running, watch, .. } = self;
        running.retain(|&id, r| {
            let abandoned = r.updates.is_closed();
            if abandoned {
                engine.cancel(id);
                watch.metrics.ended(&r.ended(Finished::Abort));
            }
            !abandoned
        });
    }

    /// Pass an event on. Returns the tokens that were computed for it.
    fn forward(&mut self, event: Event) -> usize {
        let metrics = &self.watch.metrics;
        let now = Instant::now();
        match event {
            // Requests that were cancelled are not in the map: their last events go nowhere.
            Event::Started { id, cached_tokens, queued } => {
                // A request that goes on in a new engine has started before.
                let Some(r) = self.running.get_mut(&id).filter(|r| r.started.is_none()) else { return 0 };
                r.started = Some(now);
                metrics.queue.time(queued);
                metrics.prompt_tokens.add(r.request.prompt.len() as u64);
                r.updates.send(r.index, Update::Started { cached_tokens, queued });
                r.request.prompt.len().saturating_sub(cached_tokens)
            }
            Event::Token { id, token, logprob, top } => {
                let Some(r) = self.running.get_mut(&id) else { return 0 };
                if r.first_token.is_none() {
                    r.first_token = Some(now);
                    metrics.first_token.time(now - r.submitted);
                    metrics.prefill.time(now.saturating_duration_since(r.started.unwrap_or(r.submitted)));
                } else {
                    metrics.between_tokens.time(now - r.last_token);
                }
                r.last_token = now;
                r.tokens.push(token);
                r.logprobs.push(logprob);
                metrics.generation_tokens.inc();
                r.updates.send(r.index, Update::Token { token, logprob, top });
                1
            }
            Event::Done { id, completion: Completion { finish_reason, .. } } => {
                let Some(r) = self.running.remove(&id) else { return 0 };
                metrics.ended(&r.ended(match finish_reason {
                    FinishReason::Stop => Finished::Stop,
                    FinishReason::Length => Finished::Length,
                    FinishReason::Cancelled | FinishReason::Deadline => Finished::Abort,
                }));
                r.updates.send(r.index, Update::Done(finish_reason));
                0
            }
        }
    }

    fn fail_all(&mut self, why: &str) {
        for (_, r) in self.running.drain() {
            r.fail(why, &self.watch.metrics);
        }
        self.active.store(0, Ordering::Relaxed);
    }
}
