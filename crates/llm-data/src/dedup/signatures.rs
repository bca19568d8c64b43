//! Phase 1, per part of the input: everything later phases need to know of a document, in files cut by ranges of hash values.
//!
//! | file | holds |
//! |---|---|
//! | `exact-R.bin`, `near-R.bin`, `sim-R.bin`, `span-R.bin`, `anchor-R.bin` | records of range `R` |
//! | `components.bin` | the signature of each document, low bits of every component, to estimate similarities |
//! | `rank.bin` | how much a document is worth keeping, 8 bytes each |
//! | `ids.bin`, `text.bin` with `.idx` | ids (for the audit) and texts (for repeated stretches), found by offset |

use super::config::{DedupConfig, Keep, Method, Profile};
use super::datatrove::Datatrove;
use super::minhash::{self, MinHash};
use super::records::{AnchorRecord, BandRecord, ExactRecord, SimRecord, SpanRecord};
use super::sorter::{Partitioned, RecordWriter, range_of};
use super::work::{Plan, Unit};
use super::{exact, remove, simhash, substring};
use crate::document::{Ahead, Document};
use crate::error::{Error, Result, check_interrupt};
use rayon::prelude::*;
use std::path::Path;

/// Makes signatures of texts.
#[derive(Debug)]
pub enum Signer {
    /// Ours.
    Words(MinHash),
    /// datatrove's.
    Datatrove(Box<Datatrove>),
}

impl Signer {
    /// As configured.
    pub fn new(config: &DedupConfig) -> Self {
        let datatrove = |sha1| Self::Datatrove(Box::new(Datatrove::new(config.ngram, config.bands * config.rows, config.datatrove_seed, sha1)));
        match config.profile {
            Profile::Words => Self::Words(MinHash::new(config.ngram, config.bands, config.rows, config.seed)),
            Profile::DatatroveXxhash => datatrove(false),
            Profile::DatatroveSha1 => datatrove(true),
        }
    }

    /// The signature of a text; `u64::MAX` everywhere, or empty, for one without n-grams.
    pub fn signature(&self, text: &str) -> Vec<u64> {
        match self {
            Self::Words(minhash) => minhash.signature(text),
            Self::Datatrove(datatrove) => datatrove.signature(text),
        }
    }
}

/// What is known of one document.
#[derive(Debug, Clone, Default)]
pub struct Fingerprint {
    /// Hash of the text.
    pub exact: Option<(u64, u64)>,
    /// MinHash components.
    pub signature: Vec<u64>,
    /// SimHash.
    pub simhash: Option<u64>,
    /// Lines and paragraphs.
    pub spans: Vec<SpanRecord>,
    /// Chosen places.
    pub anchors: Vec<AnchorRecord>,
    /// The greater, the better to keep.
    pub rank: u64,
}

/// The order of the keep policy as a number.
fn rank(document: &Document, keep: Keep) -> u64 {
    match keep {
        Keep::First => 0,
        Keep::Longest => document.text.len() as u64,
        Keep::Quality => document.quality.filter(|q| !q.is_nan()).map_or(0, |q| {
            let bits = q.to_bits();
            1 + u64::from(if bits >> 31 == 0 { bits | 1 << 31 } else { !bits })
        }),
        Keep::Newest => {
            let digits = document.date.as_deref().unwrap_or_default().bytes().filter(u8::is_ascii_digit).chain(std::iter::repeat(b'0')).take(14);
            digits.fold(0, |n, d| 10 * n + u64::from(d - b'0'))
        }
    }
}

fn fingerprint(document: &Document, doc: u32, config: &DedupConfig, signer: &Signer) -> Fingerprint {
    let text = &document.text;
    let mut found = Fingerprint { rank: rank(document, config.keep), ..Fingerprint::default() };
    if config.has(Method::Exact) {
        found.exact = Some(exact::key(text));
    }
    if config.has(Method::Minhash) {
        found.signature = signer.signature(text);
    }
    if config.has(Method::Simhash) {
        found.simhash = simhash::simhash(&minhash::grams(text, config.ngram));
    }
    // Program source repeats itself lawfully; and places in a text are 32-bit numbers.
    if document.is_code() || u32::try_from(text.len()).is_err() {
        return found;
    }
    let mut add = |ranges: Vec<(usize, usize)>, kind: u8| {
        for (start, end) in ranges {
            let (hi, lo) = exact::key(&text[start..end]);
            found.spans.push(SpanRecord { hi, lo, kind, doc, start: start as u32, end: end as u32 });
        }
    };
    if config.has(Method::Line) {
        add(exact::lines(text, config.min_line_chars), remove::LINE);
    }
    if config.has(Method::Paragraph) {
        add(exact::paragraphs(text, config.min_paragraph_chars), remove::PARAGRAPH);
    }
    if config.has(Method::Substring) {
        found.anchors = substring::anchors(text.as_bytes(), doc, config.min_substring_bytes);
    }
    found
}

/// Writes the files of one unit.
#[derive(Debug)]
pub struct UnitWriter {
    ranges: usize,
    rows: usize,
    simhash_bits: u32,
    signature_bytes: usize,
    components: usize,
    exact: Partitioned,
    near: Partitioned,
    sim: Partitioned,
    span: Partitioned,
    anchor: Partitioned,
    signatures: Option<RecordWriter>,
    ranks: Option<RecordWriter>,
    scratch: Vec<u8>,
}

