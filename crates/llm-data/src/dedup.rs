//! Duplicate removal: exact by hash of the normalised text, then near duplicates by MinHash LSH.
//!
//! Two passes over the folder: the first keeps a hash and a signature per document (about 1 kB), the second writes. The
//! document that comes first in the folder is the one that stays.

use crate::document::{DocumentReader, DocumentWriter};
use crate::error::{Error, Result, check_interrupt};
use crate::funnel::{Drop, Funnel, FunnelWriter, excerpt};
use crate::minhash::{MinHash, Signature, similarity};
use llm_run::Progress;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use unicode_normalization::UnicodeNormalization;

/// Configuration of `llm-data dedup`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DedupConfig {
    /// Output folder of `filter`.
    pub input: PathBuf,
    /// Names the hash functions.
    pub seed: u64,
    /// Remove near duplicates too.
    pub near: bool,
    /// Words per shingle.
    pub ngram: usize,
    /// Bands of the signature.
    pub bands: usize,
    /// Rows per band.
    pub rows: usize,
    /// Least estimated similarity of a near duplicate.
    pub min_similarity: f64,
}

impl Default for DedupConfig {
    fn default() -> Self {
        Self { input: PathBuf::new(), seed: 42, near: true, ngram: 5, bands: 14, rows: 8, min_similarity: 0.7 }
    }
}

/// BLAKE3 of the text in NFC with every run of white space as one space.
pub fn normalised_hash(text: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for (i, word) in text.split_whitespace().enumerate() {
        if i > 0 {
            hasher.update(b" ");
        }
        if word.is_ascii() {
            hasher.update(word.as_bytes());
        } else {
            hasher.update(word.nfc().collect::<String>().as_bytes());
        }
    }
    *hasher.finalize().as_bytes()
}

struct Fingerprints {
    ids: Vec<String>,
    exact: Vec<[u8; 32]>,
    near: Vec<Signature>,
}

fn fingerprints(config: &DedupConfig, minhash: &MinHash, progress: &mut Progress) -> Result<Fingerprints> {
    let mut all = Fingerprints { ids: Vec::new(), exact: Vec::new(), near: Vec::new() };
    for batch in DocumentReader::open(&config.input)? {
        check_interrupt()?;
        let batch = batch?;
        let found: Vec<([u8; 32], Signature)> =
            batch.par_iter().map(|d| (normalised_hash(&d.text), if config.near { minhash.signature(&d.text) } else { Signature::new() })).collect();
        progress.inc(batch.len() as u64);
        all.ids.extend(batch.into_iter().map(|d| d.id));
        for (exact, near) in found {
            all.exact.push(exact);
            all.near.push(near);
        }
    }
    Ok(all)
}

/// Run the stage.
pub fn dedup(config: &DedupConfig, out: &Path) -> Result<Funnel> {
    if config.bands == 0 || config.rows == 0 || config.ngram == 0 {
        return Err(Error::Config("dedup: ngram, bands and rows must be at least 1".into()));
    }
    let minhash = MinHash::new(config.ngram, config.bands, config.rows, config.seed);
    let mut funnel = FunnelWriter::create(out, "dedup", &["exact duplicate", "near duplicate"])?;
    let total = crate::document::count(&config.input)?;
    let mut progress = Progress::new("dedup", 2 * total, "documents");
    let all = fingerprints(config, &minhash, &mut progress)?;

    let mut first: HashMap<[u8; 32], usize> = HashMap::new();
    let exact_of: Vec<usize> = all.exact.iter().enumerate().map(|(i, hash)| *first.entry(*hash).or_insert(i)).collect();
    let near_of = if config.near { minhash.clusters(&all.near, config.min_similarity) } else { (0..all.ids.len()).collect() };

    let mut writer = DocumentWriter::create(&out.join("documents"))?;
    let mut index = 0;
    for batch in DocumentReader::open(&config.input)? {
        check_interrupt()?;
        let batch = batch?;
        progress.inc(batch.len() as u64);
        for document in batch {
            let (i, bytes) = (index, document.text.len());
            index += 1;
            funnel.input(bytes);
            let drop = |step: &str, of: usize, threshold: serde_json::Value, value: serde_json::Value| Drop {
                id: document.id.clone(),
                step: step.to_string(),
                value: serde_json::json!({"duplicate_of": all.ids[of], "similarity": value}),
                threshold,
                text: excerpt(&document.text),
            };
            if exact_of[i] != i {
                funnel.drop(drop("exact duplicate", exact_of[i], "same normalised text".into(), 1.into()), bytes)?;
            } else if near_of[i] != i {
                let estimate = (similarity(&all.near[i], &all.near[near_of[i]]) * 1e3).round() / 1e3;
                funnel.drop(drop("near duplicate", near_of[i], config.min_similarity.into(), estimate.into()), bytes)?;
            } else {
                funnel.output(&document);
                writer.push(document)?;
            }
        }
    }
    if writer.documents == 0 {
        return Err(Error::Empty(format!("{}: holds no document; run the stage before this one", config.input.display())));
    }
    writer.finish()?;
    let funnel = funnel.finish(out)?;
    progress.finish(funnel.summary());
    Ok(funnel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_and_composition_do_not_matter_but_case_does() {
        assert_eq!(normalised_hash("a  b\n c"), normalised_hash(" a b c"));
        assert_eq!(normalised_hash("u\u{308}ber"), normalised_hash("über"));
        assert_ne!(normalised_hash("a b"), normalised_hash("A b"));
        assert_ne!(normalised_hash("a b"), normalised_hash("ab"));
    }
}
