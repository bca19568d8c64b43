//! SwiGLU gate (Shazeer, 2020): `silu(gate) * up`, element-wise.

use super::exp;
use pulp::Arch;
use rayon::prelude::*;

const CHUNK: usize = 1 << 14;

/// Forward.
pub fn forward(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let arch = Arch::new();
    let mut out = vec![0f32; gate.len()];
    out.par_chunks_mut(CHUNK).zip(gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK))).for_each(|(out, (gate, up))| {
        arch.dispatch(
            #[inline(always)]
            || {
                for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
                    *out = g / (1.0 + exp(-g)) * u;
                }
            },
        );
    });
    out
}

/// Gradients `(d_gate, d_up)`.
pub fn backward(gate: &[f32], up: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let arch = Arch::new();
    let (mut d_gate, mut d_up) = (vec![0f32; gate.len()], vec![0f32; up.len()]);
    d_gate.par_chunks_mut(CHUNK).zip(d_up.par_chunks_mut(CHUNK)).enumerate().for_each(|(chunk, (d_gate, d_up))| {
        let n = d_gate.len();
        let (gate, up, dy) = (&gate[chunk * CHUNK..][..n], &up[chunk * CHUNK..][..n], &dy[chunk * CHUNK..][..n]);
        arch.dispatch(
            #[inline(always)]
            || {
                for i in 0..n {
                    let s = 1.0 / (1.0 + exp(-gate[i]));
                    d_up[i] = dy[i] * gate[i] * s;
                    d_gate[i] = dy[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
                }
            },
        );
    });
    (d_gate, d_up)
}
