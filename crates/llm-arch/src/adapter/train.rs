//! A decoder whose adapter is trained: the same decoder with an update on each target ([`llm_tensor::nn::trained`]) and the rest frozen.
//!
//! The frozen model shares its tensors with the one that it was made from, which stays inside as what the model is without the adapter: the
//! reference of preference and reinforcement objectives costs no second copy of the weights.

use super::attach::each_linear;
use super::{Adapter, AdapterSpec, Change, Delta, Target, Targets};
use crate::{Decoder, Error, Result};
use llm_run::Seed;
use llm_tensor::burn::tensor::DType;
use llm_tensor::nn::trained::{Dropout, StepCounter, batch_noise};
use llm_tensor::nn::{Lora, Weight, parameter_from};
use llm_tensor::{Precision, host, params};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is trained of a decoder, and what it is without that.
#[derive(Debug, Clone)]
pub struct AdapterTraining {
    /// Settings.
    pub spec: AdapterSpec,
    /// Where they lead in this model.
    pub targets: Targets,
    /// The folder of the model below, for `base_model_name_or_path`.
    pub base_model: PathBuf,
    /// Does the adapter start as one that changes nothing?
    pub fresh: bool,
    base: Decoder,
    seed: Seed,
    step: StepCounter,
    dropout: bool,
}

impl Decoder {
    /// What is trained, if that is an adapter.
    pub fn adapter(&self) -> Option<&AdapterTraining> {
        self.adapter.as_deref()
    }

    /// The model without the adapter that is trained, without gradients. It shares the frozen weights.
    pub fn without_adapter(&self) -> Option<Self> {
        self.adapter().map(|training| training.base.clone())
    }

    /// Names of the parameters that are not trained: all but the adapter's, if one is.
    pub fn frozen(&self) -> BTreeSet<String> {
        let Some(training) = self.adapter() else { return BTreeSet::new() };
        let mut names: BTreeSet<String> = params::shapes(self).into_keys().collect();
        names.retain(|name| !training.trains(name));
        names
    }

    /// Bytes of the model without the adapter that is trained, in the formats that it is kept in; 0 where the model is trained.
    pub fn frozen_bytes(&self) -> usize {
        if self.adapter.is_none() {
            return 0;
        }
        let mut quantised: BTreeMap<String, usize> = BTreeMap::new();
        self.clone().each_weight_mut(|name, weight| {
            if let Some(matrix) = weight.as_packed() {
                quantised.insert(name, matrix.bytes());
            }
        });
        let bytes = |(name, (shape, dtype)): (String, (Vec<usize>, DType))| match quantised.get(&name) {
            Some(bytes) => *bytes,
            None => shape.iter().product::<usize>() * Precision::of(dtype).unwrap_or_default().bytes(),
        };
        params::layouts(self).into_iter().filter(|(name, _)| !name.contains(".weight.lora_")).map(bytes).sum()
    }

    /// The step of training, for the dropout of an adapter. Clones are told too.
    pub fn set_step(&self, step: u64) {
        if let Some(training) = self.adapter() {
            training.step.set(step);
        }
    }

    /// Say which batch comes next, where that decides about dropout.
    pub(crate) fn note_batch(&self, ids: &[u32]) {
        if self.adapter().is_some_and(|training| training.dropout) {
            // FNV-1a.
            batch_noise(ids.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, id| (hash ^ u64::from(*id)).wrapping_mul(0x0000_0100_0000_01b3)));
        }
    }
}

impl AdapterTraining {
    /// Is this parameter trained?
    pub fn trains(&self, name: &str) -> bool {
        name.contains(".weight.lora_") || self.targets.saved.contains(name)
    }
}

/// A fresh adapter on a model; its first values are a function of the seed. On a device with gradients the result is ready to be trained.
/// `base_model` is the model's folder.
pub fn train(decoder: Decoder, spec: &AdapterSpec, seed: Seed, base_model: PathBuf) -> Result<Decoder> {
    let values = seed.stream("lora_A");
    let make = |name: &str, target: &Target, weight: &Weight, precision: Precision| {
        Ok(Lora::new(weight, target.rank, target.scale, spec.use_dora, values.stream(name), precision))
    };
    build(decoder, spec, seed, base_model, true, make)
}

