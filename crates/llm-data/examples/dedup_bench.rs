//! Measurements of duplicate removal: speed of signatures, and a corpus of any size that is made up on the fly.
//!
//! `signatures` signs the `text` of every line of a JSONL file and writes the components, so that a peer's can be compared bit by bit
//! (`benches/peers/dedup.py`). `synthetic` runs the phases between signatures and decisions on sets with planted overlaps, and says
//! which share of the planted pairs was found at each similarity.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use llm_data::dedup::records::Decision;
use llm_data::dedup::signatures::{Fingerprint, Signer, UnitWriter};
use llm_data::dedup::sorter::RecordReader;
use llm_data::dedup::work::{Plan, Work};
use llm_data::dedup::{DedupConfig, Method, Profile, decide, minhash::MinHash};
use llm_data::ranks::Ranks;
use llm_run::Seed;
use rayon::prelude::*;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// N-grams of a synthetic document.
const SIZE: usize = 100;
/// Documents that are signed before they are written.
const CHUNK: u32 = 8192;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Sign texts
    Signatures {
        /// JSONL with a field `text`
        #[arg(long)]
        input: PathBuf,
        /// words, datatrove:xxhash or datatrove:sha1
        #[arg(long, default_value = "words")]
        profile: String,
        /// Threads
        #[arg(long, default_value_t = 1)]
        threads: usize,
        /// Times over
        #[arg(long, default_value_t = 1)]
        repeat: usize,
        /// All components as little-endian 64-bit numbers, after the number of components (0 or all) of each document as one
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Decide on documents that are made up
    Synthetic {
        /// How many
        #[arg(long, default_value_t = 200_000)]
        documents: u32,
        /// Memory to work in
        #[arg(long, default_value = "1GiB")]
        memory: String,
        /// Least estimated similarity; 0: sharing a band is enough
        #[arg(long, default_value_t = 0.0)]
        min_similarity: f64,
        /// Bits per stored component
        #[arg(long, default_value_t = 16)]
        signature_bits: u32,
        /// Threads
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// Folder of the intermediate files
        #[arg(long)]
        work: PathBuf,
    },
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Signatures { input, profile, threads, repeat, out } => signatures(&input, &profile, threads, repeat, out.as_deref()),
        Command::Synthetic { documents, memory, min_similarity, signature_bits, threads, work } => {
            let config = DedupConfig {
                methods: vec![Method::Minhash],
                memory,
                min_similarity: Some(min_similarity),
                signature_bits,
                ..DedupConfig::default()
            };
            config.validate()?;
            pool(threads)?.install(|| synthetic(documents, &config, &work))
        }
    }
}

fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    Ok(rayon::ThreadPoolBuilder::new().num_threads(threads).build()?)
}

/// Processor time of all threads that live, seconds.
fn processor_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of = |path: PathBuf| std::fs::read_to_string(path.join("schedstat")).ok()?.split_whitespace().next()?.parse::<f64>().ok();
    tasks.filter_map(|t| of(t.path())).sum::<f64>() / 1e9
}

fn signatures(input: &Path, profile: &str, threads: usize, repeat: usize, out: Option<&Path>) -> Result<()> {
    let profile: Profile = serde_json::from_value(profile.into()).context("profile")?;
    let signer = Signer::new(&DedupConfig { profile, ..DedupConfig::default() });
    let text = std::fs::read_to_string(input).with_context(|| format!("{}: cannot read", input.display()))?;
    let mut texts = Vec::new();
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line)?;
        let Some(text) = row["text"].as_str() else { bail!("{}: a line without `text`", input.display()) };
        texts.push(text.to_string());
    }
    let pool = pool(threads)?;
    let mut all: Vec<Vec<u64>> = Vec::new();
    let (processor, started) = (processor_seconds(), Instant::now());
    for _ in 0..repeat {
        all = pool.install(|| texts.par_iter().map(|t| signer.signature(t)).collect());
    }
    let (wall, processor) = (started.elapsed().as_secs_f64(), processor_seconds() - processor);
    let bytes = repeat * texts.iter().map(String::len).sum::<usize>();
    let summary = serde_json::json!({
        "documents": texts.len(), "bytes": bytes, "threads": threads, "wall_seconds": wall, "processor_seconds": processor,
        "megabytes_per_processor_second": bytes as f64 / 1e6 / processor, "megabytes_per_second": bytes as f64 / 1e6 / wall,
    });
    println!("{summary}");
    if let Some(out) = out {
        let mut file = std::io::BufWriter::new(std::fs::File::create(out)?);
        for signature in &all {
            file.write_all(&(signature.len() as u64).to_le_bytes())?;
            for component in signature {
                file.write_all(&component.to_le_bytes())?;
            }
        }
        file.flush()?;
    }
    Ok(())
}

