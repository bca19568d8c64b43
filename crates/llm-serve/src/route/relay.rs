//! A reply's body on its way to the client.
//!
//! Bytes are passed on as they come. Of an event stream an event that is not complete waits for its rest, which no client
//! could use anyway: so when the replica dies in the middle, the client has whole events, then one that says what happened, in
//! the form of the API it uses, and then the end.

use super::upstream::Busy;
use crate::client::ReplyBody;
use axum::body::Bytes;
use futures_core::Stream;
use serde_json::json;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

/// An event larger than this is passed on in pieces.
const LARGEST_EVENT: usize = 1 << 20;

/// How a broken stream is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `data: {"error": ...}`.
    OpenAi,
    /// `event: error`.
    Anthropic,
}

impl Dialect {
    /// Of a path.
    pub fn of(path: &str) -> Self {
        if path.starts_with("/v1/messages") { Self::Anthropic } else { Self::OpenAi }
    }

    /// The last event of a stream that broke.
    pub fn broken(self, message: &str) -> String {
        match self {
            Self::OpenAi => {
                let error = json!({"error": {"message": message, "type": "server_error", "param": null, "code": "upstream_lost"}});
                format!("data: {error}\n\n")
            }
            Self::Anthropic => {
                let error = json!({"type": "error", "error": {"type": "api_error", "message": message}});
                format!("event: error\ndata: {error}\n\n")
            }
        }
    }
}

/// An event stream. Dropping it closes the connection to the replica, which cancels the request there.
#[derive(Debug)]
pub struct EventRelay {
    body: ReplyBody,
    busy: Option<Busy>,
    dialect: Dialect,
    /// The beginning of an event.
    rest: Vec<u8>,
}

impl EventRelay {
    /// `busy` ends with the stream.
    pub fn new(body: ReplyBody, busy: Busy, dialect: Dialect) -> Self {
        Self { body, busy: Some(busy), dialect, rest: Vec::new() }
    }
}

impl Stream for EventRelay {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.busy.is_none() {
            return Poll::Ready(None);
        }
        loop {
            match ready!(Pin::new(&mut self.body).poll_next(cx)) {
                Some(Ok(bytes)) => {
                    let whole = if self.rest.is_empty() && complete(&bytes) == bytes.len() {
                        bytes
                    } else {
                        self.rest.extend_from_slice(&bytes);
                        let end = if self.rest.len() > LARGEST_EVENT { self.rest.len() } else { complete(&self.rest) };
                        Bytes::from(self.rest.drain(..end).collect::<Vec<_>>())
                    };
                    if !whole.is_empty() {
                        return Poll::Ready(Some(Ok(whole)));
                    }
                }
                Some(Err(_)) => {
                    let Some(busy) = self.busy.take() else { return Poll::Ready(None) };
                    busy.0.counts.broken.fetch_add(1, Ordering::Relaxed);
                    busy.0.failed();
                    let message = "the replica that was answering is gone; what came before this is all there is of the answer";
                    return Poll::Ready(Some(Ok(Bytes::from(self.dialect.broken(message)))));
                }
                None => {
                    self.busy = None;
                    let rest = std::mem::take(&mut self.rest);
                    return Poll::Ready((!rest.is_empty()).then(|| Ok(Bytes::from(rest))));
                }
            }
        }
    }
}

/// Where the last complete event ends: behind an empty line.
fn complete(bytes: &[u8]) -> usize {
    let ends = [b"\n\n".as_slice(), b"\n\r\n"];
    ends.iter().filter_map(|end| bytes.windows(end.len()).rposition(|w| w == *end).map(|at| at + end.len())).max().unwrap_or(0)
}

/// Any other body; if it breaks, the client's connection breaks, which is how HTTP says so.
#[derive(Debug)]
pub struct PlainRelay {
    body: ReplyBody,
    busy: Busy,
}

impl PlainRelay {
    /// `busy` ends with the body.
    pub fn new(body: ReplyBody, busy: Busy) -> Self {
        Self { body, busy }
    }
}

impl Stream for PlainRelay {
    type Item = Result<Bytes, hyper::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = ready!(Pin::new(&mut self.body).poll_next(cx));
        if matches!(item, Some(Err(_))) {
            self.busy.0.counts.broken.fetch_add(1, Ordering::Relaxed);
        }
        Poll::Ready(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_complete_behind_an_empty_line() {
        assert_eq!(complete(b"data: 1"), 0);
        assert_eq!(complete(b"data: 1\n"), 0);
        assert_eq!(complete(b"data: 1\n\ndata: 2\n"), 9);
        assert_eq!(complete(b"data: 1\r\n\r\ndata"), 11);
        assert_eq!(complete(b": ping\n\n"), 8);
    }

    #[test]
    fn a_break_is_told_in_the_dialect_of_the_path() {
        assert!(Dialect::of("/v1/chat/completions").broken("x").starts_with("data: {\"error\":{\"message\":\"x\""));
        assert!(Dialect::of("/v1/messages").broken("x").starts_with("event: error\ndata: {\"type\":\"error\""));
    }
}
