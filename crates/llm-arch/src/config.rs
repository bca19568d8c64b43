//! What a decoder is: sizes and choices, nothing learned. Field names are Hugging Face's where it has one name for the thing.
//!
//! A model family is a value of this type (`hf` translates `config.json`); the forward pass asks for choices, never for the family.

use crate::rope::{RopeScaling, yarn_mscale};
use crate::{Error, Result};
use llm_moe::MoeConfig;
use llm_tensor::nn::NormKind;
use llm_tensor::ops::Activation;
use serde::{Deserialize, Serialize};

/// No model is deeper. Readers make no list by layer that is longer, whatever a file says.
pub(crate) const MOST_LAYERS: usize = 1 << 14;

/// Which `config.json` dialect and tensor names a model reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Llama 1, 2, 3, 3.x, Code Llama, SmolLM, TinyLlama.
    #[default]
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Qwen 2 and 2.5: biases on q, k, v.
    Qwen2,
    /// Qwen 3: norms on q and k.
    Qwen3,
    /// GPT-2: layer norms, learned positions, fused and transposed projections.
    Gpt2,
    /// Falcon 7B, 40B, 180B: attention and feed-forward in parallel, multi-query.
    Falcon,
    /// GPT-NeoX and Pythia: parallel with two norms, partly rotary.
    GptNeox,
    /// Gemma 1: `1 + w` norms, GeGLU, scaled embeddings.
    Gemma,
    /// Gemma 2: four norms a block, soft caps, every other layer slides.
    Gemma2,
    /// Phi-3: Llama with fused projections.
    Phi3,
    /// OLMo 2: norms after the branches only.
    Olmo2,
    /// Mixtral: eight experts, two chosen.
    Mixtral,
    /// Qwen 2 MoE: many small experts and a gated shared one.
    Qwen2Moe,
    /// Qwen 3 MoE.
    Qwen3Moe,
    /// OLMoE.
    Olmoe,
    /// DeepSeek-MoE (the first): shared experts, ordinary attention.
    Deepseek,
    /// DeepSeek-V2 and V2-Lite: latent attention.
    DeepseekV2,
    /// DeepSeek-V3 and R1: latent attention, bias-balanced sigmoid router.
    DeepseekV3,
}

/// Where the norms of a block are, and whether its two branches follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// `x += attend(norm(x)); x += feed(norm(x))`.
    #[default]
    PreNorm,
    /// OLMo 2: `x += norm(attend(x)); x += norm(feed(x))`.
    PostNorm,
    /// Gemma 2: norms before and after each branch.
    Sandwich,
    /// GPT-NeoX: `x += attend(norm(x)) + feed(norm'(x))`.
    Parallel,
    /// Falcon 7B: `x += attend(n) + feed(n)` with one `n = norm(x)`.
    ParallelShared,
}

/// How a token knows where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// Rotated queries and keys.
    #[default]
    Rope,
    /// A learned vector per position, added to the embedding.
    Learned,
}

/// Norms on queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QkNorm {
    /// None.
    #[default]
    None,
    /// Each head on its own (Qwen 3).
    Head,
    /// The whole projection (OLMo 2, OLMoE).
    Projection,
}

/// What a layer's attention sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerType {
    /// Everything before.
    FullAttention,
    /// The last `sliding_window` tokens.
    SlidingAttention,
}

/// Multi-head latent attention (DeepSeek-V2, section 2.1): keys and values are made from one compressed vector a token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlaConfig {
    /// Compression of the queries; none is a plain projection.
    #[serde(default)]
    pub q_lora_rank: Option<usize>,
    /// Width of the compressed keys and values.
    pub kv_lora_rank: usize,
    /// Elements per head without position.
    pub qk_nope_head_dim: usize,
    /// Rotated elements; one key of them is shared by all heads.
    pub qk_rope_head_dim: usize,
    /// Elements per value head.
    pub v_head_dim: usize,
}

