//! Traces: one per call, sent to an OpenTelemetry collector over OTLP/HTTP in JSON.
//!
//! A call is a server span with children `queue`, `prefill` and `decode`. `traceparent` of the caller is honoured (W3C Trace Context). A
//! thread of its own sends; when the collector is slow or away, spans are dropped and requests are not held up. Attributes are counts and
//! names, never text. Source: OpenTelemetry protocol 1.5, `opentelemetry-proto` trace service, semantic conventions for HTTP and
//! generative AI.

use crate::call::Call;
use crate::error::{Error, Result};
use serde_json::{Value, json};
use std::hash::{BuildHasher, RandomState};
use std::sync::mpsc::{self, RecvTimeoutError, TrySendError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Calls that may wait to be sent.
const QUEUE: usize = 2048;
/// Calls of one message.
const BATCH: usize = 256;
/// A message waits so long for more calls.
const LINGER: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(5);
// Numbers of the protocol: SPAN_KIND_INTERNAL, SPAN_KIND_SERVER, STATUS_CODE_ERROR.
const INTERNAL: u8 = 1;
const SERVER: u8 = 2;
const FAILED: u8 = 2;

/// The sending thread.
#[derive(Debug)]
pub struct Spans {
    queue: mpsc::SyncSender<Vec<Value>>,
}

impl Spans {
    /// Start sending to a collector, e.g. `http://127.0.0.1:4318`.
    pub fn start(endpoint: &str) -> Result<Self> {
        if !endpoint.starts_with("http://") {
            return Err(Error::Settings(format!("--otlp-endpoint {endpoint}: expected an address such as http://127.0.0.1:4318")));
        }
        let base = endpoint.trim_end_matches('/');
        let url = if base.ends_with("/v1/traces") { base.to_string() } else { format!("{base}/v1/traces") };
        let (queue, inbox) = mpsc::sync_channel(QUEUE);
        std::thread::Builder::new().name("traces".into()).spawn(move || send_all(&url, &inbox))?;
        Ok(Self { queue })
    }

    /// A call ended with this status.
    pub fn export(&self, call: &Call, status: u16) {
        match self.queue.try_send(spans(call, status, SystemTime::now())) {
            // A collector that is too slow loses spans, not the service its memory.
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

fn send_all(url: &str, inbox: &mpsc::Receiver<Vec<Value>>) {
    let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).proxy(None).build();
    let agent = ureq::Agent::from(config);
    let mut told = false;
    while let Ok(first) = inbox.recv() {
        let (mut spans, mut calls) = (first, 1);
        let end = Instant::now() + LINGER;
        let mut open = true;
        while open && calls < BATCH {
            match inbox.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(more) => {
                    spans.extend(more);
                    calls += 1;
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => open = false,
            }
        }
        let sent = agent.post(url).header("content-type", "application/json").send(message(spans).to_string());
        if let Err(error) = sent
            && !std::mem::replace(&mut told, true)
        {
            eprintln!("traces: {url}: {error}; further failures are not told");
        }
    }
}

/// An `ExportTraceServiceRequest`.
fn message(spans: Vec<Value>) -> Value {
    let resource =
        json!({"attributes": [attribute("service.name", json!("llm-serve")), attribute("service.version", json!(env!("CARGO_PKG_VERSION")))]});
    json!({"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "llm-serve"}, "spans": spans}]}]})
}

fn attribute(key: &str, value: Value) -> Value {
    let value = match value {
        // 64-bit integers are strings in the JSON form of Protocol Buffers.
        Value::Number(n) => json!({"intValue": n.to_string()}),
        other => json!({"stringValue": other}),
    };
    json!({"key": key, "value": value})
}

fn spans(call: &Call, status: u16, end: SystemTime) -> Vec<Value> {
    let total = call.started.elapsed();
    let start = end.checked_sub(total).unwrap_or(UNIX_EPOCH);
    let (trace, parent) = call.trace.as_deref().and_then(parse).unwrap_or_else(|| (format!("{:016x}{:016x}", number(1), number(2)), String::new()));
    let root = format!("{:016x}", number(3));
    let at = |after: Duration| (start + after).duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos()).to_string();
    let (prompt, cached, completion) = call.tally.tokens();
    let (queue, first) = call.tally.times();
    let mut attributes = vec![
        attribute("http.request.method", json!(call.method.as_str())),
        attribute("http.route", json!(call.endpoint)),
        attribute("http.response.status_code", json!(status)),
        attribute("llm_serve.request_id", json!(call.id)),
    ];
    if let Some(key) = &call.key {
        attributes.push(attribute("llm_serve.key", json!(key.name)));
    }
    if prompt > 0 {
        attributes.push(attribute("gen_ai.request.model", json!(call.house.model.get())));
        attributes.push(attribute("gen_ai.usage.input_tokens", json!(prompt)));
        attributes.push(attribute("gen_ai.usage.output_tokens", json!(completion)));
        attributes.push(attribute("llm_serve.cached_tokens", json!(cached)));
    }
    let mut all = vec![json!({
        "traceId": trace, "spanId": root, "parentSpanId": parent, "name": format!("{} {}", call.method, call.endpoint), "kind": SERVER,
        "startTimeUnixNano": at(Duration::ZERO), "endTimeUnixNano": at(total), "attributes": attributes,
        "status": if status >= 500 { json!({"code": FAILED}) } else { json!({}) },
    })];
    if !first.is_zero() {
        let queue = queue.min(first);
        for (place, (name, from, to)) in
            [("queue", Duration::ZERO, queue), ("prefill", queue, first), ("decode", first, total)].into_iter().enumerate()
        {
            all.push(json!({
                "traceId": trace, "spanId": format!("{:016x}", number(4 + place)), "parentSpanId": root, "name": name, "kind": INTERNAL,
                "startTimeUnixNano": at(from), "endTimeUnixNano": at(to.max(from)),
            }));
        }
    }
    all
}

/// Random enough for names, never zero.
fn number(salt: usize) -> u64 {
    RandomState::new().hash_one(salt).max(1)
}

/// Trace and parent of `00-<32 hex>-<16 hex>-<2 hex>`.
fn parse(header: &str) -> Option<(String, String)> {
    let parts: Vec<&str> = header.split('-').collect();
    let [version, trace, parent, _flags, ..] = parts.as_slice() else { return None };
    let hex =
        |text: &str, length| text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) && text.bytes().any(|b| b != b'0');
    (version.len() == 2 && *version != "ff" && hex(trace, 32) && hex(parent, 16)).then(|| (trace.to_string(), parent.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_names_the_trace() {
        let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        assert_eq!(parse(&format!("00-{trace}-{parent}-01")), Some((trace.into(), parent.into())));
        for wrong in ["", "00", "00-x-y-01", &format!("ff-{trace}-{parent}-01"), &format!("00-{}-{parent}-01", "0".repeat(32))] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
