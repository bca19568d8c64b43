//! Fine-tuning with and without general data: what is mixed in, what is measured, and that it helps.

mod tiny;

use llm_align::replay::ReplayConfig;
use llm_align::{SftConfig, sft};
use llm_arch::DecoderConfig;
use llm_data::document::{Document, DocumentWriter};
use llm_data::exercises::{self, ExercisesConfig};
use llm_data::pack::{PackConfig, pack};
use llm_run::Metrics;
use llm_tensor::DeviceSpec;
use llm_train::{OptimizerConfig, Schedule, ScheduleKind, TrainerConfig};
use serde_json::{Map, Value};
use std::path::Path;

/// `model/`, `train.jsonl` and shards of another kind of text in `pack/train`.
fn workshop() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let rows = exercises::generate(&ExercisesConfig { count_train: 120, count_heldout: 20, ..ExercisesConfig::default() }).unwrap().train;
    exercises::write(&dir.path().join("train.jsonl"), &rows).unwrap();
    let general = |i: usize| format!("fn f{i}() -> usize {{ let x = {i}; x + {} }}\n", i % 7).repeat(3);
    let mut texts: Vec<String> = rows.iter().flat_map(|r| r.messages.iter().map(|m| m.content.clone())).collect();
    texts.extend((0..40).map(general));
    tiny::save(&dir.path().join("model"), &texts, 400, DecoderConfig { num_hidden_layers: 1, ..tiny::config() });
    let mut writer = DocumentWriter::create(&dir.path().join("documents")).unwrap();
    for i in 0..60 {
        writer.push(Document { id: format!("d{i}"), text: general(i), source: "test".into(), ..Document::default() }).unwrap();
    }
    writer.finish().unwrap();
    let settings = PackConfig {
        tokenizer: dir.path().join("model"),
        train: dir.path().join("documents"),
        heldout: None,
        sequence_length: 32,
        ..PackConfig::default()
    };
    pack(&settings, &dir.path().join("pack")).unwrap();
    dir
}

fn config(dir: &Path, share: f64) -> SftConfig {
    SftConfig {
        model: dir.join("model"),
        train: dir.join("train.jsonl"),
        batch_size: 8,
        micro_batch_tokens: 600,
        device: DeviceSpec::Cpu,
        replay: Some(ReplayConfig { shards: dir.join("pack/train"), share, ..ReplayConfig::default() }),
        trainer: TrainerConfig {
            max_steps: 16,
            optimizer: OptimizerConfig { lr: 5e-3, weight_decay: 0.0, ..OptimizerConfig::default() },
            schedule: Schedule { kind: ScheduleKind::Constant, warmup_steps: 1, min_lr_ratio: 0.1, ..Schedule::default() },
            eval_every: 8,
            checkpoint_every: 0,
            ..TrainerConfig::default()
        },
        ..SftConfig::default()
    }
}

fn run(config: SftConfig) -> Vec<Map<String, Value>> {
    let out = tempfile::tempdir().unwrap();
    let outcome = sft(config, out.path()).unwrap();
    assert_eq!(outcome.validations.len(), 2, "the validations before and after belong to the outcome");
    Metrics::read(out.path().join("metrics.jsonl")).unwrap()
}

fn numbers(records: &[Map<String, Value>], key: &str) -> Vec<f64> {
    records.iter().filter_map(|r| r.get(key)?.as_f64()).collect()
}

#[test]
fn general_data_is_learned_beside_the_answers_and_forgetting_is_measured() {
    let dir = workshop();
    let (without, with) = (run(config(dir.path(), 0.0)), run(config(dir.path(), 0.3)));
    for records in [&without, &with] {
        let (losses, forgotten) = (numbers(records, "val_loss/replay"), numbers(records, "forgetting"));
        assert_eq!((losses.len(), forgotten.len(), forgotten[0]), (3, 3, 0.0), "before the first step, in the middle, at the end");
        assert!((losses[2] - losses[0] - forgotten[2]).abs() < 1e-9, "{losses:?} {forgotten:?}");
    }
    let end = |records: &[Map<String, Value>]| numbers(records, "forgetting")[2];
    assert!(end(&with) < end(&without) - 0.1, "{} with replay, {} without", end(&with), end(&without));
    assert!(numbers(&without, "replay_tokens").iter().all(|n| *n == 0.0));
    let replayed = numbers(&with, "replay_tokens");
    let rest: f64 = numbers(&with, "tokens").last().unwrap() - replayed.iter().sum::<f64>();
    let share = replayed.iter().sum::<f64>() / (rest + replayed.iter().sum::<f64>());
    assert!((share - 0.3).abs() < 0.06, "{share} of the tokens are replayed");
}

#[test]
fn settings_that_cannot_work_are_named() {
    let dir = workshop();
    let refused = |change: fn(&mut ReplayConfig)| {
        let mut config = config(dir.path(), 0.1);
        config.replay.iter_mut().for_each(change);
        let out = tempfile::tempdir().unwrap();
        sft(config, out.path()).unwrap_err().to_string()
    };
    assert!(refused(|replay| replay.share = 1.0).contains("replay.share"));
    assert!(refused(|replay| replay.share = f64::NAN).contains("replay.share"));
    assert!(refused(|replay| replay.eval_rows = 0).contains("replay.eval_rows"));
    assert!(refused(|replay| replay.shards = Default::default()).contains("replay.shards"));
    assert!(refused(|replay| replay.shards = "nowhere".into()).contains("nowhere"));
}
