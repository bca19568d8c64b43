//! `llm-data train-ngram`: an n-gram model of documents, for perplexity.

use anyhow::Result;
use llm_data::ngram::sample::{NgramConfig, train_ngram};
use llm_run::{Args, Run};

/// Run the stage.
pub fn run(args: &Args) -> Result<()> {
    llm_run::program::catch_interrupts();
    let config: NgramConfig = args.load()?;
    super::require_input("train-ngram", &config.input)?;
    let mut run = Run::start(&args.out, "llm-data", "train-ngram", &config)?;
    run.manifest.seed = Some(config.seed);
    run.input(&config.input)?;
    let found = train_ngram(&config, &args.out)?;
    println!("{} tokens of {} documents; n-grams {:?}", found.tokens, found.training_documents, found.counts);
    println!("held out: {} documents, perplexity {:.1}, {:.2} % unknown", found.reference_documents, found.perplexity, 100.0 * found.unknown);
    for notice in &found.notices {
        println!("note: {notice}");
    }
    run.finish(serde_json::to_value(&found)?)?;
    Ok(())
}
