//! What the models of a family have in common; arguments are what tells them apart.

use crate::config::{DecoderConfig, Family, LayerType, Layout, MlaConfig, Positions, QkNorm};
use crate::rope::RopeScaling;
use llm_moe::{MoeConfig, Scoring, TopkMethod};
use llm_tensor::nn::NormKind;
use llm_tensor::ops::Activation;

pub(super) fn gpt2(hidden_size: usize, layers: usize, heads: usize) -> DecoderConfig {
    DecoderConfig {
        family: Family::Gpt2,
        vocab_size: 50257,
        hidden_size,
        intermediate_size: 4 * hidden_size,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: heads,
        max_position_embeddings: 1024,
        norm: NormKind::LayerNorm,
        positions: Positions::Learned,
        qkv_bias: true,
        output_bias: true,
        mlp_bias: true,
        hidden_act: Activation::GeluTanh,
        gated_mlp: false,
        bos_token_id: Some(50256),
        eos_token_id: vec![50256],
        ..DecoderConfig::default()
    }
}

pub(super) fn llama2(vocab_size: usize, hidden_size: usize, intermediate_size: usize, layers: usize, heads: usize, kv_heads: usize) -> DecoderConfig {
    DecoderConfig {
        vocab_size,
        hidden_size,
        intermediate_size,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        max_position_embeddings: 4096,
        tie_word_embeddings: false,
        bos_token_id: Some(1),
        eos_token_id: vec![2],
        ..DecoderConfig::default()
    }
}

pub(super) fn llama3(hidden_size: usize, intermediate_size: usize, layers: usize, heads: usize) -> DecoderConfig {
    DecoderConfig {
        rope_theta: 500_000.0,
        max_position_embeddings: 8192,
        bos_token_id: Some(128_000),
        eos_token_id: vec![128_001],
        ..llama2(128_256, hidden_size, intermediate_size, layers, heads, 8)
    }
}

pub(super) fn llama32(hidden_size: usize, layers: usize, heads: usize) -> DecoderConfig {
    DecoderConfig {
        head_dim: hidden_size / heads,
        tie_word_embeddings: true,
        max_position_embeddings: 131_072,
        rope_scaling: RopeScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: 8192 },
        ..llama3(hidden_size, 8192, layers, heads)
    }
}

pub(super) fn smollm(hidden_size: usize, intermediate_size: usize, layers: usize, heads: usize, kv_heads: usize) -> DecoderConfig {
    DecoderConfig {
        max_position_embeddings: 2048,
        tie_word_embeddings: true,
        bos_token_id: Some(0),
        eos_token_id: vec![0],
        ..llama2(49152, hidden_size, intermediate_size, layers, heads, kv_heads)
    }
}

pub(super) fn mixtral() -> DecoderConfig {
    DecoderConfig {
        family: Family::Mixtral,
        rope_theta: 1e6,
        max_position_embeddings: 32768,
        moe: Some(MoeConfig { router_aux_loss_coef: 0.02, ..MoeConfig::default() }),
        ..llama2(32000, 4096, 14336, 32, 32, 8)
    }
}

pub(super) fn qwen25(vocab_size: usize, hidden_size: usize, intermediate_size: usize, layers: usize, heads: usize, kv_heads: usize) -> DecoderConfig {
    DecoderConfig {
        family: Family::Qwen2,
        norm_eps: 1e-6,
        rope_theta: 1e6,
        max_position_embeddings: 131_072,
        qkv_bias: true,
        bos_token_id: Some(151_643),
        eos_token_id: vec![151_643],
        ..llama2(vocab_size, hidden_size, intermediate_size, layers, heads, kv_heads)
    }
}

pub(super) fn qwen3(hidden_size: usize, intermediate_size: usize, layers: usize, heads: usize, kv_heads: usize) -> DecoderConfig {
    DecoderConfig {
        family: Family::Qwen3,
        head_dim: 128,
        qkv_bias: false,
        qk_norm: QkNorm::Head,
        max_position_embeddings: 40960,
        eos_token_id: vec![151_645],
        ..qwen25(151_936, hidden_size, intermediate_size, layers, heads, kv_heads)
    }
}

pub(super) fn gemma(hidden_size: usize, intermediate_size: usize, layers: usize, heads: usize, kv_heads: usize) -> DecoderConfig {
    DecoderConfig {
        family: Family::Gemma,
        head_dim: 256,
        norm: NormKind::GemmaRmsNorm,
        norm_eps: 1e-6,
        max_position_embeddings: 8192,
        hidden_act: Activation::GeluTanh,
        scale_embeddings: true,
        tie_word_embeddings: true,
        bos_token_id: Some(2),
        eos_token_id: vec![1],
        pad_token_id: Some(0),
        ..llama2(256_000, hidden_size, intermediate_size, layers, heads, kv_heads)
    }
}

