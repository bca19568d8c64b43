//! The served answer is the library's answer: same weights, same prompt, same seed, same tokens.

mod common;

use common::{TestServer, chat_request, library, split_reply, stop_ids, user};
use llm_infer::{FinishReason, Request, Sampling};
use serde_json::{Value, json};

fn reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "cancelled",
        FinishReason::Deadline => "deadline",
    }
}

fn reply_of(choice: &Value) -> (String, String) {
    let text = |name: &str| choice["message"][name].as_str().unwrap_or_default().to_string();
    (text("reasoning_content"), text("content"))
}

#[test]
fn greedy_chat_equals_the_library() {
    let server = TestServer::start();
    let model = server.model();
    let sampling = Sampling { max_tokens: 24, ..Sampling::default() };
    for text in ["What is 2 + 3?", "¿Cuánto es 7 por 8?", "x"] {
        let request = chat_request(&model, text, &sampling);
        let prompt_tokens = request.prompt.len();
        let expected = library(&model, vec![request]).remove(0);
        let (status, body) = server.post("/v1/chat/completions", &json!({"model": "tiny", "messages": user(text), "max_tokens": 24}));
        assert_eq!(status, 200, "{body}");
        let choice = &body["choices"][0];
        assert_eq!(reply_of(choice), split_reply(&model, &expected.tokens));
        assert_eq!(choice["finish_reason"], reason(expected.finish_reason));
        assert_eq!(body["usage"]["prompt_tokens"], prompt_tokens);
        assert_eq!(body["usage"]["completion_tokens"], expected.tokens.len());
        assert_eq!(body["usage"]["total_tokens"], prompt_tokens + expected.tokens.len());
        assert_eq!(body["object"], "chat.completion");
        assert!(body["system_fingerprint"].as_str().unwrap().ends_with(&model.hash[..12]));
    }
}

#[test]
fn seeded_sampling_equals_the_library_choice_by_choice() {
    let server = TestServer::start();
    let model = server.model();
    let sampling = Sampling { temperature: 0.9, top_p: 0.95, top_k: 50, seed: 7, max_tokens: 20, ..Sampling::default() };
    let requests = (0..3).map(|i| chat_request(&model, "Tell me", &Sampling { seed: 7 + i, ..sampling.clone() })).collect();
    let expected: Vec<_> = library(&model, requests).iter().map(|c| split_reply(&model, &c.tokens)).collect();
    let request = json!({"messages": user("Tell me"), "temperature": 0.9, "top_p": 0.95, "top_k": 50, "seed": 7, "max_tokens": 20, "n": 3});
    for _ in 0..2 {
        let (_, body) = server.post("/v1/chat/completions", &request);
        let got: Vec<_> = body["choices"].as_array().unwrap().iter().map(reply_of).collect();
        assert_eq!(got, expected);
    }
    assert_ne!(expected[0], expected[1], "different seeds gave the same reply: nothing was sampled");
}

