//! `llm-arch merge`: a model with a LoRA adapter in its weights.

use super::convert::{copy_companions, size};
use anyhow::{Result, ensure};
use clap::Args;
use llm_arch::{Adapter, adapter, hf};
use llm_run::atomic::AtomicDir;
use llm_tensor::Precision;
use llm_tensor::burn::tensor::Device;
use llm_tensor::weights::SaveOptions;
use std::path::PathBuf;

/// Arguments of `merge`.
#[derive(Debug, Args)]
pub struct Merge {
    /// Model folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Adapter folder: adapter_config.json and adapter_model.safetensors, as PEFT writes them.
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Folder to write; must not exist.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Number format to write: float32, bfloat16, float16.
    #[arg(long, default_value = "float32")]
    precision: Precision,
    /// Largest file, e.g. 500MB, 5GB.
    #[arg(long, default_value = "5GB", value_parser = size)]
    max_shard_size: usize,
}

impl Merge {
    pub fn run(&self) -> Result<()> {
        ensure!(!self.out.exists(), "{} exists already; choose a new folder", self.out.display());
        let adapter = Adapter::load(&self.adapter, &hf::load_config(&self.model)?)?;
        let decoder = adapter::merge(hf::load(&self.model, &Device::flex())?, &adapter)?;
        let folder = AtomicDir::create(&self.out)?;
        hf::save_as(folder.path(), &decoder, SaveOptions { precision: self.precision, max_shard_bytes: self.max_shard_size })?;
        copy_companions(&self.model, folder.path())?;
        folder.commit()?;
        eprintln!("merged {} changed matrices of {} into {}", adapter.changes.len(), self.adapter.display(), self.out.display());
        Ok(())
    }
}
