//! [`DecoderConfig`] to `config.json`, in the words of its family. Both spellings of transformers are written where they do not
//! conflict, so that either opens what is saved here.

use super::read::MODEL_TYPES;
use crate::config::{DecoderConfig, Family, LayerType, Layout, Positions};
use crate::rope::RopeScaling;
use llm_moe::TopkMethod;
use llm_tensor::Precision;
use llm_tensor::ops::Activation;
use serde_json::{Map, Value, json};

fn architecture(family: Family) -> &'static str {
    match family {
        Family::Llama => "LlamaForCausalLM",
        Family::Mistral => "MistralForCausalLM",
        Family::Qwen2 => "Qwen2ForCausalLM",
        Family::Qwen3 => "Qwen3ForCausalLM",
        Family::Gpt2 => "GPT2LMHeadModel",
        Family::Falcon => "FalconForCausalLM",
        Family::GptNeox => "GPTNeoXForCausalLM",
        Family::Gemma => "GemmaForCausalLM",
        Family::Gemma2 => "Gemma2ForCausalLM",
        Family::Phi3 => "Phi3ForCausalLM",
        Family::Olmo2 => "Olmo2ForCausalLM",
        Family::Mixtral => "MixtralForCausalLM",
        Family::Qwen2Moe => "Qwen2MoeForCausalLM",
        Family::Qwen3Moe => "Qwen3MoeForCausalLM",
        Family::Olmoe => "OlmoeForCausalLM",
        Family::Deepseek => "DeepseekForCausalLM",
        Family::DeepseekV2 => "DeepseekV2ForCausalLM",
        Family::DeepseekV3 => "DeepseekV3ForCausalLM",
    }
}

fn activation(act: Activation, family: Family) -> &'static str {
    match act {
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::GeluTanh if family == Family::Gpt2 => "gelu_new",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    }
}

pub(super) fn insert_token_ids(out: &mut Map<String, Value>, config: &DecoderConfig) {
    out.insert("bos_token_id".into(), json!(config.bos_token_id));
    let ends = match config.eos_token_id.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        many => json!(many),
    };
    out.insert("eos_token_id".into(), ends);
    out.insert("pad_token_id".into(), json!(config.pad_token_id));
}

