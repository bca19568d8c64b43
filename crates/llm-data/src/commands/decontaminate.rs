//! `llm-data decontaminate`: benchmark text out of training documents.

use anyhow::Result;
use llm_data::contamination::{StageConfig, decontaminate};
use llm_run::{Args, Run};

/// Run the stage and print the report by benchmark.
pub fn run(args: &Args) -> Result<()> {
    llm_run::program::catch_interrupts();
    let config: StageConfig = args.load()?;
    super::require_input("decontaminate", &config.input)?;
    let mut run = Run::start(&args.out, "llm-data", "decontaminate", &config)?;
    run.input(&config.input)?;
    if let Some(index) = &config.decontaminate.index {
        run.input(index)?;
    }
    for path in config.decontaminate.build.benchmarks.iter().filter(|p| p.exists()) {
        run.input(path)?;
    }
    let (funnel, reports) = decontaminate(&config, &args.out)?;
    println!("{}", funnel.summary());
    println!("{:<24} {:>9} {:>7} {:>9} {:>7} of {:>7}", "benchmark", "documents", "spans", "n-grams", "items", "indexed");
    for (name, r) in reports.iter().filter(|(_, r)| r.documents > 0) {
        println!("{name:<24} {:>9} {:>7} {:>9} {:>7} of {:>7}", r.documents, r.spans, r.ngrams, r.items, r.items_indexed);
    }
    run.finish(super::summary(&funnel))?;
    Ok(())
}
