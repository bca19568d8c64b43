//! `llm-train`: pre-train a decoder on packed shards, find the best settings and sizes for it, and measure how fast it is.

mod commands;

use anyhow::Context;
use clap::{Parser, Subcommand};
use llm_run::{Args, Metrics, Run, program};
use llm_train::dial::{self, Dial, Rate};
use llm_train::pretrain::{MEMORY_PLAN, PretrainConfig, pretrain};
use llm_train::trainer::Outcome;
use llm_train::vision::{ContrastiveConfig, InstructConfig, contrastive, instruct};
use llm_train::{Trainable, WatchArgs};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
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
    Contrastive(TrainArgs),
    /// Teach a language model to see, or train one that sees further; writes OUT/model, a LLaVA folder.
    Vision(TrainArgs),
    /// Measure a training step on random weights and tokens: tokens per second, MFU, memory
    ///
    /// Example: llm-train bench --model gpt2 --device cuda --precision bfloat16
    #[command(verbatim_doc_comment)]
    Bench(commands::BenchArgs),
    /// Write OUT/report.html anew from the files of a run folder, finished or not
    Report {
        /// Folder of a training.
        out: PathBuf,
    },
    /// Show what `pretrain --depth N` or `--params N` would train
    ///
    /// Example: llm-train dial --depth 12 --gpu H100
    #[command(verbatim_doc_comment)]
    Dial(commands::DialArgs),
    /// Run a program with many settings, one after another, and rank them
    ///
    /// Example: llm-train sweep sweep.toml --out runs/sweep
    #[command(verbatim_doc_comment)]
    Sweep(commands::SweepArgs),
    /// Plan and fit scaling laws
    #[command(subcommand)]
    Scaling(commands::ScalingTask),
}

/// Arguments of `pretrain`.
#[derive(clap::Args)]
struct PretrainArgs {
    #[command(flatten)]
    train: TrainArgs,
    #[command(flatten)]
    dial: Dial,
    /// Memory that training may take, e.g. 2GiB: chooses micro_batch_size, and recomputes activations if nothing else fits (the same as
    /// --set memory_budget=...)
    #[arg(long, value_name = "SIZE")]
    memory_budget: Option<String>,
}

/// Flags of every command that trains.
#[derive(clap::Args)]
struct TrainArgs {
    #[command(flatten)]
    args: Args,
    #[command(flatten)]
    watch: WatchArgs,
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
    outcome.leftovers.remove();
    Ok(())
}

fn run() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Bench(args) => args.run(),
        Command::Report { out } => {
            println!("{}", llm_train::watch::rebuild(&out)?.display());
            Ok(())
        }
        Command::Dial(args) => args.run(),
        Command::Sweep(args) => args.run(),
        Command::Scaling(task) => task.run(),
        Command::Pretrain(PretrainArgs { train: TrainArgs { args, watch }, dial, memory_budget }) => {
            let (mut config, choice): (PretrainConfig, _) = dial::load(args.config.as_deref(), &args.sets, dial, None)?;
            watch.apply(&mut config.trainer.watch);
            config.memory_budget = memory_budget.or(config.memory_budget);
            if let Some(choice) = choice {
                eprintln!("{}", choice.table(Rate::of_earlier_start(&args.out).as_ref()));
            }
            let mut run = Run::start(&args.out, "llm-train", "pretrain", &config)?;
            run.manifest.seed = Some(config.seed);
            let outcome = pretrain(config.clone(), run.dir(), "pretrain").context("pretrain")?;
            let anneal = config.anneal.as_ref().map_or(Path::new(""), |anneal| &anneal.train);
            finish(run, &[&config.train, &config.heldout, &config.tokenizer, &config.init, anneal], &outcome)
        }
        Command::Contrastive(TrainArgs { args, watch }) => {
            let mut config: ContrastiveConfig = args.load()?;
            watch.apply(&mut config.trainer.watch);
            let mut run = Run::start(&args.out, "llm-train", "contrastive", &config)?;
            run.manifest.seed = Some(config.seed);
            let outcome = contrastive(config.clone(), run.dir()).context("contrastive")?;
            finish(run, &[&config.train, &config.heldout, &config.tokenizer], &outcome)
        }
        Command::Vision(TrainArgs { args, watch }) => {
            let mut config: InstructConfig = args.load()?;
            watch.apply(&mut config.trainer.watch);
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
