//! LoRA adapters that PEFT wrote, on a model that transformers wrote: logits with, without and merged are theirs. If one of these fails, a
//! downloaded adapter computes something else than its author trained.

use llm_arch::adapter::{attach, detach, merge};
use llm_arch::{Adapter, Decoder, PackedBatch, hf};
use llm_tensor::burn::tensor::Device;
use llm_tensor::host::to_vec;
use llm_tensor::nn::Weight;
use llm_tensor::nn::lora::Rows;
use llm_tensor::params;
use llm_tensor::quant::bitsandbytes::Int8;
use llm_tensor::weights::{HostTensor, Weights, save};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const VARIANTS: [&str; 4] = ["qv_r4", "all_linear_rslora", "dora_qv", "qv_lm_head_saved"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/lora").join(name)
}

fn base() -> Decoder {
    hf::load(fixture("base"), &Device::flex()).unwrap()
}

fn adapter(name: &str) -> Adapter {
    Adapter::load(fixture(name), base().config()).unwrap()
}

fn ids() -> Vec<Vec<u32>> {
    let text = std::fs::read_to_string(fixture("inputs.json")).unwrap();
    serde_json::from_value(serde_json::from_str::<serde_json::Value>(&text).unwrap()["input_ids"].clone()).unwrap()
}

/// `[2, 10, V]`, as recorded.
fn logits(decoder: &Decoder) -> Vec<f32> {
    let ids = ids();
    let length = ids[0].len();
    let batch = PackedBatch::documents(ids.concat(), &[&[0], &[0]], length);
    to_vec(decoder.logits(decoder.hidden(&batch)))
}

fn assert_close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0f32, |m, d| if d > m || d.is_nan() { d } else { m });
    assert!(worst <= 1e-5 * largest, "{what}: off by {worst:e}, largest expected value {largest}");
}

#[test]
fn with_without_and_merged_equal_peft() {
    for name in VARIANTS {
        let expected = Weights::open(fixture(name).join("expected.safetensors")).unwrap();
        let want = |key: &str| expected.get(key).unwrap().values;
        let (mut decoder, adapter, rows) = (base(), adapter(name), Rows::default());
        let plain = logits(&decoder);
        assert_close(name, &plain, &want("logits_base"));
        attach(&mut decoder, &rows, 7, &adapter).unwrap();
        assert_eq!(logits(&decoder), plain, "{name}: attached but not chosen");
        rows.select(&[Some(7); 20]);
        assert_close(name, &logits(&decoder), &want("logits_adapter"));
        rows.select(&[None; 20]);
        assert_eq!(logits(&decoder), plain, "{name}: not chosen");
        // One text with it and one without.
        let both: Vec<Option<u32>> = (0..20).map(|i| (i >= 10).then_some(7)).collect();
        rows.select(&both);
        let mixed = logits(&decoder);
        let half = plain.len() / 2;
        assert_eq!(mixed[..half], plain[..half], "{name}: a row without adapter changed");
        assert_close(name, &mixed[half..], &want("logits_adapter")[half..]);
        detach(&mut decoder, 7);
        assert_eq!(logits(&decoder), plain, "{name}: detached");

        let merged = merge(base(), &adapter).unwrap();
        assert_close(name, &logits(&merged), &want("logits_merged"));
        let values = params::to_host(&merged);
        for key in expected.names().into_iter().filter_map(|n| n.strip_prefix("merged.")) {
            assert_close(&format!("{name} {key}"), &values[key].values, &want(&format!("merged.{key}")));
        }
    }
}

/// Rows of several adapters in one pass: each gets what it gets alone.
#[test]
fn adapters_do_not_see_each_other() {
    let (mut decoder, rows) = (base(), Rows::default());
    for (key, name) in (0..).zip(VARIANTS) {
        attach(&mut decoder, &rows, key, &adapter(name)).unwrap();
    }
    let alone: Vec<Vec<f32>> = (0..5u32)
        .map(|key| {
            rows.select(&[Some(key).filter(|k| *k < 4); 20]);
            logits(&decoder)
        })
        .collect();
    let vocab = decoder.config().vocab_size;
    // Texts keep their adapter, as keys and values are those of the text.
    for (first, second) in [(0u32, 1u32), (2, 4), (3, 2), (4, 3)] {
        let choice: Vec<Option<u32>> = (0..20).map(|i| Some(if i < 10 { first } else { second }).filter(|k| *k < 4)).collect();
        rows.select(&choice);
        let together = logits(&decoder);
        assert_close("first", &together[..10 * vocab], &alone[first as usize][..10 * vocab]);
        assert_close("second", &together[10 * vocab..], &alone[second as usize][10 * vocab..]);
    }
}