/// Go on training an adapter that was read. What it changes and how strongly must be what the settings say; the error lists what differs.
pub fn resume(decoder: Decoder, spec: &AdapterSpec, adapter: &Adapter, seed: Seed, base_model: PathBuf) -> Result<Decoder> {
    let targets = Targets::of(decoder.config(), spec)?;
    let mut problems = Vec::new();
    let wanted = |name: &str| targets.saved.contains(name) || name.strip_suffix(".weight").is_some_and(|name| targets.linears.contains_key(name));
    problems.extend(adapter.changes.keys().filter(|name| !wanted(name)).map(|name| format!("it changes `{name}`, which the settings do not")));
    let mut updates: BTreeMap<String, Update> = BTreeMap::new();
    for (name, target) in &targets.linears {
        match adapter.changes.get(&format!("{name}.weight")).map(Vec::as_slice) {
            Some([Change { first_row: 0, rows, delta: Delta::LowRank { rank, scale, a, b, magnitude } }]) if *rows == target.shape[0] => {
                match Update::of(target, *rank, *scale, a, b) {
                    Ok(update) if magnitude.is_some() == spec.use_dora => {
                        updates.insert(name.clone(), Update { magnitude: magnitude.clone(), ..update });
                    }
                    Ok(_) => problems.push(format!("`{}`: use_dora differs", target.module)),
                    Err(problem) => problems.push(format!("`{}`: {problem}", target.module)),
                }
            }
            _ => problems.push(format!("it has no update of `{name}`, which the settings do")),
        }
    }
    let mut saved: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for name in &targets.saved {
        let mut whole: Vec<(usize, &Vec<f32>)> = Vec::new();
        for Change { first_row, delta, .. } in adapter.changes.get(name).into_iter().flatten() {
            if let Delta::Whole(values) = delta {
                whole.push((*first_row, values));
            }
        }
        whole.sort_by_key(|(row, _)| *row);
        let values: Vec<f32> = whole.into_iter().flat_map(|(_, values)| values.iter().copied()).collect();
        saved.insert(name.clone(), values);
    }
    let shapes = params::shapes(&decoder);
    for (name, values) in &saved {
        let size = shapes.get(name).map_or(0, |shape| shape.iter().product::<usize>());
        if size != values.len() {
            problems.push(format!("`{name}` of modules_to_save has {} numbers, expected {size}", values.len()));
        }
    }
    if !problems.is_empty() {
        problems.push("give the settings of the folder, or merge it and start a new adapter".into());
        return Err(Error::Adapter { path: adapter.dir.clone(), problems });
    }
    let device = decoder.device();
    let make = |name: &str, target: &Target, _: &Weight, precision: Precision| {
        let Some(Update { rank, a, b, magnitude }) = updates.remove(name) else {
            return Err(Error::Adapter { path: adapter.dir.clone(), problems: vec![format!("it has no update of `{name}`")] });
        };
        let [outputs, inputs] = target.shape;
        Ok(Lora::from_values(a, b, magnitude, [outputs, inputs, rank], target.scale, (precision, &device)))
    };
    let decoder = build(decoder, spec, seed, base_model, false, make)?;
    Ok(params::map(decoder, |name, shape, value| match saved.remove(name) {
        Some(values) => host::from_vec(values, [shape.iter().product()], &value.device()).cast(value.dtype()),
        None => value,
    }))
}

/// The adapter in a folder that [`super::write()`] wrote, in place of the one that `like` trains; device, format and frozen weights are those of `like`.
pub fn restore(like: &Decoder, dir: &Path) -> Result<Decoder> {
    let Some(training) = like.adapter() else {
        return Err(Error::File { path: dir.to_path_buf(), message: "holds an adapter, but none is trained on this model".into() });
    };
    let adapter = Adapter::load(dir, like.config())?;
    let base = training.base.clone();
    let base = if like.device().is_autodiff() { params::track_where(base, |_| false) } else { base };
    resume(base, &training.spec, &adapter, training.seed, training.base_model.clone())
}

