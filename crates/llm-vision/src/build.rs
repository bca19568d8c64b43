//! From a configuration and a source of values to a tower, a pair or a connector. Names are those of published files.

use crate::config::{VisionConfig, VisionFamily};
use crate::encoder::{Encoder, EncoderLayer, FeedForward, SelfAttention};
use crate::pair_config::{PairConfig, TextConfig};
use crate::text::{TextEmbeddings, TextTower};
use crate::tower::{Embeddings, PoolingAttention, PoolingHead};
use crate::{Pair, VisionTower};
use llm_tensor::Precision;
use llm_tensor::burn::module::Param;
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::nn::{Embedding, Linear, Norm, NormKind, parameter_from};

/// Hands out a parameter's values by name and shape, row-major.
pub(crate) type Source<'a> = &'a mut dyn FnMut(&str, &[usize]) -> Vec<f32>;

pub(crate) struct Builder<'a> {
    values: Source<'a>,
    precision: Precision,
    device: &'a Device,
}

/// Width, width of the feed-forward block, blocks, eps.
struct Sizes {
    d: usize,
    f: usize,
    layers: usize,
    eps: f64,
}

impl<'a> Builder<'a> {
    pub fn new(values: Source<'a>, device: &'a Device) -> Self {
        Self { values, precision: Precision::F32, device }
    }

    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    fn parameter<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Param<Tensor<D>> {
        parameter_from((self.values)(name, &shape), shape, self.precision, self.device)
    }

