//! Attention of single tokens against a paged key/value cache: decoding, prefill, and trees of tokens.
//!
//! Keys and values of a sequence live in pages of `page_size` tokens anywhere in one pool (Kwon et al., PagedAttention,
//! 2023), layout `[page, token in page, G, K]` for keys and `[page, token in page, G, U]` for values, in the formats of [`super::kv`].
//!
//! A key or value is read once for all query heads of its group. Neighbours of one sequence, the rest of a prompt, are taken together
//! (`attend_tile`): slabs of keys are turned over, sixteen to a block, and scored side by side; slabs of values are laid side by side. A few
//! long sequences alone (`attend_split`) are cut over their positions for the scores and over columns for the values. All ways sum every
//! output in one order (that of `dot` over a key, that of the positions over values) and give the same bits, so a sequence's result depends
//! neither on the batch, nor on how its prompt was cut, nor on the number of threads.

#![allow(clippy::too_many_arguments)] // kernels on slices

mod heads;
mod tile;

use super::attention::Score;
use super::kv::{Plain, Scaled, View};
use super::lanes::{Lanes, Portable, dispatched};
use super::{Shared, split, vectorized};
use heads::{Weights, attend_in, scores_of, softmax, weigh};
use rayon::prelude::*;
use std::ops::Range;
use tile::tile_in;

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

impl Query<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.position + 1 - self.first
    }

    /// The same for visible positions `from..to`, counted from the first.
    #[inline(always)]
    fn part(self, from: usize, to: usize) -> Self {
        Self { pages: self.pages, first: self.first + from, position: self.first + to - 1 }
    }
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
    /// Elements between the values of two tokens; `kv_heads * value_dim` unless values lie inside the keys (latent attention).
    pub value_stride: usize,
}

/// The pool: keys and values of one format.
#[derive(Debug, Clone, Copy)]
pub struct Pool<'a> {
    /// `[token, G, K]`.
    pub keys: View<'a>,
    /// `[token, G, U]`, or the keys once more where values lie inside them.
    pub values: View<'a>,
}

/// Run `$body` with the two stores of the pool's format.
macro_rules! with_stores {
    ($pool:expr, |$keys:ident, $values:ident| $body:expr) => {
        match ($pool.keys, $pool.values) {
            (View::F32(keys), View::F32(values)) => {
                let ($keys, $values) = (Plain(keys), Plain(values));
                $body
            }
            (View::Bf16(keys), View::Bf16(values)) => {
                let ($keys, $values) = (Plain(keys), Plain(values));
                $body
            }
            (View::Int8(keys, key_scales), View::Int8(values, value_scales)) => {
                let ($keys, $values) = (Scaled(keys, key_scales), Scaled(values, value_scales));
                $body
            }
            _ => unreachable!("keys and values have one format"),
        }
    };
}

/// Elements of keys or values that are worked on at a time, where several passes are made over them.
const SLAB: usize = 1 << 14;
/// Most neighbours that are taken together.
const TILE: usize = 32;
/// Positions that one task scores where a sequence is cut.
const CUT: usize = 256;
/// Value columns of one task where a sequence is cut.
const COLUMNS: usize = 32;
/// What a position of a head costs, in products of a matrix: scores, their exponents, values.
const WORK: usize = 4;
/// Sequences shorter than this are not cut.
const CUT_FROM: usize = 1024;

