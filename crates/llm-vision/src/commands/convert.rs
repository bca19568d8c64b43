//! `llm-vision convert`: read a model folder and write it again, in another number format, in other shards, under published names.

use super::{COMPANIONS, KINDS, config, copy};
use anyhow::{Result, bail, ensure};
use clap::Args;
use llm_run::atomic::AtomicDir;
use llm_tensor::Precision;
use llm_tensor::burn::tensor::Device;
use llm_tensor::weights::SaveOptions;
use llm_vision::{ImageProcessor, Vlm, checkpoint};
use std::path::PathBuf;

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
    /// Largest file in bytes.
    #[arg(long, default_value_t = SaveOptions::default().max_shard_bytes)]
    max_shard_bytes: usize,
}

impl Convert {
    pub fn run(&self) -> Result<()> {
        ensure!(!self.out.exists(), "{} exists already; choose a new folder", self.out.display());
        let (device, options) = (Device::flex(), SaveOptions { precision: self.precision, max_shard_bytes: self.max_shard_bytes });
        let (_, kind) = config(&self.model)?;
        let folder = AtomicDir::create(&self.out)?;
        let parameters = match kind.as_str() {
            "clip_vision_model" | "siglip_vision_model" => {
                let tower = checkpoint::load_tower(&self.model, &device, Precision::F32)?;
                checkpoint::save_tower(folder.path(), &tower, options)?;
                tower.num_parameters()
            }
            "clip" | "siglip" => {
                let pair = checkpoint::load_pair(&self.model, &device, Precision::F32)?;
                checkpoint::save_pair(folder.path(), &pair, options)?;
                pair.num_parameters()
            }
            "llava" => {
                let vlm = Vlm::load(&self.model, &device, Precision::F32)?;
                // A folder without preprocessing gets that of its tower.
                let processor = ImageProcessor::load(&self.model).unwrap_or_else(|_| ImageProcessor::for_tower(&vlm.config().vision));
                copy(&COMPANIONS, &self.model, folder.path())?;
                vlm.save(folder.path(), &processor, options)?;
                vlm.num_parameters()
            }
            other => bail!("{}: `model_type` = \"{other}\"; expected {KINDS}", self.model.display()),
        };
        copy(&COMPANIONS, &self.model, folder.path())?;
        folder.commit()?;
        eprintln!("wrote {parameters} parameters in {} to {}", self.precision, self.out.display());
        Ok(())
    }
}
