//! GPTQ (Frantar et al., 2022): weights rounded one input feature after the other, the error of each spread over those not yet rounded.
//!
//! The error of a projection on its calibration inputs is quadratic in the weights with Hessian `H = X^T X`, the same for every row. `U`, the upper
//! Cholesky factor of `H^-1`, holds all that the updates need. Columns are worked off in blocks of 128: inside a block at once, behind it with one
//! matrix product. With `act_order` the features with the largest inputs come first.
//!
//! Legend: I input features, O output features, N tokens, G groups.

#![allow(non_snake_case)] // shape suffixes

use crate::linalg::inverse_upper_cholesky;
use crate::round::Grid;
use llm_tensor::kernels::matmul::{View, parallelism, product};
use llm_tensor::quant::gptq::Grouped;
use rayon::prelude::*;

/// Columns between two matrix products.
const BLOCK: usize = 128;
/// Rows of a task.
const ROWS: usize = 16;

/// How to round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// 4 or 8.
    pub bits: usize,
    /// Input features that share a scale.
    pub group: usize,
    /// Zero point in the middle.
    pub symmetric: bool,
    /// Features with large inputs first.
    pub act_order: bool,
    /// Added to the diagonal of the Hessian, as a share of its mean.
    pub damping: f64,
}

/// `X^T X` of the inputs of a projection.
#[derive(Debug, Clone)]
pub struct Hessian {
    inputs: usize,
    sum_II: Vec<f32>,
    rows: usize,
}

impl Hessian {
    /// Nothing seen yet.
    pub fn new(inputs: usize) -> Self {
        Self { inputs, sum_II: vec![0.0; inputs * inputs], rows: 0 }
    }

    /// More inputs, `[N, I]`.
    pub fn add(&mut self, x: &[f32]) {
        let (n, i) = (x.len() / self.inputs, self.inputs);
        let threads = parallelism(n * i * i);
        product(&mut self.sum_II, i, i, i, n, true, 1.0, View::rows(x, i).t(), View::rows(x, i), threads);
        self.rows += n;
    }

    /// Tokens seen.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Mean over tokens, `[I, I]`.
    fn mean(&self) -> Vec<f64> {
        let n = self.rows.max(1) as f64;
        self.sum_II.iter().map(|&h| f64::from(h) / n).collect()
    }

    /// Mean squared error of the outputs when weights change from `a` to `b`, both `[O, I]`: `tr(d H d^T) / O`.
    pub fn output_error(&self, a: &[f32], b: &[f32]) -> f64 {
        let i = self.inputs;
        let difference: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        let o = difference.len() / i.max(1);
        let mut through = vec![0f32; difference.len()];
        product(&mut through, i, o, i, i, false, 1.0, View::rows(&difference, i), View::rows(&self.sum_II, i), parallelism(o * i * i));
        let sum: f64 = through.iter().zip(&difference).map(|(t, d)| f64::from(*t) * f64::from(*d)).sum();
        sum.max(0.0) / (self.rows.max(1) * o.max(1)) as f64
    }
}

/// The order of features and the factor for it.
#[derive(Debug, Clone)]
pub struct Prepared {
    order: Vec<usize>,
    /// Features whose inputs were always 0.
    dead: Vec<bool>,
    upper_II: Vec<f32>,
    /// The share of the diagonal's mean that made it positive definite.
    pub damping: f64,
}

