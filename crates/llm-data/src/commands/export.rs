//! `llm-data export`: shards to datatrove's or Megatron's files.

use anyhow::{Context, Result};
use llm_data::export::{ExportConfig, export};
use llm_run::{Args, Run};

/// Run the stage.
pub fn run(args: &Args) -> Result<()> {
    llm_run::program::catch_interrupts();
    let config: ExportConfig = args.load()?;
    super::require_input("export", &config.input)?;
    let mut run = Run::start(&args.out, "llm-data", "export", &config)?;
    run.input(&config.input)?;
    let summary = export(&config, &args.out)?;
    println!("{} documents, {} tokens of {} bytes: {}", summary.documents, summary.tokens, summary.token_size, summary.files.join(", "));
    run.finish(serde_json::to_value(&summary).context("summary")?)?;
    Ok(())
}
