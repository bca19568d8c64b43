//! Where numbers stopped being numbers: the first parameter, layer or gradient.

use crate::optimizer::Gradients;
use llm_arch::{Decoder, PackedBatch};
use llm_tensor::burn::module::Module;
use llm_tensor::burn::tensor::Tensor;
use llm_tensor::{host, params};

fn bad(values: &[f32]) -> Option<f32> {
    values.iter().copied().find(|x| !x.is_finite())
}

/// The first parameter that holds something else than numbers.
pub fn in_parameters<M: Module>(model: &M) -> Option<String> {
    params::to_host(model).into_iter().find_map(|(name, tensor)| Some(format!("parameter `{name}` holds {}", bad(&tensor.values)?)))
}

/// The last parameter whose gradient is no number: nearest to the loss, where a backward pass begins.
pub fn in_gradients(gradients: &Gradients) -> Option<String> {
    let found: Vec<&String> = gradients.iter().filter(|(_, g)| bad(&host::to_vec((*g).clone())).is_some()).map(|(name, _)| name).collect();
    Some(format!("the gradient of `{}` is not finite ({} of {} parameters)", found.last()?, found.len(), gradients.len()))
}

/// The first layer of a decoder whose output is no number for this batch.
pub fn in_layers(model: &Decoder, batch: &PackedBatch) -> Option<String> {
    let layers = model.config().num_hidden_layers;
    let mut found = None;
    model.valid().hidden_observed(batch, &mut |i, x_ND: &Tensor<2>| {
        if found.is_none()
            && let Some(value) = bad(&host::to_vec(x_ND.clone()))
        {
            let place = match i {
                0 => "the embedding".to_string(),
                i if i == layers => "the final norm, after the last block".to_string(),
                i => format!("block {} (model.layers.{})", i - 1, i - 1),
            };
            found = Some(format!("{place} puts out {value}"));
        }
    });
    found
}
