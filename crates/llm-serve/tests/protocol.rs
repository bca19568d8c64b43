//! Streams, errors, disconnects and shutdown over real connections.

mod common;

use common::{BODY_LIMIT, TestServer, library, user};
use llm_infer::{Request, Sampling};
use llm_serve::assemble::Assembler;
use llm_serve::reasoning::Segment;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[test]
fn a_stream_adds_up_to_the_whole_reply() {
    let server = TestServer::start();
    let request = json!({"messages": user("count"), "temperature": 1.2, "seed": 3, "max_tokens": 40, "n": 2, "logprobs": true, "top_logprobs": 2});
    let (_, whole) = server.post("/v1/chat/completions", &request);

    let mut with_usage = request.clone();
    with_usage["stream_options"] = json!({"include_usage": true});
    let mut stream = server.stream("/v1/chat/completions", &with_usage);
    let events: Vec<Value> = stream.by_ref().collect();
    assert!(stream.done, "the stream must end with [DONE]");
    let (usage, chunks) = events.split_last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    // The second call finds the prompt in the cache, and says so.
    let counts = |usage: &Value| {
        let mut usage = usage.clone();
        assert!(usage["prompt_tokens_details"].take()["cached_tokens"].is_u64());
        usage
    };
    assert_eq!(counts(&usage["usage"]), counts(&whole["usage"]));
    for index in 0..2 {
        let mine: Vec<&Value> = chunks.iter().map(|c| &c["choices"][0]).filter(|c| c["index"] == index).collect();
        assert_eq!(mine[0]["delta"]["role"], "assistant");
        assert!(mine[1..].iter().all(|c| c["delta"].get("role").is_none()));
        let (last, rest) = mine.split_last().unwrap();
        let expected = whole["choices"].as_array().unwrap().iter().find(|c| c["index"] == index).unwrap();
        assert_eq!(last["finish_reason"], expected["finish_reason"]);
        assert!(rest.iter().all(|c| c["finish_reason"].is_null()));
        let content: String = mine.iter().filter_map(|c| c["delta"]["content"].as_str()).collect();
        assert_eq!(content, expected["message"]["content"]);
        let tokens: Vec<&Value> = mine.iter().filter_map(|c| c["logprobs"]["content"].as_array()).flatten().collect();
        assert_eq!(rounded(json!(tokens)), rounded(expected["logprobs"]["content"].clone()));
    }
    let heads: std::collections::BTreeSet<_> = events.iter().map(|e| e["id"].to_string()).collect();
    assert_eq!(heads.len(), 1, "one id per stream");
    assert!(events.iter().all(|e| e["object"] == "chat.completion.chunk"));
}

/// Numbers to three digits: what is found in the cache was computed with other rows, so last bits may differ.
fn rounded(value: Value) -> Value {
    match value {
        Value::Number(n) if n.is_f64() => json!((n.as_f64().unwrap_or_default() * 1e3).round() as i64),
        Value::Array(list) => list.into_iter().map(rounded).collect(),
        Value::Object(map) => Value::Object(map.into_iter().map(|(k, v)| (k, rounded(v))).collect()),
        other => other,
    }
}

#[test]
fn a_stop_string_ends_the_text_before_it_in_both_forms() {
    let server = TestServer::start();
    let model = server.model();
    let request = json!({"prompt": "the cat", "temperature": 1.0, "seed": 11, "max_tokens": 40});
    let (_, free) = server.post("/v1/completions", &request);
    let text = free["choices"][0]["text"].as_str().unwrap();
    // Three characters from the middle (broken UTF-8 is not what this is about); the text must end where they first occur.
    let chars: Vec<char> = text.chars().collect();
    let stop: String = chars[chars.len() / 2..].windows(3).find(|w| w.iter().all(char::is_ascii)).expect("ASCII in a random reply").iter().collect();
    let expected = &text[..text.find(&stop).unwrap()];

    let mut stopped = request.clone();
    stopped["stop"] = json!([stop]);
    let (_, whole) = server.post("/v1/completions", &stopped);
    assert_eq!(whole["choices"][0]["text"], expected);
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let streamed: String = server.stream("/v1/completions", &stopped).filter_map(|e| e["choices"][0]["text"].as_str().map(str::to_string)).collect();
    assert_eq!(streamed, expected);

    // The engine stops there too, so the library pays for no more tokens than the server.
    let prompt: Vec<u32> = model.tokenizer.bos_id().into_iter().chain(model.tokenizer.encode("the cat")).collect();
    let sampling =
        Sampling { temperature: 1.0, seed: 11, max_tokens: 40, stop: vec![stop], stop_ids: common::stop_ids(&model), ..Sampling::default() };
    let completion = library(&model, vec![Request::new(prompt, sampling)]).remove(0);
    assert!(completion.tokens.len() < 40);
    assert_eq!(whole["usage"]["completion_tokens"], completion.tokens.len());
}

