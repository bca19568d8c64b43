//! The GRPO family on a tiny model: every algorithm raises a simple reward, everything is a function of the seed, and a run that is killed
//! between two updates of one batch of rollouts continues to the bit.

mod tiny;

use llm_align::grpo::Algorithm;
use llm_align::rollouts::{Rollout, token_log_probs};
use llm_align::{GrpoConfig, grpo};
use llm_arch::hf;
use llm_data::exercises::{self, ExercisesConfig};
use llm_infer::{Engine, EngineConfig, Model, Request, Sampling};
use llm_run::{Metrics, Seed};
use llm_tensor::burn::tensor::Device;
use llm_tensor::host;
use llm_tensor::kernels::RowInvariant;
use llm_tokenizer::Tokenizer;
use llm_train::sequences::{Sequence, Sequences};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A folder with `model/` (random weights, a tokenizer trained on exercises) and `train.jsonl`.
fn workshop() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let rows = exercises::generate(&ExercisesConfig { count_train: 60, count_heldout: 10, ..ExercisesConfig::default() }).unwrap().train;
    exercises::write(&dir.path().join("train.jsonl"), &rows).unwrap();
    let texts: Vec<String> = rows.iter().flat_map(|r| r.messages.iter().map(|m| m.content.clone())).collect();
    tiny::save(&dir.path().join("model"), &texts, 400, tiny::config());
    dir
}

/// Short answers that should contain an `e`, as about every third of the random model does; settings in the form of `--set`.
fn config(dir: &Path, sets: &[&str]) -> GrpoConfig {
    let common = [
        "prompts_per_step=6",
        "group_size=6",
        "max_tokens=4",
        "device=cpu",
        r#"rewards=[{ kind = "rule", contains = "e", part = "all" }]"#,
        "trainer.max_steps=12",
        "trainer.eval_every=0",
        "trainer.checkpoint_every=0",
        "trainer.optimizer.lr=1e-2",
        "trainer.optimizer.weight_decay=0.0",
        "trainer.schedule.kind=constant",
        "trainer.schedule.warmup_steps=1",
        "watchdog.enabled=false",
    ];
    let sets: Vec<String> = common.iter().chain(sets).map(|s| s.to_string()).collect();
    GrpoConfig { model: dir.join("model"), train: dir.join("train.jsonl"), ..llm_run::config::load(None, &sets).unwrap() }
}

fn weights(out: &Path) -> String {
    llm_run::hash::path(out.join("model/model.safetensors")).unwrap()
}

fn records(out: &Path) -> Vec<Map<String, Value>> {
    Metrics::read(out.join("metrics.jsonl")).unwrap()
}

