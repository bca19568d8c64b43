//! Output projection and cross-entropy in one: the negative log-likelihood of one target per row of `hidden W^T`, without the
//! `[N, V]` logits and without their gradient (the idea of Wijmans et al., Cut Your Losses, 2024, and of Liger-Kernel).
//!
//! Rows are taken in blocks whose logits fit a scratch of about [`SCRATCH`] floats; rows with [`IGNORE`] are left out of every
//! product. [`forward`] keeps one number per row. [`forward_backward`] turns a block's logits into their gradient while they
//! are in cache, so value and both gradients cost three products; computing the logits again in a later backward pass
//! would cost a fourth.
//!
//! Legend: N rows, R rows of a block, V vocabulary, D hidden. `logit <- cap * tanh(logit / cap)` when a soft cap is given
//! (Gemma 2, section 2).

#![allow(non_snake_case)] // shape suffixes

use super::cross_entropy::IGNORE;
use super::matmul::{View, parallelism, product};
use super::{exp, max, sum_exp, vectorized};
use rayon::prelude::*;

/// Logits held at a time, in floats, when the vocabulary leaves room for `MIN_ROWS` rows in it.
pub const SCRATCH: usize = 1 << 21;

/// Fewest rows of a block: below, reading W for each block would cost more than multiplying with it.
const MIN_ROWS: usize = 64;

/// Rows of a block, whose logits exist together, over a vocabulary of that size.
pub fn block_rows(vocab: usize) -> usize {
    (SCRATCH / vocab).max(MIN_ROWS)
}

/// What is multiplied and what is asked about it.
#[derive(Debug, Clone, Copy)]
pub struct Problem<'a> {
    /// `[N, D]`.
    pub hidden_ND: &'a [f32],
    /// `[V, D]`.
    pub weight_VD: &'a [f32],
    /// `[N]`, below V or [`IGNORE`].
    pub targets: &'a [u32],
    /// D.
    pub hidden_size: usize,
    /// Bound of the logits.
    pub softcap: Option<f32>,
}

/// Results of [`forward_backward`].
#[derive(Debug, Default)]
pub struct Gradients {
    /// `[N]`.
    pub nll_N: Vec<f32>,
    /// `[N, D]`; empty when not asked for.
    pub d_hidden_ND: Vec<f32>,
    /// `[V, D]`; empty when not asked for.
    pub d_weight_VD: Vec<f32>,
}

vectorized! {
    /// Logits of a row, capped in place; their log-sum-exp.
    fn log_sum_exp(row: &mut [f32], cap: f32) -> f32 {
        if cap > 0.0 {
            let inverse = 2.0 / cap;
            for x in row.iter_mut() {
                *x = cap - 2.0 * cap / (exp(*x * inverse) + 1.0);
            }
        }
        let largest = max(row);
        largest + sum_exp(row, largest).ln()
    }

    /// Capped logits to `d * softmax`, through the derivative of the cap.
    fn gradient(row: &mut [f32], log_sum: f32, d: f32, cap: f32) {
        if cap > 0.0 {
            let inverse = 1.0 / cap;
            for x in row.iter_mut() {
                let bound = *x * inverse;
                *x = d * exp(*x - log_sum) * (1.0 - bound * bound);
            }
        } else {
            for x in row.iter_mut() {
                *x = d * exp(*x - log_sum);
            }
        }
    }

    fn scale_row(row: &mut [f32], factor: f32) {
        for x in row {
            *x *= factor;
        }
    }
}

impl<'a> Problem<'a> {
    fn vocab(&self) -> usize {
        self.weight_VD.len() / self.hidden_size
    }

    fn cap(&self) -> f32 {
        self.softcap.unwrap_or(0.0)
    }

    /// Indices of the rows that `keep`, in blocks of a fixed size.
    fn blocks(&self, keep: impl Fn(usize) -> bool) -> Vec<Vec<usize>> {
        let vocab = self.vocab();
        assert_eq!(self.weight_VD.len(), vocab * self.hidden_size, "weight");
        assert_eq!(self.hidden_ND.len(), self.targets.len() * self.hidden_size, "hidden");
        assert!(self.targets.iter().all(|&t| t == IGNORE || (t as usize) < vocab), "target beyond the vocabulary");
        let kept: Vec<usize> = (0..self.targets.len()).filter(|&n| self.targets[n] != IGNORE && keep(n)).collect();
        kept.chunks(block_rows(vocab)).map(<[usize]>::to_vec).collect()
    }

