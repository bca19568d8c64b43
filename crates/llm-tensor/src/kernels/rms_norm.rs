//! RMSNorm (Zhang & Sennrich, 2019): `y = x / sqrt(mean(x^2) + eps) * w`, rows of D elements.

use super::{ROWS_PER_TASK, dot, dot3, in_blocks, vectorized};
use rayon::prelude::*;

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

vectorized! {
    fn forward_rows(y: &mut [f32], x: &[f32], w: &[f32], eps: f32) {
        for (y, x) in y.chunks_exact_mut(w.len()).zip(x.chunks_exact(w.len())) {
            let r = inverse_rms(x, eps);
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                *y = x * r * w;
            }
        }
    }

    fn backward_rows(dx: &mut [f32], dw: &mut [f32], x: &[f32], w: &[f32], dy: &[f32], eps: f32) {
        let d = w.len();
        for ((dx, x), dy) in dx.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(dy.chunks_exact(d)) {
            let r = inverse_rms(x, eps);
            let projection = dot3(dy, w, x) * r * r / d as f32;
            for (((dx, x), w), dy) in dx.iter_mut().zip(x).zip(w).zip(dy) {
                *dx = r * (dy * w - x * projection);
            }
            for ((dw, x), dy) in dw.iter_mut().zip(x).zip(dy) {
                *dw += dy * x * r;
            }
        }
    }
}

/// Forward.
pub fn forward(x: &[f32], w: &[f32], eps: f32) -> Vec<f32> {
    let task = ROWS_PER_TASK * w.len();
    let mut y = vec![0f32; x.len()];
    in_blocks(&mut y, task, 4, |at, y| forward_rows(y, &x[at], w, eps));
    y
}

/// Gradients `(dx, dw)`; `dw` is summed task by task in row order.
pub fn backward(x: &[f32], w: &[f32], dy: &[f32], eps: f32) -> (Vec<f32>, Vec<f32>) {
    let task = ROWS_PER_TASK * w.len();
    let mut dx = vec![0f32; x.len()];
    let parts: Vec<Vec<f32>> = dx
        .par_chunks_mut(task)
        .zip(x.par_chunks(task).zip(dy.par_chunks(task)))
        .map(|(dx, (x, dy))| {
            let mut dw = vec![0f32; w.len()];
            backward_rows(dx, &mut dw, x, w, dy, eps);
            dw
        })
        .collect();
    let mut dw = vec![0f32; w.len()];
    for part in parts {
        for (total, part) in dw.iter_mut().zip(part) {
            *total += part;
        }
    }
    (dx, dw)
}
