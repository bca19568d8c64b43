//! `llm-data mix`: two passes over the documents and a shuffle through buckets on disk.
//!
//! The first pass finds each document's source and size. The second knows for each document at which positions of the stream it
//! stands (the order is invertible) and appends it to the bucket of that stretch of the stream; buckets are then sorted in
//! memory, one at a time. Memory is one bucket, whatever the size of the corpus.

use super::order::Order;
use super::plan::{plan, supplies};
use super::{MixConfig, Unit};
use crate::document::{Document, DocumentReader, DocumentWriter};
use crate::error::{Error, Result, check_interrupt, io, record};
use crate::funnel::{Drop, Funnel, FunnelWriter, excerpt};
use llm_run::atomic::AtomicDir;
use llm_run::{Progress, Seed};
use llm_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

/// Bucket files at most; more would run into the limit of open files.
const MAX_BUCKETS: u64 = 256;

/// What a mixture became.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MixReport {
    /// What is counted.
    pub unit: String,
    /// The budget, given or derived.
    pub budget: f64,
    /// What was written.
    pub total: f64,
    /// Documents that fit no source.
    pub unmatched: u64,
    /// By source.
    pub sources: Vec<SourceReport>,
}

/// One source of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceReport {
    /// Its name.
    pub name: String,
    /// Documents there are.
    pub documents: u64,
    /// Units there are.
    pub available: f64,
    /// Share asked for.
    pub target_share: f64,
    /// Units planned, after caps.
    pub planned: f64,
    /// Units written.
    pub written: f64,
    /// Documents written.
    pub documents_written: u64,
    /// Share reached.
    pub share: f64,
    /// Passes over it.
    pub epochs: f64,
    /// True when its cap kept it below its target.
    pub capped: bool,
}

struct Measure {
    unit: Unit,
    tokenizer: Option<Tokenizer>,
    bytes_per_token: f64,
}

impl Measure {
    fn sizes(&self, batch: &[Document]) -> Vec<u32> {
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        match (self.unit, &self.tokenizer) {
            (Unit::Documents, _) => vec![1; batch.len()],
            (Unit::Bytes, _) => batch.iter().map(|d| clamp(d.text.len())).collect(),
            (Unit::Tokens, None) => batch.iter().map(|d| clamp((d.text.len() as f64 / self.bytes_per_token).ceil() as usize)).collect(),
            (Unit::Tokens, Some(tokenizer)) => {
                let texts: Vec<&str> = batch.iter().map(|d| d.text.as_str()).collect();
                tokenizer.encode_batch(&texts).iter().map(|ids| clamp(ids.len())).collect()
            }
        }
    }
}

/// Sizes of a source's documents, in a file: only its pages that are looked at are in memory.
struct Sizes {
    map: Option<memmap2::Mmap>,
}

impl Sizes {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(io(path, "cannot open"))?;
        if file.metadata().map_err(io(path, "cannot stat"))?.len() == 0 {
            return Ok(Self { map: None });
        }
        // SAFETY: the file lies in a temporary folder of this process, is not written any more and goes after the mapping.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io(path, "cannot map into memory"))?;
        Ok(Self { map: Some(map) })
    }

    fn get(&self, index: u64) -> u64 {
        let bytes = self.map.as_deref().and_then(|m| m.as_chunks::<4>().0.get(index as usize));
        bytes.map_or(0, |b| u64::from(u32::from_le_bytes(*b)))
    }
}

/// Documents to draw so that their sizes come as near to `amount` as whole documents can.
fn draws(order: &Order, source: usize, documents: u64, available: f64, amount: f64, sizes: &Sizes) -> Result<(u64, f64)> {
    if documents == 0 || available <= 0.0 || amount <= 0.0 {
        return Ok((0, 0.0));
    }
    let passes = (amount / available * (1.0 + 1e-12)).floor();
    let rest = amount - passes * available;
    let first = passes as u64 * documents;
    let (mut n, mut sum) = (0, 0.0);
    while n < documents {
        if n.is_multiple_of(1 << 16) {
            check_interrupt()?;
        }
        let size = sizes.get(order.document(source, first + n).index) as f64;
        if (sum + size - rest).abs() > (sum - rest).abs() {
            break;
        }
        sum += size;
        n += 1;
    }
    Ok((first + n, passes * available + sum))
}

