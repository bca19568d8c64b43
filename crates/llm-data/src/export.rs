//! Token shards to the files that other trainers read: datatrove's `.ds` with `.ds.index` and `.ds.metadata`, and Megatron's `.bin`
//! with `.idx`. One sequence per document, in the order of the shards, begin and end tokens as packed.
//!
//! - datatrove: tokens as little-endian u16 or u32, one after the other; the index holds the end of each document, in tokens, as
//!   u64; the metadata a line `tokenizer|bytes per token` and a line with the number of tokens.
//! - Megatron (`MMIDIDX`, version 1): tokens as u16 or i32; the index holds the type, the number of sequences and of document
//!   marks, lengths (i32), byte offsets (i64), and document marks 0 to n (i64).
//!
//! Two bytes a token when the vocabulary has at most 2^16 entries, as both programs decide. A document that a row cuts is joined
//! again; tokens that packing dropped at the end of the last row are in no shard and so not here either.

use crate::error::{Error, Result, check_interrupt, io};
use crate::shards::Shards;
use llm_run::Progress;
use llm_run::atomic::AtomicFile;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Configuration of `llm-data export`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExportConfig {
    /// A folder of shards, e.g. `pack/train`.
    pub input: PathBuf,
    /// `datatrove` or `megatron`.
    pub format: Format,
    /// Files are `NAME.ds`, `NAME.ds.index`, or `NAME.bin`, `NAME.idx`.
    pub name: String,
    /// What the metadata call the tokenizer; empty: its BLAKE3.
    pub tokenizer: String,
}

impl Default for ExportConfig {
    fn default() -> Self {
        Self { input: PathBuf::new(), format: Format::Datatrove, name: "tokens".into(), tokenizer: String::new() }
    }
}

/// Whose files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `.ds`, `.ds.index`, `.ds.metadata`.
    #[default]
    Datatrove,
    /// `.bin`, `.idx`.
    Megatron,
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportSummary {
    /// Documents.
    pub documents: u64,
    /// Tokens.
    pub tokens: u64,
    /// Bytes per token.
    pub token_size: u64,
    /// Files, relative to the output folder.
    pub files: Vec<String>,
}

/// Call `each` with the tokens of every document, in order.
pub fn for_each_document(shards: &Shards, mut each: impl FnMut(&[u32]) -> Result<()>) -> Result<()> {
    match shards.packing() {
        "best_fit" => pieces(shards, each),
        _ => {
            let mut document: Vec<u32> = Vec::new();
            for r in 0..shards.len() {
                if r % 4096 == 0 {
                    check_interrupt()?;
                }
                let row = shards.row(r);
                // The first token of a later row is the last of the row before; its start 0 is a continuation.
                let mut from = usize::from(r > 0);
                for start in row.document_starts.iter().map(|s| *s as usize).filter(|s| *s > 0) {
                    document.extend_from_slice(&row.tokens[from..start.max(from)]);
                    from = start.max(from);
                    if !document.is_empty() {
                        each(&document)?;
                        document.clear();
                    }
                }
                document.extend_from_slice(&row.tokens[from..]);
            }
            if document.is_empty() { Ok(()) } else { each(&document) }
        }
    }
}

/// Rows of whole documents: parts of long ones are joined where the first stands, padding is left out.
fn pieces(shards: &Shards, mut each: impl FnMut(&[u32]) -> Result<()>) -> Result<()> {
    let mut parts: BTreeMap<(String, u32), (usize, Range<usize>)> = BTreeMap::new();
    let split = |id: &str| id.rsplit_once("#part").and_then(|(id, n)| Some((id.to_string(), n.parse::<u32>().ok()?)));
    let ranges = |r: usize| {
        let row = shards.row(r);
        let ends = row.document_starts.iter().skip(1).copied().chain([row.tokens.len() as u32]);
        row.document_starts.iter().zip(ends).map(|(a, b)| *a as usize..b as usize).collect::<Vec<_>>()
    };
    for r in 0..shards.len() {
        for (id, range) in shards.document_ids(r).iter().zip(ranges(r)) {
            if let Some(key) = split(id).filter(|k| k.1 > 0) {
                parts.insert(key, (r, range));
            }
        }
    }
    for r in 0..shards.len() {
        if r % 4096 == 0 {
            check_interrupt()?;
        }
        for (id, range) in shards.document_ids(r).iter().zip(ranges(r)).filter(|(id, _)| !id.is_empty()) {
            let mut document = shards.row(r).tokens[range].to_vec();
            match split(id) {
                Some((_, n)) if n > 0 && parts.contains_key(&(split(id).unwrap_or_default().0, n)) => continue,
                Some((id, 0)) => {
                    for n in 1.. {
                        let Some((row, range)) = parts.get(&(id.clone(), n)) else { break };
                        document.extend_from_slice(&shards.row(*row).tokens[range.start + 1..range.end]);
                    }
                }
                _ => {}
            }
            each(&document)?;
        }
    }
    Ok(())
}

