//! How fast, how many at once, how long: rates, the queue, time limits and connections.

mod common;

use common::TestServer;
use common::house::{Keys, bearer, call, connect, eventually, raw, read_to_end};
use llm_serve::HouseConfig;
use llm_serve::keys::{Limits, Scope};
use serde_json::json;
use std::io::Write;
use std::time::{Duration, Instant};

const COMPLETIONS: &str = "/v1/completions";

fn ask(server: &TestServer, key: &str, max_tokens: usize) -> common::house::Reply {
    let headers = [("authorization", key)];
    call(
        &server.url,
        "POST",
        COMPLETIONS,
        if key.is_empty() { &[] } else { &headers },
        &json!({"prompt": "the cat", "max_tokens": max_tokens}).to_string(),
    )
}

#[test]
fn requests_of_a_minute() {
    let keys = Keys::new();
    let limited = bearer(&keys.add("a", &[Scope::Completions], Limits { requests_per_minute: Some(4), ..Limits::default() }));
    let free = bearer(&keys.add("b", &[Scope::Completions], Limits::default()));
    let server = TestServer::start_house(4, HouseConfig { keys: Some(keys.file.clone()), ..HouseConfig::default() });
    for left in [3.0, 2.0, 1.0, 0.0] {
        let reply = ask(&server, &limited, 1);
        assert_eq!((reply.status, reply.number("x-ratelimit-limit-requests")), (200, 4.0));
        // Time goes on between the requests.
        assert!((left..=left + 1.0).contains(&reply.number("x-ratelimit-remaining-requests")));
    }
    let refused = ask(&server, &limited, 1);
    assert_eq!((refused.status, refused.code(), refused.body["error"]["type"].as_str()), (429, Some("rate_limit_exceeded"), Some("requests")));
    // Four a minute are one in fifteen seconds.
    assert!((5.0..=15.0).contains(&refused.number("retry-after")), "{:?}", refused.header("retry-after"));
    assert_eq!(ask(&server, &free, 1).status, 200, "another key is not held up");
}

#[test]
fn tokens_of_a_minute_are_taken_in_advance_and_given_back() {
    let keys = Keys::new();
    let key = bearer(&keys.add("a", &[Scope::Completions], Limits { tokens_per_minute: Some(600), ..Limits::default() }));
    let server = TestServer::start_house(4, HouseConfig { keys: Some(keys.file.clone()), ..HouseConfig::default() });
    let first = ask(&server, &key, 400);
    assert_eq!(first.status, 200);
    let used = first.body["usage"]["total_tokens"].as_f64().unwrap();
    let second = ask(&server, &key, 400);
    assert_eq!((second.status, second.code(), second.body["error"]["type"].as_str()), (429, Some("rate_limit_exceeded"), Some("tokens")));
    // Ten tokens come back every second; prompt and 400 are needed, 600 - used were left and some came back meanwhile.
    let prompt = first.body["usage"]["prompt_tokens"].as_f64().unwrap();
    let missing = (prompt + 400.0) - (600.0 - used);
    let again = second.number("retry-after");
    assert!(again <= (missing / 10.0).ceil() && again >= 1.0, "{again} s for {missing} tokens");
    // A reply that ends early: what was not used is there again.
    let free = keys.add("b", &[Scope::Completions], Limits { tokens_per_minute: Some(500), ..Limits::default() });
    let end = server.model().tokenizer.eos_id().unwrap().to_string();
    let request = json!({"prompt": "the cat", "max_tokens": 450, "logit_bias": {end: 100}}).to_string();
    for _ in 0..3 {
        let reply = call(&server.url, "POST", COMPLETIONS, &[("x-api-key", &free)], &request);
        assert_eq!((reply.status, reply.body["usage"]["completion_tokens"].as_u64()), (200, Some(0)), "{}", reply.text);
    }
}

#[test]
fn the_queue_is_bounded_and_says_when_to_come_back() {
    let server = TestServer::start_house(1, HouseConfig { max_queue: 1, ..HouseConfig::default() });
    ask(&server, "", 200);
    let long = json!({"prompt": "a", "max_tokens": 900});
    let mut running = server.stream(COMPLETIONS, &long);
    assert!(running.next().is_some());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ask(&server, "", 2));
        eventually("one waits", Duration::from_secs(10), || {
            let text = call(&server.url, "GET", "/metrics", &[], "").text;
            common::house::metric(&text, "vllm:num_requests_waiting", "") == 1.0
        });
        let refused = ask(&server, "", 2);
        assert_eq!((refused.status, refused.code()), (429, Some("server_busy")), "{}", refused.text);
        assert!((1.0..=600.0).contains(&refused.number("retry-after")));
        drop(running);
        assert_eq!(waiting.join().unwrap().status, 200, "who waits is served");
    });
    assert_eq!(ask(&server, "", 2).status, 200);
}

#[test]
fn a_reply_that_takes_too_long_ends() {
    let server = TestServer::start_house(1, HouseConfig { request_timeout: Some(Duration::from_millis(300)), ..HouseConfig::default() });
    // One after the other.
    let request = json!({"prompt": "a", "max_tokens": 900, "n": 8}).to_string();
    let reply = call(&server.url, "POST", COMPLETIONS, &[], &request);
    assert_eq!((reply.status, reply.code()), (504, Some("request_timeout")), "{}", reply.text);
    server.wait_idle(Duration::from_secs(5));
    assert_eq!(ask(&server, "", 1).status, 200);
}

#[test]
fn slow_senders_are_not_waited_for() {
    let limit = Duration::from_millis(400);
    let server = TestServer::start_house(1, HouseConfig { header_timeout: limit, body_timeout: limit, ..HouseConfig::default() });
    // One byte of the head every 100 ms.
    let mut stream = connect(&server.url);
    let start = Instant::now();
    for byte in b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow: aaaaaaaaaaaaaaaaaaaaaa" {
        if stream.write_all(&[*byte]).is_err() || start.elapsed() > Duration::from_secs(3) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let (_, closed) = read_to_end(&mut stream, Duration::from_secs(2));
    assert!(closed && start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // The head at once, the body byte by byte.
    let mut stream = connect(&server.url);
    stream.write_all(format!("POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n").as_bytes()).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(900) && stream.write_all(b" ").is_ok() {
        std::thread::sleep(Duration::from_millis(50));
    }
    let (reply, _) = read_to_end(&mut stream, Duration::from_secs(3));
    assert!(reply.starts_with("HTTP/1.1 408 "), "{reply}");
    // An idle connection is closed as well.
    let (reply, closed) = raw(&server.url, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n", Duration::from_secs(5));
    assert!(reply.starts_with("HTTP/1.1 200 ") && closed, "{reply}");
}

#[test]
fn connections_are_bounded() {
    let server = TestServer::start_house(1, HouseConfig { max_connections: 3, ..HouseConfig::default() });
    let held: Vec<_> = (0..3).map(|_| connect(&server.url)).collect();
    eventually("a connection too many gets 503", Duration::from_secs(5), || {
        let (reply, closed) = raw(&server.url, b"", Duration::from_millis(300));
        closed && reply.starts_with("HTTP/1.1 503 ")
    });
    drop(held);
    eventually("places come back", Duration::from_secs(5), || {
        let (reply, _) = raw(&server.url, b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", Duration::from_secs(2));
        reply.starts_with("HTTP/1.1 200 ")
    });
}
