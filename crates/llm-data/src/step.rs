//! A step: what is done to one document by itself, whatever the others are.
//!
//! Filters, language identification, redaction, decontamination and learned scores are steps. A stage runs a list of them over
//! its documents in parallel and writes the survivors, the funnel and, if asked, every signal that was measured; so a step
//! neither reads nor writes files of its own once it is made, and its answer depends on the document and its settings alone.

use crate::document::Document;
use crate::error::Result;
use crate::pii::Entry;
use serde_json::Value;

/// Something that looks at one document, and may change or drop it.
pub trait Step: Send + Sync {
    /// The step's name in configurations and records, e.g. `gopher:datatrove`.
    fn name(&self) -> &str;

    /// The checks that can drop a document, in the order in which they are applied; fixes the order in the funnel.
    fn checks(&self) -> Vec<String> {
        vec![self.name().to_string()]
    }

    /// The signals that the step may note, each with the check that holds it against limits; those without a limit have infinite ones.
    /// Stored signals, statistics and what-if go by them: a document falls at the first rule that one of its signals breaks.
    fn rules(&self) -> Vec<Rule> {
        Vec::new()
    }

    /// Look at `document`. With [`Trace::everything`] all checks are measured, also after one has failed; the verdict is always
    /// that of the first that fails.
    fn apply(&self, document: &mut Document, trace: &mut Trace) -> Result<Verdict>;
}

/// What a check compares: the funnel's name for it, the signal, and its limits.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// One of [`Step::checks`].
    pub check: String,
    /// Name of the signal, `STEP/MEASURE`.
    pub signal: String,
    /// Least value that passes.
    pub min: f64,
    /// Greatest value that passes.
    pub max: f64,
}

impl Rule {
    /// A rule whose absent limits are infinite.
    pub fn new(check: impl Into<String>, signal: impl Into<String>, min: Option<f64>, max: Option<f64>) -> Self {
        Self { check: check.into(), signal: signal.into(), min: min.unwrap_or(f64::NEG_INFINITY), max: max.unwrap_or(f64::INFINITY) }
    }

    /// True when `value`, as it is stored in single precision, lies outside the limits. A value that is missing (`NaN`) breaks nothing.
    pub fn is_broken(&self, value: f32) -> bool {
        value < self.min as f32 || value > self.max as f32
    }
}

/// What a step says about a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It stays.
    Keep,
    /// It goes.
    Drop(Reason),
}

/// Why a document goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Reason {
    /// One of [`Step::checks`].
    pub check: String,
    /// What was measured.
    pub value: Value,
    /// The limit that it broke.
    pub threshold: Value,
}

impl Verdict {
    /// Dropped by `check` because of `value`.
    pub fn drop(check: impl Into<String>, value: impl Into<Value>, threshold: impl Into<Value>) -> Self {
        Self::Drop(Reason { check: check.into(), value: value.into(), threshold: threshold.into() })
    }
}

/// What steps note down about one document on the way.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trace {
    /// Measure everything: for stored signals and for `explain`.
    pub everything: bool,
    /// Measured values by name (`gopher:datatrove/dup_line_frac`), with the limit they are held against, in the order of measuring.
    pub signals: Vec<Signal>,
    /// Things that happened and drop nothing: redactions, removed lines.
    pub counts: Vec<(String, u64)>,
    /// Personal data that was replaced, for a report that is kept apart.
    pub replaced: Vec<Entry>,
}

/// A measured value.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal {
    /// `STEP/MEASURE`.
    pub name: String,
    /// The value.
    pub value: f64,
    /// Least value that passes.
    pub min: Option<f64>,
    /// Greatest value that passes.
    pub max: Option<f64>,
}

impl Trace {
    /// One that measures everything.
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// Note a value and its limits.
    pub fn signal(&mut self, name: impl Into<String>, value: f64, min: Option<f64>, max: Option<f64>) {
        self.signals.push(Signal { name: name.into(), value, min, max });
    }

    /// Count something.
    pub fn count(&mut self, name: impl Into<String>, by: u64) {
        if by > 0 {
            self.counts.push((name.into(), by));
        }
    }
}
