//! The reversible report: what stood where a placeholder stands now. A Parquet file that only its owner can read, kept
//! apart from the documents.

use super::Kind;
use crate::document::Document;
use crate::error::{Error, Result, io, record};
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, UInt64Array};
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

const FILE: &str = "pii.parquet";
const BATCH: usize = 4096;

/// One replacement in one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The document.
    pub document_id: String,
    /// First byte in the original text.
    pub start: u64,
    /// After the last byte in the original text.
    pub end: u64,
    /// First byte of the replacement in the redacted text.
    pub redacted_start: u64,
    /// What it was.
    pub kind: Kind,
    /// What stood there.
    pub original: String,
    /// What stands there now.
    pub replacement: String,
}

/// The columns.
pub(crate) fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let number = |name: &str| Field::new(name, DataType::UInt64, false);
    Arc::new(Schema::new(vec![
        text("document_id"),
        number("start"),
        number("end"),
        number("redacted_start"),
        text("kind"),
        text("original"),
        text("replacement"),
    ]))
}

/// Rows of the report.
pub(crate) fn to_batch(entries: &[Entry]) -> std::result::Result<RecordBatch, arrow_schema::ArrowError> {
    let text = |get: fn(&Entry) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(entries.iter().map(get))) };
    let number = |get: fn(&Entry) -> u64| -> ArrayRef { Arc::new(UInt64Array::from_iter_values(entries.iter().map(get))) };
    let columns = vec![
        text(|e| &e.document_id),
        number(|e| e.start),
        number(|e| e.end),
        number(|e| e.redacted_start),
        text(|e| e.kind.name()),
        text(|e| &e.original),
        text(|e| &e.replacement),
    ];
    RecordBatch::try_new(schema(), columns)
}

/// Writes `DIR/pii.parquet`; folder mode 0700, file mode 0600. The folder appears on [`ReportWriter::finish`].
pub struct ReportWriter {
    dir: AtomicDir,
    path: PathBuf,
    writer: ArrowWriter<File>,
    buffer: Vec<Entry>,
}

impl std::fmt::Debug for ReportWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReportWriter").field("path", &self.path).finish_non_exhaustive()
    }
}

fn private(path: &Path, mode: u32) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(io(path, "cannot make private"))?;
    }
    #[cfg(not(unix))]
    let _ = (path, mode);
    Ok(())
}

impl ReportWriter {
    /// Start the folder.
    pub fn create(dir: &Path) -> Result<Self> {
        let dir = AtomicDir::create(dir)?;
        private(dir.path(), 0o700)?;
        let path = dir.path().join(FILE);
        let file = File::create(&path).map_err(io(&path, "cannot create"))?;
        private(&path, 0o600)?;
        let failed = |e: parquet::errors::ParquetError| Error::Format { path: path.clone(), message: format!("cannot write Parquet: {e}") };
        let level = ZstdLevel::try_new(3).map_err(failed)?;
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
        let writer = ArrowWriter::try_new(file, schema(), Some(properties)).map_err(failed)?;
        Ok(Self { dir, path, writer, buffer: Vec::new() })
    }

    /// Add entries.
    pub fn extend(&mut self, entries: impl IntoIterator<Item = Entry>) -> Result<()> {
        self.buffer.extend(entries);
        if self.buffer.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::Format { path: self.path.clone(), message: format!("cannot write Parquet: {e}") };
        let batch = to_batch(&self.buffer).map_err(|e| failed(&e))?;
        self.writer.write(&batch).map_err(|e| failed(&e))?;
        self.buffer.clear();
        Ok(())
    }

    /// Write the rest and put the folder in its place.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        let path = self.path;
        self.writer.close().map_err(|e| Error::Format { path, message: format!("cannot write Parquet: {e}") })?;
        Ok(self.dir.commit()?)
    }
}

/// The entries of a report by document, in the order of the text.
#[derive(Debug, Default)]
pub struct ReportReader {
    entries: HashMap<String, Vec<Entry>>,
}

