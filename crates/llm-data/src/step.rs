//! A step: what is done to one document by itself, whatever the others are.
//!
//! Filters, language identification, redaction, decontamination and learned scores are steps. A stage runs a list of them over
//! its documents in parallel and writes the survivors, the funnel and, if asked, every signal that was measured; so a step
//! neither reads nor writes files of its own once it is made, and its answer depends on the document and its settings alone.

use crate::document::Document;
use crate::error::Result;
use serde_json::Value;

/// Something that looks at one document, and may change or drop it.
pub trait Step: Send + Sync {
    /// The step's name in configurations and records, e.g. `gopher:datatrove`.
    fn name(&self) -> &str;

    /// The checks that can drop a document, in the order in which they are applied; fixes the order in the funnel.
    fn checks(&self) -> Vec<String> {
        vec![self.name().to_string()]
    }

    /// Look at `document`. With [`Trace::everything`] all checks are measured, also after one has failed; the verdict is always
    /// that of the first that fails.
    fn apply(&self, document: &mut Document, trace: &mut Trace) -> Result<Verdict>;
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