/// An adapter over a quantised projection adds to what the quantised one gives, and cannot be merged into it.
#[test]
fn quantised_bases_take_adapters_but_no_merge() {
    let quantise = |decoder: &mut Decoder| {
        let mut dense = BTreeMap::new();
        for (name, linear) in decoder.linears_mut() {
            let shape = linear.weight.shape();
            let values = to_vec(linear.weight.val());
            let scb: Vec<f32> = values.chunks(shape[1]).map(|row| row.iter().fold(0f32, |m, x| m.max(x.abs()))).collect();
            let code = |(i, x): (usize, &f32)| (x * 127.0 / scb[i / shape[1]]).round() as i8;
            let weight = values.iter().enumerate().map(code).collect();
            linear.weight = Weight::packed(Int8 { shape, weight, scb }.packed(), &Device::flex());
            dense.insert(format!("{name}.weight"), to_vec(linear.weight.val()));
        }
        dense
    };
    let mut packed = base();
    let values = quantise(&mut packed);
    let dense = params::map(base(), |name, shape, value| match values.get(name) {
        Some(values) => llm_tensor::host::from_vec(values.clone(), [shape.iter().product()], &Device::flex()),
        None => value,
    });
    for name in VARIANTS {
        let (adapter, rows) = (adapter(name), Rows::default());
        let mut with = packed.clone();
        attach(&mut with, &rows, 0, &adapter).unwrap();
        rows.select(&[Some(0); 20]);
        assert_close(name, &logits(&with), &logits(&merge(dense.clone(), &adapter).unwrap()));
        let error = merge(packed.clone(), &adapter).unwrap_err().to_string();
        assert!(error.contains("q_proj` is quantised"), "{error}");
    }
}

/// A copy of an adapter whose tensors and configuration are changed.
fn damaged(name: &str, change: impl Fn(&mut BTreeMap<String, HostTensor>, &mut serde_json::Value)) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let weights = Weights::open(fixture(name).join("adapter_model.safetensors")).unwrap();
    let mut tensors = weights.names().into_iter().map(|n| (n.to_string(), weights.get(n).unwrap())).collect();
    let text = std::fs::read_to_string(fixture(name).join("adapter_config.json")).unwrap();
    let mut config = serde_json::from_str(&text).unwrap();
    change(&mut tensors, &mut config);
    save(dir.path().join("adapter_model.safetensors"), &tensors).unwrap();
    std::fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    dir
}

const Q: &str = "base_model.model.model.layers.0.self_attn.q_proj";

#[test]
fn what_does_not_fit_is_named() {
    let base = base();
    let error = |change: &dyn Fn(&mut BTreeMap<String, HostTensor>, &mut serde_json::Value)| {
        Adapter::load(damaged("qv_r4", change).path(), base.config()).unwrap_err().to_string()
    };
    for (part, message) in [
        (error(&|t, _| drop(t.remove(&format!("{Q}.lora_B.weight")))), "q_proj` has only one of lora_A and lora_B"),
        (error(&|t, _| t.retain(|name, _| !name.contains("layers.1"))), "`model.layers.1.self_attn.v_proj` is a target but has no lora_A"),
        (error(&|_, c| c["r"] = 3.into()), "q_proj.lora_A.weight` has shape [4, 32], expected [3, 32]"),
        (error(&|_, c| c["target_modules"] = "none".into()), "has tensors but is no target"),
        (error(&|_, c| c["use_dora"] = true.into()), "no lora_magnitude_vector"),
        (error(&|_, c| c["modules_to_save"] = vec!["lm_head"].into()), "`lm_head` is in modules_to_save but not in the file"),
        (
            error(&|t, _| {
                let tensor = t[&format!("{Q}.lora_A.weight")].clone();
                t.insert("base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight".into(), tensor);
            }),
            "`model.layers.9.self_attn.q_proj` is no projection of this model",
        ),
        (error(&|t, _| t.get_mut(&format!("{Q}.lora_A.weight")).unwrap().values[3] = f32::NAN), "NaN at element 3"),
        (error(&|t, _| drop(t.insert("base_model.model.model.what".into(), HostTensor { shape: vec![1], values: vec![0.0] }))), "what` is no tensor"),
        (
            error(&|t, _| {
                drop(t.insert("base_model.model.model.embed_tokens.lora_embedding_A".into(), HostTensor { shape: vec![1], values: vec![0.0] }));
            }),
            "adapters of embeddings and biases",
        ),
    ] {
        assert!(part.contains(message) && part.contains("adapter_model.safetensors"), "{part}\n  should say: {message}");
    }
    let missing = Adapter::load("nowhere", base.config()).unwrap_err().to_string();
    assert!(missing.contains("adapter_config.json") && missing.contains("cannot read"), "{missing}");
    // A table of tokens cannot differ from row to row, but it can be merged.
    let table = HostTensor { shape: vec![128, 32], values: vec![0.5; 128 * 32] };
    let dir = damaged("qv_r4", |t, c| {
        t.insert("base_model.model.model.embed_tokens.weight".into(), table.clone());
        c["modules_to_save"] = vec!["embed_tokens"].into();
    });
    let adapter = Adapter::load(dir.path(), base.config()).unwrap();
    let error = attach(&mut base.clone(), &Rows::default(), 0, &adapter).unwrap_err().to_string();
    assert!(error.contains("`model.embed_tokens.weight` cannot differ") && error.contains("llm-arch merge"), "{error}");
    let merged = params::to_host(&merge(base, &adapter).unwrap());
    assert!(merged["model.embed_tokens.weight"].values.iter().all(|x| *x == 0.5));
}

