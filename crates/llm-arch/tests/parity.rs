//! Every decoder fixture (tiny checkpoints written by transformers 5.23) gives transformers' numbers: hidden states of every
//! layer, logits, and sixteen greedy tokens through the paged cache. If this fails, a downloaded model does not compute what
//! its authors trained.

use llm_arch::parameters::parameters;
use llm_arch::{Decoder, PackedBatch, hf, parity};
use llm_run::Seed;
use llm_tensor::Precision;
use llm_tensor::burn::tensor::Device;
use llm_tensor::host::to_vec;
use llm_tensor::ops::AttentionSpan;
use llm_tensor::weights::{SaveOptions, Weights};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/decoder")
}

fn fixture(name: &str) -> PathBuf {
    root().join(name)
}

/// All folders with weights.
fn fixtures() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(root()).unwrap().map(|e| e.unwrap().path()).filter(|p| p.join("config.json").exists()).collect();
    all.sort();
    assert!(all.len() >= 20, "only {} fixtures", all.len());
    all
}

fn assert_close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0f32, f32::max);
    assert!(worst <= 1e-5 * largest, "{what}: off by {worst:e}, largest expected value {largest}");
}

#[test]
fn logits_hidden_states_and_greedy_tokens_equal_transformers() {
    let mut failed = Vec::new();
    for dir in fixtures().iter().filter(|d| d.join("expected.safetensors").exists()) {
        let report = parity::check(dir, &Device::flex(), Precision::F32, parity::TOLERANCE).unwrap();
        println!("{:28} logits {:.1e} hidden {:.1e} greedy {:?}", report.name, report.logits, report.hidden.unwrap_or(0.0), report.greedy);
        if !report.passed || report.greedy.1 == 0 {
            failed.push(report);
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn half_precision_stays_close_to_full_precision() {
    for precision in [Precision::Bf16, Precision::F16] {
        for name in ["llama_gqa_untied", "gemma2", "gpt2"] {
            let report = parity::check(&fixture(name), &Device::flex(), precision, 0.1).unwrap();
            assert!(report.logits < 0.05, "{name} {precision}: {report:?}");
            assert!(report.logits > 1e-6, "{name} {precision}: computed in f32 after all");
        }
        // Rounding may send a token to another expert, so only what comes before the first router is compared.
        let report = parity::check(&fixture("deepseek_v3"), &Device::flex(), precision, 0.05).unwrap();
        assert!(report.first_divergent_layer.is_none_or(|l| l > 1) && report.logits.is_finite(), "{precision}: {report:?}");
    }
}

#[test]
fn both_spellings_of_config_json_mean_the_same() {
    for dir in fixtures() {
        let read = |name: &str| {
            std::fs::read_to_string(dir.join(name)).ok().map(|text| hf::config_from_json(&serde_json::from_str(&text).unwrap()).unwrap())
        };
        let config = read("config.json").unwrap();
        if let Some(older) = read("config_v4.json") {
            // The older files of some families leave the padding id out.
            assert_eq!(config, llm_arch::DecoderConfig { pad_token_id: config.pad_token_id, ..older }, "{}", dir.display());
        }
        assert_eq!(hf::config_from_json(&hf::config_to_json(&config, Precision::F32)).unwrap(), config, "{}: written and read again", dir.display());
    }
}

#[test]
fn saving_is_lossless_in_one_file_and_in_shards() {
    for dir in fixtures() {
        let decoder = hf::load(&dir, &Device::flex()).unwrap();
        let config = decoder.config();
        assert_eq!(decoder.num_parameters(), config.num_parameters(), "{}: counted from weights and from shapes", dir.display());
        let a = Weights::open(&dir).unwrap();
        for options in [SaveOptions::default(), SaveOptions { max_shard_bytes: 20_000, ..SaveOptions::default() }] {
            let out = tempfile::tempdir().unwrap();
            hf::save_as(out.path(), &decoder, options).unwrap();
            let b = Weights::open(out.path()).unwrap();
            // Scales of 8-bit weights and buffers are no weights.
            let buffer =
                |n: &str| n.ends_with("_scale_inv") || n.ends_with("inv_freq") || n.ends_with("attention.bias") || n.ends_with("masked_bias");
            let names: Vec<&str> = a.names().into_iter().filter(|n| !buffer(n)).collect();
            assert_eq!(names, b.names(), "{}", dir.display());
            for name in names {
                if !a.contains(&format!("{name}_scale_inv")) {
                    assert_eq!(a.get(name).unwrap(), b.get(name).unwrap(), "{} {name}", dir.display());
                }
            }
            hf::load(out.path(), &Device::flex()).unwrap();
        }
    }
}

/// The list of parameters, which the planner and the loader go by, is what the model has.
#[test]
fn the_list_of_parameters_is_the_model() {
    for dir in fixtures() {
        let config = hf::load_config(&dir).unwrap();
        let decoder = Decoder::new(&config, Seed(1), &Device::flex()).unwrap();
        let listed: std::collections::BTreeMap<_, _> = parameters(&config).into_iter().map(|p| (p.name, p.shape)).collect();
        assert_eq!(listed, llm_tensor::params::shapes(&decoder), "{}", dir.display());
    }
}

#[test]
fn packing_documents_in_a_row_changes_nothing() {
    let decoder = hf::load(fixture("llama_gqa_untied"), &Device::flex()).unwrap();
    let (a, b): (Vec<u32>, Vec<u32>) = ((1..40).collect(), (50..90).collect());
    let together = PackedBatch::documents([a.clone(), b.clone()].concat(), &[&[0, a.len() as u32]], a.len() + b.len());
    let packed = to_vec(decoder.logits(decoder.hidden(&together)));
    let alone: Vec<f32> = [&a, &b].iter().flat_map(|ids| to_vec(decoder.logits(decoder.hidden(&PackedBatch::sequence(ids))))).collect();
    assert_close("packed against alone", &packed, &alone);
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
    assert!(
        message.contains("missing `model.layers.2.")
            && message.contains("and 13 more")
            && message.contains("`model.layers.0.mlp.gate_proj.weight` has shape"),
        "{message}"
    );

    std::fs::write(&path, "{\"model_type\": \"rwkv\"}").unwrap();
    let message = hf::load(dir.path(), &Device::flex()).unwrap_err().to_string();
    assert!(message.contains("config.json") && message.contains("rwkv"), "{message}");
}
