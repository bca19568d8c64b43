//! `llm-tokenizer`: train, use and measure a tokenizer. See `llm-tokenizer help`.

mod commands;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Train, use and measure a tokenizer.
///
/// A tokenizer is a folder as Hugging Face's libraries write it (tokenizer.json, tokenizer_config.json,
/// special_tokens_map.json, chat_template.jinja), or a tokenizer.json alone.
#[derive(Debug, Parser)]
#[command(name = "llm-tokenizer", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Learn a byte-level BPE vocabulary from text; writes a tokenizer folder
    ///
    /// Configuration: documents (list of .jsonl or .txt files or folders of them), vocab_size = 4096,
    /// digits = 1 (or 3) or pretokenizer = gpt2 | llama3 | qwen2, byte_order = byte | gpt2, min_frequency = 2,
    /// max_token_bytes = 64, special_tokens = [..], bos_token, eos_token, pad_token ("" for none),
    /// weights = { de = 1.0, en = 1.0 } (by lang or domain), memory = "4GiB" (word counts beyond go to disk),
    /// max_bytes = 0 (stop reading after so many; 0: never). A stopped run goes on when started again.
    ///
    /// Example: llm-tokenizer train --set documents='["sample.jsonl"]' --set vocab_size=8192 --out tokenizer
    ///
    /// Example: llm-tokenizer train --trace (a toy corpus, step by step)
    Train(commands::Train),
    /// Print the token ids of a text
    Encode(commands::Encode),
    /// Print the text of token ids
    Decode(commands::Decode),
    /// Show what a tokenizer is, and how it cuts a text
    Inspect(commands::Inspect),
    /// Find out what is wrong with a chat template; exit status 1 if there are errors
    ///
    /// Renders canned conversations (with and without system message, reasoning, tools, empty and odd text) and reports:
    /// templates that fail; text that is dropped, changed or doubled; conversations that do not grow at their end;
    /// a generation prompt that turns do not begin with; {% generation %} blocks that enclose too little or too much;
    /// end-of-turn tokens that do not end generation; control tokens the vocabulary lacks; two begin-of-text tokens.
    /// eos_token_id of generation_config.json and config.json in the folder counts.
    ///
    /// Example: llm-tokenizer lint --tokenizer model
    Lint(commands::Lint),
    /// Measure tokens per word and bytes per token by language and domain; writes fertility.json
    ///
    /// Configuration: tokenizer (folder), samples (list of .jsonl files with "text", "lang", "domain").
    ///
    /// Example: llm-tokenizer fertility --set tokenizer=tokenizer --set samples='["sample.jsonl"]' --out fertility
    Fertility(llm_run::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    llm_run::program::main(|| match cli.command {
        Command::Train(train) => train.run(),
        Command::Encode(encode) => encode.run(),
        Command::Decode(decode) => decode.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Lint(lint) => lint.run(),
        Command::Fertility(args) => commands::fertility(&args),
    })
}
