//! The rules of the house: everything that is decided about a call before and after the engine.

use crate::access::{AccessLog, LogConfig, PromptLog};
use crate::admission::{Admission, QueueLimits};
use crate::cors::{Cors, Origin};
use crate::error::{Error, Result};
use crate::keys::store::KeyStore;
use crate::ledger::Ledger;
use crate::limits::Limiter;
use crate::metrics::Metrics;
use crate::otlp::Spans;
use crate::tls::TlsFiles;
use crate::worker::StepHook;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Notify;

/// Keys, bounds, logs and TLS. The default is an open server on one machine.
#[derive(Debug, Clone)]
pub struct HouseConfig {
    /// The file of keys and usage; `None` lets everybody in and counts nothing.
    pub keys: Option<PathBuf>,
    /// Requests that may wait for the engine.
    pub max_queue: usize,
    /// How long they may expect to wait.
    pub max_wait: Option<Duration>,
    /// From a request's arrival to the end of its reply.
    pub request_timeout: Option<Duration>,
    /// For the head of a request, and between two requests of a connection.
    pub header_timeout: Duration,
    /// For the body of a request.
    pub body_timeout: Duration,
    /// A client may leave so long unread what was written to it.
    pub write_timeout: Duration,
    /// Open connections.
    pub max_connections: usize,
    /// Certificate and key; `None` is plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Origins of web pages that may call.
    pub cors: Vec<Origin>,
    /// The access log.
    pub log: LogConfig,
    /// Where bodies of requests are written.
    pub log_prompts: Option<PathBuf>,
    /// Where traces are sent, e.g. `http://127.0.0.1:4318`.
    pub otlp_endpoint: Option<String>,
    /// Called before every step of the engine with what it holds; tests inject faults here.
    #[doc(hidden)]
    pub step_hook: Option<StepHook>,
}

impl Default for HouseConfig {
    fn default() -> Self {
        Self {
            keys: None,
            max_queue: 1024,
            max_wait: None,
            request_timeout: None,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            max_connections: 2048,
            tls: None,
            cors: Vec::new(),
            log: LogConfig::default(),
            log_prompts: None,
            otlp_endpoint: None,
            step_hook: None,
        }
    }
}

/// The rules at work.
#[derive(Debug, Default)]
pub struct House {
    /// Who may call; `None` is everybody.
    pub keys: Option<KeyStore>,
    /// Who used what.
    pub ledger: Option<Ledger>,
    /// How fast.
    pub limiter: Limiter,
    /// Who may wait.
    pub admission: Admission,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// One line per request.
    pub log: AccessLog,
    /// Bodies of requests.
    pub prompts: Option<PromptLog>,
    /// Which web pages may call.
    pub cors: Cors,
    /// Traces.
    pub spans: Option<Spans>,
    /// For the body of a request.
    pub body_timeout: Duration,
    /// From a request's arrival to the end of its reply.
    pub request_timeout: Option<Duration>,
    /// The model's name, once it is loaded.
    pub model: OnceLock<String>,
    draining: AtomicBool,
    in_flight: AtomicUsize,
    ended: Notify,
    sequence: AtomicU64,
}

impl House {
    /// Open the files. `slots` is the engine's `max_batch`.
    pub fn open(config: &HouseConfig, slots: usize) -> Result<Self> {
        let keys = config.keys.as_deref().map(KeyStore::open).transpose()?;
        if keys.as_ref().is_some_and(KeyStore::is_empty) {
            eprintln!("note: the file of --keys holds no key, so every call is refused; make one with `llm-serve keys create`");
        }
        Ok(Self {
            keys,
            ledger: config.keys.as_deref().map(Ledger::open).transpose()?,
            limiter: Limiter::default(),
            admission: Admission::new(QueueLimits { slots, max_queue: config.max_queue, max_wait: config.max_wait }),
            metrics: Arc::default(),
            log: AccessLog::open(&config.log).map_err(|e| Error::Settings(format!("the access log: {e}")))?,
            prompts: config.log_prompts.as_deref().map(PromptLog::open).transpose().map_err(|e| Error::Settings(format!("--log-prompts: {e}")))?,
            cors: Cors::new(config.cors.clone()),
            spans: config.otlp_endpoint.as_deref().map(Spans::start).transpose()?,
            body_timeout: config.body_timeout,
            request_timeout: config.request_timeout,
            ..Self::default()
        })
    }

    /// From now on new requests are turned away.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// The server is about to end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Resolves when no call is under way.
    pub async fn idle(&self) {
        loop {
            let ended = self.ended.notified();
            if self.in_flight.load(Ordering::SeqCst) == 0 {
                return;
            }
            ended.await;
        }
    }

    /// A name for a request that came without one: unique over restarts, and no randomness to explain.
    pub fn next_id(&self) -> String {
        format!("req-{:x}{:08x}", crate::clock::now(), self.sequence.fetch_add(1, Ordering::Relaxed))
    }
}

/// A call that counts as under way until it is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<House>);

impl InFlight {
    /// Count it.
    pub fn new(house: &Arc<House>) -> Self {
        house.in_flight.fetch_add(1, Ordering::SeqCst);
        house.metrics.in_flight.add(1.0);
        Self(Arc::clone(house))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.metrics.in_flight.add(-1.0);
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.0.ended.notify_waiters();
    }
}
