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
    /// Work out tokens, compute and disk for a model size
    Budget(commands::budget::BudgetArgs),
    /// Index benchmark files for `decontaminate`
    ContaminationIndex(llm_run::Args),
    /// Take benchmark text out of training documents
    Decontaminate(llm_run::Args),
    /// Remove exact and near duplicates
    Dedup(llm_run::Args),
    /// Generate exercises with gold answers
    Exercises(llm_run::Args),
    /// Say what happened to a document and why
    Explain(commands::explain::ExplainArgs),
    /// Write shards as datatrove's or Megatron's files
    Export(llm_run::Args),
    /// Drop documents that fail the checks
    Filter(llm_run::Args),
    /// Mix sources by shares into one reproducible order
    Mix(llm_run::Args),
    /// Tokenise documents and pack them into memory-mapped shards
    Pack(llm_run::Args),
    /// Read documents from the Rust documentation, cargo packages or your own files
    Read(llm_run::Args),
    /// Replace personal data by placeholders, with a report that restores them
    Redact(llm_run::Args),
    /// Draw a balanced text sample for the tokenizer
    Sample(llm_run::Args),
    /// Draw pictures with captions and questions
    Scenes(llm_run::Args),
    /// Redact and split into training and held-out documents
    Split(llm_run::Args),
    /// Count what a folder of documents holds
    Stats(commands::stats::StatsArgs),
    /// Put back what `redact` replaced
    Unredact(llm_run::Args),
}

fn main() -> ExitCode {
    llm_run::program::main(|| match Cli::parse().command {
        Command::Budget(args) => commands::budget::run(&args),
        Command::ContaminationIndex(args) => commands::contamination_index::run(&args),
        Command::Decontaminate(args) => commands::decontaminate::run(&args),
        Command::Dedup(args) => commands::dedup::run(&args),
        Command::Exercises(args) => commands::exercises::run(&args),
        Command::Explain(args) => commands::explain::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Filter(args) => commands::filter::run(&args),
        Command::Mix(args) => commands::mix::run(&args),
        Command::Pack(args) => commands::pack::run(&args),
        Command::Read(args) => commands::read::run(&args),
        Command::Redact(args) => commands::redact::run(&args),
        Command::Sample(args) => commands::sample::run(&args),
        Command::Scenes(args) => commands::scenes::run(&args),
        Command::Split(args) => commands::split::run(&args),
        Command::Stats(args) => commands::stats::run(&args),
        Command::Unredact(args) => commands::unredact::run(&args),
    })
}
