//! How fast a key may go: token buckets for requests and for tokens.
//!
//! A bucket holds a minute's worth, starts full and fills evenly. A request takes its prompt and `max_tokens` in advance, because nobody
//! knows yet how long the reply will be, and gets back what it did not use. What is larger than the whole bucket is let through when
//! the bucket is full and leaves a debt, so that a small limit slows long requests down and does not shut them out.

use crate::keys::Key;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Amounts that come back evenly over a minute.
#[derive(Debug, Clone)]
pub struct Bucket {
    per_minute: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(per_minute: u64, now: Instant) -> Self {
        Self { per_minute: per_minute as f64, level: per_minute as f64, at: now }
    }

    fn refill(&mut self, now: Instant) {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.per_minute / 60.0;
        self.level = (self.level + gained).min(self.per_minute);
        self.at = self.at.max(now);
    }

    /// Take an amount, or say how long until it is there. More than the bucket holds counts as all of it.
    pub fn take(&mut self, amount: u64, now: Instant) -> Result<(), Duration> {
        self.refill(now);
        let needed = (amount as f64).min(self.per_minute);
        // A rounding error must not ask somebody to come back in a nanosecond.
        if self.level + 1e-6 < needed {
            return Err(self.time_to(needed));
        }
        self.level -= needed;
        Ok(())
    }

    /// The amount taken by [`Bucket::take`] turned out to be another one.
    pub fn correct(&mut self, taken: u64, used: u64, now: Instant) {
        self.refill(now);
        let taken = (taken as f64).min(self.per_minute);
        self.level = (self.level + taken - used as f64).min(self.per_minute);
    }

    /// What is there, rounded down.
    pub fn left(&self) -> u64 {
        self.level.max(0.0) as u64
    }

    /// Until it is full.
    pub fn full_in(&self) -> Duration {
        self.time_to(self.per_minute)
    }

    fn time_to(&self, level: f64) -> Duration {
        Duration::try_from_secs_f64((level - self.level).max(0.0) * 60.0 / self.per_minute).unwrap_or(Duration::MAX)
    }

    fn change(&mut self, per_minute: u64) {
        self.level += per_minute as f64 - self.per_minute;
        self.per_minute = per_minute as f64;
    }
}

#[derive(Debug, Default)]
struct Buckets {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

impl Buckets {
    /// The limits of a key may have changed since its last request.
    fn follow(&mut self, key: &Key, now: Instant) {
        let follow = |bucket: &mut Option<Bucket>, limit: Option<u64>| match (bucket.as_mut(), limit) {
            (_, None) => *bucket = None,
            (None, Some(limit)) => *bucket = Some(Bucket::new(limit.max(1), now)),
            (Some(there), Some(limit)) => there.change(limit.max(1)),
        };
        follow(&mut self.requests, key.limits.requests_per_minute);
        follow(&mut self.tokens, key.limits.tokens_per_minute);
    }
}

/// Which limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Requests in a minute.
    Requests,
    /// Tokens in a minute.
    Tokens,
}

/// Too fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooFast {
    /// Which limit.
    pub what: What,
    /// The limit.
    pub limit: u64,
    /// When the same request passes, if nothing else comes.
    pub again: Duration,
}

/// How things stand, for `x-ratelimit-*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Which limit.
    pub what: What,
    /// The limit.
    pub limit: u64,
    /// What is left.
    pub left: u64,
    /// Until all of it is there again.
    pub full_in: Duration,
}

/// The buckets of all keys. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Limiter {
    buckets: Arc<Mutex<HashMap<String, Buckets>>>,
}

/// Tokens taken in advance. [`Taken::used`] says how many it were; dropped before that, it were none.
#[derive(Debug)]
pub struct Taken {
    limiter: Limiter,
    key: Arc<Key>,
    taken: u64,
    used: u64,
}

impl Taken {
    /// What the request used.
    pub fn used(&mut self, tokens: u64) {
        self.used = tokens;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let now = Instant::now();
        self.limiter.with(&self.key, now, |buckets| buckets.tokens.iter_mut().for_each(|b| b.correct(self.taken, self.used, now)));
    }
}

