//! `/v1/messages` as Anthropic's clients read it.

mod common;

use common::{TestServer, scripted};
use serde_json::{Value, json};

const MESSAGES: &str = "/v1/messages";
const PIECES: &[&str] =
    &["<think>", "hm", "</think>", "Let me look.", "\n<tool_call>{\"name\": \"look\", \"arguments\": {\"at\": \"x\"}}</tool_call>"];

fn ask(extra: Value) -> Value {
    let mut body = json!({"model": "tiny", "max_tokens": 1500, "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn tools() -> Value {
    json!([{"name": "look", "description": "looks", "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}}}])
}

#[test]
fn a_turn_in_blocks() {
    let server = TestServer::scripted(scripted::HERMES, PIECES, &[]);
    let (status, reply) = server.post(MESSAGES, &ask(json!({"tools": tools(), "thinking": {"type": "enabled", "budget_tokens": 1024}})));
    assert_eq!(status, 200, "{reply}");
    assert_eq!((reply["type"].as_str(), reply["role"].as_str(), reply["model"].as_str()), (Some("message"), Some("assistant"), Some("tiny")));
    let blocks = reply["content"].as_array().unwrap();
    assert_eq!(blocks[0], json!({"type": "thinking", "thinking": "hm", "signature": ""}));
    assert_eq!(blocks[1], json!({"type": "text", "text": "Let me look."}));
    assert_eq!((blocks[2]["type"].as_str(), blocks[2]["name"].as_str(), &blocks[2]["input"]), (Some("tool_use"), Some("look"), &json!({"at": "x"})));
    assert!(blocks[2]["id"].as_str().unwrap().starts_with("toolu_"));
    assert_eq!((reply["stop_reason"].as_str(), &reply["stop_sequence"]), (Some("tool_use"), &Value::Null));
    assert!(reply["usage"]["input_tokens"].as_u64().unwrap() > 0);
    assert_eq!(reply["usage"]["output_tokens"], PIECES.len());
}

#[test]
fn a_stream_adds_up_to_the_turn() {
    let server = TestServer::scripted(scripted::HERMES, PIECES, &[]);
    let body = ask(json!({"tools": tools(), "thinking": {"type": "enabled", "budget_tokens": 1024}}));
    let whole = server.post(MESSAGES, &body).1;
    let events: Vec<Value> = server.stream(MESSAGES, &body).collect();
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    let block = ["content_block_start", "content_block_delta", "content_block_stop"];
    let expected: Vec<&str> =
        ["message_start", "ping"].into_iter().chain(block).chain(block).chain(block).chain(["message_delta", "message_stop"]).collect();
    assert_eq!(kinds, expected);
    assert_eq!(events[0]["message"]["content"], json!([]));
    let mut blocks: Vec<Value> = Vec::new();
    let mut inputs = std::collections::BTreeMap::<usize, String>::new();
    for event in &events {
        let index = event["index"].as_u64().unwrap_or(0) as usize;
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!(index, blocks.len());
                blocks.push(event["content_block"].clone());
            }
            "content_block_delta" => {
                let delta = &event["delta"];
                let (field, text) = match delta["type"].as_str().unwrap() {
                    "text_delta" => ("text", &delta["text"]),
                    "thinking_delta" => ("thinking", &delta["thinking"]),
                    "input_json_delta" => {
                        inputs.entry(index).or_default().push_str(delta["partial_json"].as_str().unwrap());
                        continue;
                    }
                    other => panic!("{other}"),
                };
                let so_far = blocks[index][field].as_str().unwrap().to_string();
                blocks[index][field] = json!(so_far + text.as_str().unwrap());
            }
            "content_block_stop" => {
                if let Some(json) = inputs.get(&index) {
                    blocks[index]["input"] = serde_json::from_str(json).unwrap();
                }
            }
            "message_delta" => {
                assert_eq!(event["delta"]["stop_reason"], whole["stop_reason"]);
                assert_eq!(event["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
            }
            _ => {}
        }
    }
    for (got, expected) in blocks.iter_mut().zip(whole["content"].as_array().unwrap()) {
        // Each reply numbers its calls anew.
        if got["type"] == "tool_use" {
            got["id"] = expected["id"].clone();
        }
        assert_eq!(got, expected);
    }
    assert_eq!(blocks.len(), 3);
}

#[test]
fn why_a_turn_ended() {
    let server = TestServer::scripted(scripted::HERMES, &["one ", "two END", " three"], &[]);
    let end = |extra: Value| {
        let reply = server.post(MESSAGES, &ask(extra)).1;
        (reply["stop_reason"].clone(), reply["stop_sequence"].clone(), reply["content"][0]["text"].clone())
    };
    assert_eq!(end(json!({})), (json!("end_turn"), Value::Null, json!("one two END three")));
    assert_eq!(end(json!({"max_tokens": 1})), (json!("max_tokens"), Value::Null, json!("one ")));
    assert_eq!(end(json!({"stop_sequences": ["nothing", "END"]})), (json!("stop_sequence"), json!("END"), json!("one two ")));
}

/// Without `thinking` a model that can think does not, as Anthropic has it.
#[test]
fn thinking_is_off_unless_asked_for() {
    let server = TestServer::scripted(scripted::HERMES, &["yes"], &[]);
    let count = |extra: Value| server.post("/v1/messages/count_tokens", &json_without_max(ask(extra))).1["input_tokens"].as_u64().unwrap();
    assert_eq!(count(json!({})), count(json!({"thinking": {"type": "enabled", "budget_tokens": 1024}})) + 2, "an empty thought is two tokens");
}

fn json_without_max(mut body: Value) -> Value {
    body.as_object_mut().unwrap().remove("max_tokens");
    body
}

#[test]
fn counting_equals_what_is_charged() {
    let server = TestServer::scripted(scripted::HERMES, &["yes"], &[]);
    let body = ask(json!({"system": "be short", "tools": tools(), "messages": [
        {"role": "user", "content": [{"type": "text", "text": "look"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "y"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "nothing there"}]},
    ]}));
    let counted = server.post("/v1/messages/count_tokens", &json_without_max(body.clone())).1["input_tokens"].as_u64().unwrap();
    let usage = server.post(MESSAGES, &body).1["usage"].clone();
    assert_eq!(usage["input_tokens"].as_u64().unwrap() + usage["cache_read_input_tokens"].as_u64().unwrap(), counted);
}

#[test]
fn errors_have_anthropics_form() {
    let server = TestServer::scripted(scripted::HERMES, &["yes"], &[]);
    for (status, kind, (got, body)) in [
        (400, "invalid_request_error", server.post(MESSAGES, &json!({"messages": []}))),
        (400, "invalid_request_error", server.send("POST", MESSAGES, b"{".to_vec())),
        (404, "not_found_error", server.post(MESSAGES, &ask(json!({"model": "claude"})))),
        (413, "request_too_large", server.send("POST", MESSAGES, vec![b' '; common::BODY_LIMIT + 1])),
        (405, "invalid_request_error", server.get(MESSAGES)),
    ] {
        assert_eq!((got, body["type"].as_str(), body["error"]["type"].as_str()), (status, Some("error"), Some(kind)), "{body}");
        assert!(!body["error"]["message"].as_str().unwrap().is_empty());
    }
}
