//! Causal attention over packed sequences, forward and backward, without ever storing a T x T matrix.
//!
//! For each head, queries are taken in blocks of [`BLOCK`]; a block's scores against the keys it can see live in a scratch
//! of `BLOCK x T` floats that stays in cache. The backward pass computes the probabilities again from q and k (Dao et al.,
//! FlashAttention, 2022, section 3.1) and gets `rowsum(P * dP)` from the block itself, so nothing but q, k and v is kept.
//!
//! What a query may see is one number: `first_key[t]`. Keys `first_key[t] ..= t` are visible. Causality, document
//! boundaries in packed rows, sliding windows and left padding are all expressed by it.
//!
//! Values may have another size per head than queries and keys (latent attention), and scores may be capped
//! (`cap * tanh(score / cap)`, Gemma 2) before the mask.
//!
//! Legend: B batch, T length, H query heads, G key/value heads, K size of a query/key head, U size of a value head. Layouts
//! `[B, T, H, K]` for q, `[B, T, G, K]` for k, `[B, T, G, U]` for v, `[B, T, H, U]` for the output.

use super::matmul::{View, product_raw};
use super::{Shared, dot, exp, max, sum, tanh, vectorized};
use gemm::Parallelism;
use rayon::prelude::*;

/// Queries per block.
pub const BLOCK: usize = 64;

/// Sizes of an attention problem.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Rows.
    pub batch: usize,
    /// Tokens per row.
    pub length: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements per query and key head.
    pub head_dim: usize,
    /// Elements per value head.
    pub value_dim: usize,
}

/// What happens to a raw score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Factor.
    pub scale: f32,
    /// Largest magnitude, approached by `tanh`.
    pub softcap: Option<f32>,
}

impl Shape {
    /// Row `t` of head `h` in a `[B, T, heads, dim]` layout.
    fn at(&self, b: usize, t: usize, heads: usize, h: usize, dim: usize) -> usize {
        ((b * self.length + t) * heads + h) * dim
    }
    fn check(&self, q: &[f32], k: &[f32], v: &[f32], first_key: &[u32]) {
        let tokens = self.batch * self.length;
        assert!(self.heads.is_multiple_of(self.kv_heads), "query heads must be a multiple of key/value heads");
        assert_eq!(q.len(), tokens * self.heads * self.head_dim, "q");
        assert_eq!(k.len(), tokens * self.kv_heads * self.head_dim, "k");
        assert_eq!(v.len(), tokens * self.kv_heads * self.value_dim, "v");
        assert_eq!(first_key.len(), tokens, "first_key");
        assert!(first_key.iter().enumerate().all(|(i, &f)| f as usize <= i % self.length), "first_key beyond its query");
    }
}

/// A block of queries and the keys it sees.
struct Block<'a> {
    t0: usize,
    rows: usize,
    lo: usize,
    columns: usize,
    first_key: &'a [u32],
}

fn blocks(first_key_row: &[u32]) -> impl Iterator<Item = Block<'_>> {
    first_key_row.chunks(BLOCK).enumerate().map(|(i, first_key)| {
        let t0 = i * BLOCK;
        let lo = first_key.iter().min().map_or(0, |&f| f as usize);
        Block { t0, rows: first_key.len(), lo, columns: t0 + first_key.len() - lo, first_key }
    })
}

