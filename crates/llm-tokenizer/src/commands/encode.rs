//! `encode` and `decode`: one text, one line of ids.

use super::text_or_stdin;
use anyhow::{Context, Result, bail};
use clap::Args;
use llm_tokenizer::Tokenizer;
use std::io::Write;
use std::path::PathBuf;

/// Arguments of `encode`.
#[derive(Debug, Args)]
pub struct Encode {
    /// Tokenizer folder or tokenizer.json.
    #[arg(long, value_name = "PATH")]
    tokenizer: PathBuf,
    /// The text; without it standard input is read.
    text: Option<String>,
    /// Turn `<|eot_id|>` and the like in the text into control tokens.
    #[arg(long)]
    special: bool,
}

impl Encode {
    /// Ids on one line, separated by blanks.
    pub fn run(&self) -> Result<()> {
        let tokenizer = Tokenizer::load(&self.tokenizer)?;
        let text = text_or_stdin(self.text.as_deref())?;
        let ids = if self.special { tokenizer.encode_with_special(&text) } else { tokenizer.encode(&text) };
        println!("{}", ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
        Ok(())
    }
}

/// Arguments of `decode`.
#[derive(Debug, Args)]
pub struct Decode {
    /// Tokenizer folder or tokenizer.json.
    #[arg(long, value_name = "PATH")]
    tokenizer: PathBuf,
    /// Token ids; without them standard input is read. Commas and brackets are ignored.
    ids: Vec<String>,
    /// Leave control tokens out.
    #[arg(long)]
    skip_special: bool,
}

impl Decode {
    /// The text, nothing else.
    pub fn run(&self) -> Result<()> {
        let tokenizer = Tokenizer::load(&self.tokenizer)?;
        let given = (!self.ids.is_empty()).then(|| self.ids.join(" "));
        let text = text_or_stdin(given.as_deref())?;
        let words = text.split(|c: char| c.is_whitespace() || ",[]".contains(c)).filter(|w| !w.is_empty());
        let mut ids = Vec::new();
        for word in words {
            let id: u32 = word.parse().with_context(|| format!("`{word}` is not a token id"))?;
            if tokenizer.token_bytes(id).is_none() {
                bail!("id {id} is not in the vocabulary (0..{})", tokenizer.vocab_size());
            }
            ids.push(id);
        }
        std::io::stdout().write_all(tokenizer.decode(&ids, self.skip_special).as_bytes()).context("cannot write")?;
        Ok(())
    }
}
