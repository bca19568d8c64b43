//! Phase 3, once: which documents are one, and which of them stays.
//!
//! Buckets of the banding hold documents that may be unrelated, so each document of a bucket is compared with the bucket's heads in
//! turn and becomes a head itself when it matches none. Here this goes in rounds: all pairs of a round are sorted, so that a pair that
//! met in many bands is compared once and the signatures are read in order, and the documents that failed go on to the next round with
//! the first of them as the new head.

use super::array::{Array, Sets};
use super::config::{DedupConfig, Keep, Method};
use super::records::{Candidate, Decision, Edge, Estimate, Failed};
use super::remove::{EXACT, MINHASH, SIMHASH};
use super::sorter::{RecordReader, RecordWriter, Sorter};
use super::work::{Plan, Work};
use crate::error::{Error, Result, check_interrupt, io};
use rayon::prelude::*;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Heads of one bucket; documents that match none of that many are not compared further.
const MOST_HEADS: usize = 16;

/// Stored signatures, read by document.
struct Components<'a> {
    plan: &'a Plan,
    files: Vec<(PathBuf, File)>,
    width: usize,
    count: usize,
}

impl<'a> Components<'a> {
    fn open(work: &Work, plan: &'a Plan, config: &DedupConfig) -> Result<Self> {
        let open = |unit: usize| {
            let path = work.dir("signatures", unit).join("components.bin");
            File::open(&path).map_err(io(&path, "cannot open")).map(|file| (path.clone(), file))
        };
        let files = (0..plan.units.len()).map(open).collect::<Result<_>>()?;
        Ok(Self { plan, files, width: (config.signature_bits / 8) as usize, count: config.bands * config.rows })
    }

    fn bytes(&self) -> usize {
        self.width * self.count
    }

    fn read(&self, doc: u32, out: &mut [u8]) -> Result<()> {
        let unit = self.plan.unit_of(doc);
        let (path, file) = &self.files[unit];
        let at = u64::from(doc - self.plan.units[unit].first) * self.bytes() as u64;
        file.read_exact_at(out, at).map_err(io(path, "cannot read"))
    }

    /// Estimated similarities of pairs; every signature is read once.
    fn similarities(&self, pairs: &[(u32, u32)]) -> Result<Vec<f32>> {
        let mut docs: Vec<u32> = pairs.iter().flat_map(|p| [p.0, p.1]).collect();
        docs.par_sort_unstable();
        docs.dedup();
        let size = self.bytes();
        let mut all = vec![0u8; docs.len() * size];
        all.par_chunks_mut(size).zip(&docs).try_for_each(|(out, doc)| self.read(*doc, out))?;
        let of = |doc: u32| docs.binary_search(&doc).map_or(&all[..0], |i| &all[i * size..(i + 1) * size]);
        // Equal by chance: 2^-bits of the components that differ.
        let chance = if self.width < 4 { (-8.0 * self.width as f64).exp2() } else { 0.0 };
        let estimate = |(a, b): &(u32, u32)| {
            let equal = of(*a).chunks_exact(self.width).zip(of(*b).chunks_exact(self.width)).filter(|(x, y)| x == y).count();
            ((equal as f64 / self.count as f64 - chance) / (1.0 - chance)).max(0.0) as f32
        };
        Ok(pairs.par_iter().map(estimate).collect())
    }
}

/// Calls `found(candidate, similar)` for every candidate of a sorted sequence.
fn verify(
    components: &Components,
    candidates: impl Iterator<Item = Result<Candidate>>,
    memory: usize,
    mut found: impl FnMut(&Candidate, f32) -> Result<()>,
) -> Result<()> {
    // Per pair two signatures at worst, and the bookkeeping.
    let block = (memory / (2 * components.bytes() + 64)).max(16);
    let mut pairs: Vec<(u32, u32)> = Vec::new();
    let mut members: Vec<(Candidate, u32)> = Vec::new();
    let mut flush = |pairs: &mut Vec<(u32, u32)>, members: &mut Vec<(Candidate, u32)>| -> Result<()> {
        check_interrupt()?;
        let similarities = components.similarities(pairs)?;
        for (candidate, pair) in members.drain(..) {
            found(&candidate, similarities[pair as usize])?;
        }
        pairs.clear();
        Ok(())
    };
    for candidate in candidates {
        let candidate = candidate?;
        let pair = (candidate.head, candidate.doc);
        if pairs.last() != Some(&pair) {
            if pairs.len() == block {
                flush(&mut pairs, &mut members)?;
            }
            pairs.push(pair);
        }
        members.push((candidate, pairs.len() as u32 - 1));
        // One pair that met in very many buckets must not collect them all.
        if members.len() == 16 * block {
            flush(&mut pairs, &mut members)?;
        }
    }
    flush(&mut pairs, &mut members)
}