vectorized! {
    /// Scores to capped scores in place.
    fn cap_scores(scores: &mut [f32], cap: f32) {
        for s in scores.iter_mut() {
            *s = cap * tanh(*s / cap);
        }
    }

    /// Scores to probabilities in place; what a query cannot see becomes exactly 0.
    fn softmax_block(scores: &mut [f32], block: &Block<'_>) {
        for (r, row) in scores.chunks_exact_mut(block.columns).enumerate() {
            let (from, to) = (block.first_key[r] as usize - block.lo, block.t0 + r + 1 - block.lo);
            row[..from].fill(0.0);
            row[to..].fill(0.0);
            let seen = &mut row[from..to];
            let largest = max(seen);
            for s in seen.iter_mut() {
                *s = exp(*s - largest);
            }
            let factor = 1.0 / sum(seen);
            for s in seen.iter_mut() {
                *s *= factor;
            }
        }
    }

    /// `dp <- scale * p * (dp - rowsum(p * dp))`, the gradient of the raw scores.
    fn score_gradient(p: &[f32], dp: &mut [f32], columns: usize, scale: f32) {
        for (p, dp) in p.chunks_exact(columns).zip(dp.chunks_exact_mut(columns)) {
            let delta = dot(p, dp);
            for (p, d) in p.iter().zip(dp.iter_mut()) {
                *d = scale * p * (*d - delta);
            }
        }
    }

    /// `d <- d * (1 - (capped / cap)^2)`: back through the cap.
    fn cap_gradient(d: &mut [f32], capped: &[f32], cap: f32) {
        for (d, c) in d.iter_mut().zip(capped) {
            let t = c / cap;
            *d *= 1.0 - t * t;
        }
    }
}

/// Views of one head's rows of a block.
struct Head<'a> {
    query: View<'a>,
    keys: View<'a>,
    values: View<'a>,
}

impl Shape {
    fn head<'a>(&self, q: &'a [f32], k: &'a [f32], v: &'a [f32], b: usize, h: usize, block: &Block<'_>) -> Head<'a> {
        let g = h / (self.heads / self.kv_heads);
        let rows = |data: &'a [f32], t: usize, heads: usize, h: usize, dim: usize| View {
            data: &data[self.at(b, t, heads, h, dim)..],
            row_stride: heads * dim,
            col_stride: 1,
        };
        Head {
            query: rows(q, block.t0, self.heads, h, self.head_dim),
            keys: rows(k, block.lo, self.kv_heads, g, self.head_dim),
            values: rows(v, block.lo, self.kv_heads, g, self.value_dim),
        }
    }
}

/// Scaled and capped scores of a block.
///
/// # Safety
/// `scores` must point at `rows * columns` floats of the caller's; the views must hold a block of `head_dim` columns.
unsafe fn block_scores(scores: &mut [f32], block: &Block<'_>, head: &Head<'_>, head_dim: usize, score: Score) {
    let (rows, columns) = (block.rows, block.columns);
    // SAFETY: the slice has rows * columns elements and belongs to the caller; the views hold their shapes.
    unsafe {
        product_raw(scores.as_mut_ptr(), columns, rows, columns, head_dim, false, score.scale, head.query, head.keys.t(), Parallelism::None);
    }
    if let Some(cap) = score.softcap {
        cap_scores(scores, cap);
    }
}

/// `softmax(scores of visible keys) v`: `[B, T, H, U]`.
pub fn forward(q: &[f32], k: &[f32], v: &[f32], first_key: &[u32], shape: Shape, score: Score) -> Vec<f32> {
    shape.check(q, k, v, first_key);
    let value_dim = shape.value_dim;
    let size = shape.batch * shape.length * shape.heads * value_dim;
    let mut out = Vec::with_capacity(size);
    let shared = Shared(out.as_mut_ptr());
    (0..shape.batch * shape.heads).into_par_iter().for_each_init(
        || vec![0f32; BLOCK * shape.length],
        |scratch, task| {
            let (b, h) = (task / shape.heads, task % shape.heads);
            for block in blocks(&first_key[b * shape.length..(b + 1) * shape.length]) {
                let (rows, columns) = (block.rows, block.columns);
                let scores = &mut scratch[..rows * columns];
                let head = shape.head(q, k, v, b, h, &block);
                // SAFETY: `scores` is this task's scratch of rows*columns floats; the views hold their shapes by `check`.
                unsafe { block_scores(scores, &block, &head, shape.head_dim, score) };
                softmax_block(scores, &block);
                let p = View::rows(scores, columns);
                let at = shape.at(b, block.t0, shape.heads, h, value_dim);
                let stride = shape.heads * value_dim;
                // SAFETY: rows t0.. of head h of batch b are written by this task alone, and lie inside `out`.
                unsafe { product_raw(shared.at(at), stride, rows, value_dim, columns, false, 1.0, p, head.values, Parallelism::None) };
            }
        },
    );
    // SAFETY: every row of every head belongs to one block of one task, whose last product wrote it.
    unsafe { out.set_len(size) };
    out
}