/// `q` is `[N, H, K]`; returns `[N, H, U]`.
///
/// # Panics
/// When a query names a position its pages do not hold, or keys and values have two formats.
pub fn forward(q: &[f32], pool: Pool<'_>, queries: &[Query<'_>], shape: Shape, score: Score) -> Vec<f32> {
    let Shape { heads, kv_heads, head_dim, value_dim, .. } = shape;
    assert_eq!(q.len(), queries.len() * heads * head_dim, "q");
    let group = heads / kv_heads;
    let (q_token, out_token) = (heads * head_dim, heads * value_dim);
    let mut out = vec![0f32; queries.len() * out_token];
    let tiles = tiles(queries);
    let positions: usize = queries.iter().map(Query::len).sum();
    // Too few tasks for the threads, and each long.
    let few = tiles.iter().all(|tile| tile.len() == 1) && tiles.len() * kv_heads < 2 * rayon::current_num_threads();
    if few && positions >= CUT_FROM * queries.len() {
        for ((out, q), &query) in out.chunks_exact_mut(out_token).zip(q.chunks_exact(q_token)).zip(queries) {
            attend_split(out, q, pool, query, shape, score);
        }
        return out;
    }
    let shared = Shared(out.as_mut_ptr());
    // Short ones are not worth a task each.
    let least = if positions * group * head_dim < queries.len() << 18 { 4 } else { 1 };
    let tasks = tiles.len() * kv_heads;
    split(tasks, least, WORK * positions * heads * head_dim, |range| {
        let mut scratch = Scratch::default();
        for task in range {
            let (tile, g) = (&tiles[task / kv_heads], task % kv_heads);
            // SAFETY: the heads of group `g` of query `n` belong to this task alone, are borrowed one query at a time and lie inside `out`.
            let row = |n: usize| unsafe { std::slice::from_raw_parts_mut(shared.at((n * kv_heads + g) * group * value_dim), group * value_dim) };
            let q = &q[tile.start * q_token + g * group * head_dim..];
            if tile.len() == 1 {
                attend(row(tile.start), &q[..group * head_dim], pool, queries[tile.start], g, shape, score, &mut scratch);
                continue;
            }
            attend_tile(q, pool, &queries[tile.clone()], g, shape, score, &mut scratch);
            for (n, from) in tile.clone().zip(scratch.out.chunks_exact(group * value_dim)) {
                row(n).copy_from_slice(from);
            }
        }
    });
    out
}

/// Memory of one thread.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    /// For each head the inverse of its sum.
    factors: Vec<f32>,
    /// Keys of one head, `[block, K, 16]`, and their scales.
    turned: Vec<f32>,
    key_scales: Vec<f32>,
    /// Values of one head, `[position, U]`, and their scales.
    values: Vec<f32>,
    value_scales: Vec<f32>,
    /// Of a tile, `[query, head of the group, U]`.
    out: Vec<f32>,
}

