//! The door: every call passes here before a handler sees it, and its response on the way out.
//!
//! In this order: a name (`x-request-id`), preflights of browsers, the drain, the key, its scope, its requests per minute, and a time limit
//! on the body. Which scope a path needs is decided on the same string that the router compares; a path nobody thought of needs `admin`.

use crate::access::{Line, Tally};
use crate::api::anthropic_reply::error_body;
use crate::api::openapi::path_is_anthropic;
use crate::app::App;
use crate::call::{Call, too_fast};
use crate::clock;
use crate::error::{ApiError, Refused};
use crate::house::{House, InFlight};
use crate::keys::{Key, Scope};
use crate::limits::What;
use crate::metrics::catalogue::Reason;
use axum::Json;
use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::time::Sleep;

/// Longest path that is shown.
const MAX_PATH: usize = 100;
/// Longest id that is taken from a client.
const MAX_ID: usize = 128;
/// A body that nobody wants is still read for so long and so far, because a client that writes does not see an early answer.
const DISCARD_TIME: Duration = Duration::from_secs(5);
const DISCARD_BYTES: usize = 256 << 20;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Who may use a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Everybody, also while the server drains.
    Nothing,
    /// Everybody with a key.
    Key,
    /// A key with this scope.
    Scope(Scope),
}

/// Our paths, as labels of metrics and for the scopes. `/v1/models/{id}` stands for all models.
const PATHS: &[(&str, Need)] = &[
    ("/", Need::Nothing),
    ("/health", Need::Nothing),
    ("/ready", Need::Nothing),
    ("/openapi.json", Need::Nothing),
    ("/metrics", Need::Scope(Scope::Metrics)),
    ("/v1/chat/completions", Need::Scope(Scope::Chat)),
    ("/v1/messages", Need::Scope(Scope::Chat)),
    ("/v1/messages/count_tokens", Need::Scope(Scope::Chat)),
    ("/v1/responses", Need::Scope(Scope::Chat)),
    ("/v1/completions", Need::Scope(Scope::Completions)),
    ("/v1/embeddings", Need::Scope(Scope::Embeddings)),
    ("/v1/rerank", Need::Scope(Scope::Embeddings)),
    ("/v1/models", Need::Key),
    ("/tokenize", Need::Key),
    ("/detokenize", Need::Key),
    ("/apply-template", Need::Key),
    ("/v1/load_lora_adapter", Need::Scope(Scope::Admin)),
    ("/v1/unload_lora_adapter", Need::Scope(Scope::Admin)),
];

/// The label of a path, and what it needs.
fn place(method: &Method, path: &str) -> (&'static str, Need) {
    if let Some(&(known, need)) = PATHS.iter().find(|(known, _)| *known == path) {
        return (known, need);
    }
    if path.starts_with("/v1/models/") {
        return ("/v1/models/{id}", if *method == Method::GET { Need::Key } else { Need::Scope(Scope::Admin) });
    }
    // Files of the chat page hold no data; everything else that is new must be listed above to be open.
    let page = path.starts_with("/chat/") || path == "/chat" || path == "/favicon.ico";
    if page && (*method == Method::GET || *method == Method::HEAD) {
        return ("/chat", Need::Nothing);
    }
    ("other", Need::Scope(Scope::Admin))
}

/// The middleware.
pub async fn handle(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let house = &app.house;
    let (method, path) = (request.method().clone(), request.uri().path().to_string());
    let (endpoint, need) = place(&method, &path);
    let id = request_id(request.headers()).unwrap_or_else(|| house.next_id());
    let tally = Arc::new(Tally::default());
    request.extensions_mut().insert(Arc::clone(&tally));
    let origin = house.cors.origin(request.headers());
    let preflight = house.cors.preflight(&method, request.headers());
    let checked = if preflight.is_some() { Ok(None) } else { check(house, need, &method, request.headers()) };
    let (key, refusal) = match checked {
        Ok(key) => (key, None),
        Err((key, error)) => (key, Some(error)),
    };
    let call = Arc::new(Call {
        id,
        key,
        method,
        path: path.chars().take(MAX_PATH).collect(),
        endpoint,
        peer: request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0),
        tally,
        house: Arc::clone(house),
        started: Instant::now(),
        trace: request.headers().get("traceparent").and_then(|v| v.to_str().ok()).map(str::to_string),
    });
    let line = Line::new(Arc::clone(&call));
    let too_large = declared_length(request.headers()).filter(|&length| length > app.body_limit).map(|_| ApiError::too_large(app.body_limit));
    let request = request.map(|body| Body::from_stream(TimedBody::new(body, house.body_timeout)));
    let mut response = match (preflight, refusal.or(too_large)) {
        (Some(preflight), _) => preflight,
        // The request is dropped here, which reads its body to the end in the background.
        (None, Some(error)) => error.into_response(),
        (None, None) => {
            // A call that is let in counts until its body is written; a refused one holds nobody up.
            let in_flight = (need != Need::Nothing).then(|| InFlight::new(house));
            let response = Arc::clone(&call).scope(next.run(request)).await;
            response.map(|body| Body::new(Held { body, _in_flight: in_flight }))
        }
    };
    if path_is_anthropic(&path)
        && let Some(Refused(error)) = response.extensions().get::<Refused>().cloned()
    {
        response = reworded(&error, response);
    }
    if let Ok(value) = HeaderValue::from_str(&call.id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if let Some(key) = &call.key {
        standing(house, key, response.headers_mut());
    }
    if house.is_draining() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    house.cors.allow(origin, &mut response);
    line.follow(response)
}

