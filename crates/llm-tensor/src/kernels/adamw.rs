//! One AdamW step (Loshchilov & Hutter, 2019; PyTorch's order of operations) over flat arrays, in place.

use super::vectorized;
use rayon::prelude::*;

const CHUNK: usize = 1 << 14;

/// Coefficients of one step.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay rate of the first moment.
    pub beta1: f32,
    /// Decay rate of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay; 0 for norms and biases.
    pub weight_decay: f32,
    /// 1-based step number, for bias correction.
    pub step: u64,
    /// Multiplies the gradient first: the clipping coefficient.
    pub grad_scale: f32,
}

/// Update `p`, `m`, `v` with gradient `g`.
pub fn step(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], s: Step) {
    let exponent = s.step.min(i32::MAX as u64) as i32;
    let correction1 = 1.0 - f64::from(s.beta1).powi(exponent);
    let correction2 = 1.0 - f64::from(s.beta2).powi(exponent);
    let rate = (f64::from(s.lr) / correction1) as f32;
    let root = (1.0 / correction2.sqrt()) as f32;
    p.par_chunks_mut(CHUNK)
        .zip(m.par_chunks_mut(CHUNK))
        .zip(v.par_chunks_mut(CHUNK))
        .zip(g.par_chunks(CHUNK))
        .for_each(|(((p, m), v), g)| update(p, m, v, g, s, rate, root));
}

vectorized! {
    fn update(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], s: Step, rate: f32, root: f32) {
        let keep = 1.0 - s.lr * s.weight_decay;
        for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
            let g = g * s.grad_scale;
            *m = s.beta1 * *m + (1.0 - s.beta1) * g;
            *v = s.beta2 * *v + (1.0 - s.beta2) * g * g;
            *p = *p * keep - rate * *m / (v.sqrt() * root + s.eps);
        }
    }
}