/// Write `config.input` in the other format into `out`.
pub fn export(config: &ExportConfig, out: &Path) -> Result<ExportSummary> {
    if config.name.is_empty() || config.name.contains(['/', '\\']) {
        return Err(Error::Config(format!("export.name is {:?}, expected a file name without folders", config.name)));
    }
    let shards = Shards::open(&config.input)?;
    let wide = shards.info().vocab_size > 1 << 16;
    let size = if wide { 4 } else { 2 };
    let (tokens_name, index_name) = match config.format {
        Format::Datatrove => (format!("{}.ds", config.name), format!("{}.ds.index", config.name)),
        Format::Megatron => (format!("{}.bin", config.name), format!("{}.idx", config.name)),
    };
    let path = out.join(&tokens_name);
    let mut file = AtomicFile::create(&path)?;
    let mut ends: Vec<u64> = Vec::new();
    let mut total = 0u64;
    let mut bytes = Vec::new();
    let mut progress = Progress::new("export", (shards.len() * shards.sequence_length()) as u64, "tokens");
    for_each_document(&shards, |document| {
        bytes.clear();
        for &token in document {
            match u16::try_from(token) {
                Ok(token) if !wide => bytes.extend_from_slice(&token.to_le_bytes()),
                Err(_) if !wide => {
                    let message = format!("token {token} lies outside the vocabulary of {} in the metadata; pack again", shards.info().vocab_size);
                    return Err(Error::Format { path: config.input.clone(), message });
                }
                _ => bytes.extend_from_slice(&token.to_le_bytes()),
            }
        }
        file.write_all(&bytes).map_err(io(&path, "cannot write (is the disk full?)"))?;
        total += document.len() as u64;
        ends.push(total);
        progress.inc(document.len() as u64);
        Ok(())
    })?;
    file.commit()?;
    let mut files = vec![tokens_name.clone(), index_name.clone()];
    let index = match config.format {
        Format::Datatrove => {
            let name = if config.tokenizer.is_empty() { &shards.info().tokenizer } else { &config.tokenizer };
            let metadata = format!("{tokens_name}.metadata");
            llm_run::atomic::write(out.join(&metadata), format!("{name}|{size}\n{total}\n{}", human(total)))?;
            files.push(metadata);
            ends.iter().flat_map(|e| e.to_le_bytes()).collect()
        }
        Format::Megatron => megatron_index(&ends, size)?,
    };
    llm_run::atomic::write(out.join(&index_name), index)?;
    progress.finish(format!("{} documents, {total} tokens", ends.len()));
    Ok(ExportSummary { documents: ends.len() as u64, tokens: total, token_size: size, files })
}

fn megatron_index(ends: &[u64], size: u64) -> Result<Vec<u8>> {
    let mut index = Vec::with_capacity(42 + 20 * ends.len());
    index.extend_from_slice(b"MMIDIDX\0\0");
    index.extend_from_slice(&1u64.to_le_bytes());
    // Megatron's codes of numpy types: 4 is int32, 8 is uint16.
    index.push(if size == 4 { 4 } else { 8 });
    index.extend_from_slice(&(ends.len() as u64).to_le_bytes());
    index.extend_from_slice(&(ends.len() as u64 + 1).to_le_bytes());
    let starts = || std::iter::once(0).chain(ends.iter().copied());
    for (start, end) in starts().zip(ends) {
        let length = i32::try_from(end - start)
            .map_err(|_| Error::Config(format!("a document of {} tokens is too long for a Megatron index", end - start)))?;
        index.extend_from_slice(&length.to_le_bytes());
    }
    starts().take(ends.len()).for_each(|start| index.extend_from_slice(&(start * size).to_le_bytes()));
    (0..=ends.len() as u64).for_each(|document| index.extend_from_slice(&document.to_le_bytes()));
    Ok(index)
}

/// `1.23 MT`: three figures with an SI prefix, as datatrove's third line has it for people.
fn human(tokens: u64) -> String {
    let mut exponent = tokens.max(1).ilog10() as usize;
    // 999 960 reads as 1.00 M, not as 1000 k.
    let figures = (tokens as f64 / 10f64.powi(exponent as i32 - 2)).round();
    exponent += usize::from(figures >= 1000.0);
    let prefix = ["", "k", "M", "G", "T", "P", "E"][exponent / 3];
    let value = tokens as f64 / 10f64.powi((exponent / 3 * 3) as i32);
    format!("{value:.*} {prefix}T", 2 - exponent % 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_for_people_is_that_of_humanize() {
        // `humanize.metric(n, unit="T")` of Python.
        for (n, text) in [
            (0, "0.00 T"),
            (7, "7.00 T"),
            (42, "42.0 T"),
            (999, "999 T"),
            (1234, "1.23 kT"),
            (123_456, "123 kT"),
            (9_996, "10.0 kT"),
            (999_600, "1.00 MT"),
            (5_880_000_000, "5.88 GT"),
        ] {
            assert_eq!(human(n), text);
        }
    }
}
