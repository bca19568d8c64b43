//! Phase 4, per range of hash values: lines, paragraphs and stretches that an earlier place of the kept documents has.
//!
//! Documents that go as a whole are left out first, so a line whose first occurrence goes with its document is not lost.

use super::config::{DedupConfig, Method};
use super::ranges::sorted;
use super::records::{AnchorRecord, Cut, Decision, SpanRecord};
use super::remove::SUBSTRING;
use super::sorter::{Partitioned, RecordReader};
use super::substring::Context;
use super::work::{Plan, Work};
use crate::error::{Result, io};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Different surroundings of one place that later ones are compared with.
const MOST_CONTEXTS: usize = 32;

/// Strings of `signatures::Strings`, found by document.
pub(super) struct StringFiles<'a> {
    plan: &'a Plan,
    files: Vec<(PathBuf, File, PathBuf, File)>,
}

impl<'a> StringFiles<'a> {
    /// `NAME.bin` and `NAME.idx` of every unit.
    pub(super) fn open(work: &Work, plan: &'a Plan, name: &str) -> Result<Self> {
        let open = |unit: usize| {
            let dir = work.dir("signatures", unit);
            let (bytes, ends) = (dir.join(format!("{name}.bin")), dir.join(format!("{name}.idx")));
            let file = |path: &Path| File::open(path).map_err(io(path, "cannot open"));
            Ok((bytes.clone(), file(&bytes)?, ends.clone(), file(&ends)?))
        };
        (0..plan.units.len()).map(open).collect::<Result<_>>().map(|files| Self { plan, files })
    }

    fn range(&self, doc: u32) -> Result<(usize, u64, u64)> {
        let unit = self.plan.unit_of(doc);
        let (_, _, path, ends) = &self.files[unit];
        let row = u64::from(doc - self.plan.units[unit].first);
        let mut bytes = [0u8; 16];
        if row == 0 {
            ends.read_exact_at(&mut bytes[8..], 0).map_err(io(path, "cannot read"))?;
        } else {
            ends.read_exact_at(&mut bytes, 8 * (row - 1)).map_err(io(path, "cannot read"))?;
        }
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Ok((unit, number(0), number(8)))
    }

    /// Bytes `start..end` of the string of document `doc`.
    pub(super) fn bytes(&self, doc: u32, start: usize, end: usize) -> Result<Vec<u8>> {
        let (unit, first, _) = self.range(doc)?;
        let mut bytes = vec![0; end - start];
        let (path, file, ..) = &self.files[unit];
        file.read_exact_at(&mut bytes, first + start as u64).map_err(io(path, "cannot read"))?;
        Ok(bytes)
    }

    /// The whole string.
    pub(super) fn string(&self, doc: u32) -> Result<String> {
        let (_, first, end) = self.range(doc)?;
        self.bytes(doc, 0, (end - first) as usize).map(|b| String::from_utf8_lossy(&b).into_owned())
    }
}

/// One bit per document: goes as a whole.
fn gone(work: &Work, plan: &Plan) -> Result<Vec<u64>> {
    let mut bits = vec![0u64; (plan.documents as usize).div_ceil(64)];
    for decision in RecordReader::<Decision>::open(&work.dir("cluster", 0).join("decisions.bin"))? {
        let doc = decision?.doc;
        bits[doc as usize / 64] |= 1 << (doc % 64);
    }
    Ok(bits)
}

/// Phase 4 of one range: files `cut-UNIT.bin`.
pub fn range(work: &Work, plan: &Plan, config: &DedupConfig, range: usize, dir: &Path) -> Result<()> {
    let gone = gone(work, plan)?;
    let goes = |doc: u32| gone[doc as usize / 64] >> (doc % 64) & 1 == 1;
    let mut cuts = Partitioned::new(dir, "cut", plan.units.len(), plan.memory / 16);
    let mut cut = |cut: Cut| cuts.push(plan.unit_of(cut.doc), &cut);
    if config.has(Method::Line) || config.has(Method::Paragraph) {
        let mut head: Option<SpanRecord> = None;
        for record in sorted::<SpanRecord>(work, plan, dir, "span", range, plan.memory / 2)? {
            let record = record?;
            if goes(record.doc) {
                continue;
            }
            match head {
                Some(h) if (h.hi, h.lo, h.kind) == (record.hi, record.lo, record.kind) => {
                    cut(Cut { doc: record.doc, start: record.start, end: record.end, of: h.doc, method: record.kind })?;
                }
                _ => head = Some(record),
            }
        }
    }
    if config.has(Method::Substring) {
        let texts = StringFiles::open(work, plan, "text")?;
        let n = config.min_substring_bytes;
        let context = |anchor: AnchorRecord| {
            let (start, end) = anchor.span(n);
            texts.bytes(anchor.doc, start, end).map(|bytes| Context { anchor, bytes })
        };
        let (mut first, mut contexts): (Option<AnchorRecord>, Vec<Context>) = (None, Vec::new());
        for record in sorted::<AnchorRecord>(work, plan, dir, "anchor", range, plan.memory / 2)? {
            let record = record?;
            if goes(record.doc) {
                continue;
            }
            let Some(head) = first.filter(|f| f.key == record.key) else {
                // The bytes of a place that is alone are not read.
                first = Some(record);
                contexts.clear();
                continue;
            };
            if contexts.is_empty() {
                contexts.push(context(head)?);
            }
            let here = context(record)?;
            let mut whole = false;
            for other in &contexts {
                let (start, end) = here.common(other);
                if end - start >= n {
                    cut(Cut { doc: record.doc, start: start as u32, end: end as u32, of: other.anchor.doc, method: SUBSTRING })?;
                    whole |= (start, end) == record.span(n);
                }
            }
            if !whole && contexts.len() < MOST_CONTEXTS {
                contexts.push(here);
            }
        }
    }
    cuts.finish()
}
