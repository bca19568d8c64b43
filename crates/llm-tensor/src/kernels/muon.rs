//! One Muon step (Jordan et al. 2024; order of operations as `torch.optim.Muon`) over row-major matrices, in place: momentum, then the nearest
//! semi-orthogonal matrix by an iteration of odd polynomials, which needs products only.
//!
//! The iteration is `X <- a X + (b G + c G^2) X` with the Gram matrix G on the shorter side; a tall matrix is transposed before and after.

use super::matmul::linear;
use super::square_sum::square_sum;
use super::{in_blocks, vectorized};
use rayon::prelude::*;
use std::sync::Arc;

const CHUNK: usize = 1 << 14;
/// Elements of a small matrix that are worked on at a time.
const BLOCK: usize = 1 << 12;

/// What the iteration does.
#[derive(Debug, Clone, PartialEq)]
pub struct Iteration {
    /// `[a, b, c]` of each round.
    pub coefficients: Arc<[[f32; 3]]>,
    /// The matrix is divided by its Frobenius norm times this first; above 1 for coefficients that need room.
    pub slack: f32,
    /// Smallest divisor.
    pub eps: f32,
}

/// Coefficients of one step.
#[derive(Debug, Clone)]
pub struct Step {
    /// Rows and columns of each matrix; several may follow one another.
    pub shape: [usize; 2],
    /// Learning rate of this step, adjusted to the shape.
    pub lr: f32,
    /// What weight decay leaves of the parameter: `1 - lr * weight_decay` with the learning rate before the adjustment.
    pub keep: f32,
    /// Decay rate of the momentum.
    pub momentum: f32,
    /// Look ahead by one step of the momentum.
    pub nesterov: bool,
    /// Multiplies the gradient first: the clipping coefficient.
    pub grad_scale: f32,
    /// How the momentum becomes orthogonal.
    pub iteration: Iteration,
}

/// Update `p` and the momentum `m` with gradient `g`.
pub fn step(p: &mut [f32], m: &mut [f32], g: &[f32], s: &Step) {
    let mut u = vec![0f32; p.len()];
    u.par_chunks_mut(CHUNK)
        .zip(m.par_chunks_mut(CHUNK))
        .zip(g.par_chunks(CHUNK))
        .for_each(|((u, m), g)| accumulate(u, m, g, s.momentum, s.nesterov, s.grad_scale));
    let [rows, columns] = s.shape;
    for matrix in u.chunks_exact_mut((rows * columns).max(1)) {
        orthogonalize(matrix, rows, columns, &s.iteration);
    }
    in_blocks(p, BLOCK, 1, |at, p| apply(p, &u[at], s.keep, s.lr));
}

/// Replace `x [rows, columns]` by what the iteration makes of it.
pub fn orthogonalize(x: &mut [f32], rows: usize, columns: usize, iteration: &Iteration) {
    if x.is_empty() {
        return;
    }
    let norm = square_sum(x).sqrt() as f32 * iteration.slack;
    let factor = 1.0 / norm.max(iteration.eps);
    in_blocks(x, BLOCK, 1, |_, x| x.iter_mut().for_each(|x| *x *= factor));
    if rows <= columns {
        rounds(x, rows, columns, iteration);
    } else {
        let mut wide = transposed(x, rows, columns);
        rounds(&mut wide, columns, rows, iteration);
        x.copy_from_slice(&transposed(&wide, columns, rows));
    }
}

/// All rounds, for `k <= long`. Every product is one of rows with rows: the Gram matrix is symmetric, and the last has the matrix turned over.
fn rounds(x: &mut [f32], k: usize, long: usize, iteration: &Iteration) {
    for &[a, b, c] in iteration.coefficients.iter() {
        let gram = linear(x, x, long, k);
        let mut polynomial = linear(&gram, &gram, k, k);
        combine(&mut polynomial, c, &gram, b);
        let product = linear(&polynomial, &transposed(x, k, long), k, long);
        combine(x, a, &product, 1.0);
    }
}

/// `[rows, columns]` as `[columns, rows]`.
fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    /// Side of the squares that are turned over at a time: both fit a level-1 cache.
    const SIDE: usize = 16;
    let mut out = vec![0f32; x.len()];
    in_blocks(&mut out, SIDE * rows, 2, |at, out| {
        let first = at.start / rows;
        for from in (0..rows).step_by(SIDE) {
            for (c, out) in out.chunks_exact_mut(rows).enumerate() {
                for (r, out) in (from..rows.min(from + SIDE)).zip(&mut out[from..]) {
                    *out = x[r * columns + first + c];
                }
            }
        }
    });
    out
}

/// `x <- factor x + other_factor other`.
fn combine(x: &mut [f32], factor: f32, other: &[f32], other_factor: f32) {
    in_blocks(x, BLOCK, 1, |at, x| axpby(x, factor, &other[at], other_factor));
}

vectorized! {
    fn accumulate(u: &mut [f32], m: &mut [f32], g: &[f32], momentum: f32, nesterov: bool, grad_scale: f32) {
        for ((u, m), g) in u.iter_mut().zip(m).zip(g) {
            let g = g * grad_scale;
            *m += (1.0 - momentum) * (g - *m);
            *u = if nesterov { *m - (*m - g) * (1.0 - momentum) } else { *m };
        }
    }

    fn apply(p: &mut [f32], u: &[f32], keep: f32, lr: f32) {
        for (p, u) in p.iter_mut().zip(u) {
            *p = *p * keep - lr * u;
        }
    }

    fn axpby(x: &mut [f32], factor: f32, other: &[f32], other_factor: f32) {
        for (x, other) in x.iter_mut().zip(other) {
            *x = *x * factor + other * other_factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, Muon's steps are wrong for matrices of that shape.
    #[test]
    fn the_rounds_are_those_of_the_formula_for_wide_and_tall() {
        for (rows, columns) in [(3, 3), (17, 40), (40, 17), (1, 5), (33, 16)] {
            let x: Vec<f32> = (0..rows * columns).map(|i| ((i * 37 + 11) % 101) as f32 / 101.0 - 0.4).collect();
            let iteration = Iteration { coefficients: vec![[3.4445, -4.775, 2.0315], [2.0, -1.5, 0.5]].into(), slack: 1.01, eps: 1e-7 };
            let mut got = x.clone();
            orthogonalize(&mut got, rows, columns, &iteration);
            let norm = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt() * 1.01;
            let mut want: Vec<f64> = x.iter().map(|x| f64::from(*x) / norm).collect();
            let product = |a: &[f64], b: &[f64], n: usize, m: usize, k: usize| -> Vec<f64> {
                (0..n * m).map(|i| (0..k).map(|j| a[i / m * k + j] * b[j * m + i % m]).sum()).collect()
            };
            for [a, b, c] in iteration.coefficients.iter().map(|c| c.map(f64::from)) {
                let turned: Vec<f64> = (0..rows * columns).map(|i| want[i % rows * columns + i / rows]).collect();
                let gram = product(&want, &turned, rows, rows, columns);
                let square = product(&gram, &gram, rows, rows, rows);
                let polynomial: Vec<f64> = gram.iter().zip(&square).map(|(g, s)| b * g + c * s).collect();
                let step = product(&polynomial, &want, rows, columns, rows);
                want = want.iter().zip(step).map(|(x, s)| a * x + s).collect();
            }
            for (got, want) in got.iter().zip(&want) {
                assert!((f64::from(*got) - want).abs() < 1e-5, "{rows} x {columns}: {got} for {want}");
            }
        }
    }
}
