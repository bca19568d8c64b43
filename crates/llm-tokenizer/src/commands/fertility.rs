//! `fertility`: what a language costs, with one tokenizer or several.

use super::{PROGRAM, for_each_batch};
use anyhow::{Result, bail};
use llm_run::Run;
use llm_run::program::catch_interrupts;
use llm_tokenizer::Tokenizer;
use llm_tokenizer::fertility::{Candidate, ENGLISH, Measure, Report, page, table, unique_names};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Configuration of `fertility`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Fertility {
    #[serde(skip_serializing_if = "Option::is_none")]
    tokenizer: Option<PathBuf>,
    /// Measured side by side, after `tokenizer` where that is given too.
    tokenizers: Vec<PathBuf>,
    samples: Vec<PathBuf>,
    /// The language others are compared with.
    reference: String,
    /// Recorded in the manifest; measuring uses no randomness.
    seed: u64,
}

impl Default for Fertility {
    fn default() -> Self {
        Self { tokenizer: None, tokenizers: Vec::new(), samples: Vec::new(), reference: ENGLISH.to_string(), seed: 0 }
    }
}

/// `fertility --config FILE --out DIR`.
pub fn fertility(args: &llm_run::Args) -> Result<()> {
    catch_interrupts();
    let config: Fertility = args.load()?;
    let paths: Vec<PathBuf> = config.tokenizer.iter().chain(&config.tokenizers).filter(|p| !p.as_os_str().is_empty()).cloned().collect();
    if paths.is_empty() || config.samples.is_empty() {
        bail!(
            "`tokenizer` (a folder) or `tokenizers` (a list of folders), and `samples` (.jsonl files) are needed, e.g. --set tokenizer=tokenizer --set samples='[\"sample.jsonl\"]'"
        );
    }
    let mut candidates = Vec::new();
    for (path, name) in paths.iter().zip(unique_names(&paths)) {
        candidates.push(Candidate::new(name, Tokenizer::load(path)?));
    }
    let mut run = Run::start(&args.out, PROGRAM, "fertility", &config)?;
    for path in &paths {
        run.input(path)?;
    }
    let mut measure = Measure::new(candidates).reference(&config.reference);
    for_each_batch(&mut run, "fertility", &config.samples, u64::MAX, |batch| measure.feed(batch))?;
    let report = measure.finish();
    if report.tokenizers.iter().all(|t| t.total.counts.bytes == 0) {
        bail!("the samples hold no text: nothing to measure");
    }
    llm_run::atomic::write(run.path("fertility.json"), serde_json::to_string_pretty(&report.to_json()?)?)?;
    llm_run::atomic::write(run.path("fertility.html"), page(&report))?;
    print!("{}", table(&report));
    println!("\n{}", run.path("fertility.html").display());
    run.finish(summary(&report))?;
    Ok(())
}

/// The first tokenizer's numbers, and the same of each where there are several.
fn summary(report: &Report) -> Value {
    let mut rows = report.tokenizers.iter().map(|t| {
        let total = &t.total;
        (t.name.clone(), json!({"tokens_per_word": total.tokens_per_word, "bytes_per_token": total.bytes_per_token}))
    });
    let Some((name, mut first)) = rows.next() else {
        return json!({});
    };
    let others: Vec<(String, Value)> = rows.collect();
    if !others.is_empty() {
        let all: Map<String, Value> = std::iter::once((name, first.clone())).chain(others).collect();
        first["tokenizers"] = all.into();
    }
    first
}
