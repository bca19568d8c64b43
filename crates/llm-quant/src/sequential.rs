//! GPTQ through a decoder: block by block, and inside a block projection by projection, each calibrated on inputs that the already rounded ones
//! before it produce.
//!
//! The residual streams of all calibration rows are kept between blocks, so nothing is computed twice from the beginning. Inputs are seen through
//! [`Weight::Watched`]; projections with the same input (queries, keys, values; gate and up) share a Hessian.
//!
//! Legend: N tokens, D hidden, I/O features.

#![allow(non_snake_case)] // shape suffixes

use crate::calibration::Calibration;
use crate::error::check_interrupt;
use crate::gptq::{Hessian, Options, Prepared, quantize};
use crate::{Error, Result};
use llm_arch::Decoder;
use llm_run::Progress;
use llm_tensor::burn::tensor::Tensor;
use llm_tensor::host;
use llm_tensor::nn::{Watcher, Weight};
use llm_tensor::quant::gptq::Grouped;
use std::sync::{Arc, Mutex, PoisonError};

/// What became of a projection.
#[derive(Debug, Clone)]
pub struct Rounded {
    /// Canonical name.
    pub name: String,
    /// The codes.
    pub matrix: Grouped,
    /// The weights before, `[O, I]`.
    pub before: Vec<f32>,
    /// Mean squared error of its outputs on the calibration inputs.
    pub output_error: f64,
    /// Damping that was needed.
    pub damping: f64,
}

/// Projections of a block that see the same input stand in one stage; stages are in the order of the forward pass.
fn stage(name: &str) -> usize {
    let is = |names: &[&str]| names.iter().any(|n| name.ends_with(n));
    if name.contains(".moe.shared_experts.") {
        return if is(&["down_proj"]) { 7 } else { 6 };
    }
    match name {
        _ if is(&["q_proj", "k_proj", "v_proj", "q_a_proj", "kv_a_proj_with_mqa"]) => 0,
        _ if is(&["q_b_proj"]) => 1,
        _ if is(&["kv_b_proj"]) => 2,
        _ if is(&["o_proj"]) => 3,
        _ if is(&["gate_proj", "up_proj"]) => 4,
        _ => 5,
    }
}

/// Round the projections of every block that `options` gives settings for; `done` gets each. The decoder is left with the rounded ones.
pub fn run(
    decoder: &mut Decoder,
    calibration: &Calibration,
    options: impl Fn(&str, [usize; 2]) -> Result<Option<Options>>,
    mut done: impl FnMut(Rounded) -> Result<()>,
) -> Result<()> {
    let layers = decoder.config().num_hidden_layers;
    let mut names = Vec::new();
    for (name, linear) in decoder.linears_mut() {
        if options(&name, linear.weight.shape())?.is_some() {
            names.push(name);
        }
    }
    let mut progress = Progress::new("gptq", names.len() as u64, "projections");
    let mut x_ND: Vec<Tensor<2>> = calibration.batches.iter().map(|batch| decoder.enter(batch)).collect();
    for layer in 0..layers {
        let here: Vec<(usize, String)> =
            decoder.block_linears_mut(layer).into_iter().map(|(name, _)| (stage(&name), name)).filter(|(_, n)| names.contains(n)).collect();
        let mut stages: Vec<usize> = here.iter().map(|(stage, _)| *stage).collect();
        stages.sort_unstable();
        stages.dedup();
        for at in stages {
            let members: Vec<&String> = here.iter().filter(|(stage, _)| *stage == at).map(|(_, name)| name).collect();
            let Some(first) = members.first() else { continue };
            let hessian = watch(decoder, layer, first, &x_ND, calibration)?;
            for name in members {
                check_interrupt()?;
                let Some((_, linear)) = decoder.block_linears_mut(layer).into_iter().find(|(n, _)| n == name) else { continue };
                let shape = linear.weight.shape();
                let Some(options) = options(name, shape)? else { continue };
                let failed = |message: String| Error::Layer { layer: name.clone(), message };
                let before = host::to_vec(linear.weight.val());
                let prepared = Prepared::new(&hessian, &options).map_err(failed)?;
                let matrix = quantize(&before, shape, &prepared, &options);
                let packed = matrix.packed().map_err(failed)?;
                let output_error = hessian.output_error(&before, &packed.dequantize());
                let device = linear.weight.val().device();
                linear.weight = Weight::packed(packed, &device);
                done(Rounded { name: name.clone(), matrix, before, output_error, damping: prepared.damping })?;
                progress.inc(1);
            }
        }
        for (x, batch) in x_ND.iter_mut().zip(&calibration.batches) {
            *x = decoder.through_block(layer, x.clone(), batch);
        }
    }
    progress.finish(format!("{} projections of {layers} blocks, {} tokens of calibration", names.len(), calibration.tokens));
    Ok(())
}

/// The Hessian of one projection on all rows.
fn watch(decoder: &mut Decoder, layer: usize, name: &str, x_ND: &[Tensor<2>], calibration: &Calibration) -> Result<Hessian> {
    let swap = |decoder: &mut Decoder, change: &dyn Fn(Weight) -> Weight| {
        if let Some((_, linear)) = decoder.block_linears_mut(layer).into_iter().find(|(n, _)| n == name) {
            linear.weight = change(linear.weight.clone());
        }
    };
    let inputs = decoder.block_linears_mut(layer).into_iter().find(|(n, _)| n == name).map_or(0, |(_, linear)| linear.weight.shape()[1]);
    let hessian = Arc::new(Mutex::new(Hessian::new(inputs)));
    let sink = hessian.clone();
    let watcher = Watcher::new(move |x: &Tensor<2>| sink.lock().unwrap_or_else(PoisonError::into_inner).add(&host::to_vec(x.clone())));
    swap(decoder, &|weight| match weight {
        Weight::Dense(weight) => Weight::Watched(weight, watcher.clone()),
        other => other,
    });
    for (x, batch) in x_ND.iter().zip(&calibration.batches) {
        check_interrupt()?;
        let _ = decoder.through_block(layer, x.clone(), batch);
    }
    swap(decoder, &|weight| match weight {
        Weight::Watched(weight, _) => Weight::Dense(weight),
        other => other,
    });
    let hessian = hessian.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if hessian.rows() == 0 {
        return Err(Error::Layer { layer: name.into(), message: "saw no calibration input".into() });
    }
    Ok(hessian)
}
