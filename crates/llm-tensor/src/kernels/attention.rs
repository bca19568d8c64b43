//! Causal attention over packed sequences, forward and backward, without ever storing a T x T matrix.
//!
//! For each head, queries are taken in blocks of [`BLOCK`]; a block's scores against the keys it can see live in a scratch
//! of `BLOCK x T` floats that stays in cache. The backward pass computes the probabilities again from q and k (Dao et al.,
//! FlashAttention, 2022, section 3.1) and gets `rowsum(P * dP)` from the block itself, so nothing but q, k and v is kept.
//!
//! What a query may see is one number: `first_key[t]`. Keys `first_key[t] ..= t` are visible. Causality, document
//! boundaries in packed rows, sliding windows and left padding are all expressed by it.
//!
//! Legend: B batch, T length, H query heads, G key/value heads, K head size. Layout `[B, T, H, K]` and `[B, T, G, K]`.

use super::matmul::{View, product_raw};
use super::{Shared, dot, exp, max, sum, vectorized};
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
    /// Elements per head.
    pub head_dim: usize,
}

impl Shape {
    fn query_stride(&self) -> usize {
        self.heads * self.head_dim
    }
    fn key_stride(&self) -> usize {
        self.kv_heads * self.head_dim
    }
    fn query_at(&self, b: usize, t: usize, h: usize) -> usize {
        ((b * self.length + t) * self.heads + h) * self.head_dim
    }
    fn key_at(&self, b: usize, t: usize, g: usize) -> usize {
        ((b * self.length + t) * self.kv_heads + g) * self.head_dim
    }
    fn check(&self, q: &[f32], k: &[f32], v: &[f32], first_key: &[u32]) {
        let tokens = self.batch * self.length;
        assert!(self.heads.is_multiple_of(self.kv_heads), "query heads must be a multiple of key/value heads");
        assert_eq!(q.len(), tokens * self.query_stride(), "q");
        assert!(k.len() == tokens * self.key_stride() && v.len() == k.len(), "k, v");
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
}

/// `softmax(scale q k^T, visible keys) v`, shape of `q`.
pub fn forward(q: &[f32], k: &[f32], v: &[f32], first_key: &[u32], shape: Shape, scale: f32) -> Vec<f32> {
    shape.check(q, k, v, first_key);
    let mut out = Vec::with_capacity(q.len());
    let shared = Shared(out.as_mut_ptr());
    (0..shape.batch * shape.heads).into_par_iter().for_each_init(
        || vec![0f32; BLOCK * shape.length],
        |scratch, task| {
            let (b, h) = (task / shape.heads, task % shape.heads);
            let g = h / (shape.heads / shape.kv_heads);
            for block in blocks(&first_key[b * shape.length..(b + 1) * shape.length]) {
                let scores = &mut scratch[..block.rows * block.columns];
                let query = View { data: &q[shape.query_at(b, block.t0, h)..], row_stride: shape.query_stride(), col_stride: 1 };
                let keys = View { data: &k[shape.key_at(b, block.lo, g)..], row_stride: shape.key_stride(), col_stride: 1 };
                let values = View { data: &v[shape.key_at(b, block.lo, g)..], ..keys };
                // SAFETY: `scores` is this task's scratch of rows*columns floats; the views hold their shapes by `check`.
                unsafe {
                    product_raw(
                        scores.as_mut_ptr(),
                        block.columns,
                        block.rows,
                        block.columns,
                        shape.head_dim,
                        false,
                        scale,
                        query,
                        keys.t(),
                        Parallelism::None,
                    )
                };
                softmax_block(scores, &block);
                let p = View::rows(scores, block.columns);
                // SAFETY: rows t0.. of head h of batch b are written by this task alone, and lie inside `out`.
                unsafe {
                    product_raw(
                        shared.at(shape.query_at(b, block.t0, h)),
                        shape.query_stride(),
                        block.rows,
                        shape.head_dim,
                        block.columns,
                        false,
                        1.0,
                        p,
                        values,
                        Parallelism::None,
                    )
                };
            }
        },
    );
    // SAFETY: every row of every head belongs to one block of one task, whose last product wrote it.
    unsafe { out.set_len(q.len()) };
    out
}

/// Gradients `(dq, dk, dv)` for the gradient `d_out` of [`forward`]'s result.
pub fn backward(q: &[f32], k: &[f32], v: &[f32], d_out: &[f32], first_key: &[u32], shape: Shape, scale: f32) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    shape.check(q, k, v, first_key);
    assert_eq!(d_out.len(), q.len(), "d_out");
    let (mut dq, mut dk, mut dv) = (Vec::with_capacity(q.len()), vec![0f32; k.len()], vec![0f32; v.len()]);
    let (dq_out, dk_out, dv_out) = (Shared(dq.as_mut_ptr()), Shared(dk.as_mut_ptr()), Shared(dv.as_mut_ptr()));
    let group = shape.heads / shape.kv_heads;
    (0..shape.batch * shape.kv_heads).into_par_iter().for_each_init(
        || (vec![0f32; BLOCK * shape.length], vec![0f32; BLOCK * shape.length]),
        |(scratch_p, scratch_dp), task| {
            let (b, g) = (task / shape.kv_heads, task % shape.kv_heads);
            for h in g * group..(g + 1) * group {
                for block in blocks(&first_key[b * shape.length..(b + 1) * shape.length]) {
                    let (rows, columns) = (block.rows, block.columns);
                    let p = &mut scratch_p[..rows * columns];
                    let dp = &mut scratch_dp[..rows * columns];
                    let query_at = shape.query_at(b, block.t0, h);
                    let key_at = shape.key_at(b, block.lo, g);
                    let query = View { data: &q[query_at..], row_stride: shape.query_stride(), col_stride: 1 };
                    let d_rows = View { data: &d_out[query_at..], ..query };
                    let keys = View { data: &k[key_at..], row_stride: shape.key_stride(), col_stride: 1 };
                    let values = View { data: &v[key_at..], ..keys };
                    // SAFETY: p and dp are this task's scratch; dq rows belong to head h, dk and dv to kv head g of batch b, and
                    // one task owns all heads of that group, so no two tasks write the same floats. Views hold their shapes by `check`.
                    unsafe {
                        product_raw(p.as_mut_ptr(), columns, rows, columns, shape.head_dim, false, scale, query, keys.t(), Parallelism::None);
                        softmax_block(p, &block);
                        product_raw(
                            dv_out.at(key_at),
                            shape.key_stride(),
                            columns,
                            shape.head_dim,
                            rows,
                            true,
                            1.0,
                            View::rows(p, columns).t(),
                            d_rows,
                            Parallelism::None,
                        );
                        product_raw(dp.as_mut_ptr(), columns, rows, columns, shape.head_dim, false, 1.0, d_rows, values.t(), Parallelism::None);
                        score_gradient(p, dp, columns, scale);
                        product_raw(
                            dq_out.at(query_at),
                            shape.query_stride(),
                            rows,
                            shape.head_dim,
                            columns,
                            false,
                            1.0,
                            View::rows(dp, columns),
                            keys,
                            Parallelism::None,
                        );
                        product_raw(
                            dk_out.at(key_at),
                            shape.key_stride(),
                            columns,
                            shape.head_dim,
                            rows,
                            true,
                            1.0,
                            View::rows(dp, columns).t(),
                            query,
                            Parallelism::None,
                        );
                    }
                }
            }
        },
    );
    // SAFETY: every row of every head belongs to one block of one task, whose product wrote it (dk and dv are added to).
    unsafe { dq.set_len(q.len()) };
    (dq, dk, dv)
}