/// Each of these changes the reply, or the test would not notice that the server drops it.
#[test]
fn every_sampling_field_reaches_the_library() {
    let server = TestServer::start();
    let model = server.model();
    let plain = Sampling { temperature: 0.9, seed: 7, max_tokens: 40, ..Sampling::default() };
    let request = json!({"messages": user("Tell me"), "temperature": 0.9, "seed": 7, "max_tokens": 40});
    let reply = |sampling: &Sampling| split_reply(&model, &library(&model, vec![chat_request(&model, "Tell me", sampling)])[0].tokens);
    let free = reply(&plain);
    // The likeliest way for a reply to be short is its end token, so ask for it.
    let eos = model.tokenizer.eos_id().unwrap();
    let ending = vec![(eos, 8.0)];
    for (fields, sampling) in [
        (json!({"min_p": 0.3}), Sampling { min_p: 0.3, ..plain.clone() }),
        (json!({"typical_p": 0.3}), Sampling { typical_p: 0.3, ..plain.clone() }),
        (json!({"epsilon_cutoff": 0.02}), Sampling { epsilon_cutoff: 0.02, ..plain.clone() }),
        (json!({"eta_cutoff": 0.1}), Sampling { eta_cutoff: 0.1, ..plain.clone() }),
        (json!({"repetition_penalty": 1.5}), Sampling { repetition_penalty: 1.5, ..plain.clone() }),
        (json!({"frequency_penalty": 1.5}), Sampling { frequency_penalty: 1.5, ..plain.clone() }),
        (json!({"presence_penalty": -2}), Sampling { presence_penalty: -2.0, ..plain.clone() }),
        (json!({"no_repeat_ngram_size": 1}), Sampling { no_repeat_ngram_size: 1, ..plain.clone() }),
        (json!({"logit_bias": {eos.to_string(): 8}}), Sampling { logit_bias: ending.clone(), ..plain.clone() }),
        (json!({"logit_bias": {eos.to_string(): 8}, "min_tokens": 25}), Sampling { logit_bias: ending, min_tokens: 25, ..plain.clone() }),
    ] {
        let mut body = request.clone();
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let (status, answer) = server.post("/v1/chat/completions", &body);
        assert_eq!(status, 200, "{answer}");
        let expected = reply(&sampling);
        assert_eq!(reply_of(&answer["choices"][0]), expected, "{fields}");
        assert_ne!(expected, free, "{fields} changes nothing here");
        if sampling.min_tokens > 0 {
            assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() >= 25, "{answer}");
        }
    }
    for (fields, param) in [(json!({"logit_bias": {"99999": 1}}), "logit_bias"), (json!({"min_tokens": 41}), "min_tokens")] {
        let mut body = request.clone();
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let (status, answer) = server.post("/v1/chat/completions", &body);
        assert_eq!((status, answer["error"]["param"].as_str()), (400, Some(param)), "{answer}");
    }
}

