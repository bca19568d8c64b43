//! The handler: find a replica, send the request, pass the reply on.
//!
//! A request is sent again, to another replica, as long as nothing of a reply has reached the client: after a failed connection, after
//! one that ended before the head of a reply, and after a refusal for lack of room (503, or 429 that is not about the caller's own
//! allowance). Each replica is asked once. A short reply that is not a stream is read whole first, so that it too can
//! be asked for elsewhere when it breaks.

use super::balance::{self, Bound, Replica};
use super::metrics::{self, Totals};
use super::relay::{Dialect, EventRelay, PlainRelay};
use super::upstream::{Busy, Upstream};
use crate::client::{Failure, Reply};
use crate::error::ApiError;
use axum::Router as Paths;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A reply up to this size is read whole before any of it is passed on.
const WHOLE: usize = 4 << 20;
/// A replica that refuses without saying for how long is left alone for this time.
const REFUSED: Duration = Duration::from_secs(1);
/// What concerns one connection only (RFC 9110, 7.6.1), and what the client of each side sets itself.
const HOP: [&str; 9] =
    ["connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade", "expect"];
/// Codes of 429 that another replica must not be asked to overlook.
const OWN_ALLOWANCE: [&str; 4] = ["rate_limit_exceeded", "insufficient_quota", "quota_exceeded", "rate_limit_error"];

/// How the router behaves.
#[derive(Debug, Clone)]
pub struct RouterConfig {
    /// Addresses of the replicas.
    pub upstreams: Vec<String>,
    /// Bounds of a replica's load.
    pub bound: Bound,
    /// Characters of the prompt that decide where it goes; 0 = no affinity.
    pub affinity_characters: usize,
    /// Largest request body in bytes.
    pub body_limit: usize,
}

/// State behind the paths.
#[derive(Debug)]
pub struct Router {
    /// The replicas.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Set when the program is about to end: `/ready` says so.
    pub draining: AtomicBool,
    config: RouterConfig,
    totals: Totals,
}

impl Router {
    /// A router over `config.upstreams`, none of which is known to be ready yet.
    pub fn new(config: RouterConfig) -> Result<Self, String> {
        let upstreams: Vec<_> = config.upstreams.iter().map(|url| Upstream::new(url).map(Arc::new)).collect::<Result<_, _>>()?;
        for (i, upstream) in upstreams.iter().enumerate() {
            if upstreams[..i].iter().any(|other| other.client.base() == upstream.client.base()) {
                return Err(format!("{} is named twice", upstream.client.base()));
            }
        }
        Ok(Self { upstreams, draining: AtomicBool::new(false), config, totals: Totals::default() })
    }

    /// The replica for a request that `tried` could not serve. If all others are full, one that only said so may still be asked.
    fn choose(&self, key: Option<u64>, tried: &[usize]) -> Option<(usize, balance::Choice)> {
        let pick = |usable: fn(&Upstream) -> bool| {
            let replicas: Vec<_> = (self.upstreams.iter().enumerate())
                .map(|(i, u)| Replica { name: u.client.base(), load: u.load(), usable: usable(u) && !tried.contains(&i) })
                .collect();
            balance::choose(key, &replicas, self.config.bound)
        };
        pick(Upstream::usable).or_else(|| pick(Upstream::up))
    }
}

/// The paths of the router itself; every other path goes to a replica.
pub fn service(router: Arc<Router>) -> Paths {
    Paths::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(page))
        .fallback(forward)
        .layer(DefaultBodyLimit::disable())
        .with_state(router)
}

/// 200 as long as the program runs.
async fn health(State(router): State<Arc<Router>>) -> Response {
    let replicas: Vec<_> = router.upstreams.iter().map(|u| json!({"url": u.client.base(), "ready": u.up(), "active_requests": u.load()})).collect();
    axum::Json(json!({"status": "ok", "upstreams": replicas})).into_response()
}

