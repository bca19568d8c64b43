//! Poisoned batches among good ones: what the policies make of them. If these fail, one broken document ends a run, or a run that went back
//! is another run than the one without that document.

use llm_arch::{Decoder, DecoderConfig, PackedBatch};
use llm_run::{Metrics, Seed};
use llm_tensor::burn::tensor::Device;
use llm_tensor::{Precision, ops};
use llm_tokenizer::Tokenizer;
use llm_train::checkpoint::Identity;
use llm_train::spikes::{Policy, SpikeConfig};
use llm_train::trainer::{Loss, Objective, Outcome, Trainer, TrainerConfig};
use llm_train::{Error, OptimizerConfig, Result, Schedule, ScheduleKind};
use serde_json::Value;
use std::path::Path;

const VOCAB: usize = 64;
const LENGTH: usize = 32;

/// Rows that count up by one; the poisoned batches are noise.
#[derive(Clone)]
struct Counting {
    poisoned: Vec<u64>,
    /// Batches in the order in which they come, without those left out.
    without: Vec<u64>,
    /// A batch whose loss is no number.
    infinite: Option<u64>,
}

struct Rows {
    batch: PackedBatch,
    targets: ops::Indices,
    infinite: bool,
}

impl Objective for Counting {
    type Model = Decoder;
    type Batch = Rows;

    fn batches(&mut self, step: u64, _: &Decoder) -> Result<Vec<Rows>> {
        let number = (0..).filter(|b| !self.without.contains(b)).nth(step as usize).unwrap_or(step);
        let mut rng = Seed(7).at(number).rng();
        let rows: Vec<Vec<u32>> = (0..4)
            .map(|_| {
                let first = rng.below(VOCAB);
                let noise = self.poisoned.contains(&number);
                (0..=LENGTH).map(|i| if noise { rng.below(VOCAB) } else { (first + i) % VOCAB } as u32).collect()
            })
            .collect();
        let ids: Vec<u32> = rows.iter().flat_map(|r| r[..LENGTH].to_vec()).collect();
        let targets: Vec<u32> = rows.iter().flat_map(|r| r[1..].to_vec()).collect();
        let starts = vec![&[0u32][..]; rows.len()];
        let batch = PackedBatch::documents(ids, &starts, LENGTH);
        Ok(vec![Rows { batch, targets: targets.into(), infinite: self.infinite == Some(number) }])
    }

    fn loss(&self, model: &Decoder, rows: &Rows) -> Result<Loss> {
        let value = model.nll(model.hidden(&rows.batch), rows.targets.clone()).sum() / rows.targets.len() as f32;
        Ok(Loss { value: if rows.infinite { value * f32::INFINITY } else { value }, tokens: rows.targets.len() as u64, deferred: None })
    }

    fn documents(&self, step: u64) -> Vec<String> {
        vec![format!("batch-{step}")]
    }
}

fn model() -> DecoderConfig {
    DecoderConfig {
        vocab_size: VOCAB,
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 2,
        max_position_embeddings: LENGTH,
        ..DecoderConfig::default()
    }
}

fn config(policy: Policy) -> TrainerConfig {
    TrainerConfig {
        max_steps: 120,
        optimizer: OptimizerConfig { lr: 3e-3, ..OptimizerConfig::default() },
        schedule: Schedule { kind: ScheduleKind::Constant, warmup_steps: 10, ..Schedule::default() },
        eval_every: 0,
        checkpoint_every: 25,
        spikes: SpikeConfig { policy, window: 32, ..SpikeConfig::default() },
        ..TrainerConfig::default()
    }
}

fn train(out: &Path, config: TrainerConfig, objective: &Counting, precision: Precision) -> Result<Outcome<Decoder>> {
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizers/bytelevel_gpt2/tokenizer.json");
    let trainer = Trainer { config, out: out.into(), name: "spikes".into(), identity: Identity::new(serde_json::json!("spikes")) };
    let start = || Ok(Decoder::new_as(&model(), Seed(1), precision, &Device::flex().autodiff())?);
    trainer.run(&mut objective.clone(), start, &Tokenizer::load(tokenizer).unwrap())
}

