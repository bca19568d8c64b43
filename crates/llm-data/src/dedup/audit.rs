//! `audit.parquet`: every document, line, paragraph and stretch that was removed, in favour of which one, and why.

use crate::error::{Error, Result, io, record};
use arrow_array::{Array, ArrayRef, Float32Array, RecordBatch, StringArray, UInt32Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const BATCH: usize = 4096;

/// One removal.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The document.
    pub id: String,
    /// `exact`, `minhash`, `simhash`: it went as a whole; `line`, `paragraph`, `substring`: a piece of it.
    pub method: String,
    /// The first document of the cluster: the cluster's name.
    pub cluster: String,
    /// The document that stays, or that has the piece first.
    pub kept: String,
    /// Estimated similarity to the kept document, when it is known.
    pub similarity: Option<f32>,
    /// Byte range of the piece.
    pub range: Option<(u32, u32)>,
}

fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![
        text("id"),
        text("method"),
        text("cluster"),
        text("kept"),
        Field::new("similarity", DataType::Float32, true),
        Field::new("start", DataType::UInt32, true),
        Field::new("end", DataType::UInt32, true),
    ]))
}

/// Writes the file.
#[derive(Debug)]
pub struct AuditWriter {
    path: PathBuf,
    writer: ArrowWriter<File>,
    buffer: Vec<Entry>,
}

fn failed(path: &Path, e: &dyn std::fmt::Display) -> Error {
    Error::Format { path: path.to_path_buf(), message: format!("cannot write Parquet: {e}") }
}

impl AuditWriter {
    /// A new file at `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(io(path, "cannot create"))?;
        let level = ZstdLevel::try_new(3).map_err(|e| failed(path, &e))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_created_by(format!("llm-data {}", env!("CARGO_PKG_VERSION")))
            .build();
        let writer = ArrowWriter::try_new(file, schema(), Some(properties)).map_err(|e| failed(path, &e))?;
        Ok(Self { path: path.to_path_buf(), writer, buffer: Vec::new() })
    }

    /// Add one.
    pub fn push(&mut self, entry: Entry) -> Result<()> {
        self.buffer.push(entry);
        if self.buffer.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let text = |get: fn(&Entry) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(self.buffer.iter().map(get))) };
        let number =
            |get: fn(&(u32, u32)) -> u32| -> ArrayRef { Arc::new(self.buffer.iter().map(|e| e.range.as_ref().map(get)).collect::<UInt32Array>()) };
        let columns = vec![
            text(|e| &e.id),
            text(|e| &e.method),
            text(|e| &e.cluster),
            text(|e| &e.kept),
            Arc::new(self.buffer.iter().map(|e| e.similarity).collect::<Float32Array>()),
            number(|r| r.0),
            number(|r| r.1),
        ];
        let batch = RecordBatch::try_new(schema(), columns).map_err(|e| failed(&self.path, &e))?;
        self.buffer.clear();
        self.writer.write(&batch).map_err(|e| failed(&self.path, &e))
    }

    /// Write the rest and close.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        self.writer.close().map(|_| ()).map_err(|e| failed(&self.path, &e))
    }
}

/// All entries of a file, one after the other, to `each`.
pub fn read(path: &Path, mut each: impl FnMut(Entry) -> Result<()>) -> Result<()> {
    let unreadable =
        |e: &dyn std::fmt::Display| Error::Format { path: path.to_path_buf(), message: format!("not a readable audit ({e}); run `dedup` again") };
    let file = File::open(path).map_err(io(path, "cannot open"))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|b| b.with_batch_size(BATCH).build()).map_err(|e| unreadable(&e))?;
    let mut row = 0;
    for batch in reader {
        let batch = batch.map_err(|e| unreadable(&e))?;
        let text = |name: &str| batch.column_by_name(name).and_then(|c| c.as_any().downcast_ref::<StringArray>());
        let number = |name: &str| batch.column_by_name(name).and_then(|c| c.as_any().downcast_ref::<UInt32Array>());
        let similarity = batch.column_by_name("similarity").and_then(|c| c.as_any().downcast_ref::<Float32Array>());
        let (Some(id), Some(method), Some(cluster), Some(kept), Some(similarity), Some(start), Some(end)) =
            (text("id"), text("method"), text("cluster"), text("kept"), similarity, number("start"), number("end"))
        else {
            return Err(record(path, format!("after row {row}"), "a column of the audit is missing; run `dedup` again"));
        };
        for i in 0..batch.num_rows() {
            let value = |column: &UInt32Array| column.is_valid(i).then(|| column.value(i));
            each(Entry {
                id: id.value(i).to_string(),
                method: method.value(i).to_string(),
                cluster: cluster.value(i).to_string(),
                kept: kept.value(i).to_string(),
                similarity: similarity.is_valid(i).then(|| similarity.value(i)),
                range: value(start).zip(value(end)),
            })?;
        }
        row += batch.num_rows();
    }
    Ok(())
}

/// The entries of one document in a stage's folder; none when the stage has no audit.
pub fn of(id: &str, stage: &Path) -> Result<Vec<Entry>> {
    let path = stage.join("audit.parquet");
    let mut found = Vec::new();
    if path.is_file() {
        read(&path, |entry| {
            if entry.id == id {
                found.push(entry);
            }
            Ok(())
        })?;
    }
    Ok(found)
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.range {
            None => write!(f, "{}: removed by `{}` in favour of {}", self.id, self.method, self.kept)?,
            Some((start, end)) => write!(f, "{}: bytes {start} to {end} removed by `{}`, first in {}", self.id, self.method, self.kept)?,
        }
        if let Some(similarity) = self.similarity {
            write!(f, ", similarity {similarity:.3}")?;
        }
        write!(f, ", cluster {}", self.cluster)
    }
}
