//! One query, head by head or a few together: each key and value is read and converted once for up to four heads of its group.

use super::{Query, SLAB, Scratch, Shape, spans};
use crate::kernels::attention::Score;
use crate::kernels::kv::{Cell, Store};
use crate::kernels::{LANES, exp, fold, max, sum, tanh};
use std::ops::Range;

/// Scores of `H` heads with the visible keys: each key is read and converted once. `scores` has rows of `stride`.
#[inline(always)]
fn few_scores<S: Store, const H: usize>(
    scores: &mut [f32],
    stride: usize,
    q: &[f32],
    keys: S,
    query: Query<'_>,
    g: usize,
    shape: Shape,
    score: Score,
) {
    let Shape { kv_heads, head_dim, page_size, .. } = shape;
    let mut heads: [(&[[f32; LANES]], &[f32]); H] = [(&[], &[]); H];
    for (h, head) in heads.iter_mut().enumerate() {
        *head = q[h * head_dim..][..head_dim].as_chunks::<LANES>();
    }
    let mut s = 0;
    // Loops and not closures: what is not inlined is compiled for the base level.
    for span in spans(query, page_size) {
        for row in span {
            let vector = row * kv_heads + g;
            let (chunks, rest) = keys.cells()[vector * head_dim..][..head_dim].as_chunks::<LANES>();
            let scale = keys.scale(vector);
            let mut lanes = [[0f32; LANES]; H];
            for (c, chunk) in chunks.iter().enumerate() {
                let mut key = [0f32; LANES];
                for i in 0..LANES {
                    key[i] = chunk[i].float();
                }
                for h in 0..H {
                    let q = &heads[h].0[c];
                    for i in 0..LANES {
                        lanes[h][i] += q[i] * key[i];
                    }
                }
            }
            for h in 0..H {
                let mut left = -0f32;
                for (q, key) in heads[h].1.iter().zip(rest) {
                    left += q * key.float();
                }
                let dot = fold(lanes[h], |a, b| a + b) + left;
                scores[h * stride + s] = dot * scale * score.scale;
            }
            s += 1;
        }
    }
}

/// [`few_scores`] of any number of heads.
#[inline(always)]
pub(super) fn scores_of<S: Store>(scores: &mut [f32], stride: usize, q: &[f32], keys: S, query: Query<'_>, g: usize, shape: Shape, score: Score) {
    let (k, heads) = (shape.head_dim, q.len() / shape.head_dim);
    let mut h = 0;
    while heads - h >= 4 {
        few_scores::<S, 4>(&mut scores[h * stride..], stride, &q[h * k..], keys, query, g, shape, score);
        h += 4;
    }
    if heads - h >= 2 {
        few_scores::<S, 2>(&mut scores[h * stride..], stride, &q[h * k..], keys, query, g, shape, score);
        h += 2;
    }
    if heads > h {
        few_scores::<S, 1>(&mut scores[h * stride..], stride, &q[h * k..], keys, query, g, shape, score);
    }
}

/// Scores capped and made what softmax sums; returns the inverse of the sum.
#[inline(always)]
pub(super) fn softmax(scores: &mut [f32], score: Score) -> f32 {
    if let Some(cap) = score.softcap {
        for s in scores.iter_mut() {
            *s = cap * tanh(*s / cap);
        }
    }
    let largest = max(scores);
    for s in scores.iter_mut() {
        *s = exp(*s - largest);
    }
    1.0 / sum(scores)
}

/// Add to `W` columns of `H` heads the values of visible rows, each times its score and the head's factor, in the order of the positions.
/// `out` has rows of `stride` and begins at the first of these columns, which is `column` of the value.
#[inline(always)]
fn weighed<S: Store, const H: usize, const W: usize>(
    out: &mut [f32],
    stride: usize,
    scores: &[f32],
    score_stride: usize,
    factors: &[f32],
    values: S,
    query: Query<'_>,
    g: usize,
    shape: Shape,
    column: usize,
) {
    let Shape { kv_heads, value_dim, value_stride, page_size, .. } = shape;
    let count = query.len();
    let mut sums = [[0f32; W]; H];
    let mut heads: [&[f32]; H] = [&[]; H];
    let mut factor = [0f32; H];
    for h in 0..H {
        sums[h].copy_from_slice(&out[h * stride..][..W]);
        heads[h] = &scores[h * score_stride..][..count];
        factor[h] = factors[h];
    }
    let mut s = 0;
    for span in spans(query, page_size) {
        for row in span {
            let from = row * value_stride + g * value_dim + column;
            let scale = values.scale(row * kv_heads + g);
            if let Some(cells) = values.cells()[from..from + W].first_chunk::<W>() {
                let mut value = [0f32; W];
                for i in 0..W {
                    value[i] = cells[i].float();
                }
                for h in 0..H {
                    let p = heads[h][s] * factor[h] * scale;
                    for i in 0..W {
                        sums[h][i] += p * value[i];
                    }
                }
            }
            s += 1;
        }
    }
    for h in 0..H {
        out[h * stride..][..W].copy_from_slice(&sums[h]);
    }
}

