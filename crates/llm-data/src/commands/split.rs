//! `llm-data split`: redacted documents, in training and held-out.

use anyhow::Result;
use llm_data::split::{SplitConfig, split};
use llm_run::{Args, Run};

/// Run the stage.
pub fn run(args: &Args) -> Result<()> {
    llm_run::program::catch_interrupts();
    let config: SplitConfig = args.load()?;
    super::require_input("split", &config.input)?;
    let mut run = Run::start(&args.out, "llm-data", "split", &config)?;
    run.manifest.seed = Some(config.seed);
    run.input(&config.input)?;
    let funnel = split(&config, &args.out)?;
    println!("{}", funnel.summary());
    run.finish(super::summary(&funnel))?;
    Ok(())
}
