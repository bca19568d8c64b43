//! The real `llm-train` on a tiny model, to be killed and damaged.

#![allow(dead_code, reason = "each test file uses a part")]

use super::packed;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub const STEPS: u64 = 60;
pub const EVERY: u64 = 4;

/// Shards, tokenizer and configuration of a short training.
pub struct Workshop {
    pub dir: tempfile::TempDir,
    /// `KEY=VALUE` for every run.
    pub sets: Vec<String>,
}

impl Workshop {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lines = ["fn größe() { vec![1, 2, 3] }\n", "The loop saves what it has learned. ", "Der Strom fällt aus. ", "0 1 2 3 4 5 6 7 8 9\n"];
        packed(dir.path(), 60, 6, |i| lines[i % 4].repeat(4 + i % 9));
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "train = \"{}\"\nheldout = \"{}\"\ntokenizer = \"{}\"\nbatch_size = 4\nmicro_batch_size = 2\neval_rows = 4\nseed = 5\ndevice = \"cpu\"\n\
             model = {{ hidden_size = 32, num_hidden_layers = 2, num_attention_heads = 4, num_key_value_heads = 2, intermediate_size = 64, max_position_embeddings = 32 }}\n\
             [trainer]\nmax_steps = {STEPS}\neval_every = 20\ncheckpoint_every = {EVERY}\nkeep_checkpoints = 2\nschedule = {{ warmup_steps = 5 }}\n",
            at("pack/train"),
            at("pack/heldout"),
            at("tokenizer")
        );
        fs::write(dir.path().join("config.toml"), config).unwrap();
        Self { dir, sets: Vec::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `wrapper` precedes the program, e.g. a shell with a limit; empty is none.
    pub fn command(&self, wrapper: &[&str], out: &Path) -> Command {
        let program = env!("CARGO_BIN_EXE_llm-train");
        let mut command = match wrapper.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.arg("pretrain").arg("--config").arg(self.path("config.toml")).arg("--out").arg(out).env("RAYON_NUM_THREADS", "1");
        for set in &self.sets {
            command.arg("--set").arg(set);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, out: &Path) -> Output {
        self.command(&[], out).output().unwrap()
    }

    /// Started, with what it says in a file beside `out`.
    pub fn start(&self, out: &Path) -> Child {
        let said = fs::File::create(said(out)).unwrap();
        self.command(&[], out).stderr(said).stdout(Stdio::null()).spawn().unwrap()
    }

    /// What an undisturbed run in `name` leaves.
    pub fn calm(&self, name: &str) -> Result {
        let output = self.run(&self.path(name));
        assert!(output.status.success(), "{}", stderr(&output));
        Result::of(&self.path(name))
    }
}

fn said(out: &Path) -> PathBuf {
    out.with_extension("stderr")
}

pub fn read_said(out: &Path) -> String {
    fs::read_to_string(said(out)).unwrap_or_default()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap().success());
}

/// Poll until `done`, at most `seconds`.
pub fn wait_until(seconds: u64, what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(seconds), "{what}: not within {seconds} s");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What must not depend on when a run was interrupted: numbers of every step, in order, and the files of the model.
#[derive(PartialEq)]
pub struct Result {
    pub records: Vec<Map<String, Value>>,
    pub model: BTreeMap<String, Vec<u8>>,
}

impl Result {
    pub fn of(out: &Path) -> Self {
        // Times, rates and memory are left out. The rest is compared as JSON numbers, which Rust prints so that no two floats look alike.
        let mut records = llm_run::Metrics::read(out.join("metrics.jsonl")).unwrap();
        let timed = |key: &str| key.contains("second") || key.starts_with("memory_");
        records.iter_mut().for_each(|r| *r = std::mem::take(r).into_iter().filter(|(key, _)| !timed(key)).collect());
        let files = llm_run::atomic::walk(&out.join("model")).unwrap();
        let model = files.into_iter().map(|p| (p.strip_prefix(out).unwrap().display().to_string(), fs::read(&p).unwrap())).collect();
        Self { records, model }
    }

    pub fn assert_equal(&self, calm: &Result, when: &str) {
        for (i, (ours, theirs)) in self.records.iter().zip(&calm.records).enumerate() {
            assert_eq!(ours, theirs, "{when}: record {i} of metrics.jsonl");
        }
        assert_eq!(self.records.len(), calm.records.len(), "{when}: records in metrics.jsonl");
        let names = |r: &Result| r.model.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(self), names(calm), "{when}: files of the model");
        let differ: Vec<_> = self.model.iter().filter(|(name, bytes)| calm.model[*name] != **bytes).map(|(name, _)| name).collect();
        assert!(differ.is_empty(), "{when}: other bytes in {differ:?}");
    }
}

/// Steps of the checkpoints that are visible; each must be whole, by the checksums that it holds itself.
pub fn whole_checkpoints(out: &Path) -> Vec<u64> {
    let dir = out.join("checkpoints");
    let steps = llm_train::checkpoint::steps(&dir);
    for step in &steps {
        let folder = dir.join(format!("step-{step:08}"));
        let text =
            fs::read_to_string(folder.join("trainer.json")).unwrap_or_else(|e| panic!("{} is visible without trainer.json: {e}", folder.display()));
        let state: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(state["step"].as_u64(), Some(*step));
        let checksums = state["checksums"].as_object().unwrap();
        assert!(checksums.len() >= 3, "{text}");
        for (name, expected) in checksums {
            let found = llm_run::hash::path(folder.join(name)).unwrap();
            assert_eq!(expected.as_str(), Some(found.as_str()), "{}/{name} is visible and half written", folder.display());
        }
    }
    steps
}
