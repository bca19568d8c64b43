//! Counts of a folder of documents: how much of what, in which language, how long.

use crate::document::DocumentReader;
use crate::error::{Result, check_interrupt};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Counts of one group.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Documents.
    pub documents: u64,
    /// UTF-8 bytes of text.
    pub bytes: u64,
    /// Words between white space.
    pub words: u64,
    /// Words of the longest document.
    pub longest_words: u64,
    /// Mean quality score of the documents that have one.
    pub mean_quality: Option<f64>,
    #[serde(skip)]
    quality: (f64, u64),
}

impl Stats {
    fn add(&mut self, bytes: u64, words: u64, quality: Option<f32>) {
        self.documents += 1;
        self.bytes += bytes;
        self.words += words;
        self.longest_words = self.longest_words.max(words);
        if let Some(q) = quality {
            self.quality = (self.quality.0 + f64::from(q), self.quality.1 + 1);
            self.mean_quality = Some(self.quality.0 / self.quality.1 as f64);
        }
    }
}

/// Counts per `domain/lang`, and `total`.
pub fn stats(path: &Path) -> Result<BTreeMap<String, Stats>> {
    let mut groups: BTreeMap<String, Stats> = BTreeMap::new();
    for batch in DocumentReader::open(path)? {
        check_interrupt()?;
        for document in batch? {
            let (bytes, words) = (document.text.len() as u64, document.text.split_whitespace().count() as u64);
            let group = format!("{}/{}", document.domain, document.lang.as_deref().unwrap_or("unknown"));
            for name in [group, "total".to_string()] {
                groups.entry(name).or_default().add(bytes, words, document.quality);
            }
        }
    }
    Ok(groups)
}
