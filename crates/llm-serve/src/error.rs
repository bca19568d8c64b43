//! Two kinds of failure: [`Error`] ends the program, [`ApiError`] ends one request.
//!
//! `ApiError` is the only place where an HTTP status meets a message. Its body is OpenAI's error object, so client
//! libraries show `message` as it stands (OpenAI API reference, "Error codes").

use crate::api::response::{ErrorBody, ErrorObject};
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Why the server cannot start or go on. Messages contain their cause, so it is not chained as a `source` as well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `--host` and `--port` do not name an address of this machine.
    #[error("cannot resolve {host}:{port}: {cause}; use an address of this machine, e.g. --host 127.0.0.1")]
    Resolve {
        /// As given.
        host: String,
        /// As given.
        port: u16,
        /// The resolver's answer.
        cause: std::io::Error,
    },
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {cause}{}", bind_advice(cause))]
    Bind {
        /// Where.
        address: SocketAddr,
        /// The operating system's answer.
        cause: std::io::Error,
    },
    /// A file of the model folder is unusable.
    #[error("{}: {message}", path.display())]
    ModelFile {
        /// The file.
        path: PathBuf,
        /// What was expected and what to do.
        message: String,
    },
    /// The file of keys and usage.
    #[error("{}: {message}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// A certificate or its key.
    #[error("{}: {message}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// Settings that make no sense.
    #[error("{0}")]
    Settings(String),
    /// The model or its engine.
    #[error(transparent)]
    Infer(#[from] llm_infer::Error),
    /// The engine thread ended where it must not.
    #[error("the engine thread stopped: {0}")]
    Engine(String),
    /// The HTTP server itself.
    #[error("server: {0}")]
    Io(#[from] std::io::Error),
}

fn bind_advice(cause: &std::io::Error) -> &'static str {
    match cause.kind() {
        std::io::ErrorKind::AddrInUse => "; another program uses this port: choose another --port, or --port 0 for a free one",
        std::io::ErrorKind::PermissionDenied => "; ports below 1024 need privileges: choose a higher --port",
        _ => "",
    }
}

/// Result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed request, in OpenAI's form.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// OpenAI's `type`, e.g. `invalid_request_error`.
    pub kind: &'static str,
    /// What was wrong, what was expected.
    pub message: String,
    /// The request field at fault.
    pub param: Option<String>,
    /// A word that programs can compare with.
    pub code: Option<&'static str>,
    /// When the same request may succeed; rounded up to seconds in `Retry-After`.
    pub retry_after: Option<Duration>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), param: None, code: None, retry_after: None }
    }

    /// 400: a field has a value that cannot be honoured.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::bad_request(message) }
    }

    /// 400 without a single field at fault.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// 400: OpenAI has this field, this server does not (yet).
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: Some("unsupported_parameter"), ..Self::invalid(param, message) }
    }

    /// 401: no key, or one that is not valid.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self { code: Some("invalid_api_key"), ..Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", message) }
    }

    /// 403: the key may not do that.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self { code: Some("insufficient_scope"), ..Self::new(StatusCode::FORBIDDEN, "invalid_request_error", message) }
    }

    /// 408: the body did not arrive in time.
    pub fn slow_body(limit: Duration) -> Self {
        let message = format!("the request body did not arrive within {} s", limit.as_secs());
        Self { code: Some("request_timeout"), ..Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", message) }
    }

    /// 429, `kind` and `code` as OpenAI words them.
    pub fn too_many(kind: &'static str, code: &'static str, message: impl Into<String>, again: Option<Duration>) -> Self {
        Self { code: Some(code), retry_after: again, ..Self::new(StatusCode::TOO_MANY_REQUESTS, kind, message) }
    }

    /// 504: the reply took longer than requests may.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self { code: Some("request_timeout"), ..Self::new(StatusCode::GATEWAY_TIMEOUT, "server_error", message) }
    }

    /// 404: no such model here.
    pub fn model_not_found(asked: &str, served: &str) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            code: Some("model_not_found"),
            ..Self::invalid("model", format!("the model '{asked}' is not served here; this server has '{served}'"))
        }
    }

    /// 404: no such path.
    pub fn unknown_path(method: &str, path: &str) -> Self {
        Self {
            code: Some("unknown_url"),
            ..Self::new(StatusCode::NOT_FOUND, "invalid_request_error", format!("unknown request URL: {method} {path}"))
        }
    }

    /// 409: the request is fine, the state of the server is another one.
    pub fn conflict(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status: StatusCode::CONFLICT, code: Some("conflict"), ..Self::invalid(param, message) }
    }

    /// 405.
    pub fn method_not_allowed(method: &str, path: &str) -> Self {
        Self {
            code: Some("method_not_supported"),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", format!("{method} is not allowed on {path}"))
        }
    }

    /// 413.
    pub fn too_large(limit: usize) -> Self {
        Self {
            code: Some("request_too_large"),
            ..Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", format!("the request body is larger than {limit} bytes"))
        }
    }

    /// 500: not the client's fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// 503: try again later.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { code: Some("service_unavailable"), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message) }
    }

    /// Set the machine-readable code.
    #[must_use]
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Set when to come back.
    #[must_use]
    pub fn after(mut self, again: Duration) -> Self {
        self.retry_after = Some(again);
        self
    }

    /// OpenAI's error object.
    pub fn body(&self) -> serde_json::Value {
        let error = ErrorObject { message: self.message.clone(), kind: self.kind, param: self.param.clone(), code: self.code };
        serde_json::to_value(ErrorBody { error }).unwrap_or_default()
    }
}

/// The error behind a response, for layers that word it differently or count it.
#[derive(Debug, Clone)]
pub struct Refused(pub ApiError);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let seconds = self.retry_after.map(|again| (again.as_millis().div_ceil(1000)).clamp(1, u64::MAX.into()) as u64);
        let seconds = seconds.or((self.status == StatusCode::SERVICE_UNAVAILABLE).then_some(1));
        if let Some(seconds) = seconds {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(Refused(self));
        response
    }
}
