//! Rotary position embedding (Su et al., 2021). Half-split as in Hugging Face's `rotate_half`: element `i` is paired with
//! `i + half`. Interleaved as in DeepSeek's checkpoints: `2i` with `2i + 1`; the rotated elements are then written half-split
//! (all first elements, then all second ones), as transformers does, which changes no score.

use super::{in_blocks, vectorized};

/// Which elements of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pairing {
    /// `i` and `i + half`.
    #[default]
    Halves,
    /// `2i` and `2i + 1`.
    Neighbours,
}

/// Rotate `x [N, H, K]` by the angles of each token's position; `sign = -1` undoes it (and is the gradient).
///
/// `cos` and `sin` are `[P, half]`; elements from `2 * half` on are left alone (partial rotary).
///
/// # Panics
/// When a position is not in the table.
#[allow(clippy::too_many_arguments)]
pub fn rotate(
    x: &[f32],
    positions: &[u32],
    cos: &[f32],
    sin: &[f32],
    heads: usize,
    head_dim: usize,
    half: usize,
    pairing: Pairing,
    sign: f32,
) -> Vec<f32> {
    assert_eq!(x.len(), positions.len() * heads * head_dim, "x");
    assert!(positions.iter().all(|&p| (p as usize + 1) * half <= cos.len()), "position beyond the rotary table");
    let mut out = vec![0f32; x.len()];
    let row = heads * head_dim;
    in_blocks(&mut out, super::ROWS_PER_TASK * row, 2, |range, out| {
        let rows = out.chunks_exact_mut(row).zip(x[range.clone()].chunks_exact(row)).zip(&positions[range.start / row..]);
        for ((out, x), &position) in rows {
            let at = position as usize * half;
            let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
            match (pairing, sign > 0.0) {
                (Pairing::Halves, _) => rotate_token(out, x, cos, sin, head_dim, sign),
                (Pairing::Neighbours, true) => rotate_neighbours(out, x, cos, sin, head_dim),
                (Pairing::Neighbours, false) => unrotate_neighbours(out, x, cos, sin, head_dim),
            }
        }
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

    fn rotate_neighbours(out: &mut [f32], x: &[f32], cos: &[f32], sin: &[f32], head_dim: usize) {
        let half = cos.len();
        for (out, x) in out.chunks_exact_mut(head_dim).zip(x.chunks_exact(head_dim)) {
            for i in 0..half {
                let (a, b) = (x[2 * i], x[2 * i + 1]);
                out[i] = a * cos[i] - b * sin[i];
                out[half + i] = b * cos[i] + a * sin[i];
            }
            out[2 * half..].copy_from_slice(&x[2 * half..]);
        }
    }

    fn unrotate_neighbours(out: &mut [f32], x: &[f32], cos: &[f32], sin: &[f32], head_dim: usize) {
        let half = cos.len();
        for (out, x) in out.chunks_exact_mut(head_dim).zip(x.chunks_exact(head_dim)) {
            for i in 0..half {
                let (a, b) = (x[i], x[half + i]);
                out[2 * i] = a * cos[i] + b * sin[i];
                out[2 * i + 1] = b * cos[i] - a * sin[i];
            }
            out[2 * half..].copy_from_slice(&x[2 * half..]);
        }
    }
}
