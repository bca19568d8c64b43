//! Damaged model folders end in an error that names file and tensor or field, whatever is damaged and where. If one of these
//! fails, a broken download takes a program down.

use llm_arch::hf;
use llm_tensor::burn::tensor::Device;
use proptest::prelude::*;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/decoder").join(name)
}

fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|n| n != "expected.safetensors") {
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    dir
}

fn message(dir: &Path) -> String {
    hf::load(dir, &Device::flex()).map(|_| ()).expect_err("must not load").to_string()
}

fn edit_config(dir: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let path = dir.join("config.json");
    let mut config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn a_shard_that_is_missing_or_cut_is_named() {
    let dir = copy("llama_sharded");
    let shard = dir.path().join("model-00002-of-00004.safetensors");
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    assert!(message(dir.path()).contains("model-00002-of-00004.safetensors"), "{}", message(dir.path()));
    std::fs::remove_file(&shard).unwrap();
    let text = message(dir.path());
    assert!(text.contains("index.json") && text.contains("model-00002-of-00004.safetensors") && text.contains("copy or download"), "{text}");
}

#[test]
fn an_index_that_promises_what_a_shard_does_not_hold_is_named() {
    let dir = copy("llama_sharded");
    let path = dir.path().join("model.safetensors.index.json");
    let mut index: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    index["weight_map"]["model.layers.9.mlp.up_proj.weight"] = "model-00001-of-00004.safetensors".into();
    std::fs::write(&path, index.to_string()).unwrap();
    assert!(message(dir.path()).contains("model.layers.9.mlp.up_proj.weight"));
    std::fs::write(&path, "{\"weight_map\": {\"a\": \"../../etc/passwd\"}}").unwrap();
    assert!(message(dir.path()).contains("leaves the folder"));
}

#[test]
fn values_that_are_no_numbers_are_named_with_their_place() {
    for (name, tensor, family) in [("llama_tied", "model.layers.1.mlp.up_proj.weight", "llama"), ("gpt2", "transformer.h.1.attn.c_attn.weight", "gpt2")] {
        let dir = copy(name);
        let path = dir.path().join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
        let at = 8 + header + json[tensor]["data_offsets"][0].as_u64().unwrap() as usize + 12;
        bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let text = message(dir.path());
        assert!(text.contains(tensor) && text.contains("NaN") && text.contains("element 3"), "{family}: {text}");
    }
}

#[test]
fn fields_that_contradict_each_other_or_are_unknown_are_named() {
    type Edit = fn(&mut serde_json::Value);
    let cases: [(&str, Edit, &[&str]); 9] = [
        ("llama_tied", |c| c["num_attention_heads"] = 5.into(), &["num_attention_heads = 5"]),
        ("llama_gqa_untied", |c| c["num_key_value_heads"] = 3.into(), &["num_key_value_heads = 3"]),
        ("llama_tied", |c| c["model_type"] = "rwkv".into(), &["model_type", "rwkv", "deepseek_v3"]),
        ("llama_tied", |c| c["hidden_act"] = "relu6".into(), &["hidden_act", "relu6"]),
        ("llama_tied", |c| c["hidden_size"] = "big".into(), &["hidden_size", "whole number"]),
        ("llama_tied", |c| c["hidden_size"] = 1e300.into(), &["hidden_size"]),
        ("llama_rope_yarn", |c| c["rope_parameters"]["factor"] = (-2).into(), &["factor"]),
        ("mixtral", |c| c["num_experts_per_tok"] = 9.into(), &["num_experts_per_tok"]),
        ("deepseek_v3", |c| c["n_group"] = 3.into(), &["n_group"]),
    ];
    for (name, edit, words) in cases {
        let dir = copy(name);
        edit_config(dir.path(), edit);
        let text = message(dir.path());
        assert!(text.contains("config.json") && words.iter().all(|w| text.contains(w)), "{name}: {text}");
    }
}

#[test]
fn scales_of_eight_bit_weights_must_fit() {
    let dir = copy("deepseek_v3_fp8");
    edit_config(dir.path(), |c| c["quantization_config"]["weight_block_size"] = serde_json::json!([32, 32]));
    let text = message(dir.path());
    assert!(text.contains("_scale_inv") && text.contains("[32, 32]"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Any byte anywhere in the weights may be wrong: an error or a model, never a panic.
    #[test]
    fn mutated_weights_never_panic(at in 0usize..1 << 14, byte in any::<u8>(), cut in 0usize..4) {
        let dir = copy("llama_tied");
        let path = dir.path().join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        // Mostly in the header, where it matters.
        let at = at % bytes.len().min(6000);
        bytes[at] = byte;
        if cut == 0 {
            bytes.truncate(at);
        }
        std::fs::write(&path, bytes).unwrap();
        let _ = hf::load(dir.path(), &Device::flex());
    }

    /// Any value of any field may be anything.
    #[test]
    fn mutated_configurations_never_panic(which in 0usize..64, family in 0usize..6, value in prop_oneof![
        Just(serde_json::json!(null)), Just(serde_json::json!(-1)), Just(serde_json::json!(0)), Just(serde_json::json!(1)), Just(serde_json::json!(7)),
        Just(serde_json::json!(1u64 << 40)), Just(serde_json::json!(1e308)), Just(serde_json::json!("text")), Just(serde_json::json!([])), Just(serde_json::json!({})),
        Just(serde_json::json!([3, "a"])), Just(serde_json::json!(true)),
    ]) {
        let dir = copy(["llama_tied", "gemma2", "gpt2", "falcon_new", "qwen2_moe", "deepseek_v2"][family]);
        edit_config(dir.path(), |config| {
            let keys: Vec<String> = config.as_object().unwrap().keys().cloned().collect();
            config[&keys[which % keys.len()]] = value;
        });
        let _ = hf::load(dir.path(), &Device::flex());
    }
}
