//! The memory plan as a user meets it. If this fails, a run is told that it fits and is killed, or a budget buys less than it could.

mod common;

use common::packed;
use llm_run::Metrics;
use llm_train::pretrain::MEMORY_PLAN;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn program(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_llm-train")).args(args).output().unwrap()
}

/// Large enough that tensors, not the program, are most of it. What the allocator keeps differs from run to run, by a tenth and more; a kind
/// of tensor that the plan forgot would be a third. `docs/performance.md` has the measured ratios.
#[test]
fn steps_take_about_what_was_planned() {
    for more in [
        &["--batch", "8"][..],
        &["--batch", "16", "--recompute"],
        &["--batch", "2", "--micro-batches", "2"],
        &["--batch", "8", "--adapter", "base=nf4", "--adapter", "r=8"],
    ] {
        let args = [&["bench", "--length", "256", "--steps", "2", "--warmup", "1", "--json"], more].concat();
        let output = program(&args);
        assert!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("no {key} in {report}"));
        let ratio = number("planned_mib") / number("host_peak_mib");
        assert!((0.75..1.25).contains(&ratio), "{more:?}: planned {ratio} of what was taken: {report}");
    }
}

/// The arguments of a training of a small model in `dir`.
fn training(dir: &Path) -> Vec<String> {
    packed(dir, 60, 6, |i| ["Der Plan steht vor dem ersten Schritt. ", "let plan = MemoryPlan::of(&w, 0.0);\n"][i % 2].repeat(3 + i % 7));
    let path = |name: &str| dir.join(name).display().to_string();
    let mut args = vec!["pretrain".to_string(), "--out".into(), path("out")];
    for set in [
        format!("train={}", path("pack/train")),
        format!("tokenizer={}", path("tokenizer")),
        "device=cpu".into(),
        "batch_size=12".into(),
        "micro_batch_size=5".into(),
        "model.num_hidden_layers=2".into(),
        "trainer.max_steps=2".into(),
        "trainer.eval_every=0".into(),
    ] {
        args.extend(["--set".into(), set]);
    }
    args
}

#[test]
fn a_budget_chooses_the_micro_batch_and_the_plan_is_shown_and_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let training = training(dir.path());
    let run = |more: &[&str]| program(&training.iter().map(String::as_str).chain(more.iter().copied()).collect::<Vec<_>>());
    let output = run(&["--memory-budget", "4GiB"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    for part in ["micro-batches of 12 rows of 32 tokens", "moments", "activations", "peak", "available", "MiB planned"] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    let table = text.lines().skip_while(|l| !l.starts_with("memory of")).take_while(|l| !l.contains("started"));
    assert!(table.clone().count() > 5 && table.into_iter().all(|l| l.chars().count() <= 80), "{text}");
    let metrics = Metrics::read(dir.path().join("out/metrics.jsonl")).unwrap();
    let plans: Vec<&Value> = metrics.iter().filter_map(|record| record.get(MEMORY_PLAN)).collect();
    assert!(plans.len() == 1 && plans[0]["micro_batch_size"] == 12 && plans[0]["recompute"] == "none", "{plans:?}");
    let manifest: Value = serde_json::from_str(&std::fs::read_to_string(dir.path().join("out/manifest.json")).unwrap()).unwrap();
    assert_eq!(&manifest["summary"][MEMORY_PLAN], plans[0]);
}

#[test]
fn an_impossible_budget_is_refused_before_anything_is_trained() {
    let dir = tempfile::tempdir().unwrap();
    let training = training(dir.path());
    for (budget, words) in [("1MiB", "least that works is"), ("much", "512MiB, 8GiB or 2GB")] {
        let output = program(&training.iter().map(String::as_str).chain(["--memory-budget", budget]).collect::<Vec<_>>());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains("memory_budget") && message.contains(words), "{budget}: {message}");
        assert!(!dir.path().join("out/model").exists() && !message.contains("panicked"), "{message}");
    }
}
