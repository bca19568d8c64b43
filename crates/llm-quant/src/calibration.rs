//! Calibration: token rows that show the model typical inputs.
//!
//! Which rows are taken is a function of the seed and the number of rows; a longer list begins with the shorter one.

use crate::{Error, Result};
use llm_arch::PackedBatch;
use llm_data::document::read_all;
use llm_data::shards::Shards;
use llm_run::Seed;
use llm_run::seed::permuted;
use llm_tokenizer::Tokenizer;
use std::path::Path;

/// Tokens of a forward pass.
const BATCH_TOKENS: usize = 4096;

/// Packed rows.
#[derive(Debug, Clone)]
pub struct Calibration {
    /// A few rows each.
    pub batches: Vec<PackedBatch>,
    /// Rows in all.
    pub rows: usize,
    /// Tokens in all.
    pub tokens: usize,
}

/// Where rows come from, and how many.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// A folder of shards, or documents.
    pub path: &'a Path,
    /// Rows.
    pub samples: usize,
    /// Tokens of a row cut from documents.
    pub sequence_length: usize,
    /// Which ones.
    pub seed: Seed,
    /// Ids must be below.
    pub vocab_size: usize,
    /// Tokens the model can see.
    pub context: usize,
}

type Row = (Vec<u32>, Vec<u32>);

impl Calibration {
    /// Read them. `tokenizer` is asked for only where there are documents.
    pub fn read(wanted: &Wanted, tokenizer: impl FnOnce() -> Result<Tokenizer>) -> Result<Self> {
        let shards = wanted.path.is_dir() && llm_run::atomic::walk(wanted.path)?.iter().any(|p| p.extension().is_some_and(|e| e == "arrow"));
        let rows = if shards { from_shards(wanted)? } else { from_documents(wanted, &tokenizer()?)? };
        let unfit = |message: String| Error::Input { path: wanted.path.to_path_buf(), message };
        if let Some(id) = rows.iter().flat_map(|r| &r.0).find(|&&id| id as usize >= wanted.vocab_size) {
            return Err(unfit(format!("holds token {id}, but the model knows {} tokens; was it packed with another tokenizer?", wanted.vocab_size)));
        }
        let Some(length) = rows.first().map(|r| r.0.len()) else {
            return Err(unfit(format!("holds no row of {} tokens; give more text", wanted.sequence_length)));
        };
        let per_batch = (BATCH_TOKENS / length).max(1);
        let batches = rows.chunks(per_batch).map(|rows| {
            let starts: Vec<&[u32]> = rows.iter().map(|r| r.1.as_slice()).collect();
            PackedBatch::documents(rows.iter().flat_map(|r| &r.0).copied().collect(), &starts, length)
        });
        Ok(Self { batches: batches.collect(), rows: rows.len(), tokens: rows.len() * length })
    }
}

fn from_shards(wanted: &Wanted) -> Result<Vec<Row>> {
    let shards = Shards::open(wanted.path)?;
    let length = shards.sequence_length().min(wanted.context);
    let count = wanted.samples.min(shards.len());
    let row = |i: usize| {
        let row = shards.row(permuted(wanted.seed, i as u64, shards.len() as u64) as usize);
        let starts = row.document_starts.iter().copied().filter(|&s| (s as usize) < length).collect();
        (row.tokens[..length].to_vec(), starts)
    };
    Ok((0..count).map(row).collect())
}

/// Documents one after the other in a drawn order, joined by the end-of-text token, cut into rows.
fn from_documents(wanted: &Wanted, tokenizer: &Tokenizer) -> Result<Vec<Row>> {
    let length = if wanted.sequence_length == 0 { wanted.context.min(2048) } else { wanted.sequence_length.min(wanted.context) };
    let documents = read_all(wanted.path)?;
    let (mut rows, mut ids, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..documents.len() as u64 {
        let document = &documents[permuted(wanted.seed, i, documents.len() as u64) as usize];
        starts.push(ids.len() as u32);
        ids.extend(tokenizer.bos_id());
        ids.extend(tokenizer.encode(&document.text));
        ids.extend(tokenizer.eos_id());
        while ids.len() >= length {
            let rest = ids.split_off(length);
            let in_next = starts.iter().position(|&s| s as usize >= length).unwrap_or(starts.len());
            let mut next: Vec<u32> = starts.split_off(in_next).iter().map(|s| s - length as u32).collect();
            rows.push((std::mem::replace(&mut ids, rest), std::mem::take(&mut starts)));
            if rows.len() == wanted.samples {
                return Ok(rows);
            }
            if next.first() != Some(&0) && !ids.is_empty() {
                next.insert(0, 0);
            }
            starts = next;
        }
    }
    Ok(rows)
}
