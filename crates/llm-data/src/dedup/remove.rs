//! Phase 5, per part of the input: write what stays, and note what goes and why.

use super::audit::{AuditWriter, Entry};
use super::config::DedupConfig;
use super::records::{Cut, Decision};
use super::sorter::{Record, RecordReader, Sorted, Sorter, partition_path};
use super::spans::StringFiles;
use super::work::{Plan, Work};
use crate::document::{DocumentReader, DocumentWriter};
use crate::error::{Result, check_interrupt, io};
use crate::funnel::{Drop, Funnel, FunnelWriter, excerpt};
use llm_run::Progress;
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

/// The decisions from document `first` on.
fn decisions(path: &Path, first: u32) -> Result<RecordReader<Decision>> {
    let file = File::open(path).map_err(io(path, "cannot open"))?;
    let count = file.metadata().map_err(io(path, "cannot read"))?.len() / Decision::BYTES as u64;
    let at = |index: u64| -> Result<Decision> {
        let mut bytes = vec![0; Decision::BYTES];
        file.read_exact_at(&mut bytes, index * Decision::BYTES as u64).map_err(io(path, "cannot read"))?;
        Ok(Decision::get(&bytes))
    };
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = (low + high) / 2;
        if at(middle)?.doc < first { low = middle + 1 } else { high = middle }
    }
    RecordReader::<Decision>::from_record(path, low)
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

/// Phase 5 of one unit.
pub fn unit(work: &Work, plan: &Plan, config: &DedupConfig, unit: usize, dir: &Path, progress: &mut Progress) -> Result<Funnel> {
    let ids = StringFiles::open(work, plan, "ids")?;
    let mut decisions = decisions(&work.dir("cluster", 0).join("decisions.bin"), plan.units[unit].first)?.peekable();
    let mut cuts = cuts(work, plan, unit, dir)?;
    let mut funnel = FunnelWriter::create(dir, "dedup", &STEPS)?;
    let mut audit = AuditWriter::create(&dir.join("audit.parquet"))?;
    let mut writer = DocumentWriter::create(&dir.join("documents"))?;
    let mut doc = plan.units[unit].first;
    for batch in DocumentReader::open(&plan.units[unit].path)? {
        check_interrupt()?;
        let batch = batch?;
        progress.inc(batch.len() as u64);
        for mut document in batch {
            let bytes = document.text.len();
            funnel.input(bytes);
            let number = doc;
            doc += 1;
            let mut drop = |step: &str, value: serde_json::Value, threshold: serde_json::Value, text: &str| {
                funnel.drop(Drop { id: document.id.clone(), step: step.into(), value, threshold, text: excerpt(text) }, bytes)
            };
            if let Some(decision) = decisions.next_if(|d| !matches!(d, Ok(d) if d.doc != number)) {
                let decision = decision?;
                let kept = ids.string(decision.kept)?;
                let similarity = f32::from_bits(decision.similarity);
                let known = (!similarity.is_nan()).then_some(similarity);
                let rounded = known.map(|s| (f64::from(s) * 1e3).round() / 1e3);
                let value = |similarity: serde_json::Value| serde_json::json!({"duplicate_of": kept, "similarity": similarity});
                match decision.method {
                    EXACT => drop(STEPS[0], value(1.into()), "same normalised text".into(), &document.text)?,
                    SIMHASH => drop(STEPS[1], value(rounded.into()), format!("{} bits of 64", config.simhash_bits).into(), &document.text)?,
                    _ => drop(STEPS[1], value(rounded.into()), config.least_similarity().into(), &document.text)?,
                }
                audit.push(Entry {
                    id: document.id,
                    method: NAMES[usize::from(decision.method)].into(),
                    cluster: ids.string(decision.cluster)?,
                    kept,
                    similarity: known,
                    range: None,
                })?;
                continue;
            }
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
                    drop(NOTHING_LEFT, left.into(), config.min_chars_left.into(), &document.text)?;
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