/// Mix into `out/documents`, with `mix.json`.
pub fn mix(config: &MixConfig, out: &Path) -> Result<(Funnel, MixReport)> {
    if config.inputs.is_empty() {
        return Err(Error::Config("mix: no inputs; name folders of documents in `inputs`".into()));
    }
    if config.bytes_per_token.is_nan() || config.bytes_per_token <= 0.0 {
        return Err(Error::Config(format!("mix.bytes_per_token is {}, expected a positive number", config.bytes_per_token)));
    }
    let tokenizer = match (&config.tokenizer, config.unit) {
        (Some(path), Unit::Tokens) => Some(Tokenizer::load(path).map_err(|e| Error::Config(format!("tokenizer: {e}")))?),
        _ => None,
    };
    let measure = Measure { unit: config.unit, tokenizer, bytes_per_token: config.bytes_per_token };
    let mut funnel = FunnelWriter::create(out, "mix", &["no source", "not drawn"])?;
    let scratch = AtomicDir::create(out.join("buckets"))?;
    let names: Vec<&str> = config.sources.keys().map(String::as_str).collect();

    // First pass: whose each document is and how large.
    let mut documents = vec![0u64; names.len()];
    let mut available = vec![0.0f64; names.len()];
    let mut report = MixReport { unit: config.unit.name().into(), ..MixReport::default() };
    let mut files = Vec::new();
    for i in 0..names.len() {
        let path = scratch.path().join(format!("sizes-{i}"));
        files.push((BufWriter::new(File::create(&path).map_err(io(&path, "cannot create"))?), path));
    }
    let total = config.inputs.iter().map(|p| crate::document::count(p)).sum::<Result<u64>>()?;
    let mut progress = Progress::new("measure", total, "documents");
    let mut bytes = 0u64;
    for input in &config.inputs {
        for batch in DocumentReader::open(input)? {
            check_interrupt()?;
            let batch = batch?;
            for (document, size) in batch.iter().zip(measure.sizes(&batch)) {
                bytes += document.text.len() as u64;
                let Some(i) = source_of(document, config) else {
                    report.unmatched += 1;
                    continue;
                };
                documents[i] += 1;
                available[i] += f64::from(size);
                let (file, path) = &mut files[i];
                file.write_all(&size.to_le_bytes()).map_err(io(path, "cannot write (is the disk full?)"))?;
            }
            progress.inc(batch.len() as u64);
        }
    }
    progress.finish(format!("{total} documents"));
    let supplies = supplies(config, &available)?;
    let shares = plan(&supplies, config.budget);
    report.budget = shares.budget;
    let seed = Seed(config.seed);
    let unlimited = Order::new(seed, config.epoch, names.iter().zip(&documents).map(|(n, d)| (*n, *d, u64::MAX)));
    let mut drawn = Vec::new();
    for (i, (mut file, path)) in files.into_iter().enumerate() {
        file.flush().map_err(io(&path, "cannot write (is the disk full?)"))?;
        let (n, written) = draws(&unlimited, i, documents[i], available[i], shares.amount[i], &Sizes::open(&path)?)?;
        drawn.push(n);
        report.total += written;
        report.sources.push(SourceReport {
            name: names[i].into(),
            documents: documents[i],
            available: available[i],
            target_share: shares.target[i],
            planned: shares.amount[i],
            written,
            documents_written: n,
            share: 0.0,
            epochs: if available[i] > 0.0 { written / available[i] } else { 0.0 },
            capped: shares.amount[i] < shares.target[i] * shares.budget * (1.0 - 1e-9),
        });
    }
    for source in &mut report.sources {
        source.share = source.written / report.total.max(f64::MIN_POSITIVE);
    }
    let order = Order::new(seed, config.epoch, names.iter().zip(documents.iter().zip(&drawn)).map(|(n, (d, k))| (*n, *d, *k)));
    if order.is_empty() {
        return Err(Error::Empty(format!("the mixture is empty: the budget of {} {} is less than one document", config.budget, report.unit)));
    }
    spread(config, &order, scratch.path(), bytes, total, &mut funnel)?;
    gather(&order, scratch.path(), &mut funnel, out)?;
    drop(scratch);
    if report.unmatched > 0 {
        funnel.notice(format!("{} documents fit no source and are left out", report.unmatched));
    }
    let mut text = serde_json::to_string_pretty(&report).unwrap_or_default();
    text.push('\n');
    llm_run::atomic::write(out.join("mix.json"), text)?;
    Ok((funnel.finish(out)?, report))
}

