//! What the recipes of alignment must reach. `rlhf.toml`: a reward model that knows the rule, DPO and PPO that raise its rate on held-out
//! prompts without going far from where they started, and a watch-dog that ends the run with a hackable reward and no KL penalty.
//! `grpo.toml`: right answers to held-out exercises, by at most half before and nearly always after, in ten minutes of training.
//!
//! Rates are those of `llm-align judge`, whose numbers are in its manifest; the training's own rewards are not asked.

use super::Bar;
use crate::folder::{Progress, RunFolder, StageView};
use llm_run::progress::human_seconds;
use serde_json::Value;

const LEAST_ACCURACY: f64 = 0.9;
const LEAST_GAIN: f64 = 0.3;
const MOST_KL: f64 = 10.0;
const MOST_BEFORE: f64 = 0.5;
const LEAST_AFTER: f64 = 0.85;
const MOST_SECONDS: f64 = 600.0;

struct Bars(Vec<Bar>);

impl Bars {
    fn of(run: &RunFolder) -> Self {
        let done = run.stages.iter().filter(|s| s.progress == Progress::Finished).count();
        let mut bars = Self(Vec::new());
        bars.add("stages finished", done.to_string(), run.stages.len().to_string(), done == run.stages.len());
        bars
    }

    fn add(&mut self, what: &'static str, measured: String, bar: String, met: bool) {
        self.0.push(Bar { what, measured, bar, met });
    }

    fn least(&mut self, what: &'static str, value: f64, least: f64) {
        self.add(what, format!("{value:.3}"), format!("at least {least:.3}"), value >= least);
    }

    fn most(&mut self, what: &'static str, value: f64, most: f64) {
        self.add(what, format!("{value:.3}"), format!("at most {most:.3}"), value <= most);
    }
}

fn stage<'a>(run: &'a RunFolder, id: &str) -> Option<&'a StageView> {
    run.stages.iter().find(|s| s.id == id)
}

/// A number of the summary of a stage, e.g. `/reward/mean`; no number if it is not there, which meets no bar.
fn summary(run: &RunFolder, id: &str, pointer: &str) -> f64 {
    let manifest = stage(run, id).and_then(|s| s.manifest.as_ref());
    manifest.and_then(|m| m.summary.pointer(pointer)?.as_f64()).unwrap_or(f64::NAN)
}

/// Compare a run of `rlhf.toml` with its bars.
pub fn rlhf(run: &RunFolder) -> Vec<Bar> {
    let mut bars = Bars::of(run);
    let accuracy = stage(run, "reward").and_then(|s| s.metrics.iter().rev().find_map(|r| r.get("val_accuracy")?.as_f64()));
    bars.least("reward model, held out", accuracy.unwrap_or(f64::NAN), LEAST_ACCURACY);
    let rate = |id: &str| summary(run, id, "/reward/mean");
    let before = rate("judge-sft");
    bars.add("rule's rate before", format!("{before:.3}"), "measured".into(), before.is_finite());
    for (id, gain, kl) in [("judge-dpo", "gain of DPO", "KL of DPO, nats"), ("judge-ppo", "gain of PPO", "KL of PPO, nats")] {
        bars.least(gain, rate(id) - before, LEAST_GAIN);
        bars.most(kl, summary(run, id, "/kl/mean"), MOST_KL);
    }
    let halted = |id: &str| stage(run, id).and_then(|s| s.manifest.as_ref()?.summary.get("halted")?.as_str().map(str::to_string));
    // The reason is a sentence; its first words name the alarm.
    let reason = halted("ppo-hacked").map(|r| r.split([',', ':']).next().unwrap_or_default().chars().take(20).collect::<String>());
    bars.add("without KL", reason.clone().unwrap_or("ran to its end".into()), "stopped by watch-dog".into(), reason.is_some());
    let calm = stage(run, "ppo").is_some_and(|s| s.progress == Progress::Finished) && halted("ppo").is_none();
    bars.add("with KL", if calm { "ran to its end" } else { "stopped" }.into(), "runs to its end".into(), calm);
    bars.0
}

/// Compare a run of `grpo.toml` with its bars.
pub fn grpo(run: &RunFolder) -> Vec<Bar> {
    let mut bars = Bars::of(run);
    bars.most("right before", summary(run, "judge-sft", "/reward/mean"), MOST_BEFORE);
    bars.least("right after", summary(run, "judge-grpo", "/reward/mean"), LEAST_AFTER);
    let seconds = stage(run, "grpo").and_then(StageView::wall_seconds).unwrap_or(f64::NAN);
    bars.add("time of GRPO", human_seconds(seconds), "at most 10 min".into(), seconds <= MOST_SECONDS);
    bars.0
}

