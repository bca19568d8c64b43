//! Neighbours of one sequence: slabs of keys are turned over, sixteen to a block, and slabs of values laid side by side, both as `f32`, once for
//! all queries and heads that see them.

use super::heads::{Weights, softmax, weigh};
use super::{Query, SLAB, Scratch, Shape, spans};
use crate::kernels::LANES;
use crate::kernels::attention::Score;
use crate::kernels::kv::{Cell, Scaled, Store};
use crate::kernels::lanes::Lanes;

/// Scores of a tile that are in memory at a time.
const SCORES: usize = 1 << 20;

/// Scores of one query with a block of 16 turned keys, each summed as `dot` sums: by lane, then the lanes in pairs, then what is left.
#[inline(always)]
fn block_scores(q: &[f32], block: &[[f32; LANES]]) -> [f32; LANES] {
    #[inline(always)]
    fn lane(q: &[[f32; LANES]], block: &[[[f32; LANES]; LANES]], i: usize) -> [f32; LANES] {
        let mut sums = [0f32; LANES];
        for (q, keys) in q.iter().zip(block) {
            for l in 0..LANES {
                sums[l] += q[i] * keys[i][l];
            }
        }
        sums
    }
    #[inline(always)]
    fn plus(a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        let mut sums = a;
        for l in 0..LANES {
            sums[l] += b[l];
        }
        sums
    }
    let (q, q_rest) = q.as_chunks::<LANES>();
    let (block, block_rest) = block.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    if !q.is_empty() {
        let mut lanes = [[0f32; LANES]; LANES / 2];
        for (i, sums) in lanes.iter_mut().enumerate() {
            *sums = plus(lane(q, block, i), lane(q, block, i + LANES / 2));
        }
        for width in [4, 2, 1] {
            for i in 0..width {
                lanes[i] = plus(lanes[i], lanes[i + width]);
            }
        }
        sums = lanes[0];
    }
    let mut left = [-0f32; LANES];
    for (q, keys) in q_rest.iter().zip(block_rest) {
        for l in 0..LANES {
            left[l] += q * keys[l];
        }
    }
    plus(sums, left)
}

/// The visible keys of one head as blocks of `[K, 16]`, and their scales; the end of the last block is zero.
#[inline(always)]
fn turn<S: Store>(turned: &mut Vec<f32>, scales: &mut Vec<f32>, keys: S, query: Query<'_>, g: usize, shape: Shape) {
    let Shape { kv_heads, head_dim, page_size, .. } = shape;
    let padded = query.len().next_multiple_of(LANES);
    turned.clear();
    turned.resize(padded * head_dim, 0.0);
    scales.clear();
    scales.resize(padded, 0.0);
    let mut s = 0;
    for span in spans(query, page_size) {
        for row in span {
            let vector = row * kv_heads + g;
            let key = &keys.cells()[vector * head_dim..][..head_dim];
            let column = &mut turned[s / LANES * LANES * head_dim + s % LANES..];
            for (d, k) in key.iter().enumerate() {
                column[d * LANES] = k.float();
            }
            scales[s] = keys.scale(vector);
            s += 1;
        }
    }
}

/// The visible values of one head as `[position, U]`, and their scales.
#[inline(always)]
fn gather<S: Store>(gathered: &mut Vec<f32>, scales: &mut Vec<f32>, values: S, query: Query<'_>, g: usize, shape: Shape) {
    let Shape { kv_heads, value_dim, value_stride, page_size, .. } = shape;
    gathered.resize(query.len() * value_dim, 0.0);
    scales.clear();
    let mut places = gathered.chunks_exact_mut(value_dim);
    for span in spans(query, page_size) {
        for (row, place) in span.zip(&mut places) {
            let value = &values.cells()[row * value_stride + g * value_dim..][..value_dim];
            for (place, value) in place.iter_mut().zip(value) {
                *place = value.float();
            }
            scales.push(values.scale(row * kv_heads + g));
        }
    }
}

/// The heads of one group of neighbours, into `scratch.out`. `q` begins at the group's heads of the first of them.
#[inline(always)]
pub(super) fn tile_in<L: Lanes, K: Store, V: Store>(
    q: &[f32],
    keys: K,
    values: V,
    tile: &[Query<'_>],
    g: usize,
    shape: Shape,
    score: Score,
    scratch: &mut Scratch,
) {
    let Shape { heads, kv_heads, head_dim, value_dim, .. } = shape;
    let (group, last) = (heads / kv_heads, tile[tile.len() - 1]);
    let (base, all) = (tile[0].first, Query { first: tile[0].first, ..last });
    let (count, padded) = (all.len(), all.len().next_multiple_of(LANES));
    let Scratch { scores, factors, turned, key_scales, values: gathered, value_scales, out } = scratch;
    out.clear();
    out.resize(tile.len() * group * value_dim, 0.0);
    let together = (SCORES / (tile.len() * padded)).clamp(1, group);
    let mut h0 = 0;
    while h0 < group {
        let heads = together.min(group - h0);
        scores.resize(tile.len() * heads * padded, 0.0);
        let mut from = 0;
        while from < count {
            // Whole blocks, as those of all positions together.
            let to = count.min(from + (SLAB / head_dim).max(LANES).next_multiple_of(LANES));
            turn(turned, key_scales, keys, all.part(from, to), g, shape);
            let (blocks, _) = turned.as_chunks::<LANES>();
            let (scales, _) = key_scales.as_chunks::<LANES>();
            for (t, query) in tile.iter().enumerate() {
                let first = (query.first - base).max(from) / LANES;
                let end = (query.position + 1 - base).min(to).div_ceil(LANES);
                if first >= end {
                    continue;
                }
                for h in 0..heads {
                    let q = &q[t * kv_heads * group * head_dim + (h0 + h) * head_dim..][..head_dim];
                    let (places, _) = scores[(t * heads + h) * padded..][..padded].as_chunks_mut::<LANES>();
                    let blocks = blocks[(first - from / LANES) * head_dim..].chunks_exact(head_dim);
                    for ((place, block), scales) in places[first..end].iter_mut().zip(blocks).zip(&scales[first - from / LANES..]) {
                        *place = block_scores(q, block);
                        for l in 0..LANES {
                            place[l] = place[l] * scales[l] * score.scale;
                        }
                    }
                }
            }
            from = to;
        }
        factors.clear();
        for (t, query) in tile.iter().enumerate() {
            for h in 0..heads {
                let visible = query.first - base..query.position + 1 - base;
                factors.push(softmax(&mut scores[(t * heads + h) * padded..][..padded][visible], score));
            }
        }
        let mut from = 0;
        while from < count {
            let to = count.min(from + (SLAB / value_dim).max(LANES));
            gather(gathered, value_scales, values, all.part(from, to), g, shape);
            // They are a pool of one page.
            let (page, gathered) = ([0u32], Scaled(gathered.as_slice(), value_scales.as_slice()));
            let shape = Shape { kv_heads: 1, page_size: to - from, value_stride: value_dim, ..shape };
            for (t, query) in tile.iter().enumerate() {
                let (first, end) = ((query.first - base).max(from), (query.position + 1 - base).min(to));
                if first < end {
                    let query = Query { pages: &page, first: first - from, position: end - 1 - from };
                    let factors = &factors[t * heads..][..heads];
                    let weights = Weights { scores: &scores[t * heads * padded + first..], stride: padded, factors };
                    let out = &mut out[(t * group + h0) * value_dim..];
                    weigh::<L, _>(out, value_dim, weights, gathered, query, 0, shape, 0..value_dim);
                }
            }
            from = to;
        }
        h0 += heads;
    }
}
