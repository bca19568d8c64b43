//! Benchmarks while training: what `metrics.jsonl` says is what `llm-eval` finds for the same weights. If this fails, a curve during
//! training and the number afterwards are about two different things.

mod common;

use common::packed;
use llm_arch::DecoderConfig;
use llm_eval::evaluate::{Options, evaluate};
use llm_eval::{model::Local, tasks};
use llm_run::Metrics;
use llm_tensor::DeviceSpec;
use llm_train::TrainerConfig;
use llm_train::evaluation::EvaluationConfig;
use llm_train::pretrain::{PretrainConfig, pretrain};
use std::path::Path;

/// Shards, a tokenizer and a benchmark file in `dir`, and a configuration of a few steps.
fn workshop(dir: &Path) -> PretrainConfig {
    packed(dir, 60, 8, |i| format!("Die Sonne scheint über Ort {i}. {}", "The sun shines on every place. ".repeat(3 + i % 5)));
    std::fs::create_dir_all(dir.join("benchmarks/lambada")).unwrap();
    let lines: String = (0..6).map(|i| format!("{{\"text\": \"The sun shines on every place {i}. The sun shines\"}}\n")).collect();
    std::fs::write(dir.join("benchmarks/lambada/lambada_test.jsonl"), lines).unwrap();
    PretrainConfig {
        train: dir.join("pack/train"),
        heldout: dir.join("pack/heldout"),
        tokenizer: dir.join("tokenizer"),
        model: DecoderConfig {
            hidden_size: 16,
            intermediate_size: 32,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            max_position_embeddings: 64,
            ..DecoderConfig::default()
        },
        batch_size: 4,
        micro_batch_size: 4,
        eval_rows: 4,
        device: DeviceSpec::Cpu,
        evaluation: EvaluationConfig { tasks: vec!["lambada".into()], data: dir.join("benchmarks"), limit: Some(4), num_fewshot: None },
        trainer: TrainerConfig { max_steps: 4, eval_every: 2, checkpoint_every: 0, ..TrainerConfig::default() },
        ..PretrainConfig::default()
    }
}

#[test]
fn the_last_number_of_a_run_is_that_of_its_model() {
    let dir = tempfile::tempdir().unwrap();
    let config = workshop(dir.path());
    let out = dir.path().join("out");
    pretrain(config.clone(), &out, "test").unwrap();
    let records = Metrics::read(out.join("metrics.jsonl")).unwrap();
    let key = "eval/lambada_openai@lm-eval@1";
    let logged = |metric: &str| -> Vec<f64> { records.iter().filter_map(|r| r.get(&format!("{key}/{metric}"))?.as_f64()).collect() };
    assert_eq!(logged("acc").len(), 3, "at steps 0, 2 and 4: {records:?}");

    let model = Local::load(&out.join("model"), DeviceSpec::Cpu, 8).unwrap();
    let found = tasks::find(&config.evaluation.tasks, &config.evaluation.data).unwrap();
    let options = Options { data: config.evaluation.data.clone(), limit: Some(4), ..Options::default() };
    let evaluation = evaluate(&model, &found, &options).unwrap();
    let (name, result) = evaluation.tasks.first_key_value().unwrap();
    assert_eq!(format!("eval/{name}"), key);
    assert_eq!(logged("acc")[2], result.value);
    let perplexity = logged("perplexity");
    assert_eq!(perplexity[2], result.details["metrics"]["perplexity"]["value"]);
    assert!(perplexity[2] < perplexity[0], "a trained model is less surprised: {perplexity:?}");
}

#[test]
fn a_wrong_task_is_known_before_training_starts() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = workshop(dir.path());
    config.evaluation.tasks = vec!["lambda".into()];
    let out = dir.path().join("out");
    let message = pretrain(config.clone(), &out, "test").unwrap_err().to_string();
    assert!(message.contains("evaluation.tasks") && message.contains("did you mean `lambada`?"), "{message}");
    config.evaluation.tasks = vec!["lambada".into()];
    std::fs::write(dir.path().join("benchmarks/lambada/lambada_test.jsonl"), "{\"txt\": \"no\"}\n").unwrap();
    let message = pretrain(config, &out, "test").unwrap_err().to_string();
    assert!(message.contains("lambada_test.jsonl") && message.contains("text"), "{message}");
    assert!(!out.join("metrics.jsonl").exists());
}
