//! `/metrics`: the format, vLLM's names, and that the numbers are true; the access log.

mod common;

use common::house::{Keys, bearer, call, eventually, metric};
use common::{TestServer, user};
use llm_serve::HouseConfig;
use llm_serve::access::{LogConfig, LogFormat};
use llm_serve::keys::{Limits, Scope};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Type, and samples: name, labels, value.
type Family = (String, Vec<(String, BTreeMap<String, String>, f64)>);

/// Read the text the way Prometheus does, refusing what it refuses: families -> samples.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, (String, Vec<_>)> = BTreeMap::new();
    let (mut current, mut seen) = (String::new(), BTreeSet::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(rest.contains(' '), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(!families.contains_key(name), "{name} twice");
            current = name.to_string();
            families.insert(current.clone(), (kind.into(), Vec::new()));
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(seen.insert(series.to_string()), "{series} twice");
            let (name, labels) = series.split_once('{').map_or((series, ""), |(n, l)| (n, l.strip_suffix('}').unwrap()));
            assert!(
                name.chars().enumerate().all(|(i, c)| c.is_ascii_alphabetic() || c == '_' || c == ':' || (i > 0 && c.is_ascii_digit())),
                "{name}"
            );
            let (kind, samples) = families.get_mut(&current).unwrap();
            let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.iter().any(|s| name == format!("{current}{s}")), "{name} within {current}");
            let pairs = labels.split("\",").filter(|p| !p.is_empty()).map(|pair| {
                let (label, value) = pair.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
                (label.to_string(), value.trim_end_matches('"').to_string())
            });
            let value = if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap() };
            samples.push((name.to_string(), pairs.collect(), value));
        }
    }
    families
}

fn check_histograms(text: &str) {
    for (family, (kind, samples)) in parse(text) {
        if kind != "histogram" {
            continue;
        }
        let mut groups: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        let mut counts = BTreeMap::new();
        for (name, mut labels, value) in samples {
            let le = labels.remove("le");
            let group = format!("{labels:?}");
            match le {
                Some(le) => groups.entry(group).or_default().push((if le == "+Inf" { f64::INFINITY } else { le.parse().unwrap() }, value)),
                None if name.ends_with("_count") => drop(counts.insert(group, value)),
                None => assert!(value >= 0.0),
            }
        }
        for (group, buckets) in groups {
            assert!(buckets.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1), "{family} {group}: {buckets:?}");
            assert_eq!(buckets.last().unwrap(), &(f64::INFINITY, counts[&group]), "{family} {group}");
        }
    }
}

