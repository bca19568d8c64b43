//! One Muon step (Jordan et al. 2024; order of operations as `torch.optim.Muon`) over row-major matrices, in place: momentum, then the nearest
//! semi-orthogonal matrix by an iteration of odd polynomials, which needs products only.
//!
//! The iteration is `X <- a X + (b G + c G^2) X` with the Gram matrix G on the shorter side, so that a tall matrix is never transposed.

use super::matmul::{View, parallelism, product};
use super::square_sum::square_sum;
use super::vectorized;
use rayon::prelude::*;
use std::sync::Arc;

const CHUNK: usize = 1 << 14;

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
    p.par_chunks_mut(CHUNK).zip(u.par_chunks(CHUNK)).for_each(|(p, u)| apply(p, u, s.keep, s.lr));
}

/// Replace `x [rows, columns]` by what the iteration makes of it.
pub fn orthogonalize(x: &mut [f32], rows: usize, columns: usize, iteration: &Iteration) {
    let norm = square_sum(x).sqrt() as f32 * iteration.slack;
    let factor = 1.0 / norm.max(iteration.eps);
    x.par_chunks_mut(CHUNK).for_each(|x| x.iter_mut().for_each(|x| *x *= factor));
    let (k, long) = (rows.min(columns), rows.max(columns));
    let (mut gram, mut polynomial, mut next) = (vec![0f32; k * k], vec![0f32; k * k], vec![0f32; x.len()]);
    let wide = rows <= columns;
    for &[a, b, c] in iteration.coefficients.iter() {
        let view = View::rows(x, columns);
        let (left, right) = if wide { (view, view.t()) } else { (view.t(), view) };
        product(&mut gram, k, k, k, long, false, 1.0, left, right, parallelism(k * k * long));
        scaled(&mut polynomial, &gram, b);
        let square = View::rows(&gram, k);
        product(&mut polynomial, k, k, k, k, true, c, square, square, parallelism(k * k * k));
        scaled(&mut next, x, a);
        let polynomial = View::rows(&polynomial, k);
        let (left, right) = if wide { (polynomial, view) } else { (view, polynomial) };
        product(&mut next, columns, rows, columns, k, true, 1.0, left, right, parallelism(rows * columns * k));
        x.copy_from_slice(&next);
    }
}

fn scaled(out: &mut [f32], x: &[f32], factor: f32) {
    out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(out, x)| out.iter_mut().zip(x).for_each(|(out, x)| *out = x * factor));
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
}
