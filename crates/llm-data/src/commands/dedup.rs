//! `llm-data dedup`: one document of each group of duplicates.

use anyhow::Result;
use llm_data::dedup::{DedupConfig, dedup};
use llm_run::{Args, Run};

/// Run the stage.
pub fn run(args: &Args) -> Result<()> {
    llm_run::program::catch_interrupts();
    let config: DedupConfig = args.load()?;
    super::require_input("dedup", &config.input)?;
    let mut run = Run::start(&args.out, "llm-data", "dedup", &config)?;
    run.manifest.seed = Some(config.seed);
    run.input(&config.input)?;
    let funnel = dedup(&config, &args.out)?;
    println!("{}", funnel.summary());
    run.finish(super::summary(&funnel))?;
    Ok(())
}
