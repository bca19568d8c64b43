//! Dial, sweep and scaling on real runs of the program. If this fails, a night of runs ends with nothing to show.

mod common;

use common::packed;
use llm_train::dial::{self, Dial, shape::Count};
use llm_train::pretrain::pretrain;
use llm_train::scaling::points::{Reading, read};
use llm_train::sweep::results::Status;
use llm_train::sweep::{Execution, Results, Spec, plan, report};
use std::cell::Cell;
use std::path::Path;
use std::process::Command;

fn data(dir: &Path) {
    packed(dir, 60, 8, |i| format!("Die Sonne scheint über Ort {i}. {}", "The sun shines on every place. ".repeat(3 + i % 5)));
}

/// A configuration of a few small steps over the data in `dir`.
fn base(dir: &Path) -> String {
    let path = |name: &str| dir.join(name).display().to_string();
    format!(
        "train = {:?}\nheldout = {:?}\ntokenizer = {:?}\ndevice = \"cpu\"\nbatch_size = 4\nmicro_batch_size = 4\neval_rows = 4\n\
         trainer = {{ max_steps = 4, eval_every = 2, checkpoint_every = 0 }}\n\
         model = {{ hidden_size = 16, intermediate_size = 32, num_hidden_layers = 1, num_attention_heads = 2, num_key_value_heads = 1 }}\n",
        path("pack/train"),
        path("pack/heldout"),
        path("tokenizer")
    )
}

#[test]
fn a_model_of_a_depth_trains() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path());
    let text = base(dir.path());
    let text: String = text.lines().filter(|l| !l.starts_with("model") && !l.starts_with("batch_size")).map(|l| format!("{l}\n")).collect();
    let file = dir.path().join("base.toml");
    std::fs::write(&file, text).unwrap();
    let (config, choice) = dial::load(Some(&file), &[], Dial { depth: Some(2), ..Dial::default() }, None).unwrap();
    let choice = choice.unwrap();
    assert_eq!((config.model.num_hidden_layers, config.model.hidden_size, config.trainer.max_steps), (2, 128, 4));
    assert!(choice.available_tokens.unwrap() > 0 && choice.epochs.unwrap() > 0.0, "{choice:?}");
    let outcome = pretrain(config, &dir.path().join("out"), "depth 2").unwrap();
    assert_eq!(outcome.model.num_parameters(), choice.parameters, "the table says how large the model is");
    assert!(outcome.loss.is_finite() && outcome.validations.len() == 2);
}

#[test]
fn a_sweep_ranks_counts_what_fails_and_repeats_nothing() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path());
    std::fs::write(dir.path().join("base.toml"), base(dir.path())).unwrap();
    let file = dir.path().join("sweep.toml");
    std::fs::write(&file, "config = \"base.toml\"\nseeds = 2\n[grid]\n\"trainer.optimizer.lr\" = [1e-3, 1e38]").unwrap();
    let spec = Spec::read(&file).unwrap();
    let runs = plan(&spec).unwrap();
    let out = dir.path().join("out");
    let execution = Execution { spec: &spec, runs: &runs, out: &out, executable: env!("CARGO_BIN_EXE_llm-train").into(), jobs: 2 };
    let results = execution.run(&|_| Ok(())).unwrap();
    assert_eq!((results.count(Status::Finished), results.count(Status::Diverged)), (2, 2), "{:?}", results.runs);
    let best = &results.ranking[0];
    assert!(best.mean.unwrap().is_finite() && best.std.unwrap() > 0.0 && best.finished == 2 && best.settings["trainer.optimizer.lr"] == 1e-3);
    assert_eq!(results.ranking[1].failed, 2);
    assert!(report::text(&results).contains("training diverged") && report::html(&results, "x").contains("<svg"));

    let written = |name: &str| std::fs::metadata(out.join("runs").join(name).join("manifest.json")).and_then(|m| m.modified()).ok();
    let before: Vec<_> = runs.iter().map(|r| written(&r.name)).collect();
    let again: Results = execution.run(&|_| panic!("nothing is left to do")).unwrap();
    assert_eq!((again, runs.iter().map(|r| written(&r.name)).collect::<Vec<_>>()), (results, before));

    let points = read(&[&out], &Reading { metric: "val_loss".into(), count: Count::Matmul }).unwrap();
    assert_eq!(points.len(), 2);
    assert!(points.iter().all(|p| p.tokens == 4.0 * 4.0 * 32.0 && p.flops > 6.0 * p.parameters * p.tokens), "{points:?}");
}

/// If this fails, Ctrl-C loses what was trained, or a child goes on alone.
#[cfg(unix)]
#[test]
fn an_interrupted_sweep_saves_its_run_and_continues() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path());
    let long = base(dir.path()).replace("max_steps = 4, eval_every = 2", "max_steps = 100000, eval_every = 0");
    std::fs::write(dir.path().join("base.toml"), long).unwrap();
    let file = dir.path().join("sweep.toml");
    std::fs::write(&file, "config = \"base.toml\"\n[grid]\nseed = [1, 2]").unwrap();
    let out = dir.path().join("out");
    let mut sweep = Command::new(env!("CARGO_BIN_EXE_llm-train")).arg("sweep").arg(&file).arg("--out").arg(&out).spawn().unwrap();
    let runs = plan(&Spec::read(&file).unwrap()).unwrap();
    let metrics = out.join("runs").join(&runs[0].name).join("metrics.jsonl");
    let steps = || std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count());
    let waited = Cell::new(0);
    while steps() < 3 && waited.replace(waited.get() + 1) < 1200 {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let pid = nix::unistd::Pid::from_raw(sweep.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(sweep.wait().unwrap().code(), Some(130));
    let saved = llm_train::checkpoint::steps(&out.join("runs").join(&runs[0].name).join("checkpoints"));
    assert!(saved.len() == 1 && saved[0] >= 3, "{saved:?}");
    assert!(!out.join("runs").join(&runs[1].name).exists(), "the second run was not started");
    let still = steps();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(steps(), still, "nobody trains on");
}