/// 200 while a request would find a replica.
async fn ready(State(router): State<Arc<Router>>) -> Response {
    let (status, word) = match router.draining.load(Ordering::Relaxed) {
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        false if router.upstreams.iter().any(|u| u.up()) => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "no replica is ready"),
    };
    (status, axum::Json(json!({"status": word}))).into_response()
}

async fn page(State(router): State<Arc<Router>>) -> Response {
    let text = metrics::render(&router.totals, &router.upstreams);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn forward(State(router): State<Arc<Router>>, request: Request) -> Result<Response, ApiError> {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_string();
    if path.ends_with("load_lora_adapter") {
        let message = "the router does not pass this on, because it concerns every replica: send it to each of them";
        return Err(with_status(StatusCode::NOT_IMPLEMENTED, ApiError::bad_request(message)));
    }
    let body = axum::body::to_bytes(body, router.config.body_limit).await.map_err(|_| ApiError::too_large(router.config.body_limit))?;
    let keyed = parts.method == Method::POST && router.config.affinity_characters > 0;
    let key = keyed.then(|| balance::key(&body, router.config.affinity_characters)).flatten();
    let target = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let mut sent = axum::http::Request::builder().method(parts.method.clone()).uri(target);
    if let Some(headers) = sent.headers_mut() {
        headers.clone_from(&parts.headers);
        strip(headers);
        headers.remove(header::CONTENT_LENGTH);
        if let Some(peer) = parts.extensions.get::<ConnectInfo<SocketAddr>>() {
            forwarded_for(headers, peer.0);
        }
    }
    let sent = sent.body(body).map_err(|e| ApiError::bad_request(format!("the request cannot be passed on: {e}")))?;

    let mut tried = Vec::new();
    let mut refusal = None;
    let mut lost = false;
    while let Some((index, choice)) = router.choose(key, &tried) {
        tried.push(index);
        let busy = router.upstreams[index].begin();
        match attempt(busy, &sent, &path).await {
            Outcome::Reply(response) => {
                router.totals.chose(choice);
                router.totals.waited(started.elapsed());
                return Ok(*response);
            }
            Outcome::Refused(response) => refusal = Some(response),
            Outcome::Nothing => lost = true,
        }
    }
    router.totals.unserved.fetch_add(1, Ordering::Relaxed);
    match refusal {
        // The last word of a server that is there.
        Some(response) => Ok(*response),
        None if lost => Err(with_status(StatusCode::BAD_GATEWAY, ApiError::unavailable("no replica could be reached; try again"))),
        None => Err(ApiError::unavailable("no replica is ready; try again")),
    }
}

fn with_status(status: StatusCode, mut error: ApiError) -> ApiError {
    error.status = status;
    error
}

enum Outcome {
    /// For the client.
    Reply(Box<Response>),
    /// For the client, if nobody else has room.
    Refused(Box<Response>),
    /// No reply.
    Nothing,
}

async fn attempt(busy: Busy, sent: &axum::http::Request<Bytes>, path: &str) -> Outcome {
    let upstream = Arc::clone(&busy.0);
    let reply = match upstream.client.send(sent).await {
        Ok(reply) => reply,
        Err(failure) => {
            let count = if matches!(failure, Failure::Connect(_)) { &upstream.counts.unreachable } else { &upstream.counts.lost };
            count.fetch_add(1, Ordering::Relaxed);
            upstream.failed();
            return Outcome::Nothing;
        }
    };
    let status = reply.head.status;
    let Some(Whole { response, body }) = relay(reply, busy, path).await else { return Outcome::Nothing };
    let full = match status {
        StatusCode::SERVICE_UNAVAILABLE => true,
        StatusCode::TOO_MANY_REQUESTS => !OWN_ALLOWANCE.contains(&code(&body).as_str()),
        _ => false,
    };
    if full {
        upstream.counts.refused.fetch_add(1, Ordering::Relaxed);
        upstream.full_for(retry_after(response.headers()).unwrap_or(REFUSED));
        return Outcome::Refused(Box::new(response));
    }
    upstream.counts.reply(status.as_u16());
    Outcome::Reply(Box::new(response))
}

/// A response, and its body if that was read whole.
struct Whole {
    response: Response,
    body: Bytes,
}

/// `None`: it broke before anything was passed on.
async fn relay(reply: Reply, busy: Busy, path: &str) -> Option<Whole> {
    let Reply { mut head, body } = reply;
    let length = head.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    let events = head.headers.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream"));
    strip(&mut head.headers);
    head.headers.insert("x-served-by", busy.0.name.clone());
    let streamed = |head: response::Parts, body| Some(Whole { response: Response::from_parts(head, body), body: Bytes::new() });
    if events {
        head.headers.remove(header::CONTENT_LENGTH);
        // nginx, if it stands in front, must not collect events either.
        head.headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        return streamed(head, Body::from_stream(EventRelay::new(body, busy, Dialect::of(path))));
    }
    if length.is_none_or(|n| n > WHOLE) {
        return streamed(head, Body::from_stream(PlainRelay::new(body, busy)));
    }
    match body.all(WHOLE).await {
        Ok(bytes) => {
            let bytes = Bytes::from(bytes);
            Some(Whole { response: Response::from_parts(head, Body::from(bytes.clone())), body: bytes })
        }
        Err(_) => {
            busy.0.counts.lost.fetch_add(1, Ordering::Relaxed);
            busy.0.failed();
            None
        }
    }
}

/// OpenAI's `error.code`, or `error.type` of an error without one.
fn code(body: &[u8]) -> String {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let word = |name: &str| body["error"][name].as_str().map(str::to_string);
    word("code").or_else(|| word("type")).unwrap_or_default()
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.clamp(1, 60)))
}