#[test]
fn text_that_looks_like_a_marker_stays_text() {
    let dir = common::tiny_model();
    let tokenizer = llm_tokenizer::Tokenizer::load(dir.path()).unwrap();
    let (open, close) = (tokenizer.special_id("<think>").unwrap(), tokenizer.special_id("</think>").unwrap());
    let mut tokens = vec![open];
    tokens.extend(tokenizer.encode("I must not write </think> yet, é"));
    tokens.push(close);
    tokens.extend(tokenizer.encode("<think>42</think>"));

    let mut assembler = Assembler::chat(&tokenizer, &[], &[]);
    let (mut reasoning, mut content) = (String::new(), String::new());
    let mut pieces: Vec<_> = tokens.iter().flat_map(|&t| assembler.push(t).1).collect();
    pieces.extend(assembler.finish());
    for piece in pieces {
        match piece.segment {
            Segment::Reasoning => reasoning.push_str(&piece.text),
            Segment::Content => content.push_str(&piece.text),
        }
    }
    assert_eq!(reasoning, "I must not write </think> yet, é");
    assert_eq!(content, "<think>42</think>");
}

#[test]
fn thinking_can_be_turned_off() {
    let server = TestServer::start();
    let base = json!({"messages": user("hi"), "max_tokens": 1});
    let mut off = base.clone();
    off["chat_template_kwargs"] = json!({"enable_thinking": false});
    let tokens = |body: &Value| server.post("/v1/chat/completions", body).1["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(tokens(&off), tokens(&base) + 2, "an empty thought is two tokens");
}

#[test]
fn errors_have_openai_form_and_status() {
    let server = TestServer::start();
    let chat = "/v1/chat/completions";
    let cases: Vec<(u16, &str, (u16, Value))> = vec![
        (404, "unknown_url", server.get("/v1/nothing")),
        (405, "method_not_supported", server.get(chat)),
        (405, "method_not_supported", server.post("/v1/models", &json!({}))),
        (413, "request_too_large", server.send("POST", chat, vec![b' '; BODY_LIMIT + 1])),
        (400, "invalid_json", server.send("POST", chat, b"{\"messages\": [}".to_vec())),
        (400, "invalid_type", server.post(chat, &json!({"messages": user("x"), "temperature": "hot"}))),
        (400, "unsupported_parameter", server.post(chat, &json!({"messages": user("x"), "tools": [{"type": "web_search"}]}))),
        (404, "model_not_found", server.post(chat, &json!({"model": "gpt-4o", "messages": user("x")}))),
        (404, "model_not_found", server.get("/v1/models/org/other")),
        (400, "context_length_exceeded", server.post(chat, &json!({"messages": user("x"), "max_tokens": 1_000_000}))),
        (400, "context_length_exceeded", server.post(chat, &json!({"messages": user(&"word ".repeat(10_000))}))),
    ];
    for (status, code, (got, body)) in cases {
        assert_eq!((got, body["error"]["code"].as_str()), (status, Some(code)), "{body}");
        assert_eq!(body["error"]["type"], "invalid_request_error");
        assert!(!body["error"]["message"].as_str().unwrap().is_empty());
    }
    let (_, json) = server.send("POST", chat, b"{\n\"messages\": [}".to_vec());
    assert!(json["error"]["message"].as_str().unwrap().contains("line 2 column 14"), "{json}");
    let (status, ids) = server.post("/v1/completions", &json!({"prompt": [4_000_000]}));
    assert_eq!((status, ids["error"]["param"].as_str()), (400, Some("prompt")));
    // None of that hurt anybody.
    assert_eq!(server.get("/health").0, 200);
    assert_eq!(server.post(chat, &json!({"messages": user("x"), "max_tokens": 2})).0, 200);
}

#[test]
fn models_and_health() {
    let server = TestServer::start();
    let (status, models) = server.get("/v1/models");
    assert_eq!((status, models["data"][0]["id"].as_str()), (200, Some("tiny")));
    assert!(models["data"][0]["max_model_len"].as_u64().unwrap() >= 64);
    assert_eq!(server.get("/v1/models/tiny").1, models["data"][0]);
    assert_eq!(server.get("/health").1["status"], "ok");
}

/// A request that fills the context, and how long it takes: only a cancellation can explain a much quicker end.
fn long_request(server: &TestServer) -> (Value, Duration) {
    let context = server.get("/v1/models").1["data"][0]["max_model_len"].as_u64().unwrap();
    let request = json!({"prompt": "a", "max_tokens": context - 16});
    let start = Instant::now();
    assert_eq!(server.post("/v1/completions", &request).1["choices"][0]["finish_reason"], "length");
    (request, start.elapsed())
}

#[test]
fn a_client_that_leaves_frees_the_engine() {
    let server = TestServer::start_with(1, Duration::from_secs(30));
    let (long, full_time) = long_request(&server);
    let mut stream = server.stream("/v1/completions", &long);
    assert!(stream.next().is_some());
    assert_eq!(server.get("/health").1["active_requests"], 1);
    // The only slot is taken; the next request gets it when the client is gone.
    drop(stream);
    let start = Instant::now();
    server.wait_idle(full_time / 2);
    assert_eq!(server.post("/v1/completions", &json!({"prompt": "b", "max_tokens": 2})).0, 200);
    assert!(start.elapsed() < full_time / 2, "a full reply takes {full_time:?}, the next client waited {:?}", start.elapsed());
}

#[test]
fn shutdown_lets_a_running_stream_finish() {
    let mut server = TestServer::start();
    let request = json!({"prompt": "a", "temperature": 1.0, "seed": 5, "max_tokens": 60});
    let (_, whole) = server.post("/v1/completions", &request);
    let mut stream = server.stream("/v1/completions", &request);
    let first = stream.next().unwrap();
    server.ask_shutdown();
    let mut text = first["choices"][0]["text"].as_str().unwrap().to_string();
    for event in stream.by_ref() {
        text.push_str(event["choices"][0]["text"].as_str().unwrap());
    }
    assert!(stream.done);
    assert_eq!(text, whole["choices"][0]["text"]);
    server.wait_end().unwrap();
    assert!(std::net::TcpStream::connect(server.url.trim_start_matches("http://")).is_err(), "nobody listens any more");
}

#[test]
fn the_drain_time_is_a_bound() {
    let mut server = TestServer::start_with(8, Duration::ZERO);
    let mut stream = server.stream("/v1/completions", &long_request(&server).0);
    assert!(stream.next().is_some());
    server.ask_shutdown();
    let last = stream.by_ref().last().unwrap();
    assert!(last["error"]["message"].as_str().is_some_and(|m| m.contains("shutting down")), "{last}");
    assert!(stream.done);
    server.wait_end().unwrap();
}

#[test]
fn an_echoed_stream_begins_with_its_prompt() {
    let server = TestServer::start();
    let body = json!({"prompt": ["the cat", "one"], "echo": true, "logprobs": 1, "max_tokens": 6});
    let whole = server.post("/v1/completions", &body).1;
    let events: Vec<Value> = server.stream("/v1/completions", &body).map(|e| e["choices"][0].clone()).collect();
    for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
        let mine: Vec<&Value> = events.iter().filter(|e| e["index"] == index).collect();
        assert_eq!(mine.iter().filter_map(|e| e["text"].as_str()).collect::<String>(), choice["text"].as_str().unwrap());
        let offsets: Vec<&Value> = mine.iter().filter_map(|e| e["logprobs"]["text_offset"].as_array()).flatten().collect();
        assert_eq!(json!(offsets), choice["logprobs"]["text_offset"]);
    }
}

