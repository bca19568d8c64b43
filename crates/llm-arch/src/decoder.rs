//! The decoder: pre-norm blocks of grouped-query attention with rotary positions and a SwiGLU feed-forward.
//!
//! Field names spell the checkpoint's tensor names, so a parameter's path *is* its name in `model.safetensors`:
//! `model.layers.0.self_attn.q_proj.weight`. There is one forward pass; where keys and values come from (the same packed
//! batch, or a paged cache) is the only thing that differs between training and generation.
//!
//! Legend: N tokens, D hidden, F feed-forward, H query heads, G key/value heads, K head size, V vocabulary.

use crate::cache::{CachedBatch, KvPool};
use crate::{DecoderConfig, Result};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use llm_run::Seed;
use llm_tensor::burn;
use llm_tensor::host;
use llm_tensor::nn::{Embedding, Linear, RmsNorm};
use llm_tensor::ops::{self, AttentionSpan, Indices, RopeTable};

/// A packed batch of token rows.
#[derive(Debug, Clone)]
pub struct PackedBatch {
    /// `[B * T]` ids.
    pub ids: Indices,
    /// `[B * T]` positions, restarting with each document.
    pub positions: Indices,
    /// Who sees whom.
    pub span: AttentionSpan,
}

impl PackedBatch {
    /// Rows of equal length; `starts[b]` are the offsets at which documents begin in row `b`.
    pub fn documents(ids: Vec<u32>, starts: &[&[u32]], length: usize) -> Self {
        let span = AttentionSpan::documents(starts, length);
        Self { ids: ids.into(), positions: span.positions(), span }
    }

    /// One sequence.
    pub fn sequence(ids: &[u32]) -> Self {
        Self::documents(ids.to_vec(), &[&[0]], ids.len())
    }
}

/// A decoder-only language model.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Everything below the output projection.
    pub model: Trunk,
    /// Output projection; absent when tied to the embedding.
    pub lm_head: Option<Linear>,
    #[module(skip)]
    config: DecoderConfig,
    #[module(skip)]
    rope: RopeTable,
}

/// Embedding, blocks, final norm.
#[derive(Module, Debug)]
pub struct Trunk {
    /// `[V, D]`.
    pub embed_tokens: Embedding,
    /// Blocks.
    pub layers: Vec<Block>,
    /// Final norm.
    pub norm: RmsNorm,
}

/// One block.
#[derive(Module, Debug)]
pub struct Block {
    /// Norm before attention.
    pub input_layernorm: RmsNorm,
    /// Attention.
    pub self_attn: Attention,
    /// Norm before the feed-forward.
    pub post_attention_layernorm: RmsNorm,
    /// Feed-forward.
    pub mlp: Mlp,
}

/// Grouped-query attention.
#[derive(Module, Debug)]
pub struct Attention {
    /// `[H*K, D]`.
    pub q_proj: Linear,
    /// `[G*K, D]`.
    pub k_proj: Linear,
    /// `[G*K, D]`.
    pub v_proj: Linear,
    /// `[D, H*K]`.
    pub o_proj: Linear,
    /// Per-head norm of queries.
    pub q_norm: Option<RmsNorm>,
    /// Per-head norm of keys.
    pub k_norm: Option<RmsNorm>,
}

/// SwiGLU feed-forward.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[F, D]`.
    pub gate_proj: Linear,
    /// `[F, D]`.
    pub up_proj: Linear,
    /// `[D, F]`.
    pub down_proj: Linear,
}

