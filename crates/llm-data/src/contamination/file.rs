//! `contamination.idx`: the index as one file.
//!
//! `LLMCIDX1`, length of the header (u32), header (JSON: what it was made from, whole-text lengths, counts), keys of the heads of
//! whole texts and of n-grams (u64 each),
//! values (u32 each), sets (u32: number of items, items), BLAKE3 of all that. Little endian.

use super::index::{Index, IndexInfo, SET};
use crate::error::{Error, Result, io};
use serde::{Deserialize, Serialize};
use std::path::Path;

const MAGIC: &[u8; 8] = b"LLMCIDX1";

#[derive(Serialize, Deserialize)]
struct Header {
    info: IndexInfo,
    lengths: Vec<usize>,
    keys: usize,
    sets: usize,
    anchors: usize,
}

impl Index {
    /// Write to a file, atomically; returns its size in bytes.
    pub fn save(&self, path: &Path) -> Result<u64> {
        let header = Header {
            info: self.info.clone(),
            lengths: self.lengths.clone(),
            keys: self.keys.len(),
            sets: self.sets.len(),
            anchors: self.anchors.len(),
        };
        let header = serde_json::to_vec(&header).map_err(|e| Error::Config(format!("header of the contamination index: {e}")))?;
        let mut bytes = Vec::with_capacity(self.keys.len() * 12 + header.len() + 64);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&header);
        self.anchors.iter().chain(&self.keys).for_each(|k| bytes.extend_from_slice(&k.to_le_bytes()));
        self.values.iter().for_each(|v| bytes.extend_from_slice(&v.to_le_bytes()));
        for set in &self.sets {
            bytes.extend_from_slice(&(set.len() as u32).to_le_bytes());
            set.iter().for_each(|i| bytes.extend_from_slice(&i.to_le_bytes()));
        }
        bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
        llm_run::atomic::write(path, &bytes)?;
        Ok(bytes.len() as u64)
    }

    /// Read a file that [`Index::save`] wrote; the checksum is verified.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(io(path, "cannot read"))?;
        let damaged = |what: &str| Error::Format {
            path: path.to_path_buf(),
            message: format!("{what}; make the index again with `llm-data contamination-index`"),
        };
        let body = bytes.len().checked_sub(32).filter(|n| *n > 12).ok_or_else(|| damaged("too short for a contamination index"))?;
        if &bytes[..8] != MAGIC {
            return Err(damaged("not a contamination index"));
        }
        if blake3::hash(&bytes[..body]).as_bytes() != &bytes[body..] {
            return Err(damaged("the checksum does not match, the file is damaged or truncated"));
        }
        parse(&bytes[12..body], u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize)
            .ok_or_else(|| damaged("its parts do not fit together"))
    }
}

fn parse(bytes: &[u8], header_len: usize) -> Option<Index> {
    let header: Header = serde_json::from_slice(bytes.get(..header_len)?).ok()?;
    let rest = &bytes[header_len..];
    let anchors_end = header.anchors.checked_mul(8)?;
    let keys_end = header.keys.checked_mul(8)?.checked_add(anchors_end)?;
    let values_end = keys_end.checked_add(header.keys.checked_mul(4)?)?;
    let anchors: Vec<u64> = rest.get(..anchors_end)?.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
    let keys: Vec<u64> = rest.get(anchors_end..keys_end)?.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
    let values: Vec<u32> = rest.get(keys_end..values_end)?.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
    let mut numbers = rest.get(values_end..)?.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
    let mut sets = Vec::new();
    for _ in 0..header.sets {
        let n = numbers.next()? as usize;
        let set: Vec<u32> = numbers.by_ref().take(n).collect();
        sets.push((set.len() == n && n > 0).then_some(set)?);
    }
    let items: u64 = header.info.files.iter().map(|f| u64::from(f.items)).sum();
    let known = |v: &u32| if v & SET == 0 { u64::from(*v) < items } else { ((v & !SET) as usize) < sets.len() };
    let sane = (1..=64).contains(&header.info.n)
        && (1..=header.info.n).contains(&header.info.min_words)
        && header.lengths.iter().all(|l| (1..=64).contains(l));
    let benchmarks = header.info.benchmarks.len();
    if !sane
        || !values.iter().all(known)
        || sets.iter().flatten().any(|i| u64::from(*i) >= items)
        || header.info.files.iter().any(|f| f.benchmark >= benchmarks)
    {
        return None;
    }
    Some(Index::assemble(header.info, keys, values, sets, header.lengths, anchors))
}
