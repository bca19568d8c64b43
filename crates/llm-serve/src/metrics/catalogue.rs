//! What the server counts.
//!
//! Names, labels and buckets that begin with `vllm:` are those of vLLM's V1 engine (`vllm/v1/metrics/loggers.py`), so that dashboards
//! made for it work unchanged; what they count is the same. `llm_serve_` is about HTTP, keys and faults, of which vLLM says nothing.

use super::{Counter, Gauge, Histogram, Text};
use llm_infer::Stats;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const FIRST_TOKEN: [f64; 22] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0];
const BETWEEN_TOKENS: [f64; 19] = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
const WHOLE_REQUEST: [f64; 21] =
    [0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0];
const STEP_TOKENS: [f64; 13] = [1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];
const HTTP: [f64; 12] = [0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0];

/// Token counts have buckets up to here, whatever the model's context: a histogram must not change its buckets.
const MOST_TOKENS: usize = 1_000_000;

/// Why a request of the engine ended, in vLLM's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// An end token or stop text.
    Stop,
    /// Its limit of tokens.
    Length,
    /// The client left or its time was over.
    Abort,
    /// It failed.
    Error,
}

const FINISHED: [(&str, Finished); 4] =
    [("stop", Finished::Stop), ("length", Finished::Length), ("abort", Finished::Abort), ("error", Finished::Error)];

/// Why a call was turned away before it reached the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No key, or a wrong one.
    Key,
    /// The key lacks the scope.
    Scope,
    /// Requests in a minute.
    Requests,
    /// Tokens in a minute.
    Tokens,
    /// The quota.
    Quota,
    /// The queue.
    Queue,
    /// The server is ending.
    Draining,
    /// Too many connections.
    Connections,
}

const REASONS: [(&str, Reason); 8] = [
    ("key", Reason::Key),
    ("scope", Reason::Scope),
    ("requests_per_minute", Reason::Requests),
    ("tokens_per_minute", Reason::Tokens),
    ("quota", Reason::Quota),
    ("queue", Reason::Queue),
    ("draining", Reason::Draining),
    ("connections", Reason::Connections),
];

/// A request of the engine that ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Why.
    pub reason: Finished,
    /// Tokens of its prompt.
    pub prompt: usize,
    /// Tokens generated.
    pub generated: usize,
    /// The most it might have generated.
    pub max_tokens: usize,
    /// From its submission to its end.
    pub total: Duration,
    /// From leaving the queue to the end, if it left it.
    pub inference: Option<Duration>,
    /// From its first token to the end, if there was one.
    pub decode: Option<Duration>,
}

#[derive(Debug, Default)]
struct Http {
    /// By endpoint and status.
    requests: BTreeMap<(&'static str, u16), u64>,
    durations: BTreeMap<&'static str, Histogram>,
    /// By name of the key: prompt and completion tokens.
    keys: BTreeMap<String, (u64, u64)>,
}

/// Everything at `/metrics`.
#[derive(Debug)]
pub struct Metrics {
    /// Seconds from submission to the first token.
    pub first_token: Histogram,
    /// Seconds from one token to the next.
    pub between_tokens: Histogram,
    /// Seconds in the queue.
    pub queue: Histogram,
    /// Seconds from leaving the queue to the first token.
    pub prefill: Histogram,
    /// Tokens of one engine step.
    pub step_tokens: Histogram,
    /// Tokens of prompts that were started.
    pub prompt_tokens: Counter,
    /// Tokens generated.
    pub generation_tokens: Counter,
    /// Times the engine was built anew after a fault.
    pub restarts: Counter,
    /// Requests that failed by a fault of the engine.
    pub faults: Counter,
    /// HTTP requests under way.
    pub in_flight: Gauge,
    /// Open connections.
    pub connections: Gauge,
    e2e: Histogram,
    inference: Histogram,
    decode: Histogram,
    prompt_sizes: Histogram,
    generation_sizes: Histogram,
    max_tokens: Histogram,
    finished: [Counter; FINISHED.len()],
    refused: [Counter; REASONS.len()],
    engine: Mutex<Engines>,
    http: Mutex<Http>,
}

/// Totals of the engine that runs and of those before it.
#[derive(Debug, Default)]
struct Engines {
    now: Stats,
    before: Stats,
}

impl Default for Metrics {
    fn default() -> Self {
        let [e2e, queue, prefill, inference, decode] = std::array::from_fn(|_| Histogram::new(&WHOLE_REQUEST));
        let [prompt_sizes, generation_sizes, max_tokens] = std::array::from_fn(|_| Histogram::one_two_five(MOST_TOKENS));
        Self {
            first_token: Histogram::new(&FIRST_TOKEN),
            between_tokens: Histogram::new(&BETWEEN_TOKENS),
            queue,
            prefill,
            step_tokens: Histogram::new(&STEP_TOKENS),
            prompt_tokens: Counter::default(),
            generation_tokens: Counter::default(),
            restarts: Counter::default(),
            faults: Counter::default(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            e2e,
            inference,
            decode,
            prompt_sizes,
            generation_sizes,
            max_tokens,
            finished: Default::default(),
            refused: Default::default(),
            engine: Mutex::default(),
            http: Mutex::default(),
        }
    }
}

impl Metrics {
    /// A request of the engine ended.
    pub fn ended(&self, ended: &Ended) {
        for ((_, reason), counter) in FINISHED.iter().zip(&self.finished) {
            if *reason == ended.reason {
                counter.inc();
            }
        }
        self.e2e.time(ended.total);
        self.prompt_sizes.observe(ended.prompt as f64);
        self.generation_sizes.observe(ended.generated as f64);
        self.max_tokens.observe(ended.max_tokens as f64);
        ended.inference.iter().for_each(|&time| self.inference.time(time));
        ended.decode.iter().for_each(|&time| self.decode.time(time));
    }