    /// Copy the rows of a block together and multiply them with the weight.
    fn logits(&self, rows: &[usize], hidden_RD: &mut Vec<f32>, logits_RV: &mut Vec<f32>) {
        let (d, v, r) = (self.hidden_size, self.vocab(), rows.len());
        hidden_RD.resize(r * d, 0.0);
        logits_RV.resize(r * v, 0.0);
        for (to, &n) in hidden_RD.chunks_exact_mut(d).zip(rows) {
            to.copy_from_slice(&self.hidden_ND[n * d..][..d]);
        }
        product(logits_RV, v, r, v, d, false, 1.0, View::rows(hidden_RD, d), View::rows(self.weight_VD, d).t(), parallelism(r * v * d));
    }
}

/// Negative log-likelihood `[N]` in nats, 0 for [`IGNORE`].
pub fn forward(p: Problem) -> Vec<f32> {
    let (mut hidden_RD, mut logits_RV) = (Vec::new(), Vec::new());
    let mut nll_N = vec![0f32; p.targets.len()];
    for rows in p.blocks(|_| true) {
        p.logits(&rows, &mut hidden_RD, &mut logits_RV);
        let nll: Vec<f32> = logits_RV
            .par_chunks_exact_mut(p.vocab())
            .zip(&rows)
            .with_min_len(8)
            .map(|(row, &n)| log_sum_exp(row, p.cap()) - row[p.targets[n] as usize])
            .collect();
        rows.iter().zip(nll).for_each(|(&n, nll)| nll_N[n] = nll);
    }
    nll_N
}

/// [`forward`], and the gradients of `sum(d_nll * nll)`; rows whose `d_nll` is 0 are left out as ignored ones are.
pub fn forward_backward(p: Problem, d_nll: impl Fn(usize) -> f32 + Sync, want_hidden: bool, want_weight: bool) -> Gradients {
    let (d, v) = (p.hidden_size, p.vocab());
    let (mut hidden_RD, mut logits_RV, mut d_hidden_RD) = (Vec::new(), Vec::new(), Vec::new());
    let mut out = Gradients { nll_N: vec![0f32; p.targets.len()], ..Gradients::default() };
    out.d_hidden_ND = vec![0f32; if want_hidden { p.hidden_ND.len() } else { 0 }];
    out.d_weight_VD = vec![0f32; if want_weight { p.weight_VD.len() } else { 0 }];
    for (i, rows) in p.blocks(|n| d_nll(n) != 0.0).into_iter().enumerate() {
        p.logits(&rows, &mut hidden_RD, &mut logits_RV);
        let nll: Vec<f32> = logits_RV
            .par_chunks_exact_mut(v)
            .zip(&rows)
            .with_min_len(8)
            .map(|(row, &n)| {
                let (target, d_nll, cap) = (p.targets[n] as usize, d_nll(n), p.cap());
                let log_sum = log_sum_exp(row, cap);
                let logit = row[target];
                gradient(row, log_sum, d_nll, cap);
                row[target] -= if cap > 0.0 { d_nll * (1.0 - (logit / cap).powi(2)) } else { d_nll };
                log_sum - logit
            })
            .collect();
        let r = rows.len();
        let d_logits = View::rows(&logits_RV, v);
        if want_hidden {
            d_hidden_RD.resize(r * d, 0.0);
            product(&mut d_hidden_RD, d, r, d, v, false, 1.0, d_logits, View::rows(p.weight_VD, d), parallelism(r * v * d));
            for (from, &n) in d_hidden_RD.chunks_exact(d).zip(&rows) {
                out.d_hidden_ND[n * d..][..d].copy_from_slice(from);
            }
        }
        if want_weight {
            // The first block writes, the others add, in row order.
            product(&mut out.d_weight_VD, d, v, d, r, i > 0, 1.0, d_logits.t(), View::rows(&hidden_RD, d), parallelism(r * v * d));
        }
        rows.iter().zip(nll).for_each(|(&n, nll)| out.nll_N[n] = nll);
    }
    out
}

/// The common value of `d_nll` over the rows that count, if they have one: then a gradient for `d_nll = 1` only has to be scaled.
pub fn uniform(d_nll: &[f32], targets: &[u32]) -> Option<f32> {
    let mut counted = d_nll.iter().zip(targets).filter(|&(_, &t)| t != IGNORE).map(|(&d, _)| d);
    let first = counted.next().unwrap_or(0.0);
    counted.all(|d| d == first).then_some(first)
}

/// `x *= factor`.
pub fn scale(x: &mut [f32], factor: f32) {
    x.par_chunks_mut(1 << 14).for_each(|x| scale_row(x, factor));
}

/// `x[n] *= d_nll[n]`, rows of `d` elements.
pub fn scale_rows(x: &mut [f32], d_nll: &[f32], d: usize) {
    x.par_chunks_exact_mut(d).zip(d_nll).with_min_len(64).for_each(|(row, &factor)| scale_row(row, factor));
}