fn near(work: &Work, plan: &Plan, config: &DedupConfig, dir: &Path, sets: &mut Sets) -> Result<()> {
    let least = config.least_similarity();
    let read = |range: usize| RecordReader::<Candidate>::open(&work.dir("ranges", range).join("near.bin"));
    if least <= 0.0 {
        for range in 0..plan.ranges {
            for candidate in read(range)? {
                let candidate = candidate?;
                sets.unite(candidate.head, candidate.doc);
            }
        }
        return Ok(());
    }
    let components = Components::open(work, plan, config)?;
    let mut sorter = Sorter::<Candidate>::new(dir, "pairs", plan.memory / 4);
    for range in 0..plan.ranges {
        check_interrupt()?;
        for candidate in read(range)? {
            sorter.push(candidate?)?;
        }
    }
    for round in 1..=MOST_HEADS {
        let mut failed = Sorter::<Failed>::new(dir, "failed", plan.memory / 8);
        let mut any = false;
        verify(&components, sorter.finish()?, plan.memory / 4, |candidate, similarity| {
            // f32 holds the counts of equal components exactly enough to compare as the quotient does.
            if f64::from(similarity) + 1e-7 >= least {
                sets.unite(candidate.head, candidate.doc);
                Ok(())
            } else {
                any = true;
                failed.push(Failed { group: candidate.group, doc: candidate.doc })
            }
        })?;
        if !any || round == MOST_HEADS {
            break;
        }
        sorter = Sorter::new(dir, "pairs", plan.memory / 4);
        let mut head: Option<Failed> = None;
        for record in failed.finish()? {
            let record = record?;
            match head {
                Some(h) if h.group == record.group => sorter.push(Candidate { head: h.doc, doc: record.doc, group: h.group })?,
                _ => head = Some(record),
            }
        }
    }
    Ok(())
}

fn edges(work: &Work, plan: &Plan, name: &str, sets: &mut Sets) -> Result<()> {
    for range in 0..plan.ranges {
        check_interrupt()?;
        for edge in RecordReader::<Edge>::open(&work.dir("ranges", range).join(name))? {
            let edge = edge?;
            sets.unite(edge.a, edge.b);
        }
    }
    Ok(())
}

/// Ranks of the keep policy in the order of the documents.
fn ranks(work: &Work, plan: &Plan, keep: Keep) -> impl Iterator<Item = Result<u64>> {
    let paths: Vec<(PathBuf, u32)> = plan.units.iter().enumerate().map(|(u, unit)| (work.dir("signatures", u).join("rank.bin"), unit.rows)).collect();
    paths.into_iter().flat_map(move |(path, rows)| {
        let mut reader = None;
        (0..rows).map(move |_| {
            if keep == Keep::First {
                return Ok(0);
            }
            if reader.is_none() {
                reader = Some(BufReader::new(File::open(&path).map_err(io(&path, "cannot open"))?));
            }
            let mut bytes = [0; 8];
            match &mut reader {
                Some(r) => r.read_exact(&mut bytes).map_err(io(&path, "cannot read"))?,
                None => return Ok(0),
            }
            Ok(u64::from_le_bytes(bytes))
        })
    })
}

/// Read one rank; for the best so far of a set, which is rarely asked for.
struct RankFiles(Vec<(PathBuf, Option<File>)>);

impl RankFiles {
    fn open(work: &Work, plan: &Plan, keep: Keep) -> Result<Self> {
        let open = |unit: usize| {
            let path = work.dir("signatures", unit).join("rank.bin");
            let file = if keep == Keep::First { None } else { Some(File::open(&path).map_err(io(&path, "cannot open"))?) };
            Ok((path, file))
        };
        (0..plan.units.len()).map(open).collect::<Result<_>>().map(Self)
    }

