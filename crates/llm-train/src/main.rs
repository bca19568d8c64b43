//! `llm-train`: pre-train a decoder on packed shards, and measure how fast that is.

mod commands;

use anyhow::Context;
use clap::{Parser, Subcommand};
use llm_run::{Args, Run, program};
use llm_train::pretrain::{PretrainConfig, pretrain};
use serde_json::json;
use std::process::ExitCode;

/// Pre-train decoder language models. A killed run continues when the same command is started again.
#[derive(Parser)]
#[command(name = "llm-train", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Next-token prediction over shards of `llm-data pack`; writes OUT/model, a Hugging Face folder.
    Pretrain(Args),
    /// Measure a training step on random weights and tokens: tokens per second, MFU, memory
    ///
    /// Example: llm-train bench --model gpt2 --device cuda --precision bfloat16
    #[command(verbatim_doc_comment)]
    Bench(commands::BenchArgs),
}

fn run() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Bench(args) => args.run(),
        Command::Pretrain(args) => {
            let config: PretrainConfig = args.load()?;
            let mut run = Run::start(&args.out, "llm-train", "pretrain", &config)?;
            run.manifest.seed = Some(config.seed);
            let outcome = pretrain(config.clone(), run.dir(), "pretrain").context("pretrain")?;
            for path in [&config.train, &config.heldout, &config.tokenizer] {
                if !path.as_os_str().is_empty() {
                    run.input(path)?;
                }
            }
            let summary = json!({
                "loss": outcome.loss,
                "tokens": outcome.tokens,
                "tokens_per_second": outcome.tokens as f64 / outcome.elapsed_seconds,
                "training_seconds": outcome.elapsed_seconds,
                "parameters": outcome.decoder.num_parameters(),
                "active_parameters": outcome.decoder.config().num_active_parameters(),
                "validation_first": outcome.validations.first(),
                "validation_last": outcome.validations.last(),
            });
            run.finish(summary)?;
            Ok(())
        }
    }
}

fn main() -> ExitCode {
    program::main(run)
}