/// Names without the first part, ranks and factors by pattern, and only some layers: all of it has to meet in one place.
#[test]
fn patterns_and_short_names_are_followed() {
    let dir = damaged("qv_r4", |t, c| {
        *t = t
            .iter()
            .filter(|(n, _)| n.contains("layers.1"))
            .map(|(n, x)| (n.replace("base_model.model.model.", "base_model.model."), x.clone()))
            .collect();
        // Half of the rank in v, at the same factor.
        let v = "base_model.model.layers.1.self_attn.v_proj";
        let a = t.get_mut(&format!("{v}.lora_A.weight")).unwrap();
        *a = HostTensor { shape: vec![2, 32], values: a.values[..64].to_vec() };
        let b = t.get_mut(&format!("{v}.lora_B.weight")).unwrap();
        *b = HostTensor { shape: vec![16, 2], values: b.values.chunks(4).flat_map(|row| row[..2].to_vec()).collect() };
        c["layers_to_transform"] = vec![1].into();
        c["rank_pattern"] = serde_json::json!({"v_proj": 2});
        c["alpha_pattern"] = serde_json::json!({".*layers.1.self_attn.v_proj": 4});
    });
    let small = Adapter::load(dir.path(), base().config()).unwrap();
    assert_eq!(small.changes.keys().collect::<Vec<_>>(), ["model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.v_proj.weight"]);
    let (merged, whole) = (params::to_host(&merge(base(), &small).unwrap()), params::to_host(&merge(base(), &adapter("qv_r4")).unwrap()));
    let q = "model.layers.1.self_attn.q_proj.weight";
    assert_eq!(merged[q], whole[q]);
    assert_ne!(merged["model.layers.1.self_attn.v_proj.weight"], whole["model.layers.1.self_attn.v_proj.weight"]);
    let untouched = "model.layers.0.self_attn.q_proj.weight";
    assert_eq!(merged[untouched], params::to_host(&base())[untouched]);
}

/// Fused and transposed tensors: an adapter of `c_attn` is three of our changes with one A, and merging is what PEFT does to the file's tensor.
#[test]
fn fused_projections_are_taken_apart() {
    for (family, module, transposed, attachable) in [
        ("gpt2", "transformer.h.0.attn.c_attn", true, true),
        ("phi3", "model.layers.0.self_attn.qkv_proj", false, true),
        ("gpt_neox", "gpt_neox.layers.1.attention.query_key_value", false, true),
        ("falcon", "transformer.h.0.self_attention.query_key_value", false, true),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.2.w1", false, false),
    ] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/decoder").join(family);
        let decoder = hf::load(&folder, &Device::flex()).unwrap();
        let weights = Weights::open(&folder).unwrap();
        let tensor = weights.get(&format!("{module}.weight")).unwrap();
        let (outputs, inputs) = if transposed { (tensor.shape[1], tensor.shape[0]) } else { (tensor.shape[0], tensor.shape[1]) };
        let rank = 2;
        let a: Vec<f32> = (0..rank * inputs).map(|i| (i as f32 * 0.7).sin() * 0.1).collect();
        let b: Vec<f32> = (0..outputs * rank).map(|i| (i as f32 * 0.3).cos() * 0.1).collect();
        let dir = tempfile::tempdir().unwrap();
        let tensors = BTreeMap::from([
            (format!("base_model.model.{module}.lora_A.weight"), HostTensor { shape: vec![rank, inputs], values: a.clone() }),
            (format!("base_model.model.{module}.lora_B.weight"), HostTensor { shape: vec![outputs, rank], values: b.clone() }),
        ]);
        save(dir.path().join("adapter_model.safetensors"), &tensors).unwrap();
        let config = serde_json::json!({"peft_type": "LORA", "r": rank, "lora_alpha": 4, "target_modules": [module], "fan_in_fan_out": transposed});
        std::fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
        let adapter = Adapter::load(dir.path(), decoder.config()).unwrap();

        let merged = merge(decoder.clone(), &adapter).unwrap();
        let file = hf::FileTensors::of(&merged);
        let name = file.pending().into_iter().map(|p| p.name).find(|n| n.ends_with(&format!("{module}.weight"))).unwrap();
        let mut want = tensor.values.clone();
        for o in 0..outputs {
            for i in 0..inputs {
                let delta: f32 = (0..rank).map(|r| b[o * rank + r] * a[r * inputs + i]).sum();
                want[if transposed { i * outputs + o } else { o * inputs + i }] += 2.0 * delta;
            }
        }
        assert_close(family, &file.values(&name), &want);

        let (mut with, rows) = (decoder, Rows::default());
        let attached = attach(&mut with, &rows, 0, &adapter);
        assert_eq!(attached.is_ok(), attachable, "{family}: {attached:?}");
        if attachable {
            rows.select(&[Some(0); 20]);
            assert_close(family, &logits(&with), &logits(&merged));
        }
    }
}
