//! Tool calls over real connections. The models say what they are told to (`common/scripted.rs`), so what is tested is the way from
//! tokens to the wire; forced calls come from a random model.

mod common;

use common::{TestServer, scripted, user};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

const TWO_CALLS: &[&str] = &[
    "I will add.\n",
    "<tool_call>\n{\"name\": \"add\", \"arg",
    "uments\": {\"a\": 1, \"b\": 2}}",
    "\n</tool_call>",
    "\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
];

fn tool(name: &str, parameters: Value) -> Value {
    json!({"type": "function", "function": {"name": name, "description": "does it", "parameters": parameters}})
}

fn tools() -> Value {
    let add = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]});
    json!([tool("add", add), tool("now", json!({"type": "object", "properties": {}}))])
}

fn ask() -> Value {
    json!({"messages": user("1 + 2?"), "tools": tools(), "max_tokens": 40})
}

fn with(mut body: Value, extra: Value) -> Value {
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// Name and parsed arguments of each call.
fn calls(message: &Value) -> Vec<(String, Value)> {
    let one = |call: &Value| {
        assert_eq!(call["type"], "function");
        let arguments = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        (call["function"]["name"].as_str().unwrap().to_string(), arguments)
    };
    message["tool_calls"].as_array().into_iter().flatten().map(one).collect()
}

#[test]
fn parallel_calls_whole_and_streamed() {
    let server = TestServer::scripted(scripted::HERMES, TWO_CALLS, &[]);
    let (status, whole) = server.post(CHAT, &ask());
    assert_eq!(status, 200, "{whole}");
    let choice = &whole["choices"][0];
    assert_eq!((choice["finish_reason"].as_str(), choice["message"]["content"].as_str()), (Some("tool_calls"), Some("I will add.")));
    let expected = vec![("add".to_string(), json!({"a": 1, "b": 2})), ("now".to_string(), json!({}))];
    assert_eq!(calls(&choice["message"]), expected);

    // llama.cpp #18591: every call of a stream had the index 0, so clients glued the arguments of all calls together.
    let mut stream = server.stream(CHAT, &ask());
    let deltas: Vec<Value> = stream.by_ref().map(|e| e["choices"][0].clone()).collect();
    assert!(stream.done);
    assert_eq!(deltas.last().unwrap()["finish_reason"], "tool_calls");
    let pieces: Vec<&Value> = deltas.iter().filter_map(|d| d["delta"]["tool_calls"].as_array()).flatten().collect();
    let mut built: Vec<(String, String, String)> = Vec::new();
    for piece in pieces {
        let index = piece["index"].as_u64().unwrap() as usize;
        if piece.get("id").is_some() {
            assert_eq!(index, built.len(), "a new call takes the next index");
            assert_eq!(piece["type"], "function");
            built.push((piece["id"].as_str().unwrap().into(), piece["function"]["name"].as_str().unwrap().into(), String::new()));
        }
        built[index].2.push_str(piece["function"]["arguments"].as_str().unwrap());
    }
    let parsed: Vec<(String, Value)> = built.iter().map(|(_, name, arguments)| (name.clone(), serde_json::from_str(arguments).unwrap())).collect();
    assert_eq!(parsed, expected);
    assert_ne!(built[0].0, built[1].0, "ids tell the calls apart");
    let content: String = deltas.iter().filter_map(|d| d["delta"]["content"].as_str()).collect();
    assert_eq!(content, "I will add.");
}

#[test]
fn who_wants_one_call_or_none_gets_that() {
    let server = TestServer::scripted(scripted::HERMES, TWO_CALLS, &[]);
    let single = server.post(CHAT, &with(ask(), json!({"parallel_tool_calls": false}))).1;
    assert_eq!(calls(&single["choices"][0]["message"]).len(), 1);
    assert_eq!(single["choices"][0]["finish_reason"], "tool_calls");
    for extra in [json!({"tool_choice": "none"}), json!({"tools": null})] {
        let text = server.post(CHAT, &with(ask(), extra)).1;
        assert_eq!(
            (text["choices"][0]["message"]["content"].as_str().unwrap(), text["choices"][0]["finish_reason"].as_str()),
            (TWO_CALLS.concat().as_str(), Some("stop"))
        );
        assert!(text["choices"][0]["message"].get("tool_calls").is_none());
    }
}

/// The mark is a control token there, which decoding leaves out elsewhere.
#[test]
fn a_mark_that_is_a_control_token() {
    let list = "[{\"name\": \"add\", \"arguments\": {\"a\": 3, \"b\": 4}}]";
    let server = TestServer::scripted(scripted::MISTRAL, &["[TOOL_CALLS]", list], &["[TOOL_CALLS]"]);
    let (_, body) = server.post(CHAT, &ask());
    let message = &body["choices"][0]["message"];
    assert_eq!(calls(message), [("add".to_string(), json!({"a": 3, "b": 4}))]);
    assert_eq!(message["content"], Value::Null);
    let id = message["tool_calls"][0]["id"].as_str().unwrap();
    assert!(id.len() == 9 && id.chars().all(|c| c.is_ascii_alphanumeric()), "Mistral's templates refuse other ids: {id}");
}

/// A template without tools is told of them in words, and answers in plain JSON.
#[test]
fn a_template_that_knows_no_tools() {
    let plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:\n{% endif %}";
    let server = TestServer::scripted(plain, &["{\"name\": \"add\", ", "\"arguments\": {\"a\": 5, \"b\": 6}}"], &[]);
    let (_, body) = server.post(CHAT, &ask());
    assert_eq!(calls(&body["choices"][0]["message"]), [("add".to_string(), json!({"a": 5, "b": 6}))]);
    let prompt = server.post("/apply-template", &json!({"messages": user("x"), "tools": tools()})).1;
    assert!(prompt["prompt"].as_str().unwrap().contains("\"name\":\"now\""), "{prompt}");
}

/// llama.cpp #20532 answered with status 500 and "Failed to parse input" for such text, and broke between builds (#18591).
#[test]
fn malformed_calls_are_content_and_never_an_error() {
    for pieces in [
        &["<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1,,}}", "\n</tool_call>"][..],
        &["<tool_call>\nadd(1, 2)\n</tool_call>"],
        &["<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": [1, 2"],
        &["<tool_call>"],
    ] {
        let server = TestServer::scripted(scripted::HERMES, pieces, &[]);
        let (status, body) = server.post(CHAT, &ask());
        assert_eq!(status, 200, "{body}");
        let choice = &body["choices"][0];
        assert_eq!((choice["message"]["content"].as_str(), choice["finish_reason"].as_str()), (Some(pieces.concat().as_str()), Some("stop")));
        let mut stream = server.stream(CHAT, &ask());
        let text: String = stream.by_ref().filter_map(|e| e["choices"][0]["delta"]["content"].as_str().map(str::to_string)).collect();
        assert_eq!((text, stream.done), (pieces.concat(), true));
    }
}

#[test]
fn a_call_that_is_cut_is_content() {
    let server = TestServer::scripted(scripted::HERMES, TWO_CALLS, &[]);
    let (_, body) = server.post(CHAT, &with(ask(), json!({"max_tokens": 2})));
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["message"]["content"], TWO_CALLS[..2].concat());
}

/// What comes back from clients reaches the template: arguments as an object, results with their call.
#[test]
fn a_conversation_goes_on_after_a_call() {
    let server = TestServer::scripted(scripted::HERMES, &["It is 3."], &[]);
    let call = json!({"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{\"a\": 1, \"b\": 2}"}});
    let history = json!([
        {"role": "user", "content": "1 + 2?"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "3"},
    ]);
    let (status, body) = server.post(CHAT, &json!({"messages": history, "tools": tools(), "max_tokens": 8}));
    assert_eq!((status, body["choices"][0]["message"]["content"].as_str()), (200, Some("It is 3.")), "{body}");
    let prompt = server.post("/apply-template", &json!({"messages": history, "tools": tools()})).1;
    let prompt = prompt["prompt"].as_str().unwrap();
    assert!(prompt.contains(r#"<tool_call>add {"a": 1, "b": 2}</tool_call>"#), "{prompt}");
    assert!(prompt.contains("<|start_header_id|>tool\n3<|eot_id|>"), "{prompt}");
}

/// lemonade #127: the server gave up on long descriptions.
#[test]
fn long_descriptions_and_many_tools() {
    let server = TestServer::scripted(scripted::HERMES, &["fine"], &[]);
    let text = "x".repeat(6000);
    let long: Vec<Value> = (0..2).map(|i| json!({"type": "function", "function": {"name": format!("f{i}"), "description": text}})).collect();
    let many: Vec<Value> = (0..100).map(|i| tool(&format!("f{i}"), json!({"type": "object"}))).collect();
    for tools in [long, many] {
        let (status, body) = server.post(CHAT, &with(ask(), json!({"tools": tools})));
        assert_eq!((status, body["choices"][0]["message"]["content"].as_str()), (200, Some("fine")), "{body}");
    }
    // More than the context holds is a refusal with a name, not a fault.
    let endless = json!({"tools": [{"type": "function", "function": {"name": "f", "description": "y".repeat(40_000)}}]});
    let (status, body) = server.post(CHAT, &with(ask(), endless));
    assert_eq!((status, body["error"]["code"].as_str()), (400, Some("context_length_exceeded")), "{body}");
}

/// llama.cpp #21760 (a stream of thoughts that stops) and #12137 (blank answers): thinking arrives, the answer after it, and an end.
#[test]
fn thinking_streams_to_its_end() {
    let server = TestServer::scripted(scripted::HERMES, &["<think>", "hm, ", "let me see", "</think>", "42"], &[]);
    let body = json!({"messages": user("x"), "max_tokens": 20});
    let message = server.post(CHAT, &body).1["choices"][0]["message"].clone();
    assert_eq!((message["reasoning_content"].as_str(), message["content"].as_str()), (Some("hm, let me see"), Some("42")));
    let mut stream = server.stream(CHAT, &body);
    let deltas: Vec<Value> = stream.by_ref().map(|e| e["choices"][0].clone()).collect();
    assert!(stream.done);
    let join = |name: &str| deltas.iter().filter_map(|d| d["delta"][name].as_str()).collect::<String>();
    assert_eq!((join("reasoning_content"), join("content")), ("hm, let me see".into(), "42".into()));
    assert_eq!(deltas.last().unwrap()["finish_reason"], "stop");
    // Cut while thinking: the thought is there, and the reason.
    let (_, cut) = server.post(CHAT, &with(body, json!({"max_tokens": 2})));
    let choice = &cut["choices"][0];
    assert_eq!((choice["message"]["reasoning_content"].as_str(), choice["finish_reason"].as_str()), (Some("hm, "), Some("length")));
}

#[test]
fn the_same_request_again_gives_the_same_calls_from_the_cache() {
    let server = TestServer::scripted(scripted::HERMES, TWO_CALLS, &[]);
    let replies: Vec<Value> = (0..3).map(|_| server.post(CHAT, &ask()).1).collect();
    for reply in &replies {
        assert_eq!(calls(&reply["choices"][0]["message"]).len(), 2);
    }
    let cached = |reply: &Value| reply["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached(&replies[0]) == 0 && cached(&replies[2]) > 0, "{replies:?}");
    assert!(cached(&replies[2]) < replies[2]["usage"]["prompt_tokens"].as_u64().unwrap());
}

/// A random model knows nothing of tools; the grammar makes it call all the same, with arguments as the schema has them.
#[test]
fn forced_calls_follow_their_schema() {
    let pick = json!({"type": "object", "properties": {"color": {"$ref": "#/$defs/Color"}, "dark": {"type": "boolean"}},
        "required": ["color", "dark"], "additionalProperties": false, "$defs": {"Color": {"enum": ["red", "green"]}}});
    let stop = json!({"type": "object", "properties": {}, "additionalProperties": false});
    let tools = json!([tool("pick", pick), tool("stop", stop)]);
    let random = TestServer::start();
    let hermes = TestServer::scripted(scripted::HERMES, &["never said"], &[]);
    for server in [&random, &hermes] {
        for (choice, names) in
            [(json!({"type": "function", "function": {"name": "pick"}}), &["pick"][..]), (json!("required"), &["pick", "stop"][..])]
        {
            for seed in 0..3 {
                let body = json!({"messages": user("x"), "tools": tools, "tool_choice": choice, "parallel_tool_calls": false, "temperature": 1,
                    "seed": seed, "max_tokens": 400});
                let (status, reply) = server.post(CHAT, &body);
                assert_eq!(status, 200, "{reply}");
                assert_eq!(reply["choices"][0]["finish_reason"], "tool_calls", "{reply}");
                let made = calls(&reply["choices"][0]["message"]);
                assert_eq!(made.len(), 1, "{reply}");
                assert!(names.contains(&made[0].0.as_str()));
                if made[0].0 == "pick" {
                    assert!(made[0].1["color"] == "red" || made[0].1["color"] == "green", "{reply}");
                    assert!(made[0].1["dark"].is_boolean(), "{reply}");
                }
                let streamed = server
                    .stream(CHAT, &body)
                    .filter_map(|e| e["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].as_str().map(str::to_string));
                let streamed: Value = serde_json::from_str(&streamed.collect::<String>()).unwrap();
                assert_eq!(streamed, made[0].1);
            }
        }
    }
}

#[test]
fn a_schema_that_cannot_be_compiled_is_the_clients_fault() {
    let server = TestServer::start();
    let broken = json!([tool("f", json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/Nothing"}}, "required": ["a"]}))]);
    let body = json!({"messages": user("x"), "tools": broken, "tool_choice": "required"});
    let (status, reply) = server.post(CHAT, &body);
    assert_eq!((status, reply["error"]["param"].as_str(), reply["error"]["code"].as_str()), (400, Some("tools"), Some("invalid_grammar")), "{reply}");
    // Only forced calls are compiled.
    assert_eq!(server.post(CHAT, &json!({"messages": user("x"), "tools": broken, "max_tokens": 2})).0, 200);
}
