//! Another device against the processor: a tiny model's loss, every gradient, and cached generation. If one of these fails, a model
//! trained or served on that device is another model.
//!
//! `LLM_DEVICE=webgpu:cpu cargo test -p llm-arch --features webgpu --test device` (also `cuda:0`, `vulkan:0`). Without the variable
//! there is nothing to compare with, and the tests say so.

use llm_arch::{Decoder, DecoderConfig, PackedBatch};
use llm_moe::MoeConfig;
use llm_run::Seed;
use llm_tensor::burn::tensor::Device;
use llm_tensor::host::{scalar, to_vec};
use llm_tensor::{DeviceSpec, params};
use std::collections::BTreeMap;
use std::path::Path;

/// The device to test, none when nobody named one.
fn device() -> Option<Device> {
    let Ok(spec) = std::env::var("LLM_DEVICE") else {
        println!("skipped: LLM_DEVICE names no device");
        return None;
    };
    Some(spec.parse::<DeviceSpec>().unwrap().open().unwrap())
}

fn tiny() -> DecoderConfig {
    DecoderConfig {
        vocab_size: 64,
        hidden_size: 16,
        intermediate_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: 32,
        ..DecoderConfig::default()
    }
}

/// Loss and gradients of two packed rows of two documents each.
fn step(config: &DecoderConfig, device: &Device) -> (f32, BTreeMap<String, Vec<f32>>) {
    let decoder = Decoder::new(config, Seed(7), &device.clone().autodiff()).unwrap().tracked();
    let ids: Vec<u32> = (0..16).map(|i| (i * 37 + 5) % 64).collect();
    let targets: Vec<u32> = (0..16).map(|i| (i * 11 + 3) % 64).collect();
    let batch = PackedBatch::documents(ids, &[&[0, 3], &[0, 5]], 8);
    let loss = decoder.nll(decoder.hidden(&batch), targets.into()).mean();
    let gradients = params::gradients(&decoder, &loss.backward());
    (scalar(loss.inner()), gradients.into_iter().map(|(name, g)| (name, to_vec(g))).collect())
}

fn compare(name: &str, config: &DecoderConfig, device: &Device) {
    let (ours, theirs) = (step(config, &Device::flex()), step(config, device));
    assert!((ours.0 - theirs.0).abs() < 1e-4 * ours.0, "{name}: loss {} instead of {}", theirs.0, ours.0);
    assert_eq!(ours.1.keys().collect::<Vec<_>>(), theirs.1.keys().collect::<Vec<_>>(), "{name}: parameters with a gradient");
    for (parameter, want) in &ours.1 {
        let scale = want.iter().fold(1e-4f32, |m, x| m.max(x.abs()));
        for (i, (g, w)) in theirs.1[parameter].iter().zip(want).enumerate() {
            assert!((g - w).abs() <= 2e-4 * scale, "{name}: gradient of {parameter}[{i}] is {g} instead of {w}");
        }
    }
}

#[test]
fn loss_and_gradients_equal_those_of_the_processor() {
    let Some(device) = device() else { return };
    compare("dense", &tiny(), &device);
    let experts = MoeConfig { num_experts: 4, num_experts_per_tok: 2, moe_intermediate_size: 16, ..MoeConfig::default() };
    compare("experts", &DecoderConfig { moe: Some(experts), ..tiny() }, &device);
}

#[test]
fn a_checkpoint_gives_the_recorded_logits_and_greedy_tokens() {
    let Some(device) = device() else { return };
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/decoder/llama_tied"));
    let report = llm_arch::parity::check(folder, &device, llm_tensor::Precision::F32, 1e-4).unwrap();
    assert!(report.passed, "{report:?}");
}
