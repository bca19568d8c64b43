//! `config.json` to [`DecoderConfig`]: one short translation per family.
//!
//! Both spellings are read: transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and transformers 5 (`rope_parameters`, `dtype`). Files
//! leave out what equals the class default, so those defaults are part of the format and stand here.

use super::fields::Fields;
use crate::config::{DecoderConfig, Family, LayerType, Layout, MOST_LAYERS, MlaConfig, Positions, QkNorm};
use crate::rope::RopeScaling;
use llm_moe::{MoeConfig, Scoring, TopkMethod};
use llm_tensor::nn::NormKind;
use llm_tensor::ops::Activation;
use serde_json::{Map, Value};

type Result<T> = std::result::Result<T, String>;

/// The `model_type` of each family.
pub const MODEL_TYPES: [(&str, Family); 18] = [
    ("llama", Family::Llama),
    ("mistral", Family::Mistral),
    ("qwen2", Family::Qwen2),
    ("qwen3", Family::Qwen3),
    ("gpt2", Family::Gpt2),
    ("falcon", Family::Falcon),
    ("gpt_neox", Family::GptNeox),
    ("gemma", Family::Gemma),
    ("gemma2", Family::Gemma2),
    ("phi3", Family::Phi3),
    ("olmo2", Family::Olmo2),
    ("mixtral", Family::Mixtral),
    ("qwen2_moe", Family::Qwen2Moe),
    ("qwen3_moe", Family::Qwen3Moe),
    ("olmoe", Family::Olmoe),
    ("deepseek", Family::Deepseek),
    ("deepseek_v2", Family::DeepseekV2),
    ("deepseek_v3", Family::DeepseekV3),
];

/// Translate a `config.json` value. The error names the field.
pub fn config_from_json(value: &Value) -> Result<DecoderConfig> {
    let f = Fields(value.as_object().ok_or("expected a JSON object")?);
    let model_type = f.text("model_type")?.ok_or("`model_type` is missing")?;
    let family = MODEL_TYPES.iter().find(|(name, _)| *name == model_type).map(|(_, family)| *family).ok_or_else(|| {
        let known: Vec<&str> = MODEL_TYPES.iter().map(|(name, _)| *name).collect();
        format!("`model_type` = \"{model_type}\" is not supported; supported are {}", known.join(", "))
    })?;
    match family {
        Family::Gpt2 => gpt2(f),
        Family::Falcon => falcon(f),
        Family::GptNeox => gpt_neox(f),
        _ => llama_like(f, family),
    }
}

/// What every configuration has, from `hidden_size` to the token ids.
fn common(f: Fields, family: Family, tied: bool) -> Result<DecoderConfig> {
    let heads = f.required("num_attention_heads")?;
    let hidden_size = f.required("hidden_size")?;
    let trained = f.size_or("max_position_embeddings", 2048)?;
    let (rope_theta, partial, rope_scaling) = rope(f, trained)?;
    Ok(DecoderConfig {
        family,
        vocab_size: f.required("vocab_size")?,
        hidden_size,
        intermediate_size: f.size_or("intermediate_size", 1)?,
        num_hidden_layers: f.required("num_hidden_layers")?,
        num_attention_heads: heads,
        num_key_value_heads: f.size_or("num_key_value_heads", heads)?,
        // Files of transformers 5 spell out what follows from the sizes.
        head_dim: f.size("head_dim")?.filter(|k| k.checked_mul(heads) != Some(hidden_size)).unwrap_or(0),
        max_position_embeddings: trained,
        norm_eps: f.number_or("rms_norm_eps", 1e-6)?,
        rope_theta: rope_theta.unwrap_or(10_000.0),
        rope_scaling,
        partial_rotary_factor: partial.unwrap_or(1.0),
        tie_word_embeddings: f.flag("tie_word_embeddings", tied)?,
        ..token_ids(f)?
    })
}

