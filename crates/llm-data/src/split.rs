//! Redaction and the held-out split.
//!
//! Whether a document is held out is a function of its group and the seed, not of its neighbours: adding documents moves
//! none. A group is a document, or a file with all its chapters (`group_by`); the versions of one package's file count as
//! one, so that last year's version in training does not give away this year's in the test. Strata are domain x language.

use crate::document::{Document, DocumentReader, DocumentWriter};
use crate::error::{Error, Result, check_interrupt};
use crate::funnel::{Funnel, FunnelWriter};
use crate::redact::{RedactConfig, redact};
use llm_run::{Progress, Seed};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

/// Configuration of `llm-data split`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SplitConfig {
    /// Output folder of `dedup`.
    pub input: PathBuf,
    /// Names the split.
    pub seed: u64,
    /// Share of the groups that is held out.
    pub fraction: f64,
    /// Held-out documents at most.
    pub max_documents: usize,
    /// Held-out bytes at most.
    pub max_bytes: u64,
    /// `document`, or `file` to keep all chapters of a file on one side.
    pub group_by: GroupBy,
    /// What is redacted.
    pub redact: RedactConfig,
}

impl Default for SplitConfig {
    fn default() -> Self {
        Self {
            input: PathBuf::new(),
            seed: 42,
            fraction: 0.03,
            max_documents: 400,
            max_bytes: 1_000_000,
            group_by: GroupBy::Document,
            redact: RedactConfig::default(),
        }
    }
}

/// What is held out together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupBy {
    /// Each document for itself.
    #[default]
    Document,
    /// All documents of one file.
    File,
}

/// The group of a document.
pub fn group(document: &Document, by: GroupBy) -> Cow<'_, str> {
    let id = match by {
        GroupBy::File => document.id.split('#').next().unwrap_or_default(),
        GroupBy::Document => document.id.as_str(),
    };
    if !document.source.starts_with("cargo/") {
        return Cow::Borrowed(id);
    }
    let Some((package, path)) = id.split_once('/') else { return Cow::Borrowed(id) };
    let version = package.char_indices().find(|(i, c)| *c == '-' && package[i + 1..].starts_with(|c: char| c.is_ascii_digit()));
    Cow::Owned(format!("{}/{path}", version.map_or(package, |(at, _)| &package[..at])))
}

struct Stratum {
    /// `(hash, group)` -> number of documents and bytes.
    groups: BTreeMap<(u64, String), (usize, u64)>,
    documents: usize,
    bytes: u64,
}

/// The held-out groups of each stratum, smallest hash first, within the caps (shared out by size).
fn choose(strata: &BTreeMap<String, Stratum>, config: &SplitConfig) -> HashSet<String> {
    let total_bytes: u64 = strata.values().map(|s| s.bytes).sum();
    let total_documents: usize = strata.values().map(|s| s.documents).sum();
    let limit = (config.fraction * u64::MAX as f64) as u64;
    let mut chosen = HashSet::new();
    for stratum in strata.values() {
        let share = |cap: f64, part: f64, all: f64| cap * part / all.max(1.0);
        let max_documents = share(config.max_documents as f64, stratum.documents as f64, total_documents as f64).max(1.0);
        let max_bytes = share(config.max_bytes as f64, stratum.bytes as f64, total_bytes as f64);
        let (mut documents, mut bytes) = (0usize, 0u64);
        for ((hash, name), (n, size)) in &stratum.groups {
            // A stratum of some size is never without a held-out document.
            let first = documents == 0 && stratum.groups.len() >= 10;
            let fits = (documents + n) as f64 <= max_documents && (bytes + size) as f64 <= max_bytes;
            if !(first || *hash < limit && fits) {
                if *hash >= limit {
                    break;
                }
                continue;
            }
            documents += n;
            bytes += size;
            chosen.insert(name.clone());
        }
    }
    chosen
}

