//! The documents of one part of a unit.
//!
//! A part that is a range of an object is turned into exactly the bytes of the lines or gzip members that begin in it, so the readers
//! know nothing of ranges: [`fn@bytes`] of all parts of an object, one after the other, are the object. Neighbours agree on where
//! one ends because both look for the first line or member at or after the same offset.

use super::unit::{Part, Split};
use crate::error::{Result, io};
use crate::read::format::{Body, Format, Input, Out, RandomAccess};
use crate::read::paths::{self, PathsConfig};
use crate::read::{codec, columnar};
use crate::store::{self, Object, ObjectAccess};
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that a search for a boundary reads at a time.
const WINDOW: u64 = 1 << 20;

/// Hand the outcomes of a part on, in order; `consumed` grows by the bytes that were read, as they lie there.
pub fn read(part: &Part, config: &PathsConfig, consumed: &Arc<AtomicU64>, emit: Out<'_>) -> Result<()> {
    let name = part.label.rsplit('/').next().unwrap_or_default();
    let (id, source, path) = (part.id(), paths::source(&part.label), part.object.location.display_path());
    let format = match Format::of(name) {
        Format::Unsupported => {
            let stream = codec::decoded(bytes(part)?, name).map_err(io(&path, "cannot read"))?;
            Format::of_content(name, &codec::peek(stream, 4096).0)
        }
        known => known,
    };
    let input = |id, body| Input { id, source: &source, path: path.clone(), license: None, body };
    if format == Format::Parquet {
        // Rows keep the numbers that they have in the whole file, so ids do not depend on how it is split.
        let access: Arc<dyn RandomAccess> = match part.object.location.as_local() {
            Some(path) => Arc::new(File::open(path).map_err(io(path, "cannot open"))?),
            None => Arc::new(ObjectAccess::new(part.object.clone())),
        };
        return columnar::parquet_part(input(&part.label, Body::Random(access)), config, part.start..part.end.max(1), emit);
    }
    let stream = Counted { inner: bytes(part)?, consumed: Arc::clone(consumed) };
    format.read(input(&id, Body::Stream(Box::new(stream))), config, emit)
}

struct Counted {
    inner: Box<dyn Read + Send>,
    consumed: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.consumed.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// The bytes of a part: of the whole object, or of the lines or members that begin in its range.
pub fn bytes(part: &Part) -> Result<Box<dyn Read + Send>> {
    let object = &part.object;
    if part.is_whole() {
        return Ok(Box::new(store::open(object, 0..object.size)?));
    }
    let boundary = |at: u64| match (at, Split::of(&part.label)) {
        (0, _) => Ok(0),
        (at, _) if at >= object.size => Ok(object.size),
        (at, Split::Members) => next_member(object, at),
        (at, _) => next_line(object, at),
    };
    let (start, end) = (boundary(part.start)?, boundary(part.end)?);
    Ok(Box::new(store::open(object, start..end)?))
}

/// Offset of the first line that begins at or after `from` (which is not 0).
fn next_line(object: &Object, from: u64) -> Result<u64> {
    let mut at = from - 1;
    while at < object.size {
        let window = store::get_range(&object.location, at..(at + WINDOW).min(object.size))?;
        if let Some(newline) = window.iter().position(|b| *b == b'\n') {
            return Ok(at + newline as u64 + 1);
        }
        at += window.len() as u64;
    }
    Ok(object.size)
}

/// Offset of the first gzip member of a web archive that begins at or after `from`: its first bytes are gzip's, and what they
/// decompress to begins like a record. The chance that compressed data look like that is nil in practice.
fn next_member(object: &Object, from: u64) -> Result<u64> {
    const MAGIC: [u8; 3] = [0x1f, 0x8b, 0x08];
    let mut at = from;
    while at < object.size {
        let end = (at + WINDOW).min(object.size);
        let window = store::get_range(&object.location, at..end)?;
        for i in memchr_all(&window, MAGIC[0]) {
            if window.len() - i < 3 && end < object.size {
                continue; // seen again at the beginning of the next window
            }
            if window[i..].starts_with(&MAGIC) && begins_a_record(object, at + i as u64)? {
                return Ok(at + i as u64);
            }
        }
        at = if end < object.size { end - 2 } else { end };
    }
    Ok(object.size)
}

fn memchr_all(bytes: &[u8], wanted: u8) -> impl Iterator<Item = usize> + '_ {
    bytes.iter().enumerate().filter(move |(_, b)| **b == wanted).map(|(i, _)| i)
}

