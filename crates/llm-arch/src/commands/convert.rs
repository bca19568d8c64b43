//! `llm-arch convert`: read a model folder and write it again, in another number format or in shards of another size.

use anyhow::{Context, Result, ensure};
use clap::Args;
use llm_arch::hf;
use llm_run::atomic::AtomicDir;
use llm_tensor::Precision;
use llm_tensor::burn::tensor::Device;
use llm_tensor::weights::SaveOptions;
use std::path::{Path, PathBuf};

/// Files that belong to a model folder and are copied as they are.
const COMPANIONS: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "LICENSE",
];

/// Arguments of `convert`.
#[derive(Debug, Args)]
pub struct Convert {
    /// Model folder.
    model: PathBuf,
    /// Folder to write; must not exist.
    #[arg(long)]
    out: PathBuf,
    /// Number format to write: float32, bfloat16, float16.
    #[arg(long, default_value = "float32")]
    precision: Precision,
    /// Largest file, e.g. 500MB, 5GB.
    #[arg(long, default_value = "5GB", value_parser = size)]
    max_shard_size: usize,
}

/// `5GB`, `500MB`, `20KB` or bytes, in powers of ten as Hugging Face counts.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let upper = text.trim().to_uppercase();
    let (digits, factor) = [("GB", 1e9), ("MB", 1e6), ("KB", 1e3), ("B", 1.0), ("", 1.0)]
        .iter()
        .find_map(|(unit, factor)| upper.strip_suffix(unit).map(|digits| (digits.trim().to_string(), *factor)))
        .unwrap_or((upper.clone(), 1.0));
    let bytes = digits.parse::<f64>().map(|n| n * factor).ok().filter(|n| *n >= 1.0 && *n < 1e18);
    bytes.map(|n| n as usize).ok_or_else(|| format!("`{text}` is no size; write something like 5GB or 500MB"))
}

/// Copy the tokenizer and whatever else belongs to a model folder.
pub(super) fn copy_companions(from: &Path, to: &Path) -> Result<()> {
    for name in COMPANIONS {
        let file = from.join(name);
        if file.exists() {
            std::fs::copy(&file, to.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
        }
    }
    Ok(())
}

impl Convert {
    pub fn run(&self) -> Result<()> {
        ensure!(!self.out.exists(), "{} exists already; choose a new folder", self.out.display());
        let decoder = hf::load(&self.model, &Device::flex())?;
        let folder = AtomicDir::create(&self.out)?;
        hf::save_as(folder.path(), &decoder, SaveOptions { precision: self.precision, max_shard_bytes: self.max_shard_size })?;
        copy_companions(&self.model, folder.path())?;
        folder.commit()?;
        eprintln!("wrote {} parameters in {} to {}", decoder.num_parameters(), self.precision, self.out.display());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [("5GB", 5_000_000_000), ("1.5 mb", 1_500_000), ("300", 300), ("20kb", 20_000), ("7b", 7)] {
            assert_eq!(super::size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GB", "-3MB", "many", "0"] {
            assert!(super::size(text).is_err(), "{text}");
        }
    }
}
