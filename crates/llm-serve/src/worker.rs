//! The engine's thread: the only place that touches the model.
//!
//! HTTP handlers send a job through a channel and read [`Update`]s from another one; the thread lets requests join
//! between two engine steps (continuous batching is the engine's own doing). Nobody sends "cancel": a client that goes
//! away drops its receiver, the thread sees the closed channel before the next step and frees the request.
//!
//! A panic or an error inside a step fails the requests that were running, and the engine is built anew: one bad request
//! does not take the server down.

use crate::error::{ApiError, Error, Result};
use llm_infer::{Engine, EngineConfig, Event, FinishReason, Model, Request, RequestId, TokenScore};
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc as blocking;
use std::sync::{Arc, Weak};
use tokio::sync::{mpsc, oneshot};

/// News about one running request.
#[derive(Debug)]
pub enum Update {
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

struct Job {
    requests: Vec<Request>,
    updates: mpsc::UnboundedSender<(usize, Update)>,
    accepted: oneshot::Sender<Result<(), ApiError>>,
}

/// Log-probabilities of the tokens of one prompt, from its second token on.
pub type PromptScores = Vec<TokenScore>;

enum Command {
    Run(Job),
    Score { prompts: Vec<Vec<u32>>, top: usize, answer: oneshot::Sender<Result<Vec<PromptScores>, ApiError>> },
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
    updates: mpsc::UnboundedReceiver<(usize, Update)>,
}

impl Generation {
    /// The next update and the index of the request it belongs to.
    pub async fn next(&mut self) -> Option<(usize, Update)> {
        self.updates.recv().await
    }
}

impl Worker {
    /// Start the thread. `load` runs on it, because the model never leaves it; `describe` says what the handlers need to
    /// know of the model. Returns when the model is ready or cannot be loaded.
    pub async fn start<T: Send + 'static>(
        load: impl FnOnce() -> Result<Model> + Send + 'static,
        config: EngineConfig,
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
                        EngineLoop { model: &model, config, engine, running: HashMap::new(), active: gauge }.run(&inbox);
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
        let (sender, updates) = mpsc::unbounded_channel();
        let (accepted, answer) = oneshot::channel();
        self.commands.send(Command::Run(Job { requests, updates: sender, accepted })).map_err(|_| gone())?;
        match answer.await.map_err(|_| gone())? {
            Ok(()) => Ok(Generation { updates }),
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

struct Sink {
    index: usize,
    updates: mpsc::UnboundedSender<(usize, Update)>,
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
    running: HashMap<RequestId, Sink>,
    active: Arc<AtomicUsize>,
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
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| self.engine.step()));
            match outcome {
                Ok(Ok(events)) => events.into_iter().for_each(|event| self.forward(event)),
                Ok(Err(error)) => {
                    if !self.restart(&error.to_string()) {
                        return;
                    }
                }
                Err(_) => {
                    if !self.restart("it panicked") {
                        return;
                    }
                }
            }
            self.active.store(if self.engine.is_idle() { 0 } else { self.running.len().max(1) }, Ordering::Relaxed);
        }
    }

    fn admit(&mut self, job: Job) {
        let mut ids = Vec::with_capacity(job.requests.len());
        for (index, request) in job.requests.into_iter().enumerate() {
            match self.engine.submit(request) {
                Ok(id) => ids.push((id, index)),
                Err(error) => {
                    ids.into_iter().for_each(|(id, _)| self.engine.cancel(id));
                    let _ = job.accepted.send(Err(refused(&error)));
                    return;
                }
            }
        }
        self.active.store(self.running.len() + ids.len(), Ordering::Relaxed);
        for (id, index) in ids {
            self.running.insert(id, Sink { index, updates: job.updates.clone() });
        }
        // Nobody listening any more shows as a closed update channel right after.
        let _ = job.accepted.send(Ok(()));
    }

    fn cancel_abandoned(&mut self) {
        let engine = &mut self.engine;
        self.running.retain(|&id, sink| {
            let abandoned = sink.updates.is_closed();
            if abandoned {
                engine.cancel(id);
            }
            !abandoned
        });
    }

    fn forward(&mut self, event: Event) {
        let (id, update) = match event {
            Event::Started { .. } => return,
            Event::Token { id, token, logprob, top } => (id, Update::Token { token, logprob, top }),
            Event::Done { id, completion } => (id, Update::Done(completion.finish_reason)),
        };
        let done = matches!(update, Update::Done(_));
        // Requests that were cancelled are not in the map: their last events go nowhere.
        if let Some(sink) = self.running.get(&id) {
            let _ = sink.updates.send((sink.index, update));
        }
        if done {
            self.running.remove(&id);
        }
    }

    fn fail_all(&mut self, why: &str) {
        for (_, sink) in self.running.drain() {
            let _ = sink.updates.send((sink.index, Update::Failed(why.to_string())));
        }
        self.active.store(0, Ordering::Relaxed);
    }

    /// Fail what was running and start from a fresh engine. False when even that does not work.
    fn restart(&mut self, why: &str) -> bool {
        eprintln!("engine: {why}; {} running request(s) lost, starting it again", self.running.len());
        self.fail_all(&format!("the engine failed: {why}"));
        match std::panic::catch_unwind(AssertUnwindSafe(|| Engine::new(self.model, self.config))) {
            Ok(Ok(engine)) => {
                self.engine = engine;
                true
            }
            Ok(Err(error)) => {
                eprintln!("engine: cannot start again: {error}");
                false
            }
            Err(_) => {
                eprintln!("engine: cannot start again: it panicked");
                false
            }
        }
    }
}
