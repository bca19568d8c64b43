//! `llm-tokenizer`: train, use and measure a tokenizer. See `llm-tokenizer help`.

mod commands;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Train, use and measure a tokenizer.
///
/// A tokenizer is a folder as Hugging Face's libraries write it (tokenizer.json, tokenizer_config.json,
/// special_tokens_map.json, chat_template.jinja), or a file alone: tokenizer.json, a SentencePiece .model, tiktoken's
/// ranks, a GGUF file, vocab.json with merges.txt.
#[derive(Debug, Parser)]
#[command(name = "llm-tokenizer", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Learn a vocabulary from text (byte-level BPE, SentencePiece's BPE or Unigram); writes a tokenizer folder
    ///
    /// Configuration: documents (list of .jsonl or .txt files or folders of them), vocab_size = 4096,
    /// model = byte_level_bpe | sentencepiece_bpe | unigram, min_frequency = 2, max_token_bytes = 64,
    /// special_tokens = [..], bos_token, eos_token, pad_token ("" for none),
    /// weights = { de = 1.0, en = 1.0 } (by lang or domain), memory = "4GiB" (word counts beyond go to disk),
    /// max_bytes = 0 (stop reading after so many; 0: never). A stopped run goes on when started again.
    ///
    /// Only byte_level_bpe: digits = 1 (or 3) or pretokenizer = gpt2 | llama3 | qwen2 | cl100k | o200k, byte_order = byte | gpt2.
    ///
    /// Only the others: character_coverage = 0.9995 (rarer characters are spelled in bytes), max_piece_chars = 16,
    /// split_digits = false (true: every digit is a piece), seed_sentencepiece_size = 1000000 (unigram).
    ///
    /// Example: llm-tokenizer train --set documents='["sample.jsonl"]' --set vocab_size=8192 --out tokenizer
    ///
    /// Example: llm-tokenizer train --set documents='["books"]' --set model=unigram --set vocab_size=8000 --out tokenizer
    ///
    /// Example: llm-tokenizer train --trace (a toy corpus, step by step)
    Train(commands::Train),
    /// Print the token ids of a text, or of every row of a file
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
    /// Write a tokenizer in another program's format, and check that it gives the same ids
    ///
    /// Example: llm-tokenizer convert --tokenizer llama/tokenizer.model --to hf --out tokenizer
    ///
    /// Example: llm-tokenizer convert --tokenizer tokenizer --to tiktoken --out mine.tiktoken --check sample.jsonl
    Convert(commands::Convert),
    /// Measure how fast a tokenizer encodes and decodes
    ///
    /// Example: llm-tokenizer bench --tokenizer tokenizer sample.jsonl
    Bench(commands::Bench),
    /// Measure what languages and domains cost in tokens, one tokenizer or several; writes fertility.json and fertility.html
    ///
    /// Tokens per word and character, bytes per token, words of one token, unknown tokens; relative to English: the share of a
    /// context window, training FLOPs per byte, KV cache per 1000 characters, and the tokens of translations of one text.
    ///
    /// Configuration: tokenizer (a folder), tokenizers (a list of folders, measured side by side on the same samples),
    /// samples (list of .jsonl files with "text", "lang", "domain", and "parallel" or "id" where rows with the same value are
    /// translations of one text), reference = "en" (the language others are compared with).
    ///
    /// Example: llm-tokenizer fertility --set tokenizer=tokenizer --set samples='["sample.jsonl"]' --out fertility
    ///
    /// Example: llm-tokenizer fertility --set tokenizers='["a", "b"]' --set samples='["sample.jsonl"]' --out fertility
    Fertility(llm_run::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    llm_run::program::main(|| match cli.command {
        Command::Train(train) => train.run(),
        Command::Encode(encode) => encode.run(),
        Command::Decode(decode) => decode.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Convert(convert) => convert.run(),
        Command::Bench(bench) => bench.run(),
        Command::Lint(lint) => lint.run(),
        Command::Fertility(args) => commands::fertility(&args),
    })
}
