//! Tiny checkpoints as models, and what they say one token at a time.

#![allow(dead_code)] // every test file uses a part

use llm_arch::{PackedBatch, hf};
use llm_infer::{Completion, Engine, EngineConfig, Event, Model, Request, RequestId, Sampling};
use llm_tensor::burn::tensor::Device;
use llm_tensor::host::to_vec;
use llm_tokenizer::Tokenizer;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// A decoder fixture that never ends by itself.
pub fn model(name: &str) -> Model {
    let decoder = hf::load(fixtures().join("decoder").join(name), &Device::flex()).unwrap();
    let tokenizer = Tokenizer::load(fixtures().join("tokenizers/bytelevel_gpt2/tokenizer.json")).unwrap();
    let mut model = Model::from_parts(decoder, tokenizer, name);
    model.eos_token_ids = vec![];
    model
}

/// All decoder fixtures with numbers of transformers.
pub fn causal_folders() -> Vec<String> {
    let folders = std::fs::read_dir(fixtures().join("decoder")).unwrap().map(|e| e.unwrap().path());
    let mut names: Vec<String> =
        folders.filter(|p| p.join("expected.safetensors").exists()).map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    assert!(names.len() >= 20, "only {names:?}");
    names
}

/// Tokens by plain forward passes over the whole sequence, without cache, batch or engine.
pub fn plain(model: &Model, prompt: &[u32], n: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..n {
        let hidden = model.decoder.hidden(&PackedBatch::sequence(&tokens));
        let logits = to_vec(model.decoder.logits(hidden.narrow(0, tokens.len() - 1, 1)));
        // The first of equals, as everywhere.
        let best = (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
        tokens.push(best as u32);
    }
    tokens.split_off(prompt.len())
}

pub fn greedy(max_tokens: usize) -> Sampling {
    Sampling { max_tokens, ..Sampling::default() }
}

/// Everything that happens until nothing is left to do.
pub fn drain(engine: &mut Engine) -> Vec<Event> {
    let mut events = Vec::new();
    while !engine.is_idle() {
        events.extend(engine.step().unwrap());
    }
    events
}

pub fn completions(events: &[Event]) -> HashMap<RequestId, Completion> {
    let done = |event: &Event| match event {
        Event::Done { id, completion } => Some((*id, completion.clone())),
        _ => None,
    };
    events.iter().filter_map(done).collect()
}

/// One request, alone.
pub fn alone(model: &Model, request: &Request) -> Completion {
    Engine::new(model, EngineConfig::default()).unwrap().generate(vec![request.clone()]).unwrap().remove(0)
}
