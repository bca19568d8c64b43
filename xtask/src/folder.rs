//! A run folder as the report, the summary and the chat read it: whatever is there, finished or not, never an error
//! because something is missing. Only files in the folder are read.

use crate::machine::Machine;
use crate::programs;
use crate::recipe::Recipe;
use crate::stamp::{DONE, RUNNING, Stamp};
use anyhow::{Result, bail};
use llm_run::Metrics;
use llm_run::run::Manifest;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A run.
#[derive(Debug, Default)]
pub struct RunFolder {
    /// The folder.
    pub dir: PathBuf,
    /// The recipe it was made by; stages run by hand have none.
    pub recipe: Option<Recipe>,
    /// The machine it was made on.
    pub machine: Option<Machine>,
    /// In running order.
    pub stages: Vec<StageView>,
}

/// How far a stage came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It has a manifest that says finished.
    Finished,
    /// It has a folder.
    Started,
    /// Nothing yet.
    Waiting,
}

/// One stage.
#[derive(Debug)]
pub struct StageView {
    /// Folder name.
    pub id: String,
    /// One line for people.
    pub title: String,
    /// Subcommand: what kind of stage it is.
    pub command: String,
    /// How far it came.
    pub progress: Progress,
    /// The program's manifest.
    pub manifest: Option<Manifest>,
    /// The pipeline's stamp.
    pub stamp: Option<Stamp>,
    /// Text of its configuration file.
    pub config: String,
    /// What it printed.
    pub log: String,
    /// Lines of `metrics.jsonl`.
    pub metrics: Vec<Map<String, Value>>,
    /// `funnel.json`.
    pub funnel: Option<Value>,
    /// `fertility.json`.
    pub fertility: Option<Value>,
    /// `results.json`.
    pub results: Option<Results>,
    /// `calibration.json` of a reward model.
    pub calibration: Option<Value>,
}

/// `results.json` of an evaluation.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Results {
    /// Path, hash and id of the model.
    pub model: Value,
    /// Task name -> its result.
    pub tasks: BTreeMap<String, Task>,
    /// Some prompts with what the model answered.
    pub samples: Vec<Sample>,
}

/// One measured number.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Task {
    /// `exact_match`, `bits_per_byte`, ...
    pub metric: String,
    /// The number.
    pub value: Option<f64>,
    /// Samples it was measured on.
    pub n: Option<u64>,
    /// 95 % confidence interval.
    pub ci95: Option<[f64; 2]>,
    /// `language` or `category` on slices of another task.
    pub group: Option<String>,
    /// What guessing the most frequent answer would reach.
    pub majority: Option<f64>,
    /// Values per domain.
    pub by_domain: BTreeMap<String, Value>,
}

/// A prompt and an answer.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// Task name.
    pub task: String,
    /// Item id.
    pub id: String,
    /// Language.
    pub lang: String,
    /// Kind of item.
    pub category: String,
    /// What was asked: text, or messages.
    pub prompt: Value,
    /// The visible answer.
    pub response: Option<String>,
    /// What was thought before it.
    pub reasoning: Option<String>,
    /// The expected answer.
    pub gold: Value,
    /// Whether it was right.
    pub correct: Option<bool>,
}

impl Sample {
    /// The question as text.
    pub fn question(&self) -> String {
        match &self.prompt {
            Value::Array(messages) => messages.iter().filter_map(|m| m.get("content").and_then(Value::as_str)).collect::<Vec<_>>().join("\n"),
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        }
    }

