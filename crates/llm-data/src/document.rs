//! The document: what every stage of the text side reads and writes, and its Parquet form.
//!
//! A folder of documents is `documents/part-00000.parquet`, `part-00001.parquet`, … (zstd). Readers stream record
//! batches; writers start a new part after [`PART_BYTES`] of text, so memory stays flat and the bytes do not depend on
//! the number of threads. A whole folder appears at once (`AtomicDir`). [`ahead`] reads and [`mod@write`] writes on all threads.

pub mod ahead;
pub mod write;

pub use ahead::Ahead;
pub use write::DocumentWriter;

use crate::error::{Error, Result, record};
use ahead::Slice;
use arrow_array::{Array, ArrayRef, Float32Array, LargeStringArray, RecordBatch, StringArray, StringViewArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use llm_run::atomic::walk;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Text bytes after which the writer starts the next part.
pub const PART_BYTES: usize = 128 << 20;
/// Documents per record batch: the unit of streaming and of parallel work.
pub const BATCH: usize = 512;
/// Documents per row group.
pub const ROW_GROUP: usize = 8 * BATCH;
/// Text bytes after which a batch is full although it has fewer than [`BATCH`] documents.
pub const BATCH_BYTES: usize = 8 << 20;

/// One document.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Unique and free of machine paths: `crate-version/path`, `book/chapter.html`, `folder/file.txt#3`.
    pub id: String,
    /// The text, UTF-8.
    pub text: String,
    /// Which reader and collection it came from, e.g. `rust-docs/book`, `cargo/serde`, `paths/corpus`.
    pub source: String,
    /// Where the page was, if known.
    pub url: Option<String>,
    /// ISO 639-1 code (`en`), or the programming language for code (`rust`).
    pub lang: Option<String>,
    /// Confidence of the language identification, 0 to 1.
    pub lang_score: Option<f32>,
    /// SPDX expression or the licence's name, if known.
    pub license: Option<String>,
    /// `docs`, `readme`, `code`, `web` or `exercise`.
    pub domain: String,
    /// Learned quality score, 0 to 1.
    pub quality: Option<f32>,
    /// When it was written or fetched, ISO 8601 (`2026-11-24` or with a time), if known.
    pub date: Option<String>,
}

impl Document {
    /// True for program source, which has its own thresholds and no natural language.
    pub fn is_code(&self) -> bool {
        self.domain == "code"
    }
}

pub(crate) fn schema() -> SchemaRef {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let number = |name: &str| Field::new(name, DataType::Float32, true);
    Arc::new(Schema::new(vec![
        text("id", false),
        text("text", false),
        text("source", false),
        text("url", true),
        text("lang", true),
        number("lang_score"),
        text("license", true),
        text("domain", false),
        number("quality"),
        text("date", true),
    ]))
}

pub(crate) fn to_batch(documents: &[Document]) -> Result<RecordBatch, arrow_schema::ArrowError> {
    fn text<'a>(documents: &'a [Document], get: impl Fn(&'a Document) -> &'a str) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(documents.iter().map(get)))
    }
    fn optional<'a>(documents: &'a [Document], get: impl Fn(&'a Document) -> Option<&'a str>) -> ArrayRef {
        Arc::new(documents.iter().map(get).collect::<StringArray>())
    }
    fn number(documents: &[Document], get: impl Fn(&Document) -> Option<f32>) -> ArrayRef {
        Arc::new(documents.iter().map(get).collect::<Float32Array>())
    }
    RecordBatch::try_new(
        schema(),
        vec![
            text(documents, |d| &d.id),
            text(documents, |d| &d.text),
            text(documents, |d| &d.source),
            optional(documents, |d| d.url.as_deref()),
            optional(documents, |d| d.lang.as_deref()),
            number(documents, |d| d.lang_score),
            optional(documents, |d| d.license.as_deref()),
            text(documents, |d| &d.domain),
            number(documents, |d| d.quality),
            optional(documents, |d| d.date.as_deref()),
        ],
    )
}

