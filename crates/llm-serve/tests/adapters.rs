//! LoRA adapters at run time: loaded under a name, chosen by `model`, and never from anywhere else than the operator's directory.

mod common;

use common::{BODY_LIMIT, TestServer, tiny_model, user};
use llm_run::Seed;
use llm_serve::ImageLimits;
use llm_tensor::weights::{HostTensor, save};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";
const LOAD: &str = "/v1/load_lora_adapter";
const UNLOAD: &str = "/v1/unload_lora_adapter";

/// A PEFT folder for the tiny model that changes its answers.
fn write_adapter(dir: &Path, seed: u64) {
    std::fs::create_dir_all(dir).unwrap();
    let config = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "bias": "none"});
    std::fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    let mut tensors = BTreeMap::new();
    for layer in 0..2 {
        for (name, rows) in [("q_proj", 64), ("v_proj", 32)] {
            for (part, shape) in [("lora_A", [4, 64]), ("lora_B", [rows, 4])] {
                let key = format!("base_model.model.model.layers.{layer}.self_attn.{name}.{part}.weight");
                let mut rng = Seed(seed).stream(&key).rng();
                let values = (0..shape[0] * shape[1]).map(|_| (rng.normal() * 0.3) as f32).collect();
                tensors.insert(key, HostTensor { shape: shape.to_vec(), values });
            }
        }
    }
    save(dir.join("adapter_model.safetensors"), &tensors).unwrap();
}

fn start(adapters: &Path) -> TestServer {
    let adapters = adapters.to_path_buf();
    TestServer::start_changed(tiny_model(), 8, Duration::from_secs(30), BODY_LIMIT, ImageLimits::default(), |c| c.adapters = Some(adapters))
}

#[test]
fn an_adapter_is_a_model() {
    let base = tempfile::tempdir().unwrap();
    write_adapter(&base.path().join("one"), 1);
    write_adapter(&base.path().join("two"), 2);
    let server = start(base.path());
    let say = |model: &str| {
        let (status, reply) = server.post(CHAT, &json!({"model": model, "messages": user("hi"), "max_tokens": 16}));
        (status, reply["model"].clone(), reply["choices"][0]["message"].clone())
    };
    let plain = say("tiny");
    assert_eq!(say("first").0, 404);
    for (name, path) in [("first", "one"), ("second", "two")] {
        let (status, reply) = server.post(LOAD, &json!({"lora_name": name, "lora_path": path}));
        assert_eq!((status, reply["status"].as_str()), (200, Some("loaded")), "{reply}");
    }
    let models = server.get("/v1/models").1;
    let ids: Vec<&str> = models["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!((ids, models["data"][1]["parent"].as_str()), (vec!["tiny", "first", "second"], Some("tiny")));
    assert_eq!(server.get("/v1/models/first").0, 200);

    let (first, second) = (say("first"), say("second"));
    assert_eq!(first.1, "first");
    assert!(first.2 != plain.2 && second.2 != plain.2 && first.2 != second.2, "adapters that change nothing show nothing");
    assert_eq!(say("tiny"), plain, "the model itself is as it was");
    let streamed: String = server
        .stream(CHAT, &json!({"model": "first", "messages": user("hi"), "max_tokens": 16}))
        .filter_map(|e| e["choices"][0]["delta"]["content"].as_str().map(str::to_string))
        .collect();
    assert_eq!(streamed, first.2["content"].as_str().unwrap());
    assert_eq!(server.post("/v1/completions", &json!({"model": "first", "prompt": "a", "max_tokens": 4})).1["model"], "first");

    // The name is free again, for another adapter.
    assert_eq!(server.post(LOAD, &json!({"lora_name": "first", "lora_path": "two"})).0, 409);
    assert_eq!(server.post(LOAD, &json!({"lora_name": "tiny", "lora_path": "two"})).0, 409);
    assert_eq!(server.post(UNLOAD, &json!({"lora_name": "first"})).1["status"], "unloaded");
    assert_eq!((say("first").0, server.post(UNLOAD, &json!({"lora_name": "first"})).0), (404, 404));
    assert_eq!(server.post(LOAD, &json!({"lora_name": "first", "lora_path": "two"})).0, 200);
    assert_eq!(say("first").2, second.2);
}

#[test]
fn what_is_no_adapter_here_is_refused() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("adapters");
    write_adapter(&root.join("good"), 1);
    write_adapter(&base.path().join("outside"), 2);
    std::fs::create_dir_all(root.join("empty")).unwrap();
    let server = start(&root);
    let outside = base.path().join("outside").display().to_string();
    let load = |name: &str, path: &str| server.post(LOAD, &json!({"lora_name": name, "lora_path": path}));
    for path in ["../outside", "good/../../outside", &outside, "/etc", "missing", ".", ""] {
        let (status, reply) = load("x", path);
        assert_eq!((status, reply["error"]["param"].as_str()), (400, Some("lora_path")), "{path}: {reply}");
        assert!(!reply.to_string().contains("outside/"), "the answer tells what is on the disk: {reply}");
    }
    for name in ["../x", "a/b", "", ".x"] {
        assert_eq!(load(name, "good").1["error"]["param"], "lora_name", "{name}");
    }
    assert_eq!(load("x", "empty").0, 400);
    assert_eq!(server.get("/v1/models").1["data"].as_array().unwrap().len(), 1);
    assert_eq!(load("x", "good").0, 200);

    let closed = TestServer::start();
    let (status, reply): (u16, Value) = closed.post(LOAD, &json!({"lora_name": "x", "lora_path": "good"}));
    assert_eq!((status, reply["error"]["code"].as_str()), (403, Some("adapters_disabled")));
}