    /// The gold answer as text.
    pub fn expected(&self) -> String {
        match &self.gold {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

/// The models of a run and what evaluation says about them: `Base`, `SFT`, `GRPO`, ...
#[derive(Debug)]
pub struct Evaluated<'a> {
    /// What the model is called.
    pub label: String,
    /// The stage that made it, if it is one of this run.
    pub maker: Option<&'a str>,
    /// Its results.
    pub results: &'a Results,
}

impl RunFolder {
    /// Read a folder.
    pub fn open(dir: &Path) -> Result<Self> {
        if !dir.is_dir() {
            bail!("{}: no such run folder; `cargo xtask quickstart` makes one", dir.display());
        }
        let recipe = fs::read_to_string(dir.join("recipe.toml")).ok().and_then(|text| Recipe::parse(&text, "recipe.toml").ok());
        let machine = json(&dir.join("machine.json"));
        let mut stages: Vec<StageView> = Vec::new();
        for stage in recipe.iter().flat_map(|r| &r.stages) {
            stages.push(StageView::open(dir, &stage.id, &stage.title, &stage.command));
        }
        let mut others: Vec<StageView> = Vec::new();
        for entry in fs::read_dir(dir)?.flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            let stage_like = ["manifest.json", "metrics.jsonl", "results.json", "funnel.json"].iter().any(|f| entry.path().join(f).exists());
            if stage_like && !stages.iter().any(|s| s.id == id) {
                others.push(StageView::open(dir, &id, "", ""));
            }
        }
        others.sort_by_key(|s| (s.started_at().unwrap_or(u64::MAX), s.id.clone()));
        stages.extend(others);
        if recipe.is_none() && stages.is_empty() {
            bail!("{}: no stage in this folder; expected a run folder such as runs/quickstart", dir.display());
        }
        Ok(Self { dir: dir.to_path_buf(), recipe, machine, stages })
    }

    /// The name of the run.
    pub fn name(&self) -> String {
        self.recipe.as_ref().map_or_else(|| self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned(), |r| r.name.clone())
    }

    /// The first stage of a kind.
    pub fn stage(&self, command: &str) -> Option<&StageView> {
        self.stages.iter().find(|s| s.command == command)
    }

    /// Evaluations in order, labelled by the stage that made the model.
    pub fn evaluated(&self) -> Vec<Evaluated<'_>> {
        let mut found: Vec<Evaluated<'_>> = Vec::new();
        for stage in &self.stages {
            let Some(results) = &stage.results else {
                continue;
            };
            let maker = self.maker(stage, results);
            found.push(Evaluated { label: self.label(stage, maker), maker: maker.map(|m| m.id.as_str()), results });
        }
        found
    }

    fn maker(&self, stage: &StageView, results: &Results) -> Option<&StageView> {
        let path = stage
            .manifest
            .as_ref()
            .and_then(|m| m.config.get("model"))
            .or_else(|| results.model.get("path"))
            .and_then(Value::as_str)
            .unwrap_or_default();
        path.split('/').rev().find_map(|part| self.stages.iter().find(|s| s.id == part))
    }

    fn label(&self, stage: &StageView, maker: Option<&StageView>) -> String {
        let alone = |command: &str| self.stages.iter().filter(|s| s.command == command).count() == 1;
        match maker.map(|m| (m.command.as_str(), m.id.as_str())) {
            Some(("pretrain", _)) if alone("pretrain") => "Base".to_string(),
            Some(("sft", _)) if alone("sft") => "SFT".to_string(),
            Some(("grpo", _)) if alone("grpo") => "GRPO".to_string(),
            Some((_, id)) => id.to_string(),
            None => stage.id.clone(),
        }
    }

    /// Wall time of all stages.
    pub fn wall_seconds(&self) -> f64 {
        self.stages.iter().filter_map(StageView::wall_seconds).sum()
    }

    /// The largest peak memory of any stage.
    pub fn peak_memory(&self) -> Option<u64> {
        self.stages.iter().filter_map(StageView::peak_memory).max()
    }

    /// Held-out bits per byte at the first and the last validation of pre-training.
    pub fn bits_per_byte(&self) -> Option<(f64, f64)> {
        let values: Vec<f64> = self.stage("pretrain")?.metrics.iter().filter_map(|m| m.get("val_bits_per_byte").and_then(Value::as_f64)).collect();
        Some((*values.first()?, *values.last()?))
    }

    /// A measured value of any evaluation, the first that has it.
    pub fn task(&self, name: &str) -> Option<f64> {
        self.stages.iter().filter_map(|s| s.results.as_ref()).find_map(|r| r.tasks.get(name)?.value)
    }
}

