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
    Dedup(commands::dedup::DedupArgs),
    /// Generate exercises with gold answers
    Exercises(llm_run::Args),
    /// Say what happened to a document and why
    Explain(commands::explain::ExplainArgs),
    /// Write shards as datatrove's or Megatron's files
    Export(llm_run::Args),
    /// Drop documents that fail the checks
    Filter(llm_run::Args),
    /// Start all processes of `process`: here, under Slurm, on Kubernetes
    #[command(subcommand)]
    Launch(commands::launch::LaunchCommand),
    /// Mix sources by shares into one reproducible order
    Mix(llm_run::Args),
    /// Tokenise documents and pack them into memory-mapped shards
    Pack(llm_run::Args),
    /// Sources through steps to documents, as one of any number of processes
    Process(commands::process::ProcessArgs),
    /// Read documents from the Rust documentation, cargo packages or your own files
    Read(llm_run::Args),
    /// Replace personal data by placeholders, with a report that restores them
    Redact(llm_run::Args),
    /// Draw a balanced text sample for the tokenizer
    Sample(llm_run::Args),
    /// Draw pictures with captions and questions
    Scenes(llm_run::Args),
    /// Say what a model thinks of each line: labels, perplexity or language
    Score(commands::score::ScoreArgs),
    /// Redact and split into training and held-out documents
    Split(llm_run::Args),
    /// Count what a folder of documents holds
    Stats(commands::stats::StatsArgs),
    /// Train a text classifier on labelled documents (fastText format)
    TrainClassifier(llm_run::Args),
    /// Train an n-gram language model for perplexity (ARPA and KenLM formats)
    TrainNgram(llm_run::Args),
    /// Put back what `redact` replaced
    Unredact(llm_run::Args),
    /// Try other limits of `filter` on stored signals
    WhatIf(commands::what_if::WhatIfArgs),
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
        Command::Launch(command) => commands::launch::run(&command),
        Command::Mix(args) => commands::mix::run(&args),
        Command::Pack(args) => commands::pack::run(&args),
        Command::Process(args) => commands::process::run(&args),
        Command::Read(args) => commands::read::run(&args),
        Command::Redact(args) => commands::redact::run(&args),
        Command::Sample(args) => commands::sample::run(&args),
        Command::Scenes(args) => commands::scenes::run(&args),
        Command::Score(args) => commands::score::run(&args),
        Command::Split(args) => commands::split::run(&args),
        Command::Stats(args) => commands::stats::run(&args),
        Command::TrainClassifier(args) => commands::train_classifier::run(&args),
        Command::TrainNgram(args) => commands::train_ngram::run(&args),
        Command::Unredact(args) => commands::unredact::run(&args),
        Command::WhatIf(args) => commands::what_if::run(&args),
    })
}
