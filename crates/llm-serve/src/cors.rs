//! Which web pages may call: Cross-Origin Resource Sharing (Fetch standard, "CORS protocol").
//!
//! Without `--cors-origin` no header is sent and browsers keep pages of other origins out. Cookies are never allowed: a key is
//! sent in a header by whoever has it.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::str::FromStr;

/// What pages may read besides the body.
const EXPOSED: &str = "retry-after, x-request-id, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, \
    x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens";
/// Browsers may remember the answer to a preflight for so many seconds.
const MAX_AGE: &str = "600";

/// An origin that may call, or `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("`{text}`: expected an origin such as https://chat.example.org or http://localhost:3000, without a path, or *");
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let plain = |host: &str| !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(c));
        if text == "*" || host.is_some_and(plain) { Ok(Self(text.to_ascii_lowercase())) } else { Err(expected()) }
    }
}

/// The origins that may call.
#[derive(Debug, Clone, Default)]
pub struct Cors {
    origins: Vec<Origin>,
}

impl Cors {
    /// From `--cors-origin`.
    pub fn new(origins: Vec<Origin>) -> Self {
        Self { origins }
    }

    /// The origin of a request, if it may call.
    pub fn origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let text = origin.to_str().ok()?.to_ascii_lowercase();
        self.origins.iter().any(|o| o.0 == "*" || o.0 == text).then(|| origin.clone())
    }

    /// The answer to a preflight; `None` if it is none.
    pub fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response> {
        if self.origins.is_empty() || *method != Method::OPTIONS || !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let mut response = (StatusCode::NO_CONTENT, Body::empty()).into_response();
        if self.origin(headers).is_some() {
            let answer = response.headers_mut();
            answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE, OPTIONS"));
            answer.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
            // A page that may call may send any header: none of them means more than a request without a browser could say.
            if let Some(asked) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
                answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
            }
        }
        Some(response)
    }

    /// Let the page at `origin` read a response.
    pub fn allow(&self, origin: Option<HeaderValue>, response: &mut Response) {
        if self.origins.is_empty() {
            return;
        }
        let headers = response.headers_mut();
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_origins_may_call() {
        let cors = Cors::new(vec!["https://Chat.example.org".parse().unwrap(), "http://localhost:3000".parse().unwrap()]);
        let from = |origin: &'static str| cors.origin(&HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static(origin))]));
        assert!(from("https://chat.example.org").is_some());
        assert!(from("http://localhost:3000").is_some());
        for other in ["http://chat.example.org", "https://chat.example.org.evil.net", "http://localhost", "null", "https://evil.net"] {
            assert!(from(other).is_none(), "{other}");
        }
        for wrong in ["chat.example.org", "https://", "https://a/b", "https://a b", "ftp://a", "https://*"] {
            assert!(wrong.parse::<Origin>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn without_origins_nothing_changes() {
        let headers = HeaderMap::from_iter([
            (header::ORIGIN, HeaderValue::from_static("https://a.example")),
            (header::ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("POST")),
        ]);
        assert!(Cors::default().preflight(&Method::OPTIONS, &headers).is_none());
        let any = Cors::new(vec!["*".parse().unwrap()]);
        assert_eq!(any.preflight(&Method::OPTIONS, &headers).unwrap().status(), StatusCode::NO_CONTENT);
        let mut response = StatusCode::OK.into_response();
        Cors::default().allow(None, &mut response);
        assert!(response.headers().is_empty());
    }
}
