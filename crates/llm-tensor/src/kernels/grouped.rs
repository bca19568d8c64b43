//! Grouped matrix products: consecutive runs of rows, each with a weight matrix of its own (the experts of a mixture).
//!
//! The work is cut into (group, block of rows) or (group, block of outputs) tasks of fixed size, each one single-threaded
//! product into its own part of the result: any number of threads gives the same bits, and a group with most of the rows
//! does not keep the other threads waiting.
//!
//! Legend: E groups, M rows of all groups, I input features, O output features; group e has rows `offsets[e]..offsets[e + 1]`.

use super::dense::{self, Product};
use super::matmul::{View, few, product_raw};
use super::{Shared, row_invariant};
use gemm::Parallelism;
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Most rows of one forward task. Large, because every task packs its weight matrix anew.
const ROW_BLOCK: usize = 256;
/// Most output features of one weight-gradient task.
const OUTPUT_BLOCK: usize = 128;

/// The rows of each group.
fn groups(offsets: &[u32]) -> impl Iterator<Item = Range<usize>> {
    offsets.windows(2).map(|pair| pair[0] as usize..pair[1] as usize)
}

/// `out[m, n] = a[m, k] b[k, n]` on this thread, into memory that need not hold numbers yet.
///
/// # Panics
/// When a view or `out` is smaller than its shape: the caller's arithmetic is wrong.
fn write_product(out: &mut [MaybeUninit<f32>], m: usize, n: usize, k: usize, a: View, b: View) {
    assert!(a.holds(m, k) && b.holds(k, n) && out.len() == m * n, "grouped product: shapes do not fit");
    // SAFETY: the assert bounds every index of the three matrices; `out` is uniquely borrowed and, without adding to it, only written.
    unsafe { product_raw(out.as_mut_ptr().cast(), n, m, n, k, false, 1.0, a, b, Parallelism::None) }
}

/// A vector of `len` numbers that `fill` writes, without clearing it first: weights of many experts are large, and clearing them costs as
/// much as using them.
///
/// # Safety
/// `fill` must write every element.
unsafe fn filled(len: usize, fill: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut out = Vec::with_capacity(len);
    fill(&mut out.spare_capacity_mut()[..len]);
    // SAFETY: `len` is within the capacity, and the caller's `fill` wrote that many elements.
    unsafe { out.set_len(len) };
    out
}

/// `product(out, rows, e)` for blocks of the rows of each group, where `a` is `[M, a_columns]`, and `out` those rows of the `[M, columns]` result.
///
/// # Safety
/// `product` must write all of `out`.
unsafe fn by_rows(
    a: &[f32],
    offsets: &[u32],
    a_columns: usize,
    columns: usize,
    product: impl Fn(&mut [MaybeUninit<f32>], &[f32], usize) + Sync,
) -> Vec<f32> {
    let rows = a.len() / a_columns;
    assert!(offsets.first() == Some(&0) && offsets.last() == Some(&(rows as u32)) && offsets.is_sorted(), "groups must cover all rows");
    let fill = |mut rest: &mut [MaybeUninit<f32>]| {
        let mut tasks = Vec::new();
        for (e, rows) in groups(offsets).enumerate() {
            for start in rows.clone().step_by(ROW_BLOCK) {
                let rows = start..rows.end.min(start + ROW_BLOCK);
                let (block, after) = std::mem::take(&mut rest).split_at_mut(rows.len() * columns);
                rest = after;
                tasks.push((e, rows, block));
            }
        }
        tasks.into_par_iter().with_max_len(1).for_each(|(e, rows, block)| {
            product(block, &a[rows.start * a_columns..rows.end * a_columns], e);
        });
    };
    // SAFETY: the groups cover all rows (asserted), their blocks follow each other, and each product writes its block (the caller's promise).
    unsafe { filled(rows * columns, fill) }
}

/// `y[M, O]`: rows of group e times `w[e][O, I]^T`.
pub fn linear(x: &[f32], w: &[f32], offsets: &[u32], inputs: usize, outputs: usize) -> Vec<f32> {
    let invariant = row_invariant();
    let product = |out: &mut [MaybeUninit<f32>], x: &[f32], e: usize| {
        let (w, n) = (&w[e * outputs * inputs..][..outputs * inputs], x.len() / inputs);
        if invariant || n <= few(inputs) {
            let y = Shared(out.as_mut_ptr().cast());
            // SAFETY: `out` holds n rows of `outputs` elements, is uniquely borrowed, and all of it is written.
            unsafe { dense::block(y, Product { x, w, inputs, stride: outputs }, 0..outputs) }
        } else {
            write_product(out, n, outputs, inputs, View::rows(x, inputs), View::rows(w, inputs).t());
        }
    };
    // SAFETY: both write all of `out`.
    unsafe { by_rows(x, offsets, inputs, outputs, product) }
}

/// `dx[M, I]`: rows of group e of `dy[M, O]` times `w[e][O, I]`.
pub fn linear_grad_input(dy: &[f32], w: &[f32], offsets: &[u32], inputs: usize, outputs: usize) -> Vec<f32> {
    let product = |out: &mut [MaybeUninit<f32>], dy: &[f32], e: usize| {
        let w = View::rows(&w[e * outputs * inputs..][..outputs * inputs], inputs);
        write_product(out, dy.len() / outputs, inputs, outputs, View::rows(dy, outputs), w);
    };
    // SAFETY: the product writes all of `out`.
    unsafe { by_rows(dy, offsets, outputs, inputs, product) }
}

/// `dw[E, O, I]`: `dy[rows of e]^T x[rows of e]`; zero for a group without rows.
pub fn linear_grad_weight(dy: &[f32], x: &[f32], offsets: &[u32], inputs: usize, outputs: usize) -> Vec<f32> {
    let size = outputs * inputs;
    let fill = |dw: &mut [MaybeUninit<f32>]| {
        let blocks = |(dw, rows): (_, Range<usize>)| {
            let blocks = <[_]>::chunks_mut(dw, OUTPUT_BLOCK * inputs).enumerate();
            blocks.map(move |(block, dw)| (block * OUTPUT_BLOCK, rows.clone(), dw))
        };
        let tasks: Vec<_> = dw.chunks_exact_mut(size).zip(groups(offsets)).flat_map(blocks).collect();
        tasks.into_par_iter().with_max_len(1).for_each(|(first, rows, dw)| {
            if rows.is_empty() {
                dw.fill(MaybeUninit::new(0.0));
                return;
            }
            let dy = View::rows(&dy[rows.start * outputs + first..rows.end * outputs], outputs).t();
            let x = View::rows(&x[rows.start * inputs..rows.end * inputs], inputs);
            write_product(dw, dw.len() / inputs, inputs, rows.len(), dy, x);
        });
    };
    // SAFETY: there is one group per matrix of `dw`, its blocks of outputs cover it, and each is written by its product or with zeros.
    unsafe { filled((offsets.len().saturating_sub(1)) * size, fill) }
}
