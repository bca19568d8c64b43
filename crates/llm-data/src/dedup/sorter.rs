//! Sorting more records than memory holds: sorted runs on disk, then one merge.
//!
//! Records have a fixed size and a total order that includes every field, so the sorted sequence depends on the records alone:
//! neither the memory nor the number of threads nor the order of arrival changes it.

use crate::error::{Result, check_interrupt, io};
use rayon::slice::ParallelSliceMut;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// A value of fixed size with a total order.
pub trait Record: Copy + Ord + Send + Sync + std::fmt::Debug {
    /// Bytes on disk.
    const BYTES: usize;
    /// Append the bytes.
    fn put(&self, out: &mut Vec<u8>);
    /// Read back from exactly [`Record::BYTES`] bytes.
    fn get(bytes: &[u8]) -> Self;
}

/// A struct of integers that is a [`Record`]; its order is that of its fields.
macro_rules! record {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $kind:ty),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name { $($(#[$doc])* pub $field: $kind),+ }
        impl $crate::dedup::sorter::Record for $name {
            const BYTES: usize = 0 $(+ size_of::<$kind>())+;
            fn put(&self, out: &mut Vec<u8>) {
                $(out.extend_from_slice(&self.$field.to_le_bytes());)+
            }
            fn get(bytes: &[u8]) -> Self {
                let mut at = 0;
                $(
                    let mut $field = [0u8; size_of::<$kind>()];
                    $field.copy_from_slice(&bytes[at..at + size_of::<$kind>()]);
                    at += size_of::<$kind>();
                )+
                let _ = at;
                Self { $($field: <$kind>::from_le_bytes($field)),+ }
            }
        }
    };
}
pub(crate) use record;

/// Least buffer of one run while merging.
const LEAST_BUFFER: usize = 64 << 10;

/// Collects records and gives them back in order, with about `memory` bytes in use.
#[derive(Debug)]
pub struct Sorter<R: Record> {
    dir: PathBuf,
    name: String,
    memory: usize,
    buffer: Vec<R>,
    capacity: usize,
    runs: Vec<PathBuf>,
    made: usize,
}

impl<R: Record> Sorter<R> {
    /// Runs go to `dir`, named after `name`.
    pub fn new(dir: &Path, name: &str, memory: usize) -> Self {
        let capacity = (memory / size_of::<R>()).max(16);
        Self { dir: dir.to_path_buf(), name: name.to_string(), memory, buffer: Vec::new(), capacity, runs: Vec::new(), made: 0 }
    }

    /// Add one.
    pub fn push(&mut self, record: R) -> Result<()> {
        if self.buffer.len() == self.capacity {
            self.spill()?;
        }
        self.reserve();
        self.buffer.push(record);
        Ok(())
    }

    /// Growing by doubling would take one and a half times the memory for a moment, beyond what was allowed.
    fn reserve(&mut self) {
        if self.buffer.len() == self.buffer.capacity() {
            let more = (self.buffer.len().max(1024)).min(self.capacity - self.buffer.len());
            self.buffer.reserve_exact(more);
        }
    }

    /// Number of runs on disk so far.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    fn run_path(&mut self) -> PathBuf {
        let path = self.dir.join(format!("{}-run-{:05}", self.name, self.made));
        self.made += 1;
        path
    }

    fn spill(&mut self) -> Result<()> {
        check_interrupt()?;
        self.buffer.par_sort_unstable();
        let path = self.run_path();
        self.runs.push(path.clone());
        let mut writer = RecordWriter::create(&path)?;
        for record in &self.buffer {
            writer.push(record)?;
        }
        writer.finish()?;
        self.buffer.clear();
        Ok(())
    }

    /// All of them in order.
    pub fn finish(mut self) -> Result<Sorted<R>> {
        if self.runs.is_empty() {
            self.buffer.par_sort_unstable();
            return Ok(Sorted::Memory(std::mem::take(&mut self.buffer).into_iter()));
        }
        if !self.buffer.is_empty() {
            self.spill()?;
        }
        self.buffer = Vec::new();
        let fan_in = (self.memory / LEAST_BUFFER).clamp(2, 256);
        while self.runs.len() > fan_in {
            check_interrupt()?;
            let some: Vec<PathBuf> = self.runs.drain(..fan_in).collect();
            let path = self.run_path();
            self.runs.push(path.clone());
            let mut writer = RecordWriter::create(&path)?;
            for record in Merge::<R>::open(some, self.memory)? {
                writer.push(&record?)?;
            }
            writer.finish()?;
        }
        Ok(Sorted::Merge(Merge::open(std::mem::take(&mut self.runs), self.memory)?))
    }
}

