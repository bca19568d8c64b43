//! Settings of `llm-data dedup`.

use crate::error::{Error, Result};
use crate::ranks::Ranks;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Less is no room for one buffer.
const LEAST_MEMORY: usize = 64 << 10;

/// What counts as a repetition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Documents with the same text, white space and composition aside.
    Exact,
    /// Documents whose sets of word n-grams nearly agree.
    Minhash,
    /// Documents whose SimHash differs in few bits.
    Simhash,
    /// Lines that were there before.
    Line,
    /// Paragraphs that were there before.
    Paragraph,
    /// Any stretch of bytes that was there before.
    Substring,
}

/// Which MinHash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Profile {
    /// Ours: words are letters, digits and underscores; products modulo 2^64.
    #[default]
    #[serde(rename = "words")]
    Words,
    /// Signatures of datatrove, bit for bit, with its default hash.
    #[serde(rename = "datatrove:xxhash")]
    DatatroveXxhash,
    /// Signatures of datatrove, bit for bit, with SHA-1 (FineWeb).
    #[serde(rename = "datatrove:sha1")]
    DatatroveSha1,
}

/// Which document of a cluster stays; of equal ones the one that comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The first in the input.
    #[default]
    First,
    /// The one with most bytes.
    Longest,
    /// The one with the best quality score; none is worst.
    Quality,
    /// The one with the latest date; none is oldest.
    Newest,
}

/// Configuration of `llm-data dedup`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DedupConfig {
    /// Output folder of `filter`.
    pub input: PathBuf,
    /// Names the hash functions of profile `words`.
    pub seed: u64,
    /// What is removed.
    pub methods: Vec<Method>,
    /// Which document of a cluster stays.
    pub keep: Keep,
    /// Which MinHash.
    pub profile: Profile,
    /// Words per n-gram (MinHash, SimHash).
    pub ngram: usize,
    /// Bands of the signature.
    pub bands: usize,
    /// Rows per band.
    pub rows: usize,
    /// Least estimated similarity of a near duplicate: 0.7 for profile `words`; none for `datatrove:*`, where sharing a band is enough.
    pub min_similarity: Option<f64>,
    /// Bits of each component kept to estimate similarities: 8, 16 or 32.
    pub signature_bits: u32,
    /// Seed of profile `datatrove:*`.
    pub datatrove_seed: u32,
    /// Most differing bits of 64 between SimHash duplicates.
    pub simhash_bits: u32,
    /// Lines with fewer characters are left alone.
    pub min_line_chars: usize,
    /// Paragraphs with fewer characters are left alone.
    pub min_paragraph_chars: usize,
    /// Shortest repeated stretch, bytes.
    pub min_substring_bytes: usize,
    /// A document of which a removal of lines, paragraphs or stretches leaves fewer characters goes as a whole.
    pub min_chars_left: usize,
    /// Memory to work in, e.g. `512MiB`, `8GiB`: what does not fit goes through files.
    pub memory: String,
    /// Folder of the intermediate files; `work` in the output folder by default.
    pub work: Option<PathBuf>,
    /// Leave the intermediate files.
    pub keep_work: bool,
    /// Which of several processes this is; they share `work`.
    pub ranks: Ranks,
    /// Seconds to wait for the other processes between phases.
    pub wait_seconds: u64,
}

impl Default for DedupConfig {
    fn default() -> Self {
        Self {
            input: PathBuf::new(),
            seed: 42,
            methods: vec![Method::Exact, Method::Minhash],
            keep: Keep::First,
            profile: Profile::Words,
            ngram: 5,
            bands: 14,
            rows: 8,
            min_similarity: None,
            signature_bits: 32,
            datatrove_seed: 1,
            simhash_bits: 3,
            min_line_chars: 30,
            min_paragraph_chars: 60,
            min_substring_bytes: 200,
            min_chars_left: 1,
            memory: "1GiB".into(),
            work: None,
            keep_work: false,
            ranks: Ranks::default(),
            wait_seconds: 24 * 3600,
        }
    }
}

impl DedupConfig {
    /// True when `method` is asked for.
    pub fn has(&self, method: Method) -> bool {
        self.methods.contains(&method)
    }

    /// Least estimated similarity; 0 when sharing a band is enough.
    pub fn least_similarity(&self) -> f64 {
        self.min_similarity.unwrap_or(if self.profile == Profile::Words { 0.7 } else { 0.0 })
    }

    /// Bytes to work in.
    pub fn memory_bytes(&self) -> Result<usize> {
        let bytes = llm_run::config::parse_bytes(&self.memory)?;
        if bytes < LEAST_MEMORY {
            return Err(Error::Config(format!("dedup: memory = {:?} is too little to work in; at least 64KiB", self.memory)));
        }
        Ok(bytes)
    }

    /// Values that no type can refuse.
    pub fn validate(&self) -> Result<()> {
        let wrong = |message: String| Err(Error::Config(format!("dedup: {message}")));
        if self.methods.is_empty() {
            return wrong("methods is empty; give at least one of exact, minhash, simhash, line, paragraph, substring".into());
        }
        if self.bands == 0 || self.rows == 0 || self.ngram == 0 {
            return wrong("ngram, bands and rows must be at least 1".into());
        }
        if self.bands * self.rows > 4096 {
            return wrong(format!("bands x rows = {} hash functions; at most 4096", self.bands * self.rows));
        }
        if ![8, 16, 32].contains(&self.signature_bits) {
            return wrong(format!("signature_bits = {}; 8, 16 or 32", self.signature_bits));
        }
        if self.simhash_bits > 8 {
            return wrong(format!("simhash_bits = {}; at most 8 of 64", self.simhash_bits));
        }
        if !(32..=32_000).contains(&self.min_substring_bytes) {
            return wrong(format!("min_substring_bytes = {}; 32 to 32000", self.min_substring_bytes));
        }
        if !(0.0..=1.5).contains(&self.least_similarity()) {
            return wrong(format!("min_similarity = {}; 0 to 1", self.least_similarity()));
        }
        Ranks::new(self.ranks.rank, self.ranks.world_size)?;
        self.memory_bytes().map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let with = |change: fn(&mut DedupConfig)| {
            let mut config = DedupConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(with(|c| c.methods.clear()).contains("methods"));
        assert!(with(|c| c.rows = 0).contains("at least 1"));
        assert!(with(|c| c.signature_bits = 12).contains("8, 16 or 32"));
        assert!(with(|c| c.memory = "1kB".into()).contains("too little"));
        assert!(with(|c| c.ranks.rank = 3).contains("below world_size"));
    }
}
