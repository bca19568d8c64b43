//! The funnel of a stage: what came in, what went out, and what each step dropped, with examples.
//!
//! `funnel.json` is for the report; `dropped.jsonl` holds one line per dropped document, so that `explain ID` can answer
//! "what happened to this page, and why" for any of them.

use crate::document::Document;
use crate::error::{Result, io};
use llm_run::atomic::{self, AtomicFile};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

const EXAMPLES: usize = 5;
const EXAMPLE_CHARS: usize = 200;

/// The whole record of a stage.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Funnel {
    /// `read`, `filter`, `dedup`, `split`.
    pub stage: String,
    /// Documents looked at.
    pub documents_in: u64,
    /// Documents written.
    pub documents_out: u64,
    /// Text bytes looked at.
    pub bytes_in: u64,
    /// Text bytes written.
    pub bytes_out: u64,
    /// In the order in which they were applied.
    pub steps: Vec<Step>,
    /// Documents written per source collection.
    pub by_source: BTreeMap<String, u64>,
    /// Documents written per language.
    pub by_lang: BTreeMap<String, u64>,
    /// Documents written per licence.
    pub by_license: BTreeMap<String, u64>,
    /// Documents written per domain.
    pub by_domain: BTreeMap<String, u64>,
    /// Text bytes written per domain.
    pub bytes_by_domain: BTreeMap<String, u64>,
    /// Things that were counted but dropped nothing: redactions, damaged records, fallbacks.
    pub counts: BTreeMap<String, u64>,
    /// Sentences for the reader of the report, e.g. a source that was not there.
    pub notices: Vec<String>,
}

/// One step and what it dropped.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Step {
    /// Name, e.g. `language`.
    pub name: String,
    /// Documents dropped.
    pub dropped: u64,
    /// Their bytes.
    pub dropped_bytes: u64,
    /// The first few.
    pub examples: Vec<Drop>,
}

/// Why one document was dropped.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Drop {
    /// The document.
    pub id: String,
    /// The step that dropped it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub step: String,
    /// What was measured: a number, or a text such as the id of the document it duplicates.
    pub value: serde_json::Value,
    /// The limit it broke.
    pub threshold: serde_json::Value,
    /// The beginning of the text.
    pub text: String,
}

