//! Writing a folder of shards: rows become record batches, record batches files, and the folder appears whole.

use super::{Label, Labels, ShardInfo, checksums};
use crate::error::{Error, Result, io};
use arrow_array::types::{UInt16Type, UInt32Type};
use arrow_array::{ArrayRef, ListArray, PrimitiveArray, RecordBatch, StringArray};
use arrow_buffer::OffsetBuffer;
use arrow_ipc::writer::FileWriter;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use llm_run::atomic::AtomicDir;
use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows per record batch: bounds the writer's memory, invisible to readers.
const BATCH_ROWS: usize = 512;

/// A row to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewRow {
    /// `sequence_length + 1` ids.
    pub tokens: Vec<u32>,
    /// Offsets where documents begin, the first one 0.
    pub document_starts: Vec<u32>,
    /// One id per start.
    pub document_ids: Vec<Arc<str>>,
    /// Bytes that `tokens[1..]` stand for.
    pub target_bytes: u32,
    /// One per start after [`ShardWriter::with_labels`], else none.
    pub document_labels: Vec<Label>,
}

/// Writes a folder of shards that appears, whole, on [`ShardWriter::finish`].
pub struct ShardWriter {
    dir: AtomicDir,
    info: ShardInfo,
    labels: Option<Labels>,
    schema: SchemaRef,
    rows_per_shard: usize,
    open: Option<(FileWriter<BufWriter<File>>, PathBuf, usize)>,
    shards: usize,
    buffer: Vec<NewRow>,
    /// Rows accepted so far.
    pub rows: usize,
}

fn item(kind: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", kind, false))
}

fn schema(info: &ShardInfo) -> SchemaRef {
    let metadata = HashMap::from([
        ("sequence_length".to_string(), info.sequence_length.to_string()),
        ("vocab_size".to_string(), info.vocab_size.to_string()),
        ("tokenizer".to_string(), info.tokenizer.clone()),
    ]);
    let fields = vec![
        Field::new("tokens", DataType::List(item(DataType::UInt32)), false),
        Field::new("document_starts", DataType::List(item(DataType::UInt32)), false),
        Field::new("document_ids", DataType::List(item(DataType::Utf8)), false),
        Field::new("target_bytes", DataType::UInt32, false),
    ];
    Arc::new(Schema::new(fields).with_metadata(metadata))
}

