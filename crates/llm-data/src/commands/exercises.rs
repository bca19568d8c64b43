//! `llm-data exercises`: the generated exercises, `train.jsonl` and `heldout.jsonl`.

use anyhow::Result;
use llm_data::exercises::{self, ExercisesConfig, generate};
use llm_run::{Args, Run};

/// Generate both sets and write the counts per category and language into the manifest.
pub fn run(args: &Args) -> Result<()> {
    let config: ExercisesConfig = args.load()?;
    config.validate()?;
    let mut run = Run::start(&args.out, "llm-data", "exercises", &config)?;
    run.manifest.seed = Some(config.seed);
    let generated = generate(&config)?;
    exercises::write(&run.path("train.jsonl"), &generated.train)?;
    exercises::write(&run.path("heldout.jsonl"), &generated.heldout)?;
    let summary = generated.summary();
    println!("{} training and {} held-out exercises in {}", generated.train.len(), generated.heldout.len(), args.out.display());
    run.finish(summary)?;
    Ok(())
}
