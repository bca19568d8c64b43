//! Grouped matrix products: consecutive runs of rows, each with a weight matrix of its own (the experts of a mixture).
//!
//! The work is cut into (group, block of rows) or (group, block of outputs) tasks of fixed size, each one single-threaded
//! product into its own part of the result: any number of threads gives the same bits, and a group with most of the rows
//! does not keep the other threads waiting.
//!
//! Legend: E groups, M rows of all groups, I input features, O output features; group e has rows `offsets[e]..offsets[e + 1]`.

use super::matmul::{View, product};
use gemm::Parallelism;
use rayon::prelude::*;

/// Most rows of one forward task. Large, because every task packs its weight matrix anew.
const ROW_BLOCK: usize = 256;
/// Most output features of one weight-gradient task.
const OUTPUT_BLOCK: usize = 128;

/// The rows of each group.
fn groups(offsets: &[u32]) -> impl Iterator<Item = std::ops::Range<usize>> {
    offsets.windows(2).map(|pair| pair[0] as usize..pair[1] as usize)
}

/// `out[rows of e] = a[rows of e] b_e`, where `weight(e)` is `[a_columns, columns]`.
fn by_rows<'w>(a: &[f32], offsets: &[u32], a_columns: usize, columns: usize, weight: impl Fn(usize) -> View<'w> + Sync) -> Vec<f32> {
    let mut out = vec![0f32; a.len() / a_columns * columns];
    let mut rest = out.as_mut_slice();
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
        let a = View::rows(&a[rows.start * a_columns..rows.end * a_columns], a_columns);
        product(block, columns, rows.len(), columns, a_columns, false, 1.0, a, weight(e), Parallelism::None);
    });
    out
}

/// `y[M, O]`: rows of group e times `w[e][O, I]^T`.
pub fn linear(x: &[f32], w: &[f32], offsets: &[u32], inputs: usize, outputs: usize) -> Vec<f32> {
    by_rows(x, offsets, inputs, outputs, |e| View::rows(&w[e * outputs * inputs..][..outputs * inputs], inputs).t())
}

/// `dx[M, I]`: rows of group e of `dy[M, O]` times `w[e][O, I]`.
pub fn linear_grad_input(dy: &[f32], w: &[f32], offsets: &[u32], inputs: usize, outputs: usize) -> Vec<f32> {
    by_rows(dy, offsets, outputs, inputs, |e| View::rows(&w[e * outputs * inputs..][..outputs * inputs], inputs))
}

/// `dw[E, O, I]`: `dy[rows of e]^T x[rows of e]`; zero for a group without rows.
pub fn linear_grad_weight(dy: &[f32], x: &[f32], offsets: &[u32], inputs: usize, outputs: usize) -> Vec<f32> {
    // Fresh zero pages: groups without rows cost nothing.
    let mut dw = vec![0f32; offsets.len().saturating_sub(1) * outputs * inputs];
    let tasks: Vec<_> = dw
        .chunks_exact_mut(outputs * inputs)
        .zip(groups(offsets))
        .filter(|(_, rows)| !rows.is_empty())
        .flat_map(|(dw, rows)| dw.chunks_mut(OUTPUT_BLOCK * inputs).enumerate().map(move |(block, dw)| (block * OUTPUT_BLOCK, rows.clone(), dw)))
        .collect();
    tasks.into_par_iter().with_max_len(1).for_each(|(first, rows, dw)| {
        let dy = View::rows(&dy[rows.start * outputs + first..rows.end * outputs], outputs).t();
        let x = View::rows(&x[rows.start * inputs..rows.end * inputs], inputs);
        product(dw, inputs, dw.len() / inputs, inputs, rows.len(), false, 1.0, dy, x, Parallelism::None);
    });
    dw
}
