//! Negative log-likelihood of one target per row of logits `[N, V]`.

use super::{exp, max, sum_exp, vectorized};
use rayon::prelude::*;

/// A target that does not count (transformers' `-100`).
pub const IGNORE: u32 = u32::MAX;

vectorized! {
    fn max_and_sum(row: &[f32]) -> (f32, f32) {
        let largest = max(row);
        (largest, sum_exp(row, largest))
    }

    fn gradient_row(out: &mut [f32], row: &[f32], d: f32) {
        let largest = max(row);
        let factor = d / sum_exp(row, largest);
        for (o, x) in out.iter_mut().zip(row) {
            *o = factor * exp(x - largest);
        }
    }
}

/// `-log softmax(row)[target]` for each row, 0 for [`IGNORE`].
pub fn forward(logits: &[f32], targets: &[u32], vocab: usize) -> Vec<f32> {
    logits
        .par_chunks_exact(vocab)
        .zip(targets)
        .with_min_len(8)
        .map(|(row, &target)| {
            if target == IGNORE {
                return 0.0;
            }
            let (largest, sum) = max_and_sum(row);
            largest + sum.ln() - row[target as usize]
        })
        .collect()
}

/// `d_logits = d_nll * (softmax(row) - one_hot(target))`, zero rows for [`IGNORE`].
pub fn backward(logits: &[f32], targets: &[u32], d_nll: &[f32], vocab: usize) -> Vec<f32> {
    let mut out = vec![0f32; logits.len()];
    out.par_chunks_exact_mut(vocab).zip(logits.par_chunks_exact(vocab)).zip(targets.par_iter().zip(d_nll)).with_min_len(8).for_each(
        |((out, row), (&target, &d))| {
            if target != IGNORE && d != 0.0 {
                gradient_row(out, row, d);
                out[target as usize] -= d;
            }
        },
    );
    out
}