    /// A call was turned away.
    pub fn refused(&self, why: Reason) {
        for ((_, reason), counter) in REASONS.iter().zip(&self.refused) {
            if *reason == why {
                counter.inc();
            }
        }
    }

    /// Calls turned away for a reason.
    pub fn refusals(&self, why: Reason) -> u64 {
        REASONS.iter().zip(&self.refused).filter(|((_, reason), _)| *reason == why).map(|(_, counter)| counter.get()).sum()
    }

    /// The engine's own numbers, after a step.
    pub fn engine(&self, stats: Stats) {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner).now = stats;
    }

    /// The engine is built anew: its totals start at zero, ours go on.
    pub fn engine_lost(&self) {
        let mut engines = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let Engines { now, before } = *engines;
        engines.before = Stats {
            prefix_cache_queries: before.prefix_cache_queries + now.prefix_cache_queries,
            prefix_cache_hits: before.prefix_cache_hits + now.prefix_cache_hits,
            preemptions: before.preemptions + now.preemptions,
            drafted_tokens: before.drafted_tokens + now.drafted_tokens,
            accepted_tokens: before.accepted_tokens + now.accepted_tokens,
            steps: before.steps + now.steps,
            ..Stats::default()
        };
        engines.now = Stats { kv_pages: now.kv_pages, ..Stats::default() };
    }

    /// An HTTP request ended.
    pub fn http(&self, endpoint: &'static str, status: u16, time: Duration) {
        let mut http = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        *http.requests.entry((endpoint, status)).or_default() += 1;
        http.durations.entry(endpoint).or_insert_with(|| Histogram::new(&HTTP)).time(time);
    }

    /// What a call of a key used.
    pub fn key_tokens(&self, name: &str, prompt: u64, completion: u64) {
        let mut http = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = http.keys.entry(name.to_string()).or_default();
        *entry = (entry.0 + prompt, entry.1 + completion);
    }

    /// The text of `/metrics`.
    pub fn render(&self, model: &str) -> String {
        let mut text = Text::with(vec![("model_name", model.to_string()), ("engine", "0".into())]);
        self.render_vllm(&mut text);
        let mut own = Text::default();
        self.render_own(&mut own);
        text.finish() + &own.finish()
    }

