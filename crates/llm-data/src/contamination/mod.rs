//! Decontamination: benchmark text found in training documents by shared n-grams, and removed.
//!
//! An [`Index`] is made once from benchmark files (`llm-data contamination-index`) and is a file of its own; the step
//! [`Decontaminate`] looks for its n-grams in every document. Brown et al. (2020, appendix C) took 13-grams and cut 200
//! characters around a match, as lm-evaluation-harness's `janitor` does; the profile of the cut is theirs. One hash per
//! word, one rolled hash per n-gram, and a bit array in front of the table: the cost is that of reading the words.

mod benchmarks;
mod detect;
mod file;
mod index;
mod normalise;
mod stage;

pub use benchmarks::{Item, benchmark_name, is_readable, read as read_benchmark};
pub use detect::{Scratch, Span, slices};
pub use index::{FileInfo, Index, IndexConfig, IndexInfo};
pub use normalise::{Normalisation, Words, words};
pub use stage::{BenchmarkReport, Example, StageConfig, decontaminate, write_index};

use crate::document::Document;
use crate::error::{Error, Result};
use crate::step::{Rule, Step, Trace, Verdict};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// What happens to a document with benchmark text in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The text goes with a margin; what is left stays, unless it is in too many pieces.
    #[default]
    Mask,
    /// The document goes.
    Drop,
    /// It is counted.
    Report,
}

/// Settings of the step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DecontaminateConfig {
    /// An index that is there already.
    pub index: Option<PathBuf>,
    /// How an index is made from benchmark files, when none is given.
    pub build: IndexConfig,
    /// `mask`, `drop` or `report`.
    pub action: Action,
    /// Characters cut on both sides of a match.
    pub window: usize,
    /// Parts of at most this many characters go.
    pub min_slice: usize,
    /// A document in more parts than this goes.
    pub too_dirty_cutoff: usize,
    /// Matches in these benchmarks are counted and change nothing, e.g. `xquad`, whose passages are Wikipedia's.
    pub report_only: Vec<String>,
    /// Fewer shared n-grams in a row than this are no match. 1 takes every n-gram.
    pub min_ngrams: usize,
}

impl Default for DecontaminateConfig {
    fn default() -> Self {
        Self {
            index: None,
            build: IndexConfig::default(),
            action: Action::Mask,
            window: 200,
            min_slice: 200,
            too_dirty_cutoff: 10,
            report_only: Vec::new(),
            min_ngrams: 1,
        }
    }
}

/// What a pipeline says when nothing is configured to look for.
pub const NO_BENCHMARKS: &str = "not decontaminated: neither an index nor benchmark files are configured (decontaminate.index, decontaminate.build.benchmarks); \
     evaluation on public benchmarks may be biased";

/// The step.
#[derive(Debug, Clone)]
pub struct Decontaminate {
    config: DecontaminateConfig,
    index: Arc<Index>,
    /// By number of benchmark: matches change nothing.
    harmless: Vec<bool>,
}

/// What the step did with one document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// What was found, those of [`DecontaminateConfig::report_only`] included.
    pub spans: Vec<Span>,
    /// The new text, if it changed.
    pub text: Option<String>,
    /// Number of parts when the document goes.
    pub dropped: Option<usize>,
}

impl Decontaminate {
    /// Open or build the index. `None` when neither an index nor benchmarks are configured: then a pipeline says
    /// [`NO_BENCHMARKS`] and goes on.
    pub fn from_config(config: &DecontaminateConfig) -> Result<Option<Self>> {
        let index = match &config.index {
            Some(path) => Index::open(path)?,
            None if config.build.benchmarks.is_empty() => return Ok(None),
            None => Index::build(&config.build)?,
        };
        Self::new(config, Arc::new(index)).map(Some)
    }

    /// With an index in memory.
    pub fn new(config: &DecontaminateConfig, index: Arc<Index>) -> Result<Self> {
        if let Some(unknown) = config.report_only.iter().find(|name| !index.info.benchmarks.contains(name)) {
            let known = index.info.benchmarks.join(", ");
            return Err(Error::Config(format!("decontaminate.report_only names `{unknown}`, which the index does not have; it has {known}")));
        }
        let harmless = index.info.benchmarks.iter().map(|b| config.report_only.contains(b)).collect();
        Ok(Self { config: config.clone(), index, harmless })
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Look at one text.
    pub fn outcome(&self, text: &str, scratch: &mut Scratch) -> Outcome {
        let mut spans = self.index.find(text, scratch);
        spans.retain(|s| s.ngrams >= self.config.min_ngrams);
        let harmful: Vec<Span> = spans.iter().filter(|s| s.items.iter().any(|i| !self.harmless[self.index.benchmark_of(*i)])).cloned().collect();
        let mut outcome = Outcome { spans, ..Outcome::default() };
        if harmful.is_empty() || self.config.action == Action::Report {
            return outcome;
        }
        if self.config.action == Action::Drop {
            outcome.dropped = Some(0);
            return outcome;
        }
        let parts = slices(text, &harmful, self.config.window, self.config.min_slice);
        if parts.is_empty() || parts.len() > self.config.too_dirty_cutoff {
            outcome.dropped = Some(parts.len());
        } else {
            outcome.text = Some(parts.iter().map(|p| p.trim()).collect::<Vec<_>>().join("\n\n"));
        }
        outcome
    }

    /// Benchmarks that the spans are from, each once.
    fn benchmarks_of<'a>(&'a self, spans: &[Span]) -> Vec<&'a str> {
        let mut numbers: Vec<usize> = spans.iter().flat_map(|s| &s.items).map(|i| self.index.benchmark_of(*i)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().map(|b| self.index.info.benchmarks[b].as_str()).collect()
    }

    fn verdict(&self, outcome: &Outcome) -> Verdict {
        let found = self.benchmarks_of(&outcome.spans).join(", ");
        match outcome.dropped {
            None => Verdict::Keep,
            Some(_) if self.config.action == Action::Drop => Verdict::drop("contamination", found, "no shared n-gram"),
            Some(0) => Verdict::drop("contamination", found, format!("{} characters left in a row", self.config.min_slice)),
            Some(parts) => Verdict::drop("contamination", format!("{found} ({parts} parts)"), format!("{} parts", self.config.too_dirty_cutoff)),
        }
    }
}

impl Step for Decontaminate {
    fn name(&self) -> &str {
        "decontaminate"
    }

    fn checks(&self) -> Vec<String> {
        vec!["contamination".into()]
    }

    fn rules(&self) -> Vec<Rule> {
        // Which benchmarks they are from, and whether those count, is not in the number.
        vec![Rule::new("contamination", "decontaminate/ngrams", None, None)]
    }

    fn apply(&self, document: &mut Document, trace: &mut Trace) -> Result<Verdict> {
        thread_local!(static SCRATCH: std::cell::RefCell<Scratch> = std::cell::RefCell::default());
        let mut outcome = SCRATCH.with_borrow_mut(|scratch| self.outcome(&document.text, scratch));
        if trace.everything {
            let ngrams: usize = outcome.spans.iter().map(|s| s.ngrams).sum();
            trace.signal("decontaminate/ngrams", ngrams as f64, None, (self.config.action == Action::Drop).then_some(0.0));
        }
        for name in self.benchmarks_of(&outcome.spans) {
            trace.count(format!("contaminated by {name}"), 1);
        }
        if let Some(text) = outcome.text.take() {
            trace.count("masked characters", (document.text.chars().count() - text.chars().count().min(document.text.chars().count())) as u64);
            document.text = text;
        }
        Ok(self.verdict(&outcome))
    }
}

#[cfg(test)]
mod tests;
