//! The model that an objective trains and the one that it is compared with: whole, or an adapter on a frozen base.
//!
//! With `adapter = { ... }` in a configuration the model folder is loaded as a frozen base, quantised tensor by tensor if the settings say so, and
//! only the adapter is trained; checkpoints and `OUT/model` are PEFT folders then. The reference of a fresh adapter is its own base with the
//! adapter off, so it costs no memory (TRL's `disable_adapter` trick).
//!
//! The folder may itself be that of an adapter. With settings it is trained on, and they must be its own; without, it goes into the weights of its
//! base and the whole model is trained.

use crate::Result;
use llm_arch::{Adapter, AdapterSpec, Decoder, adapter, hf};
use llm_run::Seed;
use llm_tensor::Precision;
use llm_tensor::burn::tensor::Device;
use std::path::Path;

/// The model in a folder, ready to be trained on that device. First values of a fresh adapter are a function of the seed.
pub fn open(path: &Path, adapter: &Option<AdapterSpec>, seed: u64, device: &Device) -> Result<Decoder> {
    let Some(spec) = adapter else { return Ok(hf::load(path, device)?) };
    let seed = Seed(seed).stream("adapter");
    if !adapter::is_folder(path) {
        let base = adapter::load_frozen(path, spec, device, Precision::F32)?;
        return Ok(adapter::train(base, spec, seed, path.to_path_buf())?);
    }
    let folder = adapter::base_of(path)?;
    let base = adapter::load_frozen(&folder, spec, device, Precision::F32)?;
    let found = Adapter::load(path, base.config())?;
    Ok(adapter::resume(base, spec, &found, seed, folder)?)
}

/// The starting model without a gradient tape: of a policy with a fresh adapter its base, else the policy as it is now. Nothing is copied.
pub fn reference(policy: &Decoder) -> Decoder {
    match policy.adapter() {
        Some(training) if training.fresh => policy.without_adapter().unwrap_or_else(|| policy.untracked()),
        _ => policy.untracked(),
    }
}