#[test]
fn completions_and_their_logprobs_equal_the_library() {
    let server = TestServer::start();
    let model = server.model();
    let sampling = Sampling { max_tokens: 12, top_logprobs: 2, stop_ids: stop_ids(&model), ..Sampling::default() };
    let prompts = ["the cat", "one two"];
    let requests = prompts.iter().map(|text| {
        let prompt = model.tokenizer.bos_id().into_iter().chain(model.tokenizer.encode(text)).collect();
        Request::new(prompt, sampling.clone())
    });
    let expected = library(&model, requests.collect());
    let (status, body) = server.post("/v1/completions", &json!({"prompt": prompts, "max_tokens": 12, "logprobs": 2}));
    assert_eq!(status, 200, "{body}");
    for (choice, completion) in body["choices"].as_array().unwrap().iter().zip(&expected) {
        assert_eq!(choice["text"], model.tokenizer.decode(&completion.tokens, true));
        let logprobs: Vec<f32> = choice["logprobs"]["token_logprobs"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
        assert_eq!(logprobs, completion.logprobs);
        assert_eq!(choice["logprobs"]["tokens"].as_array().unwrap().len(), completion.tokens.len());
    }
    assert_eq!(body["choices"].as_array().unwrap().len(), 2);
}

/// What an evaluation program needs of `/v1/completions`: the prompt's own log-probabilities, its offsets, and no generation.
#[test]
fn an_echoed_prompt_has_the_librarys_log_probabilities() {
    let server = TestServer::start();
    let model = server.model();
    let text = "the cät ate";
    let ids: Vec<u32> = model.tokenizer.bos_id().into_iter().chain(model.tokenizer.encode(text)).collect();
    let expected = llm_infer::score(&model, std::slice::from_ref(&ids)).unwrap().remove(0);
    let body = json!({"prompt": [text, "one"], "max_tokens": 0, "echo": true, "logprobs": 1});
    let (status, body) = server.post("/v1/completions", &body);
    assert_eq!(status, 200, "{body}");
    let choice = &body["choices"][0];
    assert_eq!((choice["text"].as_str(), body["choices"][1]["text"].as_str()), (Some(text), Some("one")));
    let lists = &choice["logprobs"];
    let logs = lists["token_logprobs"].as_array().unwrap();
    assert!(logs[0].is_null() && lists["top_logprobs"][0].is_null());
    assert_eq!(logs.len(), ids.len());
    for (got, expected) in logs[1..].iter().zip(&expected) {
        assert!((got.as_f64().unwrap() as f32 - expected).abs() < 1e-4, "{got} is not {expected}");
    }
    // Offsets name where each token's text begins in the text, the begin-of-text token takes no room.
    let offsets: Vec<usize> = lists["text_offset"].as_array().unwrap().iter().map(|o| o.as_u64().unwrap() as usize).collect();
    for i in 1..ids.len() {
        let before = model.tokenizer.decode(&ids[1..i], true);
        assert_eq!(offsets[i], before.trim_end_matches('\u{fffd}').chars().count() + usize::from(before.ends_with('\u{fffd}')), "token {i}");
    }
    for i in 1..ids.len() {
        let best = lists["top_logprobs"][i].as_object().unwrap().values().next().unwrap().as_f64().unwrap();
        assert!(best >= logs[i].as_f64().unwrap());
    }
    let (_, longer) = server.post("/v1/completions", &json!({"prompt": text, "max_tokens": 2, "echo": true, "logprobs": 1}));
    let plain = server.post("/v1/completions", &json!({"prompt": text, "max_tokens": 2})).1;
    assert_eq!(longer["choices"][0]["text"].as_str().unwrap(), format!("{text}{}", plain["choices"][0]["text"].as_str().unwrap()));
}

#[test]
fn thinking_is_split_off_by_token() {
    let server = TestServer::start();
    let model = server.model();
    // A random model thinks rarely: take the first seed for which the library's own answer has both parts.
    let sampling = Sampling { temperature: 2.0, max_tokens: 150, ..Sampling::default() };
    let seeds: Vec<u64> = (0..400).collect();
    let (seed, completion, (reasoning, content)) = seeds
        .chunks(8)
        .find_map(|seeds| {
            let requests = seeds.iter().map(|&seed| chat_request(&model, "think", &Sampling { seed, ..sampling.clone() })).collect();
            seeds.iter().zip(library(&model, requests)).find_map(|(&seed, completion)| {
                let split = split_reply(&model, &completion.tokens);
                (!split.0.is_empty() && !split.1.is_empty()).then_some((seed, completion, split))
            })
        })
        .expect("one of 400 seeds thinks");
    let request = json!({"messages": user("think"), "temperature": 2.0, "max_tokens": 150, "seed": seed, "logprobs": true});
    let (_, body) = server.post("/v1/chat/completions", &request);
    assert_eq!(reply_of(&body["choices"][0]), (reasoning, content));
    let logprobs = &body["choices"][0]["logprobs"];
    let listed = |name: &str| logprobs[name].as_array().map_or(0, Vec::len);
    assert_eq!(listed("content") + listed("reasoning_content"), completion.tokens.len());
    assert_eq!(body["usage"]["completion_tokens_details"]["reasoning_tokens"], listed("reasoning_content"));

    let (mut streamed_reasoning, mut streamed_content) = (String::new(), String::new());
    for event in server.stream("/v1/chat/completions", &request) {
        let delta = &event["choices"][0]["delta"];
        streamed_reasoning.push_str(delta["reasoning_content"].as_str().unwrap_or_default());
        streamed_content.push_str(delta["content"].as_str().unwrap_or_default());
    }
    assert_eq!((streamed_reasoning, streamed_content), reply_of(&body["choices"][0]));
}

#[test]
fn concurrent_requests_get_what_they_get_alone() {
    let server = TestServer::start();
    let model = server.model();
    let texts = ["a", "two plus two", "¿qué?", "drei mal vier", "e", "Ein etwas längerer Satz, damit die Längen sich unterscheiden."];
    std::thread::scope(|scope| {
        let running: Vec<_> = texts
            .iter()
            .enumerate()
            .map(|(i, text)| {
                let server = &server;
                scope.spawn(move || {
                    server.post("/v1/chat/completions", &json!({"messages": user(text), "temperature": 1, "seed": i, "max_tokens": 16 + i})).1
                })
            })
            .collect();
        for ((i, text), thread) in texts.iter().enumerate().zip(running) {
            let sampling = Sampling { temperature: 1.0, seed: i as u64, max_tokens: 16 + i, ..Sampling::default() };
            let alone = library(&model, vec![chat_request(&model, text, &sampling)]).remove(0);
            assert_eq!(reply_of(&thread.join().unwrap()["choices"][0]), split_reply(&model, &alone.tokens), "request {i}");
        }
    });
}
