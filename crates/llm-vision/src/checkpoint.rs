//! Vision parts of Hugging Face folders.
//!
//! Our field names are the tensor names of transformers 5 below the tower; published files put `vision_model.` before them, larger models
//! `vision_tower.` or more. Where the tower begins is found by its patch embedding, so every spelling is read by the same code.

use crate::config::{VisionConfig, VisionFamily};
use crate::tower::{Embeddings, Encoder, EncoderLayer, PoolingAttention, PoolingHead, SelfAttention, VisionMlp};
use crate::{Error, Result, VisionTower};
use llm_tensor::burn::module::Param;
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::nn::{Embedding, Linear, Norm, NormKind, parameter_from};
use llm_tensor::weights::{self, Pending, SaveOptions, Weights};
use llm_tensor::{Precision, params};
use serde_json::Value;
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
    write_json(&dir.join("config.json"), &tower.config.to_json())
}

/// Tensors under the names and in the shapes of files.
pub(crate) fn tower_tensors(tower: &VisionTower, prefix: &str) -> BTreeMap<String, weights::HostTensor> {
    let VisionConfig { num_channels: c, patch_size: p, hidden_size: d, .. } = tower.config;
    let mut tensors = params::to_host(tower);
    if let Some(patches) = tensors.get_mut(PATCH_EMBEDDING) {
        patches.shape = vec![d, c, p, p];
    }
    tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect()
}

pub(crate) fn save_tensors(dir: &Path, tensors: &BTreeMap<String, weights::HostTensor>, options: SaveOptions) -> Result<()> {
    let pending = tensors.iter().map(|(name, t)| Pending { name: name.clone(), shape: t.shape.clone() }).collect();
    Ok(weights::save_folder(dir, pending, options, |t| tensors[&t.name].values.clone())?)
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

    fn parameter<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Param<Tensor<D>> {
        parameter_from(self.values(name, &shape), shape, self.precision, self.device)
    }

    pub fn linear(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Linear {
        let weight = self.parameter(&format!("{name}.weight"), [outputs, inputs]);
        Linear { weight: weight.into(), bias: bias.then(|| self.parameter(&format!("{name}.bias"), [outputs])) }
    }

    fn norm(&mut self, name: &str, size: usize, eps: f64) -> Norm {
        let weight = self.parameter(&format!("{name}.weight"), [size]);
        Norm { weight, bias: Some(self.parameter(&format!("{name}.bias"), [size])), kind: NormKind::LayerNorm, eps }
    }

    /// The one tower in the file.
    pub fn tower(&mut self, config: &VisionConfig) -> VisionTower {
        let found: Vec<&str> = self.weights.names().into_iter().filter_map(|name| name.strip_suffix(PATCH_EMBEDDING)).collect();
        if let [first, second, ..] = found.as_slice() {
            self.problems.push(format!("two vision towers, at `{first}` and at `{second}`; expected one"));
        }
        let at = found.first().copied().unwrap_or("vision_model.").to_string();
        let &VisionConfig { hidden_size: d, num_channels: c, patch_size: p, layer_norm_eps: eps, .. } = config;
        let clip = config.family == VisionFamily::Clip;
        let patches = self.values(&format!("{at}{PATCH_EMBEDDING}"), &[d, c, p, p]);
        let patch_embedding = Linear {
            weight: parameter_from(patches, [d, c * p * p], self.precision, self.device).into(),
            bias: (!clip).then(|| self.parameter(&format!("{at}embeddings.patch_embedding.bias"), [d])),
        };
        let embeddings = Embeddings {
            class_embedding: clip.then(|| self.parameter(&format!("{at}embeddings.class_embedding"), [d])),
            patch_embedding,
            position_embedding: Embedding { weight: self.parameter(&format!("{at}embeddings.position_embedding.weight"), [config.num_tokens(), d]) },
        };
        let layers = (0..config.num_hidden_layers).map(|i| self.layer(&format!("{at}encoder.layers.{i}"), config)).collect();
        VisionTower {
            embeddings,
            pre_layrnorm: clip.then(|| self.norm(&format!("{at}pre_layrnorm"), d, eps)),
            encoder: Encoder { layers },
            post_layernorm: self.norm(&format!("{at}post_layernorm"), d, eps),
            head: config.vision_use_head.then(|| self.head(&format!("{at}head"), config)),
            config: config.clone(),
        }
    }

    fn layer(&mut self, at: &str, config: &VisionConfig) -> EncoderLayer {
        let (d, eps) = (config.hidden_size, config.layer_norm_eps);
        EncoderLayer {
            layer_norm1: self.norm(&format!("{at}.layer_norm1"), d, eps),
            self_attn: SelfAttention {
                q_proj: self.linear(&format!("{at}.self_attn.q_proj"), d, d, true),
                k_proj: self.linear(&format!("{at}.self_attn.k_proj"), d, d, true),
                v_proj: self.linear(&format!("{at}.self_attn.v_proj"), d, d, true),
                out_proj: self.linear(&format!("{at}.self_attn.out_proj"), d, d, true),
            },
            layer_norm2: self.norm(&format!("{at}.layer_norm2"), d, eps),
            mlp: self.mlp(&format!("{at}.mlp"), config),
        }
    }

    fn mlp(&mut self, at: &str, config: &VisionConfig) -> VisionMlp {
        let (d, f) = (config.hidden_size, config.intermediate_size);
        VisionMlp { fc1: self.linear(&format!("{at}.fc1"), f, d, true), fc2: self.linear(&format!("{at}.fc2"), d, f, true) }
    }

    fn head(&mut self, at: &str, config: &VisionConfig) -> PoolingHead {
        let (d, eps) = (config.hidden_size, config.layer_norm_eps);
        PoolingHead {
            probe: self.parameter(&format!("{at}.probe"), [1, 1, d]),
            attention: PoolingAttention {
                in_proj_weight: self.parameter(&format!("{at}.attention.in_proj_weight"), [3 * d, d]),
                in_proj_bias: self.parameter(&format!("{at}.attention.in_proj_bias"), [3 * d]),
                out_proj: self.linear(&format!("{at}.attention.out_proj"), d, d, true),
            },
            layernorm: self.norm(&format!("{at}.layernorm"), d, eps),
            mlp: self.mlp(&format!("{at}.mlp"), config),
        }
    }
}
