//! Training that goes on from a model folder, with its own tokenizer or a larger one. If this fails, what a model has learned is lost where
//! training starts again.

mod common;

use common::{packed_documents, repacked, small, tokenizer};
use llm_arch::tokens::{Resize, check};
use llm_arch::{DecoderConfig, hf};
use llm_data::document::Document;
use llm_data::pack::PackConfig;
use llm_run::Metrics;
use llm_tokenizer::Tokenizer;
use llm_train::pretrain::{PretrainConfig, pretrain};
use llm_train::{OptimizerConfig, Schedule, ScheduleKind, TrainerConfig};
use serde_json::Value;
use std::path::Path;

fn document(i: usize) -> Document {
    let words = ["Sonne", "Regenbogen", "Wolkenbruch", "Gewitterfront", "Nebelbank", "Hagelschauer"];
    let sentence = |j: usize| format!("Heute kommt {} nach {}. ", words[(i + j) % 6], words[(i + j + 1) % 6]);
    Document { id: format!("d{i}"), text: (0..3 + i % 4).map(sentence).collect(), source: "test".into(), ..Document::default() }
}

fn packing() -> PackConfig {
    PackConfig { sequence_length: 32, ..PackConfig::default() }
}

fn trainer(max_steps: u64, lr: f64) -> TrainerConfig {
    TrainerConfig {
        max_steps,
        optimizer: OptimizerConfig { lr, ..OptimizerConfig::default() },
        schedule: Schedule { kind: ScheduleKind::Constant, warmup_steps: 2, min_lr_ratio: 0.1, ..Schedule::default() },
        eval_every: max_steps,
        checkpoint_every: 0,
        ..TrainerConfig::default()
    }
}

/// A model that was trained for a while in `dir/base/model`.
fn base(dir: &Path) -> PretrainConfig {
    packed_documents(dir, 80, 12, document, packing());
    let config = PretrainConfig { batch_size: 8, micro_batch_size: 8, eval_rows: 0, trainer: trainer(80, 1e-2), ..small(dir) };
    pretrain(config.clone(), &dir.join("base"), "base").unwrap();
    PretrainConfig { init: dir.join("base/model"), model: DecoderConfig::default(), ..config }
}

fn validations(out: &Path) -> Vec<f64> {
    Metrics::read(out.join("metrics.jsonl")).unwrap().iter().filter_map(|r| r.get("val_loss")?.as_f64()).collect()
}

#[test]
fn training_goes_on_where_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let config = PretrainConfig { tokenizer: Default::default(), trainer: trainer(20, 3e-3), ..base(dir.path()) };
    let out = dir.path().join("more");
    pretrain(config.clone(), &out, "more").unwrap();
    let (before, after) = (validations(&dir.path().join("base")), validations(&out));
    assert_eq!(after[0].to_bits(), before[1].to_bits(), "the first validation is the last one of the model");
    assert!(after[1] < after[0], "20 steps more make it better: {after:?}");
    assert!(!out.join("vocabulary.json").exists());

    let model = DecoderConfig { hidden_size: 64, ..DecoderConfig::default() };
    let message = pretrain(PretrainConfig { model, ..config }, &dir.path().join("wrong"), "wrong").unwrap_err().to_string();
    assert!(message.contains("model.hidden_size = 64") && message.contains("base/model"), "{message}");
}

#[test]
fn a_larger_vocabulary_starts_from_what_the_model_knows() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let texts: Vec<String> = (0..80).map(|i| document(i).text).collect();
    tokenizer(dir.path(), "larger", 340, &texts);
    repacked(dir.path(), "repacked", "larger", packing());
    let config = PretrainConfig {
        train: dir.path().join("repacked/train"),
        heldout: dir.path().join("repacked/heldout"),
        tokenizer: dir.path().join("larger"),
        trainer: trainer(20, 3e-3),
        ..base
    };
    let refused = pretrain(config.clone(), &dir.path().join("refused"), "refused").unwrap_err().to_string();
    assert!(refused.contains("have no row") && refused.contains("subtokens"), "{refused}");

    let first = |resize: Resize| {
        let out = dir.path().join(format!("{resize:?}"));
        pretrain(PretrainConfig { resize, ..config.clone() }, &out, "larger").unwrap();
        validations(&out)
    };
    let (subtokens, mean) = (first(Resize::Subtokens), first(Resize::Mean));
    let tokenizer = Tokenizer::load(dir.path().join("larger")).unwrap();
    let random = (tokenizer.vocab_size() as f64).ln();
    println!("random {random:.3}, subtokens {subtokens:.3?}, mean {mean:.3?}");
    for losses in [&subtokens, &mean] {
        // A model that was sure of its old pieces is surprised by whole words at first, and learns them quickly.
        assert!(losses[0].is_finite() && losses[1] < 0.5 * random, "{losses:?}, random is {random}");
    }

    let out = dir.path().join("Subtokens");
    let counts: Value = serde_json::from_str(&std::fs::read_to_string(out.join("vocabulary.json")).unwrap()).unwrap();
    let count = |key: &str| counts[key].as_u64().unwrap();
    assert_eq!(count("carried") + count("split") + count("drawn"), tokenizer.vocab_size() as u64);
    assert!(count("moved") > 0 && count("split") > 0 && count("drawn") == 0, "{counts}");
    let model = hf::load_config(out.join("model")).unwrap();
    assert_eq!(model.vocab_size, tokenizer.vocab_size().next_multiple_of(64));
    check::require(&out.join("model"), &model, &Tokenizer::load(out.join("model")).unwrap()).unwrap();
}