/// How every part is written: zstd, row groups of [`ROW_GROUP`] documents.
pub(crate) fn properties() -> parquet::errors::Result<WriterProperties> {
    Ok(WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_max_row_group_row_count(Some(ROW_GROUP))
        .set_created_by(format!("llm-data {}", env!("CARGO_PKG_VERSION")))
        .build())
}

/// The Parquet parts to read for `path`: a file, a folder of parts, or a stage's folder with `documents/` in it.
pub fn parts(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let nested = path.join("documents");
    let dir = if nested.is_dir() { nested } else { path.to_path_buf() };
    if !dir.is_dir() {
        return Err(Error::Format {
            path: path.to_path_buf(),
            message: "no such file or folder; expected the output of an earlier stage (a folder with documents/*.parquet)".into(),
        });
    }
    let files: Vec<PathBuf> = walk(&dir)?.into_iter().filter(|p| p.extension().is_some_and(|e| e == "parquet")).collect();
    if files.is_empty() {
        return Err(Error::Format { path: dir, message: "holds no .parquet file; run the stage before this one first".into() });
    }
    Ok(files)
}

/// Streams the documents of a folder, one record batch at a time.
#[derive(Debug)]
pub struct DocumentReader {
    files: std::vec::IntoIter<PathBuf>,
    open: Option<RowReader>,
}

impl DocumentReader {
    /// Open a file, a folder of parts, or a stage's output folder.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { files: parts(path)?.into_iter(), open: None })
    }
}

impl Iterator for DocumentReader {
    type Item = Result<Vec<Document>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(batch) = self.open.as_mut().and_then(Iterator::next) {
                return Some(batch.and_then(|rows| rows.into_iter().map(|row| row.into_document()).collect()));
            }
            match RowReader::open(&self.files.next()?) {
                Ok(reader) => self.open = Some(reader),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// All documents of a folder at once; for tests, reports and small inputs.
pub fn read_all(path: &Path) -> Result<Vec<Document>> {
    let mut all = Vec::new();
    for batch in DocumentReader::open(path)? {
        all.extend(batch?);
    }
    Ok(all)
}

/// Number of documents under `path`, from the Parquet footers.
pub fn count(path: &Path) -> Result<u64> {
    let mut rows = 0;
    for file in parts(path)? {
        rows += builder(&file)?.metadata().file_metadata().num_rows().max(0) as u64;
    }
    Ok(rows)
}

/// A row of any Parquet file that has at least a string column for the text; our own columns are optional.
#[derive(Debug)]
pub struct Row {
    /// The file it came from.
    pub path: Arc<PathBuf>,
    /// 1-based row number.
    pub number: u64,
    /// The values found; `id` and the other strings are empty when absent.
    pub document: Document,
    /// Columns that must not be empty in a folder of ours but were.
    missing: Option<&'static str>,
}

impl Row {
    /// As a document of ours: `id`, `text` and `domain` are required.
    pub fn into_document(self) -> Result<Document> {
        match self.missing {
            None => Ok(self.document),
            Some(column) => Err(record(
                &self.path,
                format!("row {}", self.number),
                format!(
                    "column `{column}` is missing or null; this is not a folder written by llm-data (use `llm-data read` for Parquet of your own)"
                ),
            )),
        }
    }
}

/// Streams [`Row`]s of one Parquet file; `text_field` names the text column.
pub struct RowReader {
    path: Arc<PathBuf>,
    reader: ParquetRecordBatchReader,
    text_field: String,
    row: u64,
    failed: bool,
}

impl std::fmt::Debug for RowReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowReader").field("path", &self.path).field("row", &self.row).finish_non_exhaustive()
    }
}

/// The Parquet crate has assertions about metadata that damage can break; a panic in it becomes an error here.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|_| Err("its metadata contradict each other".into()))
}