/// Remove what concerns one connection only, also what `Connection` names.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = (headers.get_all(header::CONNECTION).iter())
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    HOP.iter().for_each(|&name| drop(headers.remove(name)));
    named.iter().for_each(|name| drop(headers.remove(name)));
}

fn forwarded_for(headers: &mut HeaderMap, peer: SocketAddr) {
    let name = HeaderName::from_static("x-forwarded-for");
    let before: Vec<_> = headers.get_all(&name).iter().filter_map(|v| v.to_str().ok()).collect();
    let value = before.into_iter().map(str::to_string).chain([peer.ip().to_string()]).collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::from_str(&value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_one_connection_is_not_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("connection", "close, X-Secret"), ("x-secret", "1"), ("te", "trailers"), ("authorization", "Bearer k"), ("x-a", "b")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        strip(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "x-a"]);
        forwarded_for(&mut headers, "10.0.0.1:5".parse().unwrap());
        forwarded_for(&mut headers, "[::1]:5".parse().unwrap());
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1, ::1");
    }

    #[test]
    fn a_callers_own_allowance_is_told_from_a_full_server() {
        assert!(OWN_ALLOWANCE.contains(&code(br#"{"error":{"code":"rate_limit_exceeded"}}"#).as_str()));
        assert!(OWN_ALLOWANCE.contains(&code(br#"{"error":{"type":"rate_limit_error","code":null}}"#).as_str()));
        assert_eq!(code(br#"{"error":{"type":"server_error","code":"overloaded"}}"#), "overloaded");
        assert_eq!(code(b"busy"), "");
    }

    #[test]
    fn a_replica_cannot_be_named_twice() {
        let config = |upstreams: &[&str]| RouterConfig {
            upstreams: upstreams.iter().map(|u| u.to_string()).collect(),
            bound: Bound { factor: 1.25, spill_after: 4 },
            affinity_characters: 100,
            body_limit: 1000,
        };
        assert!(Router::new(config(&["http://a:1", "http://a:1/v1"])).unwrap_err().contains("twice"));
        assert!(Router::new(config(&["http://a:1", "http://a:2"])).is_ok());
    }
}
