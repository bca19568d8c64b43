//! Attention of single tokens against a paged key/value cache: the decode path, and prefill of short prompts.
//!
//! Keys and values of a sequence live in pages of `page_size` tokens anywhere in one pool (Kwon et al., PagedAttention,
//! 2023), layout `[page, token in page, G, K]`. Each query is computed on its own in a fixed order, so a sequence's result
//! does not depend on what else is in the batch.

use super::{dot, exp, sum8};
use pulp::Arch;
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
    let Shape { heads, kv_heads, head_dim, page_size } = shape;
    assert_eq!(q.len(), queries.len() * heads * head_dim, "q");
    let group = heads / kv_heads;
    let token = kv_heads * head_dim;
    let arch = Arch::new();
    let mut out = vec![0f32; q.len()];
    out.par_chunks_exact_mut(group * head_dim).enumerate().with_min_len(8).for_each_init(Vec::new, |scores: &mut Vec<f32>, (task, out)| {
        let (n, g) = (task / kv_heads, task % kv_heads);
        let Query { pages, first, position } = queries[n];
        let at = |s: usize| (pages[s / page_size] as usize * page_size + s % page_size) * token + g * head_dim;
        let seen = position + 1 - first;
        arch.dispatch(
            #[inline(always)]
            || {
                for (i, out) in out.chunks_exact_mut(head_dim).enumerate() {
                    let q_at = (n * heads + g * group + i) * head_dim;
                    let q = &q[q_at..q_at + head_dim];
                    scores.clear();
                    scores.extend((first..=position).map(|s| scale * dot(q, &keys[at(s)..at(s) + head_dim])));
                    let max = scores.iter().fold(f32::NEG_INFINITY, |m, &s| if s > m { s } else { m });
                    for s in scores.iter_mut() {
                        *s = exp(*s - max);
                    }
                    let factor = 1.0 / sum8(scores[..seen].iter().copied());
                    for (s, p) in (first..=position).zip(scores.iter()) {
                        let p = p * factor;
                        let value = &values[at(s)..at(s) + head_dim];
                        for (o, v) in out.iter_mut().zip(value) {
                            *o += p * v;
                        }
                    }
                }
            },
        );
    });
    out
}