impl Limiter {
    fn with<T>(&self, key: &Key, now: Instant, job: impl FnOnce(&mut Buckets) -> T) -> T {
        let mut all = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets = all.entry(key.id.clone()).or_default();
        buckets.follow(key, now);
        job(buckets)
    }

    /// Count a request.
    pub fn request(&self, key: &Key) -> Result<(), TooFast> {
        let now = Instant::now();
        let limit = key.limits.requests_per_minute.unwrap_or(0);
        let taken = self.with(key, now, |buckets| buckets.requests.as_mut().map_or(Ok(()), |bucket| bucket.take(1, now)));
        taken.map_err(|again| TooFast { what: What::Requests, limit, again })
    }

    /// Take the tokens that a request needs at most.
    pub fn tokens(&self, key: &Arc<Key>, tokens: u64) -> Result<Taken, TooFast> {
        let now = Instant::now();
        let limit = key.limits.tokens_per_minute.unwrap_or(0);
        let taken = self.with(key, now, |buckets| buckets.tokens.as_mut().map_or(Ok(()), |bucket| bucket.take(tokens, now)));
        taken.map_err(|again| TooFast { what: What::Tokens, limit, again })?;
        Ok(Taken { limiter: self.clone(), key: Arc::clone(key), taken: tokens, used: 0 })
    }

    /// How a key stands.
    pub fn standing(&self, key: &Key) -> Vec<Standing> {
        let now = Instant::now();
        self.with(key, now, |buckets| {
            let all = [(What::Requests, &mut buckets.requests), (What::Tokens, &mut buckets.tokens)];
            let standing = |(what, bucket): (What, &mut Option<Bucket>)| {
                let bucket = bucket.as_mut()?;
                bucket.refill(now);
                Some(Standing { what, limit: bucket.per_minute as u64, left: bucket.left(), full_in: bucket.full_in() })
            };
            all.into_iter().filter_map(standing).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_time_to_wait_is_the_time_after_which_it_passes() {
        let start = Instant::now();
        let mut bucket = Bucket::new(60, start);
        bucket.take(60, start).unwrap();
        assert_eq!(bucket.take(1, start), Err(Duration::from_secs(1)));
        let wait = bucket.take(10, start).unwrap_err();
        assert!(bucket.clone().take(10, start + wait - Duration::from_millis(50)).is_err());
        assert_eq!(bucket.take(10, start + wait), Ok(()));
    }

    #[test]
    fn what_was_not_used_comes_back_and_what_was_too_large_is_owed() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100, start);
        bucket.take(80, start).unwrap();
        bucket.correct(80, 10, start);
        assert_eq!(bucket.left(), 90);
        assert!(bucket.take(1000, start).is_err(), "only a full bucket lets a larger request through");
        let full = start + bucket.full_in();
        bucket.take(1000, full).unwrap();
        bucket.correct(1000, 400, full);
        assert_eq!(bucket.left(), 0);
        assert_eq!(bucket.take(1, full).unwrap_err().as_secs(), 180, "300 tokens of debt at 100 a minute");
    }

    proptest! {
        /// Whatever happens, nobody gets more in a time than a full bucket and what flowed in meanwhile.
        #[test]
        fn no_more_than_the_limit(per_minute in 1u64..200, steps in prop::collection::vec((0u64..300, 0u64..5_000, 0u64..300), 1..60)) {
            let start = Instant::now();
            let (mut now, mut used) = (start, 0.0);
            let mut bucket = Bucket::new(per_minute, start);
            for (ask, pause, uses) in steps {
                now += Duration::from_millis(pause);
                let flowed = (now - start).as_secs_f64() * per_minute as f64 / 60.0;
                if bucket.take(ask, now).is_ok() {
                    let uses = uses.min(ask);
                    bucket.correct(ask, uses, now);
                    // The last one may owe what is larger than the bucket.
                    prop_assert!(used + (uses.min(per_minute) as f64) <= per_minute as f64 + flowed + 1e-3);
                    used += uses as f64;
                }
            }
        }
    }
}
