//! Stored signals: one row per document with the check that dropped it and every value measured.
//!
//! `signals/part-*.parquet`: `id`, `dropped_by` (null: kept), `bytes`, then one Float32 column per signal, named `STEP/SIGNAL`, null where
//! a step did not measure it (code signals of prose). Beside them the settings they were measured with, `filter.toml` of `llm-data filter`
//! or `steps.toml` of `llm-data process`, so that the folder is enough for `stats --signals` and `what-if`.

use crate::error::{Error, Result, check_interrupt};
use crate::step::{Rule, Signal};
use arrow_array::{Array, ArrayRef, Float32Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use llm_run::atomic::AtomicDir;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows per part.
const PART_ROWS: usize = 1 << 20;
/// Rows per record batch.
const BATCH: usize = 8192;
/// The configuration of `llm-data filter` beside the parts.
pub const FILTER: &str = "filter.toml";
/// The steps of `llm-data process` beside the parts.
pub const STEPS: &str = "steps.toml";

/// Rows that are not written yet.
#[derive(Debug)]
pub struct Columns {
    schema: SchemaRef,
    index: HashMap<String, usize>,
    ids: Vec<String>,
    dropped: Vec<Option<String>>,
    bytes: Vec<f32>,
    values: Vec<Vec<Option<f32>>>,
}

impl Columns {
    /// A column for the signal of each rule.
    pub fn new(rules: &[Rule]) -> Self {
        let mut names: Vec<&str> = Vec::new();
        for rule in rules {
            if !names.contains(&rule.signal.as_str()) {
                names.push(&rule.signal);
            }
        }
        let mut fields = vec![
            Field::new("id", DataType::Utf8, false),
            Field::new("dropped_by", DataType::Utf8, true),
            Field::new("bytes", DataType::Float32, false),
        ];
        fields.extend(names.iter().map(|n| Field::new(*n, DataType::Float32, true)));
        Self {
            schema: Arc::new(Schema::new(fields)),
            index: names.iter().enumerate().map(|(i, n)| ((*n).to_string(), i)).collect(),
            ids: Vec::new(),
            dropped: Vec::new(),
            bytes: Vec::new(),
            values: vec![Vec::new(); names.len()],
        }
    }

    /// The columns.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Add one document. Signals without a column are left out.
    pub fn push(&mut self, id: &str, dropped_by: Option<&str>, bytes: usize, signals: &[Signal]) {
        self.ids.push(id.to_string());
        self.dropped.push(dropped_by.map(str::to_string));
        self.bytes.push(bytes as f32);
        self.values.iter_mut().for_each(|c| c.push(None));
        for signal in signals {
            if let Some(last) = self.index.get(&signal.name).and_then(|i| self.values[*i].last_mut()) {
                *last = Some(signal.value as f32);
            }
        }
    }

    /// Rows so far.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// True when a record batch is full.
    pub fn is_full(&self) -> bool {
        self.ids.len() >= BATCH
    }

    /// The rows so far, and an empty start.
    pub fn take(&mut self) -> std::result::Result<RecordBatch, arrow_schema::ArrowError> {
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(self.ids.drain(..))),
            Arc::new(self.dropped.drain(..).collect::<StringArray>()),
            Arc::new(Float32Array::from_iter_values(self.bytes.drain(..))),
        ];
        columns.extend(self.values.iter_mut().map(|c| Arc::new(c.drain(..).collect::<Float32Array>()) as ArrayRef));
        RecordBatch::try_new(self.schema(), columns)
    }
}

/// Writes the folder; it appears whole on [`SignalsWriter::finish`].
pub struct SignalsWriter {
    dir: AtomicDir,
    columns: Columns,
    open: Option<(ArrowWriter<File>, PathBuf, usize)>,
    parts: usize,
}

fn broken(path: &Path, e: &dyn std::fmt::Display) -> Error {
    Error::Format { path: path.to_path_buf(), message: format!("cannot write Parquet: {e}") }
}

impl SignalsWriter {
    /// Start the folder `dir` with a column for the signal of each rule.
    pub fn create(dir: &Path, rules: &[Rule]) -> Result<Self> {
        Ok(Self { dir: AtomicDir::create(dir)?, columns: Columns::new(rules), open: None, parts: 0 })
    }

