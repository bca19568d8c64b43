//! `llm-eval run` measures a model, `llm-eval tasks` lists the benchmarks, `llm-eval compare` says whether one result is better than another.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use llm_eval::compare::compare;
use llm_eval::config::RunConfig;
use llm_eval::logits::{Prompts, logits};
use llm_eval::results::TaskResult;
use llm_infer::Model;
use llm_run::{Args, Seed};
use llm_tensor::DeviceSpec;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Evaluate language models: bits per byte, exact match, paired comparison.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure a model folder; writes results.json and samples.parquet.
    Run(Args),
    /// List the benchmarks: name, kind, examples, metric, and whether their files are there.
    Tasks {
        /// Folder of the benchmark files.
        #[arg(long, default_value = "../shared/data/benchmarks")]
        data: PathBuf,
    },
    /// Print logits and greedy tokens of prompts as JSON, to check against another implementation.
    Logits {
        /// Model folder.
        #[arg(long)]
        model: PathBuf,
        /// JSON: {"prompts": [{"text": ...}], "max_tokens": 32}.
        #[arg(long)]
        prompts: PathBuf,
        /// A PEFT folder to compute with, beside the model's weights.
        #[arg(long)]
        adapter: Option<PathBuf>,
        /// Where to compute.
        #[arg(long, default_value = "auto")]
        device: DeviceSpec,
    },
    /// Compare two result folders item by item: bootstrap interval of the difference, McNemar's exact p.
    Compare {
        /// Result folder of the first model.
        a: PathBuf,
        /// Result folder of the second model.
        b: PathBuf,
        /// Bootstrap resamples.
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
        resamples: u32,
        /// Seed of the bootstrap.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    if let Some(code) = llm_verify::sandbox::cell_main() {
        return code;
    }
    let cli = Cli::parse();
    llm_run::program::main(|| body(cli.command))
}

fn body(command: Command) -> Result<()> {
    match command {
        Command::Run(args) => {
            llm_run::program::catch_interrupts();
            let config: RunConfig = args.load()?;
            let results = llm_eval::run::run(&config, &args.out)?;
            for (name, task) in &results.tasks {
                println!("{}", line(name, task));
            }
        }
        Command::Tasks { data } => print!("{}", table(&data)),
        Command::Logits { model, prompts, adapter, device } => {
            let text = std::fs::read_to_string(&prompts).with_context(|| format!("{}: cannot read", prompts.display()))?;
            let asked: Prompts = serde_json::from_str(&text).with_context(|| format!("{}: expected prompts and max_tokens", prompts.display()))?;
            let numbers = logits(&Model::load(&model, &device)?, adapter.as_deref(), asked)?;
            println!("{}", serde_json::to_string(&numbers).context("logits as JSON")?);
        }
        Command::Compare { a, b, resamples, seed, json } => {
            let comparison = compare(&a, &b, resamples as usize, Seed(seed))?;
            if json {
                println!("{}", serde_json::to_string_pretty(&comparison).context("comparison as JSON")?);
            } else {
                print!("{}", comparison.table());
            }
        }
    }
    Ok(())
}

fn table(data: &Path) -> String {
    let mut text = format!("{:<46} {:<16} {:>5}  {:<28} file under {}\n", "task", "kind", "shots", "metric", data.display());
    for task in llm_eval::tasks::all() {
        let spec = task.spec();
        let metrics = spec.metrics.iter().map(|m| m.metric.name()).collect::<Vec<_>>().join(", ");
        let files = match spec.found(data) {
            Some(files) => files.iter().map(|f| f.strip_prefix(data).unwrap_or(f).display().to_string()).collect::<Vec<_>>().join(", "),
            None => "not found".to_string(),
        };
        text.push_str(&format!("{:<46} {:<16} {:>5}  {metrics:<28} {files}\n", spec.name.to_string(), spec.kind, spec.shots));
    }
    text
}

fn line(name: &str, task: &TaskResult) -> String {
    let interval = task.ci95.map(|[low, high]| format!("  95 % [{low:.4}, {high:.4}]")).unwrap_or_default();
    let counted = task.details.get("failures").and_then(|f| f.as_object());
    let failures: Vec<String> = counted.into_iter().flatten().map(|(why, count)| format!("{count} {why}")).collect();
    let failures = if failures.is_empty() { String::new() } else { format!("  failures: {}", failures.join("; ")) };
    format!("{name:<36} {:.4}{interval}  n {}{failures}", task.value, task.n)
}