/// A model with an adapter beside its projections, for nobody's training: what a merged one is compared with. What is no update of a projection
/// (whole modules, stacked experts) goes into the weights.
pub fn beside(mut decoder: Decoder, adapter: &Adapter) -> Result<Decoder> {
    let mut rest = adapter.clone();
    let (precision, device) = (decoder.precision(), decoder.device());
    each_linear(&mut decoder, |name, linear| {
        let [outputs, inputs] = linear.weight.shape();
        let Some([Change { first_row: 0, rows, delta: Delta::LowRank { rank, scale, a, b, magnitude } }]) =
            adapter.changes.get(&name).map(Vec::as_slice)
        else {
            return;
        };
        if *rows == outputs {
            let sizes = [outputs, inputs, *rank];
            let lora = Lora::from_values(a.clone(), b.clone(), magnitude.clone(), sizes, *scale, (precision, &device));
            linear.weight = Weight::Trained(Box::new(linear.weight.clone()), Box::new(lora));
            rest.changes.remove(&name);
        }
    });
    super::merge(decoder, &rest)
}

/// The values of an update that was read.
struct Update {
    rank: usize,
    a: Vec<f32>,
    b: Vec<f32>,
    magnitude: Option<Vec<f32>>,
}

impl Update {
    /// A fused module that we wrote holds the updates of its parts as blocks; of one that PEFT trained each part takes the whole.
    fn of(target: &Target, rank: usize, scale: f32, a: &[f32], b: &[f32]) -> Result<Self, String> {
        let ([_, inputs], wanted, (part, parts)) = (target.shape, target.rank, target.part);
        if (scale - target.scale).abs() > 1e-6 * target.scale.abs() {
            return Err(format!("its factor is {scale}, by the settings it is {}", target.scale));
        }
        if rank == wanted {
            return Ok(Self { rank, a: a.to_vec(), b: b.to_vec(), magnitude: None });
        }
        let own = part * wanted..(part + 1) * wanted;
        let block = |row: &[f32]| row.iter().enumerate().all(|(i, x)| own.contains(&i) || *x == 0.0);
        if rank != parts * wanted || !b.chunks_exact(rank).all(block) {
            return Err(format!("its rank is {rank}, by the settings it is {wanted}"));
        }
        let a = a[own.start * inputs..own.end * inputs].to_vec();
        let b = b.chunks_exact(rank).flat_map(|row| &row[own.clone()]).copied().collect();
        Ok(Self { rank: wanted, a, b, magnitude: None })
    }
}

fn build(
    mut decoder: Decoder,
    spec: &AdapterSpec,
    seed: Seed,
    base_model: PathBuf,
    fresh: bool,
    mut make: impl FnMut(&str, &Target, &Weight, Precision) -> Result<Lora>,
) -> Result<Decoder> {
    let targets = Targets::of(decoder.config(), spec)?;
    if decoder.adapter.is_some() {
        return Err(Error::Config("adapter: the model has one that is being trained; merge it first".into()));
    }
    let (precision, device) = (decoder.precision(), decoder.device());
    let base = decoder.untracked();
    let step = StepCounter::default();
    let masks = seed.stream("lora_dropout");
    let (mut missing, mut failure): (BTreeSet<&String>, Option<Error>) = (targets.linears.keys().collect(), None);
    each_linear(&mut decoder, |parameter, linear| {
        let name = parameter.strip_suffix(".weight").unwrap_or(&parameter);
        let Some(target) = targets.linears.get(name) else { return };
        if linear.weight.bank().is_some() {
            failure = Some(Error::Config("adapter: adapters of single requests are attached to the model".into()));
            return;
        }
        missing.retain(|other| *other != name);
        match make(name, target, &linear.weight, precision) {
            Ok(mut lora) => {
                let (p, seed, step) = (spec.lora_dropout as f32, masks.stream(name), step.clone());
                lora.dropout = (p > 0.0).then_some(Dropout { p, seed, step });
                linear.weight = Weight::Trained(Box::new(linear.weight.clone()), Box::new(lora));
            }
            Err(error) => failure = Some(error),
        }
    });
    if let Some(error) = failure {
        return Err(error);
    }
    if let Some(name) = missing.first() {
        return Err(Error::Config(format!("adapter: `{name}` is no projection that can have an update; exclude it (exclude_modules)")));
    }
    decoder.each_weight_mut(|name, weight| {
        // What is trained whole is dense.
        if targets.saved.contains(&name) && weight.as_packed().is_some() {
            *weight = Weight::Dense(parameter_from(host::to_vec(weight.val()), weight.shape(), precision, &device));
        }
    });
    let dropout = spec.lora_dropout > 0.0;
    decoder.adapter = Some(Arc::new(AdapterTraining { spec: spec.clone(), targets, base_model, fresh, base, seed, step, dropout }));
    Ok(if device.is_autodiff() { decoder.tracked() } else { decoder })
}