/// [`weighed`] of any number of columns.
#[inline(always)]
fn few_weighed<S: Store, const H: usize>(
    out: &mut [f32],
    stride: usize,
    scores: &[f32],
    score_stride: usize,
    factors: &[f32],
    values: S,
    query: Query<'_>,
    g: usize,
    shape: Shape,
    columns: Range<usize>,
) {
    let (start, end) = (columns.start, columns.end);
    let mut c = start;
    if H == 1 {
        while end - c >= 64 {
            weighed::<S, H, 64>(&mut out[c - start..], stride, scores, score_stride, factors, values, query, g, shape, c);
            c += 64;
        }
    }
    while end - c >= 32 {
        weighed::<S, H, 32>(&mut out[c - start..], stride, scores, score_stride, factors, values, query, g, shape, c);
        c += 32;
    }
    if end - c >= 16 {
        weighed::<S, H, 16>(&mut out[c - start..], stride, scores, score_stride, factors, values, query, g, shape, c);
        c += 16;
    }
    if end - c >= 8 {
        weighed::<S, H, 8>(&mut out[c - start..], stride, scores, score_stride, factors, values, query, g, shape, c);
        c += 8;
    }
    while end > c {
        weighed::<S, H, 1>(&mut out[c - start..], stride, scores, score_stride, factors, values, query, g, shape, c);
        c += 1;
    }
}

/// [`few_weighed`] of as many heads as there are factors.
#[inline(always)]
pub(super) fn weigh<S: Store>(
    out: &mut [f32],
    stride: usize,
    scores: &[f32],
    score_stride: usize,
    factors: &[f32],
    values: S,
    query: Query<'_>,
    g: usize,
    shape: Shape,
    columns: Range<usize>,
) {
    let mut h = 0;
    while factors.len() - h >= 4 {
        let (out, scores) = (&mut out[h * stride..], &scores[h * score_stride..]);
        few_weighed::<S, 4>(out, stride, scores, score_stride, &factors[h..], values, query, g, shape, columns.clone());
        h += 4;
    }
    if factors.len() - h >= 2 {
        let (out, scores) = (&mut out[h * stride..], &scores[h * score_stride..]);
        few_weighed::<S, 2>(out, stride, scores, score_stride, &factors[h..], values, query, g, shape, columns.clone());
        h += 2;
    }
    if factors.len() > h {
        let (out, scores) = (&mut out[h * stride..], &scores[h * score_stride..]);
        few_weighed::<S, 1>(out, stride, scores, score_stride, &factors[h..], values, query, g, shape, columns);
    }
}

/// Positions of a slab: all, where one pass over them is made.
#[inline(always)]
fn slab(heads: usize, width: usize, count: usize) -> usize {
    if heads <= 4 { count } else { (SLAB / width).max(LANES) }
}

/// The heads of one group of one query.
#[inline(always)]
pub(super) fn attend_in<K: Store, V: Store>(
    out: &mut [f32],
    q: &[f32],
    keys: K,
    values: V,
    query: Query<'_>,
    g: usize,
    shape: Shape,
    score: Score,
    scratch: &mut Scratch,
) {
    let Shape { head_dim, value_dim, .. } = shape;
    let (heads, count) = (q.len() / head_dim, query.len());
    let Scratch { scores, factors, .. } = scratch;
    scores.resize(heads * count, 0.0);
    let mut from = 0;
    while from < count {
        let to = count.min(from + slab(heads, head_dim, count));
        scores_of(&mut scores[from..], count, q, keys, query.part(from, to), g, shape, score);
        from = to;
    }
    factors.clear();
    for scores in scores.chunks_exact_mut(count) {
        factors.push(softmax(scores, score));
    }
    let mut from = 0;
    while from < count {
        let to = count.min(from + slab(heads, value_dim, count));
        weigh(out, value_dim, &scores[from..], count, factors, values, query.part(from, to), g, shape, 0..value_dim);
        from = to;
    }
}
