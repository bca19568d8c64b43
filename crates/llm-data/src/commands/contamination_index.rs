//! `llm-data contamination-index`: benchmark files to one index file.

use anyhow::Result;
use llm_data::contamination::{IndexConfig, write_index};
use llm_run::{Args, Run};
use std::collections::BTreeMap;

/// Build the index and print what it holds.
pub fn run(args: &Args) -> Result<()> {
    let config: IndexConfig = args.load()?;
    let mut run = Run::start(&args.out, "llm-data", "contamination-index", &config)?;
    for path in config.benchmarks.iter().filter(|p| p.exists()) {
        run.input(path)?;
    }
    let (index, bytes) = write_index(&config, &args.out)?;
    let mut rows: BTreeMap<&str, (u64, u64, u64)> = BTreeMap::new();
    for file in &index.info.files {
        let row = rows.entry(&index.info.benchmarks[file.benchmark]).or_default();
        *row = (row.0 + 1, row.1 + u64::from(file.items), row.2 + u64::from(file.too_short));
    }
    println!("{:<24} {:>6} {:>9} {:>10}", "benchmark", "files", "items", "too short");
    for (name, (files, items, short)) in &rows {
        println!("{name:<24} {files:>6} {items:>9} {short:>10}");
    }
    println!("{} keys of {} words, {} templates left out, {:.1} MB", index.len(), index.info.n, index.info.templates, bytes as f64 / 1e6);
    run.finish(serde_json::json!({ "keys": index.len(), "bytes": bytes, "templates": index.info.templates, "benchmarks": rows.len() }))?;
    Ok(())
}
