//! An adapter beside the weights: rows of a batch use it or not ([`llm_tensor::nn::lora`]).
//!
//! That is possible where a change goes through a projection. Embeddings, norms, biases, routers and stacked experts do not; neither does
//! latent attention's `kv_b_proj`, which the cached pass takes apart.

use super::{Adapter, Change, Delta};
use crate::{Decoder, Error, Result};
use llm_tensor::burn::tensor::Tensor;
use llm_tensor::host;
use llm_tensor::nn::Linear;
use llm_tensor::nn::lora::{LoraBank, LowRank, Rows, Update, changed_row_norms};
use std::collections::HashMap;

/// The projections that can differ from row to row, by the name of their matrix.
pub(super) fn each_linear(decoder: &mut Decoder, mut f: impl FnMut(String, &mut Linear)) {
    for (name, linear) in decoder.linears_mut() {
        f(format!("{name}.weight"), linear);
    }
    if let Some(head) = &mut decoder.lm_head {
        f("lm_head.weight".into(), head);
    }
}

/// Make an adapter available under a number: rows that [`Rows::select`] gives that number are computed with it. `rows` must be the same for
/// all adapters of a decoder. Nothing is changed when part of the adapter cannot be attached.
pub fn attach(decoder: &mut Decoder, rows: &Rows, key: u32, adapter: &Adapter) -> Result<()> {
    let mut shapes: HashMap<String, [usize; 2]> = HashMap::new();
    each_linear(decoder, |name, linear| {
        shapes.insert(name, linear.weight.shape());
    });
    let mut problems = Vec::new();
    for (name, changes) in &adapter.changes {
        match (shapes.get(name), changes.as_slice()) {
            _ if name.ends_with(".kv_b_proj.weight") => problems.push(format!("`{name}` is taken apart by the cached pass")),
            (Some(shape), [Change { first_row: 0, rows, .. }]) if *rows == shape[0] => {}
            _ => problems.push(format!("`{name}` cannot differ between the requests of a batch")),
        }
    }
    if !problems.is_empty() {
        problems.push("merge this adapter instead (llm-arch merge)".into());
        return Err(Error::Adapter { path: adapter.dir.clone(), problems });
    }
    let (device, dtype) = (decoder.device(), decoder.precision().dtype());
    each_linear(decoder, |name, linear| {
        let Some([Change { rows: outputs, delta, .. }]) = adapter.changes.get(&name).map(Vec::as_slice) else { return };
        let inputs = linear.weight.shape()[1];
        let matrix = |values: &[f32], shape: [usize; 2]| -> Tensor<2> { host::from_vec(values.to_vec(), shape, &device) };
        let update = match delta {
            Delta::Whole(values) => Update::Whole(matrix(values, [*outputs, inputs]).cast(dtype)),
            Delta::LowRank { rank, scale, a, b, magnitude } => {
                let (a, b) = (matrix(a, [*rank, inputs]), matrix(b, [*outputs, *rank]));
                let magnitude = magnitude.as_ref().map(|magnitude| {
                    let norms = changed_row_norms(linear.weight.val(), a.clone(), b.clone(), *scale);
                    let factors = magnitude.iter().zip(norms).map(|(m, norm)| if norm > 0.0 { m / norm } else { 1.0 }).collect();
                    host::from_vec(factors, [*outputs], &device).cast(dtype)
                });
                Update::LowRank(LowRank { a: a.cast(dtype), b: b.cast(dtype), scale: *scale, magnitude })
            }
        };
        linear.weight.adapt(|| LoraBank::new(rows)).insert(key, update);
    });
    Ok(())
}

/// Forget the adapter of a number; the last one takes the banks with it.
pub fn detach(decoder: &mut Decoder, key: u32) {
    each_linear(decoder, |_, linear| {
        if linear.weight.bank().is_some_and(|bank| bank.remove(key)) {
            linear.weight.unadapt();
        }
    });
}
