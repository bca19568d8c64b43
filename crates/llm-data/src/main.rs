//! `llm-data`: every stage from raw documents to token shards as a command.

mod commands;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(version, about = "Raw documents to packed token shards")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Remove exact and near duplicates
    Dedup(commands::dedup::DedupArgs),
    /// Generate exercises with gold answers
    Exercises(llm_run::Args),
    /// Say what happened to a document and why
    Explain(commands::explain::ExplainArgs),
    /// Drop documents that fail the checks
    Filter(llm_run::Args),
    /// Tokenise documents and pack them into memory-mapped shards
    Pack(llm_run::Args),
    /// Read documents from the Rust documentation, cargo packages or your own files
    Read(llm_run::Args),
    /// Draw a balanced text sample for the tokenizer
    Sample(llm_run::Args),
    /// Draw pictures with captions and questions
    Scenes(llm_run::Args),
    /// Redact and split into training and held-out documents
    Split(llm_run::Args),
    /// Count what a folder of documents holds
    Stats(commands::stats::StatsArgs),
}

fn main() -> ExitCode {
    llm_run::program::main(|| match Cli::parse().command {
        Command::Dedup(args) => commands::dedup::run(&args),
        Command::Exercises(args) => commands::exercises::run(&args),
        Command::Explain(args) => commands::explain::run(&args),
        Command::Filter(args) => commands::filter::run(&args),
        Command::Pack(args) => commands::pack::run(&args),
        Command::Read(args) => commands::read::run(&args),
        Command::Sample(args) => commands::sample::run(&args),
        Command::Scenes(args) => commands::scenes::run(&args),
        Command::Split(args) => commands::split::run(&args),
        Command::Stats(args) => commands::stats::run(&args),
    })
}
