//! SwiGLU gate (Shazeer, 2020): `silu(gate) * up`, element-wise.

use super::{exp, filled, vectorized};
use rayon::prelude::*;
use std::mem::MaybeUninit;

const CHUNK: usize = 1 << 14;

vectorized! {
    fn forward_chunk(out: &mut [MaybeUninit<f32>], gate: &[f32], up: &[f32]) {
        for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
            out.write(g / (1.0 + exp(-g)) * u);
        }
    }

    fn backward_chunk(d_gate: &mut [MaybeUninit<f32>], d_up: &mut [MaybeUninit<f32>], gate: &[f32], up: &[f32], dy: &[f32]) {
        for ((((d_gate, d_up), g), u), dy) in d_gate.iter_mut().zip(d_up).zip(gate).zip(up).zip(dy) {
            let s = 1.0 / (1.0 + exp(-g));
            d_up.write(dy * g * s);
            d_gate.write(dy * u * s * (1.0 + g * (1.0 - s)));
        }
    }
}

/// Forward.
pub fn forward(gate: &[f32], up: &[f32]) -> Vec<f32> {
    assert_eq!(gate.len(), up.len(), "gate and up");
    let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK));
    let write = |out: &mut [MaybeUninit<f32>]| out.par_chunks_mut(CHUNK).zip(inputs).for_each(|(out, (gate, up))| forward_chunk(out, gate, up));
    // SAFETY: the three slices have one length, so the chunks cover the output and `forward_chunk` writes all of each.
    unsafe { filled(gate.len(), write) }
}

/// Gradients `(d_gate, d_up)`.
pub fn backward(gate: &[f32], up: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
    assert!(gate.len() == up.len() && gate.len() == dy.len(), "gate, up and dy");
    let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK));
    let mut d_up = Vec::new();
    let write = |d_gate: &mut [MaybeUninit<f32>]| {
        let write_up = |d_up: &mut [MaybeUninit<f32>]| {
            d_gate
                .par_chunks_mut(CHUNK)
                .zip(d_up.par_chunks_mut(CHUNK))
                .zip(inputs)
                .for_each(|((d_gate, d_up), ((gate, up), dy))| backward_chunk(d_gate, d_up, gate, up, dy));
        };
        // SAFETY: the five slices have one length, so the chunks cover both outputs and `backward_chunk` writes all of each.
        d_up = unsafe { filled(gate.len(), write_up) };
    };
    // SAFETY: as above.
    let d_gate = unsafe { filled(gate.len(), write) };
    (d_gate, d_up)
}