impl std::fmt::Debug for ShardWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardWriter").field("info", &self.info).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl ShardWriter {
    /// Note how documents became rows, where that is not by concatenation; before the first row.
    pub fn with_packing(mut self, packing: &str) -> Self {
        let mut metadata = self.schema.metadata().clone();
        metadata.insert("packing".to_string(), packing.to_string());
        self.schema = Arc::new(Schema::new(self.schema.fields().clone()).with_metadata(metadata));
        self
    }

    /// Columns for domain and language of each document, with the names that their numbers stand for; before the first row.
    pub fn with_labels(mut self, labels: Labels) -> Result<Self> {
        for (what, names) in [("domains", &labels.domains), ("languages", &labels.languages)] {
            if names.len() > usize::from(u16::MAX) + 1 {
                return Err(Error::Config(format!("{} {what} are too many for shards, which number them in 16 bits", names.len())));
            }
        }
        let mut metadata = self.schema.metadata().clone();
        let mut fields = self.schema.fields().to_vec();
        for (name, column, names) in [("domains", "document_domains", &labels.domains), ("languages", "document_languages", &labels.languages)] {
            metadata.insert(name.to_string(), serde_json::json!(names).to_string());
            fields.push(Arc::new(Field::new(column, DataType::List(item(DataType::UInt16)), false)));
        }
        self.schema = Arc::new(Schema::new(fields).with_metadata(metadata));
        self.labels = Some(labels);
        Ok(self)
    }

    /// Start the folder `dir`; an older folder of that name is replaced at the end.
    pub fn create(dir: &Path, info: ShardInfo, rows_per_shard: usize) -> Result<Self> {
        let (dir, schema) = (AtomicDir::create(dir)?, schema(&info));
        Ok(Self { dir, info, labels: None, schema, rows_per_shard: rows_per_shard.max(1), open: None, shards: 0, buffer: Vec::new(), rows: 0 })
    }

    /// Add one row of `sequence_length + 1` tokens.
    pub fn push(&mut self, row: NewRow) -> Result<()> {
        if row.tokens.len() != self.info.sequence_length + 1 {
            return Err(Error::Config(format!("a row of {} tokens does not fit sequence_length {}", row.tokens.len(), self.info.sequence_length)));
        }
        let expected = self.labels.as_ref().map_or(0, |_| row.document_starts.len());
        let known = |label: &Label| {
            self.labels.as_ref().is_some_and(|l| usize::from(label.domain) < l.domains.len() && usize::from(label.language) < l.languages.len())
        };
        if row.document_labels.len() != expected || !row.document_labels.iter().all(known) {
            let labels = &row.document_labels;
            return Err(Error::Config(format!(
                "a row of {} documents has the labels {labels:?}, expected {expected} known ones",
                row.document_starts.len()
            )));
        }
        self.buffer.push(row);
        self.rows += 1;
        let in_shard = self.open.as_ref().map_or(0, |o| o.2) + self.buffer.len();
        if in_shard >= self.rows_per_shard {
            self.flush()?;
            return self.close_shard();
        }
        if self.buffer.len() >= BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let (mut writer, path, rows) = match self.open.take() {
            Some(open) => open,
            None => {
                let path = self.dir.path().join(format!("shard-{:05}.arrow", self.shards));
                self.shards += 1;
                let file = File::create(&path).map_err(io(&path, "cannot create"))?;
                let writer = FileWriter::try_new(BufWriter::new(file), &self.schema).map_err(|e| unwritable(&path, &e))?;
                (writer, path, 0)
            }
        };
        let batch = to_batch(&self.buffer, &self.schema).map_err(|e| unwritable(&path, &e))?;
        writer.write(&batch).map_err(|e| unwritable(&path, &e))?;
        self.open = Some((writer, path, rows + self.buffer.len()));
        self.buffer.clear();
        Ok(())
    }

    fn close_shard(&mut self) -> Result<()> {
        match self.open.take() {
            Some((mut writer, path, _)) => writer.finish().map_err(|e| unwritable(&path, &e)),
            None => Ok(()),
        }
    }

    /// Write what is buffered and put the folder in its place.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        self.close_shard()?;
        checksums::write(self.dir.path())?;
        Ok(self.dir.commit()?)
    }
}

fn unwritable(path: &Path, error: &arrow_schema::ArrowError) -> Error {
    Error::Format { path: path.to_path_buf(), message: format!("cannot write shard: {error}") }
}

fn to_batch(rows: &[NewRow], schema: &SchemaRef) -> Result<RecordBatch, arrow_schema::ArrowError> {
    let list = |column: usize, lengths: Vec<usize>, values: ArrayRef| -> Result<ArrayRef, arrow_schema::ArrowError> {
        let DataType::List(item) = schema.field(column).data_type() else {
            return Err(arrow_schema::ArrowError::SchemaError(format!("column {column} is not a list")));
        };
        Ok(Arc::new(ListArray::try_new(item.clone(), OffsetBuffer::from_lengths(lengths), values, None)?))
    };
    let numbers = |values: Vec<u32>| -> ArrayRef { Arc::new(PrimitiveArray::<UInt32Type>::from(values)) };
    let starts: Vec<usize> = rows.iter().map(|r| r.document_starts.len()).collect();
    let ids = StringArray::from_iter_values(rows.iter().flat_map(|r| r.document_ids.iter().map(|id| &**id)));
    let mut columns = vec![
        list(0, rows.iter().map(|r| r.tokens.len()).collect(), numbers(rows.iter().flat_map(|r| r.tokens.iter().copied()).collect()))?,
        list(1, starts.clone(), numbers(rows.iter().flat_map(|r| r.document_starts.iter().copied()).collect()))?,
        list(2, starts.clone(), Arc::new(ids))?,
        numbers(rows.iter().map(|r| r.target_bytes).collect()),
    ];
    if schema.fields().len() > columns.len() {
        let labels = |get: fn(&Label) -> u16| -> ArrayRef {
            Arc::new(PrimitiveArray::<UInt16Type>::from_iter_values(rows.iter().flat_map(|r| r.document_labels.iter().map(get))))
        };
        columns.push(list(4, starts.clone(), labels(|l| l.domain))?);
        columns.push(list(5, starts, labels(|l| l.language))?);
    }
    RecordBatch::try_new(schema.clone(), columns)
}