/// The `config.json` of a configuration whose weights are stored in `precision`.
pub fn config_to_json(config: &DecoderConfig, precision: Precision) -> Value {
    let c = config;
    let model_type = MODEL_TYPES.iter().find(|(_, family)| *family == c.family).map_or("llama", |(name, _)| name);
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| drop(out.insert(key.to_string(), value));
    put("architectures", json!([architecture(c.family)]));
    put("model_type", json!(model_type));
    put("vocab_size", json!(c.vocab_size));
    put("tie_word_embeddings", json!(c.tie_word_embeddings));
    put("initializer_range", json!(0.02));
    put("use_cache", json!(true));
    put("torch_dtype", json!(precision));
    put("dtype", json!(precision));
    let act = activation(c.hidden_act, c.family);
    if c.family == Family::Gpt2 {
        put("n_embd", json!(c.hidden_size));
        put("n_layer", json!(c.num_hidden_layers));
        put("n_head", json!(c.num_attention_heads));
        put("n_positions", json!(c.max_position_embeddings));
        put("n_inner", if c.intermediate_size == 4 * c.hidden_size { Value::Null } else { json!(c.intermediate_size) });
        put("activation_function", json!(act));
        put("layer_norm_epsilon", json!(c.norm_eps));
        put("scale_attn_by_inverse_layer_idx", json!(c.scale_attn_by_inverse_layer_idx));
        for key in ["resid_pdrop", "embd_pdrop", "attn_pdrop"] {
            put(key, json!(0.0));
        }
        insert_token_ids(&mut out, c);
        return Value::Object(out);
    }
    put("hidden_size", json!(c.hidden_size));
    put("num_hidden_layers", json!(c.num_hidden_layers));
    put("num_attention_heads", json!(c.num_attention_heads));
    put("max_position_embeddings", json!(c.max_position_embeddings));
    put("attention_dropout", json!(0.0));
    match c.family {
        Family::Falcon => {
            put("ffn_hidden_size", json!(c.intermediate_size));
            put("layer_norm_epsilon", json!(c.norm_eps));
            put("activation", json!(act));
            put("bias", json!(c.qkv_bias));
            put("alibi", json!(false));
            let new = c.layout == Layout::Parallel || !matches!(c.num_key_value_heads, 1) && c.num_key_value_heads != c.num_attention_heads;
            put("new_decoder_architecture", json!(new));
            put("multi_query", json!(new || c.num_key_value_heads == 1));
            put("parallel_attn", json!(c.layout != Layout::PreNorm));
            // Read by the new architecture only.
            put("num_kv_heads", json!(if new { c.num_key_value_heads } else { c.num_attention_heads }));
            put("num_ln_in_parallel_attn", if new { json!(if c.layout == Layout::Parallel { 2 } else { 1 }) } else { Value::Null });
            put("hidden_dropout", json!(0.0));
        }
        Family::GptNeox => {
            put("intermediate_size", json!(c.intermediate_size));
            put("layer_norm_eps", json!(c.norm_eps));
            put("hidden_act", json!(act));
            put("attention_bias", json!(c.qkv_bias));
            put("use_parallel_residual", json!(c.layout == Layout::Parallel));
            put("rotary_pct", json!(c.partial_rotary_factor));
            put("rotary_emb_base", json!(c.rope_theta));
            put("hidden_dropout", json!(0.0));
        }
        _ => {
            put("rms_norm_eps", json!(c.norm_eps));
            put("num_key_value_heads", json!(c.num_key_value_heads));
            if c.family != Family::Gemma2 {
                put("hidden_act", json!(act));
            }
            // The other families know no such field; their heads divide the hidden size.
            if matches!(
                c.family,
                Family::Llama | Family::Mistral | Family::Mixtral | Family::Qwen3 | Family::Qwen3Moe | Family::Gemma | Family::Gemma2
            ) {
                put("head_dim", json!(c.head_size()));
            }
            if !matches!(c.family, Family::Mixtral | Family::Olmoe) {
                put("intermediate_size", json!(c.intermediate_size));
            }
            if !matches!(c.family, Family::Mistral | Family::Mixtral | Family::Phi3 | Family::Qwen2 | Family::Qwen2Moe) {
                put("attention_bias", json!(c.output_bias));
            }
        }
    }
    family_fields(c, &mut put);
    if c.positions == Positions::Rope {
        rope(c, &mut put);
    }
    insert_token_ids(&mut out, c);
    Value::Object(out)
}

fn layer_types(c: &DecoderConfig) -> Value {
    let kind = |i: usize| match c.window(i) {
        Some(_) => "sliding_attention",
        None => "full_attention",
    };
    json!((0..c.num_hidden_layers).map(kind).collect::<Vec<_>>())
}

