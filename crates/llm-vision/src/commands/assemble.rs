//! `llm-vision assemble`: a language model and a tower become one folder, with a fresh connector between them.

use super::{COMPANIONS, copy};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use llm_arch::hf;
use llm_run::Seed;
use llm_run::atomic::AtomicDir;
use llm_tensor::Precision;
use llm_tensor::burn::tensor::Device;
use llm_tensor::weights::SaveOptions;
use llm_tokenizer::Tokenizer;
use llm_vision::{ConnectorKind, ImageProcessor, SelectStrategy, VisionFamily, Vlm, VlmOptions, checkpoint};
use std::path::PathBuf;

/// Arguments of `assemble`.
#[derive(Debug, Args)]
pub struct Assemble {
    /// Folder of the language model.
    #[arg(long)]
    text: PathBuf,
    /// Folder of a vision tower, or of a CLIP or SigLIP pair.
    #[arg(long)]
    tower: PathBuf,
    /// Folder to write; must not exist.
    #[arg(long)]
    out: PathBuf,
    /// The placeholder for images: a control token of the tokenizer, or an id.
    #[arg(long)]
    image_token: String,
    /// What lies between the two.
    #[arg(long, value_enum, default_value_t = Connector::Mlp)]
    connector: Connector,
    /// Hidden states of the tower that are features; negative numbers count from the last.
    #[arg(long, value_delimiter = ',', default_values_t = [-2i64], allow_negative_numbers = true)]
    feature_layers: Vec<i64>,
    /// Patches along a side of the squares that become one image token; 1 is LLaVA.
    #[arg(long, default_value_t = 1)]
    spatial_merge_size: usize,
    /// Seed of the connector's weights.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Number format to write: float32, bfloat16, float16.
    #[arg(long, default_value = "float32")]
    precision: Precision,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Connector {
    /// One layer.
    Linear,
    /// Two layers with a gelu between.
    Mlp,
}

impl Assemble {
    pub fn run(&self) -> Result<()> {
        ensure!(!self.out.exists(), "{} exists already; choose a new folder", self.out.display());
        let device = Device::flex();
        let tower = checkpoint::load_tower(&self.tower, &device, Precision::F32)?;
        let decoder = hf::load(&self.text, &device)?;
        let select = match tower.config().family {
            VisionFamily::Clip => SelectStrategy::Default,
            VisionFamily::Siglip => SelectStrategy::Full,
        };
        let options = VlmOptions {
            image_token_id: self.image_token()?,
            connector: match self.connector {
                Connector::Linear => ConnectorKind::Linear,
                Connector::Mlp => ConnectorKind::Mlp,
            },
            vision_feature_layer: self.feature_layers.clone(),
            vision_feature_select_strategy: select,
            spatial_merge_size: self.spatial_merge_size,
            ..VlmOptions::default()
        };
        let own = ["preprocessor_config.json", "processor_config.json"].iter().any(|name| self.tower.join(name).exists());
        let processor = if own { ImageProcessor::load(&self.tower)? } else { ImageProcessor::for_tower(tower.config()) };
        let vlm = Vlm::from_parts(decoder, tower, &options, Seed(self.seed))?;
        let folder = AtomicDir::create(&self.out)?;
        vlm.save(folder.path(), &processor, SaveOptions { precision: self.precision, ..SaveOptions::default() })?;
        let texts: Vec<&str> = COMPANIONS.into_iter().filter(|name| !name.contains("processor_config")).collect();
        copy(&texts, &self.text, folder.path())?;
        folder.commit()?;
        let (parameters, tokens) = (vlm.num_parameters(), vlm.config().tokens_per_image());
        eprintln!("wrote {parameters} parameters to {}; an image takes {tokens} tokens", self.out.display());
        Ok(())
    }

    fn image_token(&self) -> Result<u32> {
        if let Ok(id) = self.image_token.parse() {
            return Ok(id);
        }
        let tokenizer =
            Tokenizer::load(&self.text).context("--image-token is no number, and the language model has no tokenizer to look it up in")?;
        match tokenizer.special_id(&self.image_token) {
            Some(id) => Ok(id),
            None => bail!("`{}` is no control token of {}; give one, or an id that texts never use", self.image_token, self.text.display()),
        }
    }
}
