//! `/v1/embeddings`, `/tokenize`, `/detokenize` and `/apply-template` against the library.

mod common;

use base64::Engine as _;
use common::{TestServer, user};
use serde_json::{Value, json};

fn vector(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn norm(vector: &[f32]) -> f32 {
    vector.iter().map(|x| x * x).sum::<f32>().sqrt()
}

#[test]
fn vectors_are_the_librarys() {
    let server = TestServer::start();
    let model = server.model();
    let texts = ["the cat", "one two three"];
    let ids: Vec<Vec<u32>> = texts.iter().map(|t| model.tokenizer.bos_id().into_iter().chain(model.tokenizer.encode(t)).collect()).collect();
    let expected = llm_infer::embed(&model, &ids, llm_infer::Pooling::Last, true).unwrap();
    let (status, body) = server.post("/v1/embeddings", &json!({"input": texts, "model": "tiny"}));
    assert_eq!(status, 200, "{body}");
    for (i, expected) in expected.iter().enumerate() {
        let got = vector(&body["data"][i]["embedding"]);
        assert_eq!((body["data"][i]["index"].as_u64(), got.len()), (Some(i as u64), expected.len()));
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5));
        assert!((norm(&got) - 1.0).abs() < 1e-4);
    }
    assert_eq!(body["usage"]["prompt_tokens"], ids.iter().map(Vec::len).sum::<usize>());
    // One text, ids, several lists of ids: the same text gives the same vector.
    for (input, at) in [(json!(texts[0]), 0), (json!(ids[0]), 0), (json!([ids[1], ids[0]]), 1)] {
        let (_, again) = server.post("/v1/embeddings", &json!({"input": input}));
        let got = vector(&again["data"][at]["embedding"]);
        assert!(got.iter().zip(&expected[0]).all(|(a, b)| (a - b).abs() < 1e-5), "{input}");
    }
}

#[test]
fn base64_and_fewer_dimensions() {
    let server = TestServer::start();
    let whole = vector(&server.post("/v1/embeddings", &json!({"input": "the cat"})).1["data"][0]["embedding"]);
    let (_, body) = server.post("/v1/embeddings", &json!({"input": "the cat", "encoding_format": "base64"}));
    let bytes = base64::engine::general_purpose::STANDARD.decode(body["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let decoded: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(decoded, whole);
    let short = vector(&server.post("/v1/embeddings", &json!({"input": "the cat", "dimensions": 8})).1["data"][0]["embedding"]);
    assert_eq!(short.len(), 8);
    assert!((norm(&short) - 1.0).abs() < 1e-4);
    let scale = norm(&whole[..8]);
    assert!(short.iter().zip(&whole).all(|(s, w)| (s - w / scale).abs() < 1e-5), "the direction of the first numbers stays");
}

#[test]
fn what_cannot_be_embedded() {
    let server = TestServer::start();
    for (body, param, code) in [
        (json!({"input": ""}), "input", None),
        (json!({"input": "x", "dimensions": 100_000}), "dimensions", None),
        (json!({"input": [4_000_000]}), "input", None),
        (json!({"input": "word ".repeat(5000)}), "input", Some("context_length_exceeded")),
    ] {
        // A begin-of-text token stands even before no text.
        if body["input"] == "" && server.model().tokenizer.bos_id().is_some() {
            continue;
        }
        let (status, reply) = server.post("/v1/embeddings", &body);
        assert_eq!((status, reply["error"]["param"].as_str(), reply["error"]["code"].as_str()), (400, Some(param), code), "{reply}");
    }
}

#[test]
fn tokens_there_and_back() {
    let server = TestServer::start();
    let model = server.model();
    let text = "the cät <|eot_id|>";
    let plain = server.post("/tokenize", &json!({"prompt": text, "add_special_tokens": false, "return_token_strs": true})).1;
    assert_eq!(plain["tokens"], json!(model.tokenizer.encode(text)), "names of control tokens in a text are text");
    assert_eq!(plain["count"], plain["tokens"].as_array().unwrap().len());
    assert_eq!(plain["token_strs"].as_array().unwrap().len(), plain["tokens"].as_array().unwrap().len());
    assert_eq!(plain["max_model_len"], server.get("/v1/models").1["data"][0]["max_model_len"]);
    let special = server.post("/tokenize", &json!({"content": text, "add_special": false, "parse_special": true})).1;
    assert_eq!(special["tokens"], json!(model.tokenizer.encode_with_special(text)));
    let back = server.post("/detokenize", &json!({"tokens": special["tokens"]})).1;
    assert_eq!((back["prompt"].as_str(), back["content"].as_str()), (Some(text), Some(text)));
    let chat = server.post("/tokenize", &json!({"messages": user("hi")})).1;
    let counted = server.post("/v1/chat/completions", &json!({"messages": user("hi"), "max_tokens": 1})).1;
    assert_eq!(chat["count"], counted["usage"]["prompt_tokens"]);
    let (status, reply) = server.post("/detokenize", &json!({"tokens": [4_000_000]}));
    assert_eq!((status, reply["error"]["param"].as_str()), (400, Some("tokens")));
}
