//! A trained low-rank update of a frozen matrix: `y = x W^T + scale * (drop(x) A^T) B^T` (Hu et al. 2021, LoRA), with a magnitude for each output
//! where it is weight-decomposed (Liu et al. 2024, DoRA). What [`super::lora`] is for rows of a batch at inference, this is for training: A, B and
//! the magnitudes are parameters, under the names that PEFT's `lora/layer.py` gives them.
//!
//! DoRA multiplies with `magnitude / ||W + scale B A||`, a norm for each row. The norm is a constant of the backward pass, as in PEFT's
//! `lora/dora.py` (section 4.3 of the paper), and the frozen matrix is decoded for it where it is quantised. With dropout the matrix meets the
//! dropped input in the DoRA term and the whole one in its own, as there.
//!
//! Which inputs are dropped is a function of seed, step, batch and place, so that a forward pass that is computed again drops the same ones. The
//! step is told by the training loop, the batch by whoever runs it through a model ([`batch_noise`]).
//!
//! Legend: N rows, I/O features, R rank.

#![allow(non_snake_case)] // shape suffixes; PEFT's names

use super::{Weight, parameter_from};
use crate::{Precision, host, ops};
use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};
use llm_run::Seed;
use rayon::prelude::*;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

thread_local! {
    /// What the batch that this thread is computing adds to the seeds of dropout.
    static BATCH: Cell<u64> = const { Cell::new(0) };
}

/// The batch that this thread computes next, as a number that differs from batch to batch.
pub fn batch_noise(batch: u64) {
    BATCH.set(batch);
}

/// The optimiser's step, for dropout. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct StepCounter(Arc<AtomicU64>);

