//! RMSNorm (Zhang & Sennrich, 2019): `y = x / sqrt(mean(x^2) + eps) * w`, rows of D elements.

use super::{ROWS_PER_TASK, sum8};
use pulp::Arch;
use rayon::prelude::*;

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum8(x.iter().map(|x| x * x)) / x.len() as f32 + eps).sqrt()
}

/// Forward.
pub fn forward(x: &[f32], w: &[f32], eps: f32) -> Vec<f32> {
    let d = w.len();
    let arch = Arch::new();
    let mut y = vec![0f32; x.len()];
    y.par_chunks_mut(ROWS_PER_TASK * d).zip(x.par_chunks(ROWS_PER_TASK * d)).for_each(|(y, x)| {
        arch.dispatch(
            #[inline(always)]
            || {
                for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                    let r = inverse_rms(x, eps);
                    for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                        *y = x * r * w;
                    }
                }
            },
        );
    });
    y
}

/// Gradients `(dx, dw)`; `dw` is summed task by task in row order.
pub fn backward(x: &[f32], w: &[f32], dy: &[f32], eps: f32) -> (Vec<f32>, Vec<f32>) {
    let d = w.len();
    let arch = Arch::new();
    let mut dx = vec![0f32; x.len()];
    let parts: Vec<Vec<f32>> = dx
        .par_chunks_mut(ROWS_PER_TASK * d)
        .zip(x.par_chunks(ROWS_PER_TASK * d).zip(dy.par_chunks(ROWS_PER_TASK * d)))
        .map(|(dx, (x, dy))| {
            let mut dw = vec![0f32; d];
            arch.dispatch(
                #[inline(always)]
                || {
                    for ((dx, x), dy) in dx.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(dy.chunks_exact(d)) {
                        let r = inverse_rms(x, eps);
                        let projection = sum8(dy.iter().zip(w).zip(x).map(|((dy, w), x)| dy * w * x)) * r * r / d as f32;
                        for i in 0..d {
                            dx[i] = r * (dy[i] * w[i] - x[i] * projection);
                            dw[i] += dy[i] * x[i] * r;
                        }
                    }
                },
            );
            dw
        })
        .collect();
    let mut dw = vec![0f32; d];
    for part in parts {
        for (total, part) in dw.iter_mut().zip(part) {
            *total += part;
        }
    }
    (dx, dw)
}
