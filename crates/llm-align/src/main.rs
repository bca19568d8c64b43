//! `llm-align`: supervised fine-tuning and reinforcement learning.

use anyhow::Context;
use clap::{Parser, Subcommand};
use llm_align::judge::{JudgeConfig, judge};
use llm_align::show::Show;
use llm_align::{GrpoConfig, PairsConfig, SftConfig, grpo, pairs, sft};
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
    /// Ask a model held-out prompts: rewards, length, divergence from a reference. Writes OUT/judge.json and OUT/answers.jsonl.
    Judge(Args),
    /// Make preference pairs by sampling answers and judging them. Writes OUT/train.jsonl and OUT/heldout.jsonl.
    Pairs(Args),
    /// Show which tokens of a file's rows are trained, and which rows cannot be used.
    Show(Show),
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
        Command::Grpo(TrainArgs { args, watch }) => {
            let mut config: GrpoConfig = args.load()?;
            watch.apply(&mut config.trainer.watch);
            let mut run = Run::start(&args.out, "llm-align", "grpo", &config)?;
            run.manifest.seed = Some(config.seed);
            let outcome = grpo(config.clone(), run.dir()).context("grpo")?;
            finish(run, [&config.model, &config.train], &outcome)
        }
        Command::Judge(args) => {
            let config: JudgeConfig = args.load()?;
            let mut run = Run::start(&args.out, "llm-align", "judge", &config)?;
            run.manifest.seed = Some(config.seed);
            let judgement = judge(&config, run.dir()).context("judge")?;
            print!("{}", judgement.table());
            for path in [&config.model, &config.reference, &config.prompts].into_iter().filter(|p| !p.as_os_str().is_empty()) {
                run.input(path)?;
            }
            run.finish(judgement.summary())?;
            Ok(())
        }
        Command::Pairs(args) => {
            let config: PairsConfig = args.load()?;
            let mut run = Run::start(&args.out, "llm-align", "pairs", &config)?;
            run.manifest.seed = Some(config.seed);
            let counts = pairs(&config, run.dir()).context("pairs")?;
            run.input(&config.model)?;
            run.input(&config.prompts)?;
            run.finish(json!({"counts": counts, "mean_score": counts.mean_score()}))?;
            Ok(())
        }
        Command::Show(show) => Ok(show.run()?),
    }
}

fn main() -> ExitCode {
    program::main(run)
}
