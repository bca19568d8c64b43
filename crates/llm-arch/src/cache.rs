//! Keys and values of sequences being generated, in pages.
//!
//! The pool lives in host memory: on the CPU that is where the kernel reads it, and a GPU path can keep its own pool behind
//! the same calls. Which page belongs to which sequence is `llm-infer`'s business; this file only stores and reads.
//!
//! Latent attention stores one compressed vector a token (`kv_lora_rank + qk_rope_head_dim` numbers) that serves as key of all
//! heads, and whose first part serves as value.
//!
//! Numbers are `f32`, `bf16`, or 8 bits with a scale for each token and head ([`KvDtype`]). What is stored is what is read, also by the step that
//! stores it: an answer does not depend on how its prompt was cut.

use crate::{DecoderConfig, Error, Result};
use llm_tensor::kernels::kv::Cells;
use llm_tensor::kernels::paged_attention::{self, Pool, Query, Shape};
use llm_tensor::ops::{Indices, Score};
use std::ops::Range;

pub use llm_tensor::kernels::kv::KvDtype;

/// Storage for `pages * page_size` tokens in every layer.
#[derive(Debug)]
pub struct KvPool {
    layers: Vec<Layer>,
    shape: Shape,
    pages: usize,
    dtype: KvDtype,
}

#[derive(Debug)]
struct Layer {
    keys: Cells,
    /// None when values are a part of the keys.
    values: Option<Cells>,
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
    pub fn new(config: &DecoderConfig, pages: usize, page_size: usize, dtype: KvDtype) -> Self {
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
        let cells = |width: usize| Cells::new(dtype, pages * page_size, shape.kv_heads, width);
        let layers = (0..config.num_hidden_layers)
            .map(|layer| Layer {
                keys: cells(shape.head_dim),
                values: config.mla.is_none().then(|| cells(shape.value_dim)),
                window: config.window(layer),
            })
            .collect();
        Self { layers, shape, pages, dtype }
    }

    /// Bytes a token takes in one layer.
    pub fn token_bytes(config: &DecoderConfig, dtype: KvDtype) -> usize {
        match &config.mla {
            Some(mla) => dtype.vector_bytes(mla.kv_lora_rank + mla.qk_rope_head_dim),
            None => 2 * config.num_key_value_heads * dtype.vector_bytes(config.head_size()),
        }
    }

    /// Bytes of one page in all layers.
    pub fn page_bytes(config: &DecoderConfig, page_size: usize, dtype: KvDtype) -> usize {
        config.num_hidden_layers * page_size * Self::token_bytes(config, dtype)
    }

    /// Number format.
    pub fn dtype(&self) -> KvDtype {
        self.dtype
    }

    fn rows(&self, page: u32) -> Range<usize> {
        let size = self.shape.page_size;
        page as usize * size..(page as usize + 1) * size
    }

    /// All layers of a page, copied over another one.
    ///
    /// # Panics
    /// When there is no such page, here and below: who owns which page is the caller's arithmetic.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        let (from, to) = (self.rows(from), self.rows(to).start);
        for Layer { keys, values, .. } in &mut self.layers {
            keys.copy(from.clone(), to);
            values.iter_mut().for_each(|values| values.copy(from.clone(), to));
        }
    }

    /// The bytes of a page in all layers, to be kept elsewhere while the page is used for something else.
    pub fn read_page(&self, page: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.bytes_per_page());
        for Layer { keys, values, .. } in &self.layers {
            keys.read_bytes(self.rows(page), &mut bytes);
            values.iter().for_each(|values| values.read_bytes(self.rows(page), &mut bytes));
        }
        bytes
    }

    /// Put back what [`KvPool::read_page`] gave, into any page of a pool of the same model, page size and format.
    pub fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<()> {
        let (found, expected) = (bytes.len(), self.bytes_per_page());
        if found != expected {
            return Err(Error::Cache(format!("a saved page has {found} bytes, expected {expected}; it belongs to another model or format")));
        }
        let (rows, mut rest) = (self.rows(page), bytes);
        for Layer { keys, values, .. } in &mut self.layers {
            rest = keys.write_bytes(rows.clone(), rest);
            for values in values {
                rest = values.write_bytes(rows.clone(), rest);
            }
        }
        Ok(())
    }

    /// Bytes of one page in all layers: [`KvPool::page_bytes`] of this pool.
    pub fn bytes_per_page(&self) -> usize {
        let Shape { kv_heads, head_dim, value_dim, page_size, .. } = self.shape;
        let token = |layer: &Layer| {
            let values = if layer.values.is_some() { self.dtype.vector_bytes(value_dim) } else { 0 };
            kv_heads * (self.dtype.vector_bytes(head_dim) + values)
        };
        page_size * self.layers.iter().map(token).sum::<usize>()
    }

    /// Pages there are.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Store keys `[N, G, K]` and values `[N, G, U]` of a batch in one layer, then attend with `q [N, H, K]`. Values are empty when
    /// the keys hold them.
    pub(crate) fn attend(&mut self, layer: usize, batch: &CachedBatch, q: &[f32], k: &[f32], v: &[f32], score: Score) -> Vec<f32> {
        let Shape { kv_heads, head_dim, value_dim, page_size, .. } = self.shape;
        let (key, value) = (kv_heads * head_dim, kv_heads * value_dim);
        let Layer { keys, values, window } = &mut self.layers[layer];
        for (n, (pages, &position)) in batch.pages.iter().zip(batch.positions.iter()).enumerate() {
            let position = position as usize;
            let row = pages[position / page_size] as usize * page_size + position % page_size;
            keys.write(row, &k[n * key..(n + 1) * key]);
            if let Some(values) = values {
                values.write(row, &v[n * value..(n + 1) * value]);
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
        let pool = Pool { keys: keys.view(), values: values.as_ref().unwrap_or(keys).view() };
        paged_attention::forward(q, pool, &queries, self.shape, score)
    }
}
