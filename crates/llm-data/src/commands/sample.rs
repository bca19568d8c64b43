//! `llm-data sample`: a balanced text sample for the tokenizer.

use anyhow::Result;
use llm_data::sample::{SampleConfig, sample};
use llm_run::{Args, Run};

/// Run the stage.
pub fn run(args: &Args) -> Result<()> {
    llm_run::program::catch_interrupts();
    let config: SampleConfig = args.load()?;
    for path in config.inputs.iter().chain(&config.extra) {
        super::require_input("sample", path)?;
    }
    let mut run = Run::start(&args.out, "llm-data", "sample", &config)?;
    run.manifest.seed = Some(config.seed);
    for path in config.inputs.iter().chain(&config.extra) {
        run.input(path)?;
    }
    let groups = sample(&config, &args.out)?;
    for (group, count) in &groups {
        println!("{group:<20} {:>8} documents {:>12} of {:>12} bytes", count.documents, count.bytes, count.available);
    }
    run.finish(serde_json::json!({ "groups": groups }))?;
    Ok(())
}