type Known = Option<Arc<Key>>;

fn check(house: &House, need: Need, method: &Method, headers: &HeaderMap) -> Result<Known, (Known, ApiError)> {
    if need == Need::Nothing {
        return Ok(None);
    }
    let key = match &house.keys {
        None => None,
        Some(keys) => {
            let refused = |message: &str| {
                house.metrics.refused(Reason::Key);
                (None, ApiError::unauthorized(message))
            };
            let secret = secret(headers).ok_or_else(|| refused("this server needs an API key: send 'Authorization: Bearer sk-llm-...'"))?;
            let found = keys.find(secret).map_err(|error| {
                eprintln!("keys: {error}");
                (None, ApiError::unavailable("the API keys cannot be read at the moment"))
            })?;
            // One message for every reason: whoever guesses learns nothing.
            let valid = found.filter(|key| key.is_valid(clock::now()));
            Some(valid.ok_or_else(|| refused("this API key is not valid: it is unknown, revoked or expired"))?)
        }
    };
    if let (Some(key), Need::Scope(scope)) = (&key, need)
        && !key.allows(scope)
    {
        house.metrics.refused(Reason::Scope);
        return Err((Some(Arc::clone(key)), ApiError::forbidden(format!("this API key lacks the scope '{scope}'"))));
    }
    // Numbers of a server that ends are still of interest.
    if house.is_draining() && need != Need::Scope(Scope::Metrics) {
        house.metrics.refused(Reason::Draining);
        return Err((key, ApiError::unavailable("the server is shutting down").after(Duration::from_secs(5))));
    }
    if *method == Method::POST
        && let Some(key) = &key
        && let Err(fast) = house.limiter.request(key)
    {
        house.metrics.refused(Reason::Requests);
        return Err((Some(Arc::clone(key)), too_fast(&fast)));
    }
    Ok(key)
}

/// The secret of a request: `Authorization: Bearer`, or `x-api-key` as Anthropic's clients send it. Two that differ are none.
fn secret(headers: &HeaderMap) -> Option<&str> {
    let given = headers.get_all(header::AUTHORIZATION).iter().map(bearer);
    let mut given = given.chain(headers.get_all("x-api-key").iter().map(|value| value.to_str().ok().map(str::trim)));
    let first = given.next()?;
    if given.any(|other| other != first) {
        return None;
    }
    first.filter(|secret| !secret.is_empty())
}

fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, secret) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(secret.trim())
}

/// The client's own name for the request, if it is harmless in a log and a header.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let plain = !id.is_empty() && id.len() <= MAX_ID && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
    plain.then(|| id.to_string())
}

fn declared_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The same error in Anthropic's words.
fn reworded(error: &ApiError, response: Response) -> Response {
    let (mut parts, _) = response.into_parts();
    let (worded, body) = Json(error_body(error)).into_response().into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.extend(worded.headers);
    Response::from_parts(parts, body)
}

/// `x-ratelimit-*` as OpenAI sends them.
fn standing(house: &House, key: &Key, headers: &mut HeaderMap) {
    for standing in house.limiter.standing(key) {
        let kind = match standing.what {
            What::Requests => "requests",
            What::Tokens => "tokens",
        };
        let reset = format!("{:.3}s", standing.full_in.as_secs_f64());
        for (name, value) in [("limit", standing.limit.to_string()), ("remaining", standing.left.to_string()), ("reset", reset)] {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(format!("x-ratelimit-{name}-{kind}")), HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        }
    }
}