impl<R: Record> Drop for Sorter<R> {
    fn drop(&mut self) {
        for run in &self.runs {
            let _ = std::fs::remove_file(run);
        }
    }
}

/// Records in order.
#[derive(Debug)]
pub enum Sorted<R: Record> {
    /// Everything fitted.
    Memory(std::vec::IntoIter<R>),
    /// Merged from disk.
    Merge(Merge<R>),
}

impl<R: Record> Iterator for Sorted<R> {
    type Item = Result<R>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Memory(records) => records.next().map(Ok),
            Self::Merge(merge) => merge.next(),
        }
    }
}

/// A merge of sorted runs, which are removed afterwards.
#[derive(Debug)]
pub struct Merge<R: Record> {
    readers: Vec<RecordReader<R>>,
    heads: BinaryHeap<Reverse<(R, usize)>>,
    files: Vec<PathBuf>,
}

impl<R: Record> Merge<R> {
    fn open(files: Vec<PathBuf>, memory: usize) -> Result<Self> {
        let buffer = (memory / files.len().max(1)).clamp(LEAST_BUFFER, 4 << 20);
        let mut merge = Self { readers: Vec::new(), heads: BinaryHeap::new(), files };
        for index in 0..merge.files.len() {
            let mut reader = RecordReader::with_buffer(&merge.files[index], buffer)?;
            if let Some(first) = reader.next() {
                merge.heads.push(Reverse((first?, index)));
            }
            merge.readers.push(reader);
        }
        Ok(merge)
    }
}

impl<R: Record> Iterator for Merge<R> {
    type Item = Result<R>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut top = self.heads.peek_mut()?;
        let Reverse((record, index)) = *top;
        match self.readers[index].next() {
            Some(Ok(next)) => *top = Reverse((next, index)),
            Some(Err(error)) => return Some(Err(error)),
            None => {
                std::collections::binary_heap::PeekMut::pop(top);
            }
        }
        Some(Ok(record))
    }
}

impl<R: Record> Drop for Merge<R> {
    fn drop(&mut self) {
        for file in &self.files {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Writes records one after the other.
#[derive(Debug)]
pub struct RecordWriter {
    path: PathBuf,
    writer: BufWriter<File>,
    scratch: Vec<u8>,
}

impl RecordWriter {
    /// A new file.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(io(path, "cannot create"))?;
        Ok(Self { path: path.to_path_buf(), writer: BufWriter::with_capacity(1 << 18, file), scratch: Vec::new() })
    }

    /// Add one.
    pub fn push<R: Record>(&mut self, record: &R) -> Result<()> {
        self.scratch.clear();
        record.put(&mut self.scratch);
        self.writer.write_all(&self.scratch).map_err(io(&self.path, "cannot write"))
    }

    /// Add bytes that are not records.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).map_err(io(&self.path, "cannot write"))
    }

    /// Flush.
    pub fn finish(mut self) -> Result<()> {
        self.writer.flush().map_err(io(&self.path, "cannot write"))
    }
}

/// Reads a file of records.
#[derive(Debug)]
pub struct RecordReader<R: Record> {
    path: PathBuf,
    reader: BufReader<File>,
    scratch: Vec<u8>,
    left: u64,
    kind: PhantomData<R>,
}

impl<R: Record> RecordReader<R> {
    /// Open it.
    pub fn open(path: &Path) -> Result<Self> {
        Self::with_buffer(path, 1 << 18)
    }

    /// Open it at record `index`, to read a few from there.
    pub fn from_record(path: &Path, index: u64) -> Result<Self> {
        let mut reader = Self::with_buffer(path, 1 << 14)?;
        reader.reader.seek(SeekFrom::Start(index * R::BYTES as u64)).map_err(io(path, "cannot read"))?;
        reader.left = reader.left.saturating_sub(index);
        Ok(reader)
    }

