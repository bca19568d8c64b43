//! A small HTTP/1.1 client over hyper, for [`bench`](crate::bench) and [`route`](crate::route): connections are kept between
//! requests, replies are streams of bytes.
//!
//! It says how far a request got when it fails, because that decides whether it may be sent again: [`Failure::Connect`]
//! means that the server saw nothing of it, [`Failure::Lost`] that it may have, but that no byte of a reply came back.
//!
//! Deliberately absent: TLS, redirects, proxies, cookies, decompression.

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Request, Uri, header, response};
use futures_core::Stream;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// A server on the network answers a connection within this time, or not at all.
const CONNECT: Duration = Duration::from_secs(5);
/// Idle connections that are kept to one server.
const KEPT: usize = 128;
/// And for how long: shorter than servers keep them, so that a request does not meet a connection that is just being closed.
const IDLE: Duration = Duration::from_secs(10);

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection: the server saw nothing of the request.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// The connection ended before the head of a reply.
    #[error("the connection ended before a reply: {0}")]
    Lost(hyper::Error),
}

type Pool = Mutex<Vec<(Instant, SendRequest<Body>)>>;

/// One server.
#[derive(Debug, Clone)]
pub struct Client {
    base: Arc<str>,
    host: Arc<str>,
    port: u16,
    name: HeaderValue,
    idle: Arc<Pool>,
}

/// A reply whose body is still to be read.
#[derive(Debug)]
pub struct Reply {
    /// Status and headers.
    pub head: response::Parts,
    /// What follows them.
    pub body: ReplyBody,
}

impl Client {
    /// `http://host:port`, with or without `/v1`.
    pub fn new(url: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{url}: {why}; expected an address such as http://127.0.0.1:8080");
        let uri: Uri = url.trim().parse().map_err(|_| wrong("not an address"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(wrong("https is not supported here, put the TLS in front")),
            _ => return Err(wrong("no http:// in front")),
        }
        if !matches!(uri.path().trim_end_matches('/'), "" | "/v1") || uri.query().is_some() {
            return Err(wrong("it must not have a path"));
        }
        let authority = uri.authority().filter(|a| !a.as_str().contains('@')).ok_or_else(|| wrong("no host"))?;
        let name = HeaderValue::from_str(authority.as_str()).map_err(|_| wrong("not a host"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        Ok(Self {
            base: format!("http://{authority}").into(),
            host: host.into(),
            port: authority.port_u16().unwrap_or(80),
            name,
            idle: Arc::default(),
        })
    }

    /// `http://host:port`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Send a request whose URI is a path; `Host` and `Content-Length` are set here.
    pub async fn send(&self, request: &Request<Bytes>) -> Result<Reply, Failure> {
        while let Some(mut sender) = self.kept() {
            if sender.ready().await.is_err() {
                continue;
            }
            match self.over(sender, request).await {
                // The connection had ended before anything was sent over it: then, and only then, a new one is tried.
                Err(Failure::Lost(error)) if error.is_canceled() => {}
                outcome => return outcome,
            }
        }
        self.over(self.connect().await?, request).await
    }

    fn kept(&self) -> Option<SendRequest<Body>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, sender)| !sender.is_closed() && since.elapsed() < IDLE);
        idle.pop().map(|(_, sender)| sender)
    }

    async fn connect(&self) -> Result<SendRequest<Body>, Failure> {
        let late = |_| Failure::Connect(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer to the connection attempt"));
        let stream = tokio::time::timeout(CONNECT, TcpStream::connect((&*self.host, self.port))).await.map_err(late)?.map_err(Failure::Connect)?;
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Failure::Lost)?;
        // Its errors reach whoever waits for the reply.
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn over(&self, mut sender: SendRequest<Body>, request: &Request<Bytes>) -> Result<Reply, Failure> {
        sender.ready().await.map_err(Failure::Lost)?;
        let mut sent = Request::builder().method(request.method().clone()).uri(request.uri().clone()).body(Body::from(request.body().clone()));
        if let Ok(sent) = &mut sent {
            sent.headers_mut().clone_from(request.headers());
            sent.headers_mut().insert(header::HOST, self.name.clone());
        }
        // The parts come from a valid request, so they make one again.
        let sent = sent.map_err(|e| Failure::Connect(std::io::Error::other(e)))?;
        let (head, incoming) = sender.send_request(sent).await.map_err(Failure::Lost)?.into_parts();
        Ok(Reply { head, body: ReplyBody { incoming, kept: Some((sender, Arc::clone(&self.idle))) } })
    }
}

/// The bytes of a reply as they come. Read to its end, the connection serves the next request; dropped before, it is closed, which tells
/// the server that nobody reads any more.
#[derive(Debug)]
pub struct ReplyBody {
    incoming: Incoming,
    kept: Option<(SendRequest<Body>, Arc<Pool>)>,
}

impl ReplyBody {
    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// All of it, if it is not larger than `limit`.
    pub async fn all(mut self, limit: usize) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        while let Some(part) = self.next().await {
            bytes.extend_from_slice(&part.map_err(|e| format!("the reply broke off: {e}"))?);
            if bytes.len() > limit {
                return Err(format!("the reply is larger than {limit} bytes"));
            }
        }
        Ok(bytes)
    }
}

impl Stream for ReplyBody {
    type Item = Result<Bytes, hyper::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            return Poll::Ready(match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => Some(Ok(bytes)),
                    // Trailers.
                    Err(_) => continue,
                },
                Some(Err(error)) => {
                    self.kept = None;
                    Some(Err(error))
                }
                None => {
                    if let Some((sender, idle)) = self.kept.take() {
                        let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
                        if idle.len() < KEPT && !sender.is_closed() {
                            idle.push((Instant::now(), sender));
                        }
                    }
                    None
                }
            });
        }
    }
}

/// Server-sent events (WHATWG HTML, 9.2) out of bytes that arrive in any pieces: the `data` of each.
#[derive(Debug, Default)]
pub struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
}

impl Events {
    /// Take bytes; `event` gets the data of every event that they complete.
    pub fn push(&mut self, bytes: &[u8], mut event: impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            self.line.extend_from_slice(piece);
            if self.line.last() != Some(&b'\n') {
                continue;
            }
            let line = self.line.trim_ascii_end();
            if let Some(data) = line.strip_prefix(b"data:") {
                if !self.data.is_empty() {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
            } else if line.is_empty() && !self.data.is_empty() {
                event(&self.data);
                self.data.clear();
            }
            self.line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (url, base) in [("http://a:1/v1/", "http://a:1"), ("http://[::1]:8080", "http://[::1]:8080"), (" http://a ", "http://a")] {
            assert_eq!(Client::new(url).unwrap().base(), base);
        }
        for url in ["https://a", "a:80", "http://a/x", "http://u@a/", "http://", "ftp://a", "http://a/?q"] {
            assert!(Client::new(url).is_err(), "{url}");
        }
    }

    #[test]
    fn events_do_not_depend_on_how_the_bytes_are_cut() {
        let text = b": hello\n\ndata: {\"a\":\ndata: 1}\r\n\r\nevent: x\ndata:2\n\ndata: [DONE]\n\n";
        for size in 1..text.len() {
            let (mut events, mut got) = (Events::default(), Vec::new());
            for piece in text.chunks(size) {
                events.push(piece, |data| got.push(String::from_utf8(data.to_vec()).unwrap()));
            }
            assert_eq!(got, ["{\"a\":\n1}", "2", "[DONE]"], "pieces of {size}");
        }
    }
}