impl UnitWriter {
    /// In the folder `dir`.
    pub fn create(dir: &Path, plan: &Plan, config: &DedupConfig) -> Result<Self> {
        let part = |name| Partitioned::new(dir, name, plan.ranges, plan.memory / 32);
        let signatures = config.has(Method::Minhash) && config.least_similarity() > 0.0;
        let file = |name: &str, wanted: bool| wanted.then(|| RecordWriter::create(&dir.join(name))).transpose();
        Ok(Self {
            ranges: plan.ranges,
            rows: config.rows,
            simhash_bits: config.simhash_bits,
            signature_bytes: (config.signature_bits / 8) as usize,
            components: config.bands * config.rows,
            exact: part("exact"),
            near: part("near"),
            sim: part("sim"),
            span: part("span"),
            anchor: part("anchor"),
            signatures: file("components.bin", signatures)?,
            ranks: file("rank.bin", config.keep != Keep::First)?,
            scratch: Vec::new(),
        })
    }

    /// Add the next document.
    pub fn push(&mut self, doc: u32, found: &Fingerprint) -> Result<()> {
        if let Some((hi, lo)) = found.exact {
            self.exact.push(range_of(hi, self.ranges), &ExactRecord { hi, lo, doc })?;
        }
        for key in minhash::band_keys(&found.signature, self.rows) {
            self.near.push(range_of(key, self.ranges), &BandRecord { key, doc })?;
        }
        if let Some(hash) = found.simhash {
            for key in simhash::keys(hash, self.simhash_bits) {
                self.sim.push(range_of(key, self.ranges), &SimRecord { key, doc, hash })?;
            }
        }
        for span in &found.spans {
            self.span.push(range_of(span.hi, self.ranges), span)?;
        }
        for anchor in &found.anchors {
            self.anchor.push(range_of(anchor.key, self.ranges), anchor)?;
        }
        if let Some(writer) = &mut self.signatures {
            self.scratch.clear();
            for i in 0..self.components {
                let component = found.signature.get(i).copied().unwrap_or(u64::MAX);
                self.scratch.extend_from_slice(&component.to_le_bytes()[..self.signature_bytes]);
            }
            writer.bytes(&self.scratch)?;
        }
        if let Some(writer) = &mut self.ranks {
            writer.bytes(&found.rank.to_le_bytes())?;
        }
        Ok(())
    }

    /// Flush everything.
    pub fn finish(self) -> Result<()> {
        for part in [self.exact, self.near, self.sim, self.span, self.anchor] {
            part.finish()?;
        }
        for file in [self.signatures, self.ranks].into_iter().flatten() {
            file.finish()?;
        }
        Ok(())
    }
}

/// Strings one after the other, with the end of each in `NAME.idx`.
#[derive(Debug)]
struct Strings {
    bytes: RecordWriter,
    ends: RecordWriter,
    at: u64,
}

impl Strings {
    fn create(dir: &Path, name: &str) -> Result<Self> {
        let file = |extension| RecordWriter::create(&dir.join(format!("{name}.{extension}")));
        Ok(Self { bytes: file("bin")?, ends: file("idx")?, at: 0 })
    }

    fn push(&mut self, text: &str) -> Result<()> {
        self.bytes.bytes(text.as_bytes())?;
        self.at += text.len() as u64;
        self.ends.bytes(&self.at.to_le_bytes())
    }

    fn finish(self) -> Result<()> {
        self.bytes.finish()?;
        self.ends.finish()
    }
}

/// Phase 1 of one unit. `shown` is told how many documents were done.
pub fn unit(unit: &Unit, dir: &Path, plan: &Plan, config: &DedupConfig, signer: &Signer, shown: &(dyn Fn(u64) + Sync)) -> Result<()> {
    let mut writer = UnitWriter::create(dir, plan, config)?;
    let mut ids = Strings::create(dir, "ids")?;
    let mut texts = config.has(Method::Substring).then(|| Strings::create(dir, "text")).transpose()?;
    let with_text = texts.is_some();
    let sign = |first: u64, documents: Vec<Document>| {
        let first = unit.first.wrapping_add(first as u32);
        let sign = |(i, document): (usize, Document)| {
            let found = fingerprint(&document, first.wrapping_add(i as u32), config, signer);
            (document.id, with_text.then_some(document.text), found)
        };
        Ok(documents.into_par_iter().enumerate().map(sign).collect::<Vec<_>>())
    };
    let mut done = 0;
    for batch in Ahead::open(&unit.path, plan.memory / 4, sign)? {
        check_interrupt()?;
        let batch = batch?;
        let n = batch.len() as u64;
        for (doc, (id, text, found)) in (unit.first.wrapping_add(done as u32)..).zip(batch) {
            writer.push(doc, &found)?;
            ids.push(&id)?;
            if let (Some(texts), Some(text)) = (&mut texts, text) {
                texts.push(&text)?;
            }
        }
        done += n;
        shown(n);
    }
    if done != u64::from(unit.rows) {
        let message = format!("its footer says {} documents, but it holds {done}; it is damaged: copy it again or leave it out", unit.rows);
        return Err(Error::Format { path: unit.path.clone(), message });
    }
    writer.finish()?;
    ids.finish()?;
    texts.map_or(Ok(()), Strings::finish)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_document_has_the_greater_rank() {
        let with = |quality: Option<f32>, date: Option<&str>| Document { quality, date: date.map(Into::into), ..Document::default() };
        let quality = [None, Some(f32::NEG_INFINITY), Some(-1.0), Some(-0.5), Some(0.0), Some(0.2), Some(1.0)];
        assert!(quality.windows(2).all(|w| rank(&with(w[0], None), Keep::Quality) < rank(&with(w[1], None), Keep::Quality)));
        let dates = [None, Some("1999"), Some("2026-01"), Some("2026-01-31"), Some("2026-01-31T10:00:01Z"), Some("2026-02-01")];
        assert!(dates.windows(2).all(|w| rank(&with(None, w[0]), Keep::Newest) < rank(&with(None, w[1]), Keep::Newest)));
    }
}