    /// Add one document. Signals without a column are left out.
    pub fn push(&mut self, id: &str, dropped_by: Option<&str>, bytes: usize, signals: &[Signal]) -> Result<()> {
        self.columns.push(id, dropped_by, bytes, signals);
        if self.columns.is_full() { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if self.columns.is_empty() && self.parts > 0 {
            return Ok(());
        }
        let (mut writer, path, rows) = match self.open.take() {
            Some(open) => open,
            None => {
                let path = self.dir.path().join(format!("part-{:05}.parquet", self.parts));
                self.parts += 1;
                let file = File::create(&path).map_err(crate::error::io(&path, "cannot create"))?;
                let level = ZstdLevel::try_new(3).map_err(|e| broken(&path, &e))?;
                let created_by = format!("llm-data {}", env!("CARGO_PKG_VERSION"));
                let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).set_created_by(created_by).build();
                (ArrowWriter::try_new(file, self.columns.schema(), Some(properties)).map_err(|e| broken(&path, &e))?, path, 0)
            }
        };
        let rows = rows + self.columns.len();
        let batch = self.columns.take().map_err(|e| broken(&path, &e))?;
        writer.write(&batch).map_err(|e| broken(&path, &e))?;
        if rows >= PART_ROWS {
            writer.close().map_err(|e| broken(&path, &e))?;
        } else {
            self.open = Some((writer, path, rows));
        }
        Ok(())
    }

    /// Write what is left and the configuration, and put the folder in its place.
    pub fn finish(mut self, config: &impl serde::Serialize) -> Result<()> {
        self.flush()?;
        if let Some((writer, path, _)) = self.open.take() {
            writer.close().map_err(|e| broken(&path, &e))?;
        }
        let text = toml::to_string(config).map_err(|e| Error::Config(format!("cannot write the configuration as TOML: {e}")))?;
        llm_run::atomic::write(self.dir.path().join(FILTER), text)?;
        Ok(self.dir.commit()?)
    }
}

/// A batch of rows read back.
#[derive(Debug)]
pub struct Rows {
    /// Document ids.
    pub ids: Vec<String>,
    /// The check that dropped each.
    pub dropped: Vec<Option<String>>,
    /// Bytes of text.
    pub bytes: Vec<f64>,
    /// Signals in the order of [`SignalsReader::names`]; `NaN` where there is none.
    pub values: Vec<Vec<f32>>,
}

/// Reads the folder, part by part.
#[derive(Debug)]
pub struct SignalsReader {
    files: Vec<PathBuf>,
    /// The signals, in their order.
    pub names: Vec<String>,
    /// The folder with the parts.
    pub dir: PathBuf,
}

fn unreadable(path: &Path, e: &dyn std::fmt::Display) -> Error {
    Error::Format {
        path: path.to_path_buf(),
        message: format!("not a readable file of signals ({e}); run the command that wrote it again, with signals=true"),
    }
}

impl SignalsReader {
    /// Open a folder of signals, or a stage's folder with `signals/` in it.
    pub fn open(path: &Path) -> Result<Self> {
        let nested = path.join("signals");
        let dir = if nested.is_dir() { nested } else { path.to_path_buf() };
        let mut files: Vec<PathBuf> = match std::fs::read_dir(&dir) {
            Ok(entries) => entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.extension().is_some_and(|e| e == "parquet")).collect(),
            Err(e) => return Err(crate::error::io(&dir, "cannot read")(e)),
        };
        files.sort();
        let Some(first) = files.first() else {
            return Err(Error::Format {
                path: dir,
                message: "holds no signals; run `llm-data filter` or `process` with --set signals=true and give its output folder".into(),
            });
        };
        let file = File::open(first).map_err(crate::error::io(first, "cannot open"))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| unreadable(first, &e))?;
        let names = builder.schema().fields().iter().skip(3).map(|f| f.name().clone()).collect();
        Ok(Self { files, names, dir })
    }

    /// Call `each` with every batch in order.
    pub fn for_each(&self, mut each: impl FnMut(Rows) -> Result<()>) -> Result<()> {
        for path in &self.files {
            check_interrupt()?;
            let file = File::open(path).map_err(crate::error::io(path, "cannot open"))?;
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| unreadable(path, &e))?;
            for batch in reader.with_batch_size(BATCH).build().map_err(|e| unreadable(path, &e))? {
                each(self.rows(path, &batch.map_err(|e| unreadable(path, &e))?)?)?;
            }
        }
        Ok(())
    }

    fn rows(&self, path: &Path, batch: &RecordBatch) -> Result<Rows> {
        let missing = |name: &str| unreadable(path, &format!("no column `{name}` of the expected type"));
        let strings = |name: &str| -> Result<Vec<Option<String>>> {
            let column = batch.column_by_name(name).and_then(|c| c.as_any().downcast_ref::<StringArray>()).ok_or_else(|| missing(name))?;
            Ok(column.iter().map(|v| v.map(str::to_string)).collect())
        };
        let floats = |name: &str| -> Result<Vec<f32>> {
            let column = batch.column_by_name(name).and_then(|c| c.as_any().downcast_ref::<Float32Array>()).ok_or_else(|| missing(name))?;
            Ok(column.iter().map(|v| v.unwrap_or(f32::NAN)).collect())
        };
        Ok(Rows {
            ids: strings("id")?.into_iter().map(Option::unwrap_or_default).collect(),
            dropped: strings("dropped_by")?,
            bytes: floats("bytes")?.into_iter().map(f64::from).collect(),
            values: self.names.iter().map(|n| floats(n)).collect::<Result<_>>()?,
        })
    }
}
