//! The frozen model below an adapter. Its matrices and tables are quantised one by one as they are read or made, so that no more than one of them
//! is there in floats (QLoRA's base, streamed): what is mapped of the files is memory that the system takes back.
//!
//! | what | `nf4` | `int8` |
//! |---|---|---|
//! | projections, output projection, token and position tables | 0.5625 bytes a number | 1 byte a number, 4 a row |
//! | norms, biases, routers, stacked experts, what `modules_to_save` names | as they are | as they are |
//!
//! A folder that is quantised already stays as it is.

use super::{AdapterSpec, BaseFormat, Targets};
use crate::build::Init;
use crate::hf::Checkpoint;
use crate::{Decoder, DecoderConfig, Result};
use llm_tensor::Precision;
use llm_tensor::burn::tensor::Device;
use llm_tensor::nn::Weight;
use llm_tensor::quant::Packed;
use std::cell::RefCell;
use std::path::Path;

/// A matrix as the settings say, if it is not trained.
fn store(
    spec: &AdapterSpec,
    targets: &Targets,
    name: &str,
    shape: [usize; 2],
    values: &mut dyn FnMut() -> Result<Vec<f32>>,
) -> Result<Option<Packed>> {
    if spec.base == BaseFormat::None || targets.saved.contains(name) {
        return Ok(None);
    }
    Ok(spec.store(&values()?, shape))
}

/// A model folder as the frozen base of an adapter.
pub fn load_frozen(dir: &Path, spec: &AdapterSpec, device: &Device, precision: Precision) -> Result<Decoder> {
    let checkpoint = Checkpoint::open(dir)?;
    let targets = Targets::of(&checkpoint.config, spec)?;
    checkpoint.load_stored(device, precision, &|name, shape, values| store(spec, &targets, name, shape, values))
}

/// The same from values that `init` hands out by canonical name and shape.
pub fn build_frozen(config: &DecoderConfig, spec: &AdapterSpec, device: &Device, precision: Precision, init: Init) -> Result<Decoder> {
    let targets = Targets::of(config, spec)?;
    let init = RefCell::new(init);
    let values = |name: &str, shape: &[usize]| {
        let mut init = init.borrow_mut();
        (*init)(name, shape)
    };
    let mut dense = |name: &str, shape: &[usize]| values(name, shape);
    let mut packed = |name: &str, shape: [usize; 2]| store(spec, &targets, name, shape, &mut || values(name, &shape));
    let mut decoder = Decoder::build_packed(config, device, precision, &mut dense, &mut packed)?;
    for (name, linear) in decoder.linears_mut().into_iter().filter(|(name, _)| name.contains(".moe.")) {
        if let Some(matrix) = packed(&format!("{name}.weight"), linear.weight.shape())? {
            linear.weight = Weight::packed(matrix, device);
        }
    }
    Ok(decoder)
}
