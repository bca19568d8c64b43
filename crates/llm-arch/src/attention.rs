//! How a block attends: ordinary heads (MHA, GQA, MQA) and multi-head latent attention.
//!
//! Legend: N tokens, D hidden, H query heads, G key/value heads, K size of a query/key head, U size of a value head, L rank of
//! the latent vector, R rotated elements.

use crate::DecoderConfig;
use crate::cache::{CachedBatch, KvPool};
use crate::config::{MlaConfig, Positions, QkNorm};
use crate::decoder::PackedBatch;
use burn::module::Module;
use burn::tensor::Tensor;
use llm_tensor::nn::{Linear, Norm};
use llm_tensor::ops::{self, Indices, RopeTable, Score};
use llm_tensor::{burn, host};

/// Where a block finds keys and values.
pub(crate) enum Context<'a, 'p> {
    /// In the batch itself.
    Packed(&'a PackedBatch),
    /// In a cache, which the batch extends.
    Cached(&'a CachedBatch<'p>, &'a mut KvPool),
}

/// Rotary angles of the tokens of a batch.
pub(crate) struct Place {
    pub table: RopeTable,
    pub rows: Indices,
}

impl Place {
    fn rotate(&self, x_NHK: Tensor<3>) -> Tensor<3> {
        ops::rope(x_NHK, self.rows.clone(), &self.table)
    }
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
    /// Norm of queries, per head or over the projection.
    pub q_norm: Option<Norm>,
    /// Norm of keys.
    pub k_norm: Option<Norm>,
}

fn score(config: &DecoderConfig, layer: usize) -> Score {
    Score { scale: config.attention_scale(layer) as f32, softcap: config.attn_logit_softcapping.map(|c| c as f32) }
}

/// Attention inside a packed batch, with the layer's window.
fn packed(config: &DecoderConfig, layer: usize, q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, batch: &PackedBatch) -> Tensor<3> {
    match config.window(layer) {
        Some(window) => ops::attention(q, k, v, &batch.span.sliding(window), score(config, layer)),
        None => ops::attention(q, k, v, &batch.span, score(config, layer)),
    }
}

impl Attention {
    pub(crate) fn forward(&self, config: &DecoderConfig, layer: usize, x_ND: Tensor<2>, place: &Place, context: &mut Context) -> Tensor<2> {
        let (h, g, k, n) = (config.num_attention_heads, config.num_key_value_heads, config.head_size(), x_ND.dims()[0]);
        let clip = |y: Tensor<2>| match config.clip_qkv {
            Some(limit) => y.clamp(-limit, limit),
            None => y,
        };
        let heads = |y: Tensor<2>, count: usize, norm: &Option<Norm>| match (norm, config.qk_norm) {
            (Some(norm), QkNorm::Head) => norm.forward(y.reshape([n * count, k])).reshape([n, count, k]),
            (Some(norm), _) => clip(norm.forward(y)).reshape([n, count, k]),
            (None, _) => clip(y).reshape([n, count, k]),
        };
        let [q, k_values, v] = Linear::forward_all([&self.q_proj, &self.k_proj, &self.v_proj], x_ND);
        let (mut q_NHK, mut k_NGK, v_NGK) = (heads(q, h, &self.q_norm), heads(k_values, g, &self.k_norm), heads(v, g, &None));
        if config.positions == Positions::Rope {
            q_NHK = place.rotate(q_NHK);
            k_NGK = place.rotate(k_NGK);
        }
        let out_NHK = match context {
            Context::Packed(batch) => packed(config, layer, q_NHK, k_NGK, v_NGK, batch),
            Context::Cached(batch, pool) => {
                let (device, dtype) = (q_NHK.device(), q_NHK.dtype());
                let (q, k_values, v) = (host::to_vec(q_NHK), host::to_vec(k_NGK), host::to_vec(v_NGK));
                let out = pool.attend(layer, batch, &q, &k_values, &v, score(config, layer));
                host::from_vec(out, [n, h, k], &device).cast(dtype)
            }
        };
        self.o_proj.forward(out_NHK.reshape([n, h * k]))
    }
}

/// Multi-head latent attention (DeepSeek-V2, section 2.1).
#[derive(Module, Debug)]
pub struct LatentAttention {
    /// `[H*K, D]`, without query compression.
    pub q_proj: Option<Linear>,
    /// `[q_lora_rank, D]`.
    pub q_a_proj: Option<Linear>,
    /// Norm of the compressed query.
    pub q_a_layernorm: Option<Norm>,
    /// `[H*K, q_lora_rank]`.
    pub q_b_proj: Option<Linear>,
    /// `[L + R, D]`: the latent vector and the one rotated key of all heads.
    pub kv_a_proj_with_mqa: Linear,
    /// Norm of the latent vector.
    pub kv_a_layernorm: Norm,
    /// `[H * (qk_nope_head_dim + U), L]`: from latent vector to keys and values.
    pub kv_b_proj: Linear,
    /// `[D, H*U]`.
    pub o_proj: Linear,
}

impl LatentAttention {
    pub(crate) fn forward(&self, config: &DecoderConfig, layer: usize, x_ND: Tensor<2>, place: &Place, context: &mut Context) -> Tensor<2> {
        let Some(mla) = &config.mla else { return x_ND };
        let (h, n) = (config.num_attention_heads, x_ND.dims()[0]);
        let &MlaConfig { kv_lora_rank: l, qk_nope_head_dim: p, qk_rope_head_dim: r, v_head_dim: u, .. } = mla;
        let q_ND = match (&self.q_proj, &self.q_a_proj, &self.q_a_layernorm, &self.q_b_proj) {
            (Some(q), ..) => q.forward(x_ND.clone()),
            (None, Some(a), Some(norm), Some(b)) => b.forward(norm.forward(a.forward(x_ND.clone()))),
            _ => x_ND.clone(),
        };
        let q_NHK = q_ND.reshape([n, h, p + r]);
        let q_plain_NHP = q_NHK.clone().slice([0..n, 0..h, 0..p]);
        let q_rotated_NHR = place.rotate(q_NHK.slice([0..n, 0..h, p..p + r]));
        let compressed = self.kv_a_proj_with_mqa.forward(x_ND);
        let latent_NL = self.kv_a_layernorm.forward(compressed.clone().slice([0..n, 0..l]));
        let k_rotated_N1R = place.rotate(compressed.slice([0..n, l..l + r]).reshape([n, 1, r]));
        let out_NHU = match context {
            Context::Packed(batch) => {
                let kv = self.kv_b_proj.forward(latent_NL).reshape([n, h, p + u]);
                let k_NHK = Tensor::cat(vec![kv.clone().slice([0..n, 0..h, 0..p]), k_rotated_N1R.expand([n, h, r])], 2);
                let q_NHK = Tensor::cat(vec![q_plain_NHP, q_rotated_NHR], 2);
                packed(config, layer, q_NHK, k_NHK, kv.slice([0..n, 0..h, p..p + u]), batch)
            }
            Context::Cached(batch, pool) => {
                // Absorbed: the query is taken into the latent space, so that the cache holds L + R floats a token for all heads.
                let weight_HOL = self.kv_b_proj.weight.effective().reshape([h, p + u, l]);
                let keys_HLP = weight_HOL.clone().slice([0..h, 0..p, 0..l]).swap_dims(1, 2);
                let values_HUL = weight_HOL.slice([0..h, p..p + u, 0..l]);
                // A matrix for each head, as for experts: where products are row-invariant, so are these.
                let heads: Indices = (0..=h).map(|head| (head * n) as u32).collect();
                let by_head = |x: Tensor<3>, w: Tensor<3>| {
                    let [inner, outer] = [x.dims()[2], w.dims()[1]];
                    ops::grouped_linear(x.swap_dims(0, 1).reshape([h * n, inner]), w, heads.clone()).reshape([h, n, outer]).swap_dims(0, 1)
                };
                let q_NHL = by_head(q_plain_NHP, keys_HLP);
                let (device, dtype) = (q_NHL.device(), q_NHL.dtype());
                let q = host::to_vec(Tensor::cat(vec![q_NHL, q_rotated_NHR], 2));
                let key = host::to_vec(Tensor::cat(vec![latent_NL, k_rotated_N1R.reshape([n, r])], 1));
                let out = pool.attend(layer, batch, &q, &key, &[], score(config, layer));
                by_head(host::from_vec(out, [n, h, l], &device).cast(dtype), values_HUL)
            }
        };
        self.o_proj.forward(out_NHU.reshape([n, h * u]))
    }
}
