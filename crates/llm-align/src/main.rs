//! `llm-align`: supervised fine-tuning, preferences, reward models and reinforcement learning.

use anyhow::Context;
use clap::{Parser, Subcommand};
use llm_align::data::{Kind, OnBadRow};
use llm_align::judge::{JudgeConfig, judge};
use llm_align::loss_lab::LossLabArgs;
use llm_align::merge::Merge;
use llm_align::show::Show;
use llm_align::{DpoConfig, GrpoConfig, KtoConfig, PairsConfig, PpoConfig, RewardConfig, ScoreConfig, SftConfig};
use llm_align::{dpo, grpo, kto, pairs, ppo, reward, score, sft};
use llm_run::{Args, Run, program};
use llm_tensor::DeviceSpec;
use llm_train::trainer::Outcome;
use llm_train::{Trainable, WatchArgs};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Align a model: imitate answers (sft), prefer better ones (dpo, kto), reinforce them (ppo, grpo). A killed run continues when started again.
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
    /// A reward model on preference pairs. Writes OUT/model, a folder of sequence classification, and OUT/calibration.json.
    Reward(TrainArgs),
    /// Proximal policy optimisation of a learned or checkable reward. Writes OUT/model, with the value function in OUT/model/value.
    Ppo(TrainArgs),
    /// Rewards of the rows of a file, as JSON lines.
    Score(ScoreArgs),
    /// Ask a model held-out prompts: rewards, length, divergence from a reference. Writes OUT/judge.json and OUT/answers.jsonl.
    Judge(Args),
    /// Make preference pairs by sampling answers and judging them. Writes OUT/train.jsonl and OUT/heldout.jsonl.
    Pairs(Args),
    /// Show which tokens of a file's rows are trained, and which rows cannot be used.
    Show(Show),
    /// Preference pairs: DPO and its variants, ORPO, SimPO, CPO (config key `loss`). Writes OUT/model.
    Dpo(TrainArgs),
    /// Single answers labelled good or bad: KTO. Writes OUT/model.
    Kto(TrainArgs),
    /// What each loss on pairs says of a margin and how hard it pulls, as tables and an HTML page.
    ///
    /// Example: llm-align loss-lab --loss sigmoid,ipo_trl,apo_zero --out losses.html
    #[command(verbatim_doc_comment)]
    LossLab(LossLabArgs),
    /// Put LoRA adapters into the weights of their model; refused where merged and unmerged differ.
    Merge(Box<Merge>),
}

/// Flags of every command that trains.
#[derive(clap::Args)]
struct TrainArgs {
    #[command(flatten)]
    args: Args,
    #[command(flatten)]
    watch: WatchArgs,
}

/// Flags of `score`.
#[derive(clap::Args)]
struct ScoreArgs {
    /// Folder of a reward model.
    #[arg(long)]
    model: PathBuf,
    /// Conversations, prompts with answers, or pairs.
    #[arg(long)]
    data: PathBuf,
    /// JSONL file to write.
    #[arg(long)]
    out: PathBuf,
    /// What the rows are; without it what the columns say.
    #[arg(long)]
    kind: Option<Kind>,
    /// What to do with a row that cannot be used.
    #[arg(long, default_value = "error")]
    on_bad_row: OnBadRow,
    /// Tokens per forward pass.
    #[arg(long, default_value_t = 4096)]
    micro_batch_tokens: usize,
    /// Where to compute.
    #[arg(long, default_value = "auto")]
    device: DeviceSpec,
}

fn finish<M: Trainable>(mut run: Run, inputs: &[&Path], outcome: &Outcome<M>) -> anyhow::Result<()> {
    for path in inputs.iter().filter(|path| !path.as_os_str().is_empty()) {
        run.input(path)?;
    }
    run.finish(json!({
        "loss": outcome.loss,
        "tokens": outcome.tokens,
        "tokens_per_second": outcome.tokens as f64 / outcome.elapsed_seconds,
        "training_seconds": outcome.elapsed_seconds,
        "parameters": Trainable::num_parameters(&outcome.model),
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
            finish(run, &[&config.model, &config.train], &outcome)
        }
        Command::Grpo(TrainArgs { args, watch }) => {
            let mut config: GrpoConfig = args.load()?;
            watch.apply(&mut config.trainer.watch);
            let mut run = Run::start(&args.out, "llm-align", "grpo", &config)?;
            run.manifest.seed = Some(config.seed);
            let outcome = grpo(config.clone(), run.dir()).context("grpo")?;
            finish(run, &[&config.model, &config.train], &outcome)
        }
        Command::Reward(TrainArgs { args, watch }) => {
            let mut config: RewardConfig = args.load()?;
            watch.apply(&mut config.trainer.watch);
            let mut run = Run::start(&args.out, "llm-align", "reward", &config)?;
            run.manifest.seed = Some(config.seed);
            let outcome = reward(config.clone(), run.dir()).context("reward")?;
            finish(run, &[&config.model, &config.train, &config.heldout], &outcome)
        }
        Command::Ppo(TrainArgs { args, watch }) => {
            let mut config: PpoConfig = args.load()?;
            watch.apply(&mut config.trainer.watch);
            let mut run = Run::start(&args.out, "llm-align", "ppo", &config)?;
            run.manifest.seed = Some(config.seed);
            let outcome = ppo(config.clone(), run.dir()).context("ppo")?;
            finish(run, &[&config.model, &config.train, &config.reward_model], &outcome)
        }
        Command::Score(ScoreArgs { model, data, out, kind, on_bad_row, micro_batch_tokens, device }) => {
            let summary = score(&ScoreConfig { model, data, kind, on_bad_row, micro_batch_tokens, device }, &out).context("score")?;
            println!("{}", serde_json::to_string(&summary)?);
            Ok(())
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
        Command::Merge(merge) => Ok(merge.run()?),
        Command::Dpo(TrainArgs { args, watch }) => {
            let mut config: DpoConfig = args.load()?;
            watch.apply(&mut config.trainer.watch);
            let mut run = Run::start(&args.out, "llm-align", "dpo", &config)?;
            run.manifest.seed = Some(config.seed);
            let outcome = dpo(config.clone(), run.dir()).context("dpo")?;
            finish(run, &[&config.model, &config.train], &outcome)
        }
        Command::Kto(TrainArgs { args, watch }) => {
            let mut config: KtoConfig = args.load()?;
            watch.apply(&mut config.trainer.watch);
            let mut run = Run::start(&args.out, "llm-align", "kto", &config)?;
            run.manifest.seed = Some(config.seed);
            let outcome = kto(config.clone(), run.dir()).context("kto")?;
            finish(run, &[&config.model, &config.train], &outcome)
        }
        Command::LossLab(args) => Ok(args.run()?),
    }
}

fn main() -> ExitCode {
    // A cell of the sandbox for generated code is this program, started anew.
    if let Some(code) = llm_verify::sandbox::cell_main() {
        return code;
    }
    program::main(run)
}
