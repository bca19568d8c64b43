//! One Adafactor step (Shazeer & Stern 2018; `torch.optim.Adafactor`'s reading of it) in place and without a copy of the gradient: the second
//! moment of a matrix is the product of a mean per row and a mean per column.
//!
//! The update is computed twice, first for its root mean square, then to be applied.
//!
//! Legend: B matrices one after another, R rows, C columns of each.

#![allow(non_snake_case)] // shape suffixes

use super::square_sum::square_sum;
use super::{LANES, ROWS_PER_TASK, dot, vectorized};
use rayon::prelude::*;

const CHUNK: usize = 1 << 14;

/// Coefficients of one step.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Learning rate: the largest relative step, and what weight decay is multiplied with.
    pub lr: f32,
    /// Weight of the new second moment: `step^beta2_decay`.
    pub weight: f32,
    /// The relative step: `min(lr, 1 / sqrt(step))`.
    pub relative: f32,
    /// Smallest root of the second moment.
    pub eps1: f32,
    /// Smallest root mean square of the parameter that scales the step.
    pub eps2: f32,
    /// Largest root mean square of the update.
    pub clip_threshold: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Multiplies the gradient first: the clipping coefficient.
    pub grad_scale: f32,
}

impl Step {
    /// The step for a parameter whose root mean square is this, before that of the update is known.
    fn rate(&self, rms: f64) -> f64 {
        f64::from(self.eps2).max(rms) * f64::from(self.relative)
    }

    fn denominator(&self, update_square_sum: f64, n: usize) -> f64 {
        ((update_square_sum / n as f64).sqrt() / f64::from(self.clip_threshold)).max(1.0)
    }
}

fn rms(x: &[f32]) -> f64 {
    (square_sum(x) / x.len().max(1) as f64).sqrt()
}

#[inline(always)]
fn lerp(old: f32, new: f32, weight: f32) -> f32 {
    old + weight * (new - old)
}

/// Update `p [B, R, C]` and the factors `row_BR`, `column_BC` with gradient `g`.
pub fn matrices(p: &mut [f32], row_BR: &mut [f32], column_BC: &mut [f32], g: &[f32], shape: [usize; 2], s: Step) {
    let [rows, columns] = shape;
    if p.is_empty() {
        return;
    }
    let rate = s.rate(rms(p));
    let floor = s.eps1 * s.eps1;
    let mut means = Vec::with_capacity(row_BR.len() / rows);
    let task = ROWS_PER_TASK * columns;
    for ((g, row), column) in g.chunks_exact(rows * columns).zip(row_BR.chunks_exact_mut(rows)).zip(column_BC.chunks_exact_mut(columns)) {
        let parts: Vec<Vec<f32>> = (g.par_chunks(task).zip(row.par_chunks_mut(ROWS_PER_TASK)))
            .map(|(g, row)| {
                let mut sums = vec![0f32; columns];
                squares(g, row, &mut sums, s.grad_scale, s.weight);
                sums
            })
            .collect();
        for (c, column) in column.iter_mut().enumerate() {
            let mean = parts.iter().map(|sums| f64::from(sums[c])).sum::<f64>() / rows as f64;
            *column = lerp(*column, mean as f32, s.weight);
        }
        means.push(1.0 / (row.iter().map(|&r| f64::from(r)).sum::<f64>() / rows as f64).max(f64::from(s.eps1)) as f32);
    }
    let (row_BR, column_BC, means) = (&*row_BR, &*column_BC, &means);
    let part = |matrix: usize, i: usize| {
        let first = matrix * rows + i * ROWS_PER_TASK;
        let row = &row_BR[first..(first + ROWS_PER_TASK).min((matrix + 1) * rows)];
        (row, &column_BC[matrix * columns..][..columns], means[matrix])
    };
    let sum: f64 = (g.chunks_exact(rows * columns).enumerate())
        .map(|(matrix, g)| {
            let parts: Vec<f64> = (g.par_chunks(task).enumerate())
                .map(|(i, g)| {
                    let (row, column, mean) = part(matrix, i);
                    update_squares(g, row, column, mean, floor, s.grad_scale)
                })
                .collect();
            parts.iter().sum::<f64>()
        })
        .sum();
    let rate = (rate / s.denominator(sum, g.len())) as f32;
    let keep = 1.0 - s.lr * s.weight_decay;
    for (matrix, (p, g)) in p.chunks_exact_mut(rows * columns).zip(g.chunks_exact(rows * columns)).enumerate() {
        p.par_chunks_mut(task).zip(g.par_chunks(task)).enumerate().for_each(|(i, (p, g))| {
            let (row, column, mean) = part(matrix, i);
            apply(p, g, row, column, mean, floor, rate * s.grad_scale, keep);
        });
    }
}