fn spikes(out: &Path) -> Vec<Value> {
    std::fs::read_to_string(out.join("spikes.jsonl")).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn hash(out: &Path) -> String {
    llm_run::hash::path(out.join("model/model.safetensors")).unwrap()
}

const POISONED: [u64; 2] = [70, 93];

#[test]
fn skipped_steps_are_logged_with_their_documents_and_change_nothing() {
    let objective = Counting { poisoned: POISONED.to_vec(), without: Vec::new(), infinite: Some(100) };
    let out = tempfile::tempdir().unwrap();
    let outcome = train(out.path(), config(Policy::Skip), &objective, Precision::F32).unwrap();
    let found = spikes(out.path());
    let batches: Vec<u64> = found.iter().map(|s| s["batch"].as_u64().unwrap()).collect();
    assert_eq!(batches, [70, 93, 100], "{found:?}");
    assert_eq!(found[0]["documents"][0], "batch-70");
    assert_eq!(found[2]["value"], "inf");
    let log = Metrics::read(out.path().join("metrics.jsonl")).unwrap();
    let skipped: Vec<u64> = log.iter().filter(|r| r.contains_key("skipped")).map(|r| r["step"].as_u64().unwrap()).collect();
    assert_eq!(skipped, [71, 94, 101]);
    assert_eq!(log.len(), 120);
    assert!(outcome.loss < 0.5, "the run learned to count all the same: {}", outcome.loss);
}

#[test]
fn a_run_that_went_back_is_the_run_without_those_batches_to_the_bit() {
    let poisoned = Counting { poisoned: POISONED.to_vec(), without: Vec::new(), infinite: None };
    let out = tempfile::tempdir().unwrap();
    train(out.path(), config(Policy::Rewind), &poisoned, Precision::F32).unwrap();
    assert_eq!(spikes(out.path()).iter().map(|s| s["action"].as_str().unwrap().to_string()).collect::<Vec<_>>(), ["rewound", "rewound"]);
    let clean = tempfile::tempdir().unwrap();
    train(clean.path(), config(Policy::Rewind), &Counting { without: POISONED.to_vec(), ..poisoned }, Precision::F32).unwrap();
    assert_eq!(hash(out.path()), hash(clean.path()));
    let losses = |out: &Path| Metrics::read(out.join("metrics.jsonl")).unwrap().iter().map(|r| r["loss"].clone()).collect::<Vec<_>>();
    assert_eq!(losses(out.path()), losses(clean.path()));
}

/// Noise that never ends is not waited out.
#[test]
fn too_many_spikes_end_the_run_with_advice_and_whole_checkpoints() {
    for policy in [Policy::Skip, Policy::Rewind] {
        let objective = Counting { poisoned: (80..2000).collect(), without: Vec::new(), infinite: None };
        let out = tempfile::tempdir().unwrap();
        let mut config = config(policy);
        config.spikes.max_spikes = 4;
        let error = train(out.path(), config, &objective, Precision::F32).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Diverged { .. }), "{policy:?}: {text}");
        assert!(text.contains("optimizer.lr") && text.contains("standard deviations"), "{policy:?}: {text}");
        assert!(out.path().join("checkpoints/step-00000075/trainer.json").exists(), "{policy:?}");
    }
}

/// A number that is none is an error even without a policy, and says where it came from.
#[test]
fn a_parameter_that_is_no_number_is_named() {
    let out = tempfile::tempdir().unwrap();
    let objective = Counting { poisoned: Vec::new(), without: Vec::new(), infinite: Some(3) };
    let text = train(out.path(), config(Policy::Off), &objective, Precision::F32).unwrap_err().to_string();
    assert!(text.contains("step 3") && text.contains("loss is inf") && text.contains("parameter `"), "{text}");
}

/// float16 with loss scaling: gradients that overflow at first only cost a few steps.
#[test]
fn float16_scales_its_loss_and_learns() {
    let out = tempfile::tempdir().unwrap();
    let objective = Counting { poisoned: Vec::new(), without: Vec::new(), infinite: None };
    let outcome = train(out.path(), config(Policy::Skip), &objective, Precision::F16).unwrap();
    let log = Metrics::read(out.path().join("metrics.jsonl")).unwrap();
    assert!(log.iter().all(|r| r["loss_scale"].as_f64().unwrap() >= 1.0));
    assert!(log.iter().filter(|r| r.contains_key("skipped")).count() < 20);
    assert!(outcome.loss < 0.6, "{}", outcome.loss);
}
