//! `llm-data unredact`: what `redact` replaced, put back from its report.

use anyhow::Result;
use llm_data::pii::{UnredactConfig, unredact_documents};
use llm_run::{Args, Run};

/// Run the stage.
pub fn run(args: &Args) -> Result<()> {
    llm_run::program::catch_interrupts();
    let config: UnredactConfig = args.load()?;
    super::require_input("unredact", &config.input)?;
    let mut run = Run::start(&args.out, "llm-data", "unredact", &config)?;
    run.input(&config.input)?;
    let (documents, restored) = unredact_documents(&config, &args.out)?;
    println!("{documents} documents, {restored} values put back");
    run.finish(serde_json::json!({ "documents": documents, "restored": restored }))?;
    Ok(())
}
