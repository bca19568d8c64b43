//! From a configuration and a source of values to a decoder. Names and shapes follow `parameters`; a test holds them together.

use crate::attention::{Attention, LatentAttention};
use crate::config::{DecoderConfig, MlaConfig, Positions, QkNorm};
use crate::decoder::{Block, Mlp, Trunk};
use crate::parameters::block_norms;
use crate::{Error, Result};
use llm_moe::Moe;
use llm_tensor::burn::tensor::Device;
use llm_tensor::nn::{Embedding, Linear, Norm, NormKind, Weight, parameter_from};
use llm_tensor::quant::Packed;
use llm_tensor::{Precision, params};

/// Latent attention's norms ignore the configured eps in the reference implementation and keep their class's own.
const LATENT_NORM_EPS: f64 = 1e-6;

/// Hands out a parameter's values by canonical name and shape, row-major.
pub type Init<'a> = &'a mut dyn FnMut(&str, &[usize]) -> Result<Vec<f32>>;

/// Hands out the quantised matrix of a projection by canonical name and shape, where there is one.
pub(crate) type PackedInit<'a> = &'a mut dyn FnMut(&str, [usize; 2]) -> Result<Option<Packed>>;

pub(crate) struct Builder<'a> {
    pub config: &'a DecoderConfig,
    pub device: &'a Device,
    pub precision: Precision,
    pub init: Init<'a>,
    pub packed: PackedInit<'a>,
}

