//! `cargo xtask`: the whole way from documents to a chat in the terminal, and the checks a workspace needs.
//!
//! | command | job |
//! |---|---|
//! | `quickstart` | the embedded recipe, with an opening and a summary for people ([`quickstart`]) |
//! | `pipeline run FILE` | the same for any recipe ([`pipeline`], [`recipe`]) |
//! | `report [RUN]` | one self-contained HTML file from a run folder ([`report`]) |
//! | `chat` | talk to a model ([`chat`]) |
//! | `bench gpu`, `bench train` | measurements that take several programs ([`mod@bench`]) |
//! | `tidy` | rules that only a program can hold ([`tidy`]) |
//!
//! It calls the workspace's programs and links none of the crates behind them, so it compiles in seconds.

mod bars;
mod bench;
mod chat;
mod client;
mod experts;
mod folder;
mod machine;
mod pipeline;
mod process;
mod programs;
mod quickstart;
mod recipe;
mod report;
mod server;
mod stamp;
mod substitute;
mod summary;
mod term;
mod tidy;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "From documents to a served, evaluated language model", version)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Train, align and evaluate a small model on this machine, then show what it can do
    Quickstart(quickstart::Args),
    /// Run the stages of a recipe
    #[command(subcommand)]
    Pipeline(PipelineTask),
    /// Write report.html for a run folder (default: the newest)
    Report(ReportArgs),
    /// Chat with a model in the terminal
    Chat(chat::Args),
    /// Measure training and parity
    #[command(subcommand)]
    Bench(bench::BenchTask),
    /// Check layout, file headers, file sizes, paths, dependency direction and links
    Tidy,
}

#[derive(Subcommand)]
enum PipelineTask {
    /// Run a recipe; what is unchanged is skipped, what was killed continues
    Run(RunArgs),
}

#[derive(clap::Args)]
struct RunArgs {
    /// The recipe, for example xtask/recipes/quickstart.toml
    file: PathBuf,
    /// Override a value: stage.key=value, seed=N (repeatable)
    #[arg(long = "set", value_name = "STAGE.KEY=VALUE")]
    sets: Vec<String>,
    /// Run folder (default: runs/NAME)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Device: cpu, cuda, vulkan or webgpu, with :N for the N-th
    #[arg(long)]
    device: Option<String>,
    /// Run this stage and all after it even when nothing changed
    #[arg(long, value_name = "STAGE", conflicts_with = "only")]
    from: Option<String>,
    /// Run only this stage
    #[arg(long, value_name = "STAGE")]
    only: Option<String>,
    /// Run stages even when nothing changed
    #[arg(long)]
    force: bool,
    /// Show what would run and why
    #[arg(long)]
    dry_run: bool,
    /// Compare the result with what this recipe must reach, and fail when it does not
    #[arg(long)]
    check: bool,
}

#[derive(clap::Args)]
struct ReportArgs {
    /// Run folder or its name below runs/
    run: Option<PathBuf>,
    /// Where to write it (default: report.html in the run folder)
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Task::Quickstart(args) => quickstart::run(&args),
        Task::Pipeline(PipelineTask::Run(args)) => run_recipe(&args),
        Task::Report(args) => write_report(&args),
        Task::Chat(args) => chat::run(&args),
        Task::Bench(task) => bench::run(&task),
        Task::Tidy => tidy::run(),
    };
    // Ctrl-C is an end like any other: a line how to go on, and the status that shells expect.
    if let Err(error) = &result
        && let Some(interrupted) = error.downcast_ref::<pipeline::Interrupted>()
    {
        eprintln!("\n{interrupted}");
        return ExitCode::from(llm_run::program::EXIT_INTERRUPTED);
    }
    llm_run::program::main(|| result)
}

fn run_recipe(args: &RunArgs) -> Result<()> {
    let mut recipe = recipe::Recipe::load(&args.file)?;
    if let Some(device) = &args.device {
        recipe.device.clone_from(device);
    }
    recipe.set(&args.sets)?;
    let bars = if args.check { Some(bars::of(&recipe.name)?) } else { None };
    let out = args.out.clone().unwrap_or_else(|| folder::runs().join(&recipe.name));
    let options =
        pipeline::Options { from: args.from.clone(), only: args.only.clone(), force: args.force, dry_run: args.dry_run, again: again(), out };
    let outcome = pipeline::run(&recipe, &options)?;
    if args.dry_run {
        return Ok(());
    }
    let report = report::write(&options.out, None)?;
    eprintln!("{} ran, {} unchanged; report: {}", outcome.ran.len(), outcome.skipped.len(), report.display());
    match bars {
        Some(bars) => bars::report(&bars(&folder::RunFolder::open(&options.out)?), term::Paint::stdout()),
        None => Ok(()),
    }
}

/// The command line that continues this run: the same, without what forces stages to run again.
fn again() -> String {
    let mut words = vec!["cargo xtask".to_string()];
    let mut skip = false;
    for word in std::env::args().skip(1) {
        if std::mem::take(&mut skip) || matches!(word.as_str(), "--force" | "--fresh") || word.starts_with("--from=") {
            continue;
        }
        if word == "--from" {
            skip = true;
            continue;
        }
        let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=:,".contains(c));
        words.push(if plain { word } else { format!("'{}'", word.replace('\'', r"'\''")) });
    }
    words.join(" ")
}

fn write_report(args: &ReportArgs) -> Result<()> {
    let dir = folder::find(args.run.as_deref())?;
    let path = report::write(&dir, args.out.as_deref()).with_context(|| format!("cannot write the report of {}", dir.display()))?;
    println!("{}", path.display());
    Ok(())
}
