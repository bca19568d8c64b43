//! `llm-arch extend-vocab`: a model with another tokenizer.

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use llm_arch::tokens::{ModelFolder, ROUND, Resize, Transplant};
use llm_run::Seed;
use llm_tokenizer::Tokenizer;
use std::path::PathBuf;

/// Rows of tokens that the model's tokenizer does not have.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Rows {
    /// Mean of the rows of the pieces that the text is cut into today; of control tokens as with `mean`.
    Subtokens,
    /// Draws around the mean of all rows, as transformers' mean_resizing.
    Mean,
    /// Such tokens are an error.
    Error,
}

/// Arguments of `extend-vocab`.
#[derive(Debug, Args)]
pub struct ExtendVocab {
    /// Model folder with config.json, weights and tokenizer.json.
    model: PathBuf,
    /// Folder or file of the new tokenizer.
    #[arg(long, value_name = "PATH")]
    tokenizer: PathBuf,
    /// Folder to write; must not exist.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Values of new rows.
    #[arg(long, value_enum, default_value = "subtokens")]
    resize: Rows,
    /// Seed of rows that are drawn.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Rows of the tables are a multiple of this.
    #[arg(long, value_name = "N", default_value_t = ROUND as u32, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pad_to_multiple: u32,
}

impl ExtendVocab {
    pub fn run(&self) -> Result<()> {
        ensure!(!self.out.exists(), "{} exists already; choose a new folder", self.out.display());
        let folder = ModelFolder::open(&self.model)?;
        let tokenizer = Tokenizer::load(&self.tokenizer)?;
        let resize = match self.resize {
            Rows::Subtokens => Resize::Subtokens,
            Rows::Mean => Resize::Mean,
            Rows::Error => Resize::Error,
        };
        let transplant = Transplant::new(&folder.tokenizer, &tokenizer, resize, Seed(self.seed));
        transplant.require(resize, &self.model)?;
        let sizes = folder.transplant(&transplant, self.pad_to_multiple as usize, &self.out)?;
        println!("{}", transplant.counts);
        println!("rows {} -> {} ({} without a token)", sizes.rows.0, sizes.rows.1, sizes.filled);
        eprintln!("wrote {}", self.out.display());
        Ok(())
    }
}