impl Builder<'_> {
    pub fn decoder(&mut self) -> Result<(Trunk, Option<Linear>)> {
        let DecoderConfig { vocab_size: v, hidden_size: d, .. } = *self.config;
        let embed_tokens = self.embedding("model.embed_tokens", v, d)?;
        let position_embeddings = match self.config.positions {
            Positions::Learned => Some(self.embedding("model.position_embeddings", self.config.max_position_embeddings, d)?),
            Positions::Rope => None,
        };
        let layers = (0..self.config.num_hidden_layers).map(|i| self.block(i)).collect::<Result<Vec<_>>>()?;
        let norm = self.norm("model.norm", d, self.config.norm, self.config.norm_eps)?;
        let lm_head = if self.config.tie_word_embeddings { None } else { Some(self.linear("lm_head", v, d, false)?) };
        Ok((Trunk { embed_tokens, position_embeddings, layers, norm }, lm_head))
    }

    fn embedding(&mut self, name: &str, rows: usize, width: usize) -> Result<Embedding> {
        Ok(Embedding { weight: self.matrix(name, [rows, width])? })
    }

    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight> {
        if let Some(matrix) = (self.packed)(&format!("{name}.weight"), shape)? {
            return Ok(Weight::packed(matrix, self.device));
        }
        let values = (self.init)(&format!("{name}.weight"), &shape)?;
        Ok(parameter_from(values, shape, self.precision, self.device).into())
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Result<Linear> {
        let weight = self.matrix(name, [outputs, inputs])?;
        let bias = if bias { Some((self.init)(&format!("{name}.bias"), &[outputs])?) } else { None };
        Ok(Linear { weight, bias: bias.map(|values| parameter_from(values, [outputs], self.precision, self.device)) })
    }

    fn norm(&mut self, name: &str, size: usize, kind: NormKind, eps: f64) -> Result<Norm> {
        let weight = (self.init)(&format!("{name}.weight"), &[size])?;
        let bias = if kind == NormKind::LayerNorm { Some((self.init)(&format!("{name}.bias"), &[size])?) } else { None };
        Ok(Norm {
            weight: parameter_from(weight, [size], self.precision, self.device),
            bias: bias.map(|values| parameter_from(values, [size], self.precision, self.device)),
            kind,
            eps,
        })
    }

    fn block(&mut self, layer: usize) -> Result<Block> {
        let at = format!("model.layers.{layer}");
        let mut norm = |name: &str| -> Result<Option<Norm>> {
            let present = block_norms(self.config.layout).contains(&name);
            present.then(|| self.norm(&format!("{at}.{name}"), self.config.hidden_size, self.config.norm, self.config.norm_eps)).transpose()
        };
        let input_layernorm = norm("input_layernorm")?;
        let post_attention_layernorm = norm("post_attention_layernorm")?;
        let pre_feedforward_layernorm = norm("pre_feedforward_layernorm")?;
        let post_feedforward_layernorm = norm("post_feedforward_layernorm")?;
        let (self_attn, mla) = match &self.config.mla {
            Some(mla) => (None, Some(self.latent(&format!("{at}.mla"), mla)?)),
            None => (Some(self.attention(&format!("{at}.self_attn"))?), None),
        };
        let (mlp, moe) =
            if self.config.is_moe(layer) { (None, Some(self.experts(&format!("{at}.moe"))?)) } else { (Some(self.mlp(&format!("{at}.mlp"))?), None) };
        Ok(Block { input_layernorm, self_attn, mla, post_attention_layernorm, pre_feedforward_layernorm, post_feedforward_layernorm, mlp, moe })
    }

    fn attention(&mut self, at: &str) -> Result<Attention> {
        let config = self.config;
        let (d, k) = (config.hidden_size, config.head_size());
        let (q, kv) = (config.num_attention_heads * k, config.num_key_value_heads * k);
        let sizes = match config.qk_norm {
            QkNorm::None => None,
            QkNorm::Head => Some((k, k)),
            QkNorm::Projection => Some((q, kv)),
        };
        Ok(Attention {
            q_proj: self.linear(&format!("{at}.q_proj"), q, d, config.qkv_bias)?,
            k_proj: self.linear(&format!("{at}.k_proj"), kv, d, config.qkv_bias)?,
            v_proj: self.linear(&format!("{at}.v_proj"), kv, d, config.qkv_bias)?,
            o_proj: self.linear(&format!("{at}.o_proj"), d, q, config.output_bias)?,
            q_norm: sizes.map(|s| self.norm(&format!("{at}.q_norm"), s.0, NormKind::RmsNorm, config.norm_eps)).transpose()?,
            k_norm: sizes.map(|s| self.norm(&format!("{at}.k_norm"), s.1, NormKind::RmsNorm, config.norm_eps)).transpose()?,
        })
    }

    fn latent(&mut self, at: &str, mla: &MlaConfig) -> Result<LatentAttention> {
        let (d, h) = (self.config.hidden_size, self.config.num_attention_heads);
        let q = h * self.config.head_size();
        let (mut q_proj, mut q_a_proj, mut q_a_layernorm, mut q_b_proj) = (None, None, None, None);
        match mla.q_lora_rank {
            Some(rank) => {
                q_a_proj = Some(self.linear(&format!("{at}.q_a_proj"), rank, d, false)?);
                q_a_layernorm = Some(self.norm(&format!("{at}.q_a_layernorm"), rank, NormKind::RmsNorm, LATENT_NORM_EPS)?);
                q_b_proj = Some(self.linear(&format!("{at}.q_b_proj"), q, rank, false)?);
            }
            None => q_proj = Some(self.linear(&format!("{at}.q_proj"), q, d, false)?),
        }
        Ok(LatentAttention {
            q_proj,
            q_a_proj,
            q_a_layernorm,
            q_b_proj,
            kv_a_proj_with_mqa: self.linear(&format!("{at}.kv_a_proj_with_mqa"), mla.kv_lora_rank + mla.qk_rope_head_dim, d, false)?,
            kv_a_layernorm: self.norm(&format!("{at}.kv_a_layernorm"), mla.kv_lora_rank, NormKind::RmsNorm, LATENT_NORM_EPS)?,
            kv_b_proj: self.linear(&format!("{at}.kv_b_proj"), h * (mla.qk_nope_head_dim + mla.v_head_dim), mla.kv_lora_rank, false)?,
            o_proj: self.linear(&format!("{at}.o_proj"), d, h * mla.v_head_dim, false)?,
        })
    }

    fn mlp(&mut self, at: &str) -> Result<Mlp> {
        let DecoderConfig { hidden_size: d, intermediate_size: f, mlp_bias, gated_mlp, .. } = *self.config;
        Ok(Mlp {
            gate_proj: gated_mlp.then(|| self.linear(&format!("{at}.gate_proj"), f, d, mlp_bias)).transpose()?,
            up_proj: self.linear(&format!("{at}.up_proj"), f, d, mlp_bias)?,
            down_proj: self.linear(&format!("{at}.down_proj"), d, f, mlp_bias)?,
        })
    }

    fn experts(&mut self, at: &str) -> Result<Moe> {
        let config = self.config.moe.clone().unwrap_or_default();
        let mut failure = None;
        let mut init = |name: &str, shape: &[usize]| {
            (self.init)(&format!("{at}.{name}"), shape).unwrap_or_else(|e| {
                failure.get_or_insert(e);
                vec![0.0; shape.iter().product()]
            })
        };
        let moe = Moe::new(&config, self.config.hidden_size, &mut init, self.device).map_err(|e| Error::Config(e.to_string()));
        match failure {
            Some(e) => Err(e),
            None if self.precision == Precision::F32 => moe,
            // Routing is computed in f32; steps of the correction bias are smaller than what bfloat16 can tell apart.
            None => Ok(params::map(moe?, |name, _, value| match name {
                "gate.e_score_correction_bias" => value,
                _ => value.cast(self.precision.dtype()),
            })),
        }
    }
}
