//! Activation recomputation against a single tape. If this fails, saving memory changes what is learned.

mod common;

use common::packed;
use llm_arch::{Decoder, DecoderConfig, PackedBatch, hf};
use llm_run::{Metrics, Seed};
use llm_tensor::burn::tensor::{DType, Device};
use llm_tensor::{DeviceSpec, Precision, host, params};
use llm_train::mixture::Mixture;
use llm_train::pretrain::{PretrainConfig, pretrain};
use llm_train::recompute::Recompute;
use llm_train::trainer::{Accumulated, accumulate, read_loss};
use llm_train::{Loss, Objective, Result, TrainerConfig};
use std::path::Path;

/// Random documents of different lengths, packed into rows; `micro` batches a step.
struct Documents {
    recompute: Recompute,
    micro: usize,
}

const ROWS: usize = 3;
const LENGTH: usize = 20;

impl Objective for Documents {
    type Model = Decoder;
    type Batch = u64;
    fn batches(&mut self, _: u64, _: &Decoder) -> Result<Vec<u64>> {
        Ok((0..self.micro as u64).collect())
    }
    fn loss(&self, model: &Decoder, &number: &u64) -> Result<Loss> {
        let mut rng = Seed(9).at(number).rng();
        let mut draw = || (0..ROWS * LENGTH).map(|_| rng.below(model.config().vocab_size) as u32).collect::<Vec<_>>();
        let batch = PackedBatch::documents(draw(), &[&[0, 7], &[0], &[0, 3, 11]], LENGTH);
        let (forward, balance) = Mixture::default().forward(model, &batch, Seed(4).at(number), 1.0 / self.micro as f32, self.recompute);
        let value = model.nll(forward.hidden_ND, draw().into()).sum() / (self.micro * ROWS * LENGTH) as f32;
        let value = balance.map_or(value.clone(), |balance| value + balance);
        Ok(Loss { value, tokens: (ROWS * LENGTH) as u64, deferred: forward.deferred })
    }
}

fn step(model: &Decoder, micro: usize, recompute: Recompute) -> Accumulated {
    let objective = Documents { recompute, micro };
    accumulate(&objective, std::slice::from_ref(model), (0..micro as u64).collect(), 1.0).unwrap()
}

/// Loss and gradients with and without recomputation: the same names, the same formats, and no number differs by more than `tolerance` times
/// the largest of its parameter.
fn agree(what: &str, model: &Decoder, micro: usize, tolerance: f32) {
    let (one, segments) = (step(model, micro, Recompute::None), step(model, micro, Recompute::Block));
    let names = |a: &Accumulated| a.gradients.iter().map(|(name, g)| (name.clone(), g.dtype())).collect::<Vec<_>>();
    assert_eq!(names(&segments), names(&one), "{what}");
    assert_eq!(read_loss(segments.losses).to_bits(), read_loss(one.losses).to_bits(), "{what}: loss");
    for (name, gradient) in one.gradients {
        let values = |g: llm_tensor::burn::tensor::Tensor<1>| host::to_vec(g.cast(DType::F32));
        let (want, got) = (values(gradient), values(segments.gradients[&name].clone()));
        let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(largest > 0.0 && largest.is_finite(), "{what}: {name} has no gradient");
        let worst = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst <= tolerance * largest, "{what}: {name} differs by {worst:e} of {largest:e}");
    }
}

