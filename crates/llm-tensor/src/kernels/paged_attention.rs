//! Attention of single tokens against a paged key/value cache: the decode path, and prefill of short prompts.
//!
//! Keys and values of a sequence live in pages of `page_size` tokens anywhere in one pool (Kwon et al., PagedAttention,
//! 2023), layout `[page, token in page, G, K]` for keys and `[page, token in page, G, U]` for values. Each query is computed on its own in a fixed order, so a sequence's result
//! does not depend on what else is in the batch.

use super::attention::Score;
use super::{dot, exp, max, sum, tanh, vectorized};
use rayon::prelude::*;

/// One query token.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// Pages of its sequence, in order.
    pub pages: &'a [u32],
    /// First visible position.
    pub first: usize,
    /// Its own position; the last visible one.
    pub position: usize,
}

/// Sizes of the pool.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements per query and key head.
    pub head_dim: usize,
    /// Elements per value head.
    pub value_dim: usize,
    /// Tokens per page.
    pub page_size: usize,
    /// Floats between the values of two tokens; `kv_heads * value_dim` unless values lie inside the keys (latent attention).
    pub value_stride: usize,
}

/// `q` is `[N, H, K]`, `keys` and `values` are the pool; returns `[N, H, U]`.
///
/// # Panics
/// When a query names a position its pages do not hold.
pub fn forward(q: &[f32], keys: &[f32], values: &[f32], queries: &[Query], shape: Shape, score: Score) -> Vec<f32> {
    let Shape { heads, kv_heads, head_dim, value_dim, .. } = shape;
    assert_eq!(q.len(), queries.len() * heads * head_dim, "q");
    let group = heads / kv_heads;
    let mut out = vec![0f32; queries.len() * heads * value_dim];
    out.par_chunks_exact_mut(group * value_dim).zip(q.par_chunks_exact(group * head_dim)).enumerate().with_min_len(8).for_each_init(
        Vec::new,
        |scores, (task, (out, q))| {
            attend(out, q, keys, values, queries[task / kv_heads], task % kv_heads, shape, score, scores);
        },
    );
    out
}

vectorized! {
    /// The heads of one group of one query.
    fn attend(out: &mut [f32], q: &[f32], keys: &[f32], values: &[f32], query: Query<'_>, g: usize, shape: Shape, score: Score, scores: &mut Vec<f32>) {
        let Shape { kv_heads, head_dim, value_dim, page_size, value_stride, .. } = shape;
        let row = |s: usize| query.pages[s / page_size] as usize * page_size + s % page_size;
        for (out, q) in out.chunks_exact_mut(value_dim).zip(q.chunks_exact(head_dim)) {
            scores.clear();
            for s in query.first..=query.position {
                let at = (row(s) * kv_heads + g) * head_dim;
                scores.push(score.scale * dot(q, &keys[at..at + head_dim]));
            }
            if let Some(cap) = score.softcap {
                for s in scores.iter_mut() {
                    *s = cap * tanh(*s / cap);
                }
            }
            let largest = max(scores);
            for s in scores.iter_mut() {
                *s = exp(*s - largest);
            }
            let factor = 1.0 / sum(scores);
            for (s, p) in (query.first..=query.position).zip(scores.iter()) {
                let p = p * factor;
                let at = row(s) * value_stride + g * value_dim;
                for (o, v) in out.iter_mut().zip(&values[at..at + value_dim]) {
                    *o += p * v;
                }
            }
        }
    }
}
