//! Bytes of weights, gradients, optimiser, activations, keys and values.
//!
//! **Activations** are what a forward pass keeps for the backward pass. Our operations keep their inputs and nothing else (`llm_tensor::ops`),
//! so attention keeps q, k and v but no scores, and a tensor that several operations read is kept once. Per token and layer, with D
//! `hidden_size`, Q = heads x head size, G = key heads x head size, U and V the same of the values, F `intermediate_size`:
//!
//! | part | numbers kept |
//! |---|---|
//! | stream and norms before two branches | 4 D (input and output of each norm); 3 D parallel, 2 D with one norm, 6 D sandwich |
//! | attention | rotated Q and G, V values, U result (a rotation keeps nothing) |
//! | norms of q and k | Q + G more |
//! | latent attention | inputs and outputs of both compressions, 2 Q and Q keys, the projection to keys and values, U result |
//! | gated feed-forward | 3 F (gate, up, their product); without a gate 2 F |
//! | experts | k (3 D + 3 F) for the k chosen, 3 F of the shared expert, 3 of each router score |
//!
//! Once: 3 D for the final norm and the gradient of its output, and one block of logits; all logits are never stored. Backward buffers
//! live for one operation and are part of the reserve that [`super::Device::usable`] leaves.
//!
//! **Optimiser**: f32 throughout. Mixed precision (Micikevicius et al. 2018) keeps bf16 weights and gradients beside an f32 master copy, 16
//! bytes a parameter with AdamW's two moments (Rajbhandari et al. 2020, section 3.1).

use crate::budget::Parts;
use crate::config::{Layout, MlaConfig, QkNorm};
use crate::parameters::{Role, parameters};
use crate::{DecoderConfig, KvDtype, KvPool};
use serde::Serialize;

/// Floats of logits that exist at a time: the scratch of the fused output projection and loss.
const LOGIT_SCRATCH: usize = 1 << 21;

/// Who turns gradients into steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// Two f32 moments (Loshchilov & Hutter 2019).
    AdamW,
    /// The moments in 8 bits with an f32 scale per 256 (Dettmers et al. 2022).
    #[serde(rename = "adamw_8bit")]
    AdamW8bit,
    /// One f32 momentum for matrices, AdamW for tables and vectors (Jordan et al. 2024).
    Muon,
    /// A second moment per row and column of a matrix instead of one an element (Shazeer & Stern 2018).
    Adafactor,
    /// One f32 momentum (Chen et al. 2023).
    Lion,
    /// One f32 momentum.
    Sgd,
}

impl Optimizer {
    /// Bytes of state, without the master copy.
    fn bytes(self, config: &DecoderConfig, parts: &Parts) -> f64 {
        let all = parts.total as f64;
        match self {
            Self::AdamW => 8.0 * all,
            Self::AdamW8bit => 2.0 * (1.0 + 4.0 / 256.0) * all,
            Self::Muon => {
                let others = (parts.embedding + parts.norms) as f64;
                4.0 * (all - others) + 8.0 * others
            }
            Self::Adafactor => {
                let trained = parameters(config).into_iter().filter(|p| p.role != Role::Buffer);
                let numbers = trained.map(|p| match p.shape.last_chunk::<2>() {
                    Some([rows, columns]) => p.size() / columns + p.size() / rows,
                    None => p.size(),
                });
                4.0 * numbers.sum::<usize>() as f64
            }
            Self::Lion | Self::Sgd => 4.0 * all,
        }
    }
}

/// Number format of weights that are only read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// 4 bytes.
    F32,
    /// 2 bytes.
    Bf16,
    /// 1 byte and an f16 scale per 32 (GGUF's `Q8_0`); tables and norms stay in bf16.
    Int8,
    /// Half a byte and an f16 scale per 32 (`Q4_0`); tables and norms stay in bf16.
    Int4,
}

impl Storage {
    fn bytes(self, parts: &Parts) -> f64 {
        let kept = (parts.embedding + parts.norms) as f64;
        let matrices = parts.total as f64 - kept;
        match self {
            Self::F32 => 4.0 * parts.total as f64,
            Self::Bf16 => 2.0 * parts.total as f64,
            Self::Int8 => 2.0 * kept + 34.0 / 32.0 * matrices,
            Self::Int4 => 2.0 * kept + 18.0 / 32.0 * matrices,
        }
    }
}

