//! `llm-vision`: what a model that sees is, whether it computes the right numbers, and what it says about an image. See `llm-vision help`.

mod commands;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Describe, check and put together vision towers, image-text pairs and vision-language models.
///
/// A model is a folder as Hugging Face's libraries write it: CLIP, SigLIP, their vision towers alone, LLaVA.
#[derive(Debug, Parser)]
#[command(name = "llm-vision", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare models and image processors with recorded numbers
    ///
    /// Example: llm-vision parity fixtures/vision/* fixtures/images
    Parity(commands::Parity),
    /// Show what a model folder is: sizes, tokens per image, parameters by part
    ///
    /// Reads config.json and the headers of the weight files, never the weights.
    Inspect(commands::Inspect),
    /// Say something about images
    ///
    /// Example: llm-vision describe --model llava/ photo.jpg --prompt "What is this?"
    Describe(commands::Describe),
    /// Put a vision-language model together from a language model and a tower, with a connector that has learned nothing yet
    ///
    /// Example: llm-vision assemble --text llama/ --tower clip/ --image-token "<image>" --out llava/
    Assemble(commands::Assemble),
    /// Write a model again: another number format, other shards, published tensor names
    ///
    /// Example: llm-vision convert llava/ --out llava-bf16/ --precision bfloat16
    Convert(commands::Convert),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    llm_run::program::main(|| match cli.command {
        Command::Parity(parity) => parity.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Describe(describe) => describe.run(),
        Command::Assemble(assemble) => assemble.run(),
        Command::Convert(convert) => convert.run(),
    })
}
