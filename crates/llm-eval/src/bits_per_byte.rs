//! Bits per byte on held-out documents: how well the model predicts text, comparable across tokenizers.
//!
//! Rule: a document is BOS (EOS where the tokenizer has no BOS) followed by its text tokens, cut into the windows of
//! [`crate::windows`]; the value is the sum of -log2 p over all text tokens of all documents divided by the UTF-8 bytes of
//! all documents. The special token in front is context and never scored, and no end token is asked for. Control tokens
//! spelled out in a document are ordinary text.

use crate::documents::{for_each, select};
use crate::error::{Error, Result, check_interrupt};
use crate::model::LanguageModel;
use crate::ngram::ByteTrigram;
use crate::results::{Metric, TaskResult};
use crate::samples::Sample;
use crate::stats::{Item, bootstrap, ratio};
use crate::windows::windows;
use llm_data::document::Document;
use llm_run::{Progress, Seed};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Task name of the model's score.
pub const TASK: &str = "bits_per_byte";
/// Task name of the order-3 byte model's score on the same bytes.
pub const BASELINE: &str = "ngram3";

/// Tokens handed to the model between two looks at Ctrl-C and the progress line.
const BATCH_TOKENS: usize = 4096;

/// What a document cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DocumentBits {
    /// Sum of -log2 p over its text tokens.
    pub bits: f64,
    /// Its text tokens.
    pub tokens: u64,
}

/// Bits of every document under `model`, in document order.
pub fn score(model: &dyn LanguageModel, documents: &[Document]) -> Result<Vec<DocumentBits>> {
    let tokenizer = model.tokenizer();
    let context = model.context_length();
    let refuse = |message: &str| Error::Model { model: "tokenizer".to_string(), message: message.to_string() };
    let prefix = tokenizer
        .bos_id()
        .or(tokenizer.eos_id())
        .ok_or_else(|| refuse("it has neither a begin-of-text nor an end-of-text token, so the first token of a document cannot be scored"))?;
    if context < 2 {
        return Err(refuse("a context of one token cannot score anything"));
    }
    let mut progress = Progress::new("bits/byte", documents.iter().map(|d| d.text.len() as u64).sum(), "bytes");
    let mut totals = vec![DocumentBits::default(); documents.len()];
    // A block of documents is encoded and scored at a time: enough windows to fill batches, never the whole set in memory.
    let batch_tokens = BATCH_TOKENS.max(context);
    let mut first = 0;
    while first < documents.len() {
        let (mut end, mut bytes) = (first, 0);
        while end < documents.len() && (end == first || bytes < 32 * batch_tokens) {
            bytes += documents[end].text.len();
            end += 1;
        }
        let texts: Vec<&str> = documents[first..end].iter().map(|d| d.text.as_str()).collect();
        let mut work: Vec<(usize, Vec<u32>)> = Vec::new();
        for (i, mut ids) in tokenizer.encode_batch(&texts).into_iter().enumerate() {
            totals[first + i].tokens = ids.len() as u64;
            ids.insert(0, prefix);
            work.extend(windows(ids.len(), context).map(|w| (first + i, ids[w].to_vec())));
        }
        score_windows(model, &work, batch_tokens, &mut totals, |scored| progress.set((scored * bytes as f64) as u64 + done_bytes(documents, first)))?;
        first = end;
    }
    let total: f64 = totals.iter().map(|d| d.bits).sum();
    let bytes = done_bytes(documents, documents.len());
    progress.finish(format!("{:.4} bits per byte over {bytes} bytes of {} documents", total / bytes.max(1) as f64, documents.len()));
    Ok(totals)
}

fn done_bytes(documents: &[Document], end: usize) -> u64 {
    documents[..end].iter().map(|d| d.text.len() as u64).sum()
}

/// Add the bits of every window to its document's total; `work` holds (document, window).
fn score_windows(
    model: &dyn LanguageModel,
    work: &[(usize, Vec<u32>)],
    batch_tokens: usize,
    totals: &mut [DocumentBits],
    mut report: impl FnMut(f64),
) -> Result<()> {
    let mut start = 0;
    while start < work.len() {
        check_interrupt()?;
        let mut tokens = 0;
        let fits = |(_, window): &&(usize, Vec<u32>)| {
            tokens += window.len();
            tokens <= batch_tokens
        };
        let batch = &work[start..start + work[start..].iter().take_while(fits).count().max(1)];
        let windows: Vec<Vec<u32>> = batch.iter().map(|(_, window)| window.clone()).collect();
        let scores = model.log_probabilities(&windows)?;
        let damaged = |what: String| Error::Model { model: "weights".to_string(), message: format!("{what}: is the model folder damaged?") };
        if scores.len() != batch.len() {
            return Err(damaged(format!("{} sequences gave {} scores", batch.len(), scores.len())));
        }
        for ((document, window), logs) in batch.iter().zip(&scores) {
            let sum: f64 = logs.iter().map(|&l| f64::from(l)).sum();
            if logs.len() + 1 != window.len() || !sum.is_finite() {
                return Err(damaged(format!("scoring {} tokens gave {} log probabilities that sum to {sum}", window.len(), logs.len())));
            }
            totals[*document].bits -= sum / std::f64::consts::LN_2;
        }
        start += batch.len();
        report(start as f64 / work.len() as f64);
    }
    Ok(())
}

