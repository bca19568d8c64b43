//! Phase 5, per part of the input: write what stays, and note what goes and why.

use super::audit::{AuditWriter, Entry};
use super::config::DedupConfig;
use super::records::{Cut, Decision};
use super::sorter::{Record, RecordReader, Sorted, Sorter, partition_path};
use super::spans::StringFiles;
use super::work::{Plan, Unit, Work};
use crate::document::{Ahead, Document, DocumentWriter};
use crate::error::{Result, check_interrupt, io};
use crate::funnel::{Drop, Funnel, FunnelWriter, excerpt};
use serde_json::{Value, json};
use std::fs::File;
use std::iter::Peekable;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Same text.
pub const EXACT: u8 = 0;
/// Similar by MinHash.
pub const MINHASH: u8 = 1;
/// Similar by SimHash.
pub const SIMHASH: u8 = 2;
/// A repeated line.
pub const LINE: u8 = 3;
/// A repeated paragraph.
pub const PARAGRAPH: u8 = 4;
/// A repeated stretch.
pub const SUBSTRING: u8 = 5;

/// Names of the methods in the audit.
const NAMES: [&str; 6] = ["exact", "minhash", "simhash", "line", "paragraph", "substring"];
/// Steps of the funnel.
pub(super) const STEPS: [&str; 2] = ["exact duplicate", "near duplicate"];
/// The step of documents of which too little is left.
const NOTHING_LEFT: &str = "nothing left";

/// The decisions on `count` documents from document `first` on.
fn decisions(path: &Path, first: u32, count: usize) -> Result<Vec<Decision>> {
    let file = File::open(path).map_err(io(path, "cannot open"))?;
    let records = file.metadata().map_err(io(path, "cannot read"))?.len() / Decision::BYTES as u64;
    let at = |index: u64| -> Result<Decision> {
        let mut bytes = vec![0; Decision::BYTES];
        file.read_exact_at(&mut bytes, index * Decision::BYTES as u64).map_err(io(path, "cannot read"))?;
        Ok(Decision::get(&bytes))
    };
    let (mut low, mut high) = (0, records);
    while low < high {
        let middle = (low + high) / 2;
        if at(middle)?.doc < first { low = middle + 1 } else { high = middle }
    }
    let end = u64::from(first) + count as u64;
    RecordReader::<Decision>::from_record(path, low)?.take_while(|d| !matches!(d, Ok(d) if u64::from(d.doc) >= end)).collect()
}

/// What becomes of a document as a whole.
enum Fate {
    Stays(Document),
    Goes { bytes: usize, drop: Drop, entry: Entry },
}

/// The record of a document that goes.
fn gone(document: Document, decision: &Decision, ids: &StringFiles, config: &DedupConfig) -> Result<Fate> {
    let kept = ids.string(decision.kept)?;
    let similarity = f32::from_bits(decision.similarity);
    let known = (!similarity.is_nan()).then_some(similarity);
    let rounded = known.map(|s| (f64::from(s) * 1e3).round() / 1e3);
    let (step, similarity, threshold): (&str, Value, Value) = match decision.method {
        EXACT => (STEPS[0], 1.into(), "same normalised text".into()),
        SIMHASH => (STEPS[1], rounded.into(), format!("{} bits of 64", config.simhash_bits).into()),
        _ => (STEPS[1], rounded.into(), config.least_similarity().into()),
    };
    let value = json!({"duplicate_of": kept, "similarity": similarity});
    let drop = Drop { id: document.id.clone(), step: step.into(), value, threshold, text: excerpt(&document.text) };
    let method = NAMES[usize::from(decision.method)].into();
    let entry = Entry { id: document.id, method, cluster: ids.string(decision.cluster)?, kept, similarity: known, range: None };
    Ok(Fate::Goes { bytes: document.text.len(), drop, entry })
}

fn cuts(work: &Work, plan: &Plan, unit: usize, dir: &Path) -> Result<Peekable<Sorted<Cut>>> {
    let mut sorter = Sorter::<Cut>::new(dir, "cuts", plan.memory / 4);
    for range in 0..plan.ranges {
        let path = partition_path(&work.dir("spans", range), "cut", unit);
        if path.is_file() {
            for cut in RecordReader::<Cut>::open(&path)? {
                sorter.push(cut?)?;
            }
        }
    }
    Ok(sorter.finish()?.peekable())
}

