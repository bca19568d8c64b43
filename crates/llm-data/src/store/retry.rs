//! Another attempt after answers that pass: 429, 5xx, timeouts, broken connections, fewer bytes than asked for.
//!
//! `object_store` itself repeats single requests; this repeats whole operations, also for stores that do not, and checks what
//! came back. The pause doubles with each attempt. What a second attempt cannot change (no such object, no permission, wrong or
//! missing credentials, it exists already) is answered at once.

use super::Location;
use crate::error::{Error, Result};
use object_store::Error as StoreError;
use std::future::Future;
use std::time::Duration;

/// Attempts at an operation.
pub const ATTEMPTS: u32 = 7;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// What `object_store` does by itself within one request: briefly, because whole operations are repeated.
#[cfg(feature = "cloud")]
pub(super) fn of_requests() -> object_store::RetryConfig {
    object_store::RetryConfig { max_retries: 2, retry_timeout: Duration::from_secs(90), ..Default::default() }
}

/// Patience with slow answers: 8 MiB in a minute.
#[cfg(feature = "cloud")]
pub(super) fn client_options() -> object_store::ClientOptions {
    object_store::ClientOptions::new().with_timeout(Duration::from_secs(60)).with_connect_timeout(Duration::from_secs(10))
}

/// The error and its causes in one text.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let message = next.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = next.source();
    }
    text
}

/// Its first line, of a length to read.
pub(super) fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() > 300 { format!("{}...", line.chars().take(300).collect::<String>()) } else { line.to_string() }
}

/// `object_store` looks for credentials at the cloud's own address when the environment has none.
pub(super) fn no_credentials(text: &str) -> bool {
    [
        "169.254.169.254",
        "169.254.170",
        "metadata.google.internal",
        "metadata/identity",
        "CredentialsNotFound",
        "Must specify",
        "Account must be specified",
    ]
    .iter()
    .any(|known| text.contains(known))
}

fn passes(error: &StoreError) -> bool {
    let again = match error {
        StoreError::Generic { .. } => true,
        // The variant is there only with a cloud's client.
        #[cfg(feature = "cloud")]
        StoreError::JoinError { .. } => true,
        _ => false,
    };
    again && {
        let text = chain(error);
        !no_credentials(&text) && !text.contains("NoSuchBucket")
    }
}

/// Run `operation` until it succeeds, fails for good, or was tried [`ATTEMPTS`] times.
pub(super) async fn retry<T, F>(mut operation: impl FnMut() -> F) -> object_store::Result<T>
where
    F: Future<Output = object_store::Result<T>>,
{
    let mut pause = FIRST_PAUSE;
    for _ in 1..ATTEMPTS {
        match operation().await {
            Err(error) if passes(&error) => tokio::time::sleep(pause).await,
            answer => return answer,
        }
        pause *= 2;
    }
    operation().await
}

/// The same from a thread that waits; `action` is for the error.
pub(super) fn blocking<T, F>(location: &Location, action: &'static str, operation: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = object_store::Result<T>>,
{
    super::runtime::block_on(retry(operation))?.map_err(|e| location.failed(action, &e))
}

/// A request whose task ended without an answer.
pub(super) fn stopped(error: tokio::task::JoinError) -> StoreError {
    StoreError::Generic { store: "llm-data", source: Box::new(error) }
}

/// Fewer bytes than asked for, as an error that passes.
pub(super) fn short(got: usize, wanted: u64) -> StoreError {
    StoreError::Generic { store: "llm-data", source: format!("the answer has {got} bytes, {wanted} were asked for").into() }
}

/// True for an object that is not there.
pub(super) fn is_absent(error: &Error) -> bool {
    match error {
        Error::Store { message, .. } => message.starts_with("no such object"),
        Error::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}
