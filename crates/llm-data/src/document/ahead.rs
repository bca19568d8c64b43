//! Reading documents on all threads: several slices of the files are decoded at once, and what is made of them comes in order.
//!
//! A slice is a row group, or a stretch of [`ROW_GROUP`] rows of a larger one. As many slices as there are threads are open; whenever
//! the results of the first one are used up, all of them go on in parallel until each holds its share of the memory. The work that
//! only needs the documents of one batch is done right after decoding, on the same thread, so that its result is held and not the text.

use super::{BATCH, Document, ROW_GROUP, RowReader, footer, parts};
use crate::error::Result;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use rayon::prelude::*;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Text bytes of one slice that are decoded ahead at most: more than most row groups have.
const AHEAD_BYTES: usize = 32 << 20;
/// Text bytes decoded ahead by stages that have no setting for it.
pub const MEMORY: usize = 128 << 20;

/// What is made of a batch: of the number of its first document in its file, from 0, and the documents.
pub trait Batch<T>: Fn(u64, Vec<Document>) -> Result<T> + Sync {}
impl<T, F: Fn(u64, Vec<Document>) -> Result<T> + Sync> Batch<T> for F {}

/// Results of a function over the batches of a file or folder, in their order; see the module.
pub struct Ahead<F, T> {
    work: F,
    files: std::vec::IntoIter<PathBuf>,
    slices: VecDeque<Slice>,
    open: VecDeque<Stream<T>>,
    most_open: usize,
    bytes: usize,
}

impl<F, T> std::fmt::Debug for Ahead<F, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ahead").field("files", &self.files).field("open", &self.open.len()).finish_non_exhaustive()
    }
}

/// Rows of one file that are read by themselves.
pub(super) struct Slice {
    pub(super) path: Arc<PathBuf>,
    /// The footer and the row group; without them the whole file is read.
    pub(super) group: Option<(ArrowReaderMetadata, usize)>,
    /// Number of the first row in the file.
    pub(super) first: u64,
    /// Rows of the group that are left out, and how many are read then; without it the whole group.
    pub(super) rows: Option<(usize, usize)>,
}

struct Stream<T> {
    /// `None` when all is decoded.
    reader: Option<RowReader>,
    ready: VecDeque<(usize, Result<T>)>,
    held: usize,
}

impl<T> Stream<T> {
    fn new(reader: Result<RowReader>) -> Self {
        let mut stream = Self { reader: None, ready: VecDeque::new(), held: 0 };
        match reader {
            Ok(reader) => stream.reader = Some(reader),
            Err(error) => stream.ready.push_back((0, Err(error))),
        }
        stream
    }

    /// Decode at least one batch, and more until `bytes` of text are held.
    fn fill(&mut self, bytes: usize, work: &impl Batch<T>) {
        while self.ready.is_empty() || self.held < bytes {
            let Some(reader) = &mut self.reader else { return };
            let first = reader.row();
            let Some(rows) = reader.next() else {
                self.reader = None;
                return;
            };
            let documents = rows.and_then(|rows| rows.into_iter().map(|row| row.into_document()).collect::<Result<Vec<Document>>>());
            let size = documents.as_ref().map_or(0, |d| d.iter().map(|d| d.text.len()).sum());
            let result = documents.and_then(|documents| work(first, documents));
            if result.is_err() {
                self.reader = None;
            }
            self.held += size;
            self.ready.push_back((size, result));
        }
    }
}

impl<T: Send, F: Batch<T>> Ahead<F, T> {
    /// The documents of a file, a folder of parts, or a stage's output folder, with about `memory` bytes of text held.
    pub fn open(path: &Path, memory: usize, work: F) -> Result<Self> {
        let threads = rayon::current_num_threads();
        // Less than a megabyte ahead is not worth a second decoder.
        let most_open = threads.min(memory >> 20).max(1);
        let bytes = if most_open == 1 { 0 } else { (memory / most_open).min(AHEAD_BYTES) };
        Ok(Self { work, files: parts(path)?.into_iter(), slices: VecDeque::new(), open: VecDeque::new(), most_open, bytes })
    }

