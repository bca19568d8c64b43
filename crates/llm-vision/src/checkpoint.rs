//! Vision parts of Hugging Face folders.
//!
//! Our field names are the tensor names of transformers 5 below the tower; published files put `vision_model.` before them, larger models
//! `vision_tower.` or more. Where the tower begins is found by its patch embedding, so every spelling is read by the same code.

use crate::build::Builder;
use crate::config::{VisionConfig, VisionFamily};
use crate::{Error, Pair, PairConfig, Result, VisionTower};
use llm_tensor::burn::tensor::Device;
use llm_tensor::weights::{self, HostTensor, Pending, SaveOptions, Weights};
use llm_tensor::{Precision, params};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// Every tower has it, and nothing else ends like it.
const PATCH_EMBEDDING: &str = "embeddings.patch_embedding.weight";

/// What lies beside the tower in files of whole pairs, and buffers.
const OTHERS: [&str; 6] =
    ["text_model.", "logit_scale", "logit_bias", "visual_projection.", "text_projection.", "vision_model.embeddings.position_ids"];

/// Load a tower from a folder of its own or from that of a CLIP or SigLIP pair. All missing, unexpected and ill-shaped tensors are
/// reported at once.
pub fn load_tower(dir: impl AsRef<Path>, device: &Device, precision: Precision) -> Result<VisionTower> {
    let dir = dir.as_ref();
    let path = dir.join("config.json");
    let config = VisionConfig::from_json(&read_json(&path)?).map_err(|e| Error::file(&path, e.to_string()))?;
    let weights = Weights::open(dir)?;
    let mut reader = Reader::new(&weights, device, precision);
    let tower = reader.tower(&config);
    reader.finish(dir, |name| !OTHERS.iter().any(|other| name.starts_with(other)))?;
    Ok(tower)
}

/// Save a tower as published files are: `config.json` and `model.safetensors` with names from `vision_model.` on.
pub fn save_tower(dir: impl AsRef<Path>, tower: &VisionTower, options: SaveOptions) -> Result<()> {
    let dir = dir.as_ref();
    let tensors = tower_tensors(tower, "vision_model.");
    save_tensors(dir, &tensors, options)?;
    write_json(&dir.join("config.json"), &with_dtype(tower.config.to_json(), options.precision))
}

/// Load a CLIP or SigLIP pair. All missing, unexpected and ill-shaped tensors are reported at once.
pub fn load_pair(dir: impl AsRef<Path>, device: &Device, precision: Precision) -> Result<Pair> {
    let dir = dir.as_ref();
    let path = dir.join("config.json");
    let config = PairConfig::from_json(&read_json(&path)?).map_err(|e| Error::file(&path, e.to_string()))?;
    let weights = Weights::open(dir)?;
    let mut reader = Reader::new(&weights, device, precision);
    let pair = reader.build(|builder| builder.pair(&config));
    reader.finish(dir, |_| true)?;
    Ok(pair)
}

/// Save a pair as published files are: `config.json` and `model.safetensors` of a `CLIPModel` or `SiglipModel`. Transformers 4 and 5 have
/// the same tensor names here.
pub fn save_pair(dir: impl AsRef<Path>, pair: &Pair, options: SaveOptions) -> Result<()> {
    let dir = dir.as_ref();
    let mut tensors = params::to_host(pair);
    file_shapes(&mut tensors, &pair.config().vision);
    if let (VisionFamily::Clip, Some(scale)) = (pair.config().family(), tensors.get_mut("logit_scale")) {
        scale.shape = Vec::new();
    }
    save_tensors(dir, &tensors, options)?;
    write_json(&dir.join("config.json"), &with_dtype(pair.config().to_json(), options.precision))
}

/// Tensors under the names and in the shapes of files.
pub(crate) fn tower_tensors(tower: &VisionTower, prefix: &str) -> BTreeMap<String, HostTensor> {
    let mut tensors = params::to_host(tower);
    file_shapes(&mut tensors, tower.config());
    tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect()
}

/// A patch embedding is a convolution there.
fn file_shapes(tensors: &mut BTreeMap<String, HostTensor>, config: &VisionConfig) {
    let &VisionConfig { num_channels: c, patch_size: p, hidden_size: d, .. } = config;
    for (_, patches) in tensors.iter_mut().filter(|(name, _)| name.ends_with(PATCH_EMBEDDING)) {
        patches.shape = vec![d, c, p, p];
    }
}

