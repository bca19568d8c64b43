//! AdamW, Muon, Adafactor and Lion, with decoupled decay on matrices only and clipping by the global norm, computed once.
//!
//! | file | job |
//! |---|---|
//! | `config` | settings, and which of them a parameter gets |
//! | `clip` | the gradient norm, to be looked at before the step |
//! | `moments` | what is kept of one parameter |
//! | `update` | one step of one parameter |
//!
//! State is kept by parameter name, so it can be saved as safetensors, inspected, and cannot silently belong to another
//! parameter. Burn's own clipping is per tensor and its state is keyed by random ids, which is why neither is used.
//!
//! Parameters in bfloat16 or float16 get a master copy in `f32` (Micikevicius et al. 2018, section 3.1): a step smaller than the spacing of
//! the short format would be lost without it. The master is updated, and what the model computes with is the master, rounded. Gradients of
//! a scaled loss, which float16 needs, are unscaled by [`Clip`]; bfloat16 has the range of `f32` and needs none of that.
//!
//! On a GPU nothing of a step waits for the host: norm and clipping factor are computed there, and the norm is read when it is asked for.

mod clip;
mod config;
mod moments;
mod update;

pub use clip::Clip;
pub use config::{
    AdafactorConfig, AdjustLr, MIN_QUANTIZED, MuonConfig, NsCoefficients, OptimizerConfig, OptimizerKind, ParameterGroup, Rule, StateFormat,
};

use crate::{Error, Result};
use llm_tensor::burn::module::Module;
use llm_tensor::burn::tensor::{DType, Device, Tensor};
use llm_tensor::ops::Quantized;
use llm_tensor::weights::{Dtype, Pending, Weights};
use llm_tensor::{host, params, weights};
use moments::{Moments, Part, Source};
use std::collections::BTreeMap;
use std::path::Path;

/// Gradients by parameter name.
pub type Gradients = BTreeMap<String, Tensor<1>>;

/// Shapes and number formats of the parameters that are trained ([`params::layouts`]).
pub type Layouts = BTreeMap<String, (Vec<usize>, DType)>;

/// State of every parameter, and master copies where parameters are not `f32`. A clone shares memory until either takes a step.
#[derive(Debug, Clone)]
pub struct Optimizer {
    config: OptimizerConfig,
    state: BTreeMap<String, State>,
}

/// What is kept of one parameter.
#[derive(Debug, Clone)]
struct State {
    moments: Moments,
    master: Option<Tensor<1>>,
}

impl Optimizer {
    /// No steps taken yet. Settings that cannot work with these parameters are refused.
    pub fn new(config: OptimizerConfig, layouts: &Layouts) -> Result<Self> {
        config.check(layouts.keys().map(String::as_str))?;
        Ok(Self { config, state: BTreeMap::new() })
    }