/// The last fifth of the documents are edited copies of others: which, and at which similarity.
fn source(doc: u32, documents: u32) -> Option<(u32, f64)> {
    let first = documents / 5 * 4;
    (doc >= first).then(|| ((doc - first) * 4, 0.5 + 0.05 * f64::from(doc % 10)))
}

/// N-grams that two documents of [`SIZE`] share at Jaccard similarity `s`.
fn shared(s: f64) -> usize {
    (2.0 * SIZE as f64 * s / (1.0 + s)).round() as usize
}

fn grams(doc: u32, documents: u32) -> Vec<u64> {
    let own = |doc: u32, count: usize| {
        let mut rng = Seed(7).at(u64::from(doc)).rng();
        (0..count).map(move |_| rng.next_u64())
    };
    match source(doc, documents) {
        None => own(doc, SIZE).collect(),
        Some((from, s)) => own(from, shared(s)).chain(own(doc, SIZE - shared(s))).collect(),
    }
}

fn synthetic(documents: u32, config: &DedupConfig, dir: &Path) -> Result<()> {
    let started = Instant::now();
    let unit = documents.div_ceil(64).max(1);
    let rows = (0..documents.div_ceil(unit)).map(|u| (PathBuf::new(), u64::from(unit.min(documents - u * unit)))).collect();
    let plan = Plan::of(config, rows)?;
    let work = Work::open(dir, &plan.fingerprint, Ranks::default(), Duration::ZERO)?;
    let minhash = MinHash::new(config.ngram, config.bands, config.rows, config.seed);
    work.units("signatures", plan.units.len(), 1, |index, dir| {
        let mut writer = UnitWriter::create(dir, &plan, config)?;
        let unit = &plan.units[index];
        let end = unit.first + unit.rows;
        for first in (unit.first..end).step_by(CHUNK as usize) {
            let sign = |doc| Fingerprint { signature: minhash.signature_of(&grams(doc, documents)), ..Fingerprint::default() };
            let found: Vec<Fingerprint> = (first..end.min(first + CHUNK)).into_par_iter().map(sign).collect();
            for (doc, found) in (first..).zip(&found) {
                writer.push(doc, found)?;
            }
        }
        writer.finish()
    })?;
    let signed = started.elapsed().as_secs_f64();
    eprintln!("signatures: {signed:.1} s, {} ranges", plan.ranges);
    decide(&work, &plan, config)?;
    let decided = started.elapsed().as_secs_f64() - signed;

    let (mut found, mut wrong) = ([0u32; 10], 0u32);
    for decision in RecordReader::<Decision>::open(&work.dir("cluster", 0).join("decisions.bin"))? {
        let decision = decision?;
        match source(decision.doc, documents) {
            Some((from, _)) if from == decision.cluster => found[decision.doc as usize % 10] += 1,
            _ => wrong += 1,
        }
    }
    let planted = (0..documents).filter_map(|d| source(d, documents).map(|_| d % 10)).fold([0u32; 10], |mut n, level| {
        n[level as usize] += 1;
        n
    });
    let levels: Vec<serde_json::Value> = (0..10)
        .map(|level| {
            let both = shared(0.5 + 0.05 * level as f64);
            let s = both as f64 / (2 * SIZE - both) as f64;
            let expected = 1.0 - (1.0 - s.powi(config.rows as i32)).powi(config.bands as i32);
            let deviation = (expected * (1.0 - expected) / f64::from(planted[level].max(1))).sqrt();
            let share = f64::from(found[level]) / f64::from(planted[level].max(1));
            serde_json::json!({"similarity": s, "pairs": planted[level], "found": share, "banding": expected, "deviations": (share - expected) / deviation})
        })
        .collect();
    let summary = serde_json::json!({
        "documents": documents, "memory": config.memory, "min_similarity": config.least_similarity(), "ranges": plan.ranges,
        "seconds_signatures": signed, "seconds_decisions": decided, "peak_memory_bytes": llm_run::run::peak_memory_bytes(),
        "wrongly_dropped": wrong, "levels": levels,
    });
    println!("{}", serde_json::to_string_pretty(&summary)?);
    drop(work);
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
