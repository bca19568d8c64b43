//! Writing a folder of documents: row groups are encoded and compressed on all threads, and put into the files in their order.
//!
//! A part has row groups of [`ROW_GROUP`] documents, each of them encoded by itself, so several can be under way at once. Documents
//! wait until every thread has a row group to encode, or until they are too many for the memory allowed; what is encoded when never
//! changes what is encoded, so the bytes do not depend on threads or memory. With one thread nothing waits.

use super::{BATCH, BATCH_BYTES, Document, PART_BYTES, ROW_GROUP, properties, schema, to_batch};
use crate::error::{Error, Result, io};
use llm_run::atomic::AtomicDir;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedFileWriter;
use rayon::prelude::*;
use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Text bytes that may wait for the encoders unless the caller says how many.
const WAITING_BYTES: usize = 64 << 20;

/// Writes a folder of Parquet parts that appears, whole, on [`DocumentWriter::finish`].
pub struct DocumentWriter {
    dir: AtomicDir,
    /// The file that finished row groups go to, and the number of its part.
    file: SerializedFileWriter<File>,
    file_part: usize,
    encoders: ArrowRowGroupWriterFactory,
    /// Row groups that are not in a file yet, in their order; all but the last are full.
    groups: VecDeque<Group>,
    /// Number of the part that documents are added to, and their text bytes.
    part: usize,
    part_bytes: usize,
    buffer: Vec<Document>,
    buffered: usize,
    waiting: usize,
    most_waiting: usize,
    /// Documents accepted so far.
    pub documents: u64,
    /// Text bytes accepted so far.
    pub bytes: u64,
}

impl std::fmt::Debug for DocumentWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DocumentWriter").field("dir", &self.dir).field("documents", &self.documents).finish_non_exhaustive()
    }
}

/// A row group on its way.
struct Group {
    part: usize,
    rows: usize,
    full: bool,
    waiting: Vec<Vec<Document>>,
    columns: Vec<ArrowColumnWriter>,
    encoded: Vec<ArrowColumnChunk>,
}

impl Group {
    /// Encode what waits; of a full group the columns are closed.
    fn encode(&mut self) -> parquet::errors::Result<()> {
        let schema = schema();
        for documents in self.waiting.drain(..) {
            let batch = to_batch(&documents)?;
            let mut columns = self.columns.iter_mut();
            for (field, array) in schema.fields().iter().zip(batch.columns()) {
                for (leaf, column) in compute_leaves(field, array)?.iter().zip(&mut columns) {
                    column.write(leaf)?;
                }
            }
        }
        if self.full {
            self.encoded = self.columns.drain(..).map(ArrowColumnWriter::close).collect::<parquet::errors::Result<_>>()?;
        }
        Ok(())
    }
}

impl DocumentWriter {
    /// Start the folder `dir`; an older folder of that name is replaced at the end.
    pub fn create(dir: &Path) -> Result<Self> {
        Self::with_memory(dir, WAITING_BYTES)
    }

    /// The same with at most about `memory` text bytes that wait for a thread.
    pub fn with_memory(dir: &Path, memory: usize) -> Result<Self> {
        let dir = AtomicDir::create(dir)?;
        let (file, encoders) = open(&part_path(&dir, 0))?;
        Ok(Self {
            dir,
            file,
            file_part: 0,
            encoders,
            groups: VecDeque::new(),
            part: 0,
            part_bytes: 0,
            buffer: Vec::new(),
            buffered: 0,
            waiting: 0,
            most_waiting: if rayon::current_num_threads() > 1 { memory } else { 0 },
            documents: 0,
            bytes: 0,
        })
    }