    fn render_vllm(&self, text: &mut Text) {
        let Engines { now, before } = *self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        text.gauge("vllm:num_requests_running", "Requests that generate.", now.running as f64);
        text.gauge("vllm:num_requests_waiting", "Requests that wait.", now.waiting as f64);
        let usage = if now.kv_pages == 0 { 0.0 } else { now.kv_pages_used as f64 / now.kv_pages as f64 };
        text.gauge("vllm:kv_cache_usage_perc", "Share of the key/value pages that requests hold, 0 to 1.", usage);
        let queries = before.prefix_cache_queries + now.prefix_cache_queries;
        text.counter("vllm:prefix_cache_queries_total", "Tokens looked for in the prefix cache.", queries);
        let hits = before.prefix_cache_hits + now.prefix_cache_hits;
        text.counter("vllm:prefix_cache_hits_total", "Tokens found in the prefix cache.", hits);
        text.counter("vllm:num_preemptions_total", "Requests that gave their pages back before their end.", before.preemptions + now.preemptions);
        text.counter("vllm:prompt_tokens_total", "Tokens of prompts that were started.", self.prompt_tokens.get());
        text.counter("vllm:generation_tokens_total", "Tokens generated.", self.generation_tokens.get());
        let drafted = before.drafted_tokens + now.drafted_tokens;
        text.counter("vllm:spec_decode_num_draft_tokens_total", "Tokens proposed by speculation.", drafted);
        let accepted = before.accepted_tokens + now.accepted_tokens;
        text.counter("vllm:spec_decode_num_accepted_tokens_total", "Proposed tokens that stood.", accepted);
        text.family("vllm:request_success_total", "counter", "Requests that ended, by reason.");
        for ((name, _), counter) in FINISHED.iter().zip(&self.finished) {
            text.sample("vllm:request_success_total", &[("finished_reason", name)], counter.get() as f64);
        }
        for (name, help, histogram) in [
            ("vllm:request_prompt_tokens", "Tokens of the prompt of a request.", &self.prompt_sizes),
            ("vllm:request_generation_tokens", "Tokens generated for a request.", &self.generation_sizes),
            ("vllm:request_params_max_tokens", "The most tokens a request might generate.", &self.max_tokens),
            ("vllm:iteration_tokens_total", "Tokens of an engine step.", &self.step_tokens),
            ("vllm:time_to_first_token_seconds", "From submission to the first token.", &self.first_token),
            ("vllm:time_per_output_token_seconds", "From one token to the next (older name).", &self.between_tokens),
            ("vllm:inter_token_latency_seconds", "From one token to the next.", &self.between_tokens),
            ("vllm:e2e_request_latency_seconds", "From submission to the end.", &self.e2e),
            ("vllm:request_queue_time_seconds", "In the queue.", &self.queue),
            ("vllm:request_inference_time_seconds", "From leaving the queue to the end.", &self.inference),
            ("vllm:request_prefill_time_seconds", "From leaving the queue to the first token.", &self.prefill),
            ("vllm:request_decode_time_seconds", "From the first token to the end.", &self.decode),
        ] {
            text.histogram(name, help, histogram);
        }
    }

    fn render_own(&self, text: &mut Text) {
        let Engines { now, before } = *self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        text.gauge("llm_serve_kv_pages", "Pages of the key/value cache.", now.kv_pages as f64);
        text.gauge("llm_serve_kv_pages_used", "Pages that requests hold.", now.kv_pages_used as f64);
        text.counter("llm_serve_engine_steps_total", "Forward passes.", before.steps + now.steps);
        text.counter("llm_serve_engine_restarts_total", "Times the engine was built anew after a fault.", self.restarts.get());
        text.counter("llm_serve_request_faults_total", "Requests that failed by a fault of the engine.", self.faults.get());
        text.gauge("llm_serve_http_requests_in_flight", "HTTP requests under way.", self.in_flight.get());
        text.gauge("llm_serve_connections", "Open connections.", self.connections.get());
        text.family("llm_serve_refused_total", "counter", "Calls turned away before they reached the engine, by reason.");
        for ((name, _), counter) in REASONS.iter().zip(&self.refused) {
            text.sample("llm_serve_refused_total", &[("reason", name)], counter.get() as f64);
        }
        let http = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        text.family("llm_serve_http_requests_total", "counter", "HTTP requests by endpoint and status.");
        for ((endpoint, status), count) in &http.requests {
            text.sample("llm_serve_http_requests_total", &[("endpoint", endpoint), ("status", &status.to_string())], *count as f64);
        }
        text.family("llm_serve_http_request_duration_seconds", "histogram", "Time of HTTP requests by endpoint.");
        for (endpoint, histogram) in &http.durations {
            text.buckets("llm_serve_http_request_duration_seconds", &[("endpoint", endpoint)], histogram);
        }
        text.family("llm_serve_key_tokens_total", "counter", "Tokens of finished requests by key.");
        for (name, (prompt, completion)) in &http.keys {
            text.sample("llm_serve_key_tokens_total", &[("key", name), ("kind", "prompt")], *prompt as f64);
            text.sample("llm_serve_key_tokens_total", &[("key", name), ("kind", "completion")], *completion as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_go_on_when_the_engine_is_built_anew() {
        let metrics = Metrics::default();
        metrics.engine(Stats { kv_pages: 4, kv_pages_used: 2, preemptions: 3, ..Stats::default() });
        metrics.engine_lost();
        metrics.engine(Stats { kv_pages: 4, preemptions: 1, ..Stats::default() });
        let text = metrics.render("m");
        assert!(text.contains("vllm:num_preemptions_total{model_name=\"m\",engine=\"0\"} 4.0\n"), "{text}");
        assert!(text.contains("vllm:kv_cache_usage_perc{model_name=\"m\",engine=\"0\"} 0.0\n"), "{text}");
    }
}
