//! Who may call, what for, and how much: keys, scopes, quotas and the ledger.

mod common;

use common::house::{Keys, Process, bearer, call, eventually, try_call};
use common::{TestServer, tiny_model};
use llm_serve::HouseConfig;
use llm_serve::keys::store;
use llm_serve::keys::{Limits, Scope};
use llm_serve::ledger::database;
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const COMPLETIONS: &str = "/v1/completions";

fn start(keys: &Keys) -> TestServer {
    TestServer::start_house(4, HouseConfig { keys: Some(keys.file.clone()), ..HouseConfig::default() })
}

fn body(max_tokens: usize) -> String {
    json!({"prompt": "the cat", "max_tokens": max_tokens}).to_string()
}

#[test]
fn no_key_a_wrong_key_and_a_key_without_the_scope() {
    let keys = Keys::new();
    let chat = bearer(&keys.add("chat", &[Scope::Chat], Limits::default()));
    let secret = keys.add("completions", &[Scope::Completions], Limits::default());
    let completions = bearer(&secret);
    let late = bearer(&keys.add_until("late", &[Scope::Completions], Limits::default(), Some(1)));
    let server = start(&keys);
    let ask = |headers: &[(&str, &str)]| call(&server.url, "POST", COMPLETIONS, headers, &body(2));
    for (headers, status, code) in [
        (vec![], 401, "invalid_api_key"),
        (vec![("authorization", "Bearer sk-llm-nothing")], 401, "invalid_api_key"),
        (vec![("authorization", secret.as_str())], 401, "invalid_api_key"),
        (vec![("authorization", late.as_str())], 401, "invalid_api_key"),
        (vec![("authorization", completions.as_str()), ("x-api-key", "sk-llm-other")], 401, "invalid_api_key"),
        (vec![("authorization", chat.as_str())], 403, "insufficient_scope"),
    ] {
        let reply = ask(&headers);
        assert_eq!((reply.status, reply.code()), (status, Some(code)), "{headers:?}: {}", reply.text);
        assert_eq!(reply.header("www-authenticate").is_some(), status == 401);
    }
    assert_eq!(ask(&[("authorization", &completions)]).status, 200);
    assert_eq!(ask(&[("x-api-key", &secret)]).status, 200);
    // Paths: nothing but probes is open, and other spellings open nothing.
    for (method, path, status) in [
        ("GET", "/v1/models", 401),
        ("GET", "/metrics", 401),
        ("POST", "/v1/completions/", 401),
        ("POST", "//v1/completions", 401),
        ("POST", "/v1/%63ompletions", 401),
        ("GET", "/v1/nothing", 401),
        ("GET", "/health", 200),
        ("GET", "/ready", 200),
    ] {
        assert_eq!(call(&server.url, method, path, &[], "").status, status, "{method} {path}");
    }
    assert_eq!(call(&server.url, "GET", "/v1/models", &[("authorization", &chat)], "").status, 200);
    // Anthropic's clients get Anthropic's errors.
    let reply = call(&server.url, "POST", "/v1/messages", &[], "{}");
    assert_eq!((reply.status, reply.body["error"]["type"].as_str()), (401, Some("authentication_error")), "{}", reply.text);
    assert_eq!(reply.body["type"], "error");
}

/// If this fails, a key that was taken away works until the next restart.
#[test]
fn changes_take_effect_at_the_next_request() {
    let keys = Keys::new();
    let first = keys.add("a", &[Scope::Completions], Limits::default());
    let server = start(&keys);
    let status = |secret: &str| call(&server.url, "POST", COMPLETIONS, &[("authorization", &bearer(secret))], &body(1)).status;
    assert_eq!(status(&first), 200);
    let connection = database::open(&keys.file).unwrap();
    let (_, second) = store::rotate(&connection, &keys.file, "a").unwrap();
    assert_eq!((status(&first), status(second.reveal())), (401, 200));
    store::revoke(&connection, &keys.file, "a").unwrap();
    assert_eq!(status(second.reveal()), 401);
    assert_eq!(status(&keys.add("b", &[Scope::Completions], Limits::default())), 200);
}

#[test]
fn a_quota_ends_where_the_ledger_says() {
    let keys = Keys::new();
    let limits = Limits { quota_tokens: Some(60), ..Limits::default() };
    let key = bearer(&keys.add("a", &[Scope::Completions], limits));
    let server = start(&keys);
    let ask = |max_tokens| call(&server.url, "POST", COMPLETIONS, &[("authorization", &key)], &body(max_tokens));
    // More than the quota at once is refused before anything is computed.
    let reply = ask(100);
    assert_eq!((reply.status, reply.code()), (429, Some("insufficient_quota")), "{}", reply.text);
    assert_eq!(reply.header("retry-after"), None, "waiting does not help");
    let mut used = 0;
    let refused = loop {
        let reply = ask(10);
        if reply.status != 200 {
            break reply;
        }
        used += reply.body["usage"]["total_tokens"].as_i64().unwrap();
        assert_eq!(keys.number("SELECT sum(prompt_tokens + completion_tokens) FROM requests"), used);
    };
    assert_eq!((refused.status, refused.code()), (429, Some("insufficient_quota")), "{}", refused.text);
    assert!((30..=60).contains(&used), "{used}");
    // A refused request costs nothing.
    assert_eq!(keys.number("SELECT sum(prompt_tokens + completion_tokens) FROM totals"), used);
}