/// What the memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Everything in f32.
    TrainF32(Optimizer),
    /// bf16 weights, gradients and activations, f32 master weights and moments.
    TrainBf16(Optimizer),
    /// Generation, by default with a bf16 cache (f32 weights: an f32 cache).
    Serve(Storage),
}

/// Bytes, part by part.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Memory {
    /// Parameters in the format they are multiplied in.
    pub weights: f64,
    /// Gradients.
    pub gradients: f64,
    /// Moments, and the master copy where weights are bf16.
    pub optimizer: f64,
    /// What the forward pass of one micro-batch keeps.
    pub activations: f64,
    /// Keys and values of `batch` texts of `context` tokens.
    pub kv_cache: f64,
}

impl Memory {
    /// `batch` rows of `context` tokens: a micro-batch when training, texts under way when serving.
    pub fn of(config: &DecoderConfig, mode: Mode, batch: usize, context: usize) -> Self {
        Self::with_cache(config, mode, batch, context, None)
    }

    /// [`Memory::of`] with the cache of a server in a chosen format.
    pub fn with_cache(config: &DecoderConfig, mode: Mode, batch: usize, context: usize, cache: Option<KvDtype>) -> Self {
        let parts = Parts::of(config);
        let n = parts.total as f64;
        match mode {
            Mode::TrainF32(optimizer) => Self {
                weights: 4.0 * n,
                gradients: 4.0 * n,
                optimizer: optimizer.bytes(config, &parts),
                activations: activation_bytes(config, batch * context, 4),
                kv_cache: 0.0,
            },
            Mode::TrainBf16(optimizer) => Self {
                weights: 2.0 * n,
                gradients: 2.0 * n,
                optimizer: 4.0 * n + optimizer.bytes(config, &parts),
                activations: activation_bytes(config, batch * context, 2),
                kv_cache: 0.0,
            },
            Mode::Serve(storage) => {
                let usual = if storage == Storage::F32 { KvDtype::F32 } else { KvDtype::Bf16 };
                let kv_cache = batch as f64 * kv_bytes(config, context, cache.unwrap_or(usual)) as f64;
                Self { weights: storage.bytes(&parts), kv_cache, ..Self::default() }
            }
        }
    }

    /// All of it.
    pub fn total(&self) -> f64 {
        self.sharded() + self.activations
    }

    /// What many devices can share: everything but the activations of each one's own micro-batch.
    pub fn sharded(&self) -> f64 {
        self.weights + self.gradients + self.optimizer + self.kv_cache
    }
}

/// Bytes that one token adds to the cache while no window is full.
pub fn kv_bytes_per_token(config: &DecoderConfig, dtype: KvDtype) -> usize {
    config.num_hidden_layers * KvPool::token_bytes(config, dtype)
}

/// Bytes of the cache of one text: a sliding layer holds no more than its window.
pub fn kv_bytes(config: &DecoderConfig, context: usize, dtype: KvDtype) -> usize {
    let tokens: usize = (0..config.num_hidden_layers).map(|i| config.window(i).map_or(context, |w| w.min(context))).sum();
    tokens * KvPool::token_bytes(config, dtype)
}

/// Bytes that the forward pass over `tokens` tokens keeps, `element` bytes a number; see the table above.
pub fn activation_bytes(config: &DecoderConfig, tokens: usize, element: usize) -> f64 {
    let layers: usize = (0..config.num_hidden_layers).map(|i| kept_by_layer(config, i)).sum();
    let head = 3 * config.hidden_size;
    let logits = LOGIT_SCRATCH.min(tokens.saturating_mul(config.vocab_size));
    tokens as f64 * (layers + head) as f64 * element as f64 + 4.0 * logits as f64
}

/// Numbers per token that one layer keeps for its backward pass; see the table above.
pub fn kept_by_layer(config: &DecoderConfig, layer: usize) -> usize {
    let d = config.hidden_size;
    let norms = match config.layout {
        Layout::PreNorm | Layout::PostNorm => 4 * d,
        Layout::Sandwich => 6 * d,
        Layout::Parallel => 3 * d,
        Layout::ParallelShared => 2 * d,
    };
    norms + kept_by_attention(config) + kept_by_feed_forward(config, layer)
}

