//! Who is ready: each replica is asked for `/ready` again and again, by a task of its own.
//!
//! A server without `/ready` (404) is asked for `/health`. While nobody answers the pauses grow, so that a machine that is away for
//! a night costs nothing, and one that is away for a second is found again in a second.

use super::upstream::{Upstream, backoff};
use axum::body::Bytes;
use axum::http::{Request, StatusCode};
use std::sync::Arc;
use std::time::Duration;

/// An answer to a check comes within this time, or does not count.
const PATIENCE: Duration = Duration::from_secs(3);
/// What is read of the answer's body.
const BODY: usize = 64 << 10;

/// Check for ever.
pub async fn watch(upstream: Arc<Upstream>, interval: Duration) {
    let mut failures = 0u32;
    loop {
        let ready = ready(&upstream).await;
        upstream.set(ready);
        failures = if ready { 0 } else { failures.saturating_add(1) };
        let pause = if ready { interval } else { backoff(failures).min(interval.max(backoff(1)) * 15) };
        upstream.pause(pause).await;
    }
}

/// One check.
pub async fn ready(upstream: &Upstream) -> bool {
    let asked = async {
        match status(upstream, "/ready").await {
            Some(StatusCode::NOT_FOUND) => status(upstream, "/health").await,
            status => status,
        }
    };
    matches!(tokio::time::timeout(PATIENCE, asked).await, Ok(Some(status)) if status.is_success())
}

async fn status(upstream: &Upstream, path: &str) -> Option<StatusCode> {
    let request = Request::get(path).body(Bytes::new()).ok()?;
    let reply = upstream.client.send(&request).await.ok()?;
    // Read to its end, so that the connection can be kept.
    reply.body.all(BODY).await.ok()?;
    Some(reply.head.status)
}
