//! The served document is true: it names every route, and real replies satisfy its schemas.

mod common;

use common::{TestServer, schema::problems, scripted, user};
use llm_serve::api::openapi;
use serde_json::{Value, json};

/// Routes that are no API: the chat page and its files.
fn is_page(path: &str) -> bool {
    path == "/" || path.starts_with("/chat")
}

#[test]
fn every_route_is_in_it() {
    let source = include_str!("../src/routes.rs");
    let documented: Vec<String> = openapi::routes().into_iter().map(|(_, path)| path).collect();
    let mut found = 0;
    for path in source.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        let path = path.replace("{*id}", "{id}");
        found += 1;
        assert!(documented.contains(&path) || is_page(&path), "{path} is served and not documented");
    }
    assert!(found >= 12, "the routes are somewhere else now");
    let server = TestServer::start();
    for (method, path) in openapi::routes() {
        // Not JSON.
        if path == "/metrics" {
            continue;
        }
        let (status, body) = server.send(&method, &path.replace("{id}", "tiny"), if method == "POST" { b"{}".to_vec() } else { vec![] });
        assert!(![404, 405].contains(&status), "{method} {path}: {status} {body}");
    }
}

#[test]
fn replies_satisfy_their_schemas() {
    let server = TestServer::scripted(scripted::HERMES, &["<think>", "hm", "</think>", "ok", "<tool_call>{\"name\": \"f\"}</tool_call>"], &[]);
    let document = server.get("/openapi.json").1;
    assert_eq!(document, openapi::document());
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let chat = json!({"messages": user("x"), "tools": tools, "max_tokens": 20, "logprobs": true, "top_logprobs": 2});
    let message = json!({"max_tokens": 20, "messages": user("x"), "tools": [{"name": "f", "input_schema": {}}]});
    for (path, body) in [
        ("/v1/chat/completions", chat.clone()),
        ("/v1/completions", json!({"prompt": "a", "echo": true, "logprobs": 2, "max_tokens": 3})),
        ("/v1/embeddings", json!({"input": "a"})),
        ("/v1/messages", message.clone()),
        ("/v1/messages/count_tokens", json!({"messages": user("x")})),
        ("/tokenize", json!({"prompt": "a", "return_token_strs": true})),
        ("/detokenize", json!({"tokens": [5]})),
        ("/apply-template", json!({"messages": user("x")})),
    ] {
        let operation = &document["paths"][path]["post"];
        let request = &operation["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(problems(&document, request, &body), Vec::<String>::new(), "request of {path}");
        let (status, reply) = server.post(path, &body);
        assert_eq!(status, 200, "{path}: {reply}");
        let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
        assert_eq!(problems(&document, schema, &reply), Vec::<String>::new(), "reply of {path}: {reply}");
        let (_, error) = server.send("POST", path, b"{".to_vec());
        let schema = &operation["responses"]["default"]["content"]["application/json"]["schema"];
        assert_eq!(problems(&document, schema, &error), Vec::<String>::new(), "error of {path}: {error}");
    }
    for (path, body) in [("/v1/chat/completions", chat), ("/v1/messages", message)] {
        let schema = &document["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]["schema"];
        for event in server.stream(path, &body) {
            // Anthropic's events differ in all but their type.
            let event = if path == "/v1/messages" { json!({"type": event["type"]}) } else { event };
            assert_eq!(problems(&document, schema, &event), Vec::<String>::new(), "{event}");
        }
    }
    for path in ["/v1/models", "/v1/models/{id}", "/health", "/ready"] {
        let schema = &document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        let reply: Value = server.get(&path.replace("{id}", "tiny")).1;
        assert_eq!(problems(&document, schema, &reply), Vec::<String>::new(), "{reply}");
    }
}

/// If this fails, a body of brackets overflows a stack or costs more than it should.
#[test]
fn depth_and_numbers_are_bounded() {
    let server = TestServer::start();
    let deep = |inner: &str| format!("{{\"messages\": [{{\"role\": \"user\", \"content\": \"x\"}}], {inner}").into_bytes();
    for body in [
        deep(&format!("\"metadata\": {}", "[".repeat(20_000))),
        deep(&format!("\"metadata\": {}{}}}", "{\"a\":".repeat(5000), "1")),
        deep(&format!("\"metadata\": {}1{}}}", "[".repeat(200), "]".repeat(200))),
    ] {
        let (status, reply) = server.send("POST", "/v1/chat/completions", body);
        assert_eq!((status, reply["error"]["code"].as_str()), (400, Some("invalid_json")), "{reply}");
    }
    let empty = json!({"role": "user", "content": ""});
    let (status, reply) = server.post("/v1/chat/completions", &json!({"messages": vec![empty; 1600], "max_tokens": 1}));
    assert_eq!((status, reply["error"]["code"].as_str()), (400, Some("context_length_exceeded")), "{reply}");
    assert_eq!(server.get("/health").0, 200);
}