    fn get(&self, plan: &Plan, doc: u32) -> Result<u64> {
        let unit = plan.unit_of(doc);
        let (path, file) = &self.0[unit];
        let Some(file) = file else { return Ok(0) };
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, 8 * u64::from(doc - plan.units[unit].first)).map_err(io(path, "cannot read"))?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// For every root the best document of its set.
fn best(work: &Work, plan: &Plan, keep: Keep, dir: &Path, sets: &mut Sets) -> Result<Array> {
    let files = RankFiles::open(work, plan, keep)?;
    let mut best = Array::new(&dir.join("best.bin"), plan.documents as usize, plan.memory / 4, |i| i)?;
    for (doc, rank) in (0..plan.documents).zip(ranks(work, plan, keep)) {
        let rank = rank?;
        let root = sets.find(doc);
        if root != doc && rank > files.get(plan, best.get(root))? {
            best.set(root, doc);
        }
    }
    Ok(best)
}

/// Phase 3: writes `decisions.bin`, one record per document that goes, in their order.
pub fn cluster(work: &Work, plan: &Plan, config: &DedupConfig, dir: &Path) -> Result<()> {
    let documents = plan.documents as usize;
    let mut sets = Sets::new(&dir.join("sets.bin"), documents, plan.memory / 4)?;
    // Documents that go because another has their very text.
    let mut same = vec![0u64; documents.div_ceil(64)];
    if config.has(Method::Exact) {
        edges(work, plan, "exact.bin", &mut sets)?;
        let best = best(work, plan, config.keep, dir, &mut sets)?;
        for doc in 0..plan.documents {
            if best.get(sets.find(doc)) != doc {
                same[doc as usize / 64] |= 1 << (doc % 64);
            }
        }
    }
    if config.has(Method::Minhash) {
        near(work, plan, config, dir, &mut sets)?;
    }
    if config.has(Method::Simhash) {
        edges(work, plan, "sim.bin", &mut sets)?;
    }
    let best = best(work, plan, config.keep, dir, &mut sets)?;
    let is_same = |doc: u32| same[doc as usize / 64] >> (doc % 64) & 1 == 1;

    // What the kept document and the one that goes have in common, for the audit.
    let mut pairs = Sorter::<Candidate>::new(dir, "kept", plan.memory / 8);
    for doc in 0..plan.documents {
        let kept = best.get(sets.find(doc));
        if kept != doc && !is_same(doc) {
            pairs.push(Candidate { head: kept, doc, group: 0 })?;
        }
    }
    let mut estimates = Sorter::<Estimate>::new(dir, "estimates", plan.memory / 8);
    if config.has(Method::Minhash) && config.least_similarity() > 0.0 {
        verify(&Components::open(work, plan, config)?, pairs.finish()?, plan.memory / 4, |pair, similarity| {
            estimates.push(Estimate { doc: pair.doc, similarity: similarity.to_bits() })
        })?;
    }
    let mut estimates = estimates.finish()?.peekable();
    let mut writer = RecordWriter::create(&dir.join("decisions.bin"))?;
    for doc in 0..plan.documents {
        let cluster = sets.find(doc);
        let kept = best.get(cluster);
        if kept == doc {
            continue;
        }
        let decision = if is_same(doc) {
            Decision { doc, kept, cluster, method: EXACT, similarity: 1f32.to_bits() }
        } else {
            let similarity = match estimates.next_if(|e| !matches!(e, Ok(e) if e.doc != doc)) {
                Some(estimate) => estimate?.similarity,
                None => f32::NAN.to_bits(),
            };
            let by_minhash =
                config.has(Method::Minhash) && !(config.has(Method::Simhash) && f64::from(f32::from_bits(similarity)) < config.least_similarity());
            Decision { doc, kept, cluster, method: if by_minhash { MINHASH } else { SIMHASH }, similarity }
        };
        writer.push(&decision)?;
    }
    writer.finish()?;
    for name in ["sets.bin", "best.bin"] {
        let path = dir.join(name);
        if path.exists() {
            std::fs::remove_file(&path).map_err(|source| Error::Io { path, action: "cannot remove", source })?;
        }
    }
    Ok(())
}