impl StepCounter {
    /// From now on.
    pub fn set(&self, step: u64) {
        self.0.store(step, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Zeroes inputs of an update in training.
#[derive(Debug, Clone)]
pub struct Dropout {
    /// Share that becomes zero; the others are divided by what is left.
    pub p: f32,
    /// Of this matrix.
    pub seed: Seed,
    /// Of the model.
    pub step: StepCounter,
}

impl Dropout {
    /// The inputs with some of them zero. None where nothing is dropped: a tensor off the gradient tape is not training.
    fn apply(&self, x_NI: &Tensor<2>) -> Option<Tensor<2>> {
        let device = x_NI.device();
        if self.p == 0.0 || !device.is_autodiff() {
            return None;
        }
        let seed = self.seed.at(self.step.get()).at(BATCH.get());
        let [n, inputs] = x_NI.dims();
        let (p, kept) = (f64::from(self.p), 1.0 / (1.0 - self.p));
        let mut mask = vec![0f32; n * inputs];
        mask.par_chunks_mut(inputs.max(1)).enumerate().for_each(|(row, mask)| {
            let mut rng = seed.at(row as u64).rng();
            mask.iter_mut().for_each(|m| *m = if rng.chance(p) { 0.0 } else { kept });
        });
        let mask_NI = host::from_vec(mask, [n, inputs], &device.inner()).cast(x_NI.dtype());
        Some(x_NI.clone() * Tensor::from_inner(mask_NI))
    }
}

/// The parameters of an update.
#[derive(Module, Debug)]
pub struct Lora {
    /// `[R, I]`.
    pub lora_A: Param<Tensor<2>>,
    /// `[O, R]`.
    pub lora_B: Param<Tensor<2>>,
    /// `[O]` (DoRA).
    pub lora_magnitude_vector: Option<Param<Tensor<1>>>,
    /// Factor of the product.
    #[module(skip)]
    pub scale: f32,
    /// Of the inputs.
    #[module(skip)]
    pub dropout: Option<Dropout>,
}

impl Lora {
    /// An update of a matrix `[O, I]` that changes nothing yet: A uniform within `1 / sqrt(I)` (Kaiming with a = sqrt 5, PEFT's default), B zero;
    /// with `magnitude` that of each row of the matrix as it is.
    pub fn new(weight: &Weight, rank: usize, scale: f32, magnitude: bool, seed: Seed, precision: Precision) -> Self {
        let [outputs, inputs] = weight.shape();
        let device = weight.device();
        let bound = 1.0 / (inputs.max(1) as f64).sqrt();
        let mut rng = seed.rng();
        let a = (0..rank * inputs).map(|_| ((2.0 * rng.uniform() - 1.0) * bound) as f32).collect();
        let magnitude = magnitude.then(|| {
            let w = host::to_vec(weight.val());
            w.chunks(inputs.max(1)).map(|row| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt() as f32).collect()
        });
        Self::from_values(a, vec![0.0; outputs * rank], magnitude, [outputs, inputs, rank], scale, (precision, &device))
    }

    /// From values `a [R, I]`, `b [O, R]` and magnitudes `[O]`; `[O, I, R]` are their sizes.
    pub fn from_values(
        a: Vec<f32>,
        b: Vec<f32>,
        magnitude: Option<Vec<f32>>,
        [outputs, inputs, rank]: [usize; 3],
        scale: f32,
        (precision, device): (Precision, &Device),
    ) -> Self {
        Self {
            lora_A: parameter_from(a, [rank, inputs], precision, device),
            lora_B: parameter_from(b, [outputs, rank], precision, device),
            lora_magnitude_vector: magnitude.map(|m| parameter_from(m, [outputs], precision, device)),
            scale,
            dropout: None,
        }
    }

    /// The outputs `[N, O]` of the frozen matrix with the update.
    pub(super) fn forward(&self, x_NI: Tensor<2>, base: &Weight) -> Tensor<2> {
        let y_NO = base.forward(x_NI.clone());
        let dropped = self.dropout.as_ref().and_then(|dropout| dropout.apply(&x_NI));
        let drops = dropped.is_some();
        let x_NI = dropped.unwrap_or(x_NI);
        let down_NR = ops::linear(x_NI.clone(), self.lora_A.val()).mul_scalar(self.scale);
        let update_NO = ops::linear(down_NR, self.lora_B.val());
        let Some(factor_O) = self.factors(base) else { return y_NO + update_NO };
        let factor_1O = factor_O.unsqueeze::<2>();
        if drops {
            let through_NO = base.forward(x_NI);
            return y_NO - through_NO.clone() + (through_NO + update_NO) * factor_1O;
        }
        (y_NO + update_NO) * factor_1O
    }

    /// `magnitude / ||W + scale B A||` by output, the norm without gradients. None without magnitudes.
    fn factors(&self, base: &Weight) -> Option<Tensor<1>> {
        let magnitude_O = self.lora_magnitude_vector.as_ref()?.val();
        let norm_O = rows_norm(self.changed(base)).cast(magnitude_O.dtype());
        let norm_O = if magnitude_O.device().is_autodiff() { Tensor::from_inner(norm_O) } else { norm_O };
        Some(magnitude_O / norm_O)
    }

    /// `W + scale B A` in `f32`, without gradients.
    fn changed(&self, base: &Weight) -> Tensor<2> {
        let wide = |x: Tensor<2>| plain(x).cast(DType::F32);
        wide(base.val()) + wide(self.lora_B.val()).matmul(wide(self.lora_A.val())).mul_scalar(self.scale)
    }

    /// The matrix `[O, I]` that base and update are together, in the base's format, without gradients.
    pub(super) fn effective(&self, base: &Weight) -> Tensor<2> {
        let changed_OI = self.changed(base);
        let whole_OI = match &self.lora_magnitude_vector {
            None => changed_OI,
            Some(magnitude) => {
                let norm_O = rows_norm(changed_OI.clone());
                changed_OI * (plain(magnitude.val()).cast(DType::F32) / norm_O).unsqueeze_dim::<2>(1)
            }
        };
        whole_OI.cast(self.lora_A.val().dtype())
    }
}

fn plain<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.device().is_autodiff() { x.inner() } else { x }
}

/// Euclidean norms of rows, `[O, I]` -> `[O]`; never zero, so that a row of zeros stays one.
fn rows_norm(w_OI: Tensor<2>) -> Tensor<1> {
    let outputs = w_OI.dims()[0];
    (w_OI.clone() * w_OI).sum_dim(1).reshape([outputs]).sqrt().clamp_min(f32::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Linear, parameter};
    use crate::params;
    use crate::quant::nf4;
    use proptest::prelude::*;

    fn values(name: &str, n: usize) -> Vec<f32> {
        let mut rng = Seed(5).stream(name).rng();
        (0..n).map(|_| rng.normal() as f32).collect()
    }

    fn tensor(name: &str, shape: [usize; 2], device: &Device) -> Tensor<2> {
        host::from_vec(values(name, shape[0] * shape[1]), shape, device)
    }

    /// A layer `[24, 64]` over a matrix of that kind, frozen, with an update that is not zero.
    fn layer(packed: bool, magnitude: bool, p: f32) -> Linear {
        let device = Device::flex().autodiff();
        let matrix = nf4::nf4(&values("w", 24 * 64), [24, 64], 64, true, "float32").packed();
        let dense = host::from_vec(matrix.dequantize(), [24, 64], &device);
        let base = if packed { Weight::packed(matrix, &device) } else { Weight::Dense(parameter(dense)) };
        let magnitude = magnitude.then(|| values("m", 24));
        let mut lora = Lora::from_values(values("a", 3 * 64), values("b", 24 * 3), magnitude, [24, 64, 3], 0.5, (Precision::F32, &device));
        lora.dropout = Some(Dropout { p, seed: Seed(1), step: StepCounter::default() });
        let linear = Linear { weight: Weight::Trained(Box::new(base), Box::new(lora)), bias: None };
        params::track_where(linear, |name| name.contains("lora_"))
    }

    fn gradients(linear: &Linear) -> (Vec<f32>, Vec<f32>, std::collections::BTreeMap<String, Vec<f32>>) {
        let x = tensor("x", [7, 64], &Device::flex().autodiff()).require_grad();
        let weights = Tensor::from_inner(tensor("d", [7, 24], &Device::flex()));
        let y = linear.forward(x.clone());
        let grads = (y.clone() * weights).sum().backward();
        let of_parameters = params::gradients(linear, &grads).into_iter().map(|(name, g)| (name, host::to_vec(g))).collect();
        (host::to_vec(y.inner()), host::to_vec(x.grad(&grads).unwrap()), of_parameters)
    }

    fn assert_close(what: &str, a: &[f32], b: &[f32]) {
        let largest = b.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
        assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 2e-5 * largest), "{what}: {a:?}, expected {b:?}");
    }