/// The text without the ranges, which are shrunk to whole characters.
fn without(text: &str, ranges: &[(usize, usize)]) -> String {
    let mut rest = String::with_capacity(text.len());
    let mut at = 0;
    for &(start, end) in ranges {
        let start = (start..=text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(text.len()).max(at);
        let end = (0..=end.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        if end > start {
            rest.push_str(&text[at..start]);
            at = end;
        }
    }
    rest.push_str(&text[at..]);
    rest
}

/// Phase 5 of one unit. `shown` is told how many documents were done.
pub fn unit(work: &Work, plan: &Plan, config: &DedupConfig, unit: usize, dir: &Path, shown: &(dyn Fn(u64) + Sync)) -> Result<Funnel> {
    let ids = StringFiles::open(work, plan, "ids")?;
    let decided = work.dir("cluster", 0).join("decisions.bin");
    let mut cuts = cuts(work, plan, unit, dir)?;
    let mut funnel = FunnelWriter::create(dir, "dedup", &STEPS)?;
    let mut audit = AuditWriter::create(&dir.join("audit.parquet"))?;
    let mut writer = DocumentWriter::with_memory(&dir.join("documents"), plan.memory / 4)?;
    let Unit { path, first, .. } = &plan.units[unit];
    let judge = |row: u64, documents: Vec<Document>| -> Result<Vec<Fate>> {
        let row = first.wrapping_add(row as u32);
        let mut decisions = decisions(&decided, row, documents.len())?.into_iter().peekable();
        let judge = |(number, document)| match decisions.next_if(|d| d.doc == number) {
            Some(decision) => gone(document, &decision, &ids, config),
            None => Ok(Fate::Stays(document)),
        };
        (row..).zip(documents).map(judge).collect()
    };
    let mut doc = *first;
    for batch in Ahead::open(path, plan.memory / 4, judge)? {
        check_interrupt()?;
        let batch = batch?;
        shown(batch.len() as u64);
        for fate in batch {
            let number = doc;
            doc += 1;
            let mut document = match fate {
                Fate::Stays(document) => document,
                Fate::Goes { bytes, drop, entry } => {
                    funnel.input(bytes);
                    funnel.drop(drop, bytes)?;
                    audit.push(entry)?;
                    continue;
                }
            };
            let bytes = document.text.len();
            funnel.input(bytes);
            let mut ranges = Vec::new();
            while let Some(cut) = cuts.next_if(|c| !matches!(c, Ok(c) if c.doc != number)) {
                let cut = cut?;
                ranges.push((cut.start as usize, cut.end as usize));
                let of = ids.string(cut.of)?;
                audit.push(Entry {
                    id: document.id.clone(),
                    method: NAMES[usize::from(cut.method)].into(),
                    cluster: of.clone(),
                    kept: of,
                    similarity: None,
                    range: Some((cut.start, cut.end)),
                })?;
            }
            if !ranges.is_empty() {
                let rest = without(&document.text, &ranges);
                let left = rest.trim().chars().count();
                if left < config.min_chars_left {
                    let (value, threshold, text) = (left.into(), config.min_chars_left.into(), excerpt(&document.text));
                    funnel.drop(Drop { id: document.id, step: NOTHING_LEFT.into(), value, threshold, text }, bytes)?;
                    continue;
                }
                funnel.count("documents cut", 1);
                funnel.count("bytes cut", (bytes - rest.len()) as u64);
                document.text = rest;
            }
            funnel.output(&document);
            writer.push(document)?;
        }
    }
    writer.finish()?;
    audit.finish()?;
    funnel.finish(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_whole_characters() {
        let text = "abcdefghij";
        assert_eq!(without(text, &[]), text);
        assert_eq!(without(text, &[(0, 2), (1, 4), (6, 8)]), "efij");
        assert_eq!(without(text, &[(2, 8), (3, 5), (9, 10)]), "abi");
        assert_eq!(without("aäöb", &[(2, 4)]), "aäöb", "half an ä and half an ö");
        assert_eq!(without("aäöb", &[(1, 4)]), "aöb");
        assert_eq!(without("ab", &[(0, 2)]), "");
    }
}
