//! What the router counts, in the text format of Prometheus.

use super::balance::Choice;
use super::upstream::Upstream;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Upper ends of the buckets of the time to the first byte, in seconds.
const BUCKETS: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Counts of one replica.
#[derive(Debug, Default)]
pub struct Counts {
    replies: Mutex<BTreeMap<u16, u64>>,
    /// No connection.
    pub unreachable: AtomicU64,
    /// The connection ended before a reply.
    pub lost: AtomicU64,
    /// Refused for lack of room, and sent elsewhere.
    pub refused: AtomicU64,
    /// A reply broke off after bytes had reached the client.
    pub broken: AtomicU64,
}

impl Counts {
    /// A reply with this status went to the client.
    pub fn reply(&self, status: u16) {
        *self.replies.lock().unwrap_or_else(PoisonError::into_inner).entry(status).or_default() += 1;
    }
}

/// Counts of the router.
#[derive(Debug, Default)]
pub struct Totals {
    home: AtomicU64,
    spilled: AtomicU64,
    balanced: AtomicU64,
    /// Requests for which there was no replica.
    pub unserved: AtomicU64,
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    microseconds: AtomicU64,
}

impl Totals {
    /// How a request found its replica.
    pub fn chose(&self, choice: Choice) {
        match choice {
            Choice::Home => &self.home,
            Choice::Spilled => &self.spilled,
            Choice::Balanced => &self.balanced,
        }
        .fetch_add(1, Ordering::Relaxed);
    }

    /// The time from a request to the head of its reply.
    pub fn waited(&self, time: Duration) {
        if let Some(bucket) = BUCKETS.iter().position(|&end| time.as_secs_f64() <= end) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.microseconds.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// The whole page.
pub fn render(totals: &Totals, upstreams: &[Arc<Upstream>]) -> String {
    let mut page = Page(String::new());
    page.family("llm_route_upstream_up", "gauge", "1 if the replica is ready.");
    upstreams.iter().for_each(|u| page.of("llm_route_upstream_up", u, "", u64::from(u.up())));
    page.family("llm_route_upstream_requests", "gauge", "Requests under way at the replica.");
    upstreams.iter().for_each(|u| page.of("llm_route_upstream_requests", u, "", u.load() as u64));
    page.family("llm_route_replies_total", "counter", "Replies that went to clients.");
    for upstream in upstreams {
        let replies = upstream.counts.replies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        replies.iter().for_each(|(status, &count)| page.of("llm_route_replies_total", upstream, &format!(",code=\"{status}\""), count));
    }
    page.family("llm_route_failures_total", "counter", "Requests that the replica did not serve to their end.");
    for upstream in upstreams {
        let counts = &upstream.counts;
        for (reason, count) in
            [("unreachable", &counts.unreachable), ("lost", &counts.lost), ("refused", &counts.refused), ("broken", &counts.broken)]
        {
            page.of("llm_route_failures_total", upstream, &format!(",reason=\"{reason}\""), count.load(Ordering::Relaxed));
        }
    }
    page.family("llm_route_choices_total", "counter", "How requests found their replica.");
    for (how, count) in [("home", &totals.home), ("spilled", &totals.spilled), ("balanced", &totals.balanced)] {
        page.line("llm_route_choices_total", &format!("{{how=\"{how}\"}}"), count.load(Ordering::Relaxed));
    }
    page.family("llm_route_unserved_total", "counter", "Requests for which no replica was left.");
    page.line("llm_route_unserved_total", "", totals.unserved.load(Ordering::Relaxed));
    page.family("llm_route_reply_seconds", "histogram", "From the request to the head of its reply.");
    let mut below = 0;
    for (end, bucket) in BUCKETS.iter().zip(&totals.buckets) {
        below += bucket.load(Ordering::Relaxed);
        page.line("llm_route_reply_seconds_bucket", &format!("{{le=\"{end}\"}}"), below);
    }
    let count = totals.count.load(Ordering::Relaxed);
    page.line("llm_route_reply_seconds_bucket", "{le=\"+Inf\"}", count.max(below));
    let _ = writeln!(page.0, "llm_route_reply_seconds_sum {}", totals.microseconds.load(Ordering::Relaxed) as f64 / 1e6);
    page.line("llm_route_reply_seconds_count", "", count.max(below));
    page.0
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: u64) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    /// The address was parsed as a host: it holds nothing that a label must escape.
    fn of(&mut self, name: &str, upstream: &Upstream, labels: &str, value: u64) {
        self.line(name, &format!("{{upstream=\"{}\"{labels}}}", upstream.client.base()), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up_and_every_family_is_declared() {
        let totals = Totals::default();
        [0.001, 0.3, 100.0].into_iter().for_each(|s| totals.waited(Duration::from_secs_f64(s)));
        totals.chose(Choice::Home);
        let upstream = Arc::new(Upstream::new("http://a:1").unwrap());
        upstream.counts.reply(200);
        let page = render(&totals, &[upstream]);
        for line in [
            "llm_route_reply_seconds_bucket{le=\"0.01\"} 1",
            "llm_route_reply_seconds_bucket{le=\"60\"} 2",
            "llm_route_reply_seconds_bucket{le=\"+Inf\"} 3",
            "llm_route_reply_seconds_count 3",
            "llm_route_choices_total{how=\"home\"} 1",
            "llm_route_replies_total{upstream=\"http://a:1\",code=\"200\"} 1",
            "llm_route_upstream_up{upstream=\"http://a:1\"} 0",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} not in\n{page}");
        }
        for line in page.lines().filter(|l| !l.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
            assert!(page.contains(&format!("# TYPE {family} ")), "{line}");
        }
    }
}
