//! Sending requests and taking the time.

use super::stats::{End, Record};
use super::workload::Workload;
use crate::client::{Client, Events, Failure};
use anyhow::{Context, Result};
use axum::body::Bytes;
use axum::http::{HeaderValue, Request, header};
use llm_run::Seed;
use serde_json::Value;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::LocalSet;
use tokio::time::Instant;

/// What is read of an error's body.
const ERROR_BODY: usize = 64 << 10;

/// How requests come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// So many at a time; the next begins when one ends.
    Closed {
        /// Streams.
        streams: usize,
    },
    /// Arrivals of a Poisson process, whatever the server does.
    Open {
        /// Requests a second.
        rate: f64,
    },
}

impl Load {
    /// `16 streams`, `4 req/s`.
    pub fn label(&self) -> String {
        match self {
            Self::Closed { streams: 1 } => "1 stream".into(),
            Self::Closed { streams } => format!("{streams} streams"),
            Self::Open { rate } => format!("{rate} req/s"),
        }
    }
}

/// The client of one measurement.
#[derive(Debug, Clone)]
pub struct Bench {
    /// The server.
    pub client: Client,
    /// `Authorization`, if the server wants one.
    pub authorization: Option<HeaderValue>,
    /// What is asked.
    pub workload: Workload,
    /// A request that takes longer has failed.
    pub timeout: Duration,
}

impl Bench {
    /// The request of that number.
    pub fn request(&self, number: u64) -> Result<Request<Bytes>> {
        let mut request = Request::post(self.workload.path()).header(header::CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        request.body(Bytes::from(self.workload.body(number).to_string())).context("cannot make a request")
    }

    /// Run `count` requests, numbered from `first`, at this load. Runs on this thread alone.
    pub async fn run(&self, load: Load, count: usize, first: u64) -> Result<Vec<Record>> {
        let due = match load {
            Load::Closed { .. } => vec![],
            Load::Open { rate } => arrivals(Seed(self.workload.seed).stream("arrivals").at(first), rate, count),
        };
        // Bodies are made before the clock runs.
        let requests: Rc<Vec<Request<Bytes>>> = Rc::new((0..count).map(|i| self.request(first + i as u64)).collect::<Result<_>>()?);
        let local = LocalSet::new();
        let start = Instant::now();
        let tasks: Vec<_> = match load {
            Load::Closed { streams } => {
                let next = Rc::new(Cell::new(0));
                let stream = |_| {
                    let (bench, requests, next) = (self.clone(), Rc::clone(&requests), Rc::clone(&next));
                    local.spawn_local(async move {
                        let mut records = Vec::new();
                        while let Some(request) = requests.get(next.replace(next.get() + 1)) {
                            records.push(bench.one(request, start, Instant::now()).await);
                        }
                        records
                    })
                };
                (0..streams.min(count)).map(stream).collect()
            }
            Load::Open { .. } => {
                let arrival = |(index, due): (usize, Duration)| {
                    let (bench, requests) = (self.clone(), Rc::clone(&requests));
                    local.spawn_local(async move {
                        tokio::time::sleep_until(start + due).await;
                        vec![bench.one(&requests[index], start, start + due).await]
                    })
                };
                due.into_iter().enumerate().map(arrival).collect()
            }
        };
        local
            .run_until(async {
                let mut records = Vec::with_capacity(count);
                for task in tasks {
                    records.extend(task.await.context("a stream panicked")?);
                }
                Ok(records)
            })
            .await
    }

    async fn one(&self, request: &Request<Bytes>, start: Instant, due: Instant) -> Record {
        let mut record = Record {
            due: due - start,
            first: None,
            gaps: Vec::with_capacity(self.workload.output_tokens),
            total: Duration::ZERO,
            prompt_tokens: 0,
            output_tokens: 0,
            end: End::Complete,
        };
        match tokio::time::timeout(self.timeout, self.read(request, due, &mut record)).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => record.end = End::Failed(why),
            Err(_) => record.end = End::Failed("timeout".into()),
        }
        record.total = due.elapsed();
        record
    }

