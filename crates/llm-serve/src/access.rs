//! One line per request on stderr: who, what, status, time, token counts. Never a prompt, never a reply.
//!
//! The line is written when the reply is *over*: for streams after the last event, and also when the client went away
//! before that, which is why it hangs on the body and on `Drop`.

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{ConnectInfo, Request};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use futures_core::Stream;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

/// Longest path that is shown.
const MAX_PATH: usize = 100;

/// What a handler contributes to the line of its request.
#[derive(Debug, Default)]
pub struct Tally {
    prompt: AtomicUsize,
    completion: AtomicUsize,
    cut: AtomicBool,
}

impl Tally {
    /// Tokens so far.
    pub fn set(&self, prompt: usize, completion: usize) {
        self.prompt.store(prompt, Ordering::Relaxed);
        self.completion.store(completion, Ordering::Relaxed);
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

struct Line {
    start: Instant,
    peer: Option<SocketAddr>,
    what: String,
    status: Option<StatusCode>,
    tally: Arc<Tally>,
}

impl Drop for Line {
    fn drop(&mut self) {
        let peer = self.peer.map_or_else(|| "-".to_string(), |p| p.ip().to_string());
        // 499: nginx's number for "the client closed the connection before there was a status".
        let status = self.status.map_or(499, |s| s.as_u16());
        let ms = self.start.elapsed().as_secs_f64() * 1e3;
        let prompt = self.tally.prompt.load(Ordering::Relaxed);
        let tokens =
            if prompt > 0 { format!(" prompt={prompt} completion={}", self.tally.completion.load(Ordering::Relaxed)) } else { String::new() };
        let cut = if self.tally.cut.load(Ordering::Relaxed) { " cut" } else { "" };
        eprintln!("{peer} {} {status} {ms:.1}ms{tokens}{cut}", self.what);
    }
}

/// The middleware.
pub async fn log(mut request: Request, next: Next) -> Response {
    let tally = Arc::new(Tally::default());
    request.extensions_mut().insert(Arc::clone(&tally));
    let path: String = request.uri().path().chars().take(MAX_PATH).collect();
    let mut line = Line {
        start: Instant::now(),
        peer: request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0),
        what: format!("{} {path}", request.method()),
        status: None,
        tally,
    };
    let response = next.run(request).await;
    line.status = Some(response.status());
    let streamed = response.headers().get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream"));
    if !streamed {
        return response;
    }
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, Body::from_stream(Logged { body: body.into_data_stream(), _line: line }))
}

struct Logged {
    body: BodyDataStream,
    _line: Line,
}

impl Stream for Logged {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}