fn source_of(document: &Document, config: &MixConfig) -> Option<usize> {
    config.sources.values().position(|s| s.rule.fits(document))
}

fn bucket_count(bytes: u64, config: &MixConfig, order: &Order, documents: u64) -> u64 {
    let per_document = bytes as f64 / documents.max(1) as f64;
    let all = per_document * order.len() as f64;
    ((all / config.bucket_bytes.max(1) as f64).ceil() as u64).clamp(1, MAX_BUCKETS).min(order.len())
}

#[derive(Serialize, Deserialize)]
struct Placed {
    position: u64,
    document: Document,
}

/// Second pass: every document to the buckets of its positions.
fn spread(config: &MixConfig, order: &Order, dir: &Path, bytes: u64, documents: u64, funnel: &mut FunnelWriter) -> Result<()> {
    let buckets = bucket_count(bytes, config, order, documents);
    let per_bucket = order.len().div_ceil(buckets);
    let mut files = Vec::new();
    for b in 0..buckets {
        let path = dir.join(format!("bucket-{b:03}"));
        let file = File::create(&path).map_err(io(&path, "cannot create"))?;
        files.push((zstd::Encoder::new(file, 1).map_err(io(&path, "cannot compress"))?, path));
    }
    let mut seen = vec![0u64; config.sources.len()];
    let mut progress = Progress::new("mix", documents, "documents");
    for input in &config.inputs {
        for batch in DocumentReader::open(input)? {
            check_interrupt()?;
            let batch = batch?;
            progress.inc(batch.len() as u64);
            for document in batch {
                funnel.input(document.text.len());
                let source = source_of(&document, config);
                let places = source.map_or_else(Vec::new, |i| {
                    seen[i] += 1;
                    order.positions(i, seen[i] - 1)
                });
                if places.is_empty() {
                    let (step, value) = match source {
                        None => ("no source", document.source.clone()),
                        Some(i) => ("not drawn", config.sources.keys().nth(i).cloned().unwrap_or_default()),
                    };
                    let drop =
                        Drop { id: document.id.clone(), step: step.into(), value: value.into(), threshold: "".into(), text: excerpt(&document.text) };
                    funnel.drop(drop, document.text.len())?;
                }
                for (pass, position) in places {
                    let mut document = document.clone();
                    if pass > 0 {
                        // Ids stay unique; `explain` finds the copies by the part before `#`.
                        document.id = format!("{}#pass{pass}", document.id);
                    }
                    let mut line = serde_json::to_vec(&Placed { position, document }).unwrap_or_default();
                    line.push(b'\n');
                    let (file, path) = &mut files[(position / per_bucket) as usize];
                    file.write_all(&line).map_err(io(path, "cannot write (is the disk full?)"))?;
                }
            }
        }
    }
    for (file, path) in files {
        file.finish().and_then(|f| f.sync_all()).map_err(io(&path, "cannot write (is the disk full?)"))?;
    }
    progress.finish(format!("{} documents in {buckets} buckets", order.len()));
    Ok(())
}

/// Buckets, sorted, one after the other into the output.
fn gather(order: &Order, dir: &Path, funnel: &mut FunnelWriter, out: &Path) -> Result<()> {
    let mut writer = DocumentWriter::create(&out.join("documents"))?;
    for bucket in 0..MAX_BUCKETS {
        let path = dir.join(format!("bucket-{bucket:03}"));
        if !path.is_file() {
            break;
        }
        check_interrupt()?;
        let file = File::open(&path).map_err(io(&path, "cannot open"))?;
        let lines = BufReader::new(zstd::Decoder::new(file).map_err(io(&path, "cannot decompress"))?).lines();
        let mut placed: Vec<Placed> = Vec::new();
        for line in lines {
            let line = line.map_err(io(&path, "cannot read back"))?;
            placed.push(serde_json::from_str(&line).map_err(|e| record(&path, "a bucket", format!("cannot be read back: {e}")))?);
        }
        placed.sort_by_key(|p| p.position);
        for p in placed {
            funnel.output(&p.document);
            writer.push(p.document)?;
        }
    }
    if writer.documents != order.len() {
        return Err(Error::Empty(format!(
            "{} of {} documents came back from the buckets; the inputs changed while mixing, run again",
            writer.documents,
            order.len()
        )));
    }
    writer.finish()
}