    pub fn linear(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Linear {
        let weight = self.parameter(&format!("{name}.weight"), [outputs, inputs]);
        Linear { weight: weight.into(), bias: bias.then(|| self.parameter(&format!("{name}.bias"), [outputs])) }
    }

    fn norm(&mut self, name: &str, size: usize, eps: f64) -> Norm {
        let weight = self.parameter(&format!("{name}.weight"), [size]);
        Norm { weight, bias: Some(self.parameter(&format!("{name}.bias"), [size])), kind: NormKind::LayerNorm, eps }
    }

    /// A tower whose names begin with `at`, which ends with a dot unless it is empty.
    pub fn vision(&mut self, at: &str, config: &VisionConfig) -> VisionTower {
        let &VisionConfig { hidden_size: d, num_channels: c, patch_size: p, layer_norm_eps: eps, .. } = config;
        let clip = config.family == VisionFamily::Clip;
        let patches = (self.values)(&format!("{at}embeddings.patch_embedding.weight"), &[d, c, p, p]);
        let patch_embedding = Linear {
            weight: parameter_from(patches, [d, c * p * p], self.precision, self.device).into(),
            bias: (!clip).then(|| self.parameter(&format!("{at}embeddings.patch_embedding.bias"), [d])),
        };
        let embeddings = Embeddings {
            class_embedding: clip.then(|| self.parameter(&format!("{at}embeddings.class_embedding"), [d])),
            patch_embedding,
            position_embedding: Embedding {
                weight: self.parameter(&format!("{at}embeddings.position_embedding.weight"), [config.num_tokens(), d]).into(),
            },
        };
        let sizes = Sizes { d, f: config.intermediate_size, layers: config.num_hidden_layers, eps };
        VisionTower {
            embeddings,
            pre_layrnorm: clip.then(|| self.norm(&format!("{at}pre_layrnorm"), d, eps)),
            encoder: self.encoder(at, &sizes),
            post_layernorm: self.norm(&format!("{at}post_layernorm"), d, eps),
            head: config.vision_use_head.then(|| self.head(&format!("{at}head"), &sizes)),
            config: config.clone(),
        }
    }

    /// A text tower whose names begin with `at`.
    pub fn text(&mut self, at: &str, config: &TextConfig) -> TextTower {
        let &TextConfig { hidden_size: d, layer_norm_eps: eps, .. } = config;
        let sizes = Sizes { d, f: config.intermediate_size, layers: config.num_hidden_layers, eps };
        let mut table = |name: &str, rows: usize| Embedding { weight: self.parameter(&format!("{at}embeddings.{name}.weight"), [rows, d]).into() };
        let embeddings = TextEmbeddings {
            token_embedding: table("token_embedding", config.vocab_size),
            position_embedding: table("position_embedding", config.max_position_embeddings),
        };
        TextTower {
            embeddings,
            encoder: self.encoder(at, &sizes),
            final_layer_norm: self.norm(&format!("{at}final_layer_norm"), d, eps),
            head: (config.family == VisionFamily::Siglip).then(|| self.linear(&format!("{at}head"), config.projection_size, d, true)),
            config: config.clone(),
        }
    }

    /// Both towers and what is beside them.
    pub fn pair(&mut self, config: &PairConfig) -> Pair {
        let clip = config.family() == VisionFamily::Clip;
        let vision_model = self.vision("vision_model.", &config.vision);
        let text_model = self.text("text_model.", &config.text);
        let mut scalar = |name: &str| {
            // A number without dimensions in files of CLIP, a list of one in those of SigLIP.
            let values = (self.values)(name, if clip { &[] } else { &[1] });
            parameter_from(values, [1], self.precision, self.device)
        };
        let logit_scale = scalar("logit_scale");
        let logit_bias = (!clip).then(|| scalar("logit_bias"));
        let (e, v, t) = (config.projection_dim, config.vision.hidden_size, config.text.hidden_size);
        Pair {
            vision_model,
            text_model,
            visual_projection: clip.then(|| self.linear("visual_projection", e, v, false)),
            text_projection: clip.then(|| self.linear("text_projection", e, t, false)),
            logit_scale,
            logit_bias,
            config: config.clone(),
        }
    }

    fn encoder(&mut self, at: &str, sizes: &Sizes) -> Encoder {
        Encoder { layers: (0..sizes.layers).map(|i| self.layer(&format!("{at}encoder.layers.{i}"), sizes)).collect() }
    }

    fn layer(&mut self, at: &str, sizes: &Sizes) -> EncoderLayer {
        let (d, eps) = (sizes.d, sizes.eps);
        EncoderLayer {
            layer_norm1: self.norm(&format!("{at}.layer_norm1"), d, eps),
            self_attn: SelfAttention {
                q_proj: self.linear(&format!("{at}.self_attn.q_proj"), d, d, true),
                k_proj: self.linear(&format!("{at}.self_attn.k_proj"), d, d, true),
                v_proj: self.linear(&format!("{at}.self_attn.v_proj"), d, d, true),
                out_proj: self.linear(&format!("{at}.self_attn.out_proj"), d, d, true),
            },
            layer_norm2: self.norm(&format!("{at}.layer_norm2"), d, eps),
            mlp: self.feed_forward(&format!("{at}.mlp"), sizes),
        }
    }

    fn feed_forward(&mut self, at: &str, &Sizes { d, f, .. }: &Sizes) -> FeedForward {
        FeedForward { fc1: self.linear(&format!("{at}.fc1"), f, d, true), fc2: self.linear(&format!("{at}.fc2"), d, f, true) }
    }

    fn head(&mut self, at: &str, sizes: &Sizes) -> PoolingHead {
        let d = sizes.d;
        PoolingHead {
            probe: self.parameter(&format!("{at}.probe"), [1, 1, d]),
            attention: PoolingAttention {
                in_proj_weight: self.parameter(&format!("{at}.attention.in_proj_weight"), [3 * d, d]),
                in_proj_bias: self.parameter(&format!("{at}.attention.in_proj_bias"), [3 * d]),
                out_proj: self.linear(&format!("{at}.attention.out_proj"), d, d, true),
            },
            layernorm: self.norm(&format!("{at}.layernorm"), d, sizes.eps),
            mlp: self.feed_forward(&format!("{at}.mlp"), sizes),
        }
    }
}
