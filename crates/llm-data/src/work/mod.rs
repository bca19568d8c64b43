//! One stage over many objects on many machines: from sources through a list of steps to documents, unit by unit.
//!
//! | module | what |
//! |---|---|
//! | [`mod@unit`] | the plan: which objects and which ranges of them are unit 0, 1, 2, ... |
//! | [`input`](mod@input) | the documents of one unit |
//! | [`record`] | the identity of a unit and the record that says it is complete |
//! | [`run`] | one unit; one rank |
//! | [`finish`](mod@finish) | all units are complete: funnel and manifest of the whole |
//! | [`signals`] | the measured values of a unit's documents |
//! | [`meter`] | how fast it goes, for people and for the launcher |
//!
//! Nothing coordinates the ranks. Each makes the same plan, takes every `world_size`-th unit of it, and names what it writes by the
//! number of the unit, so any number of ranks writes the same bytes. A unit counts as complete when its record exists, the record's
//! identity is the one that input, settings and program have now, and the files it names are there. The identity is a BLAKE3 of all
//! three; so a rerun does exactly what is missing or changed, and never takes an old result for a new one. The record is written
//! last and only if there is none (one of two processes at the same unit wins, and both have computed the same bytes).

pub mod finish;
pub mod input;
pub mod meter;
pub mod record;
pub mod run;
pub mod signals;
pub mod unit;

use crate::error::{Error, Result};
use crate::read::paths::PathsConfig;
use crate::store::Location;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use toml::{Table, Value};

pub use finish::{Finished, finish};
pub use meter::Shown;
pub use run::{Report, process};

/// Configuration of `llm-data process`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessConfig {
    /// Files, folders, objects and prefixes, in this order: paths or `s3://`, `gs://`, `az://` addresses.
    pub input: Vec<String>,
    /// How rows and files become documents; `include` and `exclude` work on labels as in `llm-data read`, but `include` is `input` here.
    pub paths: PathsConfig,
    /// Size of a unit: larger objects are split where their format allows, smaller ones go together.
    pub unit_bytes: u64,
    /// Store every measured value of every document in `signals/`.
    pub signals: bool,
    /// Keep what `pii` steps replace in `private/`, so that `llm-data unredact` can put it back. Unset: on a disk, where only its owner can
    /// read it, but not in a bucket, where it would lie as open as the documents.
    pub reversible: Option<bool>,
    /// Benchmark files and folders whose text has to go; `llm-data process` fills in `$LLM_BENCHMARKS`. Without a `decontaminate` step in
    /// `step` one is put before the first `pii` or `redact`, or at the end.
    pub benchmarks: Vec<PathBuf>,
    /// Units at a time; 0: as many as there are processors.
    pub threads: usize,
    /// What is done to each document, in this order: `[[step]] kind = "..."` and the step's own settings.
    pub step: Vec<Table>,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self {
            input: Vec::new(),
            paths: PathsConfig::default(),
            unit_bytes: 64 << 20,
            signals: false,
            reversible: None,
            benchmarks: Vec::new(),
            threads: 0,
            step: Vec::new(),
        }
    }
}

fn is_kind(step: &Table, kind: &str) -> bool {
    step.get("kind").and_then(Value::as_str) == Some(kind)
}

impl ProcessConfig {
    /// The steps in their order, with the one that the benchmarks ask for.
    pub fn steps(&self) -> Vec<Table> {
        let mut steps = self.step.clone();
        if self.benchmarks.is_empty() || steps.iter().any(|s| is_kind(s, "decontaminate")) {
            return steps;
        }
        let files = self.benchmarks.iter().map(|b| Value::String(b.to_string_lossy().into_owned()));
        let build = Table::from_iter([("benchmarks".to_string(), Value::Array(files.collect()))]);
        let step = Table::from_iter([("kind".to_string(), Value::String("decontaminate".into())), ("build".to_string(), Value::Table(build))]);
        let at = steps.iter().position(|s| is_kind(s, "pii") || is_kind(s, "redact")).unwrap_or(steps.len());
        steps.insert(at, step);
        steps
    }

    /// True when what is evaluated later is looked for.
    pub fn decontaminates(&self) -> bool {
        self.steps().iter().any(|s| is_kind(s, "decontaminate"))
    }

    /// True when what is replaced is kept beside the documents.
    pub fn keeps_replaced(&self, out: &Location) -> bool {
        self.reversible.unwrap_or(out.as_local().is_some()) && self.step.iter().any(|s| is_kind(s, "pii"))
    }

    /// What no type can refuse.
    pub fn check(&self) -> Result<()> {
        let wrong = |message: &str| Err(Error::Config(message.to_string()));
        if self.input.is_empty() {
            return wrong("input is empty; name at least one file, folder or prefix, e.g. --set 'input=[\"s3://bucket/crawl\"]'");
        }
        if !self.paths.include.is_empty() {
            return wrong("paths.include belongs to `llm-data read`; put the addresses into `input`");
        }
        if self.unit_bytes < 1 << 10 {
            return wrong("unit_bytes must be at least 1024; 67108864 is a good size");
        }
        Ok(())
    }
}

/// Name of a unit's file of one kind: `documents/part-000007.parquet`.
pub fn output_name(kind: &str, unit: usize) -> String {
    let extension = if kind == "dropped" { "jsonl" } else { "parquet" };
    format!("{kind}/part-{unit:06}.{extension}")
}
