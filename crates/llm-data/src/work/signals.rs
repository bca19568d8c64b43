//! The measured values of a unit's documents, in the form of [`crate::signals`]: what a threshold can be moved on without reading the
//! text again.

use crate::document::properties;
use crate::error::{Error, Result};
use crate::signals::Columns;
use crate::step::{Rule, Trace};
use crate::store::write::Written;
use crate::store::{Location, Writer};
use parquet::arrow::ArrowWriter;
use toml::{Table, Value};

/// Streams one part of `signals/`.
#[derive(Debug)]
pub struct SignalWriter {
    writer: ArrowWriter<Writer>,
    place: Location,
    columns: Columns,
}

impl SignalWriter {
    /// Start a part with a column for the signal of each rule.
    pub fn create(place: &Location, rules: &[Rule]) -> Result<Self> {
        let columns = Columns::new(rules);
        let writer = Writer::create(place)?;
        let writer = properties().and_then(|p| ArrowWriter::try_new(writer, columns.schema(), Some(p))).map_err(|e| failed(place, &e))?;
        Ok(Self { writer, place: place.clone(), columns })
    }

    /// Add a document.
    pub fn push(&mut self, id: &str, dropped_by: Option<&str>, bytes: usize, trace: &Trace) -> Result<()> {
        self.columns.push(id, dropped_by, bytes, &trace.signals);
        if self.columns.is_full() { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let batch = self.columns.take().map_err(|e| failed(&self.place, &e))?;
        self.writer.write(&batch).map_err(|e| failed(&self.place, &e))
    }

    /// Make the part visible.
    pub fn finish(mut self) -> Result<Written> {
        self.flush()?;
        self.writer.into_inner().map_err(|e| failed(&self.place, &e))?.finish()
    }
}

/// The text of `steps.toml`: the kinds in their order, and a table of settings for each. A kind that stands twice has the last settings, and
/// is twice in the list, at which `what-if` refuses.
pub fn settings(steps: &[Table]) -> String {
    let mut all = Table::new();
    let kinds = steps.iter().filter_map(|s| s.get("kind").cloned());
    all.insert(KINDS.into(), Value::Array(kinds.collect()));
    for step in steps {
        let mut step = step.clone();
        if let Some(Value::String(kind)) = step.remove("kind") {
            all.insert(kind, Value::Table(step));
        }
    }
    all.to_string()
}

/// The key of the list of kinds in `steps.toml`.
pub const KINDS: &str = "kinds";

fn failed(place: &Location, error: &dyn std::fmt::Display) -> Error {
    Error::Format { path: place.display_path(), message: format!("cannot write: {error}; make room and run the same command again") }
}
