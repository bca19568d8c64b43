//! `llm-data scenes`: generated pictures with captions and questions, `train.parquet`, `heldout.parquet` and, where asked for,
//! `crowded.parquet`.

use anyhow::Result;
use llm_data::scenes::{self, ScenesConfig};
use llm_run::{Args, Run};

/// Generate the sets and write what they hold into the manifest.
pub fn run(args: &Args) -> Result<()> {
    let config: ScenesConfig = args.load()?;
    config.validate()?;
    let mut run = Run::start(&args.out, "llm-data", "scenes", &config)?;
    run.manifest.seed = Some(config.seed);
    let summaries = scenes::write(&config, &args.out)?;
    for (set, summary) in &summaries {
        let questions: usize = summary.questions.values().sum();
        println!("{set}: {} pictures, {} captions, {questions} questions", summary.pictures, summary.captions);
    }
    run.finish(serde_json::to_value(&summaries)?)?;
    Ok(())
}
