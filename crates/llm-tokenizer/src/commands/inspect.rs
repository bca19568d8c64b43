//! `inspect`: what a tokenizer is, and how it cuts a text.

use anyhow::Result;
use clap::Args;
use llm_tokenizer::Tokenizer;
use std::path::{Path, PathBuf};

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Tokenizer folder or file.
    #[arg(long, value_name = "PATH")]
    tokenizer: PathBuf,
    /// A text to cut into tokens.
    text: Option<String>,
}

impl Inspect {
    /// A summary, or one line per token of the text.
    pub fn run(&self) -> Result<()> {
        let tokenizer = Tokenizer::load(&self.tokenizer)?;
        match &self.text {
            Some(text) => tokens(&tokenizer, text),
            None => summary(&tokenizer, &self.tokenizer),
        }
        Ok(())
    }
}

fn tokens(tokenizer: &Tokenizer, text: &str) {
    let ids = tokenizer.encode_with_special(text);
    for &id in &ids {
        println!("{id:>8}  {}", shown(tokenizer.token_bytes(id).unwrap_or_default()));
    }
    println!("{} tokens, {} bytes, {:.2} bytes per token", ids.len(), text.len(), text.len() as f64 / ids.len().max(1) as f64);
}

fn summary(tokenizer: &Tokenizer, path: &Path) {
    println!("{}: {} ids, {}", path.display(), tokenizer.vocab_size(), tokenizer.algorithm());
    for (name, id) in [("begins a document", tokenizer.bos_id()), ("ends a document", tokenizer.eos_id()), ("padding", tokenizer.pad_id())] {
        let token = id.and_then(|id| tokenizer.token_bytes(id)).map_or("none".to_string(), shown);
        println!("{name:<18} {token}");
    }
    let template = tokenizer.chat_template();
    let marks = if template.is_some_and(|t| t.marks_generation()) { "yes, marks assistant text" } else { "yes, assistant text found by comparison" };
    println!("{:<18} {}", "chat template", if template.is_some() { marks } else { "none" });
    println!("added tokens:");
    for token in tokenizer.added_tokens() {
        println!("{:>8}  {}{}", token.id, token.content.escape_debug(), if token.special { "" } else { "  (not special)" });
    }
    let lengths =
        (0..tokenizer.vocab_size() as u32).filter(|&id| !tokenizer.is_special(id)).filter_map(|id| tokenizer.token_bytes(id)).map(<[u8]>::len);
    let (count, bytes) = lengths.fold((0, 0), |(count, bytes), len| (count + 1, bytes + len));
    println!("mean token length {:.2} bytes", bytes as f64 / f64::from(count.max(1)));
    let mut longest: Vec<&[u8]> =
        (0..tokenizer.vocab_size() as u32).filter(|&id| !tokenizer.is_special(id)).filter_map(|id| tokenizer.token_bytes(id)).collect();
    longest.sort_by_key(|bytes| std::cmp::Reverse(bytes.len()));
    println!("longest: {}", longest.iter().take(8).map(|b| shown(b)).collect::<Vec<_>>().join(" "));
}

fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => format!("{text:?}"),
        Err(_) => bytes.iter().map(|b| format!("\\x{b:02x}")).collect(),
    }
}
