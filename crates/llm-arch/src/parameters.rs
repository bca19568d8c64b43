//! Every parameter of a configuration by name and shape, without a tensor: what the builder makes, the planner counts and the
//! loader looks for. Names are our own canonical ones (those of Llama, extended); `hf::names` translates them.

use crate::config::{DecoderConfig, Layout, Positions, QkNorm};
use llm_moe::TopkMethod;
use llm_run::Seed;
use llm_tensor::nn::NormKind;

/// What a parameter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Token table, position table or output projection.
    Embedding,
    /// Projection of attention or feed-forward.
    Matrix,
    /// Stacked matrices of the routed experts; only `k` of them work on a token.
    Experts,
    /// Scale or bias of a norm, bias of a projection.
    Vector,
    /// Not trained by gradient and not counted.
    Buffer,
}

/// A parameter before it has values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Canonical name: its path in [`crate::Decoder`].
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Use.
    pub role: Role,
}

impl Parameter {
    /// Elements.
    pub fn size(&self) -> usize {
        self.shape.iter().product()
    }
}

struct List(Vec<Parameter>);
impl List {
    fn add(&mut self, name: String, shape: Vec<usize>, role: Role) {
        self.0.push(Parameter { name, shape, role });
    }
    fn linear(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool) {
        self.add(format!("{name}.weight"), vec![outputs, inputs], Role::Matrix);
        if bias {
            self.add(format!("{name}.bias"), vec![outputs], Role::Vector);
        }
    }
    fn norm(&mut self, name: &str, size: usize, kind: NormKind) {
        self.add(format!("{name}.weight"), vec![size], Role::Vector);
        if kind == NormKind::LayerNorm {
            self.add(format!("{name}.bias"), vec![size], Role::Vector);
        }
    }
}

/// All parameters, embedding first.
pub fn parameters(config: &DecoderConfig) -> Vec<Parameter> {
    let (d, v) = (config.hidden_size, config.vocab_size);
    let mut list = List(Vec::new());
    list.add("model.embed_tokens.weight".into(), vec![v, d], Role::Embedding);
    if config.positions == Positions::Learned {
        list.add("model.position_embeddings.weight".into(), vec![config.max_position_embeddings, d], Role::Embedding);
    }
    for layer in 0..config.num_hidden_layers {
        block(&mut list, config, layer);
    }
    list.norm("model.norm", d, config.norm);
    if !config.tie_word_embeddings {
        list.add("lm_head.weight".into(), vec![v, d], Role::Embedding);
    }
    list.0
}

/// Norms of a block, by field name.
pub fn block_norms(layout: Layout) -> &'static [&'static str] {
    match layout {
        Layout::PreNorm | Layout::Parallel => &["input_layernorm", "post_attention_layernorm"],
        Layout::PostNorm => &["post_attention_layernorm", "post_feedforward_layernorm"],
        Layout::Sandwich => &["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"],
        Layout::ParallelShared => &["input_layernorm"],
    }
}

