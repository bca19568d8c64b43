//! Rotary position embedding (Su et al., 2021) in the half-split form of Hugging Face's `rotate_half`:
//! element `i` is paired with `i + K/2`.

use pulp::Arch;
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
    let arch = Arch::new();
    let mut out = vec![0f32; x.len()];
    let row = heads * head_dim;
    out.par_chunks_exact_mut(row).zip(x.par_chunks_exact(row)).zip(positions).with_min_len(super::ROWS_PER_TASK).for_each(|((out, x), &position)| {
        let at = position as usize * half;
        let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
        arch.dispatch(
            #[inline(always)]
            || {
                for (out, x) in out.chunks_exact_mut(head_dim).zip(x.chunks_exact(head_dim)) {
                    let (out_rotated, out_rest) = out.split_at_mut(2 * half);
                    let (x_rotated, x_rest) = x.split_at(2 * half);
                    let (out_a, out_b) = out_rotated.split_at_mut(half);
                    let (a, b) = x_rotated.split_at(half);
                    for i in 0..half {
                        out_a[i] = a[i] * cos[i] - sign * b[i] * sin[i];
                        out_b[i] = b[i] * cos[i] + sign * a[i] * sin[i];
                    }
                    out_rest.copy_from_slice(x_rest);
                }
            },
        );
    });
    out
}