/// Where a block finds keys and values.
enum Context<'a, 'p> {
    Packed(&'a PackedBatch),
    Cached(&'a CachedBatch<'p>, &'a mut KvPool),
}

/// Standard deviation of fresh weights; projections back into the residual stream get `/ sqrt(2 * layers)` (GPT-2, section 2.3).
const INITIAL_STD: f64 = 0.02;

impl Decoder {
    /// Fresh random weights: a function of the seed and each parameter's name.
    pub fn new(config: &DecoderConfig, seed: Seed, device: &Device) -> Result<Self> {
        config.validate()?;
        let (d, f, k) = (config.hidden_size, config.intermediate_size, config.head_size());
        let (q, kv) = (config.num_attention_heads * k, config.num_key_value_heads * k);
        let residual = INITIAL_STD / (2.0 * config.num_hidden_layers as f64).sqrt();
        let norm = |size: usize| RmsNorm::new(size, config.rms_norm_eps, device);
        let layers = (0..config.num_hidden_layers)
            .map(|i| {
                let linear = |name: &str, inputs, outputs, bias, std| {
                    Linear::new(inputs, outputs, bias, std, seed.stream(&format!("layers.{i}.{name}")), device)
                };
                Block {
                    input_layernorm: norm(d),
                    self_attn: Attention {
                        q_proj: linear("q_proj", d, q, config.qkv_bias, INITIAL_STD),
                        k_proj: linear("k_proj", d, kv, config.qkv_bias, INITIAL_STD),
                        v_proj: linear("v_proj", d, kv, config.qkv_bias, INITIAL_STD),
                        o_proj: linear("o_proj", q, d, config.output_bias, residual),
                        q_norm: config.qk_norm.then(|| norm(k)),
                        k_norm: config.qk_norm.then(|| norm(k)),
                    },
                    post_attention_layernorm: norm(d),
                    mlp: Mlp {
                        gate_proj: linear("gate_proj", d, f, config.mlp_bias, INITIAL_STD),
                        up_proj: linear("up_proj", d, f, config.mlp_bias, INITIAL_STD),
                        down_proj: linear("down_proj", f, d, config.mlp_bias, residual),
                    },
                }
            })
            .collect();
        Ok(Self {
            model: Trunk {
                embed_tokens: Embedding::new(config.vocab_size, d, INITIAL_STD, seed.stream("embed_tokens"), device),
                layers,
                norm: norm(d),
            },
            lm_head: (!config.tie_word_embeddings).then(|| Linear::new(d, config.vocab_size, false, INITIAL_STD, seed.stream("lm_head"), device)),
            config: config.clone(),
            rope: RopeTable::new(&config.inverse_frequencies(), config.max_position_embeddings, 1.0),
        })
    }

    /// Sizes and choices.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Learned numbers, counted from the weights.
    pub fn num_parameters(&self) -> usize {
        Module::num_params(self)
    }

    /// Where the weights live.
    pub fn device(&self) -> Device {
        self.model.norm.weight.val().device()
    }

    /// The same weights, tracked for training.
    pub fn tracked(self) -> Self {
        llm_tensor::params::track(self)
    }

    /// The same weights without tracking: for evaluation and generation. Shares memory.
    pub fn untracked(&self) -> Self {
        self.valid()
    }

    /// Final hidden states `[N, D]` of a packed batch.
    pub fn hidden(&self, batch: &PackedBatch) -> Tensor<2> {
        let span = match self.config.sliding_window {
            Some(window) => PackedBatch { span: batch.span.sliding(window), ..batch.clone() },
            None => batch.clone(),
        };
        self.run(batch.ids.clone(), &batch.positions, Context::Packed(&span))
    }

    /// Final hidden states `[N, D]` of a batch that reads and extends the cache.
    pub fn hidden_cached(&self, batch: &CachedBatch, pool: &mut KvPool) -> Tensor<2> {
        self.run(batch.ids.clone(), &batch.positions, Context::Cached(batch, pool))
    }

    /// Scores over the vocabulary: `[N, D]` -> `[N, V]`.
    pub fn logits(&self, hidden_ND: Tensor<2>) -> Tensor<2> {
        match &self.lm_head {
            Some(head) => head.forward(hidden_ND),
            None => ops::linear(hidden_ND, self.model.embed_tokens.weight.val()),
        }
    }

    /// Negative log-likelihoods `[N]` of the targets, without the `[N, V]` logits.
    pub fn nll(&self, hidden_ND: Tensor<2>, targets: Indices) -> Tensor<1> {
        let weight_VD = self.lm_head.as_ref().map_or_else(|| self.model.embed_tokens.weight.val(), |head| head.weight.val());
        ops::linear_cross_entropy(hidden_ND, weight_VD, targets, None)
    }

    fn run(&self, ids: Indices, positions: &Indices, mut context: Context) -> Tensor<2> {
        let mut x_ND = self.model.embed_tokens.forward(ids);
        for (i, block) in self.model.layers.iter().enumerate() {
            x_ND = x_ND.clone() + self.attend(i, block, block.input_layernorm.forward(x_ND), positions, &mut context);
            x_ND = x_ND.clone() + block.mlp.forward(block.post_attention_layernorm.forward(x_ND));
        }
        self.model.norm.forward(x_ND)
    }

    fn attend(&self, layer: usize, block: &Block, x_ND: Tensor<2>, positions: &Indices, context: &mut Context) -> Tensor<2> {
        let DecoderConfig { num_attention_heads: h, num_key_value_heads: g, .. } = self.config;
        let (n, k) = (x_ND.dims()[0], self.config.head_size());
        let attention = &block.self_attn;
        let heads = |y: Tensor<2>, count: usize, norm: &Option<RmsNorm>| match norm {
            Some(norm) => norm.forward(y.reshape([n * count, k])).reshape([n, count, k]),
            None => y.reshape([n, count, k]),
        };
        let q_NHK = heads(attention.q_proj.forward(x_ND.clone()), h, &attention.q_norm);
        let k_NGK = heads(attention.k_proj.forward(x_ND.clone()), g, &attention.k_norm);
        let v_NGK = heads(attention.v_proj.forward(x_ND), g, &None);
        let q_NHK = ops::rope(q_NHK, positions.clone(), &self.rope);
        let k_NGK = ops::rope(k_NGK, positions.clone(), &self.rope);
        let scale = 1.0 / (k as f32).sqrt();
        let out_NHK = match context {
            Context::Packed(batch) => ops::attention(q_NHK, k_NGK, v_NGK, &batch.span, scale),
            Context::Cached(batch, pool) => {
                let device = q_NHK.device();
                let out = pool.attend(layer, batch, &host::to_vec(q_NHK), &host::to_vec(k_NGK), &host::to_vec(v_NGK), scale);
                host::from_vec(out, [n, h, k], &device)
            }
        };
        attention.o_proj.forward(out_NHK.reshape([n, h * k]))
    }
}

impl Mlp {
    fn forward(&self, x_ND: Tensor<2>) -> Tensor<2> {
        self.down_proj.forward(ops::swiglu(self.gate_proj.forward(x_ND.clone()), self.up_proj.forward(x_ND)))
    }
}
