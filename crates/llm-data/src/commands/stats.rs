//! `llm-data stats DIR`: what a folder of documents holds; `llm-data stats --signals DIR`: how the stored signals are distributed.

use anyhow::{Result, bail};
use llm_data::whatif::{Distribution, QUANTILES, WhatIf, distributions};
use std::path::{Path, PathBuf};

/// Flags of the command.
#[derive(Debug, clap::Args)]
pub struct StatsArgs {
    /// A stage's output folder, a folder of Parquet parts, or one part
    #[arg(required_unless_present = "signals")]
    folder: Option<PathBuf>,
    /// Output folder of `filter` or `process` with signals=true: quantiles, histograms and the funnel
    #[arg(long, conflicts_with = "folder")]
    signals: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Print the counts.
pub fn run(args: &StatsArgs) -> Result<()> {
    if let Some(signals) = &args.signals {
        return run_signals(signals, args.json);
    }
    let Some(folder) = &args.folder else { bail!("stats: no folder; give a stage's output folder") };
    let groups = llm_data::stats::stats(folder)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&groups)?);
        return Ok(());
    }
    println!("{:<24} {:>10} {:>14} {:>12} {:>10} {:>8}", "domain/language", "documents", "bytes", "words", "longest", "quality");
    for (name, s) in &groups {
        let quality = s.mean_quality.map_or_else(|| "-".to_string(), |q| format!("{q:.3}"));
        println!("{name:<24} {:>10} {:>14} {:>12} {:>10} {quality:>8}", s.documents, s.bytes, s.words, s.longest_words);
    }
    Ok(())
}

fn run_signals(path: &Path, json: bool) -> Result<()> {
    let (all, funnel) = distributions(path)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({ "quantiles": QUANTILES, "signals": all, "funnel": funnel }))?);
        return Ok(());
    }
    for d in &all {
        print_distribution(d);
    }
    print_funnel(&funnel);
    Ok(())
}

/// Four significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "-".into(),
        a if a >= 1000.0 || value.fract() == 0.0 => format!("{value:.0}"),
        a if a >= 10.0 => format!("{value:.1}"),
        a if a >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

fn print_distribution(d: &Distribution) {
    const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let tallest = d.histogram.iter().copied().max().unwrap_or(0).max(1);
    let bars: String = d.histogram.iter().map(|n| BARS[if *n == 0 { 0 } else { 1 + (7 * n / tallest) as usize }]).collect();
    let limit = match (d.min, d.max) {
        (Some(a), Some(b)) => format!("{} to {}", short(a), short(b)),
        (Some(a), None) => format!("at least {}", short(a)),
        (None, Some(b)) => format!("at most {}", short(b)),
        (None, None) => "no limit".into(),
    };
    println!("{} ({limit}): {} documents, {:.1}% outside", d.signal, d.documents, d.outside * 100.0);
    if d.documents > 0 {
        let quantiles: Vec<String> = QUANTILES.iter().zip(d.quantiles).map(|(q, v)| format!("{:.0}%: {}", q * 100.0, short(v))).collect();
        println!("    [{bars}] mean {}; {}", short(d.mean), quantiles.join("  "));
    }
}

fn print_funnel(funnel: &WhatIf) {
    let mut left = funnel.documents;
    println!("{:<44} {:>10} {:>10} {:>7}", "funnel", "dropped", "left", "left");
    println!("{:<44} {:>10} {left:>10} {:>6.1}%", "in", "", 100.0);
    for check in funnel.checks.iter().filter(|c| c.dropped_before > 0) {
        left = left.saturating_sub(check.dropped_before);
        let share = 100.0 * left as f64 / funnel.documents.max(1) as f64;
        println!("{:<44} {:>10} {left:>10} {share:>6.1}%", check.check, check.dropped_before);
    }
}