#[test]
fn the_numbers_are_those_of_the_requests() {
    let server = TestServer::start();
    let (mut prompt, mut completion) = (0.0, 0.0);
    for max_tokens in [1, 5, 12] {
        let (status, body) = server.post("/v1/chat/completions", &json!({"messages": user("hello"), "max_tokens": max_tokens, "n": 2}));
        assert_eq!(status, 200);
        // OpenAI counts the prompt once; the engine has it for each choice.
        prompt += 2.0 * body["usage"]["prompt_tokens"].as_f64().unwrap();
        completion += body["usage"]["completion_tokens"].as_f64().unwrap();
    }
    assert_eq!(server.post("/v1/chat/completions", &json!({"messages": 3})).0, 400);
    let reply = call(&server.url, "GET", "/metrics", &[], "");
    assert!(reply.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let text = reply.text;
    check_histograms(&text);
    assert_eq!(metric(&text, "vllm:prompt_tokens_total", "model_name=\"tiny\",engine=\"0\""), prompt);
    assert_eq!(metric(&text, "vllm:generation_tokens_total", ""), completion);
    assert_eq!(metric(&text, "vllm:request_success_total", "finished_reason=\"length\""), 6.0);
    for histogram in ["time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds", "request_prefill_time_seconds"] {
        assert_eq!(metric(&text, &format!("vllm:{histogram}_count"), ""), 6.0, "{histogram}");
    }
    assert_eq!(metric(&text, "vllm:inter_token_latency_seconds_count", ""), completion - 6.0);
    assert_eq!(metric(&text, "vllm:request_generation_tokens_sum", ""), completion);
    assert_eq!(metric(&text, "llm_serve_http_requests_total", "endpoint=\"/v1/chat/completions\",status=\"200\""), 3.0);
    assert_eq!(metric(&text, "llm_serve_http_requests_total", "status=\"400\""), 1.0);
    // The names that dashboards for vLLM ask for.
    let families = parse(&text);
    for name in [
        "num_requests_running",
        "num_requests_waiting",
        "kv_cache_usage_perc",
        "prefix_cache_queries_total",
        "prefix_cache_hits_total",
        "num_preemptions_total",
        "prompt_tokens_total",
        "generation_tokens_total",
        "request_success_total",
        "time_to_first_token_seconds",
        "inter_token_latency_seconds",
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
        "request_prefill_time_seconds",
        "request_decode_time_seconds",
        "request_prompt_tokens",
        "request_generation_tokens",
        "iteration_tokens_total",
    ] {
        assert!(families.contains_key(&format!("vllm:{name}")), "vllm:{name}");
    }
}

#[test]
fn paths_of_strangers_make_no_series() {
    let server = TestServer::start();
    for path in ["/a", "/b", "/v1/models/x", "/v1/models/y"] {
        server.get(path);
    }
    let text = call(&server.url, "GET", "/metrics", &[], "").text;
    assert_eq!(metric(&text, "llm_serve_http_requests_total", "endpoint=\"other\",status=\"404\""), 2.0);
    assert_eq!(metric(&text, "llm_serve_http_requests_total", "endpoint=\"/v1/models/{id}\",status=\"404\""), 2.0);
}

#[test]
fn one_json_line_for_each_request() {
    let keys = Keys::new();
    let key = bearer(&keys.add("alice", &[Scope::Completions, Scope::Metrics], Limits::default()));
    let file = keys.dir.path().join("access.jsonl");
    let log = LogConfig { format: LogFormat::Json, file: Some(file.clone()) };
    let server = TestServer::start_house(4, HouseConfig { keys: Some(keys.file.clone()), log, ..HouseConfig::default() });
    let headers = [("authorization", key.as_str()), ("x-request-id", "my-id.1")];
    let body = json!({"prompt": "the cat", "max_tokens": 5, "stream": true}).to_string();
    let reply = call(&server.url, "POST", "/v1/completions", &headers, &body);
    assert_eq!(reply.header("x-request-id"), Some("my-id.1"));
    let other = call(&server.url, "POST", "/v1/completions", &[("x-request-id", "a b")], &body);
    assert!(other.header("x-request-id").unwrap().starts_with("req-"), "an id that is not harmless is replaced");
    eventually("both lines are there", Duration::from_secs(5), || std::fs::read_to_string(&file).unwrap().lines().count() == 2);
    let lines: Vec<Value> = std::fs::read_to_string(&file).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |status: u64| lines.iter().find(|line| line["status"] == status).unwrap();
    let (ok, refused) = (of(200), of(401));
    assert_eq!((ok["id"].as_str(), ok["key"].as_str(), ok["status"].as_u64()), (Some("my-id.1"), Some("alice"), Some(200)));
    assert_eq!((ok["method"].as_str(), ok["path"].as_str(), ok["completion_tokens"].as_u64()), (Some("POST"), Some("/v1/completions"), Some(5)));
    assert_eq!(ok["bytes"].as_u64(), Some(reply.text.len() as u64));
    assert!(ok["ttft_ms"].as_f64().unwrap() <= ok["total_ms"].as_f64().unwrap() && ok["cut"] == false, "{ok}");
    assert!(ok["time"].as_str().unwrap().ends_with('Z') && ok["prompt_tokens"].as_u64().unwrap() > 0);
    assert_eq!((refused["status"].as_u64(), &refused["key"]), (Some(401), &Value::Null));
    let text = call(&server.url, "GET", "/metrics", &[("authorization", &key)], "").text;
    assert_eq!(metric(&text, "llm_serve_key_tokens_total", "key=\"alice\",kind=\"completion\""), 5.0);
    assert_eq!(metric(&text, "llm_serve_refused_total", "reason=\"key\""), 1.0);
}

#[test]
fn traces_reach_a_collector() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = TestServer::start_house(4, HouseConfig { otlp_endpoint: Some(endpoint), ..HouseConfig::default() });
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let body = json!({"prompt": "the cat", "max_tokens": 5}).to_string();
    assert_eq!(call(&server.url, "POST", "/v1/completions", &[("traceparent", &parent)], &body).status, 200);
    let (mut stream, _) = listener.accept().unwrap();
    let mut got = Vec::new();
    let message: Value = loop {
        let mut buffer = [0; 4096];
        let n = std::io::Read::read(&mut stream, &mut buffer).unwrap();
        assert!(n > 0, "the collector got no whole message");
        got.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&got);
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && let Ok(message) = serde_json::from_str(body)
        {
            assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
            break message;
        }
    };
    std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
    let spans = message["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    let names: Vec<&str> = spans.iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["POST /v1/completions", "queue", "prefill", "decode"]);
    let time = |span: &Value, name: &str| span[name].as_str().unwrap().parse::<u128>().unwrap();
    for span in spans {
        assert_eq!(span["traceId"], trace);
        assert!(time(span, "startTimeUnixNano") <= time(span, "endTimeUnixNano"));
    }
    assert_eq!(spans[0]["parentSpanId"], "00f067aa0ba902b7");
    assert!(spans[1..].iter().all(|s| s["parentSpanId"] == spans[0]["spanId"]));
    assert_eq!(spans[1]["endTimeUnixNano"], spans[2]["startTimeUnixNano"]);
}
