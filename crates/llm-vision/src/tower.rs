//! The vision transformer (Dosovitskiy et al., 2021) as CLIP and SigLIP have it, one forward pass for both.
//!
//! Patches are unfolded and projected: a convolution whose stride is its kernel size is a linear layer. Every token sees every other.
//!
//! Field names are the tensor names of checkpoints, `pre_layrnorm` included.
//!
//! Legend: B images, C colours, P patches, T tokens of an image, N = B*T, D hidden, H heads, K head size.

use crate::build::Builder;
use crate::config::VisionConfig;
use crate::encoder::{Encoder, FeedForward, Rows, Sight, attend, beside};
use crate::{Error, Result, init};
use llm_run::Seed;
use llm_tensor::burn::module::{Module, Param};
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::nn::{Embedding, Linear, Norm};
use llm_tensor::{ops, params};

/// A tower.
#[derive(Module, Debug)]
pub struct VisionTower {
    /// Patches, class token, positions.
    pub embeddings: Embeddings,
    /// CLIP: before the first block.
    pub pre_layrnorm: Option<Norm>,
    /// Blocks.
    pub encoder: Encoder,
    /// CLIP: of the pooled class token. SigLIP: of all tokens.
    pub post_layernorm: Norm,
    /// SigLIP: attention pooling.
    pub head: Option<PoolingHead>,
    #[module(skip)]
    pub(crate) config: VisionConfig,
}

/// From pixels to tokens.
#[derive(Module, Debug)]
pub struct Embeddings {
    /// `[D]`.
    pub class_embedding: Option<Param<Tensor<1>>>,
    /// `[D, C * patch * patch]`; checkpoints say `[D, C, patch, patch]`.
    pub patch_embedding: Linear,
    /// `[T, D]`.
    pub position_embedding: Embedding,
}

/// SigLIP's pooling: a learned query attends to all tokens (Zhai et al., 2022).
#[derive(Module, Debug)]
pub struct PoolingHead {
    /// `[1, 1, D]`: the query.
    pub probe: Param<Tensor<3>>,
    /// Attention with fused projections.
    pub attention: PoolingAttention,
    /// Before the feed-forward block.
    pub layernorm: Norm,
    /// Feed-forward.
    pub mlp: FeedForward,
}

/// Multi-head attention in PyTorch's layout.
#[derive(Module, Debug)]
pub struct PoolingAttention {
    /// `[3 D, D]`: queries, keys, values.
    pub in_proj_weight: Param<Tensor<2>>,
    /// `[3 D]`.
    pub in_proj_bias: Param<Tensor<1>>,
    /// `[D, D]`.
    pub out_proj: Linear,
}

/// What a tower makes of images.
#[derive(Debug, Clone)]
pub struct VisionOutput {
    /// `[B, T, D]` each: 0 is what enters the first block, `i` the output of block `i - 1`.
    pub hidden_states: Vec<Tensor<3>>,
    /// `[B, T, D]`. CLIP: the last hidden state. SigLIP: after the last norm.
    pub last_hidden_state: Tensor<3>,
    /// `[B, D]`; none for SigLIP without head.
    pub pooler_output: Option<Tensor<2>>,
}

impl VisionTower {
    /// Fresh random weights, spread as transformers does it for the family: a function of the seed and each parameter's name.
    pub fn init(config: &VisionConfig, seed: Seed, device: &Device) -> Result<Self> {
        config.validate()?;
        let mut values = init::vision(config, seed);
        Ok(Builder::new(&mut values, device).vision("", config))
    }

    /// The same weights, tracked for training.
    pub fn tracked(self) -> Self {
        params::track(self)
    }

    /// The same weights without tracking. Shares memory.
    pub fn untracked(&self) -> Self {
        self.valid()
    }

    /// Learned numbers.
    pub fn num_parameters(&self) -> usize {
        Module::num_params(self)
    }

    /// Sizes and choices.
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// Where the weights live.
    pub fn device(&self) -> Device {
        self.post_layernorm.weight.val().device()
    }