    /// If this fails, training over a quantised base follows other gradients than over the same matrix in floats.
    #[test]
    fn a_quantised_base_gives_the_gradients_of_its_dense_twin() {
        for magnitude in [false, true] {
            for p in [0.0, 0.4] {
                let (y, dx, parameters) = gradients(&layer(true, magnitude, p));
                let (want_y, want_dx, want) = gradients(&layer(false, magnitude, p));
                assert_close("outputs", &y, &want_y);
                assert_close("inputs", &dx, &want_dx);
                let names: Vec<&str> = parameters.keys().map(String::as_str).collect();
                let mut expected = vec!["weight.lora_A", "weight.lora_B"];
                expected.extend(magnitude.then_some("weight.lora_magnitude_vector"));
                assert_eq!(names, expected, "the base has no gradient");
                for (name, gradient) in &parameters {
                    assert_close(name, gradient, &want[name]);
                }
            }
        }
    }

    /// If this fails, recomputation drops other inputs than the pass whose gradient it computes, or inference drops some.
    #[test]
    fn dropout_is_a_function_of_step_and_batch_and_absent_off_the_tape() {
        let linear = layer(true, false, 0.5);
        let Weight::Trained(_, lora) = &linear.weight else { panic!("not trained") };
        let step = lora.dropout.as_ref().unwrap().step.clone();
        let y = || host::to_vec(linear.forward(tensor("x", [7, 64], &Device::flex().autodiff())));
        let first = y();
        assert_eq!(y(), first);
        step.set(1);
        let second = y();
        assert_ne!(second, first);
        batch_noise(9);
        assert_ne!(y(), second);
        batch_noise(0);
        step.set(0);
        assert_eq!(y(), first);
        let still = linear.valid();
        let plain = host::to_vec(still.forward(tensor("x", [7, 64], &Device::flex())));
        let merged = ops::linear(tensor("x", [7, 64], &Device::flex()), still.weight.effective());
        assert_close("merged", &plain, &host::to_vec(merged));
    }

    #[test]
    fn a_fresh_update_changes_nothing() {
        let device = Device::flex();
        let base = Weight::Dense(parameter(tensor("w", [24, 64], &device)));
        for magnitude in [false, true] {
            let lora = Lora::new(&base, 4, 2.0, magnitude, Seed(3), Precision::F32);
            let (a, bound) = (host::to_vec(lora.lora_A.val()), 1.0 / 8.0);
            assert!(a.iter().all(|x| x.abs() <= bound) && a.iter().any(|x| x.abs() > 0.9 * bound), "{a:?}");
            let x = tensor("x", [5, 64], &device);
            assert_close("outputs", &host::to_vec(lora.forward(x.clone(), &base)), &host::to_vec(base.forward(x)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        /// The loss over a quantised table is that over the same table in floats, its gradient too, whatever weighs the rows.
        #[test]
        fn losses_over_a_quantised_table_are_those_of_its_dense_twin(rows in 1usize..300, cap in prop::option::of(1f32..9.0), uniform: bool) {
            let device = Device::flex().autodiff();
            let matrix = nf4::nf4(&values("table", 50 * 64), [50, 64], 64, false, "float32").packed();
            let targets: ops::Indices = (0..rows as u32).map(|i| if i % 7 == 3 { ops::IGNORE } else { i * 11 % 50 }).collect();
            let factors = if uniform { vec![0.25; rows] } else { values("f", rows) };
            let run = |packed: bool| {
                let h = host::from_vec(values("h", rows * 64), [rows, 64], &device).require_grad();
                let nll = if packed {
                    ops::packed_cross_entropy(h.clone(), &ops::PackedWeight::new(Arc::new(matrix.clone()), &device), targets.clone(), cap)
                } else {
                    let w = Tensor::from_inner(host::from_vec(matrix.dequantize(), [50, 64], &Device::flex()));
                    ops::linear_cross_entropy(h.clone(), w, targets.clone(), cap)
                };
                let grads = (nll.clone() * Tensor::from_inner(host::from_vec(factors.clone(), [rows], &Device::flex()))).sum().backward();
                (host::to_vec(nll.inner()), host::to_vec(h.grad(&grads).unwrap()))
            };
            let (packed, dense) = (run(true), run(false));
            assert_close("losses", &packed.0, &dense.0);
            assert_close("gradient", &packed.1, &dense.1);
        }
    }
}