/// The first `EXAMPLE_CHARS` characters, line breaks shown as spaces.
pub fn excerpt(text: &str) -> String {
    text.chars().take(EXAMPLE_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_string()
}

/// Collects a [`Funnel`] and writes `dropped.jsonl` as it goes.
#[derive(Debug)]
pub struct FunnelWriter {
    /// The record so far.
    pub funnel: Funnel,
    dropped: AtomicFile,
    dropped_path: std::path::PathBuf,
}

impl FunnelWriter {
    /// Start the record of `stage` in the folder `out`; `steps` fixes their order.
    pub fn create(out: &Path, stage: &str, steps: &[&str]) -> Result<Self> {
        let dropped_path = out.join("dropped.jsonl");
        let steps = steps.iter().map(|name| Step { name: (*name).to_string(), ..Step::default() }).collect();
        let funnel = Funnel { stage: stage.to_string(), steps, ..Funnel::default() };
        Ok(Self { funnel, dropped: AtomicFile::create(&dropped_path)?, dropped_path })
    }

    /// A document (or file) was looked at.
    pub fn input(&mut self, bytes: usize) {
        self.funnel.input(bytes);
    }

    /// A document is written.
    pub fn output(&mut self, document: &Document) {
        self.funnel.output(document);
    }

    /// A document is dropped by `drop.step`.
    pub fn drop(&mut self, drop: Drop, bytes: usize) -> Result<()> {
        self.dropped.write_all(drop.line().as_bytes()).map_err(io(&self.dropped_path, "cannot write"))?;
        self.funnel.drop(drop, bytes);
        Ok(())
    }

    /// Add to a named count.
    pub fn count(&mut self, name: &str, by: u64) {
        self.funnel.count(name, by);
    }

    /// A sentence for the reader; printed to stderr too.
    pub fn notice(&mut self, text: impl Into<String>) {
        let text = text.into();
        eprintln!("{}: {text}", self.funnel.stage);
        self.funnel.notices.push(text);
    }

    /// Write `dropped.jsonl` and `funnel.json` into `out`.
    pub fn finish(self, out: &Path) -> Result<Funnel> {
        self.dropped.commit()?;
        let mut text = serde_json::to_string_pretty(&self.funnel).unwrap_or_default();
        text.push('\n');
        atomic::write(out.join("funnel.json"), text)?;
        Ok(self.funnel)
    }
}

impl Drop {
    /// Its line of `dropped.jsonl`.
    pub fn line(&self) -> String {
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }
}

impl Funnel {
    /// A document (or file) was looked at.
    pub fn input(&mut self, bytes: usize) {
        self.documents_in += 1;
        self.bytes_in += bytes as u64;
    }

    /// A document is written.
    pub fn output(&mut self, document: &Document) {
        let bytes = document.text.len() as u64;
        self.documents_out += 1;
        self.bytes_out += bytes;
        let unknown = || "unknown".to_string();
        *self.by_source.entry(document.source.clone()).or_default() += 1;
        *self.by_lang.entry(document.lang.clone().unwrap_or_else(unknown)).or_default() += 1;
        *self.by_license.entry(document.license.clone().unwrap_or_else(unknown)).or_default() += 1;
        *self.by_domain.entry(document.domain.clone()).or_default() += 1;
        *self.bytes_by_domain.entry(document.domain.clone()).or_default() += bytes;
    }

    /// A document of `bytes` bytes is dropped by `drop.step`.
    pub fn drop(&mut self, drop: Drop, bytes: usize) {
        let step = self.step(&drop.step);
        step.dropped += 1;
        step.dropped_bytes += bytes as u64;
        if step.examples.len() < EXAMPLES {
            step.examples.push(Drop { step: String::new(), ..drop });
        }
    }

    fn step(&mut self, name: &str) -> &mut Step {
        let index = self.steps.iter().position(|s| s.name == name).unwrap_or_else(|| {
            self.steps.push(Step { name: name.to_string(), ..Step::default() });
            self.steps.len() - 1
        });
        &mut self.steps[index]
    }

    /// Add to a named count.
    pub fn count(&mut self, name: &str, by: u64) {
        if by > 0 {
            *self.counts.entry(name.to_string()).or_default() += by;
        }
    }

    /// Add the funnel of another part of the same stage, which comes after this one.
    pub fn merge(&mut self, other: Funnel) {
        self.documents_in += other.documents_in;
        self.documents_out += other.documents_out;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        for theirs in other.steps {
            let ours = self.step(&theirs.name);
            ours.dropped += theirs.dropped;
            ours.dropped_bytes += theirs.dropped_bytes;
            let free = EXAMPLES.saturating_sub(ours.examples.len());
            ours.examples.extend(theirs.examples.into_iter().take(free));
        }
        let add = |to: &mut BTreeMap<String, u64>, from: BTreeMap<String, u64>| from.into_iter().for_each(|(k, v)| *to.entry(k).or_default() += v);
        add(&mut self.by_source, other.by_source);
        add(&mut self.by_lang, other.by_lang);
        add(&mut self.by_license, other.by_license);
        add(&mut self.by_domain, other.by_domain);
        add(&mut self.bytes_by_domain, other.bytes_by_domain);
        add(&mut self.counts, other.counts);
        self.notices.extend(other.notices);
    }

    /// One line for the terminal.
    pub fn summary(&self) -> String {
        let megabytes = |b: u64| b as f64 / 1e6;
        format!("{} of {} documents, {:.1} of {:.1} MB", self.documents_out, self.documents_in, megabytes(self.bytes_out), megabytes(self.bytes_in))
    }
}
