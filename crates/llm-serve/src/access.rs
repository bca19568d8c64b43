//! One line per request: who, what, status, time, token counts. Never a prompt, never a reply, never a key.
//!
//! The line is written when the reply is *over*: for streams after the last event, and also when the client went away
//! before that, which is why it hangs on the body and on `Drop`.

use crate::call::Call;
use crate::clock;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::{StatusCode, header};
use axum::response::Response;
use futures_core::Stream;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

/// What a handler contributes to the line of its request.
#[derive(Debug, Default)]
pub struct Tally {
    prompt: AtomicUsize,
    cached: AtomicUsize,
    completion: AtomicUsize,
    cut: AtomicBool,
    queue_us: AtomicU64,
    first_us: AtomicU64,
}

impl Tally {
    /// Tokens so far.
    pub fn set(&self, prompt: usize, completion: usize) {
        self.prompt.store(prompt, Ordering::Relaxed);
        self.completion.store(completion, Ordering::Relaxed);
    }

    /// A request of the call left the queue.
    pub fn started(&self, cached: usize, queue: Duration) {
        self.cached.fetch_add(cached, Ordering::Relaxed);
        self.queue_us.fetch_max(micros(queue), Ordering::Relaxed);
    }

    /// The first token came so long after the request; later ones change nothing.
    pub fn first_token(&self, after: Duration) {
        let _ = self.first_us.compare_exchange(0, micros(after).max(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Tokens of the prompts, tokens of them that were in the cache, tokens generated.
    pub fn tokens(&self) -> (usize, usize, usize) {
        (self.prompt.load(Ordering::Relaxed), self.cached.load(Ordering::Relaxed), self.completion.load(Ordering::Relaxed))
    }

    /// Time in the queue, and until the first token (zero: there was none).
    pub fn times(&self) -> (Duration, Duration) {
        let time = |us: &AtomicU64| Duration::from_micros(us.load(Ordering::Relaxed));
        (time(&self.queue_us), time(&self.first_us))
    }

    /// The reply is under way; until [`Tally::complete`] its end counts as a disconnect.
    pub fn begin(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// The reply was produced to its end.
    pub fn complete(&self) {
        self.cut.store(false, Ordering::Relaxed);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// How the lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object on each line.
    Json,
}

/// Where the lines go and how they look.
#[derive(Debug, Clone, Default)]
pub struct LogConfig {
    /// How they look.
    pub format: LogFormat,
    /// A file that grows; `None` is stderr.
    pub file: Option<PathBuf>,
}

/// The access log.
#[derive(Debug, Default)]
pub struct AccessLog {
    format: LogFormat,
    file: Option<Mutex<std::fs::File>>,
}

impl AccessLog {
    /// Open the file.
    pub fn open(config: &LogConfig) -> std::io::Result<Self> {
        Ok(Self { format: config.format, file: config.file.as_deref().map(append).transpose()?.map(Mutex::new) })
    }

    fn write(&self, line: &str) {
        match &self.file {
            None => eprintln!("{line}"),
            Some(file) => {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                // In one piece, so that lines of two processes do not mix. A full disk must not end the service.
                let _ = file.write_all(format!("{line}\n").as_bytes());
            }
        }
    }
}

/// A file that only its owner reads and that grows.
pub(crate) fn append(path: &Path) -> std::io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(|e| std::io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// The line of a request, written when dropped.
pub(crate) struct Line {
    call: Arc<Call>,
    status: Option<StatusCode>,
    bytes: u64,
}

impl Line {
    pub fn new(call: Arc<Call>) -> Self {
        Self { call, status: None, bytes: 0 }
    }

    /// Keep the line for as long as the body of a stream lives; the line of any other response ends here.
    pub fn follow(mut self, response: Response) -> Response {
        self.status = Some(response.status());
        let streamed = response.headers().get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream"));
        if !streamed {
            self.bytes = axum::body::HttpBody::size_hint(response.body()).exact().unwrap_or(0);
            return response;
        }
        let (parts, body) = response.into_parts();
        Response::from_parts(parts, Body::from_stream(Logged { body: body.into_data_stream(), line: self }))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Call { id, key, method, path, peer, tally, house, .. } = &*self.call;
        // 499: nginx's number for "the client closed the connection before there was a status".
        let status = self.status.map_or(499, |s| s.as_u16());
        let total = self.call.started.elapsed();
        house.metrics.http(self.call.endpoint, status, total);
        let (prompt, cached, completion) = tally.tokens();
        let (queue, first) = tally.times();
        let (cut, ms) = (tally.cut.load(Ordering::Relaxed), |d: Duration| (d.as_secs_f64() * 1e4).round() / 10.0);
        let line = match house.log.format {
            LogFormat::Text => {
                let peer = peer.map_or_else(|| "-".to_string(), |p| p.ip().to_string());
                let name = key.as_ref().map(|k| format!(" key={}", k.name)).unwrap_or_default();
                let tokens = if prompt > 0 { format!(" prompt={prompt} completion={completion}") } else { String::new() };
                let cut = if cut { " cut" } else { "" };
                format!("{peer} {method} {path} {status} {:.1}ms{tokens}{cut} id={id}{name}", ms(total))
            }
            LogFormat::Json => {
                let first = (!first.is_zero()).then(|| ms(first));
                json!({
                    "time": clock::timestamp(SystemTime::now()), "id": id, "key": key.as_ref().map(|k| &k.name), "key_id": key.as_ref().map(|k| &k.id),
                    "peer": peer.map(|p| p.ip().to_string()), "method": method.as_str(), "path": path, "status": status, "bytes": self.bytes,
                    "prompt_tokens": prompt, "cached_tokens": cached, "completion_tokens": completion,
                    "queue_ms": ms(queue), "ttft_ms": first, "total_ms": ms(total), "cut": cut,
                })
                .to_string()
            }
        };
        house.log.write(&line);
        if let Some(spans) = &house.spans {
            spans.export(&self.call, status);
        }
    }
}

struct Logged {
    body: BodyDataStream,
    line: Line,
}

impl Stream for Logged {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Pin::new(&mut self.body).poll_next(cx);
        if let Poll::Ready(Some(Ok(bytes))) = &polled {
            self.line.bytes += bytes.len() as u64;
        }
        polled
    }
}

/// Bodies of requests, for operators who asked for them with `--log-prompts`.
#[derive(Debug)]
pub struct PromptLog(Mutex<std::fs::File>);

impl PromptLog {
    /// Open the file.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        append(path).map(Mutex::new).map(Self)
    }

    /// One JSON line: id, key and body.
    pub fn write(&self, call: &Call, body: &[u8]) {
        let text = || serde_json::Value::String(String::from_utf8_lossy(body).into_owned());
        let body = serde_json::from_slice(body).unwrap_or_else(|_| text());
        let line = json!({
            "time": clock::timestamp(SystemTime::now()), "id": call.id, "key": call.key.as_ref().map(|k| &k.name), "path": call.path, "body": body,
        });
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk must not end the service.
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}
