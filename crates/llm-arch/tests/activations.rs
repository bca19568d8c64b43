//! The planner's memory of activations against a measured one: bytes that are alive after a forward pass because the backward pass
//! needs them. If this fails, `llm-arch inspect` promises a batch that does not fit, or an operation has begun to keep more.

use llm_arch::budget::memory::activation_bytes;
use llm_arch::config::{Layout, MlaConfig, Positions, QkNorm};
use llm_arch::{Decoder, DecoderConfig, PackedBatch};
use llm_moe::MoeConfig;
use llm_run::Seed;
use llm_tensor::burn::tensor::Device;
use llm_tensor::nn::NormKind;
use std::alloc::{GlobalAlloc, Layout as Block, System};
use std::sync::atomic::{AtomicIsize, Ordering};

/// The system's allocator with a count of what is alive.
struct Counting;

static ALIVE: AtomicIsize = AtomicIsize::new(0);

// SAFETY: every call goes to `System` unchanged; only a counter is kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, block: Block) -> *mut u8 {
        ALIVE.fetch_add(block.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promises are `System`'s conditions.
        unsafe { System.alloc(block) }
    }
    unsafe fn dealloc(&self, at: *mut u8, block: Block) {
        ALIVE.fetch_sub(block.size() as isize, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, block) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn measured(config: &DecoderConfig, batch: usize, length: usize) -> f64 {
    let decoder = Decoder::new(config, Seed(0), &Device::flex().autodiff()).unwrap().tracked();
    let ids: Vec<u32> = (0..batch * length).map(|i| (i % config.vocab_size) as u32).collect();
    let starts: &[u32] = &[0];
    let rows = PackedBatch::documents(ids, &vec![starts; batch], length);
    // Once before, so that threads and their scratch exist.
    drop(decoder.hidden(&rows).sum().backward());
    let before = ALIVE.load(Ordering::Relaxed);
    let hidden = decoder.hidden(&rows);
    let kept = ALIVE.load(Ordering::Relaxed) - before;
    drop(hidden.sum().backward());
    kept as f64
}

#[test]
fn the_formula_is_within_a_fifth_of_a_measured_tape() {
    let llama = DecoderConfig {
        vocab_size: 512,
        hidden_size: 128,
        intermediate_size: 352,
        num_hidden_layers: 3,
        num_attention_heads: 8,
        ..DecoderConfig::default()
    };
    let gpt2 = DecoderConfig {
        norm: NormKind::LayerNorm,
        positions: Positions::Learned,
        num_key_value_heads: 8,
        intermediate_size: 512,
        gated_mlp: false,
        qkv_bias: true,
        output_bias: true,
        mlp_bias: true,
        ..llama.clone()
    };
    let experts =
        MoeConfig { num_experts: 8, num_experts_per_tok: 2, moe_intermediate_size: 96, shared_expert_intermediate_size: 96, ..MoeConfig::default() };
    let mla = MlaConfig { q_lora_rank: Some(48), kv_lora_rank: 32, qk_nope_head_dim: 16, qk_rope_head_dim: 8, v_head_dim: 16 };
    let cases = [
        ("llama", llama.clone()),
        ("gpt2", gpt2.clone()),
        ("falcon", DecoderConfig { layout: Layout::ParallelShared, positions: Positions::Rope, ..gpt2.clone() }),
        ("neox", DecoderConfig { layout: Layout::Parallel, positions: Positions::Rope, partial_rotary_factor: 0.25, ..gpt2 }),
        ("qwen3", DecoderConfig { qk_norm: QkNorm::Head, ..llama.clone() }),
        ("olmo2", DecoderConfig { qk_norm: QkNorm::Projection, layout: Layout::PostNorm, ..llama.clone() }),
        ("gemma2", DecoderConfig { layout: Layout::Sandwich, ..llama.clone() }),
        ("mixture", DecoderConfig { moe: Some(experts), mlp_only_layers: vec![0], ..llama.clone() }),
        ("mla", DecoderConfig { num_key_value_heads: 8, mla: Some(mla), rope_interleave: true, ..llama }),
    ];
    let mut report = String::new();
    let mut worst = 0f64;
    for (name, config) in cases {
        let (batch, length) = (2, 256);
        let tokens = batch * length;
        let measured = measured(&config, batch, length);
        // The loss is not part of the measured pass: neither its scratch nor the gradient it hands back.
        let logits = 4.0 * (tokens * config.vocab_size).min(1 << 21) as f64;
        let expected = activation_bytes(&config, tokens, 4) - logits - (4 * tokens * config.hidden_size) as f64;
        let ratio = expected / measured;
        worst = worst.max((ratio - 1.0).abs());
        report += &format!("{name:8} formula {:8.0} KiB, measured {:8.0} KiB, ratio {ratio:.3}\n", expected / 1024.0, measured / 1024.0);
    }
    println!("{report}");
    assert!(worst < 0.2, "{report}");
}
