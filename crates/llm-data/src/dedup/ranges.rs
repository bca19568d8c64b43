//! Phase 2, per range of hash values: sort the records of all units, so that what has the same hash stands together.
//!
//! A bucket with more than one document yields pairs of its first with each of the others. Whether a pair of the banding is really
//! similar is asked in phase 3.

use super::config::{DedupConfig, Method};
use super::records::{BandRecord, Candidate, Edge, ExactRecord, SimRecord};
use super::sorter::{Record, RecordReader, RecordWriter, Sorted, Sorter, partition_path};
use super::work::{Plan, Work};
use crate::error::{Result, check_interrupt};
use std::path::Path;

/// Documents of one bucket of SimHashes that later ones are compared with.
const MOST_HEADS: usize = 64;

/// All records of one kind and range, in order.
pub(super) fn sorted<R: Record>(work: &Work, plan: &Plan, dir: &Path, name: &str, range: usize, memory: usize) -> Result<Sorted<R>> {
    let mut sorter = Sorter::<R>::new(dir, name, memory);
    for unit in 0..plan.units.len() {
        let path = partition_path(&work.dir("signatures", unit), name, range);
        if path.is_file() {
            check_interrupt()?;
            for record in RecordReader::<R>::open(&path)? {
                sorter.push(record?)?;
            }
        }
    }
    sorter.finish()
}

/// Phase 2 of one range.
pub fn range(work: &Work, plan: &Plan, config: &DedupConfig, range: usize, dir: &Path) -> Result<()> {
    let memory = plan.memory / 2;
    if config.has(Method::Exact) {
        let mut edges = RecordWriter::create(&dir.join("exact.bin"))?;
        let mut head: Option<ExactRecord> = None;
        for record in sorted::<ExactRecord>(work, plan, dir, "exact", range, memory)? {
            let record = record?;
            match head {
                Some(h) if (h.hi, h.lo) == (record.hi, record.lo) => edges.push(&Edge { a: h.doc, b: record.doc })?,
                _ => head = Some(record),
            }
        }
        edges.finish()?;
    }
    if config.has(Method::Minhash) {
        let mut pairs = RecordWriter::create(&dir.join("near.bin"))?;
        let mut head: Option<BandRecord> = None;
        let mut group = (range as u64) << 40;
        for record in sorted::<BandRecord>(work, plan, dir, "near", range, memory)? {
            let record = record?;
            match head {
                Some(h) if h.key == record.key => pairs.push(&Candidate { head: h.doc, doc: record.doc, group })?,
                _ => {
                    head = Some(record);
                    group += 1;
                }
            }
        }
        pairs.finish()?;
    }
    if config.has(Method::Simhash) {
        let mut edges = RecordWriter::create(&dir.join("sim.bin"))?;
        let mut heads: Vec<SimRecord> = Vec::new();
        for record in sorted::<SimRecord>(work, plan, dir, "sim", range, memory)? {
            let record = record?;
            if heads.first().is_some_and(|h| h.key != record.key) {
                heads.clear();
            }
            for head in heads.iter().filter(|h| (h.hash ^ record.hash).count_ones() <= config.simhash_bits) {
                edges.push(&Edge { a: head.doc, b: record.doc })?;
            }
            if heads.len() < MOST_HEADS {
                heads.push(record);
            }
        }
        edges.finish()?;
    }
    Ok(())
}