    /// Settings.
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }

    /// Bytes of moments and master copies.
    pub fn state_bytes(&self) -> usize {
        let parts = self.state.values().flat_map(|state| state.parts());
        parts.map(|(_, part)| part.len() * part.dtype().bitsize() / 8).sum()
    }

    /// Update the module; parameters without a gradient stay as they are. `lr` is the rate of this step, `step` is 1-based.
    pub fn step<M: Module>(&mut self, module: M, mut gradients: Gradients, clip: &Clip, lr: f64, step: u64) -> M {
        let Self { config, state } = self;
        let this = update::Step { config, lr, step, iteration: update::iteration(config) };
        params::map(module, |name, shape, value| {
            let Some(gradient) = gradients.remove(name) else { return value };
            let (gradient, grad_scale) = clip.apply(gradient);
            let rule = config.rule(name, shape);
            let State { moments, master } =
                state.remove(name).unwrap_or_else(|| State { moments: Moments::zeros(&rule, shape, &value.device()), master: None });
            let dtype = value.dtype();
            let short = dtype != DType::F32;
            let value = if short { master.unwrap_or_else(|| value.cast(DType::F32)) } else { value };
            let (value, moments) = this.update(&rule, shape, value, moments, gradient, grad_scale);
            let master = short.then(|| value.clone());
            state.insert(name.to_string(), State { moments, master });
            if short { value.cast(dtype) } else { value }
        })
    }

    /// Write moments and master copies as safetensors: `NAME.exp_avg`, `NAME.master` and so on, 8-bit moments as they are.
    pub fn save(&self, path: &Path) -> Result<()> {
        let parts = self.state.iter().flat_map(|(name, state)| state.parts().into_iter().map(move |(part, value)| (format!("{name}.{part}"), value)));
        let parts: BTreeMap<String, Part> = parts.collect();
        let heads = parts.iter().map(|(name, part)| (Pending { name: name.clone(), shape: vec![part.len()] }, part.dtype())).collect();
        Ok(weights::save_raw(path, heads, |name| parts.get(name).map_or_else(Vec::new, Part::bytes))?)
    }

    /// Read the state back. Every parameter of `layouts` must have its moments, of the right size, and a master copy where it is not `f32`.
    pub fn load(config: OptimizerConfig, path: &Path, layouts: &Layouts, device: &Device) -> Result<Self> {
        config.check(layouts.keys().map(String::as_str))?;
        let file = Weights::open(path)?;
        let mut state = BTreeMap::new();
        for (name, (shape, dtype)) in layouts {
            let mut saved = Saved { file: &file, path, name, device };
            let moments = Moments::build(&config.rule(name, shape), shape, &mut saved)?;
            let master = if *dtype == DType::F32 { None } else { Some(saved.floats("master", shape.iter().product())?) };
            state.insert(name.clone(), State { moments, master });
        }
        Ok(Self { config, state })
    }
}

impl State {
    fn parts(&self) -> Vec<(String, Part)> {
        let mut parts = self.moments.parts();
        parts.extend(self.master.as_ref().map(|master| ("master".to_string(), Part::Floats(Box::new(master.clone())))));
        parts
    }
}

/// The state of one parameter in a file.
struct Saved<'a> {
    file: &'a Weights,
    path: &'a Path,
    name: &'a str,
    device: &'a Device,
}

impl Saved<'_> {
    fn wrong(&self, part: &str, found: String, expected: String) -> Error {
        let message = format!("`{}.{part}` has {found}, expected {expected}; the checkpoint belongs to another model or optimizer", self.name);
        Error::Checkpoint { path: self.path.to_path_buf(), message }
    }
}

