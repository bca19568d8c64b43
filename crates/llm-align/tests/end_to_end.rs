//! SFT and GRPO on a tiny model and real exercises: what is learned, what is masked, and that everything is a function of the
//! seed. (That a killed run continues bit for bit is tested on the trainer itself, in `llm-train`.)

mod tiny;

use llm_align::sft::load_conversations;
use llm_align::{GrpoConfig, SftConfig, grpo, sft};
use llm_data::exercises::{self, ExercisesConfig};
use llm_run::Metrics;
use llm_tensor::DeviceSpec;
use llm_tokenizer::Tokenizer;
use llm_train::{OptimizerConfig, Schedule, ScheduleKind, TrainerConfig};
use std::path::Path;

/// A folder with `model/` (random weights, a tokenizer trained on the exercises) and `train.jsonl`.
fn workshop() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let rows = exercises::generate(&ExercisesConfig { count_train: 200, count_heldout: 20, ..ExercisesConfig::default() }).unwrap().train;
    exercises::write(&dir.path().join("train.jsonl"), &rows).unwrap();
    let texts: Vec<String> = rows.iter().flat_map(|r| r.messages.iter().map(|m| m.content.clone())).collect();
    tiny::save(&dir.path().join("model"), &texts, 400, tiny::config());
    dir
}

fn steps(max_steps: u64, lr: f64) -> TrainerConfig {
    TrainerConfig {
        max_steps,
        optimizer: OptimizerConfig { lr, weight_decay: 0.0, ..OptimizerConfig::default() },
        schedule: Schedule { kind: ScheduleKind::Constant, warmup_steps: 1, min_lr_ratio: 0.1, ..Schedule::default() },
        eval_every: 0,
        checkpoint_every: 2,
        keep_checkpoints: 1,
        ..TrainerConfig::default()
    }
}

fn sft_config(dir: &Path) -> SftConfig {
    SftConfig {
        model: dir.join("model"),
        train: dir.join("train.jsonl"),
        batch_size: 16,
        micro_batch_tokens: 300,
        device: DeviceSpec::Cpu,
        trainer: steps(12, 5e-3),
        ..SftConfig::default()
    }
}

fn weights(out: &Path) -> String {
    llm_run::hash::path(out.join("model/model.safetensors")).unwrap()
}

#[test]
fn only_the_assistants_tokens_are_trained() {
    let dir = workshop();
    let tokenizer = Tokenizer::load(dir.path().join("model")).unwrap();
    let rows = exercises::read(&dir.path().join("train.jsonl")).unwrap();
    let sequences = load_conversations(&dir.path().join("train.jsonl"), &tokenizer, 256).unwrap();
    for (row, sequence) in rows.iter().zip(&sequences).take(50) {
        let trained: Vec<u32> = sequence.ids.iter().zip(&sequence.loss_mask).filter(|(_, m)| **m).map(|(i, _)| *i).collect();
        let text = tokenizer.decode(&trained, false);
        let answer = &row.messages[1];
        assert_eq!(text, format!("<think>{}</think>{}<|eot_id|>", answer.reasoning_content.as_deref().unwrap(), answer.content));
    }
}

#[test]
fn sft_learns_and_micro_batches_do_not_change_the_loss() {
    let dir = workshop();
    let losses = |budget: usize| -> Vec<f64> {
        let out = tempfile::tempdir().unwrap();
        sft(SftConfig { micro_batch_tokens: budget, ..sft_config(dir.path()) }, out.path()).unwrap();
        Metrics::read(out.path().join("metrics.jsonl")).unwrap().iter().map(|r| r["loss"].as_f64().unwrap()).collect()
    };
    let (small, large) = (losses(200), losses(100_000));
    assert!(small[11] < 0.8 * small[0], "no learning: {small:?}");
    for (a, b) in small.iter().zip(&large) {
        assert!((a - b).abs() < 2e-3 * b, "{a} with small micro-batches, {b} with one");
    }
}

#[test]
fn grpo_raises_the_reward_of_a_learnable_task() {
    // One prompt whose right answer the model already gives now and then: the reward must go up.
    let dir = workshop();
    let out = tempfile::tempdir().unwrap();
    let warm = tempfile::tempdir().unwrap();
    let rows = exercises::read(&dir.path().join("train.jsonl")).unwrap();
    let easy: Vec<_> = rows.into_iter().filter(|r| r.category == llm_data::exercises::Category::Comparison).take(4).collect();
    exercises::write(&dir.path().join("train.jsonl"), &easy).unwrap();
    sft(SftConfig { batch_size: 4, trainer: steps(70, 5e-3), ..sft_config(dir.path()) }, warm.path()).unwrap();
    let config = GrpoConfig {
        model: warm.path().join("model"),
        train: dir.path().join("train.jsonl"),
        prompts_per_step: 16,
        max_tokens: 30,
        kl_beta: 0.01,
        device: DeviceSpec::Cpu,
        trainer: steps(30, 1e-3),
        ..GrpoConfig::default()
    };
    grpo(config, out.path()).unwrap();
    let rewards: Vec<f64> = Metrics::read(out.path().join("metrics.jsonl")).unwrap().iter().map(|r| r["reward"].as_f64().unwrap()).collect();
    let mean = |r: &[f64]| r.iter().sum::<f64>() / r.len() as f64;
    let (first, last) = (mean(&rewards[..4]), mean(&rewards[rewards.len() - 4..]));
    assert!(first > 0.0, "the warm-up must give right answers now and then: {rewards:?}");
    assert!(last > first + 0.1 || last > 0.95, "{rewards:?}");
}

#[test]
fn two_runs_of_one_configuration_end_with_the_same_weights() {
    let dir = workshop();
    let run = |out: &Path| sft(SftConfig { trainer: steps(6, 5e-3), ..sft_config(dir.path()) }, out);
    let (whole, again) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(whole.path()).unwrap();
    run(again.path()).unwrap();
    assert_eq!(weights(again.path()), weights(whole.path()));

    let config = GrpoConfig {
        model: whole.path().join("model"),
        train: dir.path().join("train.jsonl"),
        prompts_per_step: 3,
        max_tokens: 20,
        device: DeviceSpec::Cpu,
        trainer: steps(3, 1e-3),
        ..GrpoConfig::default()
    };
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    grpo(config.clone(), a.path()).unwrap();
    grpo(config, b.path()).unwrap();
    assert_eq!(weights(a.path()), weights(b.path()), "rollouts are not a function of seed and step");
}

#[test]
fn bad_input_is_named() {
    let dir = workshop();
    let out = tempfile::tempdir().unwrap();
    let message = sft(SftConfig { train: "nowhere.jsonl".into(), ..sft_config(dir.path()) }, out.path()).unwrap_err().to_string();
    assert!(message.contains("nowhere.jsonl"), "{message}");
    let message = sft(SftConfig { model: Default::default(), ..sft_config(dir.path()) }, out.path()).unwrap_err().to_string();
    assert!(message.contains("--set model="), "{message}");
    std::fs::write(dir.path().join("broken.jsonl"), "{\"id\": 1\n").unwrap();
    let message = sft(SftConfig { train: dir.path().join("broken.jsonl"), ..sft_config(dir.path()) }, out.path()).unwrap_err().to_string();
    assert!(message.contains("broken.jsonl") && message.contains('1'), "{message}");
}
