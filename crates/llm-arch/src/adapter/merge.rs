//! An adapter into the weights: the merged model computes what base and adapter compute together, at the price of the base.
//!
//! Sums are `f32` whatever format the weights have, and a result that is not finite is refused (PEFT's `safe_merge`).

use super::{Adapter, Change, Delta};
use crate::{Decoder, Error, Result};
use llm_tensor::kernels::matmul::{View, parallelism, product};
use llm_tensor::{host, params};

/// The model with the adapter in its weights. Quantised projections cannot take it.
pub fn merge(mut decoder: Decoder, adapter: &Adapter) -> Result<Decoder> {
    let mut problems = Vec::new();
    for (name, linear) in decoder.linears_mut() {
        if linear.weight.as_packed().is_some() && adapter.changes.contains_key(&format!("{name}.weight")) {
            problems.push(format!("`{name}` is quantised in the model; merge into the unquantised weights and quantise afterwards"));
        }
    }
    if !problems.is_empty() {
        return Err(Error::Adapter { path: adapter.dir.clone(), problems });
    }
    let merged = params::map(decoder, |name, shape, value| {
        let Some(changes) = adapter.changes.get(name) else { return value };
        let (n, device, dtype) = (value.dims()[0], value.device(), value.dtype());
        let width = n / shape[..shape.len().saturating_sub(1).max(1)].iter().product::<usize>().max(1);
        let mut values = host::to_vec(value);
        for Change { first_row, rows, delta } in changes {
            change(&mut values[first_row * width..][..rows * width], width, delta);
        }
        let value = host::from_vec(values, [n], &device).cast(dtype);
        // A short format may overflow where `f32` does not.
        if host::to_vec(value.clone()).iter().any(|x| !x.is_finite()) {
            problems.push(format!("`{name}` is not finite with the adapter in it"));
        }
        value
    });
    if problems.is_empty() { Ok(merged) } else { Err(Error::Adapter { path: adapter.dir.clone(), problems }) }
}

/// Rows of `width` numbers.
fn change(w: &mut [f32], width: usize, delta: &Delta) {
    let rows = w.len() / width;
    match delta {
        Delta::Whole(values) => w.copy_from_slice(values),
        Delta::LowRank { rank, scale, a, b, magnitude } => {
            let threads = parallelism(rows * width * rank);
            product(w, width, rows, width, *rank, true, *scale, View::rows(b, *rank), View::rows(a, width), threads);
            for (row, magnitude) in w.chunks_exact_mut(width).zip(magnitude.iter().flatten()) {
                let norm = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt() as f32;
                let factor = if norm > 0.0 { magnitude / norm } else { 1.0 };
                row.iter_mut().for_each(|x| *x *= factor);
            }
        }
    }
}
