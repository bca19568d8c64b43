//! The measured values of every document of a unit, one row a value, as Parquet: what a threshold can be moved on without reading
//! the text again.
//!
//! Columns: `id`, `dropped_by` (null: kept), `bytes` of text, `signal`, `value`, `min`, `max`. A document without a value has one row
//! with `signal` null.

use crate::document::properties;
use crate::error::{Error, Result};
use crate::step::Trace;
use crate::store::write::Written;
use crate::store::{Location, Writer};
use arrow_array::builder::{Float64Builder, StringBuilder, UInt64Builder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use std::sync::Arc;

const ROWS: usize = 8192;

/// Streams one part of `signals/`.
#[derive(Debug)]
pub struct SignalWriter {
    writer: ArrowWriter<Writer>,
    place: Location,
    rows: usize,
    texts: [StringBuilder; 3],
    bytes: UInt64Builder,
    numbers: [Float64Builder; 3],
}

fn schema() -> Arc<Schema> {
    let field = |name: &str, kind: DataType, nullable| Field::new(name, kind, nullable);
    Arc::new(Schema::new(vec![
        field("id", DataType::Utf8, false),
        field("dropped_by", DataType::Utf8, true),
        field("bytes", DataType::UInt64, false),
        field("signal", DataType::Utf8, true),
        field("value", DataType::Float64, true),
        field("min", DataType::Float64, true),
        field("max", DataType::Float64, true),
    ]))
}

impl SignalWriter {
    /// Start a part.
    pub fn create(place: &Location) -> Result<Self> {
        let writer = Writer::create(place)?;
        let writer = properties().and_then(|p| ArrowWriter::try_new(writer, schema(), Some(p))).map_err(|e| failed(place, &e))?;
        Ok(Self { writer, place: place.clone(), rows: 0, texts: Default::default(), bytes: Default::default(), numbers: Default::default() })
    }

    /// Add a document.
    pub fn push(&mut self, id: &str, dropped_by: Option<&str>, bytes: usize, trace: &Trace) -> Result<()> {
        let mut row = |signal: Option<&str>, value: Option<f64>, min: Option<f64>, max: Option<f64>| {
            self.texts[0].append_value(id);
            self.texts[1].append_option(dropped_by);
            self.texts[2].append_option(signal);
            self.bytes.append_value(bytes as u64);
            self.numbers[0].append_option(value);
            self.numbers[1].append_option(min);
            self.numbers[2].append_option(max);
            self.rows += 1;
        };
        if trace.signals.is_empty() {
            row(None, None, None, None);
        }
        for signal in &trace.signals {
            row(Some(&signal.name), Some(signal.value), signal.min, signal.max);
        }
        if self.rows >= ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let [id, dropped_by, signal] = &mut self.texts;
        let [value, min, max] = &mut self.numbers;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(id.finish()),
            Arc::new(dropped_by.finish()),
            Arc::new(self.bytes.finish()),
            Arc::new(signal.finish()),
            Arc::new(value.finish()),
            Arc::new(min.finish()),
            Arc::new(max.finish()),
        ];
        self.rows = 0;
        let batch = RecordBatch::try_new(schema(), columns).map_err(|e| failed(&self.place, &e))?;
        self.writer.write(&batch).map_err(|e| failed(&self.place, &e))
    }

    /// Make the part visible.
    pub fn finish(mut self) -> Result<Written> {
        self.flush()?;
        self.writer.into_inner().map_err(|e| failed(&self.place, &e))?.finish()
    }
}

fn failed(place: &Location, error: &dyn std::fmt::Display) -> Error {
    Error::Format { path: place.display_path(), message: format!("cannot write: {error}; make room and run the same command again") }
}
