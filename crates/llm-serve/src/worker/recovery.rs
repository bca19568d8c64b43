//! After a step that failed: find the request that is to blame, and let the others go on.
//!
//! The engine that failed is thrown away. A request goes on in a new one from its prompt and the tokens it has generated so far; a token is
//! a function of weights, tokens, parameters, seed and position, so its stream continues as if nothing had happened. Who was in the
//! failing step is under suspicion and is tried alone, until it gets past the place where it was: who fails alone is to blame and gets
//! status 500. If everybody passes alone, it was the company, or chance: they go on together, each with a strike, and after
//! [`MOST_STRIKES`] they fail, so that a fault that always returns ends.

use super::{EngineLoop, Running};
use llm_infer::{Engine, EngineConfig, RequestId};
use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;

/// Failing steps that a request may be in without being to blame.
const MOST_STRIKES: usize = 3;

/// How a request fared alone.
#[expect(clippy::large_enum_variant, reason = "one at a time")]
enum Alone {
    /// It got past the place.
    Passed(Running),
    /// It failed, or ended, or its client left: nothing more is to be done.
    Over,
    /// There is no engine any more.
    NoEngine,
}

impl EngineLoop<'_> {
    /// Start from a fresh engine without the request that is to blame. False when there is no engine any more.
    pub(super) fn recover(&mut self, why: &str) -> bool {
        let inside: HashSet<RequestId> = self.engine.running().into_iter().collect();
        let mut all: Vec<(RequestId, Running)> = self.running.drain().collect();
        all.sort_unstable_by_key(|&(id, _)| id);
        let (suspects, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(id, _)| inside.is_empty() || inside.contains(id));
        eprintln!("engine: {why}; starting it again with {} request(s), {} of them under suspicion", suspects.len() + others.len(), suspects.len());
        let (suspects, others) = (only(suspects), only(others));
        if !self.rebuild() {
            return self.give_up(suspects.into_iter().chain(others));
        }
        let mut survivors = Vec::new();
        let mut suspects = suspects.into_iter();
        while let Some(mut suspect) = suspects.next() {
            suspect.strikes += 1;
            if suspect.strikes > MOST_STRIKES {
                self.blame(suspect, why);
                continue;
            }
            match self.alone(suspect) {
                Alone::Passed(running) => survivors.push(running),
                Alone::Over => {}
                Alone::NoEngine => return self.give_up(survivors.into_iter().chain(suspects).chain(others)),
            }
        }
        for running in survivors.into_iter().chain(others) {
            self.go_on(running);
        }
        true
    }

    /// Hand a request to the engine where it stands.
    fn go_on(&mut self, running: Running) -> Option<RequestId> {
        match self.engine.resume(running.request.clone(), &running.tokens, &running.logprobs) {
            Ok(id) => {
                self.running.insert(id, running);
                Some(id)
            }
            Err(error) => {
                self.blame(running, &error.to_string());
                None
            }
        }
    }

    /// Run one request by itself until its next token.
    fn alone(&mut self, running: Running) -> Alone {
        let before = running.tokens.len();
        let Some(id) = self.go_on(running) else { return Alone::Over };
        loop {
            self.cancel_abandoned();
            if !self.running.contains_key(&id) {
                return Alone::Over;
            }
            match self.step() {
                Ok(events) => {
                    self.forward_all(events);
                    match self.running.get(&id) {
                        None => return Alone::Over,
                        Some(r) if r.tokens.len() > before => break,
                        Some(_) => {}
                    }
                }
                Err(why) => {
                    self.running.remove(&id).into_iter().for_each(|running| self.blame(running, &why));
                    return if self.rebuild() { Alone::Over } else { Alone::NoEngine };
                }
            }
        }
        self.engine.cancel(id);
        self.running.remove(&id).map_or(Alone::Over, Alone::Passed)
    }

    /// The request fails. The reason goes to the operator; the client is told that it was not its connection.
    fn blame(&self, running: Running, why: &str) {
        eprintln!("engine: a request with {} prompt tokens and {} generated ones failed: {why}", running.request.prompt.len(), running.tokens.len());
        self.watch.metrics.faults.inc();
        running.fail("the engine failed on this request", &self.watch.metrics);
    }

    fn give_up(&mut self, all: impl Iterator<Item = Running>) -> bool {
        all.for_each(|running| running.fail("the engine failed and cannot start again", &self.watch.metrics));
        self.active.store(0, Ordering::Relaxed);
        false
    }

    fn rebuild(&mut self) -> bool {
        self.watch.metrics.restarts.inc();
        self.watch.metrics.engine_lost();
        let adapters: Vec<_> = self.engine.adapters().loaded().map(|(id, dir)| (id, dir.to_path_buf())).collect();
        // The smallest engine first, in the place of the one that failed: two caches of full size may not fit into memory.
        let smallest = EngineConfig { kv_pages: 1, ..self.config };
        for config in [smallest, self.config] {
            match std::panic::catch_unwind(AssertUnwindSafe(|| Engine::new(self.model, config))) {
                Ok(Ok(engine)) => self.engine = engine,
                Ok(Err(error)) => {
                    eprintln!("engine: cannot start again: {error}");
                    return false;
                }
                Err(_) => {
                    eprintln!("engine: cannot start again: it panicked");
                    return false;
                }
            }
        }
        for (id, dir) in adapters {
            // Requests that name an adapter whose folder is gone fail by themselves.
            if let Err(error) = self.engine.load_adapter_as(id, &dir) {
                eprintln!("engine: {error}");
            }
        }
        true
    }
}

fn only(list: Vec<(RequestId, Running)>) -> Vec<Running> {
    list.into_iter().map(|(_, running)| running).collect()
}
