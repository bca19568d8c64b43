//! Keys and values of sequences being generated, in pages.
//!
//! The pool lives in host memory: on the CPU that is where the kernel reads it, and a GPU path can keep its own pool behind
//! the same calls. Which page belongs to which sequence is `llm-infer`'s business; this file only stores and reads.
//!
//! Latent attention stores one compressed vector a token (`kv_lora_rank + qk_rope_head_dim` floats) that serves as key of all
//! heads, and whose first part serves as value.

use crate::DecoderConfig;
use llm_tensor::kernels::paged_attention::{self, Query, Shape};
use llm_tensor::ops::{Indices, Score};

/// Storage for `pages * page_size` tokens in every layer.
#[derive(Debug)]
pub struct KvPool {
    layers: Vec<Layer>,
    shape: Shape,
}

#[derive(Debug)]
struct Layer {
    keys: Vec<f32>,
    /// Empty when values are a part of the keys.
    values: Vec<f32>,
    window: Option<usize>,
}

/// Tokens to run through the model with the cache: any mix of prompts being read and sequences being continued.
///
/// Tokens of one sequence come in order; a token sees all earlier ones of its sequence, those in this batch included.
#[derive(Debug, Clone)]
pub struct CachedBatch<'a> {
    /// Token ids, `[N]`.
    pub ids: Indices,
    /// Position of each token in its sequence, `[N]`.
    pub positions: Indices,
    /// Pages of each token's sequence, `[N]`; must cover its position.
    pub pages: Vec<&'a [u32]>,
}

impl KvPool {
    /// Allocate; the memory is touched only as pages are used.
    pub fn new(config: &DecoderConfig, pages: usize, page_size: usize) -> Self {
        let heads = config.num_attention_heads;
        let shape = match &config.mla {
            Some(mla) => {
                let width = mla.kv_lora_rank + mla.qk_rope_head_dim;
                Shape { heads, kv_heads: 1, head_dim: width, value_dim: mla.kv_lora_rank, page_size, value_stride: width }
            }
            None => {
                let (kv_heads, head_dim) = (config.num_key_value_heads, config.head_size());
                Shape { heads, kv_heads, head_dim, value_dim: head_dim, page_size, value_stride: kv_heads * head_dim }
            }
        };
        let tokens = pages * page_size;
        let layers = (0..config.num_hidden_layers)
            .map(|layer| Layer {
                keys: vec![0.0; tokens * shape.kv_heads * shape.head_dim],
                values: if config.mla.is_some() { Vec::new() } else { vec![0.0; tokens * shape.value_stride] },
                window: config.window(layer),
            })
            .collect();
        Self { layers, shape }
    }

    /// Floats a token takes in one layer.
    pub fn token_floats(config: &DecoderConfig) -> usize {
        match &config.mla {
            Some(mla) => mla.kv_lora_rank + mla.qk_rope_head_dim,
            None => 2 * config.num_key_value_heads * config.head_size(),
        }
    }

    /// Bytes of one page in all layers.
    pub fn page_bytes(config: &DecoderConfig, page_size: usize) -> usize {
        4 * config.num_hidden_layers * page_size * Self::token_floats(config)
    }

    /// Store keys `[N, G, K]` and values `[N, G, U]` of a batch in one layer, then attend with `q [N, H, K]`. Values are empty when
    /// the keys hold them.
    pub(crate) fn attend(&mut self, layer: usize, batch: &CachedBatch, q: &[f32], k: &[f32], v: &[f32], score: Score) -> Vec<f32> {
        let Shape { kv_heads, head_dim, value_stride, page_size, .. } = self.shape;
        let token = kv_heads * head_dim;
        let Layer { keys, values, window } = &mut self.layers[layer];
        for (n, (pages, &position)) in batch.pages.iter().zip(batch.positions.iter()).enumerate() {
            let position = position as usize;
            let row = pages[position / page_size] as usize * page_size + position % page_size;
            keys[row * token..(row + 1) * token].copy_from_slice(&k[n * token..(n + 1) * token]);
            if !v.is_empty() {
                values[row * value_stride..(row + 1) * value_stride].copy_from_slice(&v[n * value_stride..(n + 1) * value_stride]);
            }
        }
        let queries: Vec<Query> = batch
            .pages
            .iter()
            .zip(batch.positions.iter())
            .map(|(pages, &position)| {
                let position = position as usize;
                Query { pages, first: window.map_or(0, |w| (position + 1).saturating_sub(w)), position }
            })
            .collect();
        let values = if v.is_empty() { &*keys } else { &*values };
        paged_attention::forward(q, keys, values, &queries, self.shape, score)
    }
}