/// Gradients `(dq, dk, dv)` for the gradient `d_out` of [`forward`]'s result.
pub fn backward(q: &[f32], k: &[f32], v: &[f32], d_out: &[f32], first_key: &[u32], shape: Shape, score: Score) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    shape.check(q, k, v, first_key);
    let Shape { heads, kv_heads, head_dim, value_dim, .. } = shape;
    assert_eq!(d_out.len(), shape.batch * shape.length * heads * value_dim, "d_out");
    let (mut dq, mut dk, mut dv) = (Vec::with_capacity(q.len()), vec![0f32; k.len()], vec![0f32; v.len()]);
    let (dq_out, dk_out, dv_out) = (Shared(dq.as_mut_ptr()), Shared(dk.as_mut_ptr()), Shared(dv.as_mut_ptr()));
    let group = heads / kv_heads;
    let scratch = || vec![0f32; BLOCK * shape.length];
    (0..shape.batch * kv_heads).into_par_iter().for_each_init(
        || (scratch(), scratch(), if score.softcap.is_some() { scratch() } else { Vec::new() }),
        |(scratch_p, scratch_dp, scratch_capped), task| {
            let (b, g) = (task / kv_heads, task % kv_heads);
            for h in g * group..(g + 1) * group {
                for block in blocks(&first_key[b * shape.length..(b + 1) * shape.length]) {
                    let (rows, columns) = (block.rows, block.columns);
                    let p = &mut scratch_p[..rows * columns];
                    let dp = &mut scratch_dp[..rows * columns];
                    let head = shape.head(q, k, v, b, h, &block);
                    let query_at = shape.at(b, block.t0, heads, h, head_dim);
                    let key_at = shape.at(b, block.lo, kv_heads, g, head_dim);
                    let value_at = shape.at(b, block.lo, kv_heads, g, value_dim);
                    let d_rows = View { data: &d_out[shape.at(b, block.t0, heads, h, value_dim)..], row_stride: heads * value_dim, col_stride: 1 };
                    // SAFETY: p and dp are this task's scratch; dq rows belong to head h, dk and dv to kv head g of batch b, and
                    // one task owns all heads of that group, so no two tasks write the same floats. Views hold their shapes by `check`.
                    unsafe {
                        block_scores(p, &block, &head, head_dim, score);
                        if score.softcap.is_some() {
                            scratch_capped[..rows * columns].copy_from_slice(p);
                        }
                        softmax_block(p, &block);
                        let pt = View::rows(p, columns).t();
                        let stride = kv_heads * value_dim;
                        product_raw(dv_out.at(value_at), stride, columns, value_dim, rows, true, 1.0, pt, d_rows, Parallelism::None);
                        product_raw(dp.as_mut_ptr(), columns, rows, columns, value_dim, false, 1.0, d_rows, head.values.t(), Parallelism::None);
                        score_gradient(p, dp, columns, score.scale);
                        if let Some(cap) = score.softcap {
                            cap_gradient(dp, &scratch_capped[..rows * columns], cap);
                        }
                        let ds = View::rows(dp, columns);
                        product_raw(dq_out.at(query_at), heads * head_dim, rows, head_dim, columns, false, 1.0, ds, head.keys, Parallelism::None);
                        let stride = kv_heads * head_dim;
                        product_raw(dk_out.at(key_at), stride, columns, head_dim, rows, true, 1.0, ds.t(), head.query, Parallelism::None);
                    }
                }
            }
        },
    );
    // SAFETY: every row of every head belongs to one block of one task, whose product wrote it (dk and dv are added to).
    unsafe { dq.set_len(q.len()) };
    (dq, dk, dv)
}
