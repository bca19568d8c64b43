//! Attention of single tokens against a paged key/value cache: decoding, prefill, and trees of tokens.
//!
//! Keys and values of a sequence live in pages of `page_size` tokens anywhere in one pool (Kwon et al., PagedAttention,
//! 2023), layout `[page, token in page, G, K]` for keys and `[page, token in page, G, U]` for values.
//!
//! Single tokens are computed head by head (`attend`). Neighbours of one sequence, the rest of a prompt, are taken together
//! (`attend_turned`): their keys are turned over once, sixteen to a block, and scored side by side. Both sum in one order (that of
//! `dot`) and give the same bits, so a sequence's result depends neither on the batch nor on how its prompt was cut.

use super::attention::Score;
use super::{LANES, Shared, dot, exp, max, sum, tanh, vectorized};
use rayon::prelude::*;
use std::ops::Range;

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
    let shared = Shared(out.as_mut_ptr());
    let tiles = tiles(queries);
    (0..tiles.len() * kv_heads).into_par_iter().with_min_len(4).for_each_init(Scratch::default, |scratch, task| {
        let (tile, g) = (&tiles[task / kv_heads], task % kv_heads);
        // SAFETY: the heads of group `g` of query `n` belong to this task alone, are borrowed one query at a time and lie inside `out`.
        let row = |n: usize| unsafe { std::slice::from_raw_parts_mut(shared.at((n * kv_heads + g) * group * value_dim), group * value_dim) };
        let q = |n: usize| &q[(n * kv_heads + g) * group * head_dim..][..group * head_dim];
        if tile.len() == 1 {
            attend(row(tile.start), q(tile.start), keys, values, queries[tile.start], g, shape, score, &mut scratch.scores);
            return;
        }
        let last = queries[tile.end - 1];
        turn(&mut scratch.turned, keys, Query { first: queries[tile.start].first, ..last }, g, shape);
        for n in tile.clone() {
            attend_turned(row(n), q(n), values, queries[n], queries[tile.start].first, g, shape, score, scratch);
        }
    });
    out
}

/// Most neighbours that are taken together.
const TILE: usize = 32;

/// Memory of one thread.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    /// Keys of one head, `[block, K, 16]`.
    turned: Vec<f32>,
}

/// Runs of queries at consecutive positions of one sequence.
fn tiles(queries: &[Query]) -> Vec<Range<usize>> {
    let mut tiles: Vec<Range<usize>> = Vec::new();
    for (n, query) in queries.iter().enumerate() {
        let follows = n > 0 && {
            let before = queries[n - 1];
            std::ptr::eq(before.pages, query.pages) && before.position + 1 == query.position && before.first <= query.first
        };
        match tiles.last_mut() {
            Some(tile) if follows && tile.len() < TILE => tile.end = n + 1,
            _ => tiles.push(n..n + 1),
        }
    }
    tiles
}

/// Rows of the pool that hold the positions `query.first..=query.position`, page by page, without a division for every one.
#[inline(always)]
fn spans<'a>(query: Query<'a>, page_size: usize) -> impl Iterator<Item = Range<usize>> + 'a {
    let (first, end) = (query.first / page_size, query.position / page_size + 1);
    query.pages[first..end].iter().zip(first..).map(move |(&page, index)| {
        let (start, base) = (index * page_size, page as usize * page_size);
        base + query.first.saturating_sub(start)..base + (query.position + 1 - start).min(page_size)
    })
}

/// Sums of the values of visible rows, each times its score and `factor`, for the columns at the end of the head that are `out`: `W` at a
/// time in registers. Returns the columns that are left.
#[inline(always)]
fn weighed<'o, const W: usize>(
    out: &'o mut [f32],
    scores: &[f32],
    factor: f32,
    values: &[f32],
    query: Query<'_>,
    shape: Shape,
    g: usize,
) -> &'o mut [f32] {
    let at = (g + 1) * shape.value_dim - out.len();
    let (blocks, rest) = out.as_chunks_mut::<W>();
    for (i, out) in blocks.iter_mut().enumerate() {
        let mut sums = [0f32; W];
        let mut scores = scores.iter();
        for span in spans(query, shape.page_size) {
            for (row, p) in span.zip(&mut scores) {
                let p = p * factor;
                let from = row * shape.value_stride + at + i * W;
                if let Some(v) = values[from..from + W].first_chunk::<W>() {
                    for i in 0..W {
                        sums[i] += p * v[i];
                    }
                }
            }
        }
        *out = sums;
    }
    rest
}

