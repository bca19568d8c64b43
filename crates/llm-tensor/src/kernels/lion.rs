//! One Lion step (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2) over flat arrays, in place.

use super::vectorized;
use rayon::prelude::*;

const CHUNK: usize = 1 << 14;

/// Coefficients of one step.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Learning rate of this step.
    pub lr: f32,
    /// Weight of the momentum in the direction of the step.
    pub beta1: f32,
    /// Decay rate of the momentum.
    pub beta2: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Multiplies the gradient first: the clipping coefficient.
    pub grad_scale: f32,
}

/// Update `p` and `m` with gradient `g`.
pub fn step(p: &mut [f32], m: &mut [f32], g: &[f32], s: Step) {
    p.par_chunks_mut(CHUNK).zip(m.par_chunks_mut(CHUNK)).zip(g.par_chunks(CHUNK)).for_each(|((p, m), g)| update(p, m, g, s));
}

vectorized! {
    fn update(p: &mut [f32], m: &mut [f32], g: &[f32], s: Step) {
        let keep = 1.0 - s.lr * s.weight_decay;
        for ((p, m), g) in p.iter_mut().zip(m).zip(g) {
            let g = g * s.grad_scale;
            let c = s.beta1 * *m + (1.0 - s.beta1) * g;
            let lr = if c > 0.0 { s.lr } else { 0.0 };
            let lr = if c < 0.0 { -s.lr } else { lr };
            *p = *p * keep - lr;
            *m = s.beta2 * *m + (1.0 - s.beta2) * g;
        }
    }
}