impl Prepared {
    /// Factor the Hessian, with more damping where the asked-for is not enough. The error is a sentence.
    pub fn new(hessian: &Hessian, options: &Options) -> Result<Self, String> {
        let n = hessian.inputs;
        let mut h = hessian.mean();
        let dead: Vec<bool> = (0..n).map(|i| h[i * n + i] == 0.0).collect();
        for i in (0..n).filter(|&i| dead[i]) {
            h[i * n + i] = 1.0;
        }
        let diagonal: Vec<f64> = (0..n).map(|i| h[i * n + i]).collect();
        let mut order: Vec<usize> = (0..n).collect();
        if options.act_order {
            order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]).then(a.cmp(&b)));
        }
        let mean = diagonal.iter().sum::<f64>() / n.max(1) as f64;
        if !mean.is_finite() {
            return Err("the calibration inputs are not finite; the model is damaged".into());
        }
        let mut damping = options.damping;
        for _ in 0..6 {
            let damped: Vec<f64> =
                (0..n * n).map(|k| h[order[k / n] * n + order[k % n]] + if k / n == k % n { damping * mean } else { 0.0 }).collect();
            if let Some(upper) = inverse_upper_cholesky(&damped, n) {
                return Ok(Self { order, dead, upper_II: upper.into_iter().map(|u| u as f32).collect(), damping });
            }
            damping = (damping * 10.0).max(1e-4);
        }
        Err(format!("the inputs of {} calibration tokens do not determine it, even with a damping of {damping}; use more samples", hessian.rows))
    }
}

/// Round `weights [O, I]`.
pub fn quantize(weights: &[f32], shape: [usize; 2], prepared: &Prepared, options: &Options) -> Grouped {
    let [outputs, n] = shape;
    let groups = n.div_ceil(options.group);
    let Prepared { order, dead, upper_II: upper, .. } = prepared;
    // Columns in working order.
    let mut w: Vec<f32> = Vec::with_capacity(weights.len());
    for row in weights.chunks_exact(n) {
        w.extend(order.iter().map(|&i| if dead[i] { 0.0 } else { row[i] }));
    }
    let mut grids = vec![Grid::of([], options.bits, options.symmetric); outputs * groups];
    let mut codes = vec![0u8; outputs * n];
    for start in (0..n).step_by(BLOCK) {
        let end = (start + BLOCK).min(n);
        let width = end - start;
        let mut errors = vec![0f32; outputs * width];
        let rows = w
            .par_chunks_mut(ROWS * n)
            .zip(errors.par_chunks_mut(ROWS * width))
            .zip(codes.par_chunks_mut(ROWS * n))
            .zip(grids.par_chunks_mut(ROWS * groups));
        rows.for_each(|(((w, errors), codes), grids)| {
            let rows = w.chunks_exact_mut(n).zip(errors.chunks_exact_mut(width)).zip(codes.chunks_exact_mut(n)).zip(grids.chunks_exact_mut(groups));
            for (((w, errors), codes), grids) in rows {
                for k in start..end {
                    if k % options.group == 0 {
                        let members = &w[k..(k + options.group).min(n)];
                        grids[k / options.group] = Grid::of(members.iter().copied(), options.bits, options.symmetric);
                    }
                    let grid = grids[k / options.group];
                    codes[k] = grid.code(w[k]);
                    let error = (w[k] - grid.value(codes[k])) / upper[k * n + k];
                    for (w, u) in w[k..end].iter_mut().zip(&upper[k * n + k..]) {
                        *w -= error * u;
                    }
                    errors[k - start] = error;
                }
            }
        });
        if end < n {
            let behind = View { data: &upper[start * n + end..], row_stride: n, col_stride: 1 };
            let threads = parallelism(outputs * width * (n - end));
            product(&mut w[end..], n, outputs, n - end, width, true, -1.0, View::rows(&errors, width), behind, threads);
        }
    }
    // Back to the features' own order.
    let (mut own, mut g_idx) = (vec![0u8; outputs * n], vec![0u32; n]);
    for (row, codes) in own.chunks_exact_mut(n).zip(codes.chunks_exact(n)) {
        for (k, &i) in order.iter().enumerate() {
            row[i] = codes[k];
        }
    }
    for (k, &i) in order.iter().enumerate() {
        g_idx[i] = (k / options.group) as u32;
    }
    let (scales, zeros) = grids.iter().map(|g| (g.scale, g.zero)).unzip();
    Grouped { shape, bits: options.bits, codes: own, scales, zeros, g_idx }
}
