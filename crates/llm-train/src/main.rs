//! `llm-train`: pre-train a decoder on packed shards, and measure how fast that is.

mod commands;

use anyhow::Context;
use clap::{Parser, Subcommand};
use llm_run::{Args, Metrics, Run, program};
use llm_train::Trainable;
use llm_train::pretrain::{MEMORY_PLAN, PretrainConfig, pretrain};
use llm_train::trainer::Outcome;
use llm_train::vision::{ContrastiveConfig, InstructConfig, contrastive, instruct};
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;

/// Train language models, image-text pairs and models that see. A killed run continues when the same command is started again.
#[derive(Parser)]
#[command(name = "llm-train", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Next-token prediction over shards of `llm-data pack`; writes OUT/model, a Hugging Face folder.
    Pretrain(PretrainArgs),
    /// A vision and a text tower from pictures and captions; writes OUT/model, a CLIP or SigLIP folder.
    Contrastive(Args),
    /// Teach a language model to see, or train one that sees further; writes OUT/model, a LLaVA folder.
    Vision(Args),
    /// Measure a training step on random weights and tokens: tokens per second, MFU, memory
    ///
    /// Example: llm-train bench --model gpt2 --device cuda --precision bfloat16
    #[command(verbatim_doc_comment)]
    Bench(commands::BenchArgs),
}

/// Shared flags, and what may be said beside them.
#[derive(clap::Args)]
struct PretrainArgs {
    #[command(flatten)]
    args: Args,
    /// Memory that training may take, e.g. 2GiB: chooses micro_batch_size, and recomputes activations if nothing else fits (the same as
    /// --set memory_budget=...)
    #[arg(long, value_name = "SIZE")]
    memory_budget: Option<String>,
}

/// The memory plan that a run logged, for its manifest.
fn memory_plan(run: &Run) -> Option<Value> {
    Metrics::read(run.path("metrics.jsonl")).ok()?.into_iter().rev().find_map(|mut record| record.remove(MEMORY_PLAN))
}

/// Inputs and summary of a training.
fn finish<M: Trainable>(mut run: Run, inputs: &[&Path], outcome: &Outcome<M>) -> anyhow::Result<()> {
    for path in inputs.iter().filter(|path| !path.as_os_str().is_empty()) {
        run.input(path)?;
    }
    let memory_plan = memory_plan(&run);
    run.finish(json!({
        "loss": outcome.loss,
        "tokens": outcome.tokens,
        "tokens_per_second": outcome.tokens as f64 / outcome.elapsed_seconds,
        "training_seconds": outcome.elapsed_seconds,
        "parameters": outcome.model.num_parameters(),
        "active_parameters": outcome.model.num_active_parameters(),
        "validation_first": outcome.validations.first(),
        "validation_last": outcome.validations.last(),
        "memory_plan": memory_plan,
    }))?;
    Ok(())
}

fn run() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Bench(args) => args.run(),
        Command::Pretrain(PretrainArgs { args, memory_budget }) => {
            let mut config: PretrainConfig = args.load()?;
            config.memory_budget = memory_budget.or(config.memory_budget);
            let mut run = Run::start(&args.out, "llm-train", "pretrain", &config)?;
            run.manifest.seed = Some(config.seed);
            let outcome = pretrain(config.clone(), run.dir(), "pretrain").context("pretrain")?;
            finish(run, &[&config.train, &config.heldout, &config.tokenizer], &outcome)
        }
        Command::Contrastive(args) => {
            let config: ContrastiveConfig = args.load()?;
            let mut run = Run::start(&args.out, "llm-train", "contrastive", &config)?;
            run.manifest.seed = Some(config.seed);
            let outcome = contrastive(config.clone(), run.dir()).context("contrastive")?;
            finish(run, &[&config.train, &config.heldout, &config.tokenizer], &outcome)
        }
        Command::Vision(args) => {
            let config: InstructConfig = args.load()?;
            let mut run = Run::start(&args.out, "llm-train", "vision", &config)?;
            run.manifest.seed = Some(config.seed);
            let outcome = instruct(config.clone(), run.dir()).context("vision")?;
            finish(run, &[&config.model, &config.tower, &config.train, &config.heldout, &config.text], &outcome)
        }
    }
}

fn main() -> ExitCode {
    program::main(run)
}
