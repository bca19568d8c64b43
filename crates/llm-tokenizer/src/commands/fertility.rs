//! `fertility`: what a language costs.

use super::{PROGRAM, for_each_batch};
use anyhow::{Result, bail};
use llm_run::Run;
use llm_run::program::catch_interrupts;
use llm_tokenizer::Tokenizer;
use llm_tokenizer::fertility::{Group, Measure};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Configuration of `fertility`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Fertility {
    tokenizer: PathBuf,
    samples: Vec<PathBuf>,
    /// Recorded in the manifest; measuring uses no randomness.
    seed: u64,
}

/// `fertility --config FILE --out DIR`.
pub fn fertility(args: &llm_run::Args) -> Result<()> {
    catch_interrupts();
    let config: Fertility = args.load()?;
    if config.tokenizer.as_os_str().is_empty() || config.samples.is_empty() {
        bail!("`tokenizer` (a folder) and `samples` (.jsonl files) are needed, e.g. --set tokenizer=tokenizer --set samples='[\"sample.jsonl\"]'");
    }
    let tokenizer = Tokenizer::load(&config.tokenizer)?;
    let mut run = Run::start(&args.out, PROGRAM, "fertility", &config)?;
    run.input(&config.tokenizer)?;
    let mut measure = Measure::new(tokenizer);
    for_each_batch(&mut run, "fertility", &config.samples, u64::MAX, |batch| measure.feed(batch))?;
    let report = measure.finish();
    llm_run::atomic::write(run.path("fertility.json"), serde_json::to_string_pretty(&report)?)?;
    println!("{:<16} {:>12} {:>12} {:>10} {:>10} {:>8}", "group", "bytes", "tokens", "tok/word", "byte/tok", "context");
    let line = |name: &str, g: &Group| {
        let share = g.context_share.map_or("-".to_string(), |s| format!("{:.0} %", s * 100.0));
        println!("{name:<16} {:>12} {:>12} {:>10.2} {:>10.2} {share:>8}", g.counts.bytes, g.counts.tokens, g.tokens_per_word, g.bytes_per_token);
    };
    line("total", &report.total);
    report.by_lang.iter().chain(&report.by_domain).for_each(|(name, group)| line(name, group));
    run.finish(serde_json::json!({"tokens_per_word": report.total.tokens_per_word, "bytes_per_token": report.total.bytes_per_token}))?;
    Ok(())
}