/// Run the stage.
pub fn split(config: &SplitConfig, out: &Path) -> Result<Funnel> {
    if !(0.0..1.0).contains(&config.fraction) {
        return Err(Error::Config(format!("split.fraction is {}, expected 0 <= fraction < 1", config.fraction)));
    }
    let mut funnel = FunnelWriter::create(out, "split", &[])?;
    let total = crate::document::count(&config.input)?;
    let mut progress = Progress::new("split", 2 * total, "documents");
    let seed = Seed(config.seed).stream("split");
    let mut strata: BTreeMap<String, Stratum> = BTreeMap::new();
    for batch in DocumentReader::open(&config.input)? {
        check_interrupt()?;
        let batch = batch?;
        progress.inc(batch.len() as u64);
        for document in &batch {
            let name = group(document, config.group_by);
            let key = format!("{}/{}", document.domain, document.lang.as_deref().unwrap_or("unknown"));
            let stratum = strata.entry(key).or_insert_with(|| Stratum { groups: BTreeMap::new(), documents: 0, bytes: 0 });
            stratum.documents += 1;
            stratum.bytes += document.text.len() as u64;
            let entry = stratum.groups.entry((seed.stream(&name).0, name.into_owned())).or_default();
            entry.0 += 1;
            entry.1 += document.text.len() as u64;
        }
    }
    let chosen = if config.fraction == 0.0 { HashSet::new() } else { choose(&strata, config) };
    let mut train = DocumentWriter::create(&out.join("train"))?;
    let mut heldout = DocumentWriter::create(&out.join("heldout"))?;
    for batch in DocumentReader::open(&config.input)? {
        check_interrupt()?;
        let batch = batch?;
        progress.inc(batch.len() as u64);
        let redacted: Vec<_> = batch
            .into_par_iter()
            .map(|mut document| {
                let bytes = document.text.len();
                let (text, counts) = redact(&document.text, &config.redact);
                if let Cow::Owned(text) = text {
                    document.text = text;
                }
                (document, counts, bytes)
            })
            .collect();
        for (document, counts, bytes) in redacted {
            funnel.input(bytes);
            funnel.count("redacted e-mail addresses", counts.emails);
            funnel.count("redacted telephone numbers", counts.phones);
            funnel.count("redacted IP addresses", counts.ips);
            funnel.output(&document);
            let held = chosen.contains(group(&document, config.group_by).as_ref());
            let (writer, name) = if held { (&mut heldout, "held-out") } else { (&mut train, "training") };
            funnel.count(&format!("{name} documents"), 1);
            funnel.count(&format!("{name} bytes"), document.text.len() as u64);
            if held {
                funnel.count(&format!("held-out {}/{}", document.domain, document.lang.as_deref().unwrap_or("unknown")), 1);
            }
            writer.push(document)?;
        }
    }
    if train.documents == 0 {
        return Err(Error::Empty(format!(
            "{}: no document is left for training; give it more documents or lower split.fraction",
            config.input.display()
        )));
    }
    if heldout.documents == 0 && config.fraction > 0.0 {
        funnel.notice("no document was held out: too few documents for split.fraction; evaluation will have nothing to measure on");
    }
    train.finish()?;
    heldout.finish()?;
    let funnel = funnel.finish(out)?;
    progress.finish(funnel.summary());
    Ok(funnel)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(id: &str, source: &str) -> Document {
        Document { id: id.into(), source: source.into(), domain: "code".into(), ..Document::default() }
    }

    #[test]
    fn versions_of_a_package_are_one_group_and_chapters_are_not() {
        let of = |id: &str, source: &str, by| group(&document(id, source), by).into_owned();
        assert_eq!(of("syn-1.0.109/src/lib.rs", "cargo/source", GroupBy::Document), "syn/src/lib.rs");
        assert_eq!(of("wasm-bindgen-0.2.1+x/src/a-1.rs", "cargo/source", GroupBy::Document), "wasm-bindgen/src/a-1.rs");
        assert_eq!(of("books/faust.txt#003", "paths/books", GroupBy::Document), "books/faust.txt#003");
        assert_eq!(of("books/faust.txt#003", "paths/books", GroupBy::File), "books/faust.txt");
    }

    fn strata(n: usize) -> BTreeMap<String, Stratum> {
        let groups = (0..n).map(|i| ((Seed(1).stream(&i.to_string()).0, format!("g{i}")), (1, 100))).collect();
        BTreeMap::from([("docs/en".to_string(), Stratum { groups, documents: n, bytes: 100 * n as u64 })])
    }

    #[test]
    fn adding_documents_moves_none_and_caps_hold() {
        let config = SplitConfig { fraction: 0.1, max_documents: 10_000, max_bytes: u64::MAX, ..SplitConfig::default() };
        let (small, large) = (choose(&strata(1000), &config), choose(&strata(2000), &config));
        assert!(small.len() > 60 && small.len() < 140, "{}", small.len());
        assert!(small.is_subset(&large));
        let capped = choose(&strata(1000), &SplitConfig { max_documents: 7, ..config.clone() });
        assert_eq!(capped.len(), 7);
        assert_eq!(choose(&strata(20), &SplitConfig { fraction: 1e-9, ..config }).len(), 1, "never empty for a stratum of some size");
    }
}