    /// Add one document.
    pub fn push(&mut self, document: Document) -> Result<()> {
        self.documents += 1;
        self.bytes += document.text.len() as u64;
        self.buffered += document.text.len();
        self.buffer.push(document);
        if self.buffer.len() >= BATCH || self.buffered >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    /// The buffered documents become a batch of the last row group, and of the next one if that is full.
    fn flush(&mut self) -> Result<()> {
        let mut batch = std::mem::take(&mut self.buffer);
        self.waiting += self.buffered;
        self.part_bytes += self.buffered;
        self.buffered = 0;
        while !batch.is_empty() {
            if self.groups.back().is_none_or(|g| g.full) {
                let path = part_path(&self.dir, self.part);
                let columns = self.encoders.create_column_writers(0).map_err(|e| failed(&path, &e))?;
                self.groups.push_back(Group { part: self.part, rows: 0, full: false, waiting: Vec::new(), columns, encoded: Vec::new() });
            }
            let Some(group) = self.groups.back_mut() else { break };
            let rest = batch.split_off(batch.len().min(ROW_GROUP - group.rows));
            group.rows += batch.len();
            group.full = group.rows == ROW_GROUP;
            group.waiting.push(batch);
            batch = rest;
        }
        if self.part_bytes >= PART_BYTES {
            self.part += 1;
            self.part_bytes = 0;
            if let Some(group) = self.groups.back_mut() {
                group.full = true;
            }
        }
        let full = self.groups.len() - usize::from(self.groups.back().is_some_and(|g| !g.full));
        if self.waiting >= self.most_waiting || full >= rayon::current_num_threads() { self.encode() } else { Ok(()) }
    }

    /// Encode all that waits, and put the full row groups into their files.
    fn encode(&mut self) -> Result<()> {
        let dir = &self.dir;
        self.groups.par_iter_mut().try_for_each(|group| group.encode().map_err(|e| failed(&part_path(dir, group.part), &e)))?;
        self.waiting = 0;
        while let Some(group) = self.groups.pop_front_if(|g| g.full) {
            let path = part_path(&self.dir, group.part);
            if group.part != self.file_part {
                self.close()?;
                (self.file, self.encoders) = open(&path)?;
                self.file_part = group.part;
            }
            let append = || -> parquet::errors::Result<()> {
                let mut row_group = self.file.next_row_group()?;
                for column in group.encoded {
                    column.append_to_row_group(&mut row_group)?;
                }
                row_group.close().map(|_| ())
            };
            append().map_err(|e| failed(&path, &e))?;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.file.finish().map(|_| ()).map_err(|e| failed(&part_path(&self.dir, self.file_part), &e))
    }

    /// Write what is buffered and put the folder in its place. An empty folder gets one empty part.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        if let Some(group) = self.groups.back_mut() {
            group.full = true;
        }
        self.encode()?;
        self.close()?;
        Ok(self.dir.commit()?)
    }
}

fn part_path(dir: &AtomicDir, part: usize) -> PathBuf {
    dir.path().join(format!("part-{part:05}.parquet"))
}

fn failed(path: &Path, error: &ParquetError) -> Error {
    Error::Format { path: path.to_path_buf(), message: format!("cannot write Parquet: {error}") }
}

/// A new part and what makes the encoders of its row groups.
fn open(path: &Path) -> Result<(SerializedFileWriter<File>, ArrowRowGroupWriterFactory)> {
    let file = File::create(path).map_err(io(path, "cannot create"))?;
    let writer = properties().and_then(|properties| ArrowWriter::try_new(file, schema(), Some(properties)));
    writer.and_then(ArrowWriter::into_serialized_writer).map_err(|e| failed(path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The folder as one writer of the Parquet crate would fill it, batch by batch.
    fn plain(documents: &[Document], dir: &Path) {
        let mut part = 0;
        let mut open: Option<(ArrowWriter<File>, usize)> = None;
        let mut at = 0;
        while at < documents.len() {
            let (mut end, mut bytes) = (at, 0);
            while end < documents.len() && end - at < BATCH && bytes < BATCH_BYTES {
                bytes += documents[end].text.len();
                end += 1;
            }
            let (writer, written) = open.get_or_insert_with(|| {
                let file = File::create(dir.join(format!("part-{part:05}.parquet"))).unwrap();
                (ArrowWriter::try_new(file, schema(), Some(properties().unwrap())).unwrap(), 0)
            });
            writer.write(&to_batch(&documents[at..end]).unwrap()).unwrap();
            *written += bytes;
            if *written >= PART_BYTES {
                open.take().unwrap().0.close().unwrap();
                part += 1;
            }
            at = end;
        }
        if let Some((writer, _)) = open {
            writer.close().unwrap();
        }
    }

    #[test]
    fn any_number_of_threads_writes_the_bytes_of_one_plain_writer() {
        // Large ones end batches early, so that a row group ends within a batch, and end a part within a row group.
        let document = |i: usize| Document {
            id: format!("d{i}"),
            text: if i % 251 == 7 { format!("{i} ").repeat(1 << 19) } else { format!("text {} of {i} ", i % 37).repeat(1 + i % 60) },
            url: (i.is_multiple_of(2)).then(|| format!("https://example.org/{i}")),
            lang_score: (!i.is_multiple_of(5)).then_some(i as f32),
            domain: "web".into(),
            ..Document::default()
        };
        let documents: Vec<Document> = (0..17_000).map(document).collect();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("plain")).unwrap();
        plain(&documents, &dir.path().join("plain"));
        let expected = llm_run::hash::path(dir.path().join("plain")).unwrap();
        assert!(std::fs::read_dir(dir.path().join("plain")).unwrap().count() > 1, "more than one part");
        for (threads, memory) in [(1, WAITING_BYTES), (2, WAITING_BYTES), (3, 1), (5, 1 << 30)] {
            let out = dir.path().join(format!("{threads}-{memory}"));
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut writer = DocumentWriter::with_memory(&out, memory).unwrap();
                documents.iter().for_each(|d| writer.push(d.clone()).unwrap());
                writer.finish().unwrap();
            });
            assert_eq!(llm_run::hash::path(&out).unwrap(), expected, "{threads} threads, {memory} bytes");
        }
    }
}