/// The smallest recipe: every stage did its work.
pub fn small(run: &RunFolder) -> Vec<Bar> {
    let mut bars = Bars::of(run);
    for id in ["judge-sft", "judge-dpo", "judge-ppo"] {
        let answers = stage(run, id).and_then(|s| s.manifest.as_ref()?.summary.pointer("/reward/n").and_then(Value::as_u64));
        bars.add("answers judged", answers.unwrap_or(0).to_string(), format!("some by {id}"), answers.is_some_and(|n| n > 0));
    }
    bars.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    fn put(dir: &Path, stage: &str, summary: Value, seconds: f64) {
        let (command, model) = stage.split_once('-').unwrap_or((stage, ""));
        let config = json!({"model": format!("runs/x/{model}/model")});
        let manifest = json!({"program": "llm-align", "command": command, "version": "0", "command_line": [], "config": config, "seed": 1, "inputs": {},
            "output_hash": "", "summary": summary, "started_at": 1, "wall_seconds": seconds, "peak_memory_bytes": 1, "cpus": 2, "finished": true});
        std::fs::create_dir_all(dir.join(stage)).unwrap();
        std::fs::write(dir.join(stage).join("manifest.json"), manifest.to_string()).unwrap();
    }

    fn missed(dir: &Path, measure: fn(&RunFolder) -> Vec<Bar>) -> Vec<&'static str> {
        measure(&RunFolder::open(dir).unwrap()).into_iter().filter(|b| !b.met).map(|b| b.what).collect()
    }

    fn judged(rate: f64, kl: f64) -> Value {
        json!({"reward": {"mean": rate, "n": 100}, "kl": {"mean": kl, "n": 100}})
    }

    #[test]
    fn each_bar_is_held_and_missed_where_it_should_be() {
        let dir = tempfile::tempdir().unwrap();
        let run = |ppo: f64, kl: f64, accuracy: f64, hacked: Value| {
            put(dir.path(), "reward", json!({}), 1.0);
            std::fs::write(dir.path().join("reward/metrics.jsonl"), format!("{{\"step\":1,\"val_accuracy\":{accuracy}}}\n")).unwrap();
            put(dir.path(), "judge-sft", judged(0.3, 0.0), 1.0);
            put(dir.path(), "judge-dpo", judged(0.7, 3.0), 1.0);
            put(dir.path(), "judge-ppo", judged(ppo, kl), 1.0);
            put(dir.path(), "ppo", json!({"halted": null}), 1.0);
            put(dir.path(), "ppo-hacked", hacked, 1.0);
            missed(dir.path(), rlhf)
        };
        assert_eq!(run(0.8, 2.0, 0.95, json!({"halted": "reward hacking, steps 12 to 16: .."})), Vec::<&str>::new());
        assert_eq!(run(0.5, 11.0, 0.8, json!({})), ["reward model, held out", "gain of PPO", "KL of PPO, nats", "without KL"]);
        assert_eq!(missed(dir.path(), small), Vec::<&str>::new());
    }

    /// If this fails, the report does not show what was judged.
    #[test]
    fn judgements_are_among_the_evaluations() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "dpo", json!({}), 1.0);
        put(dir.path(), "judge-dpo", judged(0.7, 3.0), 1.0);
        let run = RunFolder::open(dir.path()).unwrap();
        let models = run.evaluated();
        assert_eq!(models.len(), 1);
        assert_eq!((models[0].label.as_str(), models[0].results.tasks["reward"].value), ("dpo", Some(0.7)));
        assert_eq!(models[0].results.tasks["KL to the reference"].value, Some(3.0));
    }

    #[test]
    fn grpo_has_ten_minutes() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "judge-sft", judged(0.45, 0.0), 1.0);
        put(dir.path(), "judge-grpo", judged(0.9, 5.0), 1.0);
        put(dir.path(), "grpo", json!({}), 590.0);
        assert_eq!(missed(dir.path(), grpo), Vec::<&str>::new());
        put(dir.path(), "judge-sft", judged(0.55, 0.0), 1.0);
        put(dir.path(), "judge-grpo", judged(0.8, 5.0), 1.0);
        put(dir.path(), "grpo", json!({}), 700.0);
        assert_eq!(missed(dir.path(), grpo), ["right before", "right after", "time of GRPO"]);
    }

    #[test]
    fn a_run_without_numbers_meets_nothing_by_accident() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "sft", json!({}), 1.0);
        let met = |measure: fn(&RunFolder) -> Vec<Bar>| -> Vec<&str> {
            measure(&RunFolder::open(dir.path()).unwrap()).into_iter().filter(|b| b.met).map(|b| b.what).collect()
        };
        assert_eq!(met(rlhf), ["stages finished"]);
        assert_eq!(met(grpo), ["stages finished"]);
    }
}
