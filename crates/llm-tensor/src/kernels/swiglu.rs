//! SwiGLU gate (Shazeer, 2020): `silu(gate) * up`, element-wise.

use super::{exp, vectorized};
use rayon::prelude::*;

const CHUNK: usize = 1 << 14;

vectorized! {
    fn forward_chunk(out: &mut [f32], gate: &[f32], up: &[f32]) {
        for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
            *out = g / (1.0 + exp(-g)) * u;
        }
    }

    fn backward_chunk(d_gate: &mut [f32], d_up: &mut [f32], gate: &[f32], up: &[f32], dy: &[f32]) {
        for ((((d_gate, d_up), g), u), dy) in d_gate.iter_mut().zip(d_up).zip(gate).zip(up).zip(dy) {
            let s = 1.0 / (1.0 + exp(-g));
            *d_up = dy * g * s;
            *d_gate = dy * u * s * (1.0 + g * (1.0 - s));
        }
    }
}

/// Forward.
pub fn forward(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let mut out = vec![0f32; gate.len()];
    out.par_chunks_mut(CHUNK).zip(gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK))).for_each(|(out, (gate, up))| forward_chunk(out, gate, up));
    out
}

/// Gradients `(d_gate, d_up)`.
pub fn backward(gate: &[f32], up: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (mut d_gate, mut d_up) = (vec![0f32; gate.len()], vec![0f32; up.len()]);
    let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK));
    d_gate
        .par_chunks_mut(CHUNK)
        .zip(d_up.par_chunks_mut(CHUNK))
        .zip(inputs)
        .for_each(|((d_gate, d_up), ((gate, up), dy))| backward_chunk(d_gate, d_up, gate, up, dy));
    (d_gate, d_up)
}
