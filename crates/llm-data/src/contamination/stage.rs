//! `llm-data contamination-index` and `llm-data decontaminate`.

use super::{Decontaminate, DecontaminateConfig, Index, IndexConfig, NO_BENCHMARKS, Scratch};
use crate::document::{Document, DocumentReader, DocumentWriter};
use crate::error::{Result, check_interrupt};
use crate::funnel::{Drop, Funnel, FunnelWriter, excerpt};
use crate::step::Verdict;
use llm_run::Progress;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

const EXAMPLES: usize = 5;

/// Configuration of `llm-data decontaminate`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StageConfig {
    /// A folder of documents.
    pub input: PathBuf,
    /// What is looked for and what happens.
    pub decontaminate: DecontaminateConfig,
}

/// What was found of one benchmark.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkReport {
    /// Documents with text of it.
    pub documents: u64,
    /// Stretches of text.
    pub spans: u64,
    /// Shared n-grams.
    pub ngrams: u64,
    /// Different items found.
    pub items: u64,
    /// Items in the index.
    pub items_indexed: u64,
    /// The first few.
    pub examples: Vec<Example>,
    #[serde(skip)]
    seen: HashSet<u32>,
}

/// One find.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// The document.
    pub document: String,
    /// File and number of the item.
    pub item: String,
    /// The text that both have.
    pub text: String,
}

/// Build the index into `out/contamination.idx`; returns it with its size in bytes.
pub fn write_index(config: &IndexConfig, out: &Path) -> Result<(Index, u64)> {
    let index = Index::build(config)?;
    let bytes = index.save(&out.join("contamination.idx"))?;
    Ok((index, bytes))
}

/// Decontaminate a folder into `out/documents`, with `contamination.json` by benchmark.
pub fn decontaminate(config: &StageConfig, out: &Path) -> Result<(Funnel, BTreeMap<String, BenchmarkReport>)> {
    let step = Decontaminate::from_config(&config.decontaminate)?;
    let mut funnel = FunnelWriter::create(out, "decontaminate", &["contamination"])?;
    let mut progress = Progress::new("decontaminate", crate::document::count(&config.input)?, "documents");
    let mut writer = DocumentWriter::create(&out.join("documents"))?;
    let mut reports: BTreeMap<String, BenchmarkReport> = BTreeMap::new();
    match &step {
        None => funnel.notice(NO_BENCHMARKS),
        Some(step) => {
            for file in &step.index().info.files {
                reports.entry(step.index().info.benchmarks[file.benchmark].clone()).or_default().items_indexed +=
                    u64::from(file.items - file.too_short);
            }
        }
    }
    for batch in DocumentReader::open(&config.input)? {
        check_interrupt()?;
        let judged: Vec<(Document, Option<super::Outcome>)> = batch?
            .into_par_iter()
            .map_init(Scratch::default, |scratch, document| {
                let outcome = step.as_ref().map(|s| s.outcome(&document.text, scratch)).filter(|o| !o.spans.is_empty());
                (document, outcome)
            })
            .collect();
        progress.inc(judged.len() as u64);
        for (mut document, outcome) in judged {
            let bytes = document.text.len();
            funnel.input(bytes);
            if let (Some(step), Some(outcome)) = (&step, outcome) {
                note(step, &document, &outcome, &mut reports);
                funnel.count("documents with benchmark text", 1);
                if let Verdict::Drop(reason) = step.verdict(&outcome) {
                    let drop =
                        Drop { step: reason.check, value: reason.value, threshold: reason.threshold, text: excerpt(&document.text), id: document.id };
                    funnel.drop(drop, bytes)?;
                    continue;
                }
                if let Some(text) = outcome.text {
                    funnel.count("documents cut", 1);
                    funnel.count("bytes cut", (bytes - text.len().min(bytes)) as u64);
                    document.text = text;
                }
            }
            funnel.output(&document);
            writer.push(document)?;
        }
    }
    for (name, report) in &mut reports {
        report.items = report.seen.len() as u64;
        funnel.count(&format!("contaminated by {name}"), report.documents);
    }
    writer.finish()?;
    let mut text = serde_json::to_string_pretty(&reports).unwrap_or_default();
    text.push('\n');
    llm_run::atomic::write(out.join("contamination.json"), text)?;
    let funnel = funnel.finish(out)?;
    progress.finish(funnel.summary());
    Ok((funnel, reports))
}

fn note(step: &Decontaminate, document: &Document, outcome: &super::Outcome, reports: &mut BTreeMap<String, BenchmarkReport>) {
    let index = step.index();
    let mut counted = HashSet::new();
    for span in &outcome.spans {
        for item in &span.items {
            let (benchmark, name) = index.item(*item);
            let report = reports.entry(index.info.benchmarks[benchmark].clone()).or_default();
            report.documents += u64::from(counted.insert(benchmark));
            report.spans += 1;
            report.ngrams += span.ngrams as u64;
            report.seen.insert(*item);
            if report.examples.len() < EXAMPLES {
                report.examples.push(Example { document: document.id.clone(), item: name, text: excerpt(&document.text[span.start..span.end]) });
            }
        }
    }
}