fn family_fields(c: &DecoderConfig, put: &mut impl FnMut(&str, Value)) {
    match c.family {
        Family::Llama => put("mlp_bias", json!(c.mlp_bias)),
        Family::Mistral | Family::Phi3 | Family::Mixtral => put("sliding_window", json!(c.sliding_window)),
        Family::Qwen2 | Family::Qwen3 | Family::Qwen2Moe | Family::Qwen3Moe => {
            put("use_sliding_window", json!(c.sliding_window.is_some()));
            put("sliding_window", json!(c.sliding_window));
            if !matches!(c.family, Family::Qwen3Moe) {
                let full = c.layer_types.iter().take_while(|t| **t == LayerType::FullAttention).count();
                // 28 is the class default, without meaning when nothing slides.
                put("max_window_layers", json!(if c.sliding_window.is_some() { full } else { 28 }));
                put("layer_types", layer_types(c));
            }
        }
        Family::Gemma => put("hidden_activation", json!(activation(c.hidden_act, c.family))),
        Family::Gemma2 => {
            put("hidden_activation", json!(activation(c.hidden_act, c.family)));
            let scalar = c.query_pre_attn_scalar.unwrap_or(256.0);
            put("query_pre_attn_scalar", if scalar.fract() == 0.0 { json!(scalar as u64) } else { json!(scalar) });
            put("attn_logit_softcapping", json!(c.attn_logit_softcapping));
            put("final_logit_softcapping", json!(c.final_logit_softcapping));
            put("sliding_window", json!(c.sliding_window));
            put("layer_types", layer_types(c));
        }
        _ => {}
    }
    if let Some(mla) = &c.mla {
        put("q_lora_rank", json!(mla.q_lora_rank));
        put("kv_lora_rank", json!(mla.kv_lora_rank));
        put("qk_nope_head_dim", json!(mla.qk_nope_head_dim));
        put("qk_rope_head_dim", json!(mla.qk_rope_head_dim));
        put("v_head_dim", json!(mla.v_head_dim));
        if c.family == Family::DeepseekV3 {
            put("rope_interleave", json!(c.rope_interleave));
        }
    }
    let Some(moe) = &c.moe else { return };
    put("num_experts_per_tok", json!(moe.num_experts_per_tok));
    put("output_router_logits", json!(false));
    match c.family {
        Family::Mixtral => {
            put("num_local_experts", json!(moe.num_experts));
            put("intermediate_size", json!(moe.moe_intermediate_size));
            put("router_aux_loss_coef", json!(moe.router_aux_loss_coef));
            put("router_jitter_noise", json!(moe.router_jitter_noise));
        }
        Family::Olmoe => {
            put("num_experts", json!(moe.num_experts));
            put("intermediate_size", json!(moe.moe_intermediate_size));
            put("norm_topk_prob", json!(moe.norm_topk_prob));
            put("router_aux_loss_coef", json!(moe.router_aux_loss_coef));
            put("clip_qkv", json!(c.clip_qkv));
        }
        Family::Qwen2Moe | Family::Qwen3Moe => {
            put("num_experts", json!(moe.num_experts));
            put("moe_intermediate_size", json!(moe.moe_intermediate_size));
            put("norm_topk_prob", json!(moe.norm_topk_prob));
            put("router_aux_loss_coef", json!(moe.router_aux_loss_coef));
            put("decoder_sparse_step", json!(1));
            put("mlp_only_layers", json!(c.mlp_only_layers));
            if c.family == Family::Qwen2Moe {
                put("shared_expert_intermediate_size", json!(moe.shared_expert_intermediate_size));
                put("qkv_bias", json!(c.qkv_bias));
            }
        }
        _ => {
            put("n_routed_experts", json!(moe.num_experts));
            put("n_shared_experts", json!(moe.shared_expert_intermediate_size / moe.moe_intermediate_size.max(1)));
            put("moe_intermediate_size", json!(moe.moe_intermediate_size));
            put("first_k_dense_replace", json!(c.mlp_only_layers.len()));
            put("moe_layer_freq", json!(1));
            put("n_group", json!(moe.n_group));
            put("topk_group", json!(moe.topk_group));
            put("norm_topk_prob", json!(moe.norm_topk_prob));
            put("routed_scaling_factor", json!(moe.routed_scaling_factor));
            let (method, scoring) = match moe.topk_method {
                TopkMethod::Greedy => ("greedy", "softmax"),
                TopkMethod::GroupLimitedGreedy => ("group_limited_greedy", "softmax"),
                TopkMethod::NoauxTc => ("noaux_tc", "sigmoid"),
            };
            put("topk_method", json!(method));
            put("scoring_func", json!(scoring));
        }
    }
}

fn rope(c: &DecoderConfig, put: &mut impl FnMut(&str, Value)) {
    let scaling = match &c.rope_scaling {
        RopeScaling::Default => Value::Null,
        other => serde_json::to_value(other).unwrap_or(Value::Null),
    };
    let mut parameters = scaling.as_object().cloned().unwrap_or_else(|| Map::from_iter([("rope_type".to_string(), json!("default"))]));
    parameters.insert("rope_theta".into(), json!(c.rope_theta));
    if matches!(c.family, Family::GptNeox | Family::Phi3) {
        parameters.insert("partial_rotary_factor".into(), json!(c.partial_rotary_factor));
    }
    if c.family == Family::Phi3 && c.partial_rotary_factor != 1.0 {
        put("partial_rotary_factor", json!(c.partial_rotary_factor));
    }
    if let (Family::Phi3, RopeScaling::Longrope { original_max_position_embeddings, .. }) = (c.family, &c.rope_scaling) {
        put("original_max_position_embeddings", json!(original_max_position_embeddings));
    }
    if c.family != Family::GptNeox {
        put("rope_theta", json!(c.rope_theta));
    }
    put("rope_scaling", scaling);
    put("rope_parameters", Value::Object(parameters));
}