fn token_ids(f: Fields) -> Result<DecoderConfig> {
    Ok(DecoderConfig {
        bos_token_id: f.ids("bos_token_id")?.first().copied(),
        eos_token_id: f.ids("eos_token_id")?,
        pad_token_id: f.ids("pad_token_id")?.first().copied(),
        ..DecoderConfig::default()
    })
}

fn activation(f: Fields, key: &str, default: Activation) -> Result<Activation> {
    match f.text(key)? {
        None => Ok(default),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu") => Ok(Activation::Gelu),
        Some("gelu_new" | "gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
        Some(other) => Err(format!("`{key}` = \"{other}\" is not supported; expected silu, gelu, gelu_new or gelu_pytorch_tanh")),
    }
}

/// `layer_types`, if given.
fn layer_types(f: Fields) -> Result<Option<Vec<LayerType>>> {
    let Some(list) = f.list("layer_types")? else { return Ok(None) };
    list.iter()
        .map(|v| match v.as_str() {
            Some("full_attention") => Ok(LayerType::FullAttention),
            Some("sliding_attention") => Ok(LayerType::SlidingAttention),
            _ => Err(format!("`layer_types`: expected full_attention or sliding_attention, got {v}")),
        })
        .collect::<Result<Vec<_>>>()
        .map(Some)
}

/// All the same kind is said by the window alone.
fn simplified(types: Vec<LayerType>, window: Option<usize>) -> (Vec<LayerType>, Option<usize>) {
    if window.is_none() || types.iter().all(|t| *t == LayerType::FullAttention) && !types.is_empty() {
        return (Vec::new(), None);
    }
    if types.iter().all(|t| *t == LayerType::SlidingAttention) { (Vec::new(), window) } else { (types, window) }
}

fn llama_like(f: Fields, family: Family) -> Result<DecoderConfig> {
    let gemma = matches!(family, Family::Gemma | Family::Gemma2);
    let mut c = common(f, family, gemma)?;
    let default_act = if gemma { Activation::GeluTanh } else { Activation::Silu };
    // Gemma 1 files say `hidden_act: gelu` and mean the tanh form.
    c.hidden_act = activation(f, if gemma { "hidden_activation" } else { "hidden_act" }, default_act)?;
    let default_bias = matches!(family, Family::Qwen2 | Family::Qwen2Moe);
    let bias = f.flag("attention_bias", false)?;
    c.qkv_bias = bias || default_bias && f.flag("qkv_bias", true)?;
    c.output_bias = bias;
    c.mlp_bias = f.flag("mlp_bias", false)?;
    sliding(f, &mut c)?;
    match family {
        Family::Llama => (c.sliding_window, c.layer_types) = (None, Vec::new()),
        Family::Qwen3 => {
            c.qk_norm = QkNorm::Head;
            if !f.mentions("head_dim") {
                c.head_dim = 128;
            }
        }
        Family::Gemma | Family::Gemma2 => {
            c.norm = NormKind::GemmaRmsNorm;
            c.scale_embeddings = true;
            if !f.mentions("head_dim") {
                c.head_dim = 256;
            }
            if family == Family::Gemma2 {
                c.layout = Layout::Sandwich;
                c.query_pre_attn_scalar = Some(f.number_or("query_pre_attn_scalar", 256.0)?);
                c.attn_logit_softcapping = f.optional_number("attn_logit_softcapping", Some(50.0))?;
                c.final_logit_softcapping = f.optional_number("final_logit_softcapping", Some(30.0))?;
            }
        }
        Family::Phi3 => c.norm_eps = f.number_or("rms_norm_eps", 1e-5)?,
        Family::Olmo2 => {
            c.layout = Layout::PostNorm;
            c.qk_norm = QkNorm::Projection;
            c.norm_eps = f.number_or("rms_norm_eps", 1e-5)?;
        }
        Family::Mixtral | Family::Qwen2Moe | Family::Qwen3Moe | Family::Olmoe => experts(f, &mut c)?,
        Family::Deepseek | Family::DeepseekV2 | Family::DeepseekV3 => deepseek(f, &mut c)?,
        _ => {}
    }
    Ok(c)
}

/// Windows. Qwen switches them with a flag and from a layer on, Gemma 2 on every other layer.
fn sliding(f: Fields, c: &mut DecoderConfig) -> Result<()> {
    let layers = c.num_hidden_layers;
    let (window, default_types) = match c.family {
        Family::Mistral => (f.optional_size("sliding_window", Some(4096))?, Vec::new()),
        Family::Gemma2 => {
            let kind = |i: usize| if i.is_multiple_of(2) { LayerType::SlidingAttention } else { LayerType::FullAttention };
            (f.optional_size("sliding_window", Some(4096))?, (0..layers.min(MOST_LAYERS)).map(kind).collect())
        }
        Family::Qwen2 | Family::Qwen3 | Family::Qwen2Moe | Family::Qwen3Moe => {
            let window = if f.flag("use_sliding_window", false)? { f.optional_size("sliding_window", Some(4096))? } else { None };
            let from = match c.family {
                Family::Qwen3Moe => 0,
                _ => f.size_or("max_window_layers", 28)?,
            };
            let kind = |i: usize| if i >= from { LayerType::SlidingAttention } else { LayerType::FullAttention };
            (window, (0..layers.min(MOST_LAYERS)).map(kind).collect())
        }
        Family::Mixtral | Family::Phi3 => (f.size("sliding_window")?, Vec::new()),
        _ => (None, Vec::new()),
    };
    (c.layer_types, c.sliding_window) = simplified(layer_types(f)?.unwrap_or(default_types), window);
    Ok(())
}

/// Mixtral, Qwen and OLMoE.
fn experts(f: Fields, c: &mut DecoderConfig) -> Result<()> {
    let number = |default: usize| -> Result<usize> { Ok(f.size("num_local_experts")?.or(f.size("num_experts")?).unwrap_or(default)) };
    let width = c.intermediate_size;
    let aux = |default: f64| f.number_or("router_aux_loss_coef", default);
    let base = MoeConfig { scoring_func: Scoring::Softmax, topk_method: TopkMethod::Greedy, ..MoeConfig::default() };
    let moe = match c.family {
        Family::Mixtral => MoeConfig {
            num_experts: number(8)?,
            num_experts_per_tok: f.size_or("num_experts_per_tok", 2)?,
            moe_intermediate_size: width,
            norm_topk_prob: true,
            router_jitter_noise: f.number_or("router_jitter_noise", 0.0)?,
            router_aux_loss_coef: aux(0.001)?,
            ..base
        },
        Family::Olmoe => MoeConfig {
            num_experts: number(64)?,
            num_experts_per_tok: f.size_or("num_experts_per_tok", 8)?,
            moe_intermediate_size: width,
            norm_topk_prob: f.flag("norm_topk_prob", false)?,
            router_aux_loss_coef: aux(0.01)?,
            ..base
        },
        family => MoeConfig {
            num_experts: number(if family == Family::Qwen2Moe { 60 } else { 128 })?,
            num_experts_per_tok: f.size_or("num_experts_per_tok", if family == Family::Qwen2Moe { 4 } else { 8 })?,
            moe_intermediate_size: f.size_or("moe_intermediate_size", if family == Family::Qwen2Moe { 1408 } else { 768 })?,
            shared_expert_intermediate_size: if family == Family::Qwen2Moe { f.size_or("shared_expert_intermediate_size", 5632)? } else { 0 },
            shared_expert_gate: family == Family::Qwen2Moe,
            norm_topk_prob: f.flag("norm_topk_prob", false)?,
            router_aux_loss_coef: aux(0.001)?,
            ..base
        },
    };
    c.moe = Some(moe);
    match c.family {
        Family::Olmoe => {
            c.qk_norm = QkNorm::Projection;
            c.clip_qkv = f.number("clip_qkv")?;
            c.norm_eps = f.number_or("rms_norm_eps", 1e-5)?;
        }
        Family::Mixtral => c.norm_eps = f.number_or("rms_norm_eps", 1e-5)?,
        Family::Qwen2Moe | Family::Qwen3Moe => {
            if c.family == Family::Qwen3Moe {
                c.qk_norm = QkNorm::Head;
            }
            let step = f.size_or("decoder_sparse_step", 1)?.max(1);
            let listed = f.sizes("mlp_only_layers")?;
            c.mlp_only_layers = (0..c.num_hidden_layers.min(MOST_LAYERS)).filter(|i| listed.contains(i) || !(i + 1).is_multiple_of(step)).collect();
        }
        _ => {}
    }
    Ok(())
}

fn deepseek(f: Fields, c: &mut DecoderConfig) -> Result<()> {
    let v3 = c.family == Family::DeepseekV3;
    if c.family != Family::Deepseek {
        if c.qkv_bias {
            return Err("`attention_bias` = true is not supported with latent attention".into());
        }
        c.mla = Some(MlaConfig {
            q_lora_rank: f.optional_size("q_lora_rank", Some(1536))?,
            kv_lora_rank: f.size_or("kv_lora_rank", 512)?,
            qk_nope_head_dim: f.size_or("qk_nope_head_dim", 128)?,
            qk_rope_head_dim: f.size_or("qk_rope_head_dim", 64)?,
            v_head_dim: f.size_or("v_head_dim", 128)?,
        });
        c.head_dim = 0;
        c.num_key_value_heads = c.num_attention_heads;
        c.rope_interleave = if v3 { f.flag("rope_interleave", true)? } else { true };
    }
    let Some(experts) = f.optional_size("n_routed_experts", v3.then_some(256))? else { return Ok(()) };
    let width = f.size_or("moe_intermediate_size", if v3 { 2048 } else { 1407 })?;
    let shared = f.optional_size("n_shared_experts", v3.then_some(1))?.unwrap_or(0);
    let method = match f.text("topk_method")? {
        _ if v3 => TopkMethod::NoauxTc,
        None | Some("greedy") => TopkMethod::Greedy,
        Some("group_limited_greedy") => TopkMethod::GroupLimitedGreedy,
        Some(other) => return Err(format!("`topk_method` = \"{other}\" is not supported; expected greedy or group_limited_greedy")),
    };
    let groups = method != TopkMethod::Greedy;
    c.moe = Some(MoeConfig {
        num_experts: experts,
        num_experts_per_tok: f.size_or("num_experts_per_tok", if v3 { 8 } else { 6 })?,
        moe_intermediate_size: width,
        shared_expert_intermediate_size: width * shared,
        shared_expert_gate: false,
        scoring_func: if v3 { Scoring::Sigmoid } else { Scoring::Softmax },
        topk_method: method,
        n_group: if groups { f.size_or("n_group", if v3 { 8 } else { 1 })? } else { 1 },
        topk_group: if groups { f.size_or("topk_group", if v3 { 4 } else { 1 })? } else { 1 },
        // The reference implementation of V2 never normalises, whatever the file says.
        norm_topk_prob: c.family != Family::DeepseekV2 && f.flag("norm_topk_prob", v3)?,
        routed_scaling_factor: if c.family == Family::Deepseek { 1.0 } else { f.number_or("routed_scaling_factor", if v3 { 2.5 } else { 1.0 })? },
        router_jitter_noise: 0.0,
        capacity_factor: None,
        router_aux_loss_coef: if v3 { 0.0 } else { f.number_or("aux_loss_alpha", 0.001)? },
        router_z_loss_coef: 0.0,
        seq_aux_loss_coef: 0.0,
        bias_update_rate: 0.0,
    });
    let dense = f.size_or("first_k_dense_replace", if v3 { 3 } else { 0 })?;
    let every = f.size_or("moe_layer_freq", 1)?.max(1);
    c.mlp_only_layers = (0..c.num_hidden_layers.min(MOST_LAYERS)).filter(|i| *i < dense || !i.is_multiple_of(every)).collect();
    Ok(())
}

fn gpt2(f: Fields) -> Result<DecoderConfig> {
    if !f.flag("scale_attn_weights", true)? {
        return Err("`scale_attn_weights` = false is not supported".into());
    }
    let hidden = f.size_or("n_embd", 768)?;
    let heads = f.size_or("n_head", 12)?;
    Ok(DecoderConfig {
        family: Family::Gpt2,
        vocab_size: f.size_or("vocab_size", 50257)?,
        hidden_size: hidden,
        intermediate_size: f.size_or("n_inner", 4 * hidden)?,
        num_hidden_layers: f.size_or("n_layer", 12)?,
        num_attention_heads: heads,
        num_key_value_heads: heads,
        max_position_embeddings: f.size_or("n_positions", 1024)?,
        norm: NormKind::LayerNorm,
        norm_eps: f.number_or("layer_norm_epsilon", 1e-5)?,
        positions: Positions::Learned,
        qkv_bias: true,
        output_bias: true,
        mlp_bias: true,
        hidden_act: activation(f, "activation_function", Activation::GeluTanh)?,
        gated_mlp: false,
        scale_attn_by_inverse_layer_idx: f.flag("scale_attn_by_inverse_layer_idx", false)?,
        tie_word_embeddings: f.flag("tie_word_embeddings", true)?,
        ..token_ids(f)?
    })
}

fn falcon(f: Fields) -> Result<DecoderConfig> {
    if f.flag("alibi", false)? {
        return Err("`alibi` = true (Falcon-RW) is not supported; only rotary Falcons are".into());
    }
    let size = |key: &str, old: &str| -> Result<usize> {
        f.size(key)?.or(f.size(old)?).ok_or_else(|| format!("`{key}` is missing; expected a whole number"))
    };
    let (hidden, heads) = (size("hidden_size", "n_embed")?, size("num_attention_heads", "n_head")?);
    let new = f.flag("new_decoder_architecture", false)?;
    let kv = match (new, f.flag("multi_query", true)?) {
        (true, _) => f.size("num_kv_heads")?.or(f.size("n_head_kv")?).unwrap_or(heads),
        (false, true) => 1,
        (false, false) => heads,
    };
    let layout = match (new, f.flag("parallel_attn", true)?) {
        (true, _) if f.size_or("num_ln_in_parallel_attn", 2)? == 1 => Layout::ParallelShared,
        (true, _) => Layout::Parallel,
        (false, true) => Layout::ParallelShared,
        (false, false) => Layout::PreNorm,
    };
    let bias = f.flag("bias", false)?;
    let trained = f.size_or("max_position_embeddings", 2048)?;
    let (theta, _, rope_scaling) = rope(f, trained)?;
    Ok(DecoderConfig {
        family: Family::Falcon,
        vocab_size: f.required("vocab_size")?,
        hidden_size: hidden,
        intermediate_size: f.size_or("ffn_hidden_size", 4 * hidden)?,
        num_hidden_layers: size("num_hidden_layers", "n_layer")?,
        num_attention_heads: heads,
        num_key_value_heads: kv,
        max_position_embeddings: trained,
        norm: NormKind::LayerNorm,
        norm_eps: f.number_or("layer_norm_epsilon", 1e-5)?,
        layout,
        rope_theta: theta.unwrap_or(10_000.0),
        rope_scaling,
        qkv_bias: bias,
        output_bias: bias,
        mlp_bias: bias,
        hidden_act: activation(f, "activation", Activation::Gelu)?,
        gated_mlp: false,
        tie_word_embeddings: f.flag("tie_word_embeddings", true)?,
        ..token_ids(f)?
    })
}

fn gpt_neox(f: Fields) -> Result<DecoderConfig> {
    let base = common(f, Family::GptNeox, false)?;
    let (theta, partial, _) = rope(f, base.max_position_embeddings)?;
    let bias = f.flag("attention_bias", true)?;
    Ok(DecoderConfig {
        intermediate_size: f.required("intermediate_size")?,
        num_key_value_heads: base.num_attention_heads,
        norm: NormKind::LayerNorm,
        norm_eps: f.number_or("layer_norm_eps", 1e-5)?,
        layout: if f.flag("use_parallel_residual", true)? { Layout::Parallel } else { Layout::PreNorm },
        rope_theta: theta.map_or_else(|| f.number_or("rotary_emb_base", 10_000.0), Ok)?,
        partial_rotary_factor: partial.map_or_else(|| f.number_or("rotary_pct", 0.25), Ok)?,
        qkv_bias: bias,
        output_bias: bias,
        mlp_bias: true,
        hidden_act: activation(f, "hidden_act", Activation::Gelu)?,
        gated_mlp: false,
        ..base
    })
}

/// Theta, rotated share and scaling, from `rope_parameters` (5.x) or top-level fields and `rope_scaling` (4.x).
fn rope(f: Fields, trained: usize) -> Result<(Option<f64>, Option<f64>, RopeScaling)> {
    let empty = Map::new();
    let (table, name) = match (f.object("rope_parameters")?, f.object("rope_scaling")?) {
        (Some(table), _) => (table, "rope_parameters"),
        (None, Some(table)) => (table, "rope_scaling"),
        (None, None) => (&empty, ""),
    };
    let either = |key: &str| -> Result<Option<f64>> { Ok(Fields(table).number(key)?.or(f.number(key)?)) };
    let mut parameters = table.clone();
    // Phi-3 keeps the trained context outside.
    if let (false, Some(original)) = (parameters.contains_key("original_max_position_embeddings"), f.get("original_max_position_embeddings")) {
        parameters.insert("original_max_position_embeddings".into(), original.clone());
    }
    let scaling = rope_scaling(&parameters, trained).map_err(|e| if name.is_empty() { e } else { format!("`{name}`: {e}") })?;
    Ok((either("rope_theta")?, either("partial_rotary_factor")?, scaling))
}

/// The scaling in a `rope_parameters` or `rope_scaling` object; `trained` is `max_position_embeddings`.
pub(crate) fn rope_scaling(parameters: &Map<String, Value>, trained: usize) -> Result<RopeScaling> {
    let f = Fields(parameters);
    let get = |key: &str| f.number(key)?.ok_or_else(|| format!("`{key}` is missing; expected a number"));
    let original = || Ok::<_, String>(f.size("original_max_position_embeddings")?.unwrap_or(trained));
    let stretched = || Ok::<_, String>(f.number("factor")?.unwrap_or(trained as f64 / original()?.max(1) as f64));
    Ok(match f.text("rope_type")?.or(f.text("type")?).unwrap_or("default") {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: get("factor")? },
        "dynamic" => RopeScaling::Dynamic { factor: get("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: get("factor")?,
            low_freq_factor: get("low_freq_factor")?,
            high_freq_factor: get("high_freq_factor")?,
            original_max_position_embeddings: get("original_max_position_embeddings")? as usize,
        },
        "yarn" => RopeScaling::Yarn {
            factor: stretched()?,
            original_max_position_embeddings: original()?,
            beta_fast: f.number_or("beta_fast", 32.0)?,
            beta_slow: f.number_or("beta_slow", 1.0)?,
            attention_factor: f.number("attention_factor")?,
            mscale: f.number("mscale")?,
            mscale_all_dim: f.number("mscale_all_dim")?,
            truncate: f.flag("truncate", true)?,
        },
        "longrope" | "su" => RopeScaling::Longrope {
            short_factor: f.numbers("short_factor")?,
            long_factor: f.numbers("long_factor")?,
            original_max_position_embeddings: original()?,
            factor: stretched()?,
            attention_factor: f.number("attention_factor")?,
        },
        other => return Err(format!("rope scaling \"{other}\" is not supported; supported are default, linear, dynamic, llama3, yarn, longrope")),
    })
}
