//! `llm-align`: supervised fine-tuning and reinforcement learning.

use anyhow::Context;
use clap::{Parser, Subcommand};
use llm_align::merge::Merge;
use llm_align::verifier::{VerifyConfig, verify};
use llm_align::{GrpoConfig, SftConfig, grpo, sft};
use llm_arch::Decoder;
use llm_run::{Args, Run, program};
use llm_train::WatchArgs;
use llm_train::trainer::Outcome;
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

/// Align a model: imitate answers (sft), then reinforce verified ones (grpo). A killed run continues when started again.
#[derive(Parser)]
#[command(name = "llm-align", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Supervised fine-tuning on conversations; loss on the assistant's tokens only. Writes OUT/model.
    Sft(TrainArgs),
    /// Group-relative policy optimisation with verified answers. Writes OUT/model.
    Grpo(TrainArgs),
    /// Put LoRA adapters into the weights of their model; refused where merged and unmerged differ.
    Merge(Box<Merge>),
    /// Grade a file of answers by the rewards of a configuration; prints a table and writes OUT/graded.jsonl.
    Verify(Args),
}

/// Flags of every command that trains.
#[derive(clap::Args)]
struct TrainArgs {
    #[command(flatten)]
    args: Args,
    #[command(flatten)]
    watch: WatchArgs,
}

fn finish(mut run: Run, inputs: [&Path; 2], outcome: &Outcome<Decoder>) -> anyhow::Result<()> {
    for path in inputs {
        run.input(path)?;
    }
    run.finish(json!({
        "loss": outcome.loss,
        "tokens": outcome.tokens,
        "tokens_per_second": outcome.tokens as f64 / outcome.elapsed_seconds,
        "training_seconds": outcome.elapsed_seconds,
        "parameters": outcome.model.num_parameters(),
        "validation_first": outcome.validations.first(),
        "validation_last": outcome.validations.last(),
        "halted": outcome.halted,
    }))?;
    outcome.leftovers.remove();
    Ok(())
}

fn run() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Sft(TrainArgs { args, watch }) => {
            let mut config: SftConfig = args.load()?;
            watch.apply(&mut config.trainer.watch);
            let mut run = Run::start(&args.out, "llm-align", "sft", &config)?;
            run.manifest.seed = Some(config.seed);
            let outcome = sft(config.clone(), run.dir()).context("sft")?;
            finish(run, [&config.model, &config.train], &outcome)
        }
        Command::Merge(merge) => Ok(merge.run()?),
        Command::Grpo(TrainArgs { args, watch }) => {
            let mut config: GrpoConfig = args.load()?;
            watch.apply(&mut config.trainer.watch);
            let mut run = Run::start(&args.out, "llm-align", "grpo", &config)?;
            run.manifest.seed = Some(config.seed);
            let outcome = grpo(config.clone(), run.dir()).context("grpo")?;
            finish(run, [&config.model, &config.train], &outcome)
        }
        Command::Verify(args) => {
            program::catch_interrupts();
            let config: VerifyConfig = args.load()?;
            print!("{}", verify(&config, &args.out, "llm-align")?);
            Ok(())
        }
    }
}

fn main() -> ExitCode {
    // A cell of the sandbox for generated code is this program, started anew.
    if let Some(code) = llm_verify::sandbox::cell_main() {
        return code;
    }
    program::main(run)
}
