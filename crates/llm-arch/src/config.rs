//! What a decoder is: sizes and choices, nothing learned. Field names are Hugging Face's.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Which `config.json` dialect a model reads and writes. The forward pass never asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Llama 1, 2, 3, 3.x.
    #[default]
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Qwen 2 and 2.5: biases on q, k, v.
    Qwen2,
    /// Qwen 3: norms on q and k.
    Qwen3,
}

/// Stretching of the rotary frequencies beyond the trained context.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "rope_type", deny_unknown_fields)]
pub enum RopeScaling {
    /// None.
    #[default]
    Default,
    /// Positions divided by `factor` (Chen et al., 2023).
    Linear {
        /// How much longer.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, smooth between.
    Llama3 {
        /// How much longer.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Trained context.
        original_max_position_embeddings: usize,
    },
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
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Frequency stretching.
    pub rope_scaling: RopeScaling,
    /// Biases on q, k, v.
    pub qkv_bias: bool,
    /// Bias on the attention output.
    pub output_bias: bool,
    /// Biases in the feed-forward block.
    pub mlp_bias: bool,
    /// RMSNorm on each query and key head before RoPE.
    pub qk_norm: bool,
    /// Only the last so many keys are visible.
    pub sliding_window: Option<usize>,
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
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::Default,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            sliding_window: None,
            tie_word_embeddings: true,
            bos_token_id: None,
            eos_token_id: Vec::new(),
            pad_token_id: None,
        }
    }
}

impl DecoderConfig {
    /// Elements per head.
    pub fn head_size(&self) -> usize {
        if self.head_dim > 0 { self.head_dim } else { self.hidden_size / self.num_attention_heads.max(1) }
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
                return bad(format!("`{name}` = {value}: expected a positive size"));
            }
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return bad(format!(
                "num_attention_heads = {} must be a multiple of num_key_value_heads = {}",
                self.num_attention_heads, self.num_key_value_heads
            ));
        }
        if self.head_dim == 0 && !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return bad(format!(
                "hidden_size = {} must be a multiple of num_attention_heads = {}, or set head_dim",
                self.hidden_size, self.num_attention_heads
            ));
        }
        if !self.head_size().is_multiple_of(2) {
            return bad(format!("head size {} must be even for rotary positions", self.head_size()));
        }
        if self.sliding_window == Some(0) {
            return bad("sliding_window = 0: expected a positive size or none".into());
        }
        Ok(())
    }

    /// Inverse rotary frequencies, `head_size / 2` of them, after scaling.
    pub fn inverse_frequencies(&self) -> Vec<f32> {
        let size = self.head_size();
        (0..size / 2)
            .map(|i| {
                let f = self.rope_theta.powf(-(2.0 * i as f64) / size as f64);
                let scaled = match self.rope_scaling {
                    RopeScaling::Default => f,
                    RopeScaling::Linear { factor } => f / factor,
                    RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                        let original = original_max_position_embeddings as f64;
                        let wavelength = std::f64::consts::TAU / f;
                        if wavelength > original / low_freq_factor {
                            f / factor
                        } else if wavelength < original / high_freq_factor {
                            f
                        } else {
                            let s = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                            (1.0 - s) * f / factor + s * f
                        }
                    }
                };
                scaled as f32
            })
            .collect()
    }

    /// Learned numbers in total; a tied head counts once.
    pub fn num_parameters(&self) -> usize {
        let (d, f, k) = (self.hidden_size, self.intermediate_size, self.head_size());
        let (q, kv) = (self.num_attention_heads * k, self.num_key_value_heads * k);
        let attention =
            d * (2 * q + 2 * kv) + usize::from(self.qkv_bias) * (q + 2 * kv) + usize::from(self.output_bias) * d + usize::from(self.qk_norm) * 2 * k;
        let mlp = 3 * d * f + usize::from(self.mlp_bias) * (2 * f + d);
        let tables = if self.tie_word_embeddings { 1 } else { 2 } * self.vocab_size * d;
        tables + d + self.num_hidden_layers * (attention + mlp + 2 * d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_parameter_counts() {
        let smol = DecoderConfig {
            vocab_size: 49152,
            hidden_size: 576,
            intermediate_size: 1536,
            num_hidden_layers: 30,
            num_attention_heads: 9,
            num_key_value_heads: 3,
            ..DecoderConfig::default()
        };
        assert_eq!(smol.num_parameters(), 134_515_008, "SmolLM-135M");
        let llama = DecoderConfig {
            vocab_size: 128_256,
            hidden_size: 4096,
            intermediate_size: 14336,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 8,
            tie_word_embeddings: false,
            ..DecoderConfig::default()
        };
        assert_eq!(llama.num_parameters(), 8_030_261_248, "Llama-3-8B");
    }

    #[test]
    fn contradictions_name_the_fields() {
        let config = DecoderConfig { num_key_value_heads: 4, ..DecoderConfig::default() };
        assert!(config.validate().unwrap_err().to_string().contains("num_key_value_heads = 4"));
        let config = DecoderConfig { hidden_size: 0, ..DecoderConfig::default() };
        assert!(config.validate().unwrap_err().to_string().contains("hidden_size"));
    }
}
