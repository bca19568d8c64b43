//! Keys and values of sequences being generated, in pages.
//!
//! The pool lives in host memory: on the CPU that is where the kernel reads it, and a GPU path can keep its own pool behind
//! the same calls. Which page belongs to which sequence is `llm-infer`'s business; this file only stores and reads.

use crate::DecoderConfig;
use llm_tensor::kernels::paged_attention::{self, Query, Shape};
use llm_tensor::ops::Indices;

/// Storage for `pages * page_size` tokens in every layer.
#[derive(Debug)]
pub struct KvPool {
    layers: Vec<Layer>,
    shape: Shape,
    sliding_window: Option<usize>,
}

#[derive(Debug)]
struct Layer {
    keys: Vec<f32>,
    values: Vec<f32>,
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
        let shape = Shape { heads: config.num_attention_heads, kv_heads: config.num_key_value_heads, head_dim: config.head_size(), page_size };
        let floats = pages * page_size * shape.kv_heads * shape.head_dim;
        let layers = (0..config.num_hidden_layers).map(|_| Layer { keys: vec![0.0; floats], values: vec![0.0; floats] }).collect();
        Self { layers, shape, sliding_window: config.sliding_window }
    }

    /// Bytes of one page in all layers.
    pub fn page_bytes(config: &DecoderConfig, page_size: usize) -> usize {
        2 * 4 * config.num_hidden_layers * page_size * config.num_key_value_heads * config.head_size()
    }

    /// Store keys and values `[N, G, K]` of a batch in one layer, then attend with `q [N, H, K]`.
    pub(crate) fn attend(&mut self, layer: usize, batch: &CachedBatch, q: &[f32], k: &[f32], v: &[f32], scale: f32) -> Vec<f32> {
        let Shape { kv_heads, head_dim, page_size, .. } = self.shape;
        let token = kv_heads * head_dim;
        let Layer { keys, values } = &mut self.layers[layer];
        for (n, (pages, &position)) in batch.pages.iter().zip(batch.positions.iter()).enumerate() {
            let position = position as usize;
            let at = (pages[position / page_size] as usize * page_size + position % page_size) * token;
            keys[at..at + token].copy_from_slice(&k[n * token..(n + 1) * token]);
            values[at..at + token].copy_from_slice(&v[n * token..(n + 1) * token]);
        }
        let queries: Vec<Query> = batch
            .pages
            .iter()
            .zip(batch.positions.iter())
            .map(|(pages, &position)| {
                let position = position as usize;
                Query { pages, first: self.sliding_window.map_or(0, |w| (position + 1).saturating_sub(w)), position }
            })
            .collect();
        paged_attention::forward(q, keys, values, &queries, self.shape, scale)
    }
}