impl ReportReader {
    /// Read a report: a file, the folder that `llm-data redact` wrote, or that of `llm-data process` with a part for each unit.
    pub fn open(path: &Path) -> Result<Self> {
        let mut report = Self::default();
        if !path.is_dir() {
            report.read(path)?;
            return Ok(report);
        }
        let entries = std::fs::read_dir(path).map_err(io(path, "cannot read"))?;
        let is_part = |p: &PathBuf| {
            let name = p.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name == FILE || name.starts_with("part-") && name.ends_with(".parquet")
        };
        let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(is_part).collect();
        files.sort();
        if files.is_empty() {
            let message = format!("holds neither {FILE} nor part-*.parquet; expected what `llm-data redact` or `process` wrote");
            return Err(Error::Format { path: path.to_path_buf(), message });
        }
        files.iter().try_for_each(|file| report.read(file))?;
        Ok(report)
    }

    fn read(&mut self, path: &Path) -> Result<()> {
        let unreadable =
            |e: &dyn std::fmt::Display| Error::Format { path: path.to_path_buf(), message: format!("not a readable report of replacements ({e})") };
        let file = File::open(path).map_err(io(path, "cannot open"))?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|b| b.build()).map_err(|e| unreadable(&e))?;
        for batch in reader {
            let batch = batch.map_err(|e| unreadable(&e))?;
            let text = |name: &str| {
                batch
                    .column_by_name(name)
                    .and_then(|c| c.as_any().downcast_ref::<StringArray>())
                    .ok_or_else(|| unreadable(&format!("no text column `{name}`")))
            };
            let number = |name: &str| {
                batch
                    .column_by_name(name)
                    .and_then(|c| c.as_any().downcast_ref::<UInt64Array>())
                    .ok_or_else(|| unreadable(&format!("no number column `{name}`")))
            };
            let (id, kind, original, replacement) = (text("document_id")?, text("kind")?, text("original")?, text("replacement")?);
            let (start, end, redacted_start) = (number("start")?, number("end")?, number("redacted_start")?);
            for i in 0..batch.num_rows() {
                let name = kind.value(i);
                let kind = Kind::ALL
                    .into_iter()
                    .find(|k| k.name() == name)
                    .ok_or_else(|| record(path, format!("row {i}"), format!("kind `{name}` is not known")))?;
                self.entries.entry(id.value(i).to_string()).or_default().push(Entry {
                    document_id: id.value(i).to_string(),
                    start: start.value(i),
                    end: end.value(i),
                    redacted_start: redacted_start.value(i),
                    kind,
                    original: original.value(i).to_string(),
                    replacement: replacement.value(i).to_string(),
                });
            }
        }
        Ok(())
    }

    /// The entries of one document.
    pub fn of(&self, document_id: &str) -> &[Entry] {
        self.entries.get(document_id).map_or(&[], Vec::as_slice)
    }
}

/// Put back what stood in a redacted document. Fails when the text is not the one that was redacted.
pub fn unredact(document: &mut Document, entries: &[Entry]) -> Result<()> {
    let text = &document.text;
    let changed = |e: &Entry| {
        Error::Config(format!(
            "document `{}`: expected {:?} at byte {}, as the report says; the text was changed after redaction and cannot be restored",
            document.id, e.replacement, e.redacted_start
        ))
    };
    let (mut out, mut at) = (String::with_capacity(text.len()), 0usize);
    for e in entries {
        let start = usize::try_from(e.redacted_start).unwrap_or(usize::MAX);
        let between = text.get(at..start).ok_or_else(|| changed(e))?;
        if !text[start..].starts_with(&e.replacement) {
            return Err(changed(e));
        }
        out.push_str(between);
        out.push_str(&e.original);
        at = start + e.replacement.len();
    }
    out.push_str(&text[at..]);
    document.text = out;
    Ok(())
}
