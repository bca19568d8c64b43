//! Every decoder fixture (tiny checkpoints written by transformers 5.23) gives transformers' numbers: hidden states of every
//! layer boundary we expose, logits, and sixteen greedy tokens through the paged cache. If this fails, a downloaded model
//! does not compute what its authors trained.

use llm_arch::{CachedBatch, Decoder, KvPool, PackedBatch, hf};
use llm_tensor::burn::tensor::Device;
use llm_tensor::host::to_vec;
use llm_tensor::ops::AttentionSpan;
use llm_tensor::weights::Weights;
use std::path::{Path, PathBuf};

const FAMILIES: [&str; 8] =
    ["llama_gqa_untied", "llama_tied", "llama_head_dim_bias", "llama_rope_llama3", "llama_rope_linear", "mistral_swa", "qwen2", "qwen3"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/decoder").join(name)
}

struct Case {
    name: String,
    ids: Vec<Vec<u32>>,
    mask: Vec<Vec<u32>>,
}

fn cases(dir: &Path) -> Vec<Case> {
    let inputs: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(dir.join("inputs.json")).unwrap()).unwrap();
    let grid = |v: &serde_json::Value| -> Vec<Vec<u32>> { serde_json::from_value(v.clone()).unwrap() };
    let batches = inputs["batches"].as_array().unwrap().iter();
    batches.map(|b| Case { name: b["name"].as_str().unwrap().into(), ids: grid(&b["input_ids"]), mask: grid(&b["attention_mask"]) }).collect()
}

/// Left padding is the same thing as a document that starts later.
fn pack(case: &Case) -> PackedBatch {
    let length = case.ids[0].len();
    let starts: Vec<Vec<u32>> = case.mask.iter().map(|m| vec![0, m.iter().position(|&x| x == 1).unwrap() as u32]).collect();
    let starts: Vec<&[u32]> = starts.iter().map(Vec::as_slice).collect();
    PackedBatch::documents(case.ids.concat(), &starts, length)
}

fn assert_close(what: &str, got: &[f32], want: &[f32], counts: impl Fn(usize) -> bool) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    let worst = got.iter().zip(want).enumerate().filter(|(i, _)| counts(*i)).map(|(_, (g, w))| (g - w).abs()).fold(0f32, f32::max);
    assert!(worst <= 1e-5 * largest, "{what}: off by {worst:e}, largest expected value {largest}");
}

fn greedy(decoder: &Decoder, prompt: &[u32], steps: usize) -> Vec<u32> {
    let mut pool = KvPool::new(decoder.config(), 8, 8);
    // Pages out of order on purpose: the order in the pool must not matter.
    let pages: Vec<u32> = vec![5, 2, 7, 0, 3, 6, 1, 4];
    let (mut tokens, mut new): (Vec<u32>, Vec<u32>) = (Vec::new(), prompt.to_vec());
    let mut at = 0;
    while tokens.len() < steps {
        let batch = CachedBatch { ids: new.clone().into(), positions: (at..at + new.len() as u32).collect(), pages: vec![&pages; new.len()] };
        at += new.len() as u32;
        let hidden = decoder.hidden_cached(&batch, &mut pool);
        let n = hidden.dims()[0];
        let logits = to_vec(decoder.logits(hidden.narrow(0, n - 1, 1)));
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 as u32;
        tokens.push(best);
        new = vec![best];
    }
    tokens
}

