//! One query, head by head or a few together: each key and value is read and converted once for up to four heads of its group.

use super::{Query, SLAB, Scratch, Shape, spans};
use crate::kernels::attention::Score;
use crate::kernels::kv::{Cell, Store};
use crate::kernels::lanes::Lanes;
use crate::kernels::{LANES, exp, max, sum, tanh};
use std::ops::Range;

/// Rows between one that is read and one that is asked for.
const AHEAD: usize = 8;

/// The row that comes [`AHEAD`] rows after `row`, at the beginning of the `next` page if its own has no more.
#[inline(always)]
fn soon(row: usize, span: &Range<usize>, next: usize) -> usize {
    if row + AHEAD < span.end { row + AHEAD } else { next + (row + AHEAD - span.end) }
}

/// Ask for cells that are read soon. Pages lie anywhere, so the processor does not guess them.
#[inline(always)]
fn ask<C>(cells: &[C], from: usize, len: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(cells) = cells.get(from..from + len) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        for line in cells.chunks(64 / size_of::<C>()) {
            // SAFETY: an address inside a slice; nothing is read from it.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (cells, from, len);
}

/// Scores of `H` heads with the visible keys: each key is read and converted once. `scores` has rows of `stride`.
#[inline(always)]
fn few_scores<L: Lanes, S: Store, const H: usize>(
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
    let mut pages = spans(query, page_size).peekable();
    while let Some(span) = pages.next() {
        let next = pages.peek().map_or(span.start, |next| next.start);
        let mut row = span.start;
        // Four keys at a time: sixteen sums over lanes are hardly more than one. What four heads leave of them is zero.
        while L::REGISTERS >= 32 && head_dim.is_multiple_of(LANES) && row + 4 <= span.end {
            let mut sums = [[L::splat(0.0); 4]; 4];
            for (i, sums) in sums.iter_mut().enumerate() {
                if S::FAR {
                    ask(keys.cells(), (soon(row + i, &span, next) * kv_heads + g) * head_dim, head_dim);
                }
                let (chunks, _) = keys.cells()[((row + i) * kv_heads + g) * head_dim..][..head_dim].as_chunks::<LANES>();
                for (c, chunk) in chunks.iter().enumerate() {
                    let key = S::Cell::load::<L>(chunk);
                    for h in 0..H {
                        sums[h] = L::add(sums[h], L::product(L::load16(&heads[h].0[c]), key));
                    }
                }
            }
            let sums = L::sums(&sums);
            for h in 0..H {
                for i in 0..4 {
                    scores[h * stride + s + i] = sums[h][i] * keys.scale((row + i) * kv_heads + g) * score.scale;
                }
            }
            (row, s) = (row + 4, s + 4);
        }
        for row in row..span.end {
            let vector = row * kv_heads + g;
            if S::FAR {
                ask(keys.cells(), (soon(row, &span, next) * kv_heads + g) * head_dim, head_dim);
            }
            let (chunks, rest) = keys.cells()[vector * head_dim..][..head_dim].as_chunks::<LANES>();
            let scale = keys.scale(vector);
            let mut sums = [L::splat(0.0); H];
            for (c, chunk) in chunks.iter().enumerate() {
                let key = S::Cell::load::<L>(chunk);
                for h in 0..H {
                    // Not fused, so that all levels, and the keys turned over, give the same bits.
                    sums[h] = L::add(sums[h], L::product(L::load16(&heads[h].0[c]), key));
                }
            }
            for h in 0..H {
                let mut left = -0f32;
                for (q, key) in heads[h].1.iter().zip(rest) {
                    left += q * key.float();
                }
                scores[h * stride + s] = (L::sum(sums[h]) + left) * scale * score.scale;
            }
            s += 1;
        }
    }
}

/// [`few_scores`] of any number of heads.
#[inline(always)]
pub(super) fn scores_of<L: Lanes, S: Store>(
    scores: &mut [f32],
    stride: usize,
    q: &[f32],
    keys: S,
    query: Query<'_>,
    g: usize,
    shape: Shape,
    score: Score,
) {
    let (k, heads) = (shape.head_dim, q.len() / shape.head_dim);
    let mut h = 0;
    while heads - h >= 4 {
        few_scores::<L, S, 4>(&mut scores[h * stride..], stride, &q[h * k..], keys, query, g, shape, score);
        h += 4;
    }
    if heads - h == 3 {
        return few_scores::<L, S, 3>(&mut scores[h * stride..], stride, &q[h * k..], keys, query, g, shape, score);
    }
    if heads - h >= 2 {
        few_scores::<L, S, 2>(&mut scores[h * stride..], stride, &q[h * k..], keys, query, g, shape, score);
        h += 2;
    }
    if heads > h {
        few_scores::<L, S, 1>(&mut scores[h * stride..], stride, &q[h * k..], keys, query, g, shape, score);
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

/// Scores of some heads, and what they are multiplied with.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    /// Rows of `stride`.
    pub scores: &'a [f32],
    pub stride: usize,
    /// One for each head.
    pub factors: &'a [f32],
}

impl Weights<'_> {
    #[inline(always)]
    fn from(self, h: usize) -> Self {
        Self { scores: &self.scores[h * self.stride..], stride: self.stride, factors: &self.factors[h..] }
    }
}

/// Add to `B` blocks of 16 columns of `H` heads the values of visible rows, each times its score and the head's factor, in the order of the
/// positions. `out` has rows of `stride` and begins at the first of these columns, which is `column` of the value.
#[inline(always)]
fn weighed<L: Lanes, S: Store, const H: usize, const B: usize>(
    out: &mut [f32],
    stride: usize,
    weights: Weights<'_>,
    values: S,
    query: Query<'_>,
    g: usize,
    shape: Shape,
    column: usize,
) {
    let Shape { kv_heads, value_dim, value_stride, page_size, .. } = shape;
    let mut sums = [[L::splat(0.0); B]; H];
    let mut heads: [&[f32]; H] = [&[]; H];
    for h in 0..H {
        let (blocks, _) = out[h * stride..][..B * LANES].as_chunks::<LANES>();
        for b in 0..B {
            sums[h][b] = L::load16(&blocks[b]);
        }
        heads[h] = &weights.scores[h * weights.stride..][..query.len()];
    }
    let mut s = 0;
    let mut pages = spans(query, page_size).peekable();
    while let Some(span) = pages.next() {
        let next = pages.peek().map_or(span.start, |next| next.start);
        for row in span.clone() {
            if S::FAR {
                ask(values.cells(), soon(row, &span, next) * value_stride + g * value_dim + column, B * LANES);
            }
            let scale = values.scale(row * kv_heads + g);
            let (blocks, _) = values.cells()[row * value_stride + g * value_dim + column..][..B * LANES].as_chunks::<LANES>();
            let mut p = [L::splat(0.0); H];
            for h in 0..H {
                p[h] = L::splat(heads[h][s] * weights.factors[h] * scale);
            }
            for b in 0..B {
                let value = S::Cell::load::<L>(&blocks[b]);
                for h in 0..H {
                    sums[h][b] = L::add(sums[h][b], L::product(p[h], value));
                }
            }
            s += 1;
        }
    }
    for h in 0..H {
        let (blocks, _) = out[h * stride..][..B * LANES].as_chunks_mut::<LANES>();
        for b in 0..B {
            L::store16(&mut blocks[b], sums[h][b]);
        }
    }
}

/// The same for the last columns, fewer than 16. They are read with what lies behind them, of which nothing is kept.
#[inline(always)]
fn weighed_rest<L: Lanes, S: Store, const H: usize>(
    out: &mut [f32],
    stride: usize,
    weights: Weights<'_>,
    values: S,
    query: Query<'_>,
    g: usize,
    shape: Shape,
    columns: Range<usize>,
) {
    let n = columns.len();
    let mut blocks = [[0f32; LANES]; H];
    let mut sums = [L::splat(0.0); H];
    for h in 0..H {
        blocks[h][..n].copy_from_slice(&out[h * stride..][..n]);
        sums[h] = L::load16(&blocks[h]);
    }
    let mut s = 0;
    for span in spans(query, shape.page_size) {
        for row in span {
            let scale = values.scale(row * shape.kv_heads + g);
            let cells = &values.cells()[row * shape.value_stride + g * shape.value_dim + columns.start..];
            let value = match cells.first_chunk() {
                Some(block) => S::Cell::load::<L>(block),
                None => {
                    let mut block = [cells[0]; LANES];
                    block[..n].copy_from_slice(&cells[..n]);
                    S::Cell::load::<L>(&block)
                }
            };
            for (h, sum) in sums.iter_mut().enumerate() {
                let p = L::splat(weights.scores[h * weights.stride + s] * weights.factors[h] * scale);
                *sum = L::add(*sum, L::product(p, value));
            }
            s += 1;
        }
    }
    for h in 0..H {
        L::store16(&mut blocks[h], sums[h]);
        out[h * stride..][..n].copy_from_slice(&blocks[h][..n]);
    }
}

/// [`weighed`] of any number of columns.
#[inline(always)]
fn few_weighed<L: Lanes, S: Store, const H: usize>(
    out: &mut [f32],
    stride: usize,
    weights: Weights<'_>,
    values: S,
    query: Query<'_>,
    g: usize,
    shape: Shape,
    columns: Range<usize>,
) {
    let (start, end) = (columns.start, columns.end);
    let mut c = start;
    // As many sums as there are registers for.
    if L::REGISTERS >= 32 || H == 1 {
        while end - c >= 4 * LANES {
            weighed::<L, S, H, 4>(&mut out[c - start..], stride, weights, values, query, g, shape, c);
            c += 4 * LANES;
        }
    }
    if L::REGISTERS >= 32 || H <= 2 {
        while end - c >= 2 * LANES {
            weighed::<L, S, H, 2>(&mut out[c - start..], stride, weights, values, query, g, shape, c);
            c += 2 * LANES;
        }
    }
    while end - c >= LANES {
        weighed::<L, S, H, 1>(&mut out[c - start..], stride, weights, values, query, g, shape, c);
        c += LANES;
    }
    if end > c {
        weighed_rest::<L, S, H>(&mut out[c - start..], stride, weights, values, query, g, shape, c..end);
    }
}

/// [`few_weighed`] of as many heads as there are factors.
#[inline(always)]
pub(super) fn weigh<L: Lanes, S: Store>(
    out: &mut [f32],
    stride: usize,
    weights: Weights<'_>,
    values: S,
    query: Query<'_>,
    g: usize,
    shape: Shape,
    columns: Range<usize>,
) {
    let (mut h, heads) = (0, weights.factors.len());
    while heads - h >= 4 {
        few_weighed::<L, S, 4>(&mut out[h * stride..], stride, weights.from(h), values, query, g, shape, columns.clone());
        h += 4;
    }
    if heads - h == 3 {
        return few_weighed::<L, S, 3>(&mut out[h * stride..], stride, weights.from(h), values, query, g, shape, columns);
    }
    if heads - h >= 2 {
        few_weighed::<L, S, 2>(&mut out[h * stride..], stride, weights.from(h), values, query, g, shape, columns.clone());
        h += 2;
    }
    if heads > h {
        few_weighed::<L, S, 1>(&mut out[h * stride..], stride, weights.from(h), values, query, g, shape, columns);
    }
}

/// Positions of a slab: all, where one pass over them is made.
#[inline(always)]
fn slab(heads: usize, width: usize, count: usize) -> usize {
    if heads <= 4 { count } else { (SLAB / width).max(LANES) }
}

/// The heads of one group of one query.
#[inline(always)]
pub(super) fn attend_in<L: Lanes, K: Store, V: Store>(
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
        scores_of::<L, K>(&mut scores[from..], count, q, keys, query.part(from, to), g, shape, score);
        from = to;
    }
    factors.clear();
    for scores in scores.chunks_exact_mut(count) {
        factors.push(softmax(scores, score));
    }
    let mut from = 0;
    while from < count {
        let to = count.min(from + slab(heads, value_dim, count));
        let weights = Weights { scores: &scores[from..], stride: count, factors };
        weigh::<L, V>(out, value_dim, weights, values, query.part(from, to), g, shape, 0..value_dim);
        from = to;
    }
}
