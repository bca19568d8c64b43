//! An objective that wants the run to end. If these fail, a run that a watch-dog stopped loses what it has learned, or goes on as if nothing
//! had been, or cannot go on when somebody wants it to.

use llm_arch::{Decoder, DecoderConfig, PackedBatch};
use llm_run::Metrics;
use llm_tensor::burn::tensor::Device;
use llm_tensor::ops;
use llm_tokenizer::Tokenizer;
use llm_train::checkpoint::{self, Identity};
use llm_train::trainer::{Loss, Objective, Outcome, Trainer, TrainerConfig};
use llm_train::{OptimizerConfig, Result, Schedule, ScheduleKind};
use serde_json::{Map, Value, json};
use std::path::Path;

const LENGTH: usize = 8;

/// Rows that count up by one; too much of it after `most` steps, or when the held-out loss is asked for the `most_validations`-th time.
struct Counting {
    most: u64,
    most_validations: u64,
    steps: u64,
    validations: u64,
}

impl Objective for Counting {
    type Model = Decoder;
    type Batch = (PackedBatch, ops::Indices);

    fn batches(&mut self, step: u64, _: &Decoder) -> Result<Vec<Self::Batch>> {
        self.steps = step + 1;
        let first = step as u32 % 16;
        let ids: Vec<u32> = (first..first + LENGTH as u32).collect();
        let targets: Vec<u32> = ids.iter().map(|id| id + 1).collect();
        Ok(vec![(PackedBatch::documents(ids, &[&[0]], LENGTH), targets.into())])
    }

    fn loss(&self, model: &Decoder, (batch, targets): &Self::Batch) -> Result<Loss> {
        let value = model.nll(model.hidden(batch), targets.clone()).sum() / LENGTH as f32;
        Ok(Loss { value, tokens: LENGTH as u64, deferred: None })
    }

    fn metrics(&mut self) -> Map<String, Value> {
        let mut record = Map::from_iter([("reward".to_string(), json!(self.steps))]);
        if self.steps == self.most {
            record.insert("alarms".into(), json!(["counted too far"]));
        }
        record
    }

    fn validate(&mut self, _: &Decoder) -> Result<Map<String, Value>> {
        self.validations += 1;
        Ok(Map::from_iter([("val_loss".to_string(), json!(1.0 / self.validations as f64))]))
    }

    fn halt(&self) -> Option<String> {
        (self.steps >= self.most || self.validations >= self.most_validations).then(|| format!("counted too far in step {}", self.steps))
    }

    fn settings(&self) -> Value {
        json!({"watchdog": {"most": self.most, "most_validations": self.most_validations}})
    }

    fn save(&self) -> Map<String, Value> {
        Map::from_iter([("steps".to_string(), json!(self.steps))])
    }

    fn restore(&mut self, state: &Map<String, Value>) {
        self.steps = state.get("steps").and_then(Value::as_u64).unwrap_or(0);
    }
}

fn train(out: &Path, most: u64, most_validations: u64) -> Outcome<Decoder> {
    let config = TrainerConfig {
        max_steps: 12,
        optimizer: OptimizerConfig { lr: 3e-3, ..OptimizerConfig::default() },
        schedule: Schedule { kind: ScheduleKind::Constant, warmup_steps: 1, ..Schedule::default() },
        eval_every: 4,
        checkpoint_every: 5,
        keep_checkpoints: 1,
        ..TrainerConfig::default()
    };
    let model = DecoderConfig {
        vocab_size: 32,
        hidden_size: 16,
        intermediate_size: 16,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 2,
        max_position_embeddings: LENGTH,
        ..DecoderConfig::default()
    };
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizers/bytelevel_gpt2/tokenizer.json");
    // As a configuration would be: what halts is in it, and is no part of what the run is.
    let identity = Identity::new(json!({"config": {"trainer": "halt", "watchdog": {"most": most}}}));
    let trainer = Trainer { config, out: out.into(), name: "halt".into(), identity };
    let start = || Ok(Decoder::new(&model, llm_run::Seed(1), &Device::flex().autodiff())?);
    trainer.run(&mut Counting { most, most_validations, steps: 0, validations: 0 }, start, &Tokenizer::load(tokenizer).unwrap()).unwrap()
}

fn steps(out: &Path) -> Vec<u64> {
    let log = Metrics::read(out.join("metrics.jsonl")).unwrap();
    log.iter().filter(|r| r.contains_key("loss")).map(|r| r["step"].as_u64().unwrap()).collect()
}

fn kinds(out: &Path) -> Vec<String> {
    let events = Metrics::read(out.join("events.jsonl")).unwrap();
    events.iter().filter_map(|e| e.get("kind")?.as_str().map(str::to_string)).filter(|kind| kind != "checkpoint").collect()
}

fn hash(out: &Path) -> String {
    llm_run::hash::path(out.join("model/model.safetensors")).unwrap()
}

#[test]
fn a_halted_run_is_whole_stays_halted_and_goes_on_when_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path();
    let outcome = train(out, 7, 99);
    assert_eq!(outcome.halted.as_deref(), Some("counted too far in step 7"));
    assert_eq!(steps(out), (1..=7).collect::<Vec<_>>());
    assert!(out.join("model/model.safetensors").is_file());
    assert_eq!(kinds(out), ["alarm", "halted"]);
    let log = Metrics::read(out.join("metrics.jsonl")).unwrap();
    assert_eq!(log.last().unwrap()["halted"], "counted too far in step 7");
    let validated: Vec<u64> = log.iter().filter(|r| r.contains_key("val_loss")).map(|r| r["step"].as_u64().unwrap()).collect();
    assert_eq!(validated, [0, 4, 7], "the end of a run is validated, wherever it is");
    assert!(std::fs::read_to_string(out.join("report.html")).unwrap().contains("Halted after 7 of 12 steps: counted too far"));
    outcome.leftovers.remove();
    assert_eq!(checkpoint::steps(&out.join("checkpoints")), [7], "what it would go on from");

    let model = hash(out);
    let again = train(out, 7, 99);
    assert_eq!((again.halted.is_some(), steps(out).len(), hash(out)), (true, 7, model));
    assert_eq!(kinds(out), ["alarm", "halted", "resumed", "halted"]);

    let on = train(out, 50, 99);
    assert_eq!((on.halted, steps(out)), (None, (1..=12).collect()));
    assert_eq!(kinds(out)[4..], ["resumed", "note"]);
    on.leftovers.remove();
    assert!(checkpoint::steps(&out.join("checkpoints")).is_empty());
    let calm = tempfile::tempdir().unwrap();
    train(calm.path(), 99, 99);
    assert_eq!(hash(out), hash(calm.path()), "a halt leaves no trace in what is learned");
}

#[test]
fn a_validation_can_halt_too() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = train(dir.path(), 99, 2);
    assert_eq!((outcome.halted.is_some(), steps(dir.path())), (true, vec![1, 2, 3, 4]));
    assert_eq!(checkpoint::steps(&dir.path().join("checkpoints")), [4]);
    assert!(train(dir.path(), 99, 2).halted.is_some());
}
