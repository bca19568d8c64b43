//! `llm-arch convert`: read a model, a folder or a GGUF file, and write it again: in another number format, in shards of another size, or as the
//! other kind.

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use llm_arch::{Decoder, gguf, hf};
use llm_run::atomic::AtomicDir;
use llm_tensor::Precision;
use llm_tensor::burn::tensor::Device;
use llm_tensor::quant::gguf::{BlockType, WRITTEN};
use llm_tensor::weights::SaveOptions;
use llm_tokenizer::Tokenizer;
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

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A folder as Hugging Face's libraries have it
    Hf,
    /// A file for llama.cpp
    Gguf,
}

/// Arguments of `convert`.
#[derive(Debug, Args)]
pub struct Convert {
    /// Model folder, or a GGUF file.
    model: PathBuf,
    /// Folder or file to write; must not exist.
    #[arg(long)]
    out: PathBuf,
    /// What to write.
    #[arg(long, value_enum, default_value = "hf")]
    to: Kind,
    /// Element type of the matrices in a GGUF file: f32, f16, bf16, q8_0, q4_0.
    #[arg(long = "type", default_value = "f16", value_parser = written)]
    kind: BlockType,
    /// Number format of a folder: float32, bfloat16, float16.
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

/// An element type that can be written.
fn written(text: &str) -> Result<BlockType, String> {
    let names = || WRITTEN.map(|kind| kind.to_string()).join(", ");
    text.parse().ok().filter(|kind| WRITTEN.contains(kind)).ok_or_else(|| format!("`{text}` is no element type that is written; {} are", names()))
}

impl Convert {
    pub fn run(&self) -> Result<()> {
        ensure!(!self.out.exists(), "{} exists already; choose another name", self.out.display());
        let file = gguf::find(&self.model);
        let decoder = match &file {
            Some(file) => gguf::load(file, &Device::flex(), Precision::F32)?,
            None => hf::load(&self.model, &Device::flex())?,
        };
        match self.to {
            Kind::Hf => self.folder(&decoder, file.as_deref())?,
            Kind::Gguf => {
                let name = self.model.file_stem().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
                let tokenizer = Tokenizer::load(file.as_ref().unwrap_or(&self.model));
                let tokenizer = tokenizer.context("a GGUF file holds the tokenizer, and there is none with the model")?;
                gguf::save(&self.out, &decoder, Some(&tokenizer), &name, self.kind)?;
            }
        }
        let format = if self.to == Kind::Hf { self.precision.to_string() } else { self.kind.to_string() };
        eprintln!("wrote {} parameters in {format} to {}", decoder.num_parameters(), self.out.display());
        Ok(())
    }

    fn folder(&self, decoder: &Decoder, file: Option<&Path>) -> Result<()> {
        let folder = AtomicDir::create(&self.out)?;
        hf::save_as(folder.path(), decoder, SaveOptions { precision: self.precision, max_shard_bytes: self.max_shard_size })?;
        if let Some(file) = file {
            match Tokenizer::load(file) {
                Ok(tokenizer) => tokenizer.save(folder.path())?,
                Err(e) => bail!("the weights are fine, but the tokenizer in the file is not read: {e}"),
            }
        } else {
            copy_companions(&self.model, folder.path())?;
        }
        folder.commit()?;
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