/// Sizes and choices of a decoder-only transformer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DecoderConfig {
    /// Dialect of `config.json`.
    pub family: Family,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key/value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Elements per head; 0 means `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Longest position the model was made for.
    pub max_position_embeddings: usize,
    /// Kind of norm.
    pub norm: NormKind,
    /// Added to the mean square (or variance) in every norm.
    #[serde(alias = "rms_norm_eps", alias = "layer_norm_eps", alias = "layer_norm_epsilon")]
    pub norm_eps: f64,
    /// Place of the norms.
    pub layout: Layout,
    /// Rotary or learned.
    pub positions: Positions,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Frequency stretching.
    pub rope_scaling: RopeScaling,
    /// Neighbours are rotated together (DeepSeek, GPT-J) instead of halves.
    pub rope_interleave: bool,
    /// Share of each head that is rotated.
    pub partial_rotary_factor: f64,
    /// Biases on q, k, v.
    pub qkv_bias: bool,
    /// Bias on the attention output.
    pub output_bias: bool,
    /// Biases in the feed-forward block.
    pub mlp_bias: bool,
    /// Norms on queries and keys.
    pub qk_norm: QkNorm,
    /// Queries, keys and values are clamped to this magnitude (OLMoE).
    pub clip_qkv: Option<f64>,
    /// Scores are multiplied by `query_pre_attn_scalar ^ -0.5`; none is the head size.
    pub query_pre_attn_scalar: Option<f64>,
    /// Scores of layer i are also divided by `i + 1` (a GPT-2 option).
    pub scale_attn_by_inverse_layer_idx: bool,
    /// Scores become `cap * tanh(score / cap)`.
    pub attn_logit_softcapping: Option<f64>,
    /// Logits become `cap * tanh(logit / cap)`.
    pub final_logit_softcapping: Option<f64>,
    /// Only the last so many keys are visible in sliding layers.
    pub sliding_window: Option<usize>,
    /// Per layer; empty means every layer slides if there is a window.
    pub layer_types: Vec<LayerType>,
    /// Latent attention instead of q, k, v projections.
    pub mla: Option<MlaConfig>,
    /// Non-linearity.
    pub hidden_act: Activation,
    /// `down(act(gate(x)) * up(x))`; otherwise `down(act(up(x)))`.
    pub gated_mlp: bool,
    /// Experts in place of the feed-forward block.
    pub moe: Option<MoeConfig>,
    /// Layers that keep a dense feed-forward block although there are experts.
    pub mlp_only_layers: Vec<usize>,
    /// Embeddings are multiplied by `sqrt(hidden_size)`.
    pub scale_embeddings: bool,
    /// The output projection is the embedding table.
    pub tie_word_embeddings: bool,
    /// Beginning of text.
    pub bos_token_id: Option<u32>,
    /// Ends of generation.
    pub eos_token_id: Vec<u32>,
    /// Padding.
    pub pad_token_id: Option<u32>,
}

impl Default for DecoderConfig {
    fn default() -> Self {
        Self {
            family: Family::Llama,
            vocab_size: 4096,
            hidden_size: 192,
            intermediate_size: 512,
            num_hidden_layers: 6,
            num_attention_heads: 6,
            num_key_value_heads: 2,
            head_dim: 0,
            max_position_embeddings: 1024,
            norm: NormKind::RmsNorm,
            norm_eps: 1e-5,
            layout: Layout::PreNorm,
            positions: Positions::Rope,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::Default,
            rope_interleave: false,
            partial_rotary_factor: 1.0,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: QkNorm::None,
            clip_qkv: None,
            query_pre_attn_scalar: None,
            scale_attn_by_inverse_layer_idx: false,
            attn_logit_softcapping: None,
            final_logit_softcapping: None,
            sliding_window: None,
            layer_types: Vec::new(),
            mla: None,
            hidden_act: Activation::Silu,
            gated_mlp: true,
            moe: None,
            mlp_only_layers: Vec::new(),
            scale_embeddings: false,
            tie_word_embeddings: true,
            bos_token_id: None,
            eos_token_id: Vec::new(),
            pad_token_id: None,
        }
    }
}

impl DecoderConfig {
    /// Elements per query and key head.
    pub fn head_size(&self) -> usize {
        match &self.mla {
            Some(mla) => mla.qk_nope_head_dim + mla.qk_rope_head_dim,
            None if self.head_dim > 0 => self.head_dim,
            None => self.hidden_size / self.num_attention_heads.max(1),
        }
    }

    /// Elements per value head.
    pub fn value_head_size(&self) -> usize {
        self.mla.as_ref().map_or_else(|| self.head_size(), |mla| mla.v_head_dim)
    }

    /// Rotated elements of each head.
    pub fn rotary_dim(&self) -> usize {
        match &self.mla {
            Some(mla) => mla.qk_rope_head_dim,
            None => (self.head_size() as f64 * self.partial_rotary_factor) as usize,
        }
    }

    /// True when the layer has experts.
    pub fn is_moe(&self, layer: usize) -> bool {
        self.moe.is_some() && !self.mlp_only_layers.contains(&layer)
    }

    /// The window of a layer, if it slides.
    pub fn window(&self, layer: usize) -> Option<usize> {
        match self.layer_types.get(layer) {
            Some(LayerType::FullAttention) => None,
            _ => self.sliding_window,
        }
    }

    /// What scores are multiplied by in a layer.
    pub fn attention_scale(&self, layer: usize) -> f64 {
        let mut scale = self.query_pre_attn_scalar.unwrap_or(self.head_size() as f64).powf(-0.5);
        if let (Some(_), &RopeScaling::Yarn { factor, mscale_all_dim: Some(all), .. }) = (&self.mla, &self.rope_scaling)
            && all != 0.0
        {
            scale *= yarn_mscale(factor, all).powi(2);
        }
        if self.scale_attn_by_inverse_layer_idx { scale / (layer + 1) as f64 } else { scale }
    }

    /// Inverse rotary frequencies after scaling, for texts of up to `length` tokens.
    pub fn inverse_frequencies(&self, length: usize) -> Vec<f32> {
        self.rope_scaling.inverse_frequencies(self.rope_theta, self.rotary_dim(), self.max_position_embeddings, length)
    }

    /// Refuse sizes that cannot work, naming the fields.
    pub fn validate(&self) -> Result<()> {
        let bad = |message: String| Err(Error::Config(message));
        for (name, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            if value == 0 || value > 1 << 28 {
                return bad(format!("`{name}` = {value}: expected a positive size below 2^28"));
            }
        }
        if self.head_dim > 1 << 16 || self.num_hidden_layers > MOST_LAYERS {
            return bad(format!("head_dim = {}, num_hidden_layers = {}: too large", self.head_dim, self.num_hidden_layers));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return bad(format!(
                "num_attention_heads = {} must be a multiple of num_key_value_heads = {}",
                self.num_attention_heads, self.num_key_value_heads
            ));
        }
        if self.mla.is_none() && self.head_dim == 0 && !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return bad(format!(
                "hidden_size = {} must be a multiple of num_attention_heads = {}, or set head_dim",
                self.hidden_size, self.num_attention_heads
            ));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return bad(format!("norm eps = {}: expected a small positive number", self.norm_eps));
        }
        if let Some(mla) = &self.mla {
            for (name, value) in [
                ("q_lora_rank", mla.q_lora_rank.unwrap_or(1)),
                ("kv_lora_rank", mla.kv_lora_rank),
                ("qk_nope_head_dim", mla.qk_nope_head_dim),
                ("qk_rope_head_dim", mla.qk_rope_head_dim),
                ("v_head_dim", mla.v_head_dim),
            ] {
                if value == 0 || value > 1 << 20 {
                    return bad(format!("`{name}` = {value}: expected a positive size"));
                }
            }
            if self.num_key_value_heads != self.num_attention_heads {
                return bad("latent attention needs num_key_value_heads = num_attention_heads".into());
            }
        }
        if self.positions == Positions::Rope {
            if !(self.rope_theta.is_finite() && self.rope_theta > 1.0) {
                return bad(format!("rope_theta = {}: expected a number above 1", self.rope_theta));
            }
            if !(self.partial_rotary_factor > 0.0 && self.partial_rotary_factor <= 1.0) {
                return bad(format!("partial_rotary_factor = {}: expected a share above 0, at most 1", self.partial_rotary_factor));
            }
            let rotated = self.rotary_dim();
            if rotated == 0 || !rotated.is_multiple_of(2) {
                return bad(format!("{rotated} rotated elements per head: expected an even number of at least 2"));
            }
            self.rope_scaling.validate(rotated).map_err(Error::Config)?;
        }
        if self.sliding_window == Some(0) {
            return bad("sliding_window = 0: expected a positive size or none".into());
        }
        if !self.layer_types.is_empty() && self.layer_types.len() != self.num_hidden_layers {
            return bad(format!("layer_types has {} entries for num_hidden_layers = {}", self.layer_types.len(), self.num_hidden_layers));
        }
        for (name, value) in [
            ("attn_logit_softcapping", self.attn_logit_softcapping),
            ("final_logit_softcapping", self.final_logit_softcapping),
            ("query_pre_attn_scalar", self.query_pre_attn_scalar),
            ("clip_qkv", self.clip_qkv),
        ] {
            if let Some(value) = value.filter(|v| !(v.is_finite() && *v > 0.0)) {
                return bad(format!("`{name}` = {value}: expected a positive number or null"));
            }
        }
        if let Some(moe) = &self.moe {
            moe.validate().map_err(|e| Error::Config(e.to_string()))?;
            if self.hidden_act != Activation::Silu || !self.gated_mlp || self.mlp_bias {
                return bad("experts are SwiGLU without biases; set hidden_act to silu, gated_mlp to true and mlp_bias to false".into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_name_the_fields() {
        let message = |config: DecoderConfig| config.validate().unwrap_err().to_string();
        assert!(message(DecoderConfig { num_key_value_heads: 4, ..Default::default() }).contains("num_key_value_heads = 4"));
        assert!(message(DecoderConfig { hidden_size: 0, ..Default::default() }).contains("hidden_size"));
        assert!(message(DecoderConfig { num_attention_heads: 5, num_key_value_heads: 1, ..Default::default() }).contains("head_dim"));
        assert!(message(DecoderConfig { rope_theta: f64::NAN, ..Default::default() }).contains("rope_theta"));
        assert!(message(DecoderConfig { layer_types: vec![LayerType::FullAttention], ..Default::default() }).contains("layer_types"));
    }

    #[test]
    fn a_layer_type_decides_over_the_window() {
        use LayerType::*;
        let config = DecoderConfig { sliding_window: Some(8), layer_types: vec![SlidingAttention, FullAttention], ..Default::default() };
        assert_eq!((config.window(0), config.window(1)), (Some(8), None));
    }
}
