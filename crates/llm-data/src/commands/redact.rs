//! `llm-data redact`: personal data replaced by placeholders, with a report that restores them.

use anyhow::Result;
use llm_data::pii::{PiiStageConfig, redact_documents};
use llm_run::{Args, Run};

/// Run the stage.
pub fn run(args: &Args) -> Result<()> {
    llm_run::program::catch_interrupts();
    let config: PiiStageConfig = args.load()?;
    super::require_input("redact", &config.input)?;
    let mut run = Run::start(&args.out, "llm-data", "redact", &config)?;
    run.input(&config.input)?;
    let funnel = redact_documents(&config, &args.out)?;
    println!("{}", funnel.summary());
    for (what, n) in &funnel.counts {
        println!("{what:<32} {n:>10}");
    }
    run.finish(super::summary(&funnel))?;
    Ok(())
}
