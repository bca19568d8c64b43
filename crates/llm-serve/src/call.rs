//! One HTTP call: who makes it, and what it may use and did use.
//!
//! The handlers know nothing of keys, quotas and queues. The call is set down by [`crate::guard`] for the task that runs the handler, and
//! [`Lease::take`], which every generation passes, finds it there. In this order a call pays: quota, tokens per minute, a place in the
//! queue. What was taken is given back when the lease is dropped, however the call ends.

use crate::access::Tally;
use crate::admission::{Busy, Ticket};
use crate::error::ApiError;
use crate::house::House;
use crate::keys::Key;
use crate::ledger::{Exhausted, Reservation, Row};
use crate::limits::{Taken, TooFast, What};
use crate::metrics::catalogue::Reason;
use axum::http::Method;
use llm_infer::Request;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The call of the task that runs.
#[derive(Debug)]
pub struct Call {
    /// `x-request-id`.
    pub id: String,
    /// Whose call; `None` on an open server.
    pub key: Option<Arc<Key>>,
    /// HTTP method.
    pub method: Method,
    /// The path as it was asked for, cut at a sensible length.
    pub path: String,
    /// The path if it is one of ours, else `other`: a label that a client cannot invent.
    pub endpoint: &'static str,
    /// Where it comes from.
    pub peer: Option<SocketAddr>,
    /// Counts of the reply.
    pub tally: Arc<Tally>,
    /// The rules.
    pub house: Arc<House>,
    /// When it came.
    pub started: Instant,
    /// W3C `traceparent` of the caller.
    pub trace: Option<String>,
}

tokio::task_local! {
    static CURRENT: Arc<Call>;
}

impl Call {
    /// Run a handler for this call.
    pub async fn scope<F: Future>(self: Arc<Self>, handler: F) -> F::Output {
        CURRENT.scope(self, handler).await
    }

    /// The call that the running handler belongs to.
    pub fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// When the reply must be over.
    pub fn deadline(&self) -> Option<Instant> {
        self.house.request_timeout.map(|limit| self.started + limit)
    }
}

/// What a call took from the house in advance. Dropped without [`Lease::settle`], the client is gone or the reply failed.
#[derive(Debug, Default)]
pub struct Lease {
    call: Option<Arc<Call>>,
    reservation: Option<Reservation>,
    taken: Option<Taken>,
    ticket: Option<Ticket>,
    /// Something was computed for the call, so it has a row in the ledger.
    running: bool,
    /// What the row says if the lease is dropped.
    status: u16,
}

/// The client left first (nginx's number).
const LEFT: u16 = 499;

impl Lease {
    /// Take what these requests need at most, and put the key's priority and the deadline on them.
    pub fn take(requests: &mut [Request], prompt_tokens: usize) -> Result<Self, ApiError> {
        let most = requests.iter().map(|r| r.sampling.max_tokens).sum::<usize>();
        let lease = Self::tokens(prompt_tokens.saturating_add(most), requests.len())?;
        if let Some(call) = &lease.call {
            let user = call.key.as_ref().map_or(0, |key| {
                let mut hasher = DefaultHasher::new();
                key.id.hash(&mut hasher);
                hasher.finish()
            });
            for request in requests {
                if let Some(key) = &call.key {
                    // Whose key it is decides; a request may only step back from there.
                    request.priority = key.priority.saturating_add(request.priority.max(0));
                }
                request.deadline = call.deadline();
                request.fairness = user;
            }
        }
        Ok(lease)
    }

    /// Take tokens and places for a call that is no generation, such as embeddings.
    pub fn tokens(tokens: usize, places: usize) -> Result<Self, ApiError> {
        let Some(call) = Call::current() else { return Ok(Self::default()) };
        let house = Arc::clone(&call.house);
        let (mut reservation, mut taken) = (None, None);
        if let Some(key) = &call.key {
            if let Some(ledger) = &house.ledger {
                let reserved = ledger.reserve(key, tokens as u64).map_err(|e| broken(&call, &e))?;
                reservation = Some(reserved.map_err(|exhausted| {
                    house.metrics.refused(Reason::Quota);
                    over_quota(&exhausted, tokens)
                })?);
            }
            taken = Some(house.limiter.tokens(key, tokens as u64).map_err(|fast| {
                house.metrics.refused(Reason::Tokens);
                too_fast(&fast)
            })?);
        }
        let ticket = house.admission.enter(places).map_err(|busy| {
            house.metrics.refused(Reason::Queue);
            queue_full(&busy)
        })?;
        Ok(Self { call: Some(call), reservation, taken, ticket: Some(ticket), running: false, status: LEFT })
    }