pub(crate) fn save_tensors(dir: &Path, tensors: &BTreeMap<String, HostTensor>, options: SaveOptions) -> Result<()> {
    let pending = tensors.iter().map(|(name, t)| Pending { name: name.clone(), shape: t.shape.clone() }).collect();
    Ok(weights::save_folder(dir, pending, options, |t| tensors[&t.name].values.clone())?)
}

/// A configuration that says in which number format its weights are stored, as transformers 4 and 5 spell it.
pub(crate) fn with_dtype(mut config: Value, precision: Precision) -> Value {
    config["dtype"] = json!(precision);
    config["torch_dtype"] = json!(precision);
    config
}

pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, format!("cannot read: {e}")))?;
    serde_json::from_str(&text).map_err(|e| Error::file(path, format!("not valid JSON: {e}")))
}

pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    Ok(llm_run::atomic::write(path, text)?)
}

/// Takes tensors out of a file and remembers what was wrong, so that everything is reported at once.
pub(crate) struct Reader<'a> {
    weights: &'a Weights,
    device: &'a Device,
    precision: Precision,
    problems: Vec<String>,
    known: HashSet<String>,
}

impl<'a> Reader<'a> {
    pub fn new(weights: &'a Weights, device: &'a Device, precision: Precision) -> Self {
        Self { weights, device, precision, problems: Vec::new(), known: HashSet::new() }
    }

    /// `ours`: which of the tensors that nobody asked for should not be there.
    pub fn finish(self, dir: &Path, ours: impl Fn(&str) -> bool) -> Result<()> {
        let mut problems = self.problems;
        let unexpected = self.weights.names().into_iter().filter(|name| !self.known.contains(*name) && ours(name) && !name.ends_with("position_ids"));
        problems.extend(unexpected.map(|name| format!("unexpected `{name}`")));
        if problems.is_empty() { Ok(()) } else { Err(Error::Weights { path: dir.to_path_buf(), problems }) }
    }

    /// Zeros where something is wrong; [`Reader::finish`] tells.
    pub fn values(&mut self, name: &str, shape: &[usize]) -> Vec<f32> {
        self.known.insert(name.to_string());
        let problem = match self.weights.shape(name) {
            None => format!("missing `{name}` {shape:?}"),
            Some(found) if found != shape => format!("`{name}` has shape {found:?}, expected {shape:?}"),
            Some(_) => match self.weights.get(name) {
                Err(e) => e.to_string(),
                Ok(tensor) => match tensor.values.iter().find(|v| !v.is_finite()) {
                    None => return tensor.values,
                    Some(value) => format!("`{name}` holds {value}; the checkpoint is damaged or its training diverged"),
                },
            },
        };
        self.problems.push(problem);
        vec![0.0; shape.iter().product()]
    }

    /// A builder whose values come from the file.
    pub fn build<T>(&mut self, build: impl FnOnce(&mut Builder) -> T) -> T {
        let (device, precision) = (self.device, self.precision);
        let mut values = |name: &str, shape: &[usize]| self.values(name, shape);
        build(&mut Builder::new(&mut values, device).with_precision(precision))
    }

    /// A layer that must do nothing, if it is there.
    pub fn identity(&mut self, name: &str, size: usize) {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        if self.weights.contains(&weight) {
            let values = self.values(&weight, &[size, size]);
            let diagonal = |i: usize| if i.is_multiple_of(size + 1) { 1.0 } else { 0.0 };
            if values.iter().enumerate().any(|(i, &v)| v != diagonal(i)) {
                self.problems.push(format!("`{weight}` is not the identity although config.json says that the connector is linear"));
            }
        }
        if self.weights.contains(&bias) && self.values(&bias, &[size]).iter().any(|&v| v != 0.0) {
            self.problems.push(format!("`{bias}` is not zero although config.json says that the connector is linear"));
        }
    }

    /// The one tower in the file.
    pub fn tower(&mut self, config: &VisionConfig) -> VisionTower {
        let found: Vec<&str> = self.weights.names().into_iter().filter_map(|name| name.strip_suffix(PATCH_EMBEDDING)).collect();
        if let [first, second, ..] = found.as_slice() {
            self.problems.push(format!("two vision towers, at `{first}` and at `{second}`; expected one"));
        }
        let at = found.first().copied().unwrap_or("vision_model.").to_string();
        self.build(|builder| builder.vision(&at, config))
    }
}