    /// `pixel_values [B, C, image_size, image_size]`, normalised as the tower's preprocessing says.
    pub fn forward(&self, pixel_values: Tensor<4>) -> Result<VisionOutput> {
        let hidden_states = self.hidden_states(pixel_values, self.config.num_hidden_layers)?;
        let last = hidden_states[hidden_states.len() - 1].clone();
        let [b, t, d] = last.dims();
        if self.config.class_tokens() == 1 {
            let class_BD = last.clone().slice([0..b, 0..1, 0..d]).reshape([b, d]);
            return Ok(VisionOutput { hidden_states, last_hidden_state: last, pooler_output: Some(self.post_layernorm.forward(class_BD)) });
        }
        let last_hidden_state = self.post_layernorm.forward(last.reshape([b * t, d])).reshape([b, t, d]);
        let pooler_output = self.head.as_ref().map(|head| head.forward(last_hidden_state.clone(), &self.config));
        Ok(VisionOutput { hidden_states, last_hidden_state, pooler_output })
    }

    /// The first `blocks + 1` hidden states: what a model that takes features from an inner layer needs.
    pub fn hidden_states(&self, pixel_values: Tensor<4>, blocks: usize) -> Result<Vec<Tensor<3>>> {
        let (b, t, d) = (pixel_values.dims()[0], self.config.num_tokens(), self.config.hidden_size);
        let x_ND = self.embed(pixel_values)?;
        let rows = Rows { batch: b, heads: self.config.num_attention_heads, act: self.config.hidden_act, sight: Sight::All };
        let states = std::iter::once(x_ND.clone()).chain(self.encoder.states(x_ND, blocks, &rows));
        Ok(states.map(|x_ND| x_ND.reshape([b, t, d])).collect())
    }

    fn embed(&self, pixel_values: Tensor<4>) -> Result<Tensor<2>> {
        let VisionConfig { num_channels: c, image_size, patch_size: p, hidden_size: d, .. } = self.config;
        let [b, channels, height, width] = pixel_values.dims();
        if [channels, height, width] != [c, image_size, image_size] || b == 0 {
            let message = format!("pixel_values are {:?}; this tower takes [B, {c}, {image_size}, {image_size}]", pixel_values.dims());
            return Err(Error::Image(message + ", one or more images"));
        }
        let (g, patches, t) = (self.config.grid(), self.config.num_patches(), self.config.num_tokens());
        let weight = self.embeddings.patch_embedding.weight.val();
        let whole = beside(pixel_values, &weight.device()).cast(weight.dtype()).slice([0..b, 0..c, 0..g * p, 0..g * p]);
        let unfolded = whole.reshape([b, c, g, p, g, p]).permute([0, 2, 4, 1, 3, 5]).reshape([b * patches, c * p * p]);
        let mut x_BTD = self.embeddings.patch_embedding.forward(unfolded).reshape([b, patches, d]);
        if let Some(class) = &self.embeddings.class_embedding {
            x_BTD = Tensor::cat(vec![class.val().reshape([1, 1, d]).expand([b, 1, d]), x_BTD], 1);
        }
        let x_ND = (x_BTD + self.embeddings.position_embedding.weight.val().unsqueeze::<3>()).reshape([b * t, d]);
        Ok(match &self.pre_layrnorm {
            Some(norm) => norm.forward(x_ND),
            None => x_ND,
        })
    }
}

impl PoolingHead {
    fn forward(&self, x_BTD: Tensor<3>, config: &VisionConfig) -> Tensor<2> {
        let [b, t, d] = x_BTD.dims();
        let x_ND = x_BTD.reshape([b * t, d]);
        let (weight, bias) = (self.attention.in_proj_weight.val(), self.attention.in_proj_bias.val());
        let project = |x: Tensor<2>, part: usize| {
            let rows = part * d..(part + 1) * d;
            ops::linear(x, weight.clone().slice([rows.clone(), 0..d])) + bias.clone().slice([rows]).unsqueeze::<2>()
        };
        let q_B1D = project(self.probe.val().reshape([1, d]), 0).reshape([1, 1, d]).expand([b, 1, d]);
        let k_BTD = project(x_ND.clone(), 1).reshape([b, t, d]);
        let v_BTD = project(x_ND, 2).reshape([b, t, d]);
        let pooled_BD = self.attention.out_proj.forward(attend(q_B1D, k_BTD, v_BTD, config.num_attention_heads, None).reshape([b, d]));
        pooled_BD.clone() + self.mlp.forward(self.layernorm.forward(pooled_BD), config.hidden_act)
    }
}
