//! Calibration: token rows that show the model typical inputs.
//!
//! Three sources: a folder of shards, documents (Parquet), or conversations (JSON lines with `messages`, put through the model's chat template). A
//! model should be calibrated on what it will see.
//!
//! Which rows are taken is a function of the seed and the number of rows; a longer list begins with the shorter one.

use crate::{Error, Result};
use llm_arch::PackedBatch;
use llm_data::document::read_all;
use llm_data::shards::Shards;
use llm_run::Seed;
use llm_run::seed::permuted;
use llm_tokenizer::{Message, Tokenizer};
use serde::Deserialize;
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
    /// A folder of shards, documents, or conversations.
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
        let conversations = wanted.path.extension().is_some_and(|e| e == "jsonl");
        let rows = match (shards, conversations) {
            (true, _) => from_shards(wanted)?,
            (_, true) => from_conversations(wanted, &tokenizer()?)?,
            _ => from_documents(wanted, &tokenizer()?)?,
        };
        let unfit = |message: String| Error::Input { path: wanted.path.to_path_buf(), message };
        if let Some(id) = rows.iter().flat_map(|r| &r.0).find(|&&id| id as usize >= wanted.vocab_size) {
            return Err(unfit(format!("holds token {id}, but the model knows {} tokens; was it packed with another tokenizer?", wanted.vocab_size)));
        }
        let Some(length) = rows.first().map(|r| r.0.len()) else {
            return Err(unfit("holds not even one row of tokens; give more text".into()));
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

/// Documents one after the other in a drawn order.
fn from_documents(wanted: &Wanted, tokenizer: &Tokenizer) -> Result<Vec<Row>> {
    let documents = read_all(wanted.path)?;
    let n = documents.len() as u64;
    cut(
        wanted,
        (0..n).map(|i| {
            let ids = tokenizer.encode(&documents[permuted(wanted.seed, i, n) as usize].text);
            Ok(tokenizer.bos_id().into_iter().chain(ids).chain(tokenizer.eos_id()).collect())
        }),
    )
}

#[derive(Deserialize)]
struct Conversation {
    messages: Vec<Message>,
}

/// Conversations one after the other in a drawn order.
fn from_conversations(wanted: &Wanted, tokenizer: &Tokenizer) -> Result<Vec<Row>> {
    let bad = |message: String| Error::Input { path: wanted.path.to_path_buf(), message };
    let text = std::fs::read_to_string(wanted.path).map_err(|e| bad(format!("cannot read: {e}")))?;
    let lines: Vec<(usize, &str)> = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).collect();
    let n = lines.len() as u64;
    cut(
        wanted,
        (0..n).map(|i| {
            let (number, line) = lines[permuted(wanted.seed, i, n) as usize];
            let conversation: Conversation =
                serde_json::from_str(line).map_err(|e| bad(format!("line {}: {e}; expected an object with `messages`", number + 1)))?;
            Ok(tokenizer.chat_ids(&conversation.messages, false)?)
        }),
    )
}

/// Sequences one after the other, cut into rows; a sequence may go on in the next row.
fn cut(wanted: &Wanted, sequences: impl Iterator<Item = Result<Vec<u32>>>) -> Result<Vec<Row>> {
    let length = if wanted.sequence_length == 0 { wanted.context.min(2048) } else { wanted.sequence_length.min(wanted.context) };
    let (mut rows, mut ids, mut starts): (Vec<Row>, Vec<u32>, Vec<u32>) = Default::default();
    for sequence in sequences {
        for (i, id) in sequence?.into_iter().enumerate() {
            if i == 0 || ids.is_empty() {
                starts.push(ids.len() as u32);
            }
            ids.push(id);
            if ids.len() == length {
                rows.push((std::mem::take(&mut ids), std::mem::take(&mut starts)));
                if rows.len() == wanted.samples {
                    return Ok(rows);
                }
            }
        }
    }
    Ok(rows)
}