impl StageView {
    fn open(run: &Path, id: &str, title: &str, command: &str) -> Self {
        let dir = run.join(id);
        let manifest: Option<Manifest> = json(&dir.join("manifest.json"));
        let done = Stamp::read(&dir.join(DONE));
        let progress = match (&manifest, &done) {
            (Some(m), _) if m.finished && !dir.join(RUNNING).exists() => Progress::Finished,
            (_, Some(_)) => Progress::Finished,
            _ if dir.exists() => Progress::Started,
            _ => Progress::Waiting,
        };
        let stamp = done.or_else(|| Stamp::read(&dir.join(RUNNING)));
        let command = if command.is_empty() { manifest.as_ref().map_or(String::new(), |m| m.command.clone()) } else { command.to_string() };
        let title = stamp.as_ref().map(|s| s.title.clone()).filter(|t| !t.is_empty()).unwrap_or_else(|| title.to_string());
        Self {
            id: id.to_string(),
            title,
            command,
            progress,
            stamp,
            config: fs::read_to_string(run.join("configs").join(format!("{id}.toml"))).unwrap_or_default(),
            log: fs::read_to_string(run.join("logs").join(format!("{id}.txt"))).unwrap_or_default(),
            metrics: Metrics::read(dir.join("metrics.jsonl")).unwrap_or_default(),
            funnel: json(&dir.join("funnel.json")),
            fertility: json(&dir.join("fertility.json")),
            results: json(&dir.join("results.json")).or_else(|| judged(manifest.as_ref()?)),
            calibration: json(&dir.join("calibration.json")),
            manifest,
        }
    }

    /// Wall time over all attempts.
    pub fn wall_seconds(&self) -> Option<f64> {
        self.stamp.as_ref().map(|s| s.wall_seconds).or_else(|| self.manifest.as_ref().map(|m| m.wall_seconds))
    }

    /// Peak memory in bytes.
    pub fn peak_memory(&self) -> Option<u64> {
        self.manifest.as_ref().and_then(|m| m.peak_memory_bytes).or_else(|| self.stamp.as_ref().and_then(|s| s.peak_memory_bytes))
    }

    /// The call, as typed.
    pub fn command_line(&self) -> Vec<String> {
        self.stamp.as_ref().map(|s| s.command_line.clone()).or_else(|| self.manifest.as_ref().map(|m| m.command_line.clone())).unwrap_or_default()
    }

    fn started_at(&self) -> Option<u64> {
        self.stamp.as_ref().map(|s| s.started_at).or_else(|| self.manifest.as_ref().map(|m| m.started_at))
    }
}

/// What `llm-align judge` measured, among the evaluations.
fn judged(manifest: &Manifest) -> Option<Results> {
    let measured = |name: &str, pointer: &str, metric: &str| {
        let value = manifest.summary.pointer(pointer)?;
        let ci95 = value.get("ci95").and_then(|ci| serde_json::from_value(ci.clone()).ok());
        let task = Task { metric: metric.to_string(), value: value.get("mean")?.as_f64(), n: value.get("n")?.as_u64(), ci95, ..Task::default() };
        Some((name.to_string(), task))
    };
    if manifest.command != "judge" {
        return None;
    }
    let mut tasks: Vec<(String, Task)> = [
        ("reward", "/reward", "mean of the answers"),
        ("KL to the reference", "/kl", "nats per answer"),
        ("length", "/length", "tokens per answer"),
        ("entropy", "/entropy", "nats per token"),
        ("ended", "/ended", "share of the answers"),
    ]
    .into_iter()
    .filter_map(|(name, pointer, metric)| measured(name, pointer, metric))
    .collect();
    let parts = manifest.summary.get("rewards").and_then(Value::as_object).filter(|parts| parts.len() > 1);
    tasks.extend(
        parts.into_iter().flatten().filter_map(|(name, _)| measured(&format!("reward {name}"), &format!("/rewards/{name}"), "mean of the answers")),
    );
    Some(Results { tasks: tasks.into_iter().collect(), ..Results::default() })
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
}

/// The folder of runs.
pub fn runs() -> PathBuf {
    programs::short(&programs::root().join("runs"))
}

/// A run given as a path or as a name below `runs/`; the newest when nothing is given.
pub fn find(run: Option<&Path>) -> Result<PathBuf> {
    if let Some(run) = run {
        let below = runs().join(run);
        return Ok(if !run.exists() && below.exists() { below } else { run.to_path_buf() });
    }
    match newest()?.into_iter().next() {
        Some(dir) => Ok(dir),
        None => bail!("no run in {} yet; `cargo xtask quickstart` makes one", runs().display()),
    }
}

/// All runs, the newest first.
pub fn newest() -> Result<Vec<PathBuf>> {
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(runs()).into_iter().flatten().flatten() {
        if let Ok(time) = fs::metadata(entry.path().join("recipe.toml")).and_then(|m| m.modified()) {
            found.push((time, entry.path()));
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found.into_iter().map(|(_, dir)| dir).collect())
}