/// The body did not arrive in time.
#[derive(Debug, thiserror::Error)]
#[error("the request body did not arrive within {} s", .0.as_secs())]
pub struct SlowBody(pub Duration);

/// A request body with an end in time. What is left of it when it is dropped is read and thrown away.
struct TimedBody {
    body: Option<BodyDataStream>,
    limit: Duration,
    end: Pin<Box<Sleep>>,
}

impl TimedBody {
    fn new(body: Body, limit: Duration) -> Self {
        let body = (!HttpBody::is_end_stream(&body)).then(|| body.into_data_stream());
        Self { body, limit, end: Box::pin(tokio::time::sleep(limit)) }
    }
}

impl Stream for TimedBody {
    type Item = Result<Bytes, Box<dyn std::error::Error + Send + Sync>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        match Pin::new(body).poll_next(cx) {
            Poll::Ready(Some(Ok(bytes))) => Poll::Ready(Some(Ok(bytes))),
            Poll::Ready(Some(Err(error))) => {
                self.body = None;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                self.body = None;
                Poll::Ready(None)
            }
            Poll::Pending => {
                if self.end.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                // Whoever sends this slowly is not listened to any longer.
                self.body = None;
                Poll::Ready(Some(Err(Box::new(SlowBody(self.limit)))))
            }
        }
    }
}

impl Drop for TimedBody {
    fn drop(&mut self) {
        let (Some(mut body), Ok(runtime)) = (self.body.take(), tokio::runtime::Handle::try_current()) else { return };
        runtime.spawn(tokio::time::timeout(DISCARD_TIME, async move {
            let mut left = DISCARD_BYTES;
            while let Some(Ok(bytes)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_next(cx)).await {
                left = left.saturating_sub(bytes.len());
                if left == 0 {
                    break;
                }
            }
        }));
    }
}

/// A response body that keeps its call under way.
struct Held {
    body: Body,
    _in_flight: Option<InFlight>,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn where_a_secret_may_stand() {
        for (list, expected) in [
            (vec![("authorization", "Bearer a")], Some("a")),
            (vec![("authorization", "bearer  a ")], Some("a")),
            (vec![("x-api-key", "a")], Some("a")),
            (vec![("authorization", "Bearer a"), ("x-api-key", "a")], Some("a")),
            (vec![("authorization", "Bearer a"), ("x-api-key", "b")], None),
            (vec![("authorization", "Bearer a"), ("authorization", "Bearer b")], None),
            (vec![("authorization", "Basic a")], None),
            (vec![("authorization", "Bearer")], None),
            (vec![("x-api-key", "")], None),
            (vec![], None),
        ] {
            assert_eq!(secret(&headers(&list)), expected, "{list:?}");
        }
    }

    #[test]
    fn ids_that_could_forge_a_log_line_are_replaced() {
        assert_eq!(request_id(&headers(&[("x-request-id", "abc-1.2:3_4")])).as_deref(), Some("abc-1.2:3_4"));
        let long = "a".repeat(MAX_ID + 1);
        for id in ["", "a b", "a\tb", "\"x\"", "é", long.as_str()] {
            assert_eq!(request_id(&headers(&[("x-request-id", id)])), None, "{id}");
        }
    }

    /// If this fails, a path that was added without a thought is open to everybody.
    #[test]
    fn unknown_paths_need_the_most() {
        for (method, path, need) in [
            (Method::POST, "/v1/chat/completions", Need::Scope(Scope::Chat)),
            (Method::POST, "/v1/chat/completions/", Need::Scope(Scope::Admin)),
            (Method::POST, "/v1//completions", Need::Scope(Scope::Admin)),
            (Method::GET, "/v1/secret", Need::Scope(Scope::Admin)),
            (Method::POST, "/chat/x", Need::Scope(Scope::Admin)),
            (Method::GET, "/chat/app.js", Need::Nothing),
            (Method::GET, "/v1/models/a/b", Need::Key),
            (Method::DELETE, "/v1/models/a", Need::Scope(Scope::Admin)),
            (Method::GET, "/metrics", Need::Scope(Scope::Metrics)),
            (Method::GET, "/health", Need::Nothing),
        ] {
            assert_eq!(place(&method, path).1, need, "{method} {path}");
        }
    }
}
