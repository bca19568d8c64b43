//! `llm-data stats DIR`: what a folder of documents holds.

use anyhow::Result;
use std::path::PathBuf;

/// Flags of the command.
#[derive(Debug, clap::Args)]
pub struct StatsArgs {
    /// A stage's output folder, a folder of Parquet parts, or one part
    folder: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Print the counts.
pub fn run(args: &StatsArgs) -> Result<()> {
    let groups = llm_data::stats::stats(&args.folder)?;
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
