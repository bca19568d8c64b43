//! A balanced text sample: what the tokenizer is trained on and what fertility is measured on.
//!
//! Groups are language x domain. Each gets a share of `max_bytes` by its weight; what a small group cannot fill goes to
//! the others. Within a group documents come in the order of a seeded hash, long ones cut at a paragraph or line end.

use crate::document::{Document, DocumentReader};
use crate::error::{Error, Result, check_interrupt, io};
use crate::read::jsonl::{self, Lines};
use llm_run::Seed;
use llm_run::atomic::AtomicFile;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Configuration of `llm-data sample`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SampleConfig {
    /// Folders of documents, e.g. `split/train`.
    pub inputs: Vec<PathBuf>,
    /// JSON lines with `text` or `messages`, e.g. the exercises' `train.jsonl`.
    pub extra: Vec<PathBuf>,
    /// Order within a group.
    pub seed: u64,
    /// Size of the sample.
    pub max_bytes: u64,
    /// Longer documents are cut.
    pub max_document_bytes: usize,
    /// Weight of `lang/domain`, else of `domain`, else of `lang`, else 1. Zero leaves a group out.
    pub weights: BTreeMap<String, f64>,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self { inputs: Vec::new(), extra: Vec::new(), seed: 42, max_bytes: 8_000_000, max_document_bytes: 20_000, weights: BTreeMap::new() }
    }
}

/// What was sampled from a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GroupCount {
    /// Documents.
    pub documents: u64,
    /// Bytes.
    pub bytes: u64,
    /// Bytes there were to choose from (after cutting).
    pub available: u64,
}

#[derive(Serialize)]
struct Row<'a> {
    text: &'a str,
    lang: &'a str,
    domain: &'a str,
}

fn group_of(document: &Document) -> String {
    format!("{}/{}", document.lang.as_deref().unwrap_or("unknown"), document.domain)
}

/// The beginning of a text, at most `max` bytes, ending at a paragraph, line or character.
fn cut(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let mut end = max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let head = &text[..end];
    let at = head.rfind("\n\n").filter(|at| *at > end / 2).or_else(|| head.rfind('\n').filter(|at| *at > end / 2));
    at.map_or(head, |at| &head[..=at])
}

fn weight(group: &str, weights: &BTreeMap<String, f64>) -> f64 {
    let (lang, domain) = group.split_once('/').unwrap_or((group, ""));
    [group, domain, lang].iter().find_map(|k| weights.get(*k)).copied().unwrap_or(1.0).max(0.0)
}

/// Bytes per group: shares by weight, what a group cannot fill is shared among the rest.
fn budgets(available: &BTreeMap<String, u64>, config: &SampleConfig) -> BTreeMap<String, u64> {
    let mut budgets: BTreeMap<String, u64> = BTreeMap::new();
    let mut open: Vec<(&String, u64, f64)> =
        available.iter().map(|(g, a)| (g, *a, weight(g, &config.weights))).filter(|(_, _, w)| *w > 0.0).collect();
    let mut left = config.max_bytes as f64;
    loop {
        let total: f64 = open.iter().map(|o| o.2).sum();
        let (full, rest): (Vec<_>, Vec<_>) = open.iter().partition(|(_, a, w)| *a as f64 <= left * w / total.max(f64::MIN_POSITIVE));
        if full.is_empty() {
            budgets.extend(rest.iter().map(|(g, _, w)| ((*g).clone(), (left * w / total) as u64)));
            return budgets;
        }
        left -= full.iter().map(|(_, a, _)| *a as f64).sum::<f64>();
        budgets.extend(full.iter().map(|(g, a, _)| ((*g).clone(), *a)));
        open = rest;
        if open.is_empty() {
            return budgets;
        }
    }
}

/// Call `each` with every document of the inputs, then of the extra files.
fn for_each(config: &SampleConfig, mut each: impl FnMut(Document) -> Result<()>) -> Result<()> {
    for input in &config.inputs {
        for batch in DocumentReader::open(input)? {
            check_interrupt()?;
            batch?.into_iter().try_for_each(&mut each)?;
        }
    }
    for path in &config.extra {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        for line in Lines::open(path)? {
            let (number, line) = line?;
            let row = jsonl::object(path, number, &line)?;
            each(jsonl::document(path, format!("{name}#{number}"), &name, format!("line {number}"), &row, "text")?)?;
        }
    }
    Ok(())
}