impl Source for Saved<'_> {
    type Error = Error;

    fn floats(&mut self, part: &str, len: usize) -> Result<Tensor<1>> {
        let values = self.file.get(&format!("{}.{part}", self.name))?.values;
        if values.len() != len {
            return Err(self.wrong(part, format!("{} elements", values.len()), len.to_string()));
        }
        Ok(host::from_vec(values, [len], self.device))
    }

    fn quantized(&mut self, part: &str, len: usize) -> Result<Quantized> {
        let codes_part = format!("{part}_codes");
        let (dtype, shape, codes) = self.file.raw(&format!("{}.{codes_part}", self.name))?;
        if dtype != Dtype::U8 || codes.len() != len {
            return Err(self.wrong(&codes_part, format!("{dtype} {shape:?}"), format!("U8 [{len}]")));
        }
        Ok(Quantized::from_codes(codes, self.floats(&format!("{part}_absmax"), Quantized::blocks(len))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_tensor::Precision;
    use llm_tensor::nn::{Embedding, parameter_from};

    fn config() -> OptimizerConfig {
        OptimizerConfig { weight_decay: 0.0, grad_clip: 1.0, ..OptimizerConfig::default() }
    }

    /// `steps` steps of 1e-4 against a constant gradient of norm 6, from a table of ones.
    fn train(precision: Precision, steps: u64) -> (Embedding, Optimizer, f64) {
        let device = Device::flex().autodiff();
        let mut table = Embedding { weight: parameter_from(vec![1.0; 4], [2, 2], precision, &device).into() };
        let (mut optimizer, mut norm) = (Optimizer::new(config(), &params::layouts(&table)).unwrap(), 0.0);
        for step in 1..=steps {
            let gradient = host::from_vec(vec![3.0; 4], [4], &device.clone().inner()).cast(precision.dtype());
            let gradients = Gradients::from([("weight".to_string(), gradient)]);
            let clip = Clip::new(&gradients, optimizer.config().grad_clip, 1.0);
            table = optimizer.step(table, gradients, &clip, 1e-4, step);
            norm = clip.norm();
        }
        (table, optimizer, norm)
    }

    /// If this fails, training in a short format stands still where weights are large and steps are small.
    #[test]
    fn steps_below_the_spacing_of_bfloat16_add_up_in_the_master_copy() {
        let weights = |precision| {
            let (table, optimizer, norm) = train(precision, 100);
            assert!((norm - 6.0).abs() < 1e-6, "{precision}: norm {norm}");
            assert_eq!(Precision::of(table.weight.val().dtype()), Some(precision), "the parameter keeps its format");
            let master = optimizer.state["weight"].master.clone().map(host::to_vec);
            (host::to_vec(table.weight.val().inner()), master)
        };
        let (full, none) = weights(Precision::F32);
        assert!(none.is_none() && (full[0] - 0.99).abs() < 1e-4, "{full:?}");
        for precision in [Precision::Bf16, Precision::F16] {
            let (short, master) = weights(precision);
            let master = master.expect("a master copy");
            assert!((master[0] - full[0]).abs() < 1e-6, "{precision}: {master:?} instead of {full:?}");
            assert_eq!(short, host::to_vec(host::from_vec(master, [4], &Device::flex()).cast(precision.dtype())), "rounded master");
        }
    }

    #[test]
    fn master_copies_are_saved_and_demanded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("optimizer.safetensors");
        let (table, optimizer, _) = train(Precision::Bf16, 3);
        optimizer.save(&path).unwrap();
        let back = Optimizer::load(config(), &path, &params::layouts(&table), &Device::flex()).unwrap();
        let bits = |a: &Optimizer| host::to_vec(a.state["weight"].master.clone().unwrap()).into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(&back), bits(&optimizer));
        let (_, f32_optimizer, _) = train(Precision::F32, 3);
        f32_optimizer.save(&path).unwrap();
        let message = Optimizer::load(config(), &path, &params::layouts(&table), &Device::flex()).unwrap_err().to_string();
        assert!(message.contains("weight.master"), "{message}");
    }

    /// If this fails, a checkpoint of float16 training steps by the scaled gradient.
    #[test]
    fn unscaling_comes_before_clipping_on_host_and_device() {
        let device = Device::flex();
        for dtype in [DType::F32, DType::BF16] {
            let gradients =
                |scale: f32| Gradients::from([("a".to_string(), host::from_vec(vec![3.0 * scale, 4.0 * scale], [2], &device).cast(dtype))]);
            for (limit, unscale, factor) in [(1.0, 1.0, 0.2), (0.0, 0.25, 0.25), (1.0, 0.25, 0.05), (10.0, 0.25, 0.25)] {
                let scaled = gradients(1.0 / unscale as f32);
                let clip = Clip::new(&scaled, limit, unscale);
                assert!((clip.norm() - 5.0).abs() < 1e-2, "{dtype:?} {limit} {unscale}: norm {}", clip.norm());
                let (gradient, scale) = clip.apply(scaled["a"].clone());
                let got = host::to_vec(gradient)[0] * scale;
                assert!((got - 3.0 / unscale as f32 * factor).abs() < 1e-3, "{dtype:?} {limit} {unscale}: {got}");
            }
        }
    }
}
