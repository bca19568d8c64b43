//! `llm-data pack`: Parquet documents to token shards, `train/` and `heldout/`.

use anyhow::{Context, Result};
use llm_data::pack::{PackConfig, pack};
use llm_run::program::catch_interrupts;
use llm_run::{Args, Run};

/// Pack both sets and print what came out.
pub fn run(args: &Args) -> Result<()> {
    catch_interrupts();
    let config: PackConfig = args.load()?;
    let inputs = || [&config.tokenizer, &config.train].into_iter().chain(&config.heldout).chain(config.extra.iter().map(|e| &e.path));
    config.validate()?;
    for input in inputs() {
        super::require_input("pack", input)?;
    }
    let mut run = Run::start(&args.out, "llm-data", "pack", &config)?;
    run.manifest.seed = Some(config.seed);
    let summaries = pack(&config, &args.out)?;
    for input in inputs() {
        run.input(input)?;
    }
    for (name, s) in &summaries {
        let per_token = s.text_bytes as f64 / s.tokens.max(1) as f64;
        println!(
            "{name}: {} documents, {} tokens ({per_token:.2} bytes each) in {} rows, {} tokens dropped",
            s.documents, s.tokens, s.rows, s.dropped_tokens
        );
        println!(
            "{name}: {} documents lie in more than one row, {} of them would fit into one; padding {:.2} %",
            s.truncated_documents,
            s.needlessly_truncated,
            100.0 * s.padding_share
        );
    }
    run.finish(serde_json::to_value(&summaries).context("summary")?)?;
    Ok(())
}