    /// The engine has it.
    pub fn submitted(&mut self, prompt_tokens: usize) {
        self.running = true;
        self.so_far(prompt_tokens, 0);
    }

    /// Tokens so far: what a client pays that leaves now.
    pub fn so_far(&self, prompt: usize, completion: usize) {
        if let Some(call) = &self.call {
            call.tally.set(prompt, completion);
        }
    }

    /// A request left the queue.
    pub fn started(&self, cached: usize, queued: Duration) {
        if let Some(call) = &self.call {
            call.tally.started(cached, queued);
        }
    }

    /// A token came.
    pub fn token(&self) {
        if let Some(call) = &self.call {
            call.tally.first_token(call.started.elapsed());
        }
    }

    /// A request of the call is complete, this long after it left the queue.
    pub fn served(&self, time: Duration) {
        self.ticket.iter().for_each(|ticket| ticket.served(time));
    }

    /// When the reply must be over.
    pub fn deadline(&self) -> Option<Instant> {
        self.call.as_ref().and_then(|call| call.deadline())
    }

    /// The reply failed with this status; the row will say so.
    pub fn failed(&mut self, error: &ApiError) {
        self.status = error.status.as_u16();
    }

    /// The reply is complete. Returns when the ledger has it on the disk: only then may the client be told.
    pub async fn settle(&mut self, prompt: usize, completion: usize) -> Result<(), ApiError> {
        let Some(call) = self.call.take() else { return Ok(()) };
        call.tally.set(prompt, completion);
        self.charge(&call, prompt, completion);
        let written = match &call.house.ledger {
            Some(ledger) => ledger.write(row(&call, 200, prompt, completion)).await.map_err(|e| broken(&call, &e)),
            None => Ok(()),
        };
        // Not before: until the row is written, the reservation stands for it.
        self.reservation = None;
        written
    }

    fn charge(&mut self, call: &Call, prompt: usize, completion: usize) {
        self.taken.iter_mut().for_each(|taken| taken.used((prompt + completion) as u64));
        if let Some(key) = &call.key {
            call.house.metrics.key_tokens(&key.name, prompt as u64, completion as u64);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(call) = self.call.take() else { return };
        if !self.running {
            return;
        }
        // Who leaves pays for what was computed; a fault of ours costs nothing.
        let (prompt, _, completion) = if self.status == 500 { (0, 0, 0) } else { call.tally.tokens() };
        self.charge(&call, prompt, completion);
        if let Some(ledger) = &call.house.ledger {
            ledger.note(row(&call, self.status, prompt, completion));
        }
    }
}

fn row(call: &Call, status: u16, prompt: usize, completion: usize) -> Row {
    let (_, cached, _) = call.tally.tokens();
    let (queue, first_token) = call.tally.times();
    Row {
        id: call.id.clone(),
        key: call.key.as_ref().map(|key| key.id.clone()).unwrap_or_default(),
        model: call.house.model.get().cloned().unwrap_or_default(),
        endpoint: call.endpoint.to_string(),
        status,
        prompt_tokens: prompt as u64,
        cached_tokens: cached.min(prompt) as u64,
        completion_tokens: completion as u64,
        queue,
        first_token,
        total: call.started.elapsed(),
    }
}

fn broken(call: &Call, error: &crate::Error) -> ApiError {
    eprintln!("{}: {error}", call.id);
    ApiError::internal("the usage of this request could not be recorded")
}

fn over_quota(exhausted: &Exhausted, tokens: usize) -> ApiError {
    let Exhausted { quota, left, again } = *exhausted;
    let message =
        format!("this key has {left} tokens left of its quota of {quota}, and the request may use {tokens}: lower 'max_tokens', or ask for more");
    ApiError::too_many("insufficient_quota", "insufficient_quota", message, again)
}

/// Also for the requests of a minute, which are counted before the handler runs.
pub(crate) fn too_fast(fast: &TooFast) -> ApiError {
    let TooFast { what, limit, again } = *fast;
    let kind = match what {
        What::Requests => "requests",
        What::Tokens => "tokens",
    };
    let message = format!("this key may use {limit} {kind} a minute; try again in {:.1} s", again.as_secs_f64());
    ApiError::too_many(kind, "rate_limit_exceeded", message, Some(again))
}

fn queue_full(busy: &Busy) -> ApiError {
    let wait = busy.wait.map_or(String::new(), |wait| format!("; a place now would take about {:.0} s", wait.as_secs_f64()));
    let message = format!("the server is busy: {} requests wait{wait}", busy.waiting);
    ApiError::too_many("server_error", "server_busy", message, Some(busy.again))
}
