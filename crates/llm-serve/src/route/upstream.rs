//! One replica as the router sees it.

use super::metrics::Counts;
use crate::client::Client;
use axum::http::HeaderValue;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// First pause after a failure; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// A replica that is gone is asked this often.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A server behind the router.
#[derive(Debug)]
pub struct Upstream {
    /// How to reach it.
    pub client: Client,
    /// `X-Served-By`.
    pub name: HeaderValue,
    /// What happened with it.
    pub counts: Counts,
    up: AtomicBool,
    load: AtomicUsize,
    /// Until then it said that it is full.
    full_until: Mutex<Option<Instant>>,
    /// Wakes the health check early.
    doubted: Notify,
}

impl Upstream {
    /// Not usable before its first health check.
    pub fn new(url: &str) -> Result<Self, String> {
        let client = Client::new(url)?;
        let name = HeaderValue::from_str(client.base().trim_start_matches("http://")).map_err(|_| format!("{url}: not a host"))?;
        let counts = Counts::default();
        Ok(Self { client, name, counts, up: AtomicBool::new(false), load: AtomicUsize::new(0), full_until: Mutex::new(None), doubted: Notify::new() })
    }

    /// It said that it is ready, and nothing has contradicted it since.
    pub fn up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Ready, and not known to be full.
    pub fn usable(&self) -> bool {
        let full = self.full_until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| until > Instant::now());
        self.up() && !full
    }

    /// Requests of ours that are under way there.
    pub fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Count a request until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> Busy {
        self.load.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// A request could not reach it: no more requests until a check says otherwise.
    pub fn failed(&self) {
        self.set(false);
        self.doubted.notify_one();
    }

    /// It refused for lack of room: others are asked first for that long.
    pub fn full_for(&self, time: Duration) {
        *self.full_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + time);
    }

    /// The outcome of a check; a change is a line on stderr.
    pub fn set(&self, up: bool) {
        if self.up.swap(up, Ordering::Relaxed) != up {
            eprintln!("{} is {}", self.client.base(), if up { "ready" } else { "not ready" });
        }
    }

    /// Wait for the time of the next check, or until a request fails.
    pub async fn pause(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            // Not at once: what just failed would fail again.
            () = self.doubted.notified() => tokio::time::sleep(time.min(FIRST_PAUSE)).await,
        }
    }
}

/// The pause after `failures` checks in a row that found nobody.
pub fn backoff(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LONGEST_PAUSE)
}

/// A request under way at a replica.
#[derive(Debug)]
pub struct Busy(pub Arc<Upstream>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.load.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let pauses: Vec<_> = [1, 2, 3, 7, 60, u32::MAX].map(|n| backoff(n).as_millis()).into();
        assert_eq!(pauses, [500, 1000, 2000, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn a_request_counts_until_it_ends() {
        let upstream = Arc::new(Upstream::new("http://a:1").unwrap());
        let (first, second) = (upstream.begin(), upstream.begin());
        drop(first);
        assert_eq!(upstream.load(), 1);
        drop(second);
        assert_eq!(upstream.load(), 0);
        upstream.set(true);
        upstream.full_for(Duration::from_secs(60));
        assert!(upstream.up() && !upstream.usable());
    }
}