fn kept_by_attention(config: &DecoderConfig) -> usize {
    let (h, g) = (config.num_attention_heads, config.num_key_value_heads);
    let (q, u) = (h * config.head_size(), h * config.value_head_size());
    if let Some(&MlaConfig { q_lora_rank, kv_lora_rank, qk_nope_head_dim: p, qk_rope_head_dim: r, v_head_dim }) = config.mla.as_ref() {
        // A part of a projection that is kept keeps the whole: of keys and values the values.
        let latent = 2 * q_lora_rank.unwrap_or(0) + 2 * kv_lora_rank + r;
        return latent + 2 * q + h * (p + v_head_dim) + u;
    }
    let (k, v) = (g * config.head_size(), g * config.value_head_size());
    let before_norm = if config.qk_norm == QkNorm::None { 0 } else { q + k };
    before_norm + q + k + v + u
}

fn kept_by_feed_forward(config: &DecoderConfig, layer: usize) -> usize {
    let d = config.hidden_size;
    match &config.moe {
        Some(moe) if config.is_moe(layer) => {
            moe.num_experts_per_tok * 3 * (d + moe.moe_intermediate_size) + 3 * moe.shared_expert_intermediate_size + 3 * moe.num_experts
        }
        _ if config.gated_mlp => 3 * config.intermediate_size,
        _ => 2 * config.intermediate_size,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets::preset;

    /// If this fails, a server would be told a wrong number of texts that fit.
    #[test]
    fn cache_bytes_are_the_published_ones() {
        let bytes = |name: &str| kv_bytes_per_token(&preset(name).unwrap(), KvDtype::Bf16);
        assert_eq!(bytes("llama-3-8b"), 131_072);
        assert_eq!(bytes("gpt2"), 2 * 12 * 768 * 2);
        assert_eq!(bytes("deepseek-v3"), 61 * 576 * 2, "576 numbers a layer whatever the number of heads");
        assert_eq!(bytes("falcon-7b"), 32 * 2 * 64 * 2, "one key head");
        let int8 = kv_bytes_per_token(&preset("llama-3-8b").unwrap(), KvDtype::Int8);
        assert_eq!(int8, 32 * 2 * 8 * (128 + 4), "a scale for each head");
    }

    #[test]
    fn sliding_layers_stop_growing_at_their_window() {
        let mistral = preset("mistral-7b").unwrap();
        assert_eq!(kv_bytes(&mistral, 100, KvDtype::Bf16), 100 * 131_072);
        assert_eq!(kv_bytes(&mistral, 32_768, KvDtype::Bf16), 4096 * 131_072);
        let gemma = preset("gemma-2-2b").unwrap();
        let layer = 2 * 4 * 256 * 2;
        assert_eq!(kv_bytes(&gemma, 8192, KvDtype::Bf16), 13 * (8192 + 4096) * layer, "every other layer slides");
    }

    #[test]
    fn sixteen_bytes_a_parameter() {
        let config = preset("llama-3-8b").unwrap();
        let n = 8_030_261_248.0;
        for mode in [Mode::TrainF32(Optimizer::AdamW), Mode::TrainBf16(Optimizer::AdamW)] {
            assert_eq!(Memory::of(&config, mode, 1, 1).sharded(), 16.0 * n);
        }
        let train = |o| Memory::of(&config, Mode::TrainBf16(o), 1, 1).optimizer / n;
        assert!(train(Optimizer::AdamW8bit) < 6.1 && train(Optimizer::Sgd) == 8.0);
        assert!(train(Optimizer::Muon) > 8.0 && train(Optimizer::Muon) < 8.6);
        assert!(train(Optimizer::Adafactor) > 4.0 && train(Optimizer::Adafactor) < 4.01 && train(Optimizer::Lion) == 8.0);
        let serve = |s| Memory::of(&config, Mode::Serve(s), 1, 1).weights / n;
        assert!(serve(Storage::Bf16) == 2.0 && serve(Storage::Int8) < 1.2 && serve(Storage::Int4) < 0.76);
    }

    #[test]
    fn activations_are_linear_in_tokens_and_halve_in_bf16() {
        let config = preset("llama-3.2-1b").unwrap();
        let bytes = |tokens, element| activation_bytes(&config, tokens, element);
        let per_token = bytes(2048, 4) - bytes(1024, 4);
        assert!((bytes(4096, 4) - bytes(2048, 4) - 2.0 * per_token).abs() < 1.0);
        assert!((bytes(2048, 4) - bytes(1024, 4) - 2.0 * (bytes(2048, 2) - bytes(1024, 2))).abs() < 1.0);
    }
}