pub(super) fn gemma2(hidden_size: usize, intermediate_size: usize, layers: usize, heads: usize, kv_heads: usize) -> DecoderConfig {
    let kind = |i: usize| if i.is_multiple_of(2) { LayerType::SlidingAttention } else { LayerType::FullAttention };
    DecoderConfig {
        family: Family::Gemma2,
        layout: Layout::Sandwich,
        query_pre_attn_scalar: Some(256.0),
        attn_logit_softcapping: Some(50.0),
        final_logit_softcapping: Some(30.0),
        sliding_window: Some(4096),
        layer_types: (0..layers).map(kind).collect(),
        ..gemma(hidden_size, intermediate_size, layers, heads, kv_heads)
    }
}

pub(super) fn olmoe() -> DecoderConfig {
    DecoderConfig {
        family: Family::Olmoe,
        qk_norm: QkNorm::Projection,
        moe: Some(MoeConfig {
            num_experts: 64,
            num_experts_per_tok: 8,
            moe_intermediate_size: 1024,
            norm_topk_prob: false,
            router_aux_loss_coef: 0.01,
            ..MoeConfig::default()
        }),
        bos_token_id: None,
        eos_token_id: vec![50279],
        pad_token_id: Some(1),
        ..llama2(50304, 2048, 1024, 16, 16, 16)
    }
}

pub(super) fn olmo2() -> DecoderConfig {
    DecoderConfig {
        family: Family::Olmo2,
        layout: Layout::PostNorm,
        qk_norm: QkNorm::Projection,
        norm_eps: 1e-6,
        rope_theta: 500_000.0,
        bos_token_id: None,
        eos_token_id: vec![100_257],
        pad_token_id: Some(100_277),
        ..llama2(100_352, 4096, 11008, 32, 32, 32)
    }
}

pub(super) fn pythia(hidden_size: usize, layers: usize, heads: usize) -> DecoderConfig {
    DecoderConfig {
        family: Family::GptNeox,
        vocab_size: 50304,
        max_position_embeddings: 2048,
        layout: Layout::Parallel,
        positions: Positions::Rope,
        partial_rotary_factor: 0.25,
        hidden_act: Activation::Gelu,
        tie_word_embeddings: false,
        bos_token_id: Some(0),
        eos_token_id: vec![0],
        ..gpt2(hidden_size, layers, heads)
    }
}

pub(super) fn falcon(hidden_size: usize, layers: usize, heads: usize, kv_heads: usize, layout: Layout) -> DecoderConfig {
    DecoderConfig {
        family: Family::Falcon,
        vocab_size: 65024,
        num_key_value_heads: kv_heads,
        max_position_embeddings: 2048,
        layout,
        positions: Positions::Rope,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        hidden_act: Activation::Gelu,
        bos_token_id: Some(11),
        eos_token_id: vec![11],
        ..gpt2(hidden_size, layers, heads)
    }
}

/// YaRN from 4k to 160k tokens. The published `mscale` is 0.707 for V2-Lite and 1 for the large ones (V2's report says 0.707 there too).
pub(super) fn deepseek_yarn(mscale: f64) -> RopeScaling {
    RopeScaling::Yarn {
        factor: 40.0,
        original_max_position_embeddings: 4096,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: None,
        mscale: Some(mscale),
        mscale_all_dim: Some(mscale),
        truncate: true,
    }
}

pub(super) fn v2_experts(num_experts: usize, width: usize) -> MoeConfig {
    MoeConfig {
        num_experts,
        num_experts_per_tok: 6,
        moe_intermediate_size: width,
        shared_expert_intermediate_size: 2 * width,
        norm_topk_prob: false,
        router_aux_loss_coef: 0.001,
        ..MoeConfig::default()
    }
}

pub(super) fn deepseek_v2(
    hidden_size: usize,
    intermediate_size: usize,
    layers: usize,
    heads: usize,
    q_lora_rank: Option<usize>,
    moe: MoeConfig,
) -> DecoderConfig {
    DecoderConfig {
        family: Family::DeepseekV2,
        norm_eps: 1e-6,
        max_position_embeddings: 163_840,
        rope_scaling: deepseek_yarn(1.0),
        rope_interleave: true,
        mla: Some(MlaConfig { q_lora_rank, kv_lora_rank: 512, qk_nope_head_dim: 128, qk_rope_head_dim: 64, v_head_dim: 128 }),
        moe: Some(moe),
        mlp_only_layers: vec![0],
        bos_token_id: Some(100_000),
        eos_token_id: vec![100_001],
        ..llama2(102_400, hidden_size, intermediate_size, layers, heads, heads)
    }
}

pub(super) fn deepseek_v3() -> DecoderConfig {
    let moe = MoeConfig {
        num_experts: 256,
        num_experts_per_tok: 8,
        moe_intermediate_size: 2048,
        shared_expert_intermediate_size: 2048,
        scoring_func: Scoring::Sigmoid,
        topk_method: TopkMethod::NoauxTc,
        n_group: 8,
        topk_group: 4,
        norm_topk_prob: true,
        routed_scaling_factor: 2.5,
        ..MoeConfig::default()
    };
    DecoderConfig {
        family: Family::DeepseekV3,
        vocab_size: 129_280,
        mlp_only_layers: vec![0, 1, 2],
        bos_token_id: Some(0),
        eos_token_id: vec![1],
        ..deepseek_v2(7168, 18432, 61, 128, Some(1536), moe)
    }
}