    fn with_buffer(path: &Path, buffer: usize) -> Result<Self> {
        let file = File::open(path).map_err(io(path, "cannot open"))?;
        let bytes = file.metadata().map_err(io(path, "cannot read"))?.len();
        if bytes % R::BYTES as u64 != 0 {
            return Err(crate::Error::Format {
                path: path.to_path_buf(),
                message: format!("{bytes} bytes are no whole number of {}-byte records; remove the work folder and run again", R::BYTES),
            });
        }
        let left = bytes / R::BYTES as u64;
        Ok(Self { path: path.to_path_buf(), reader: BufReader::with_capacity(buffer, file), scratch: vec![0; R::BYTES], left, kind: PhantomData })
    }
}

impl<R: Record> Iterator for RecordReader<R> {
    type Item = Result<R>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        Some(self.reader.read_exact(&mut self.scratch).map_err(io(&self.path, "cannot read")).map(|()| R::get(&self.scratch)))
    }
}

/// Spreads records over files by partition; small buffers, so that any number of partitions fits into `memory`.
#[derive(Debug)]
pub struct Partitioned {
    dir: PathBuf,
    name: String,
    buffers: Vec<Vec<u8>>,
    used: usize,
    memory: usize,
}

/// The file of one partition.
pub fn partition_path(dir: &Path, name: &str, partition: usize) -> PathBuf {
    dir.join(format!("{name}-{partition:05}.bin"))
}

/// The partition of a uniformly distributed key.
pub fn range_of(key: u64, ranges: usize) -> usize {
    ((u128::from(key) * ranges as u128) >> 64) as usize
}

impl Partitioned {
    /// Files `NAME-00000.bin`, … in `dir`; a partition without records has no file.
    pub fn new(dir: &Path, name: &str, partitions: usize, memory: usize) -> Self {
        Self { dir: dir.to_path_buf(), name: name.to_string(), buffers: vec![Vec::new(); partitions], used: 0, memory }
    }

    /// Add one.
    pub fn push<R: Record>(&mut self, partition: usize, record: &R) -> Result<()> {
        record.put(&mut self.buffers[partition]);
        self.used += R::BYTES;
        if self.used >= self.memory { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        for (partition, buffer) in self.buffers.iter_mut().enumerate().filter(|(_, b)| !b.is_empty()) {
            let path = partition_path(&self.dir, &self.name, partition);
            let mut file = File::options().create(true).append(true).open(&path).map_err(io(&path, "cannot create"))?;
            file.write_all(buffer).map_err(io(&path, "cannot write"))?;
            // Buffers grow by doubling; giving them back keeps the sum near the limit whatever the skew.
            *buffer = Vec::new();
        }
        self.used = 0;
        Ok(())
    }

    /// Write what is buffered.
    pub fn finish(mut self) -> Result<()> {
        self.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    record!(Pair { key: u64, doc: u32 });

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn any_memory_gives_the_sorted_sequence(keys in proptest::collection::vec(0u64..500, 0..3000), memory in 1usize..60_000) {
            let dir = tempfile::tempdir().unwrap();
            let mut sorter = Sorter::new(dir.path(), "x", memory);
            let mut expected: Vec<Pair> = keys.iter().enumerate().map(|(i, k)| Pair { key: *k, doc: i as u32 }).collect();
            for pair in &expected {
                sorter.push(*pair).unwrap();
            }
            let spilled = sorter.runs();
            expected.sort();
            let got: Vec<Pair> = sorter.finish().unwrap().map(Result::unwrap).collect();
            prop_assert_eq!(got, expected);
            prop_assert!(spilled > 0 || keys.len() <= (memory / 16).max(16));
            prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "runs left behind");
        }
    }

    #[test]
    fn partitions_hold_every_record_once_and_a_cut_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut parts = Partitioned::new(dir.path(), "p", 7, 100);
        for i in 0..1000u64 {
            let key = i.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            parts.push(range_of(key, 7), &Pair { key, doc: i as u32 }).unwrap();
        }
        parts.finish().unwrap();
        let mut all: Vec<Pair> = Vec::new();
        for p in 0..7 {
            for pair in RecordReader::<Pair>::open(&partition_path(dir.path(), "p", p)).unwrap() {
                let pair = pair.unwrap();
                assert_eq!(range_of(pair.key, 7), p);
                all.push(pair);
            }
        }
        all.sort_by_key(|p| p.doc);
        assert_eq!(all.iter().map(|p| p.doc).collect::<Vec<_>>(), (0..1000).collect::<Vec<_>>());
        let path = partition_path(dir.path(), "p", 0);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(RecordReader::<Pair>::open(&path).unwrap_err().to_string().contains("work folder"));
    }
}
