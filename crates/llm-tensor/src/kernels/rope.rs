//! Rotary position embedding (Su et al., 2021) in the half-split form of Hugging Face's `rotate_half`:
//! element `i` is paired with `i + K/2`.

use super::vectorized;
use rayon::prelude::*;

/// Rotate `x [N, H, K]` by the angles of each token's position; `sign = -1` undoes it (and is the gradient).
///
/// `cos` and `sin` are `[P, half]`; elements from `2 * half` on are left alone (partial rotary).
///
/// # Panics
/// When a position is not in the table.
#[allow(clippy::too_many_arguments)]
pub fn rotate(x: &[f32], positions: &[u32], cos: &[f32], sin: &[f32], heads: usize, head_dim: usize, half: usize, sign: f32) -> Vec<f32> {
    assert_eq!(x.len(), positions.len() * heads * head_dim, "x");
    assert!(positions.iter().all(|&p| (p as usize + 1) * half <= cos.len()), "position beyond the rotary table");
    let mut out = vec![0f32; x.len()];
    let row = heads * head_dim;
    out.par_chunks_exact_mut(row).zip(x.par_chunks_exact(row)).zip(positions).with_min_len(super::ROWS_PER_TASK).for_each(|((out, x), &position)| {
        let at = position as usize * half;
        rotate_token(out, x, &cos[at..at + half], &sin[at..at + half], head_dim, sign);
    });
    out
}

vectorized! {
    fn rotate_token(out: &mut [f32], x: &[f32], cos: &[f32], sin: &[f32], head_dim: usize, sign: f32) {
        let half = cos.len();
        for (out, x) in out.chunks_exact_mut(head_dim).zip(x.chunks_exact(head_dim)) {
            let (out_a, out) = out.split_at_mut(half);
            let (out_b, out_rest) = out.split_at_mut(half);
            let (a, x) = x.split_at(half);
            let (b, rest) = x.split_at(half);
            for (((o, a), b), (c, s)) in out_a.iter_mut().zip(a).zip(b).zip(cos.iter().zip(sin)) {
                *o = a * c - sign * b * s;
            }
            for (((o, a), b), (c, s)) in out_b.iter_mut().zip(a).zip(b).zip(cos.iter().zip(sin)) {
                *o = b * c + sign * a * s;
            }
            out_rest.copy_from_slice(rest);
        }
    }
}
