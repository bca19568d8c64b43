//! Two towers whose features lie in one space: CLIP (Radford et al., 2021) and SigLIP (Zhai et al., 2023).
//!
//! CLIP projects the pooled vectors of both towers without bias; SigLIP's towers end in the same width. Field names are the tensor names
//! of checkpoints.
//!
//! Legend: B images, T texts, C colours, D hidden, E features.

use crate::build::Builder;
use crate::contrastive;
use crate::pair_config::PairConfig;
use crate::text::{TextBatch, TextTower};
use crate::{Error, PositionInit, Result, VisionTower, init};
use llm_run::Seed;
use llm_tensor::burn::module::{Module, Param};
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::nn::Linear;
use llm_tensor::params;

/// A vision tower, a text tower, and what compares them.
#[derive(Module, Debug)]
pub struct Pair {
    /// The vision tower.
    pub vision_model: VisionTower,
    /// The text tower.
    pub text_model: TextTower,
    /// CLIP: `[E, D]`.
    pub visual_projection: Option<Linear>,
    /// CLIP: `[E, D]`.
    pub text_projection: Option<Linear>,
    /// `[1]`: logarithm of the factor on cosines.
    pub logit_scale: Param<Tensor<1>>,
    /// SigLIP: `[1]`, added to logits.
    pub logit_bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    pub(crate) config: PairConfig,
}

impl Pair {
    /// Fresh random weights, spread as transformers does it for the family: a function of the seed and each parameter's name. The scale and
    /// bias of the logits are those of the configuration, and the vision tower's positions may be others.
    pub fn init(config: &PairConfig, positions: PositionInit, seed: Seed, device: &Device) -> Result<Self> {
        config.validate()?;
        let mut values = init::pair(config, positions, seed);
        Ok(Builder::new(&mut values, device).pair(config))
    }

    /// Sizes and choices.
    pub fn config(&self) -> &PairConfig {
        &self.config
    }

    /// Where the weights live.
    pub fn device(&self) -> Device {
        self.vision_model.device()
    }

    /// Learned numbers.
    pub fn num_parameters(&self) -> usize {
        Module::num_params(self)
    }

    /// The same weights, tracked for training.
    pub fn tracked(self) -> Self {
        params::track(self)
    }

    /// The same weights without tracking: for evaluation. Shares memory.
    pub fn untracked(&self) -> Self {
        self.valid()
    }

    /// `pixel_values [B, C, image_size, image_size]` -> `[B, E]`, not normalised.
    pub fn image_features(&self, pixel_values: Tensor<4>) -> Result<Tensor<2>> {
        let pooled_BD = self.vision_model.forward(pixel_values)?.pooler_output;
        let pooled_BD = pooled_BD.ok_or_else(|| Error::Config("this vision tower has no pooling head, so an image has no features".into()))?;
        Ok(project(&self.visual_projection, pooled_BD))
    }

    /// Texts -> `[T, E]`, not normalised.
    pub fn text_features(&self, batch: &TextBatch) -> Result<Tensor<2>> {
        Ok(project(&self.text_projection, self.text_model.forward(batch)?.pooler_output))
    }

    /// How well each image goes with each text, from features: `[B, E]`, `[T, E]` -> `[B, T]`.
    pub fn logits_per_image(&self, image_BE: Tensor<2>, text_TE: Tensor<2>) -> Tensor<2> {
        let bias = self.logit_bias.as_ref().map(Param::val);
        contrastive::logits(image_BE, text_TE, self.logit_scale.val(), bias)
    }

    /// The loss that this kind of pair is trained with, `[1]`; row `i` of both belongs together.
    pub fn loss(&self, image_BE: Tensor<2>, text_BE: Tensor<2>) -> Tensor<1> {
        match &self.logit_bias {
            Some(bias) => contrastive::siglip_loss(image_BE, text_BE, self.logit_scale.val(), bias.val()),
            None => contrastive::clip_loss(image_BE, text_BE, self.logit_scale.val()),
        }
    }
}

fn project(projection: &Option<Linear>, x_BD: Tensor<2>) -> Tensor<2> {
    match projection {
        Some(projection) => projection.forward(x_BD),
        None => x_BD,
    }
}