/// Runs of queries at consecutive positions of one sequence.
fn tiles(queries: &[Query<'_>]) -> Vec<Range<usize>> {
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

dispatched! {
    // The heads of one group of one query.
    fn attend(out: &mut [f32], q: &[f32], pool: Pool<'_>, query: Query<'_>, g: usize, shape: Shape, score: Score, scratch: &mut Scratch) = attend_any;
    // The heads of one group of neighbours.
    fn attend_tile(q: &[f32], pool: Pool<'_>, tile: &[Query<'_>], g: usize, shape: Shape, score: Score, scratch: &mut Scratch) = tile_any;
    // Parts of `attend`: scores, and some columns of the result.
    fn part_scores(scores: &mut [f32], q: &[f32], pool: Pool<'_>, query: Query<'_>, g: usize, shape: Shape, score: Score) = scores_any;
    fn part_weigh(out: &mut [f32], weights: Weights<'_>, pool: Pool<'_>, query: Query<'_>, g: usize, shape: Shape, columns: Range<usize>) = weigh_any;
}

vectorized! {
    /// The probabilities of `attend`.
    fn part_softmax(scores: &mut [f32], score: Score) -> f32 {
        softmax(scores, score)
    }
}

#[inline(always)]
fn attend_any<L: Lanes>(out: &mut [f32], q: &[f32], pool: Pool<'_>, query: Query<'_>, g: usize, shape: Shape, score: Score, scratch: &mut Scratch) {
    with_stores!(pool, |keys, values| attend_in::<L, _, _>(out, q, keys, values, query, g, shape, score, scratch));
}

#[inline(always)]
fn tile_any<L: Lanes>(q: &[f32], pool: Pool<'_>, tile: &[Query<'_>], g: usize, shape: Shape, score: Score, scratch: &mut Scratch) {
    with_stores!(pool, |keys, values| tile_in::<L, _, _>(q, keys, values, tile, g, shape, score, scratch));
}

#[inline(always)]
fn scores_any<L: Lanes>(scores: &mut [f32], q: &[f32], pool: Pool<'_>, query: Query<'_>, g: usize, shape: Shape, score: Score) {
    with_stores!(pool, |keys, _values| scores_of::<L, _>(scores, query.len(), q, keys, query, g, shape, score));
}

#[inline(always)]
fn weigh_any<L: Lanes>(out: &mut [f32], weights: Weights<'_>, pool: Pool<'_>, query: Query<'_>, g: usize, shape: Shape, columns: Range<usize>) {
    let stride = columns.len();
    with_stores!(pool, |_keys, values| weigh::<L, _>(out, stride, weights, values, query, g, shape, columns));
}

/// All heads of one query on all threads.
fn attend_split(out: &mut [f32], q: &[f32], pool: Pool<'_>, query: Query<'_>, shape: Shape, score: Score) {
    let Shape { heads, kv_heads, head_dim, value_dim, .. } = shape;
    let (group, count) = (heads / kv_heads, query.len());
    let cuts = count.div_ceil(CUT);
    // [G][cut][head of the group, position in the cut]
    let parts: Vec<Vec<f32>> = (0..kv_heads * cuts)
        .into_par_iter()
        .map(|task| {
            let (g, cut) = (task / cuts, task % cuts);
            let query = query.part(cut * CUT, count.min((cut + 1) * CUT));
            let mut scores = vec![0f32; group * query.len()];
            part_scores(&mut scores, &q[g * group * head_dim..][..group * head_dim], pool, query, g, shape, score);
            scores
        })
        .collect();
    let mut scores = vec![0f32; heads * count];
    let factors: Vec<f32> = scores
        .par_chunks_exact_mut(count)
        .enumerate()
        .map(|(h, scores)| {
            for (scores, part) in scores.chunks_mut(CUT).zip(&parts[h / group * cuts..]) {
                scores.copy_from_slice(&part[h % group * scores.len()..][..scores.len()]);
            }
            part_softmax(scores, score)
        })
        .collect();
    let blocks = value_dim.div_ceil(COLUMNS);
    let columns = |block: usize| block * COLUMNS..value_dim.min((block + 1) * COLUMNS);
    let parts: Vec<Vec<f32>> = (0..kv_heads * blocks)
        .into_par_iter()
        .map(|task| {
            let (g, columns) = (task / blocks, columns(task % blocks));
            let mut out = vec![0f32; group * columns.len()];
            let weights = Weights { scores: &scores[g * group * count..], stride: count, factors: &factors[g * group..][..group] };
            part_weigh(&mut out, weights, pool, query, g, shape, columns);
            out
        })
        .collect();
    for (task, part) in parts.iter().enumerate() {
        let (g, columns) = (task / blocks, columns(task % blocks));
        for (h, part) in part.chunks_exact(columns.len()).enumerate() {
            out[(g * group + h) * value_dim..][columns.clone()].copy_from_slice(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::kv::{Cells, KvDtype};
    use llm_run::Seed;

    /// A pool with shuffled pages, and queries into it.
    struct Case {
        shape: Shape,
        pages: Vec<u32>,
        keys: Vec<f32>,
        values: Vec<f32>,
        q: Vec<f32>,
        queries: Vec<(usize, usize)>,
        score: Score,
    }

    impl Case {
        /// Queries at `positions`; a window makes them slide.
        fn new(
            (heads, kv_heads): (usize, usize),
            (head_dim, value_dim): (usize, usize),
            page_size: usize,
            positions: Range<usize>,
            window: Option<usize>,
        ) -> Self {
            let floats = |name: &str, n: usize| {
                let mut rng = Seed(3).stream(name).rng();
                (0..n).map(|_| rng.normal() as f32).collect::<Vec<f32>>()
            };
            let tokens = positions.end.next_multiple_of(page_size);
            let mut pages: Vec<u32> = (0..(tokens / page_size) as u32).collect();
            Seed(3).stream("pages").rng().shuffle(&mut pages);
            Self {
                shape: Shape { heads, kv_heads, head_dim, value_dim, page_size, value_stride: kv_heads * value_dim },
                keys: floats("k", tokens * kv_heads * head_dim),
                values: floats("v", tokens * kv_heads * value_dim),
                q: floats("q", positions.len() * heads * head_dim),
                queries: positions.map(|p| (window.map_or(0, |w| (p + 1).saturating_sub(w)), p)).collect(),
                pages,
                score: Score { scale: 0.3, softcap: window.map(|_| 20.0) },
            }
        }

        fn queries(&self) -> Vec<Query<'_>> {
            self.queries.iter().map(|&(first, position)| Query { pages: &self.pages, first, position }).collect()
        }

        fn stored(&self, dtype: KvDtype) -> (Cells, Cells) {
            let Shape { kv_heads, head_dim, value_dim, page_size, .. } = self.shape;
            let rows = self.pages.len() * page_size;
            let (mut keys, mut values) = (Cells::new(dtype, rows, kv_heads, head_dim), Cells::new(dtype, rows, kv_heads, value_dim));
            for row in 0..rows {
                keys.write(row, &self.keys[row * kv_heads * head_dim..][..kv_heads * head_dim]);
                values.write(row, &self.values[row * kv_heads * value_dim..][..kv_heads * value_dim]);
            }
            (keys, values)
        }

        /// Straightforward and in double precision.
        fn by_hand(&self, n: usize, h: usize) -> Vec<f64> {
            let Shape { heads, kv_heads, head_dim, value_dim, page_size, .. } = self.shape;
            let (first, position) = self.queries[n];
            let row = |s: usize| self.pages[s / page_size] as usize * page_size + s % page_size;
            let at = |s: usize, dim: usize| (row(s) * kv_heads + h / (heads / kv_heads)) * dim;
            let raw = |s: usize| -> f64 {
                (0..head_dim).map(|d| f64::from(self.q[(n * heads + h) * head_dim + d]) * f64::from(self.keys[at(s, head_dim) + d])).sum()
            };
            let capped = |x: f64| self.score.softcap.map_or(x, |c| f64::from(c) * (x / f64::from(c)).tanh());
            let p: Vec<f64> = (first..=position).map(|s| capped(raw(s) * f64::from(self.score.scale)).exp()).collect();
            let total: f64 = p.iter().sum();
            let value = |u: usize| (first..=position).zip(&p).map(|(s, p)| p / total * f64::from(self.values[at(s, value_dim) + u])).sum();
            (0..value_dim).map(value).collect()
        }
    }

    fn threads(n: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap()
    }

    /// If this fails, the answer to a prompt depends on how it was cut, on what else was in the batch, or on the number of threads.
    #[test]
    fn neighbours_together_give_the_bits_of_each_alone() {
        for (heads, dims, page_size, window) in [
            ((6, 2), (12, 12), 1, None),
            ((4, 4), (32, 32), 16, None),
            ((7, 1), (64, 80), 16, Some(5)),
            ((8, 2), (72, 24), 4, None),
            ((6, 2), (7, 9), 3, Some(40)),
            ((24, 2), (128, 128), 16, None),
        ] {
            let case = Case::new(heads, dims, page_size, 3..290, window);
            let Shape { heads, head_dim, value_dim, .. } = case.shape;
            for dtype in KvDtype::ALL {
                let (keys, values) = case.stored(dtype);
                let pool = Pool { keys: keys.view(), values: values.view() };
                let queries = case.queries();
                let together = forward(&case.q, pool, &queries, case.shape, case.score);
                for (n, query) in queries.iter().enumerate() {
                    let (q, want) = (&case.q[n * heads * head_dim..][..heads * head_dim], &together[n * heads * value_dim..][..heads * value_dim]);
                    assert_eq!(forward(q, pool, &[*query], case.shape, case.score), want, "{dtype} {head_dim} {page_size}: token {n}");
                    let mut cut = vec![0f32; heads * value_dim];
                    attend_split(&mut cut, q, pool, *query, case.shape, case.score);
                    assert_eq!(cut, want, "{dtype} {head_dim} {page_size}: token {n}, cut");
                }
                assert_eq!(threads(3).install(|| forward(&case.q, pool, &queries, case.shape, case.score)), together, "{dtype}");
                let bound = match dtype {
                    KvDtype::F32 => 1e-5,
                    KvDtype::Bf16 => 0.03,
                    KvDtype::Int8 => 0.06,
                };
                for (n, h) in [(0, 0), (9, heads / 2), (200, heads - 1)] {
                    let got = &together[(n * heads + h) * value_dim..][..value_dim];
                    for (got, want) in got.iter().zip(case.by_hand(n, h)) {
                        assert!((f64::from(*got) - want).abs() < bound, "{dtype} {head_dim}: {got} {want}");
                    }
                }
            }
        }
    }

    /// Long sequences on many threads take the other path.
    #[test]
    fn long_sequences_alone_are_cut_and_give_the_same_bits() {
        let case = Case::new((4, 2), (32, 40), 16, 1500..1502, None);
        for dtype in KvDtype::ALL {
            let (keys, values) = case.stored(dtype);
            let pool = Pool { keys: keys.view(), values: values.view() };
            let run = |n: usize| threads(n).install(|| forward(&case.q[..4 * 32], pool, &case.queries()[..1], case.shape, case.score));
            let one = run(1);
            assert_eq!(run(8), one, "{dtype}");
            for (got, want) in one[2 * 40..3 * 40].iter().zip(case.by_hand(0, 2)) {
                assert!((f64::from(*got) - want).abs() < 0.02, "{dtype}: {got} {want}");
            }
        }
    }
}
