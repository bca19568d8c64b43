//! What the loop asks of a model besides being a module of named parameters.

use crate::Result;
use crate::optimizer::Layouts;
use llm_arch::budget::Flops;
use llm_arch::parameters::{Role, parameters};
use llm_arch::{Decoder, adapter, hf};
use llm_tensor::burn::module::Module;
use llm_tensor::burn::tensor::Device;
use llm_tensor::weights::SaveOptions;
use llm_tensor::{Precision, params};
use llm_vision::checkpoint::{load_pair, save_pair};
use llm_vision::{ImageProcessor, Pair, Vlm};
use std::collections::BTreeSet;
use std::path::Path;

/// A model that the [`Trainer`](crate::Trainer) can train, keep in checkpoints and write as a folder.
pub trait Trainable: Module {
    /// Where the weights live.
    fn device(&self) -> Device;

    /// Number format of the weights.
    fn precision(&self) -> Precision;

    /// Parameters that no gradient ever reaches: they change by other means, or never.
    fn buffers(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }

    /// The files that [`Trainable::save`] writes and [`Trainable::restore`] needs.
    fn files(&self) -> Vec<&'static str> {
        vec!["config.json", "model.safetensors"]
    }

    /// Write a model folder, without tokenizer.
    fn save(&self, dir: &Path, options: SaveOptions) -> Result<()>;

    /// Read what [`Trainable::save`] wrote, onto the device and in the number format of `self`, with those of its settings that a model
    /// folder does not hold.
    fn restore(&self, dir: &Path) -> Result<Self>;

    /// The decoder inside, and what the names of its parameters begin with.
    fn decoder(&self) -> Option<(&Decoder, &'static str)> {
        None
    }

    /// Shapes and number formats of the parameters that are trained: all but buffers and the `frozen`.
    fn trained(&self, frozen: &BTreeSet<String>) -> Layouts {
        let buffers = self.buffers();
        let mut layouts = params::layouts(self);
        layouts.retain(|name, _| !buffers.contains(name) && !frozen.contains(name));
        layouts
    }

    /// Learned numbers.
    fn num_parameters(&self) -> usize {
        self.num_params()
    }

    /// Learned numbers that work on one token: in a mixture without the experts it does not use.
    fn num_active_parameters(&self) -> usize {
        self.num_parameters()
    }

    /// Arithmetic of a token in training, forward and backward, in texts of `length` tokens; none where nobody counts it.
    fn flops_per_token(&self, _length: usize) -> Option<f64> {
        None
    }
}

/// With an adapter that is trained ([`adapter::train`]) everything else is a buffer: it has no gradient and no optimiser state, and what is saved is
/// the adapter's PEFT folder.
impl Trainable for Decoder {
    fn device(&self) -> Device {
        self.device()
    }

    fn precision(&self) -> Precision {
        self.precision()
    }

    fn buffers(&self) -> BTreeSet<String> {
        let buffers = parameters(self.config()).into_iter().filter(|p| p.role == Role::Buffer).map(|p| p.name);
        buffers.chain(self.frozen()).collect()
    }

    fn files(&self) -> Vec<&'static str> {
        match self.adapter() {
            Some(_) => vec!["adapter_config.json", "adapter_model.safetensors"],
            None => vec!["config.json", "model.safetensors"],
        }
    }

    fn save(&self, dir: &Path, options: SaveOptions) -> Result<()> {
        match self.adapter() {
            Some(_) => Ok(adapter::write(dir, self)?),
            None => Ok(hf::save_as(dir, self, options)?),
        }
    }

    fn restore(&self, dir: &Path) -> Result<Self> {
        match self.adapter() {
            Some(_) => Ok(adapter::restore(self, dir)?),
            None => Ok(hf::load_with(dir, self.config(), &self.device(), self.precision())?),
        }
    }

    fn decoder(&self) -> Option<(&Decoder, &'static str)> {
        Some((self, ""))
    }

    fn num_parameters(&self) -> usize {
        self.num_parameters()
    }

    fn num_active_parameters(&self) -> usize {
        self.config().num_active_parameters()
    }

    fn flops_per_token(&self, length: usize) -> Option<f64> {
        Some(Flops::of(self.config(), length).training)
    }
}

impl Trainable for Pair {
    fn device(&self) -> Device {
        self.device()
    }

    fn precision(&self) -> Precision {
        Precision::of(self.logit_scale.val().dtype()).unwrap_or_default()
    }

    fn save(&self, dir: &Path, options: SaveOptions) -> Result<()> {
        Ok(save_pair(dir, self, options)?)
    }

    fn restore(&self, dir: &Path) -> Result<Self> {
        Ok(load_pair(dir, &self.device(), Trainable::precision(self))?)
    }
}

/// The preprocessing that is saved is that of a fresh tower; an objective that has another writes it over ([`Objective::finish`]).
///
/// [`Objective::finish`]: crate::Objective::finish
impl Trainable for Vlm {
    fn device(&self) -> Device {
        self.device()
    }

    fn precision(&self) -> Precision {
        self.precision()
    }

    fn buffers(&self) -> BTreeSet<String> {
        self.language_model.buffers().into_iter().map(|name| format!("language_model.{name}")).collect()
    }

    fn save(&self, dir: &Path, options: SaveOptions) -> Result<()> {
        Ok(Vlm::save(self, dir, &ImageProcessor::for_tower(&self.config().vision), options)?)
    }

    fn restore(&self, dir: &Path) -> Result<Self> {
        Ok(Vlm::load(dir, &self.device(), self.precision())?)
    }

    fn decoder(&self) -> Option<(&Decoder, &'static str)> {
        Some((&self.language_model, "language_model."))
    }

    fn num_parameters(&self) -> usize {
        self.num_parameters()
    }
}
