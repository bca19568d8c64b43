//! Pre-training a tiny mixture from packed documents: what `metrics.jsonl` says about its experts, what the loss holds, and that the
//! balancing loss balances.

mod common;

use common::packed;
use llm_arch::{DecoderConfig, config::Family};
use llm_moe::MoeConfig;
use llm_run::Metrics;
use llm_tensor::DeviceSpec;
use llm_train::pretrain::{PretrainConfig, pretrain};
use llm_train::{OptimizerConfig, Schedule, ScheduleKind, TrainerConfig};
use serde_json::{Map, Value};
use std::path::Path;

const EXPERTS: usize = 6;
const LAYERS: usize = 2;

/// Shards and a tokenizer in `dir`, and a configuration to train a mixture on them.
fn workshop(dir: &Path) -> PretrainConfig {
    let lines = ["fn größe() { vec![1, 2, 3] }\n", "Experts share the work. ", "Der Router entscheidet. ", "0 1 2 3 4 5 6 7 8 9\n"];
    packed(dir, 120, 12, |i| lines[i % 4].repeat(4 + i % 9));
    PretrainConfig {
        train: dir.join("pack/train"),
        heldout: dir.join("pack/heldout"),
        tokenizer: dir.join("tokenizer"),
        model: DecoderConfig {
            family: Family::Mixtral,
            hidden_size: 16,
            num_hidden_layers: LAYERS,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            max_position_embeddings: 64,
            moe: Some(MoeConfig { num_experts: EXPERTS, moe_intermediate_size: 8, router_z_loss_coef: 1e-3, ..MoeConfig::default() }),
            ..DecoderConfig::default()
        },
        batch_size: 4,
        micro_batch_size: 4,
        eval_rows: 8,
        seed: 3,
        device: DeviceSpec::Cpu,
        trainer: TrainerConfig {
            max_steps: 6,
            optimizer: OptimizerConfig { lr: 1e-2, ..OptimizerConfig::default() },
            schedule: Schedule { kind: ScheduleKind::Constant, warmup_steps: 2, min_lr_ratio: 0.1, ..Schedule::default() },
            eval_every: 3,
            checkpoint_every: 0,
            keep_checkpoints: 1,
            ..TrainerConfig::default()
        },
        ..PretrainConfig::default()
    }
}

fn number(record: &Map<String, Value>, key: &str) -> f64 {
    record.get(key).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number `{key}` in {record:?}"))
}

fn load(record: &Map<String, Value>, key: &str) -> Vec<Vec<f64>> {
    serde_json::from_value(record[key].clone()).unwrap()
}

/// The busiest expert over the mean load, of the layer where that is worst, over all steps together.
fn max_over_mean(records: &[Map<String, Value>]) -> f64 {
    let steps: Vec<_> = records.iter().filter(|r| r.contains_key("moe_load")).map(|r| load(r, "moe_load")).collect();
    let mean = |l: usize, e: usize| steps.iter().map(|s| s[l][e]).sum::<f64>() / steps.len() as f64;
    (0..LAYERS).flat_map(|l| (0..EXPERTS).map(move |e| (l, e))).map(|(l, e)| mean(l, e)).fold(0.0, f64::max)
}

#[test]
fn every_step_and_validation_says_what_the_experts_did() {
    let dir = tempfile::tempdir().unwrap();
    let config = workshop(dir.path());
    pretrain(config, &dir.path().join("out"), "test").unwrap();
    let records = Metrics::read(dir.path().join("out/metrics.jsonl")).unwrap();
    let (steps, validations): (Vec<_>, Vec<_>) = records.into_iter().partition(|r| r.contains_key("loss"));
    assert_eq!((steps.len(), validations.len()), (6, 3));
    for (record, prefix) in steps.iter().map(|r| (r, "")).chain(validations.iter().map(|r| (r, "val_"))) {
        let key = |name: &str| format!("{prefix}moe_{name}");
        let load = load(record, &key("load"));
        assert_eq!(load.iter().map(Vec::len).collect::<Vec<_>>(), [EXPERTS; LAYERS]);
        for layer in &load {
            assert!((layer.iter().sum::<f64>() / EXPERTS as f64 - 1.0).abs() < 2e-3, "the mean of a relative load is 1: {layer:?}");
        }
        let worst = &load[number(record, &key("layer")) as usize];
        assert!((worst.iter().copied().fold(0.0, f64::max) - number(record, &key("max_over_mean"))).abs() < 1e-3);
        assert_eq!(worst.iter().filter(|&&x| x == 0.0).count() as f64, number(record, &key("dead_experts")));
        let entropies: Vec<f64> = serde_json::from_value(record[&key("router_entropy")].clone()).unwrap();
        assert!(entropies.len() == LAYERS && entropies.iter().all(|h| (0.0..=1.0).contains(h)), "{entropies:?}");
    }
    assert!(steps.iter().all(|r| number(r, "moe_aux_loss") > 0.0));
    assert!(!validations[0].contains_key("val_moe_aux_loss"), "held-out loss is that of the language model alone");
}

/// The logged loss is cross-entropy and balancing loss together, so that the report can subtract; also when a step has several
/// micro-batches.
#[test]
fn the_loss_without_its_balancing_part_does_not_depend_on_the_coefficients() {
    let dir = tempfile::tempdir().unwrap();
    let base = workshop(dir.path());
    let first = |z_loss: f64, micro_batch_size: usize| {
        let mut config = PretrainConfig { micro_batch_size, ..base.clone() };
        config.trainer.max_steps = 1;
        config.model.moe.as_mut().unwrap().router_z_loss_coef = z_loss;
        let out = dir.path().join(format!("out-{z_loss}-{micro_batch_size}"));
        pretrain(config, &out, "test").unwrap();
        Metrics::read(out.join("metrics.jsonl")).unwrap().into_iter().find(|r| r.contains_key("loss")).unwrap()
    };
    let plain = first(0.0, 4);
    assert!(!plain.contains_key("moe_aux_loss"));
    for record in [first(0.1, 4), first(0.1, 1)] {
        assert!(number(&record, "moe_aux_loss") > 0.1);
        let difference = number(&record, "loss") - number(&record, "moe_aux_loss") - number(&plain, "loss");
        assert!(difference.abs() < 1e-4, "{difference}");
    }
}

#[test]
fn a_balancing_loss_spreads_the_load() {
    let dir = tempfile::tempdir().unwrap();
    let base = workshop(dir.path());
    let last = |coefficient: f64| {
        let mut config = base.clone();
        config.trainer.max_steps = 150;
        config.trainer.eval_every = 0;
        config.model.moe.as_mut().unwrap().seq_aux_loss_coef = coefficient;
        let out = dir.path().join(format!("out-{coefficient}"));
        pretrain(config, &out, "test").unwrap();
        max_over_mean(&Metrics::read(out.join("metrics.jsonl")).unwrap()[100..])
    };
    let (without, with) = (last(0.0), last(0.1));
    assert!(with < 1.5 && with < without, "max/mean load {without:.2} without, {with:.2} with a balancing loss");
}