#[test]
fn who_leaves_pays_for_what_was_computed() {
    let keys = Keys::new();
    let key = bearer(&keys.add("a", &[Scope::Completions], Limits::default()));
    let server = start(&keys);
    let request = json!({"prompt": "a", "max_tokens": 900, "stream": true}).to_string();
    let mut stream = common::house::connect(&server.url);
    let head = format!(
        "POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{request}",
        request.len()
    );
    std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
    let mut first = [0; 600];
    std::io::Read::read_exact(&mut stream, &mut first).unwrap();
    drop(stream);
    eventually("a row for the client that left", Duration::from_secs(20), || keys.number("SELECT count(*) FROM requests WHERE status = 499") == 1);
    let tokens = keys.number("SELECT completion_tokens FROM requests");
    assert!((1..900).contains(&tokens), "{tokens}");
    server.wait_idle(Duration::from_secs(10));
}

/// If this fails, a client was told that its reply is complete and nobody knows of it after a crash.
#[test]
fn kill_loses_nothing_that_was_acknowledged() {
    let (keys, model) = (Keys::new(), tiny_model());
    let key = bearer(&keys.add("a", &[Scope::Completions], Limits { quota_tokens: Some(10_000_000), ..Limits::default() }));
    let file = keys.file.to_str().unwrap().to_string();
    let acknowledged: Arc<Mutex<HashMap<String, i64>>> = Arc::default();
    for round in 0..2 {
        let mut process = Process::start(model.path(), keys.dir.path().join("stderr"), &["--keys", &file, "--max-batch", "4"]);
        let clients: Vec<_> = (0..6)
            .map(|client| {
                let (url, key, acknowledged) = (process.url.clone(), key.clone(), Arc::clone(&acknowledged));
                std::thread::spawn(move || {
                    for number in 0.. {
                        let id = format!("r{round}-c{client}-{number}");
                        let headers = [("authorization", key.as_str()), ("x-request-id", id.as_str())];
                        let stream = number % 2 == 0;
                        let request = json!({"prompt": "the dog", "max_tokens": 3 + number % 5, "stream": stream,
                            "stream_options": if stream { json!({"include_usage": true}) } else { json!(null) }});
                        let Ok(reply) = try_call(&url, "POST", COMPLETIONS, &headers, &request.to_string()) else { return };
                        assert_eq!(reply.status, 200, "{}", reply.text);
                        let usage = match stream {
                            false => Some(reply.body["usage"].clone()),
                            true if reply.text.contains("[DONE]") => {
                                let event = reply.text.lines().filter_map(|l| l.strip_prefix("data: ")).rev().nth(1).unwrap();
                                Some(serde_json::from_str::<serde_json::Value>(event).unwrap()["usage"].clone())
                            }
                            true => None,
                        };
                        if let Some(usage) = usage {
                            acknowledged.lock().unwrap().insert(id, usage["total_tokens"].as_i64().unwrap());
                        }
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_secs(3));
        process.child.kill().unwrap();
        process.child.wait().unwrap();
        for client in clients {
            client.join().unwrap();
        }
    }
    let acknowledged = acknowledged.lock().unwrap();
    assert!(acknowledged.len() > 20, "only {} replies", acknowledged.len());
    let connection = database::open(&keys.file).unwrap();
    let mut statement = connection.prepare("SELECT id, prompt_tokens + completion_tokens FROM requests").unwrap();
    let rows: HashMap<String, i64> = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().collect::<Result<_, _>>().unwrap();
    for (id, tokens) in acknowledged.iter() {
        assert_eq!(rows.get(id), Some(tokens), "{id} was acknowledged");
    }
    let told: i64 = acknowledged.values().sum();
    let written: i64 = rows.values().sum();
    // What is written and was not acknowledged was on its way at one of the two kills: at most one reply of each client.
    assert!(written >= told && rows.len() <= acknowledged.len() + 12, "{written} {told} {} {}", rows.len(), acknowledged.len());
    assert_eq!(keys.number("SELECT sum(prompt_tokens + completion_tokens) FROM totals"), written);
}

#[test]
fn the_program_makes_lists_and_ends_keys() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("keys.db");
    let run = |arguments: &[&str]| {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_llm-serve")).args(arguments).args(["--db", db.to_str().unwrap()]).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
    };
    assert!(run(&["usage"]).1.contains("keys create"));
    let flags = ["--scopes", "chat,admin", "--requests-per-minute", "60", "--quota-tokens", "5000", "--quota-period", "month", "--expires", "30d"];
    let (ok, text) = run(&[&["keys", "create", "--name", "alice", "--priority", "-1"], flags.as_slice()].concat());
    assert!(ok, "{text}");
    let secret = text.lines().find(|line| line.starts_with("sk-llm-")).unwrap().to_string();
    let (_, list) = run(&["keys", "list"]);
    assert!(list.contains("alice") && list.contains("chat,admin") && list.contains("5000/month") && !list.contains(&secret), "{list}");
    let (ok, rotated) = run(&["keys", "rotate", "alice"]);
    assert!(ok && rotated.contains("sk-llm-") && !rotated.contains(&secret));
    assert!(run(&["keys", "revoke", "alice"]).0);
    assert!(run(&["keys", "list"]).1.contains("revoked"));
    let (ok, text) = run(&["keys", "revoke", "alice"]);
    assert!(!ok && text.starts_with("error: ") && text.lines().count() == 1, "{text}");
    assert!(run(&["usage", "--by", "day"]).1.starts_with("day "));
    assert!(!run(&["keys", "create", "--name", "bob", "--scopes", "chats"]).0);
}
