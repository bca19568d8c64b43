//! Beam search against Hugging Face's, and against itself.

use llm_arch::{PackedBatch, hf};
use llm_infer::{Beam, BeamSettings, EarlyStopping, Error, FinishReason, Model, beam_search, score};
use llm_tensor::burn::tensor::Device;
use llm_tensor::host::to_vec;
use llm_tokenizer::Tokenizer;
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn model(name: &str) -> Model {
    let decoder = hf::load(fixtures().join("decoder").join(name), &Device::flex()).unwrap();
    let tokenizer = Tokenizer::load(fixtures().join("tokenizers/bytelevel_gpt2/tokenizer.json")).unwrap();
    let mut model = Model::from_parts(decoder, tokenizer, name);
    model.eos_token_ids = vec![];
    model
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Tokens as Hugging Face returns them, the end token included.
fn whole(beam: &Beam) -> Vec<u32> {
    beam.tokens.iter().copied().chain(beam.end_token).collect()
}

/// If this fails, `use_beam_search` gives other answers here than elsewhere.
#[test]
fn sequences_and_scores_are_those_of_transformers() {
    let text = std::fs::read_to_string(fixtures().join("sampling/beams.json")).unwrap();
    let fixture: Value = serde_json::from_str(&text).unwrap();
    let cases = fixture["cases"].as_array().unwrap();
    assert!(cases.len() > 80, "{} cases", cases.len());
    let mut models: HashMap<&str, Model> = HashMap::new();
    for case in cases {
        let name = case["model"].as_str().unwrap();
        let model = models.entry(name).or_insert_with(|| model(name));
        let number = |field: &str| case[field].as_u64().unwrap() as usize;
        let settings = BeamSettings {
            num_beams: number("num_beams"),
            num_return_sequences: number("num_return_sequences"),
            max_tokens: number("max_tokens"),
            length_penalty: case["length_penalty"].as_f64().unwrap() as f32,
            early_stopping: match &case["early_stopping"] {
                Value::Bool(false) => EarlyStopping::Heuristic,
                Value::Bool(true) => EarlyStopping::Full,
                _ => EarlyStopping::Never,
            },
            stop_ids: ids(&case["ends"]),
            ..BeamSettings::default()
        };
        let prompt = ids(&case["prompt"]);
        let found = beam_search(model, &prompt, &settings).unwrap();
        let expected = case["beams"].as_array().unwrap();
        let context = format!("{name}, prompt {prompt:?}, {settings:?}");
        assert_eq!(found.iter().map(whole).collect::<Vec<_>>(), expected.iter().map(|b| ids(&b["tokens"])).collect::<Vec<_>>(), "{context}");
        for (beam, expected) in found.iter().zip(expected) {
            let expected = expected["score"].as_f64().unwrap();
            assert!((f64::from(beam.score) - expected).abs() < 1e-4, "{} is not {expected}: {context}", beam.score);
        }
    }
}

/// The pages that beams share and copy hold what a forward pass over the whole sequence computes.
#[test]
fn scores_are_those_of_the_sequences_scored_alone() {
    let model = model("llama_gqa_untied");
    // Prompt lengths around a page's end, sequences over several pages.
    for length in [1, 15, 16, 17, 40] {
        let prompt: Vec<u32> = (0..length).map(|i| 3 + i * 7 % 120).collect();
        let settings = BeamSettings { num_beams: 6, num_return_sequences: 6, max_tokens: 40, stop_ids: vec![5, 9], ..BeamSettings::default() };
        let beams = beam_search(&model, &prompt, &settings).unwrap();
        assert_eq!(beams.len(), 6);
        let sequences: Vec<Vec<u32>> = beams.iter().map(|beam| [prompt.clone(), whole(beam)].concat()).collect();
        for (beam, scores) in beams.iter().zip(score(&model, &sequences).unwrap()) {
            let scores = &scores[prompt.len() - 1..];
            assert!((scores.iter().sum::<f32>() / scores.len() as f32 - beam.score).abs() < 1e-4);
            assert!(beam.logprobs.iter().zip(scores).all(|(a, b)| (a - b).abs() < 1e-3));
            assert_eq!(beam.finish_reason == FinishReason::Stop, beam.end_token.is_some());
            assert_eq!(beam.tokens.len(), beam.logprobs.len());
        }
        assert!(beams.windows(2).all(|pair| pair[0].score >= pair[1].score && whole(&pair[0]) != whole(&pair[1])));
    }
}

#[test]
fn a_wide_beam_finds_the_best_of_all_sequences() {
    let model = model("llama_gqa_untied");
    let prompt = [3, 50, 77];
    let vocab = model.decoder.config().vocab_size;
    let log_probs = |tokens: &[u32]| {
        let logits = to_vec(model.decoder.logits(model.decoder.hidden(&PackedBatch::sequence(tokens))));
        let last = &logits[logits.len() - vocab..];
        let normaliser = llm_infer::sampling::normaliser(last);
        last.iter().map(|l| l - normaliser).collect::<Vec<f32>>()
    };
    // Two tokens: every pair, by hand.
    let first = log_probs(&prompt);
    let mut best = (f32::NEG_INFINITY, 0, 0);
    for a in 0..vocab as u32 {
        let second = log_probs(&[prompt.as_slice(), &[a]].concat());
        for b in 0..vocab as u32 {
            let sum = first[a as usize] + second[b as usize];
            if sum > best.0 {
                best = (sum, a, b);
            }
        }
    }
    let settings = BeamSettings { num_beams: 128, max_tokens: 2, length_penalty: 0.0, ..BeamSettings::default() };
    let found = beam_search(&model, &prompt, &settings).unwrap().remove(0);
    assert_eq!(found.tokens, [best.1, best.2]);
    assert!((found.score - best.0).abs() < 1e-4);
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let model = model("llama_gqa_untied");
    let of = || BeamSettings { max_tokens: 4, ..BeamSettings::default() };
    for (settings, word) in [
        (BeamSettings { num_beams: 0, ..of() }, "num_beams"),
        (BeamSettings { num_beams: 1000, ..of() }, "num_beams"),
        (BeamSettings { num_return_sequences: 5, ..of() }, "num_return_sequences"),
        (BeamSettings { num_return_sequences: 0, ..of() }, "num_return_sequences"),
        (BeamSettings { length_penalty: f32::NAN, ..of() }, "length_penalty"),
        (BeamSettings { max_tokens: 0, ..of() }, "max_tokens"),
    ] {
        let error = beam_search(&model, &[3, 4], &settings).unwrap_err();
        assert!(matches!(&error, Error::Request(message) if message.contains(word)), "{error}");
    }
    assert!(matches!(beam_search(&model, &[3; 126], &of()), Err(Error::ContextLength { .. })));
    assert!(beam_search(&model, &[], &of()).is_err());
    assert!(beam_search(&model, &[1 << 20], &of()).is_err());
}