/// The open file and its footer.
fn footer(path: &Path) -> Result<(File, ArrowReaderMetadata)> {
    let unreadable = |e: String| Error::Format {
        path: path.to_path_buf(),
        message: format!("not a readable Parquet file ({e}); it may be truncated: copy it again or leave it out"),
    };
    let file = File::open(path).map_err(crate::error::io(path, "cannot open"))?;
    let metadata = guarded(|| ArrowReaderMetadata::load(&file, ArrowReaderOptions::default()).map_err(|e| e.to_string())).map_err(unreadable)?;
    // The known case, answered without a panic message on the terminal.
    let mut columns = metadata.metadata().row_groups().iter().flat_map(|g| g.columns());
    if columns.any(|c| c.data_page_offset() < 0 || c.dictionary_page_offset().is_some_and(|o| o < 0) || c.compressed_size() < 0) {
        return Err(unreadable("negative offset of a column".into()));
    }
    Ok((file, metadata))
}

fn builder(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let (file, metadata) = footer(path)?;
    Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata))
}

impl RowReader {
    /// Open one file with the text in column `text`.
    pub fn open(path: &Path) -> Result<Self> {
        Self::with_text_field(path, "text")
    }

    /// Open one file with the text in column `text_field`.
    pub fn with_text_field(path: &Path, text_field: &str) -> Result<Self> {
        let builder = builder(path)?;
        if builder.schema().column_with_name(text_field).is_none() {
            let known: Vec<&str> = builder.schema().fields().iter().map(|f| f.name().as_str()).collect();
            return Err(Error::Format {
                path: path.to_path_buf(),
                message: format!("no column `{text_field}`; it has {}: set text_field to the one that holds the text", known.join(", ")),
            });
        }
        Self::build(builder, Arc::new(path.to_path_buf()), text_field, 0)
    }

    /// The documents of a slice of a file of ours.
    fn slice(slice: Slice) -> Result<Self> {
        let Some((metadata, group)) = slice.group else { return Self::open(&slice.path) };
        let file = File::open(slice.path.as_path()).map_err(crate::error::io(&slice.path, "cannot open"))?;
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata).with_row_groups(vec![group]);
        if let Some((skipped, rows)) = slice.rows {
            builder = builder.with_offset(skipped).with_limit(rows);
        }
        if builder.schema().column_with_name("text").is_none() {
            return Self::open(&slice.path); // which says what is missing
        }
        Self::build(builder, slice.path, "text", slice.first)
    }

    fn build(builder: ParquetRecordBatchReaderBuilder<File>, path: Arc<PathBuf>, text_field: &str, row: u64) -> Result<Self> {
        let reader = guarded(|| builder.with_batch_size(BATCH).build().map_err(|e| e.to_string())).map_err(|e| Error::Format {
            path: path.to_path_buf(),
            message: format!("not a readable Parquet file ({e}); copy it again or leave it out"),
        })?;
        Ok(Self { path, reader, text_field: text_field.to_string(), row, failed: false })
    }

    /// Rows of the file before the next one.
    fn row(&self) -> u64 {
        self.row
    }

    fn rows(&mut self, batch: &RecordBatch) -> Result<Vec<Row>> {
        let wrong = |name: &str, kind: &DataType| Error::Format {
            path: self.path.to_path_buf(),
            message: format!("column `{name}` is {kind}, expected strings"),
        };
        let strings = |name: &str| -> Result<Vec<Option<String>>> {
            let Some(column) = batch.column_by_name(name) else { return Ok(vec![None; batch.num_rows()]) };
            let any = column.as_any();
            if let Some(a) = any.downcast_ref::<StringArray>() {
                Ok(a.iter().map(|v| v.map(str::to_string)).collect())
            } else if let Some(a) = any.downcast_ref::<LargeStringArray>() {
                Ok(a.iter().map(|v| v.map(str::to_string)).collect())
            } else if let Some(a) = any.downcast_ref::<StringViewArray>() {
                Ok(a.iter().map(|v| v.map(str::to_string)).collect())
            } else if name == self.text_field {
                Err(wrong(name, column.data_type()))
            } else {
                Ok(vec![None; batch.num_rows()])
            }
        };
        let floats = |name: &str| -> Vec<Option<f32>> {
            let column = batch.column_by_name(name).and_then(|c| c.as_any().downcast_ref::<Float32Array>());
            column.map_or_else(|| vec![None; batch.num_rows()], |a| a.iter().collect())
        };
        let mut ids = strings("id")?.into_iter();
        let mut texts = strings(&self.text_field)?.into_iter();
        let mut sources = strings("source")?.into_iter();
        let mut urls = strings("url")?.into_iter();
        let mut langs = strings("lang")?.into_iter();
        let mut licenses = strings("license")?.into_iter();
        let mut domains = strings("domain")?.into_iter();
        let mut dates = strings("date")?.into_iter();
        let (lang_scores, qualities) = (floats("lang_score"), floats("quality"));
        let first = self.row;
        let rows = lang_scores.into_iter().zip(qualities).enumerate().map(|(i, (lang_score, quality))| {
            let take = |column: &mut std::vec::IntoIter<Option<String>>| column.next().flatten();
            let (id, text, domain) = (take(&mut ids), take(&mut texts), take(&mut domains));
            let missing = [("id", id.is_none()), ("text", text.is_none()), ("domain", domain.is_none())];
            Row {
                path: Arc::clone(&self.path),
                number: first + i as u64 + 1,
                missing: missing.into_iter().find_map(|(name, absent)| absent.then_some(name)),
                document: Document {
                    id: id.unwrap_or_default(),
                    text: text.unwrap_or_default(),
                    source: take(&mut sources).unwrap_or_default(),
                    url: take(&mut urls),
                    lang: take(&mut langs),
                    lang_score,
                    license: take(&mut licenses),
                    domain: domain.unwrap_or_default(),
                    quality,
                    date: take(&mut dates),
                },
            }
        });
        Ok(rows.collect())
    }
}

