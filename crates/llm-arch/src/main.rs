//! `llm-arch`: what a model is, what it costs, and whether it computes the right numbers. See `llm-arch help`.

mod commands;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Describe, plan and check decoder models.
///
/// A model is a folder as Hugging Face's libraries write it (config.json, model.safetensors or shards), a GGUF file of llama.cpp, or a preset,
/// the name of a published model (llm-arch presets).
#[derive(Debug, Parser)]
#[command(name = "llm-arch", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show parameters, FLOPs, cache and memory of a model, and what it fits on
    ///
    /// Reads config.json and the headers of the weight files, never the weights.
    ///
    /// Example: llm-arch inspect llama-3-8b --batch 4 --context 8192
    Inspect(commands::Inspect),
    /// Plan a training run: from a budget to a size, or from a size to tokens, days and cost
    ///
    /// Example: llm-arch plan --gpus 8 --gpu H100 --hours 24
    ///
    /// Example: llm-arch plan --preset llama-3.2-1b --tokens-per-parameter 200
    Plan(commands::PlanArgs),
    /// List the known models
    Presets(commands::Presets),
    /// Compare a model with recorded numbers: logits, hidden states, greedy tokens
    ///
    /// Example: llm-arch parity fixtures/decoder/*
    Parity(commands::Parity),
    /// Write a model again: another number format, other shards, a file for llama.cpp or a folder from one
    ///
    /// Example: llm-arch convert model/ --out model-bf16/ --precision bfloat16 --max-shard-size 2GB
    ///
    /// Example: llm-arch convert model/ --out model.gguf --to gguf --type q8_0
    Convert(commands::Convert),
    /// Put a LoRA adapter (a PEFT folder) into the weights of its model
    ///
    /// Example: llm-arch merge --model model/ --adapter adapter/ --out model-merged/
    Merge(commands::Merge),
    /// Continue a text
    ///
    /// Example: llm-arch generate model/ "Once upon a time" --temperature 0.8 --top-p 0.95
    Generate(commands::Generate),
    /// Change the vocabulary of a model and its tokenizer, or look at it
    ///
    /// Example: llm-arch tokens add --model model/ --token '<think>' --special --out model-think/
    Tokens(commands::Tokens),
    /// Give a model another tokenizer, with rows for tokens that it did not have
    ///
    /// Tokens that both tokenizers have keep their rows, whatever their ids. Train on text afterwards.
    ///
    /// Example: llm-arch extend-vocab model/ --tokenizer tokenizer-medical/ --out model-medical/
    ExtendVocab(commands::ExtendVocab),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    llm_run::program::main(|| match cli.command {
        Command::Inspect(inspect) => inspect.run(),
        Command::Plan(plan) => plan.run(),
        Command::Presets(presets) => presets.run(),
        Command::Parity(parity) => parity.run(),
        Command::Convert(convert) => convert.run(),
        Command::Merge(merge) => merge.run(),
        Command::Generate(generate) => generate.run(),
        Command::Tokens(tokens) => tokens.run(),
        Command::ExtendVocab(extend) => extend.run(),
    })
}
