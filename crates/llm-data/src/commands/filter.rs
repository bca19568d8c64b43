//! `llm-data filter`: documents that pass the checks.

use anyhow::Result;
use llm_data::filter::{FilterConfig, filter};
use llm_run::{Args, Run};

/// Run the stage.
pub fn run(args: &Args) -> Result<()> {
    llm_run::program::catch_interrupts();
    let config: FilterConfig = args.load()?;
    super::require_input("filter", &config.input)?;
    let mut run = Run::start(&args.out, "llm-data", "filter", &config)?;
    run.manifest.seed = Some(config.seed);
    run.input(&config.input)?;
    let funnel = filter(&config, &args.out)?;
    println!("{}", funnel.summary());
    run.finish(super::summary(&funnel))?;
    Ok(())
}