fn config(name: &str) -> DecoderConfig {
    hf::load_config(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/decoder").join(name)).unwrap()
}

fn model(config: &DecoderConfig, precision: Precision, trained: impl FnMut(&str) -> bool) -> Decoder {
    params::track_where(Decoder::new_as(config, Seed(3), precision, &Device::flex()).unwrap(), trained)
}

#[test]
fn every_family_has_the_gradients_of_a_single_tape_to_the_bit() {
    let dense = ["llama_tied", "llama_gqa_untied", "gpt2", "gemma2", "qwen3", "olmo2", "falcon", "llama_rope_dynamic", "mistral_swa"];
    for name in dense {
        agree(name, &model(&config(name), Precision::F32, |_| true), 1, 0.0);
        agree(name, &model(&config(name), Precision::F32, |_| true), 2, 0.0);
    }
    // Three branches or compressions meet: the order of the sum is not that of a single tape.
    for name in ["gpt_neox", "deepseek_v2"] {
        agree(name, &model(&config(name), Precision::F32, |_| true), 2, 1e-6);
    }
}

/// Routers are read twice, by their block and by the balancing losses, and jitter must fall the same way in both passes.
#[test]
fn balancing_losses_reach_the_routers_of_recomputed_blocks() {
    for (losses, tolerance) in [((0.02, 0.0, 0.0), 0.0), ((0.02, 1e-2, 0.01), 1e-6)] {
        let mut config = config("mixtral");
        let moe = config.moe.as_mut().unwrap();
        (moe.router_aux_loss_coef, moe.router_z_loss_coef, moe.seq_aux_loss_coef) = losses;
        (moe.router_jitter_noise, moe.capacity_factor) = (0.1, Some(1.0));
        agree("mixtral", &model(&config, Precision::F32, |_| true), 2, tolerance);
        // The balancing loss alone trains a router whose block is otherwise frozen.
        agree("mixtral, routers", &model(&config, Precision::F32, |name| name.contains("moe.gate")), 1, tolerance);
    }
}

#[test]
fn frozen_parts_have_no_gradients_and_the_rest_keeps_its_own() {
    for name in ["llama_gqa_untied", "gpt2", "mixtral"] {
        let config = config(name);
        let last = format!("layers.{}.", config.num_hidden_layers - 1);
        let patterns: [&dyn Fn(&str) -> bool; 6] = [
            &|name| !name.contains("embed"),
            &|name| name.contains("embed"),
            &|name| name.contains("layers.1."),
            &|name| name.contains(&last) && name.contains("norm"),
            &|name| name == "model.norm.weight",
            &|name| name.contains("layers.0.") || name == "lm_head.weight",
        ];
        for (i, pattern) in patterns.into_iter().enumerate() {
            agree(&format!("{name}, pattern {i}"), &model(&config, Precision::F32, pattern), 1, 0.0);
        }
    }
}

#[test]
fn bfloat16_agrees_too() {
    for name in ["llama_tied", "gemma2", "mixtral"] {
        for micro in [1, 2] {
            agree(name, &model(&config(name), Precision::Bf16, |_| true), micro, 0.0);
        }
    }
}

/// A whole training: the same losses, the same model, and a run that was begun without recomputation may go on with it.
#[test]
fn pretraining_with_recomputation_is_the_same_run() {
    let dir = tempfile::tempdir().unwrap();
    packed(dir.path(), 60, 6, |i| ["Wieder gerechnet ist nicht neu gerechnet. ", "fn f(x: u32) -> u32 { x + 1 }\n"][i % 2].repeat(3 + i % 7));
    let base = PretrainConfig {
        train: dir.path().join("pack/train"),
        tokenizer: dir.path().join("tokenizer"),
        model: DecoderConfig { hidden_size: 16, num_attention_heads: 2, num_key_value_heads: 1, num_hidden_layers: 3, ..DecoderConfig::default() },
        batch_size: 4,
        micro_batch_size: 2,
        device: DeviceSpec::Cpu,
        trainer: TrainerConfig { max_steps: 4, eval_every: 0, checkpoint_every: 2, ..TrainerConfig::default() },
        ..PretrainConfig::default()
    };
    let run = |recompute: Recompute| {
        let out = dir.path().join(format!("{recompute:?}"));
        pretrain(PretrainConfig { recompute, ..base.clone() }, &out, "test").unwrap();
        let losses: Vec<_> = Metrics::read(out.join("metrics.jsonl")).unwrap().iter().filter_map(|r| r.get("loss").cloned()).collect();
        (losses, llm_run::hash::path(out.join("model/model.safetensors")).unwrap())
    };
    let (losses, hash) = run(Recompute::None);
    assert_eq!(losses.len(), 4);
    assert_eq!(run(Recompute::Block), (losses, hash));
}