#[test]
fn the_best_of_several_is_the_likeliest_per_token() {
    let server = TestServer::start();
    let body = json!({"prompt": "the cat", "temperature": 1.5, "seed": 4, "max_tokens": 8, "logprobs": 0});
    let with = |extra: Value| {
        let mut body = body.clone();
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        server.post("/v1/completions", &body).1
    };
    let mean = |choice: &Value| {
        let logs: Vec<f64> = choice["logprobs"]["token_logprobs"].as_array().unwrap().iter().map(|l| l.as_f64().unwrap()).collect();
        logs.iter().sum::<f64>() / logs.len() as f64
    };
    let all = with(json!({"n": 5}));
    let mut ranked: Vec<&Value> = all["choices"].as_array().unwrap().iter().collect();
    ranked.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
    let best = with(json!({"n": 2, "best_of": 5}));
    let got: Vec<&Value> = best["choices"].as_array().unwrap().iter().map(|c| &c["text"]).collect();
    assert_eq!(got, [&ranked[0]["text"], &ranked[1]["text"]]);
    assert_eq!((best["choices"][1]["index"].as_u64(), &best["usage"]), (Some(1), &all["usage"]), "what was tried is counted");
}

/// The prompt of a gap is marked as the model was trained; without marks that is refused.
#[test]
fn a_gap_is_filled_where_the_model_can() {
    let marks = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"];
    let able = TestServer::scripted(common::scripted::HERMES, &["<|fim_middle|>", "filled"], &marks);
    let body = json!({"prompt": "def f():\n", "suffix": "\nreturn x\n", "max_tokens": 4});
    let (status, reply) = able.post("/v1/completions", &body);
    assert_eq!(status, 200, "{reply}");
    let tokenizer = llm_tokenizer::Tokenizer::load(able.dir.path()).unwrap();
    let length = |text: &str| tokenizer.encode(text).len();
    let expected = usize::from(tokenizer.bos_id().is_some()) + 3 + length("def f():\n") + length("\nreturn x\n");
    assert_eq!(reply["usage"]["prompt_tokens"], expected);
    assert_eq!((reply["choices"][0]["text"].as_str(), reply["choices"][0]["finish_reason"].as_str()), (Some("filled"), Some("stop")));
    // Our own vocabularies have the marks; take one away.
    let dir = common::tiny_model();
    let file = dir.path().join("tokenizer.json");
    let without = std::fs::read_to_string(&file).unwrap().replace("<|fim_middle|>", "<|spare|>");
    std::fs::write(&file, without).unwrap();
    let unable = TestServer::start_model(dir, 8, Duration::from_secs(30), BODY_LIMIT, llm_serve::ImageLimits::default());
    let (status, reply) = unable.post("/v1/completions", &body);
    assert_eq!((status, reply["error"]["param"].as_str()), (400, Some("suffix")), "{reply}");
}

#[test]
fn priority_and_ignore_eos_are_taken() {
    let server = TestServer::scripted(common::scripted::HERMES, &["a ", "b"], &[]);
    let body = json!({"messages": user("x"), "max_tokens": 12, "priority": -1});
    let usage = |extra: Value| {
        let mut body = body.clone();
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let reply = server.post("/v1/chat/completions", &body).1;
        (reply["usage"]["completion_tokens"].as_u64(), reply["choices"][0]["finish_reason"].as_str().unwrap_or_default().to_string())
    };
    assert_eq!(usage(json!({})), (Some(2), "stop".into()));
    assert_eq!(usage(json!({"ignore_eos": true})), (Some(12), "length".into()));
}