/// Update a vector `p` and its second moment with gradient `g`.
pub fn vector(p: &mut [f32], variance: &mut [f32], g: &[f32], s: Step) {
    if p.is_empty() {
        return;
    }
    let rate = s.rate(rms(p));
    let floor = s.eps1 * s.eps1;
    let parts: Vec<f64> =
        (variance.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK))).map(|(v, g)| vector_squares(v, g, s.weight, floor, s.grad_scale)).collect();
    let rate = (rate / s.denominator(parts.iter().sum(), g.len())) as f32;
    let keep = 1.0 - s.lr * s.weight_decay;
    p.par_chunks_mut(CHUNK).zip(variance.par_chunks(CHUNK)).zip(g.par_chunks(CHUNK)).for_each(|((p, v), g)| {
        vector_apply(p, v, g, floor, rate * s.grad_scale, keep);
    });
}

vectorized! {
    /// Means of squares into the rows' factors, sums of squares into `sums`.
    fn squares(g: &[f32], row: &mut [f32], sums: &mut [f32], scale: f32, weight: f32) {
        let columns = sums.len();
        for (g, row) in g.chunks_exact(columns).zip(row) {
            *row = lerp(*row, dot(g, g) * scale * scale / columns as f32, weight);
            for (sum, g) in sums.iter_mut().zip(g) {
                *sum += g * scale * (g * scale);
            }
        }
    }

    /// Sum of squares of the update.
    fn update_squares(g: &[f32], row: &[f32], column: &[f32], mean: f32, floor: f32, scale: f32) -> f64 {
        let mut sum = 0f64;
        for (g, row) in g.chunks_exact(column.len()).zip(row) {
            let row = row * mean;
            let mut lanes = [0f32; LANES];
            let ((g, g_rest), (c, c_rest)) = (g.as_chunks::<LANES>(), column.as_chunks::<LANES>());
            for (g, c) in g.iter().zip(c) {
                for i in 0..LANES {
                    lanes[i] += square(g[i] * scale, row * c[i], floor);
                }
            }
            sum += lanes.iter().map(|&x| f64::from(x)).sum::<f64>();
            sum += g_rest.iter().zip(c_rest).map(|(g, c)| f64::from(square(g * scale, row * c, floor))).sum::<f64>();
        }
        sum
    }

    fn apply(p: &mut [f32], g: &[f32], row: &[f32], column: &[f32], mean: f32, floor: f32, rate: f32, keep: f32) {
        let columns = column.len();
        for ((p, g), row) in p.chunks_exact_mut(columns).zip(g.chunks_exact(columns)).zip(row) {
            let row = row * mean;
            for ((p, g), c) in p.iter_mut().zip(g).zip(column) {
                *p = *p * keep - rate * g / larger(row * c, floor).sqrt();
            }
        }
    }

    /// Updates the second moment; sum of squares of the update.
    fn vector_squares(v: &mut [f32], g: &[f32], weight: f32, floor: f32, scale: f32) -> f64 {
        let mut sum = 0f64;
        for (v, g) in v.iter_mut().zip(g) {
            let g = g * scale;
            *v = lerp(*v, g * g, weight);
            sum += f64::from(square(g, *v, floor));
        }
        sum
    }

    fn vector_apply(p: &mut [f32], v: &[f32], g: &[f32], floor: f32, rate: f32, keep: f32) {
        for ((p, v), g) in p.iter_mut().zip(v).zip(g) {
            *p = *p * keep - rate * g / larger(*v, floor).sqrt();
        }
    }
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// Square of the update of one element.
#[inline(always)]
fn square(g: f32, variance: f32, floor: f32) -> f32 {
    g * g / larger(variance, floor)
}