#[test]
fn logits_hidden_states_and_greedy_tokens_equal_transformers() {
    for family in FAMILIES {
        let dir = fixture(family);
        let decoder = hf::load(&dir, &Device::flex()).unwrap();
        let expected = Weights::open(dir.join("expected.safetensors")).unwrap();
        for case in cases(&dir) {
            let hidden = decoder.hidden(&pack(&case));
            let visible: Vec<bool> = case.mask.concat().iter().map(|&m| m == 1).collect();
            let (d, v) = (decoder.config().hidden_size, decoder.config().vocab_size);
            if case.name == "plain" {
                let last = expected.names().iter().filter(|n| n.starts_with("plain.hidden.")).count() - 1;
                assert_close(
                    &format!("{family} last hidden"),
                    &to_vec(hidden.clone()),
                    &expected.get(&format!("plain.hidden.{last}")).unwrap().values,
                    |i| visible[i / d],
                );
            }
            let want = expected.get(&format!("{}.logits", case.name)).unwrap();
            assert_close(&format!("{family} {} logits", case.name), &to_vec(decoder.logits(hidden)), &want.values, |i| visible[i / v]);

            let greedy_name = format!("{}.greedy_tokens", case.name);
            // Token ids are I64 in the fixture; read them through the raw file.
            let raw = std::fs::read(dir.join("expected.safetensors")).unwrap();
            let file = safetensors::SafeTensors::deserialize(&raw).unwrap();
            let bytes = file.tensor(&greedy_name).unwrap();
            let want: Vec<u32> = bytes.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect();
            for (row, ids) in case.ids.iter().enumerate() {
                let prompt: Vec<u32> = ids.iter().zip(&case.mask[row]).filter(|(_, m)| **m == 1).map(|(i, _)| *i).collect();
                assert_eq!(greedy(&decoder, &prompt, 16), want[row * 16..(row + 1) * 16], "{family} {} row {row}", case.name);
            }
        }
    }
}

#[test]
fn both_spellings_of_config_json_mean_the_same_and_saving_is_lossless() {
    for family in FAMILIES {
        let dir = fixture(family);
        let read = |name: &str| hf::config_from_json(&serde_json::from_str(&std::fs::read_to_string(dir.join(name)).unwrap()).unwrap()).unwrap();
        let config = read("config.json");
        assert_eq!(config, read("config_v4.json"), "{family}");
        assert_eq!(hf::config_from_json(&hf::config_to_json(&config)).unwrap().inverse_frequencies(), config.inverse_frequencies());

        let decoder = hf::load(&dir, &Device::flex()).unwrap();
        assert_eq!(decoder.num_parameters(), config.num_parameters(), "{family}: counted from shapes and from the formula");
        let out = tempfile::tempdir().unwrap();
        hf::save(out.path(), &decoder).unwrap();
        let (a, b) = (Weights::open(&dir).unwrap(), Weights::open(out.path()).unwrap());
        assert_eq!(a.names(), b.names(), "{family}");
        for name in a.names() {
            assert_eq!(a.get(name).unwrap(), b.get(name).unwrap(), "{family} {name}");
        }
    }
}

#[test]
fn packing_documents_in_a_row_changes_nothing() {
    let decoder = hf::load(fixture("llama_gqa_untied"), &Device::flex()).unwrap();
    let (a, b): (Vec<u32>, Vec<u32>) = ((1..40).collect(), (50..90).collect());
    let together = PackedBatch::documents([a.clone(), b.clone()].concat(), &[&[0, a.len() as u32]], a.len() + b.len());
    let packed = to_vec(decoder.logits(decoder.hidden(&together)));
    let alone: Vec<f32> = [&a, &b].iter().flat_map(|ids| to_vec(decoder.logits(decoder.hidden(&PackedBatch::sequence(ids))))).collect();
    assert_close("packed against alone", &packed, &alone, |_| true);
    assert_eq!(AttentionSpan::causal(1, 3).positions().to_vec(), [0, 1, 2]);
}

#[test]
fn a_folder_that_does_not_fit_lists_every_problem() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("llama_tied").join(file), dir.path().join(file)).unwrap();
    }
    let path = dir.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    config["num_hidden_layers"] = 5.into();
    config["intermediate_size"] = 10.into();
    std::fs::write(&path, config.to_string()).unwrap();
    let message = hf::load(dir.path(), &Device::flex()).unwrap_err().to_string();
    assert!(message.contains("missing `model.layers.4.") && message.contains("`model.layers.0.mlp.gate_proj.weight` has shape"), "{message}");

    std::fs::write(&path, "{\"model_type\": \"rwkv\"}").unwrap();
    let message = hf::load(dir.path(), &Device::flex()).unwrap_err().to_string();
    assert!(message.contains("config.json") && message.contains("rwkv"), "{message}");
}