/// The whole task: choose documents, score them, and score the order-3 byte model on the same bytes if there is text to
/// train it on.
#[derive(Debug)]
pub struct BitsPerByte<'a> {
    /// Held-out documents.
    pub documents: &'a Path,
    /// Cap on the held-out bytes.
    pub limit_bytes: Option<u64>,
    /// Training documents for the baseline.
    pub train_documents: Option<&'a Path>,
    /// Cap on the baseline's training bytes.
    pub train_limit_bytes: Option<u64>,
    /// Bootstrap resamples.
    pub resamples: usize,
    /// Sampling and bootstrap.
    pub seed: Seed,
}

impl BitsPerByte<'_> {
    /// Results by task name, and one sample per document.
    pub fn run(&self, model: &dyn LanguageModel) -> Result<(BTreeMap<String, TaskResult>, Vec<Sample>)> {
        let documents = select(self.documents, self.limit_bytes, self.seed.stream("documents"))?;
        let mut tasks = BTreeMap::new();
        if let Some(train) = self.train_documents {
            tasks.insert(BASELINE.to_string(), self.baseline(train, &documents)?);
        }
        let scored = score(model, &documents)?;
        let bits: Vec<f64> = scored.iter().map(|d| d.bits).collect();
        let mut result = self.result(TASK, &documents, &bits)?;
        result.details.insert("tokens".to_string(), json!(scored.iter().map(|d| d.tokens).sum::<u64>()));
        tasks.insert(TASK.to_string(), result);
        let samples = documents.iter().zip(&scored).map(|(document, scored)| Sample {
            task: TASK.to_string(),
            id: document.id.clone(),
            item_hash: llm_run::hash::bytes(document.text.as_bytes()),
            lang: document.lang.clone(),
            category: Some(document.domain.clone()),
            score: scored.bits,
            weight: document.text.len() as f64,
            tokens: u32::try_from(scored.tokens).unwrap_or(u32::MAX),
            ..Sample::default()
        });
        Ok((tasks, samples.collect()))
    }

    fn baseline(&self, train: &Path, documents: &[Document]) -> Result<TaskResult> {
        let mut counts = ByteTrigram::default();
        if self.train_limit_bytes.is_some() {
            let chosen = select(train, self.train_limit_bytes, self.seed.stream("train_documents"))?;
            chosen.iter().for_each(|d| counts.add(d.text.as_bytes()));
        } else {
            for_each(train, |d| counts.add(d.text.as_bytes()))?;
        }
        let train_bytes = counts.bytes();
        if train_bytes == 0 {
            return Err(Error::Empty { path: train.to_path_buf(), what: "no text to train the 3-gram baseline on" });
        }
        let trigram = counts.freeze();
        let bits: Vec<f64> = documents.iter().map(|d| trigram.bits(d.text.as_bytes())).collect();
        let mut result = self.result(BASELINE, documents, &bits)?;
        result.details.insert("train_bytes".to_string(), json!(train_bytes));
        Ok(result)
    }

    fn result(&self, task: &str, documents: &[Document], bits: &[f64]) -> Result<TaskResult> {
        let items: Vec<Item> = documents.iter().zip(bits).map(|(d, &b)| Item { score: b, weight: d.text.len() as f64 }).collect();
        let value = ratio(&items).ok_or_else(|| Error::Config("the documents chosen hold no bytes".to_string()))?;
        let mut details = Map::new();
        details.insert("bytes".to_string(), json!(documents.iter().map(|d| d.text.len() as u64).sum::<u64>()));
        details.insert("documents".to_string(), json!(documents.len()));
        details.insert("by_domain".to_string(), breakdown(documents, &items, |d| &d.domain));
        details.insert("by_lang".to_string(), breakdown(documents, &items, |d| d.lang.as_deref().unwrap_or("unknown")));
        let ci95 = bootstrap(&items, self.resamples, self.seed.stream(task)).map(|b| b.ci95);
        Ok(TaskResult { metric: Metric::BitsPerByte, value, n: documents.len() as u64, ci95, group: None, details })
    }
}

fn breakdown<'a>(documents: &'a [Document], items: &[Item], key: impl Fn(&'a Document) -> &'a str) -> Value {
    let mut groups: BTreeMap<&str, Vec<Item>> = BTreeMap::new();
    for (document, &item) in documents.iter().zip(items) {
        groups.entry(key(document)).or_default().push(item);
    }
    let rows = groups.into_iter().filter_map(|(name, items)| {
        let bytes = items.iter().map(|i| i.weight as u64).sum::<u64>();
        Some((name.to_string(), json!({"value": ratio(&items)?, "bytes": bytes, "documents": items.len()})))
    });
    Value::Object(rows.collect())
}