/// Scores to an output: capped, made probabilities, times the values.
#[inline(always)]
fn finish(out: &mut [f32], scores: &mut [f32], values: &[f32], query: Query<'_>, g: usize, shape: Shape, score: Score) {
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
    let rest = weighed::<64>(out, scores, factor, values, query, shape, g);
    let rest = weighed::<32>(rest, scores, factor, values, query, shape, g);
    let rest = weighed::<16>(rest, scores, factor, values, query, shape, g);
    let rest = weighed::<8>(rest, scores, factor, values, query, shape, g);
    let rest = weighed::<4>(rest, scores, factor, values, query, shape, g);
    weighed::<1>(rest, scores, factor, values, query, shape, g);
}

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
        for i in 0..LANES / 2 {
            lanes[i] = plus(lane(q, block, i), lane(q, block, i + LANES / 2));
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

vectorized! {
    /// The visible keys of one head as blocks of `[K, 16]`; the end of the last block is zero.
    fn turn(turned: &mut Vec<f32>, keys: &[f32], query: Query<'_>, g: usize, shape: Shape) {
        let Shape { kv_heads, head_dim, page_size, .. } = shape;
        let count = query.position + 1 - query.first;
        turned.clear();
        turned.resize(count.div_ceil(LANES) * LANES * head_dim, 0.0);
        let mut s = 0;
        for span in spans(query, page_size) {
            for row in span {
                let key = &keys[(row * kv_heads + g) * head_dim..][..head_dim];
                let column = &mut turned[s / LANES * LANES * head_dim + s % LANES..];
                for (d, k) in key.iter().enumerate() {
                    column[d * LANES] = *k;
                }
                s += 1;
            }
        }
    }

    /// As `attend`, with the keys from position `base` on turned over.
    fn attend_turned(out: &mut [f32], q: &[f32], values: &[f32], query: Query<'_>, base: usize, g: usize, shape: Shape, score: Score, scratch: &mut Scratch) {
        let Shape { head_dim, value_dim, .. } = shape;
        let Scratch { scores, turned } = scratch;
        let (from, to) = (query.first - base, query.position + 1 - base);
        let (blocks, _) = turned.as_chunks::<LANES>();
        for (out, q) in out.chunks_exact_mut(value_dim).zip(q.chunks_exact(head_dim)) {
            let first = from / LANES;
            scores.clear();
            scores.resize((to.div_ceil(LANES) - first) * LANES, 0.0);
            let (places, _) = scores.as_chunks_mut::<LANES>();
            for (place, block) in places.iter_mut().zip(blocks[first * head_dim..].chunks_exact(head_dim)) {
                *place = block_scores(q, block);
                for s in place.iter_mut() {
                    *s *= score.scale;
                }
            }
            finish(out, &mut scores[from - first * LANES..to - first * LANES], values, query, g, shape, score);
        }
    }

    /// The heads of one group of one query.
    fn attend(out: &mut [f32], q: &[f32], keys: &[f32], values: &[f32], query: Query<'_>, g: usize, shape: Shape, score: Score, scores: &mut Vec<f32>) {
        let Shape { kv_heads, head_dim, value_dim, page_size, .. } = shape;
        for (out, q) in out.chunks_exact_mut(value_dim).zip(q.chunks_exact(head_dim)) {
            scores.resize(query.position + 1 - query.first, 0.0);
            let mut places = scores.iter_mut();
            for span in spans(query, page_size) {
                // A loop and not a closure: what is not inlined is compiled for the base level.
                for (row, place) in span.zip(&mut places) {
                    let at = (row * kv_heads + g) * head_dim;
                    *place = score.scale * dot(q, &keys[at..at + head_dim]);
                }
            }
            finish(out, scores, values, query, g, shape, score);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_run::Seed;

    /// If this fails, the answer to a prompt depends on how it was cut or on what else was in the batch.
    #[test]
    fn neighbours_together_give_the_bits_of_each_alone() {
        for (head_dim, value_dim, page_size, window) in
            [(12, 12, 1, None), (32, 32, 16, None), (64, 80, 16, Some(5)), (72, 24, 4, None), (7, 9, 3, Some(40))]
        {
            let (heads, kv_heads, pages, tokens) = (6, 2, 40, 75);
            let shape = Shape { heads, kv_heads, head_dim, value_dim, page_size, value_stride: kv_heads * value_dim };
            let rng = |name: &str| Seed(3).stream(name).rng();
            let floats = |name: &str, n: usize| {
                let mut rng = rng(name);
                (0..n).map(|_| rng.normal() as f32).collect::<Vec<f32>>()
            };
            let pool = tokens.max(pages) * page_size;
            let (keys, values) = (floats("k", pool * kv_heads * head_dim), floats("v", pool * kv_heads * value_dim));
            let mut order: Vec<u32> = (0..(pool / page_size) as u32).collect();
            rng("pages").shuffle(&mut order);
            let query = |position: usize| Query { pages: &order, first: window.map_or(0, |w| (position + 1usize).saturating_sub(w)), position };
            let queries: Vec<Query> = (3..tokens).map(query).collect();
            let q = floats("q", queries.len() * heads * head_dim);
            let score = Score { scale: 0.3, softcap: window.map(|_| 20.0) };
            let together = forward(&q, &keys, &values, &queries, shape, score);
            for (n, query) in queries.iter().enumerate() {
                let one = forward(&q[n * heads * head_dim..(n + 1) * heads * head_dim], &keys, &values, &[*query], shape, score);
                assert_eq!(together[n * heads * value_dim..(n + 1) * heads * value_dim], one, "{head_dim} {page_size}: token {n}");
            }
            // And one of them by hand.
            let (n, h) = (9, 4);
            let Query { first, position, .. } = queries[n];
            let row = |s: usize| order[s / page_size] as usize * page_size + s % page_size;
            let at = |s: usize, dim: usize| (row(s) * kv_heads + h / (heads / kv_heads)) * dim;
            let raw = |s: usize| -> f64 {
                (0..head_dim).map(|d| f64::from(q[(n * heads + h) * head_dim + d]) * f64::from(keys[at(s, head_dim) + d])).sum()
            };
            let capped = |x: f64| score.softcap.map_or(x, |c| f64::from(c) * (x / f64::from(c)).tanh());
            let p: Vec<f64> = (first..=position).map(|s| capped(raw(s) * f64::from(score.scale)).exp()).collect();
            let total: f64 = p.iter().sum();
            for u in 0..value_dim {
                let want: f64 = (first..=position).zip(&p).map(|(s, p)| p / total * f64::from(values[at(s, value_dim) + u])).sum();
                let got = f64::from(together[(n * heads + h) * value_dim + u]);
                assert!((got - want).abs() < 1e-5, "{head_dim}: {got} {want}");
            }
        }
    }
}
