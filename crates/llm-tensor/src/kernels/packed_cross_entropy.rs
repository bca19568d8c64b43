//! Output projection and loss over a quantised table: negative log-likelihoods of `hidden W^T` and the gradient of their sum, some rows at a
//! time, so that neither the logits nor the decoded table exist whole.
//!
//! Legend: N rows, D hidden, V vocabulary.

use super::{cross_entropy, packed};
use crate::quant::Packed;
use rayon::prelude::*;

/// Rows whose logits exist at a time. The table is decoded anew for each such block, which must stay a small part of its work.
pub const ROWS: usize = 256;

/// Losses `[N]` in nats and, if asked for, the gradient `[N, D]` of their sum (else empty). With a soft cap, logits become
/// `cap * tanh(logit / cap)` first.
pub fn losses(hidden: &[f32], w: &Packed, targets: &[u32], softcap: Option<f32>, gradient: bool) -> (Vec<f32>, Vec<f32>) {
    let (d, v) = (w.inputs(), w.outputs());
    let mut nll = Vec::with_capacity(targets.len());
    let mut d_hidden = Vec::with_capacity(if gradient { hidden.len() } else { 0 });
    for (hidden, targets) in hidden.chunks(ROWS * d).zip(targets.chunks(ROWS)) {
        let mut logits = packed::linear(hidden, w);
        if let Some(cap) = softcap {
            logits.par_iter_mut().for_each(|x| *x = cap * (*x / cap).tanh());
        }
        nll.extend(cross_entropy::forward(&logits, targets, v));
        if gradient {
            let mut d_logits = cross_entropy::backward(&logits, targets, &vec![1.0; targets.len()], v);
            if let Some(cap) = softcap {
                d_logits.par_iter_mut().zip(&logits).for_each(|(d, x)| *d *= 1.0 - (x / cap).powi(2));
            }
            drop(logits);
            d_hidden.extend(packed::linear_grad_input(&d_logits, w));
        }
    }
    (nll, d_hidden)
}