    fn next_slice(&mut self) -> Option<Result<RowReader>> {
        loop {
            if let Some(slice) = self.slices.pop_front() {
                return Some(RowReader::slice(slice));
            }
            let path = self.files.next()?;
            if self.most_open == 1 {
                return Some(RowReader::open(&path));
            }
            match slices(&path) {
                Ok(slices) => self.slices = slices,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The slices of one file.
fn slices(path: &Path) -> Result<VecDeque<Slice>> {
    let (_, metadata) = footer(path)?;
    let path = Arc::new(path.to_path_buf());
    let groups: Vec<Option<usize>> = metadata.metadata().row_groups().iter().map(|g| usize::try_from(g.num_rows()).ok()).collect();
    let mut slices = VecDeque::new();
    let mut first = 0u64;
    for (group, rows) in groups.into_iter().enumerate() {
        // A damaged footer; reading the file as a whole says so.
        let Some(rows) = rows else { return Ok(VecDeque::from([Slice { path, group: None, first: 0, rows: None }])) };
        let slice = |first: u64, rows| Slice { path: Arc::clone(&path), group: Some((metadata.clone(), group)), first, rows };
        if rows <= ROW_GROUP + BATCH {
            slices.push_back(slice(first, None));
        } else {
            slices.extend((0..rows).step_by(ROW_GROUP).map(|at| slice(first.saturating_add(at as u64), Some((at, ROW_GROUP.min(rows - at))))));
        }
        first = first.saturating_add(rows as u64);
    }
    Ok(slices)
}

impl<T: Send, F: Batch<T>> Iterator for Ahead<F, T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(stream) = self.open.front_mut() {
                if let Some((size, result)) = stream.ready.pop_front() {
                    stream.held -= size;
                    return Some(result);
                }
                if stream.reader.is_none() {
                    self.open.pop_front();
                }
            }
            while self.open.len() < self.most_open {
                match self.next_slice() {
                    Some(reader) => self.open.push_back(Stream::new(reader)),
                    None => break,
                }
            }
            if self.open.is_empty() {
                return None;
            }
            let (work, bytes) = (&self.work, self.bytes);
            match self.most_open {
                1 => self.open.iter_mut().for_each(|stream| stream.fill(bytes, work)),
                _ => self.open.par_iter_mut().for_each(|stream| stream.fill(bytes, work)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{DocumentWriter, properties, read_all, schema, to_batch};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;
    use std::fs::File;

    fn document(i: usize) -> Document {
        Document {
            id: format!("d{i}"),
            text: format!("text {} of {i} ", i % 37).repeat(i % 50),
            url: (i.is_multiple_of(3)).then(|| format!("https://example.org/{}", i / 2)),
            domain: "web".into(),
            ..Document::default()
        }
    }

    /// Number of the first document and the documents, with that many threads.
    fn read(path: &Path, threads: usize, memory: usize) -> (Vec<u64>, Vec<Document>, Option<String>) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (mut firsts, mut all, mut error) = (Vec::new(), Vec::new(), None);
            for batch in Ahead::open(path, memory, |first, documents| Ok((first, documents))).unwrap() {
                match batch {
                    Ok((first, documents)) => {
                        firsts.extend(first..first + documents.len() as u64);
                        all.extend(documents);
                    }
                    Err(e) => {
                        error = Some(e.to_string());
                        break;
                    }
                }
            }
            (firsts, all, error)
        })
    }

    #[test]
    fn documents_come_in_order_from_many_parts_and_from_row_groups_of_any_size() {
        let dir = tempfile::tempdir().unwrap();
        let documents: Vec<Document> = (0..23_000).map(document).collect();
        let mut writer = DocumentWriter::create(&dir.path().join("ours")).unwrap();
        documents.iter().for_each(|d| writer.push(d.clone()).unwrap());
        writer.finish().unwrap();
        // One row group of all rows, as other programs may write it; and three parts of which one is empty.
        let large = WriterProperties::builder().set_max_row_group_row_count(None).build();
        for (name, properties, range) in [
            ("large/a", large, 0..documents.len()),
            ("parts/a", properties().unwrap(), 0..9000),
            ("parts/b", properties().unwrap(), 9000..9000),
            ("parts/c", properties().unwrap(), 9000..23_000),
        ] {
            let path = dir.path().join(format!("{name}.parquet"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), schema(), Some(properties)).unwrap();
            writer.write(&to_batch(&documents[range]).unwrap()).unwrap();
            writer.close().unwrap();
        }
        for name in ["ours", "large", "parts"] {
            for (threads, memory) in [(1, 1 << 30), (2, 1 << 30), (3, 4 << 20), (4, 1)] {
                let (firsts, all, error) = read(&dir.path().join(name), threads, memory);
                assert_eq!(error, None);
                assert!(all == documents, "{name}, {threads} threads, {memory} bytes");
                let expected: Vec<u64> = if name == "parts" { (0..9000).chain(0..14_000).collect() } else { (0..23_000).collect() };
                assert!(firsts == expected, "{name}: numbers within the file");
            }
        }
    }

    #[test]
    fn a_damaged_file_gives_what_stands_before_the_damage_and_one_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = DocumentWriter::create(&dir.path().join("documents")).unwrap();
        (0..20_000).for_each(|i| writer.push(document(i)).unwrap());
        writer.finish().unwrap();
        let path = dir.path().join("documents/part-00000.parquet");
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 64].fill(0xA5);
        std::fs::write(&path, &bytes).unwrap();
        assert!(read_all(dir.path()).is_err());
        for threads in [1, 3] {
            let (_, all, error) = read(dir.path(), threads, 1 << 30);
            assert!(all.len() >= ROW_GROUP && all.len() < 20_000, "{} documents", all.len());
            assert!(all.iter().enumerate().all(|(i, d)| *d == document(i)));
            let message = error.unwrap();
            assert!(message.contains("part-00000.parquet") && message.contains("after row"), "{message}");
        }
        std::fs::write(&path, &bytes[..middle]).unwrap();
        assert!(read(dir.path(), 3, 1 << 30).2.unwrap().contains("truncated"));
    }
}