/// A number of every step that has it.
fn series(out: &Path, key: &str) -> Vec<f64> {
    records(out).iter().filter_map(|r| r.get(key)?.as_f64()).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// If this fails, an algorithm of the family does not learn.
#[test]
fn every_algorithm_raises_a_simple_reward() {
    let dir = workshop();
    for algorithm in ["grpo_trl", "grpo", "dr_grpo", "dapo", "gspo", "rloo", "cispo", "sapo"] {
        // Two updates per batch, so that each learns through its own ratio.
        let name = format!("algorithm={algorithm}");
        let sets = [name.as_str(), "updates_per_rollout=2", "prompts_per_step=5", "trainer.max_steps=20", "overlong_buffer=0"];
        let out = tempfile::tempdir().unwrap();
        grpo(config(dir.path(), &sets), out.path()).unwrap();
        let rewards = series(out.path(), "reward");
        let (first, last) = (mean(&rewards[..2]), mean(&rewards[rewards.len() - 4..]));
        assert!(first < 0.75, "{algorithm}: there is nothing to learn: {rewards:?}");
        assert!(last > first + 0.15, "{algorithm}: {rewards:?}");
        assert!(series(out.path(), "entropy").iter().all(|e| *e > 0.0));
    }
}

/// If this fails, rollouts, dynamic sampling or minibatches depend on something else than the seed.
#[test]
fn two_runs_are_one_and_another_seed_is_another() {
    let dir = workshop();
    let sets = ["algorithm=dapo", "minibatches=2", "trainer.max_steps=4", "max_tokens=6"];
    let run = |more: &[&str]| {
        let out = tempfile::tempdir().unwrap();
        grpo(config(dir.path(), &[&sets[..], more].concat()), out.path()).unwrap();
        (weights(out.path()), series(out.path(), "resampled_groups"))
    };
    let (first, second, other) = (run(&[]), run(&[]), run(&["seed=1"]));
    assert_eq!(first, second);
    assert_ne!(first.0, other.0);
}

fn checkpoint(out: &Path, step: u64) -> PathBuf {
    out.join(format!("checkpoints/step-{step:08}"))
}

/// If this fails, a run that is killed between two updates of a batch of rollouts goes on with other answers or other old log-probabilities.
#[test]
fn a_run_killed_between_two_updates_of_a_batch_continues_to_the_bit() {
    let dir = workshop();
    let out = tempfile::tempdir().unwrap();
    let sets =
        ["updates_per_rollout=2", "minibatches=2", "kl_beta=0.05", "trainer.max_steps=7", "trainer.checkpoint_every=1", "trainer.keep_checkpoints=9"];
    let run = || grpo(config(dir.path(), &sets), out.path()).map(drop);
    run().unwrap();
    let numbers = |out: &Path| {
        let keys = ["step", "loss", "grad_norm", "reward", "entropy", "kl", "approx_kl", "clip_low", "clip_high"];
        let of = |r: Map<String, Value>| keys.map(|key| r.get(key).cloned());
        records(out).into_iter().map(of).collect::<Vec<_>>()
    };
    let (whole, log) = (weights(out.path()), numbers(out.path()));
    let state = |step| std::fs::read_to_string(checkpoint(out.path(), step).join("trainer.json")).unwrap();
    assert!(state(3).contains("\"rollouts\"") && !state(4).contains("\"rollouts\""), "a batch is kept while updates of it are left");
    for killed in [6, 3, 1] {
        for step in killed + 1..=7 {
            std::fs::remove_dir_all(checkpoint(out.path(), step)).unwrap();
        }
        std::fs::remove_dir_all(out.path().join("model")).unwrap();
        run().unwrap();
        assert_eq!(weights(out.path()), whole, "killed after step {killed}");
        assert_eq!(numbers(out.path()), log, "killed after step {killed}");
    }
    // What cannot be read is said, not drawn again.
    std::fs::remove_dir_all(checkpoint(out.path(), 7)).unwrap();
    std::fs::remove_dir_all(checkpoint(out.path(), 6)).unwrap();
    let damaged = state(5).replacen("\"tokens\": \"", "\"tokens\": \"x ", 1);
    std::fs::write(checkpoint(out.path(), 5).join("trainer.json"), damaged).unwrap();
    let message = run().unwrap_err().to_string();
    assert!(message.contains("rollouts") && message.contains("cannot be read"), "{message}");
}

/// If this fails, the first update of a batch is not on-policy, or the others do not know that they are not.
#[test]
fn the_ratio_is_exactly_one_at_the_first_update() {
    let dir = workshop();
    let out = tempfile::tempdir().unwrap();
    grpo(config(dir.path(), &["updates_per_rollout=3", "trainer.max_steps=6", "trainer.schedule.warmup_steps=0", "kl_beta=0.01"]), out.path())
        .unwrap();
    let moved = series(out.path(), "approx_kl");
    assert_eq!(moved.len(), 6);
    for (step, moved) in moved.iter().enumerate() {
        assert_eq!(*moved == 0.0, step % 3 == 0, "step {step}: {moved}");
    }
    let (low, high, kl) = (series(out.path(), "clip_low"), series(out.path(), "clip_high"), series(out.path(), "kl"));
    assert_eq!((low[0], high[0], low[3], high[3]), (0.0, 0.0, 0.0, 0.0));
    assert!(kl[0].abs() < 1e-6 && kl[5] > 1e-6, "the starting model is the reference: {kl:?}");
}

/// If this fails, groups without signal are trained on though there are others, or what is logged flatters the policy.
#[test]
fn groups_without_signal_are_drawn_again() {
    let dir = workshop();
    let out = tempfile::tempdir().unwrap();
    let sets = ["group_size=2", "prompts_per_step=12", "max_resamples=3", "trainer.max_steps=3"];
    grpo(config(dir.path(), &sets), out.path()).unwrap();
    let (drawn, trained) = (series(out.path(), "groups_with_signal"), series(out.path(), "trained_groups"));
    assert!(mean(&trained) > mean(&drawn) + 0.1, "{drawn:?} {trained:?}");
    assert!(series(out.path(), "resampled_groups").iter().all(|n| *n >= 1.0));
}

/// If this fails, an answer that cannot be graded counts as a wrong one, or nobody is told.
#[test]
fn answers_that_cannot_be_scored_are_counted_with_their_rows() {
    let dir = workshop();
    let out = tempfile::tempdir().unwrap();
    let rows = ["{\"prompt\": \"two and two\", \"answer\": \"4\"}", "{\"prompt\": \"three and three\"}"];
    std::fs::write(dir.path().join("some.jsonl"), rows.join("\n")).unwrap();
    let sets = ["prompts_per_step=2", "trainer.max_steps=1", "rewards=[{ kind = \"math\" }]"];
    let config = GrpoConfig { train: dir.path().join("some.jsonl"), ..config(dir.path(), &sets) };
    grpo(config, out.path()).unwrap();
    let record = &records(out.path())[0];
    assert_eq!(record["unscored"], 6);
    assert_eq!(record["unscored_rows"], serde_json::json!([2]));
}

/// If this fails, rewards are not told apart, or the options that shorten answers and leave cut ones out do not run.
#[test]
fn several_rewards_and_lengths_are_measured() {
    let dir = workshop();
    let rewards = r#"rewards=[{ kind = "rule", contains = "u", part = "all" }, { kind = "rule", contains = "e", part = "all", weight = 10.0 }]"#;
    for combine in ["combine=sum_then_normalize", "combine=normalize_then_sum"] {
        let out = tempfile::tempdir().unwrap();
        let sets = [rewards, combine, "trainer.max_steps=2", "length_penalty=0.1", "max_thinking_tokens=2", "track_kl=true"];
        grpo(config(dir.path(), &sets), out.path()).unwrap();
        let record = &records(out.path())[0];
        let number = |key: &str| record[key].as_f64().unwrap();
        assert!((number("reward") - number("reward/rule") - 10.0 * number("reward/rule#2")).abs() < 1e-5);
        assert!(record.contains_key("thinking_length") && record.contains_key("kl_per_answer"));
    }
    // Nearly all answers of four tokens are cut off.
    let (masked, all) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tokens = |out: &Path| series(out, "tokens")[0];
    grpo(config(dir.path(), &["trainer.max_steps=1", "mask_truncated=true"]), masked.path()).unwrap();
    grpo(config(dir.path(), &["trainer.max_steps=1"]), all.path()).unwrap();
    assert!(tokens(masked.path()) < 0.5 * tokens(all.path()));
}

/// If this fails, an adapter is not what is trained, or the KL is not to the model without it.
#[test]
fn an_adapter_is_trained_against_its_own_base() {
    let dir = workshop();
    let out = tempfile::tempdir().unwrap();
    let sets = ["adapter={ r = 4, lora_alpha = 8 }", "updates_per_rollout=2", "kl_beta=0.01", "trainer.max_steps=4"];
    grpo(config(dir.path(), &sets), out.path()).unwrap();
    assert!(out.path().join("model/adapter_config.json").exists() && !out.path().join("model/model.safetensors").exists());
    let kl = series(out.path(), "kl");
    assert!(kl[0].abs() < 1e-6 && kl[3] > 1e-6, "{kl:?}");
    assert_eq!(series(out.path(), "approx_kl")[2], 0.0);
}

/// If this fails, a validation is missing or differs between two looks at the same weights.
#[test]
fn held_out_prompts_are_answered() {
    let dir = workshop();
    let out = tempfile::tempdir().unwrap();
    let sets = ["trainer.max_steps=2", "trainer.eval_every=1", "heldout_prompts=5", "heldout_samples=4", "trainer.optimizer.lr=1e-12"];
    let config = GrpoConfig { heldout: dir.path().join("train.jsonl"), ..config(dir.path(), &sets) };
    grpo(config, out.path()).unwrap();
    let (greedy, one, four) = (series(out.path(), "val_accuracy"), series(out.path(), "val_pass@1"), series(out.path(), "val_pass@4"));
    assert_eq!(greedy.len(), 3);
    assert!(one[0] <= four[0] && four[0] > 0.0, "{one:?} {four:?}");
    for values in [greedy, one, four] {
        assert!(values.iter().all(|v| *v == values[0]), "nothing was learned: {values:?}");
    }
    let samples = records(out.path()).into_iter().find_map(|r| r.get("samples").cloned()).unwrap();
    assert_eq!(samples.as_array().unwrap().len(), 4);
}

/// If this fails, the engine that draws and the forward that learns are not the same model, and ratios would need a correction.
///
/// The loss never uses the engine's log-probabilities, so the difference measured here is what it would cost to.
#[test]
fn engine_and_training_forward_agree() {
    let dir = workshop();
    let tokenizer = Tokenizer::load(dir.path().join("model")).unwrap();
    let policy = hf::load(dir.path().join("model"), &Device::flex()).unwrap();
    let vocab = policy.config().vocab_size;
    let mut rng = Seed(7).stream("prompts").rng();
    let prompts: Vec<Vec<u32>> = (0..24).map(|i| (0..3 + 5 * (i % 7)).map(|_| rng.below(vocab) as u32).collect()).collect();
    for exact in [true, false] {
        let model = Model::from_parts(policy.clone(), tokenizer.clone(), "policy");
        let mut engine = Engine::new(&model, EngineConfig { exact, ..EngineConfig::default() }).unwrap();
        let sampling = |seed| Sampling { temperature: 1.0, max_tokens: 24, seed, ..Sampling::default() };
        let requests = prompts.iter().enumerate().map(|(i, p)| Request::new(p.clone(), sampling(i as u64))).collect();
        let completions = engine.generate(requests).unwrap();
        // The log-probability of an end token is not among those of the engine.
        let rollouts = prompts.iter().zip(&completions).map(|(p, c)| Rollout { prompt: p.clone(), tokens: c.tokens.clone(), ended: false });
        let sequences: Vec<Sequence> = rollouts.map(|r| r.sequence()).collect();
        let drawn: Vec<f32> = completions.iter().flat_map(|c| c.logprobs.iter().copied()).collect();
        let packed = Sequences::pack(&sequences);
        let tracked = policy.clone().tracked();
        let _rows = exact.then(RowInvariant::begin);
        let learned = host::to_vec(token_log_probs(&tracked, &packed).inner());
        assert_eq!(learned.len(), drawn.len());
        let worst = learned.iter().zip(&drawn).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        eprintln!("engine exact = {exact}: max |log p - log p| = {worst:e} over {} tokens", drawn.len());
        assert!(worst < 2e-5, "exact = {exact}: {worst}");
    }
}

/// If this fails, configurations written before the family of algorithms mean something else now.
#[test]
fn old_keys_and_defaults_are_what_they_were() {
    let sets = ["loss_type=dr_grpo", "scale_rewards=none", "kl_beta=0.1", "micro_batch_tokens=64", "max_batch=8", "temperature=0.9"];
    let old: GrpoConfig = llm_run::config::load(None, &sets.map(String::from)).unwrap();
    assert_eq!((old.algorithm, old.updates(), old.settings().max_resamples), (Algorithm::GrpoTrl, 1, 0));
    let new = GrpoConfig::default();
    assert_eq!((new.prompts_per_step, new.group_size, new.max_tokens, new.micro_batch_tokens, new.max_batch), (32, 8, 96, 2048, 256));
}
