//! Negative log-likelihood of one target per row of logits `[N, V]`.

use super::{exp, sum8};
use pulp::Arch;
use rayon::prelude::*;

/// A target that does not count (transformers' `-100`).
pub const IGNORE: u32 = u32::MAX;

#[inline(always)]
fn max_and_sum(row: &[f32]) -> (f32, f32) {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = row.as_chunks::<16>();
    for chunk in chunks {
        for i in 0..16 {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    let max = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
    (max, sum8(row.iter().map(|x| exp(x - max))))
}

/// `-log softmax(row)[target]` for each row, 0 for [`IGNORE`].
pub fn forward(logits: &[f32], targets: &[u32], vocab: usize) -> Vec<f32> {
    let arch = Arch::new();
    logits
        .par_chunks_exact(vocab)
        .zip(targets)
        .with_min_len(8)
        .map(|(row, &target)| {
            if target == IGNORE {
                return 0.0;
            }
            let (max, sum) = arch.dispatch(
                #[inline(always)]
                || max_and_sum(row),
            );
            max + sum.ln() - row[target as usize]
        })
        .collect()
}

/// `d_logits = d_nll * (softmax(row) - one_hot(target))`, zero rows for [`IGNORE`].
pub fn backward(logits: &[f32], targets: &[u32], d_nll: &[f32], vocab: usize) -> Vec<f32> {
    let arch = Arch::new();
    let mut out = vec![0f32; logits.len()];
    out.par_chunks_exact_mut(vocab).zip(logits.par_chunks_exact(vocab)).zip(targets.par_iter().zip(d_nll)).with_min_len(8).for_each(|((out, row), (&target, &d))| {
        if target == IGNORE || d == 0.0 {
            return;
        }
        arch.dispatch(
            #[inline(always)]
            || {
                let (max, sum) = max_and_sum(row);
                let factor = d / sum;
                for (o, x) in out.iter_mut().zip(row) {
                    *o = factor * exp(x - max);
                }
            },
        );
        out[target as usize] -= d;
    });
    out
}