fn begins_a_record(object: &Object, at: u64) -> Result<bool> {
    let head = store::get_range(&object.location, at..(at + (16 << 10)).min(object.size))?;
    let mut start = [0; 5];
    let read = flate2::read::GzDecoder::new(&head[..]).read_exact(&mut start);
    Ok(read.is_ok() && &start == b"WARC/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document;
    use crate::read::Outcome;
    use crate::store::Location;
    use crate::work::ProcessConfig;
    use crate::work::unit::{Unit, plan};
    use std::io::Write;

    fn units(path: &std::path::Path, unit_bytes: u64) -> Vec<Unit> {
        plan(&ProcessConfig { input: vec![path.display().to_string()], unit_bytes, ..ProcessConfig::default() }).unwrap()
    }

    fn pieces(path: &std::path::Path, unit_bytes: u64) -> Vec<Vec<u8>> {
        let read = |unit: &Unit| {
            let mut all = Vec::new();
            bytes(&unit.parts[0]).unwrap().read_to_end(&mut all).unwrap();
            all
        };
        units(path, unit_bytes).iter().map(read).collect()
    }

    #[test]
    fn lines_belong_to_the_unit_in_which_they_begin() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        // Lines of 0 to 3000 bytes, so that units hold many, one or none; the last has no line break.
        let text: String = (0..400).map(|i| format!("{}\n", "x".repeat((i * i * 7) % 3001))).collect::<String>() + "end";
        std::fs::write(&path, &text).unwrap();
        for unit_bytes in [1024, 1500, 4096, 100_000] {
            let pieces = pieces(&path, unit_bytes);
            assert!(pieces.len() > 4, "{unit_bytes}");
            assert!(pieces.concat() == text.as_bytes(), "{unit_bytes}: bytes are lost or doubled");
            assert!(
                pieces.iter().rev().skip_while(|p| p.is_empty()).skip(1).all(|p| p.is_empty() || p.ends_with(b"\n")),
                "{unit_bytes}: a line is cut"
            );
        }
    }

    #[test]
    fn gzip_members_of_a_web_archive_are_never_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.warc.gz");
        let mut archive = Vec::new();
        for i in 0..300usize {
            // Bodies that do not compress, with gzip's own magic number in them.
            let body: Vec<u8> = (0..(i * 37) % 900).map(|j| (j * j * 31 + i * 17) as u8).chain([0x1f, 0x8b, 0x08, 0x00]).collect();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            write!(encoder, "WARC/1.0\r\nWARC-Type: resource\r\nContent-Length: {}\r\n\r\n", body.len()).unwrap();
            encoder.write_all(&body).unwrap();
            encoder.write_all(b"\r\n\r\n").unwrap();
            archive.extend(encoder.finish().unwrap());
        }
        std::fs::write(&path, &archive).unwrap();
        let pieces = pieces(&path, 5000);
        assert!(pieces.len() > 5 && pieces.concat() == archive);
        for piece in &pieces {
            let mut text = Vec::new();
            flate2::read::MultiGzDecoder::new(&piece[..]).read_to_end(&mut text).unwrap();
            assert!(text.starts_with(b"WARC/1.0") && text.ends_with(b"\r\n\r\n"), "a record is cut");
        }
    }

    #[test]
    fn every_row_group_belongs_to_one_unit_and_rows_keep_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = document::DocumentWriter::create(&dir.path().join("documents")).unwrap();
        for i in 0..20_000 {
            let text = format!("document {i} {}", (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            writer.push(document::Document { id: format!("d{i}"), text, domain: "docs".into(), ..Default::default() }).unwrap();
        }
        writer.finish().unwrap();
        let path = dir.path().join("documents/part-00000.parquet");
        let mut seen = Vec::new();
        let units = units(&path, 50_000);
        assert!(units.len() > 3);
        for unit in &units {
            read(&unit.parts[0], &PathsConfig::default(), &Arc::default(), &mut |outcome| {
                if let Outcome::Keep(document) = outcome {
                    seen.push((document.id, document.text));
                }
                Ok(())
            })
            .unwrap();
        }
        assert_eq!(seen.len(), 20_000);
        assert!(
            seen.iter()
                .enumerate()
                .all(|(i, (id, text))| *id == format!("part-00000.parquet#{}", i + 1) && text.starts_with(&format!("document {i} ")))
        );
        assert_eq!(Location::local(&path).name(), "part-00000.parquet");
    }
}
