//! Attention of single tokens against a paged key/value cache: the decode path, and prefill of short prompts.
//!
//! Keys and values of a sequence live in pages of `page_size` tokens anywhere in one pool (Kwon et al., PagedAttention,
//! 2023), layout `[page, token in page, G, K]`. Each query is computed on its own in a fixed order, so a sequence's result
//! does not depend on what else is in the batch.

use super::{dot, exp, max, sum, vectorized};
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
    /// Elements per head.
    pub head_dim: usize,
    /// Tokens per page.
    pub page_size: usize,
}

/// `q` is `[N, H, K]`, `keys` and `values` are the pool; returns `[N, H, K]`.
///
/// # Panics
/// When a query names a position its pages do not hold.
pub fn forward(q: &[f32], keys: &[f32], values: &[f32], queries: &[Query], shape: Shape, scale: f32) -> Vec<f32> {
    let Shape { heads, kv_heads, head_dim, .. } = shape;
    assert_eq!(q.len(), queries.len() * heads * head_dim, "q");
    let group = heads / kv_heads * head_dim;
    let mut out = vec![0f32; q.len()];
    out.par_chunks_exact_mut(group).zip(q.par_chunks_exact(group)).enumerate().with_min_len(8).for_each_init(Vec::new, |scores, (task, (out, q))| {
        attend(out, q, keys, values, queries[task / kv_heads], task % kv_heads, shape, scale, scores);
    });
    out
}

vectorized! {
    /// The heads of one group of one query.
    fn attend(out: &mut [f32], q: &[f32], keys: &[f32], values: &[f32], query: Query<'_>, g: usize, shape: Shape, scale: f32, scores: &mut Vec<f32>) {
        let Shape { kv_heads, head_dim, page_size, .. } = shape;
        let token = kv_heads * head_dim;
        let at = |s: usize| (query.pages[s / page_size] as usize * page_size + s % page_size) * token + g * head_dim;
        for (out, q) in out.chunks_exact_mut(head_dim).zip(q.chunks_exact(head_dim)) {
            scores.clear();
            for s in query.first..=query.position {
                scores.push(scale * dot(q, &keys[at(s)..at(s) + head_dim]));
            }
            let largest = max(scores);
            for s in scores.iter_mut() {
                *s = exp(*s - largest);
            }
            let factor = 1.0 / sum(scores);
            for (s, p) in (query.first..=query.position).zip(scores.iter()) {
                let p = p * factor;
                for (o, v) in out.iter_mut().zip(&values[at(s)..at(s) + head_dim]) {
                    *o += p * v;
                }
            }
        }
    }
}
