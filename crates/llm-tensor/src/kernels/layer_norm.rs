//! LayerNorm (Ba et al., 2016): `y = (x - mean) / sqrt(variance + eps) * w + b`, rows of D elements.

use super::{ROWS_PER_TASK, dot, sum, vectorized};
use rayon::prelude::*;

/// Mean and `1 / sqrt(variance + eps)`; the variance from centred values, as subtracting squares loses digits.
#[inline(always)]
fn statistics(x: &[f32], eps: f32, centred: &mut [f32]) -> f32 {
    let mean = sum(x) / x.len() as f32;
    for (c, x) in centred.iter_mut().zip(x) {
        *c = x - mean;
    }
    1.0 / (dot(centred, centred) / x.len() as f32 + eps).sqrt()
}

vectorized! {
    fn forward_rows(y: &mut [f32], x: &[f32], w: &[f32], b: &[f32], eps: f32) {
        let mut centred = vec![0f32; w.len()];
        for (y, x) in y.chunks_exact_mut(w.len()).zip(x.chunks_exact(w.len())) {
            let r = statistics(x, eps, &mut centred);
            for (((y, c), w), b) in y.iter_mut().zip(&centred).zip(w).zip(b) {
                *y = c * r * w + b;
            }
        }
    }

    fn backward_rows(dx: &mut [f32], dw: &mut [f32], db: &mut [f32], x: &[f32], w: &[f32], dy: &[f32], eps: f32) {
        let d = w.len();
        let (mut normal, mut g) = (vec![0f32; d], vec![0f32; d]);
        for ((dx, x), dy) in dx.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(dy.chunks_exact(d)) {
            let r = statistics(x, eps, &mut normal);
            for n in normal.iter_mut() {
                *n *= r;
            }
            for ((g, dy), w) in g.iter_mut().zip(dy).zip(w) {
                *g = dy * w;
            }
            let (mean_g, mean_gn) = (sum(&g) / d as f32, dot(&g, &normal) / d as f32);
            for ((dx, g), n) in dx.iter_mut().zip(&g).zip(&normal) {
                *dx = r * (g - mean_g - n * mean_gn);
            }
            for (((dw, db), dy), n) in dw.iter_mut().zip(db.iter_mut()).zip(dy).zip(&normal) {
                *dw += dy * n;
                *db += dy;
            }
        }
    }
}

/// Forward.
pub fn forward(x: &[f32], w: &[f32], b: &[f32], eps: f32) -> Vec<f32> {
    let task = ROWS_PER_TASK * w.len();
    let mut y = vec![0f32; x.len()];
    y.par_chunks_mut(task).zip(x.par_chunks(task)).for_each(|(y, x)| forward_rows(y, x, w, b, eps));
    y
}

/// Gradients `(dx, dw, db)`; those of the parameters are summed task by task in row order.
pub fn backward(x: &[f32], w: &[f32], dy: &[f32], eps: f32) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let d = w.len();
    let task = ROWS_PER_TASK * d;
    let mut dx = vec![0f32; x.len()];
    let parts: Vec<(Vec<f32>, Vec<f32>)> = dx
        .par_chunks_mut(task)
        .zip(x.par_chunks(task).zip(dy.par_chunks(task)))
        .map(|(dx, (x, dy))| {
            let (mut dw, mut db) = (vec![0f32; d], vec![0f32; d]);
            backward_rows(dx, &mut dw, &mut db, x, w, dy, eps);
            (dw, db)
        })
        .collect();
    let (mut dw, mut db) = (vec![0f32; d], vec![0f32; d]);
    for (part_w, part_b) in parts {
        for ((dw, db), (w, b)) in dw.iter_mut().zip(&mut db).zip(part_w.into_iter().zip(part_b)) {
            *dw += w;
            *db += b;
        }
    }
    (dx, dw, db)
}