    async fn read(&self, request: &Request<Bytes>, due: Instant, record: &mut Record) -> Result<(), String> {
        let mut reply = self.client.send(request).await.map_err(|failure| match failure {
            Failure::Connect(_) => "no connection".to_string(),
            Failure::Lost(_) => "connection lost".to_string(),
        })?;
        if !reply.head.status.is_success() {
            let status = reply.head.status.as_u16();
            let body = reply.body.all(ERROR_BODY).await.unwrap_or_default();
            let code = serde_json::from_slice::<Value>(&body).ok().and_then(|v| v["error"]["code"].as_str().map(str::to_string));
            return Err(code.map_or_else(|| status.to_string(), |code| format!("{status} {code}")));
        }
        let mut events = Events::default();
        let (mut last, mut texts, mut done, mut error) = (None, 0usize, false, None);
        while let Some(bytes) = reply.body.next().await {
            let bytes = bytes.map_err(|_| "stream broke".to_string())?;
            let now = Instant::now();
            events.push(&bytes, |data| {
                if data == b"[DONE]" {
                    done = true;
                    return;
                }
                let Ok(event) = serde_json::from_slice::<Value>(data) else {
                    error = Some("not JSON".to_string());
                    return;
                };
                if let Some(usage) = event.get("usage").filter(|u| u.is_object()) {
                    let count = |name: &str| usage[name].as_u64().unwrap_or(0) as usize;
                    (record.prompt_tokens, record.output_tokens) = (count("prompt_tokens"), count("completion_tokens"));
                }
                if event.get("error").is_some_and(|e| !e.is_null()) {
                    error = Some(event["error"]["code"].as_str().unwrap_or("error event").to_string());
                }
                if has_text(&event) {
                    texts += 1;
                    match last.replace(now) {
                        None => record.first = Some(now - due),
                        Some(before) => record.gaps.push(now - before),
                    }
                }
            });
        }
        if record.output_tokens == 0 {
            // A server that does not count: a piece of text is taken for a token.
            record.output_tokens = texts;
        }
        match error {
            Some(error) => Err(error),
            None if done => Ok(()),
            None => Err("no [DONE]".into()),
        }
    }
}

fn has_text(event: &Value) -> bool {
    let choice = &event["choices"][0];
    let some = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    some(&choice["text"]) || some(&choice["delta"]["content"]) || some(&choice["delta"]["reasoning_content"])
}

/// Times of `count` arrivals at `rate` a second: exponential pauses.
fn arrivals(seed: Seed, rate: f64, count: usize) -> Vec<Duration> {
    let mut rng = seed.rng();
    let mut time = 0.0;
    let mut next = || {
        time += -(1.0 - rng.uniform()).ln() / rate;
        Duration::from_secs_f64(time)
    };
    (0..count).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_come_at_the_rate_and_irregularly() {
        let times = arrivals(Seed(1), 5.0, 2000);
        let total = times.last().unwrap().as_secs_f64();
        assert!((total - 400.0).abs() < 30.0, "2000 arrivals at 5 a second took {total} s");
        let gaps: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((deviation / mean - 1.0).abs() < 0.1, "exponential pauses deviate by their mean, here {}", deviation / mean);
    }

    #[test]
    fn text_is_seen_in_every_form() {
        for event in
            [r#"{"choices":[{"text":"a"}]}"#, r#"{"choices":[{"delta":{"content":"a"}}]}"#, r#"{"choices":[{"delta":{"reasoning_content":"a"}}]}"#]
        {
            assert!(has_text(&serde_json::from_str(event).unwrap()));
        }
        for event in [r#"{"choices":[]}"#, r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#] {
            assert!(!has_text(&serde_json::from_str(event).unwrap()));
        }
    }
}