fn block(list: &mut List, config: &DecoderConfig, layer: usize) {
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let (h, g) = (config.num_attention_heads, config.num_key_value_heads);
    let at = format!("model.layers.{layer}");
    for norm in block_norms(config.layout) {
        list.norm(&format!("{at}.{norm}"), d, config.norm);
    }
    if let Some(mla) = &config.mla {
        let q = h * config.head_size();
        match mla.q_lora_rank {
            Some(rank) => {
                list.linear(&format!("{at}.mla.q_a_proj"), rank, d, false);
                list.norm(&format!("{at}.mla.q_a_layernorm"), rank, NormKind::RmsNorm);
                list.linear(&format!("{at}.mla.q_b_proj"), q, rank, false);
            }
            None => list.linear(&format!("{at}.mla.q_proj"), q, d, false),
        }
        list.linear(&format!("{at}.mla.kv_a_proj_with_mqa"), mla.kv_lora_rank + mla.qk_rope_head_dim, d, false);
        list.norm(&format!("{at}.mla.kv_a_layernorm"), mla.kv_lora_rank, NormKind::RmsNorm);
        list.linear(&format!("{at}.mla.kv_b_proj"), h * (mla.qk_nope_head_dim + mla.v_head_dim), mla.kv_lora_rank, false);
        list.linear(&format!("{at}.mla.o_proj"), d, h * mla.v_head_dim, false);
    } else {
        let k = config.head_size();
        for (name, heads) in [("q_proj", h), ("k_proj", g), ("v_proj", g)] {
            list.linear(&format!("{at}.self_attn.{name}"), heads * k, d, config.qkv_bias);
        }
        list.linear(&format!("{at}.self_attn.o_proj"), d, h * k, config.output_bias);
        let sizes = match config.qk_norm {
            QkNorm::None => None,
            QkNorm::Head => Some((k, k)),
            QkNorm::Projection => Some((h * k, g * k)),
        };
        if let Some((q, k)) = sizes {
            list.norm(&format!("{at}.self_attn.q_norm"), q, NormKind::RmsNorm);
            list.norm(&format!("{at}.self_attn.k_norm"), k, NormKind::RmsNorm);
        }
    }
    match &config.moe {
        Some(moe) if config.is_moe(layer) => {
            let (e, f, s) = (moe.num_experts, moe.moe_intermediate_size, moe.shared_expert_intermediate_size);
            list.linear(&format!("{at}.moe.gate"), e, d, false);
            if moe.topk_method == TopkMethod::NoauxTc {
                list.add(format!("{at}.moe.gate.e_score_correction_bias"), vec![e], Role::Buffer);
            }
            list.add(format!("{at}.moe.experts.gate_proj"), vec![e, f, d], Role::Experts);
            list.add(format!("{at}.moe.experts.up_proj"), vec![e, f, d], Role::Experts);
            list.add(format!("{at}.moe.experts.down_proj"), vec![e, d, f], Role::Experts);
            if s > 0 {
                list.linear(&format!("{at}.moe.shared_experts.gate_proj"), s, d, false);
                list.linear(&format!("{at}.moe.shared_experts.up_proj"), s, d, false);
                list.linear(&format!("{at}.moe.shared_experts.down_proj"), d, s, false);
            }
            if moe.shared_expert_gate {
                list.linear(&format!("{at}.moe.shared_expert_gate"), 1, d, false);
            }
        }
        _ => {
            if config.gated_mlp {
                list.linear(&format!("{at}.mlp.gate_proj"), f, d, config.mlp_bias);
            }
            list.linear(&format!("{at}.mlp.up_proj"), f, d, config.mlp_bias);
            list.linear(&format!("{at}.mlp.down_proj"), d, f, config.mlp_bias);
        }
    }
}

impl DecoderConfig {
    /// Learned numbers in total; a tied head counts once.
    pub fn num_parameters(&self) -> usize {
        parameters(self).iter().filter(|p| p.role != Role::Buffer).map(Parameter::size).sum()
    }

    /// Learned numbers that work on one token: of the routed experts only the chosen ones.
    pub fn num_active_parameters(&self) -> usize {
        let (k, e) = self.moe.as_ref().map_or((1, 1), |m| (m.num_experts_per_tok, m.num_experts));
        let share = |p: &Parameter| if p.role == Role::Experts { p.size() / e * k } else { p.size() };
        parameters(self).iter().filter(|p| p.role != Role::Buffer).map(share).sum()
    }
}

/// Standard deviation of fresh weights; projections back into the residual stream get `/ sqrt(2 * layers)` (GPT-2, section 2.3).
const INITIAL_STD: f64 = 0.02;

/// Fresh values: a function of the seed and the parameter's name.
pub fn initial_values(config: &DecoderConfig, seed: Seed, name: &str, shape: &[usize]) -> Vec<f32> {
    let n: usize = shape.iter().product();
    if name.ends_with(".bias") || name.ends_with("e_score_correction_bias") {
        return vec![0.0; n];
    }
    if shape.len() == 1 {
        let gemma = config.norm == NormKind::GemmaRmsNorm && name.ends_with("norm.weight") && !name.contains("_attn.");
        return vec![if gemma { 0.0 } else { 1.0 }; n];
    }
    let residual = name.contains(".o_proj") || name.contains("down_proj");
    let std = if residual { INITIAL_STD / (2.0 * config.num_hidden_layers as f64).sqrt() } else { INITIAL_STD };
    let mut rng = seed.stream(&stream_name(name)).rng();
    (0..n).map(|_| (rng.normal() * std) as f32).collect()
}

/// `model.layers.3.self_attn.q_proj.weight` draws from the stream `layers.3.q_proj`.
fn stream_name(name: &str) -> String {
    let name = name.strip_prefix("model.").unwrap_or(name);
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let mut parts: Vec<&str> = name.split('.').collect();
    if parts.len() > 3 && parts[0] == "layers" {
        parts.remove(2);
    }
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, a seed no longer gives the weights it used to give.
    #[test]
    fn streams_keep_their_names() {
        for (name, stream) in [
            ("model.layers.3.self_attn.q_proj.weight", "layers.3.q_proj"),
            ("model.layers.0.mlp.down_proj.weight", "layers.0.down_proj"),
            ("model.embed_tokens.weight", "embed_tokens"),
            ("lm_head.weight", "lm_head"),
            ("model.layers.1.moe.experts.gate_proj", "layers.1.experts.gate_proj"),
        ] {
            assert_eq!(stream_name(name), stream);
        }
    }
}
