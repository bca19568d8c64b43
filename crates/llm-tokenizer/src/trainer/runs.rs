//! Sorted runs of word counts on disk: what does not fit in memory is written in byte order and merged when it is read.
//!
//! A record is the length of the word, the word, and its count, both numbers as LEB128. A file ends with a record of length 0
//! and the number of records: a file cut short is an error, never a smaller corpus.

use crate::error::{Result, format, io};
use llm_run::atomic::AtomicFile;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

fn put(out: &mut impl Write, mut number: u64) -> std::io::Result<()> {
    while number >= 128 {
        out.write_all(&[number as u8 | 128])?;
        number >>= 7;
    }
    out.write_all(&[number as u8])
}

/// Write words, which come in byte order, whole or not at all.
pub fn write<'a>(path: &Path, words: impl Iterator<Item = (&'a [u8], u64)>) -> Result<()> {
    let mut writer = Writer::create(path)?;
    for (word, count) in words {
        writer.push(word, count)?;
    }
    writer.finish()
}

/// A run being written.
struct Writer {
    path: PathBuf,
    file: AtomicFile,
    records: u64,
}

impl Writer {
    fn create(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_path_buf(), file: AtomicFile::create(path)?, records: 0 })
    }

    fn push(&mut self, word: &[u8], count: u64) -> Result<()> {
        self.records += 1;
        let file = &mut self.file;
        put(file, word.len() as u64).and_then(|()| file.write_all(word)).and_then(|()| put(file, count)).map_err(io(&self.path, "cannot write"))
    }

    fn finish(mut self) -> Result<()> {
        let file = &mut self.file;
        put(file, 0).and_then(|()| put(file, self.records)).map_err(io(&self.path, "cannot write"))?;
        Ok(self.file.commit()?)
    }
}

/// One run being read.
struct Reader {
    path: PathBuf,
    input: BufReader<File>,
    records: u64,
}

impl Reader {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(io(path, "cannot open the word counts"))?;
        Ok(Self { path: path.to_path_buf(), input: BufReader::with_capacity(1 << 16, file), records: 0 })
    }

    fn number(&mut self) -> Result<u64> {
        let (mut number, mut shift, mut byte) = (0u64, 0, [0u8]);
        loop {
            self.input.read_exact(&mut byte).map_err(io(&self.path, "cannot read the word counts"))?;
            number |= u64::from(byte[0] & 127).checked_shl(shift).unwrap_or(0);
            if byte[0] < 128 {
                return Ok(number);
            }
            shift += 7;
        }
    }

    fn next(&mut self) -> Result<Option<(Vec<u8>, u64)>> {
        let length = self.number()?;
        if length == 0 {
            let expected = self.number()?;
            return match expected == self.records {
                true => Ok(None),
                false => Err(format(&self.path, format!("{} words, but its end says {expected}: delete the folder and start again", self.records))),
            };
        }
        let mut word = Vec::new();
        let read = self.input.by_ref().take(length).read_to_end(&mut word).map_err(io(&self.path, "cannot read the word counts"))?;
        if read as u64 != length {
            return Err(format(&self.path, "ends within a word: delete the folder and start again"));
        }
        self.records += 1;
        let count = self.number()?;
        Ok(Some((word, count)))
    }
}

/// Give `each` all words of several runs in byte order, counts of equal words added.
pub fn merge(paths: &[PathBuf], mut each: impl FnMut(&[u8], u64) -> Result<()>) -> Result<()> {
    let mut readers: Vec<Reader> = paths.iter().map(|path| Reader::open(path)).collect::<Result<_>>()?;
    let mut heap = BinaryHeap::new();
    for (i, reader) in readers.iter_mut().enumerate() {
        if let Some((word, count)) = reader.next()? {
            heap.push(Reverse((word, i, count)));
        }
    }
    let mut current: Option<(Vec<u8>, u64)> = None;
    while let Some(Reverse((word, i, count))) = heap.pop() {
        match &mut current {
            Some((open, total)) if *open == word => *total = total.saturating_add(count),
            _ => {
                if let Some((word, count)) = current.replace((word, count)) {
                    each(&word, count)?;
                }
            }
        }
        if let Some((word, count)) = readers[i].next()? {
            heap.push(Reverse((word, i, count)));
        }
    }
    current.map_or(Ok(()), |(word, count)| each(&word, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_merge_in_order_and_a_cut_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let long = "x".repeat(300);
        write(&a, [("a".as_bytes(), 1u64), ("c".as_bytes(), 1 << 40), (long.as_bytes(), 3)].into_iter()).unwrap();
        write(&b, [("b".as_bytes(), 2u64), ("c".as_bytes(), 5)].into_iter()).unwrap();
        let mut all = Vec::new();
        merge(&[a.clone(), b], |word, count| {
            all.push((String::from_utf8(word.to_vec()).unwrap(), count));
            Ok(())
        })
        .unwrap();
        assert_eq!(all, [("a".into(), 1), ("b".into(), 2), ("c".into(), (1 << 40) + 5), (long, 3)]);
        let bytes = std::fs::read(&a).unwrap();
        for length in 0..bytes.len() {
            std::fs::write(&a, &bytes[..length]).unwrap();
            assert!(merge(std::slice::from_ref(&a), |_, _| Ok(())).is_err(), "{length} bytes of {}", bytes.len());
        }
    }
}
