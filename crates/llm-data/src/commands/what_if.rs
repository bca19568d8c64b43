//! `llm-data what-if --signals DIR --set PROFILE.LIMIT=VALUE...`: the funnel under other limits, without the text.

use anyhow::{Result, bail};
use llm_data::whatif::{WhatIf, what_if};
use std::path::PathBuf;

/// Flags of the command.
#[derive(Debug, clap::Args)]
pub struct WhatIfArgs {
    /// Output folder of `filter` or `process` with signals=true, or its signals/ folder
    #[arg(long)]
    signals: PathBuf,
    /// Limits to try, e.g. gopher:datatrove.max_dup_line_frac=0.2, of `process` also language.min_score=0.8; `inf` switches a limit off
    #[arg(long)]
    set: Vec<String>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Print the two funnels.
pub fn run(args: &WhatIfArgs) -> Result<()> {
    if !args.signals.is_dir() {
        bail!("{}: no such folder; give the output folder of `llm-data filter` or `process` with --set signals=true", args.signals.display());
    }
    let result = what_if(&args.signals, &args.set)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&result)?);
        return Ok(());
    }
    print(&result);
    Ok(())
}

fn print(result: &WhatIf) {
    let share = |n: u64, all: u64| 100.0 * n as f64 / all.max(1) as f64;
    println!("{:<44} {:>10} {:>10} {:>8}", "dropped by", "before", "now", "change");
    for check in result.checks.iter().filter(|c| c.dropped_before + c.dropped_now > 0) {
        let change = check.dropped_now as i64 - check.dropped_before as i64;
        println!("{:<44} {:>10} {:>10} {change:>+8}", check.check, check.dropped_before, check.dropped_now);
    }
    let (before, now) = (result.kept_before, result.kept_now);
    println!("{:<44} {before:>10} {now:>10} {:>+8}", format!("kept of {}", result.documents), now as i64 - before as i64);
    println!("{:<44} {:>9.1}% {:>9.1}%", "  of the documents", share(before, result.documents), share(now, result.documents));
    println!("{:<44} {:>9.1}% {:>9.1}%", "  of the bytes", share(result.kept_bytes_before, result.bytes), share(result.kept_bytes_now, result.bytes));
    if result.lost + result.gained > 0 {
        println!("{} dropped that were kept, {} kept that were dropped:", result.lost, result.gained);
        for example in &result.examples {
            println!("  {example}");
        }
    }
}