/// Write `sample.jsonl` into `out`; returns what each group contributed.
pub fn sample(config: &SampleConfig, out: &Path) -> Result<BTreeMap<String, GroupCount>> {
    if config.inputs.is_empty() && config.extra.is_empty() {
        return Err(Error::Config("sample: inputs and extra are both empty; name a folder of documents".into()));
    }
    let seed = Seed(config.seed).stream("sample");
    let mut order: BTreeMap<String, Vec<(u64, u64, u64)>> = BTreeMap::new();
    let mut index = 0u64;
    for_each(config, |document| {
        let size = cut(&document.text, config.max_document_bytes).len() as u64;
        order.entry(group_of(&document)).or_default().push((seed.stream(&document.id).0, index, size));
        index += 1;
        Ok(())
    })?;
    let available: BTreeMap<String, u64> = order.iter().map(|(g, v)| (g.clone(), v.iter().map(|d| d.2).sum())).collect();
    let budgets = budgets(&available, config);
    let mut counts: BTreeMap<String, GroupCount> = BTreeMap::new();
    let mut chosen = std::collections::HashSet::new();
    for (group, mut documents) in order {
        documents.sort_unstable();
        let budget = budgets.get(&group).copied().unwrap_or(0);
        let count = counts.entry(group.clone()).or_default();
        count.available = available.get(&group).copied().unwrap_or(0);
        for (_, index, size) in documents {
            if count.bytes + size <= budget {
                count.bytes += size;
                count.documents += 1;
                chosen.insert(index);
            }
        }
    }
    if chosen.is_empty() {
        return Err(Error::Empty("the sample is empty: no document fits; check sample.inputs, sample.max_bytes and sample.weights".into()));
    }
    let path = out.join("sample.jsonl");
    let mut file = AtomicFile::create(&path)?;
    let mut index = 0u64;
    for_each(config, |document| {
        if chosen.contains(&index) {
            let row = Row {
                text: cut(&document.text, config.max_document_bytes),
                lang: document.lang.as_deref().unwrap_or("unknown"),
                domain: &document.domain,
            };
            let mut line = serde_json::to_vec(&row).unwrap_or_default();
            line.push(b'\n');
            file.write_all(&line).map_err(io(&path, "cannot write"))?;
        }
        index += 1;
        Ok(())
    })?;
    file.commit()?;
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_long_document_ends_at_a_paragraph() {
        assert_eq!(cut("one\n\ntwo\n\nthree four", 12), "one\n\ntwo\n");
        assert_eq!(cut("short", 12), "short");
        assert_eq!(cut("ääää", 3), "ä");
    }

    proptest! {
        #[test]
        fn budgets_never_exceed_what_there_is(sizes in proptest::collection::vec(0u64..10_000, 1..8), max in 1u64..30_000) {
            let available: BTreeMap<String, u64> = sizes.iter().enumerate().map(|(i, s)| (format!("l{i}/docs"), *s)).collect();
            let config = SampleConfig { max_bytes: max, ..SampleConfig::default() };
            let budgets = budgets(&available, &config);
            prop_assert!(budgets.iter().all(|(g, b)| *b <= available[g]));
            let sum: u64 = budgets.values().sum();
            let want = max.min(available.values().sum());
            prop_assert!(sum <= max && sum + 8 >= want, "{} {}", sum, want);
        }
    }

    #[test]
    fn weights_go_from_special_to_general() {
        let weights = BTreeMap::from([("en/docs".to_string(), 3.0), ("docs".to_string(), 2.0), ("rust".to_string(), 0.0)]);
        assert_eq!(
            [weight("en/docs", &weights), weight("de/docs", &weights), weight("rust/code", &weights), weight("es/web", &weights)],
            [3.0, 2.0, 0.0, 1.0]
        );
    }
}
