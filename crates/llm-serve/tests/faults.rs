//! What happens when the engine fails, clients leave, or the server is told to end.

mod common;

use common::house::{call, eventually, metric};
use common::{TestServer, library};
use llm_infer::{Request, Sampling};
use llm_serve::HouseConfig;
use llm_serve::worker::StepHook;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const COMPLETIONS: &str = "/v1/completions";
const POISON: u64 = 666;

fn hooked(max_batch: usize, hook: impl Fn(&Request, usize) + Send + Sync + 'static) -> TestServer {
    TestServer::start_house(max_batch, HouseConfig { step_hook: Some(StepHook(Arc::new(hook))), ..HouseConfig::default() })
}

fn request(seed: u64, max_tokens: usize) -> Value {
    json!({"prompt": "the cat", "temperature": 1.0, "seed": seed, "max_tokens": max_tokens})
}

/// What the library says to the same requests.
fn expected(server: &TestServer, seeds: &[u64], max_tokens: usize) -> Vec<String> {
    let model = server.model();
    let prompt: Vec<u32> = model.tokenizer.bos_id().into_iter().chain(model.tokenizer.encode("the cat")).collect();
    let sampling = |seed| Sampling { temperature: 1.0, seed, max_tokens, stop_ids: common::stop_ids(&model), ..Sampling::default() };
    let requests = seeds.iter().map(|&seed| Request::new(prompt.clone(), sampling(seed))).collect();
    library(&model, requests).iter().map(|c| model.tokenizer.decode(&c.tokens, true)).collect()
}

fn numbers(server: &TestServer) -> String {
    call(&server.url, "GET", "/metrics", &[], "").text
}

/// If this fails, one user's request ends the replies of all others.
#[test]
fn a_request_that_makes_the_engine_panic_fails_alone() {
    let server = hooked(8, |request, generated| {
        assert!(request.sampling.seed != POISON || generated < 7, "poison");
    });
    let seeds = [1, 2, 3];
    let expected = expected(&server, &seeds, 60);
    std::thread::scope(|scope| {
        let server = &server;
        let streams: Vec<_> = seeds
            .iter()
            .map(|&seed| {
                scope.spawn(move || {
                    let mut stream = server.stream(COMPLETIONS, &request(seed, 60));
                    let text: String =
                        stream.by_ref().map(|e| e["choices"][0]["text"].as_str().unwrap_or_else(|| panic!("{e}")).to_string()).collect();
                    assert!(stream.done);
                    text
                })
            })
            .collect();
        let bad: Vec<_> = (0..2).map(|_| scope.spawn(move || server.post(COMPLETIONS, &request(POISON, 60)))).collect();
        for bad in bad {
            let (status, body) = bad.join().unwrap();
            assert_eq!((status, body["error"]["type"].as_str()), (500, Some("server_error")), "{body}");
            assert!(!body.to_string().contains("poison"), "what went wrong inside is not the client's business: {body}");
        }
        let texts: Vec<String> = streams.into_iter().map(|s| s.join().unwrap()).collect();
        assert_eq!(texts, expected, "the others must go on as if nothing had happened");
    });
    // A stream that fails says so and ends properly.
    let mut stream = server.stream(COMPLETIONS, &request(POISON, 60));
    let last = stream.by_ref().last().unwrap();
    assert_eq!(last["error"]["type"], "server_error", "{last}");
    assert!(stream.done);
    assert_eq!(server.post(COMPLETIONS, &request(1, 4)).0, 200);
    let text = numbers(&server);
    assert_eq!(metric(&text, "llm_serve_request_faults_total", ""), 3.0);
    assert_eq!(metric(&text, "vllm:request_success_total", "finished_reason=\"error\""), 3.0);
    server.wait_idle(Duration::from_secs(5));
    assert_eq!(metric(&numbers(&server), "vllm:kv_cache_usage_perc", ""), 0.0);
}

#[test]
fn a_fault_that_is_nobodys_costs_nobody_anything() {
    let steps = AtomicUsize::new(0);
    let server = hooked(8, move |_, generated| {
        assert!(generated != 20 || steps.fetch_add(1, Ordering::Relaxed) > 0, "chance");
    });
    let seeds = [4, 5, 6, 7];
    let expected = expected(&server, &seeds, 40);
    let texts: Vec<String> = std::thread::scope(|scope| {
        let server = &server;
        let all: Vec<_> = seeds.iter().map(|&seed| scope.spawn(move || server.post(COMPLETIONS, &request(seed, 40)))).collect();
        all.into_iter().map(|r| r.join().unwrap().1["choices"][0]["text"].as_str().unwrap().to_string()).collect()
    });
    assert_eq!(texts, expected);
    let text = numbers(&server);
    assert_eq!((metric(&text, "llm_serve_engine_restarts_total", ""), metric(&text, "llm_serve_request_faults_total", "")), (1.0, 0.0));
}

/// If this fails, a machine that is broken for good keeps everybody waiting for ever.
#[test]
fn a_fault_that_always_returns_ends() {
    let calls = AtomicUsize::new(0);
    let server = hooked(8, move |_, _| assert!(calls.fetch_add(1, Ordering::Relaxed) % 5 != 4, "unreliable"));
    let (status, body) = server.post(COMPLETIONS, &request(1, 200));
    assert_eq!(status, 500, "{body}");
    assert_eq!(server.get("/health").0, 200);
    assert_eq!(server.post(COMPLETIONS, &request(1, 2)).0, 200);
}

#[test]
fn while_draining_streams_finish_and_new_requests_are_told_to_go() {
    let mut server = TestServer::start();
    assert_eq!(server.get("/ready").0, 200);
    let long = json!({"prompt": "a", "temperature": 1.0, "seed": 5, "max_tokens": 900});
    let (_, whole) = server.post(COMPLETIONS, &long);
    let mut stream = server.stream(COMPLETIONS, &long);
    let mut text = stream.next().unwrap()["choices"][0]["text"].as_str().unwrap().to_string();
    server.ask_shutdown();
    eventually("the server drains", Duration::from_secs(5), || server.get("/ready").0 == 503);
    assert_eq!(server.get("/health").0, 200, "it lives");
    let refused = call(&server.url, "POST", COMPLETIONS, &[], &long.to_string());
    assert_eq!((refused.status, refused.code()), (503, Some("service_unavailable")), "{}", refused.text);
    assert!(refused.number("retry-after") >= 1.0);
    assert_eq!(refused.header("connection"), Some("close"));
    for event in stream.by_ref() {
        text.push_str(event["choices"][0]["text"].as_str().unwrap());
    }
    assert!(stream.done);
    assert_eq!(text, whole["choices"][0]["text"]);
    server.wait_end().unwrap();
}

/// If this fails, clients that leave fill the cache until nobody is served.
#[test]
fn a_storm_of_cancelled_requests_leaves_nothing_behind() {
    let server = TestServer::start_house(4, HouseConfig::default());
    std::thread::scope(|scope| {
        for client in 0..8u64 {
            let server = &server;
            scope.spawn(move || {
                for round in 0..12 {
                    let mut stream = server.stream(COMPLETIONS, &request(client * 100 + round, 800));
                    for _ in 0..(client + round) % 5 {
                        stream.next();
                    }
                }
            });
        }
    });
    server.wait_idle(Duration::from_secs(20));
    eventually("all pages are free", Duration::from_secs(5), || {
        let text = numbers(&server);
        metric(&text, "llm_serve_kv_pages_used", "") == 0.0 && metric(&text, "vllm:num_requests_running", "") == 0.0
    });
    assert_eq!(server.post(COMPLETIONS, &request(1, 4)).0, 200);
}
