//! Structured output from a random model: it knows no JSON, so whatever is valid is the grammar's doing.

mod common;

use common::{TestServer, user};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

fn ask(extra: Value) -> Value {
    let mut body = json!({"messages": user("x"), "temperature": 1, "seed": 3, "max_tokens": 300});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn content(reply: &Value) -> &str {
    reply["choices"][0]["message"]["content"].as_str().unwrap()
}

fn schema() -> Value {
    json!({"type": "object", "properties": {"color": {"enum": ["red", "blue"]}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["color", "n"], "additionalProperties": false})
}

#[test]
fn every_reply_satisfies_its_schema() {
    let server = TestServer::start();
    let openai = json!({"response_format": {"type": "json_schema", "json_schema": {"name": "thing", "strict": true, "schema": schema()}}});
    for shape in [openai, json!({"guided_json": schema()}), json!({"structured_outputs": {"json": schema().to_string()}})] {
        let (status, reply) = server.post(CHAT, &ask(shape.clone()));
        assert_eq!((status, reply["choices"][0]["finish_reason"].as_str()), (200, Some("stop")), "{reply}");
        let value: Value = serde_json::from_str(content(&reply)).unwrap();
        assert!(value["color"] == "red" || value["color"] == "blue", "{value}");
        assert!(value["n"].as_u64().is_some_and(|n| n < 100), "{value}");
        let streamed: String =
            server.stream(CHAT, &ask(shape)).filter_map(|e| e["choices"][0]["delta"]["content"].as_str().map(str::to_string)).collect();
        assert_eq!(streamed, content(&reply));
    }
}

#[test]
fn patterns_choices_and_grammars() {
    let server = TestServer::start();
    let digits = |text: &str| text.len() == 5 && text.bytes().enumerate().all(|(i, b)| if i == 2 { b == b'-' } else { b.is_ascii_digit() });
    type Fits = Box<dyn Fn(&str) -> bool>;
    let cases: Vec<(Value, Fits)> = vec![
        (json!({"guided_regex": "[0-9]{2}-[0-9]{2}"}), Box::new(digits)),
        (json!({"structured_outputs": {"regex": "^[0-9]{2}-[0-9]{2}$"}}), Box::new(digits)),
        (json!({"guided_choice": ["yes.", "no|"]}), Box::new(|t| t == "yes." || t == "no|")),
        (
            json!({"guided_grammar": "start: \"a\" B+\nB: /[bc]/\n", "max_tokens": 30}),
            Box::new(|t| t.starts_with('a') && t[1..].chars().all(|c| "bc".contains(c))),
        ),
    ];
    for (shape, fits) in cases {
        let (status, reply) = server.post(CHAT, &ask(shape.clone()));
        assert_eq!(status, 200, "{reply}");
        assert!(fits(content(&reply)), "{shape}: {reply}");
        let mut completion = shape;
        completion["prompt"] = json!("x");
        completion["temperature"] = json!(1);
        completion["max_tokens"] = json!(30);
        let (status, reply) = server.post("/v1/completions", &completion);
        assert_eq!(status, 200, "{reply}");
        assert!(fits(reply["choices"][0]["text"].as_str().unwrap()), "{reply}");
    }
}

/// The shape is one choice's own: others in the same batch are as free as ever, and each has its own place in the grammar.
#[test]
fn several_choices_and_free_neighbours() {
    let server = TestServer::start();
    let free = json!({"messages": user("y"), "temperature": 1, "seed": 5, "max_tokens": 30});
    let alone = server.post(CHAT, &free).1;
    std::thread::scope(|scope| {
        let shaped = scope.spawn(|| server.post(CHAT, &ask(json!({"guided_regex": "[0-9]{20}", "n": 4}))).1);
        let beside = server.post(CHAT, &free).1;
        assert_eq!(content(&beside), content(&alone));
        let shaped = shaped.join().unwrap();
        let texts: Vec<&str> = shaped["choices"].as_array().unwrap().iter().map(|c| c["message"]["content"].as_str().unwrap()).collect();
        assert!(texts.iter().all(|t| t.len() == 20 && t.bytes().all(|b| b.is_ascii_digit())), "{texts:?}");
        assert!(texts.windows(2).any(|pair| pair[0] != pair[1]), "{texts:?}");
    });
}

#[test]
fn any_json_object() {
    let server = TestServer::start();
    let (status, reply) = server.post(CHAT, &ask(json!({"response_format": {"type": "json_object"}})));
    assert_eq!(status, 200, "{reply}");
    // A random model may be cut before it closes its brackets, but it begins as an object does.
    let text = content(&reply).trim_start();
    match reply["choices"][0]["finish_reason"].as_str().unwrap() {
        "stop" => assert!(serde_json::from_str::<Value>(text).unwrap().is_object(), "{text}"),
        _ => assert!(text.starts_with('{'), "{text}"),
    }
}

/// If this fails, a schema of a few hundred bytes stops the server for everybody.
#[test]
fn bombs_and_nonsense_are_refused() {
    let server = TestServer::start();
    let mut deep = json!({"type": "string"});
    for _ in 0..50 {
        deep = json!({"type": "array", "items": deep});
    }
    for (shape, param) in [
        (json!({"guided_regex": "(a"}), "guided_regex"),
        (json!({"guided_grammar": "start: missing"}), "guided_grammar"),
        (json!({"guided_json": {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}, "required": ["a"]}}), "guided_json"),
        (json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}}), "response_format"),
    ] {
        let start = std::time::Instant::now();
        let (status, reply) = server.post(CHAT, &ask(shape.clone()));
        assert_eq!((status, reply["error"]["param"].as_str()), (400, Some(param)), "{shape}: {reply}");
        assert!(start.elapsed().as_secs() < 15, "{shape}");
    }
    // Too large to compile on one machine is just not too large on another; either way the server goes on.
    let bomb = json!(format!("({}){{1000}}", "a{1000}".repeat(3)));
    for shape in [json!({"guided_json": deep, "max_tokens": 4}), json!({"guided_regex": bomb, "max_tokens": 4})] {
        let start = std::time::Instant::now();
        let (status, reply) = server.post(CHAT, &ask(shape));
        assert!(status == 200 || status == 400, "{reply}");
        assert!(start.elapsed().as_secs() < 30, "{reply}");
    }
    assert_eq!(server.get("/health").0, 200);
}
