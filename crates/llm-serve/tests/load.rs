//! Above capacity for a long time: clients that are served, that leave, that do not read, that send nonsense, at a rate that does not
//! wait for the replies.
//!
//! `LOAD_SECONDS=1800 cargo test --test load -- --ignored --nocapture` prints a table; the default is a minute. The server is a process of
//! its own, so that its memory can be told from the clients'.

mod common;

use common::house::{Keys, Process, bearer, call, connect, eventually, metric, raw, try_call};
use common::tiny_model;
use llm_serve::keys::{Limits, Scope};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const COMPLETIONS: &str = "/v1/completions";
/// Clients at the same time; arrivals beyond it are counted as not sent.
const MOST_CLIENTS: usize = 400;
const KINDS: [&str; 11] =
    ["stream", "whole", "chat", "cancel", "disconnect", "slow reader", "oversized", "malformed", "bad tokens", "wrong key", "half a request"];

#[derive(Default)]
struct Outcomes(Mutex<BTreeMap<(&'static str, String), usize>>);

impl Outcomes {
    fn note(&self, kind: &'static str, outcome: impl Into<String>) {
        *self.0.lock().unwrap().entry((kind, outcome.into())).or_default() += 1;
    }
}

fn post(url: &str, key: &str, body: &str) -> std::net::TcpStream {
    let mut stream = connect(url);
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let head =
        format!("POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: {key}\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all((head + body).as_bytes()).unwrap();
    stream
}

/// One client. `number` makes every one a little different.
fn client(kind: &'static str, number: usize, url: &str, key: &str) -> String {
    let tokens = 4 + number * 7 % 60;
    let text = ["the cat", "one two three", "wie viel ist", "¿cuánto es"][number % 4];
    let mut body = json!({"prompt": format!("{text} {number}"), "max_tokens": tokens, "temperature": 0.8, "seed": number});
    let headers = [("authorization", key)];
    let answered = |body: &Value, path: &str| match try_call(url, "POST", path, &headers, &body.to_string()) {
        Ok(reply) => {
            let whole = reply.status == 200 && body["stream"] == true;
            if whole && !reply.text.trim_end().ends_with("[DONE]") {
                return "stream without an end".to_string();
            }
            if reply.status == 429 && reply.header("retry-after").is_none() {
                return "429 without Retry-After".into();
            }
            reply.status.to_string()
        }
        Err(error) => format!("no answer: {error}"),
    };
    match kind {
        "stream" => {
            body["stream"] = json!(true);
            answered(&body, COMPLETIONS)
        }
        "whole" => answered(&body, COMPLETIONS),
        "chat" => answered(&json!({"messages": common::user(text), "max_tokens": tokens, "n": 1 + number % 3}), "/v1/chat/completions"),
        "cancel" | "disconnect" => {
            body["stream"] = json!(true);
            body["max_tokens"] = json!(800);
            let mut stream = post(url, key, &body.to_string());
            let mut buffer = [0; 300];
            if kind == "cancel" {
                let _ = stream.read(&mut buffer);
            }
            "left".into()
        }
        "slow reader" => {
            let body = json!({"prompt": text, "max_tokens": 300, "n": 4, "logprobs": 20, "stream": true});
            let mut stream = post(url, key, &body.to_string());
            let mut buffer = [0; 512];
            for _ in 0..20 {
                match stream.read(&mut buffer) {
                    Ok(n) if n > 0 => std::thread::sleep(Duration::from_millis(100)),
                    _ => break,
                }
            }
            "left".into()
        }
        "oversized" => {
            let reply = try_call(url, "POST", COMPLETIONS, &headers, &" ".repeat(9 << 20));
            reply.map_or_else(|error| format!("no answer: {error}"), |reply| reply.status.to_string())
        }
        "malformed" => {
            let bytes =
                ["GET / HTTP/1.1\r\nhost x\r\n\r\n", "\0\0\0\0\r\n\r\n", "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n"];
            let (reply, closed) = raw(url, bytes[number % 3].as_bytes(), Duration::from_secs(60));
            if closed { reply.split(' ').nth(1).unwrap_or("closed").to_string() } else { "left open".into() }
        }
        "bad tokens" => answered(&json!({"prompt": [1, 4_000_000, number], "max_tokens": 3}), COMPLETIONS),
        "wrong key" => {
            let reply = try_call(url, "POST", COMPLETIONS, &[("authorization", "Bearer sk-llm-x")], &body.to_string());
            reply.map_or_else(|error| format!("no answer: {error}"), |reply| reply.status.to_string())
        }
        _ => {
            let mut stream = connect(url);
            let _ = stream.write_all(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{\"prompt\": ");
            std::thread::sleep(Duration::from_millis(300));
            "left".into()
        }
    }
}

fn may_be(kind: &str, outcome: &str) -> bool {
    match kind {
        "stream" | "whole" | "chat" => ["200", "429"].contains(&outcome),
        "cancel" | "disconnect" | "slow reader" | "half a request" => outcome == "left",
        "oversized" => outcome == "413",
        "malformed" => ["400", "closed"].contains(&outcome),
        "bad tokens" => outcome == "400",
        _ => outcome == "401",
    }
}

#[test]
#[ignore = "takes a minute, or LOAD_SECONDS"]
fn above_capacity() {
    let seconds = std::env::var("LOAD_SECONDS").ok().map_or(60, |s| s.parse().expect("LOAD_SECONDS is a number"));
    let (keys, model) = (Keys::new(), tiny_model());
    let key = bearer(&keys.add("load", &[Scope::Completions, Scope::Chat, Scope::Metrics], Limits::default()));
    let flags = ["--keys", keys.file.to_str().unwrap(), "--max-batch", "8", "--max-queue", "24", "--max-wait", "5", "--write-timeout", "5"];
    let log = keys.dir.path().join("access.jsonl");
    let flags = [flags.as_slice(), &["--log-format", "json", "--log-file", log.to_str().unwrap()]].concat();
    let process = Process::start(model.path(), keys.dir.path().join("stderr"), &flags);

    // Capacity: eight clients that wait for their replies.
    let start = Instant::now();
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let (done, process, key) = (&done, &process, &key);
            scope.spawn(move || {
                while start.elapsed() < Duration::from_secs(5) {
                    client("whole", worker + done.fetch_add(1, Ordering::Relaxed), &process.url, key);
                }
            });
        }
    });
    let capacity = done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
    let rate = 2.0 * capacity;

    let (outcomes, running) = (Arc::new(Outcomes::default()), Arc::new(AtomicUsize::new(0)));
    let (mut memory, mut not_sent, mut number) = (Vec::new(), 0, 0usize);
    let start = Instant::now();
    let mut clients = Vec::new();
    while start.elapsed() < Duration::from_secs(seconds) {
        let due = (start.elapsed().as_secs_f64() * rate) as usize;
        while number < due {
            number += 1;
            if running.load(Ordering::Relaxed) >= MOST_CLIENTS {
                not_sent += 1;
                continue;
            }
            let kind = KINDS[number % KINDS.len()];
            let (url, key, outcomes, running) = (process.url.clone(), key.clone(), Arc::clone(&outcomes), Arc::clone(&running));
            running.fetch_add(1, Ordering::Relaxed);
            clients.push(std::thread::spawn(move || {
                let outcome = std::panic::catch_unwind(|| client(kind, number, &url, &key)).unwrap_or_else(|_| "no connection".into());
                outcomes.note(kind, outcome);
                running.fetch_sub(1, Ordering::Relaxed);
            }));
        }
        clients.retain(|client| !client.is_finished());
        memory.push((start.elapsed().as_secs_f64(), process.resident()));
        std::thread::sleep(Duration::from_millis(10));
    }
    clients.into_iter().for_each(|client| client.join().unwrap());

    let metrics = || call(&process.url, "GET", "/metrics", &[("authorization", &key)], "").text;
    eventually("the engine is idle and all pages are free", Duration::from_secs(30), || {
        let text = metrics();
        ["vllm:num_requests_running", "vllm:num_requests_waiting", "llm_serve_kv_pages_used"].iter().all(|name| metric(&text, name, "") == 0.0)
    });
    let text = metrics();
    println!("\ncapacity {capacity:.1} requests/s, offered {rate:.1}/s for {seconds} s, {not_sent} not sent (too many clients)");
    println!("{:<16} {:<24} {:>8}", "client", "outcome", "count");
    let outcomes = outcomes.0.lock().unwrap();
    for ((kind, outcome), count) in outcomes.iter() {
        println!("{kind:<16} {outcome:<24} {count:>8}{}", if may_be(kind, outcome) { "" } else { "   <-- wrong" });
    }
    let tenth = |i: usize| memory.get(i * memory.len() / 10).map_or(0.0, |&(_, bytes)| bytes as f64 / 1e6);
    println!("resident memory at every tenth, MB: {}", (0..10).map(|i| format!("{:.1}", tenth(i))).collect::<Vec<_>>().join(" "));
    // Two fifths are warm-up: threads start and pages of the cache are touched for the first time. Of the rest, the second half must not be
    // above the first.
    let warm: Vec<u64> = memory.iter().filter(|(at, _)| *at > seconds as f64 * 0.4).map(|&(_, bytes)| bytes).collect();
    let (early, late) = warm.split_at(warm.len() / 2);
    let most = |list: &[u64]| list.iter().copied().max().unwrap_or(0) as f64 / 1e6;
    println!("resident memory, MB: {:.1} at most before half time, {:.1} after", most(early), most(late));
    println!("steps {}, faults {}", metric(&text, "llm_serve_engine_steps_total", ""), metric(&text, "llm_serve_request_faults_total", ""));

    let wrong: Vec<_> = outcomes.iter().filter(|((kind, outcome), _)| !may_be(kind, outcome)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(outcomes.keys().any(|(_, outcome)| outcome == "429"), "the load was not above capacity");
    assert!(most(late) <= 1.05 * most(early), "memory grew from {:.1} to {:.1} MB", most(early), most(late));
    assert_eq!(metric(&text, "llm_serve_engine_restarts_total", ""), 0.0);
    assert_eq!(metric(&text, "llm_serve_request_faults_total", ""), 0.0);
    let acknowledged = outcomes.iter().filter(|((_, outcome), _)| outcome == "200").map(|(_, n)| *n as i64).sum::<i64>();
    assert!(keys.number("SELECT count(*) FROM requests WHERE status = 200") >= acknowledged);
}