impl Iterator for RowReader {
    type Item = Result<Vec<Row>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let result = match guarded(|| self.reader.next().transpose().map_err(|e| e.to_string())).transpose()? {
            Ok(batch) => self.rows(&batch),
            Err(e) => {
                Err(record(&self.path, format!("after row {}", self.row), format!("damaged Parquet data ({e}); copy the file again or leave it out")))
            }
        };
        match &result {
            Ok(rows) => self.row += rows.len() as u64,
            Err(_) => self.failed = true,
        }
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(n: usize) -> Vec<Document> {
        (0..n)
            .map(|i| Document {
                id: format!("d{i}"),
                text: format!("text {i} äöü\n"),
                source: "test".into(),
                url: (i % 2 == 0).then(|| format!("https://example.org/{i}")),
                lang: Some("en".into()),
                lang_score: Some(0.5),
                license: None,
                domain: "docs".into(),
                quality: (i % 3 == 0).then_some(0.25),
                date: (i % 4 == 0).then(|| format!("2026-11-{i:02}")),
            })
            .collect()
    }

    #[test]
    fn documents_survive_a_round_trip_across_batches() {
        let dir = tempfile::tempdir().unwrap();
        let documents = sample(BATCH * 2 + 7);
        let mut writer = DocumentWriter::create(&dir.path().join("documents")).unwrap();
        for document in documents.clone() {
            writer.push(document).unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(read_all(dir.path()).unwrap(), documents);
        assert_eq!(count(dir.path()).unwrap(), documents.len() as u64);
    }

    #[test]
    fn an_unfinished_writer_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = DocumentWriter::create(&dir.path().join("documents")).unwrap();
        writer.push(sample(1).remove(0)).unwrap();
        drop(writer);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_truncated_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = DocumentWriter::create(&dir.path().join("documents")).unwrap();
        for document in sample(100) {
            writer.push(document).unwrap();
        }
        writer.finish().unwrap();
        let path = dir.path().join("documents/part-00000.parquet");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let message = read_all(dir.path()).unwrap_err().to_string();
        assert!(message.contains("part-00000.parquet") && message.contains("truncated"), "{message}");
    }

    #[test]
    fn a_missing_or_empty_folder_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_all(&dir.path().join("nowhere")).unwrap_err().to_string().contains("nowhere"));
        assert!(read_all(dir.path()).unwrap_err().to_string().contains("run the stage before"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_bytes_are_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("x.parquet");
            std::fs::write(&path, &bytes).unwrap();
            prop_assert!(read_all(&path).is_err());
        }
    }
}
