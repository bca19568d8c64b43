//! The trained parameters as a PEFT folder: `adapter_config.json` and `adapter_model.safetensors`, in `f32`.
//!
//! A module that a checkpoint keeps fused is one update there: its A holds those of its parts one below the other, its B has theirs as blocks and
//! zeros elsewhere, its rank is the sum of their ranks and its alpha grows as its rank does, so that the factor stays. Ranks and alphas of such
//! modules stand in `rank_pattern` and `alpha_pattern`, one entry a module.

use super::spec::number;
use super::targets::parts;
use super::{AdapterTraining, Target};
use crate::config::Family;
use crate::hf::names::{Source, sources};
use crate::hf::transpose;
use crate::{Decoder, Error, Result};
use llm_tensor::params;
use llm_tensor::weights::{self, HostTensor};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What stands before the name of a module.
const PREFIX: &str = "base_model.model.";

type Tensors = BTreeMap<String, HostTensor>;

/// Write the adapter that is trained on a decoder into a folder that exists.
pub fn write(dir: &Path, decoder: &Decoder) -> Result<()> {
    let Some(training) = decoder.adapter() else {
        return Err(Error::File { path: dir.to_path_buf(), message: "no adapter is trained on this model; save the model".into() });
    };
    let ours = params::to_host_where(decoder, |name| training.trains(name));
    let mut tensors = Tensors::new();
    let (mut ranks, mut alphas) = (Map::new(), Map::new());
    for source in sources(decoder.config()) {
        let names = parts(&source);
        if names.iter().all(|name| training.targets.saved.contains(*name)) {
            tensors.insert(format!("{PREFIX}{}", source.name), whole(&source, &ours));
            continue;
        }
        let of = |name: &&str| training.targets.linears.get(name.strip_suffix(".weight")?);
        let targets: Vec<&Target> = names.iter().filter_map(of).collect();
        let Some(first) = targets.first().filter(|_| targets.len() == names.len()) else { continue };
        update(&source, &first.module, &names, &ours, &mut tensors);
        let rank: usize = targets.iter().map(|target| target.rank).sum();
        // alpha / r or alpha / sqrt r as it was: alpha grows with the number of parts, or with its root.
        let parts = targets.len() as f64;
        let grown = if training.spec.use_rslora { parts.sqrt() } else { parts };
        let divisor = if training.spec.use_rslora { (first.rank as f64).sqrt() } else { first.rank as f64 };
        let alpha = match targets.len() {
            1 => None,
            _ => Some((f64::from(first.scale) * divisor * 1e6).round() / 1e6 * grown),
        };
        if let Some(alpha) = alpha {
            ranks.insert(first.module.clone(), json!(rank));
            alphas.insert(first.module.clone(), number(alpha));
        }
    }
    weights::save(dir.join("adapter_model.safetensors"), &tensors)?;
    let text = serde_json::to_string_pretty(&config(decoder, training, ranks, alphas)).unwrap_or_default() + "\n";
    Ok(llm_run::atomic::write(dir.join("adapter_config.json"), text)?)
}

/// A tensor of modules that are trained whole.
fn whole(source: &Source, ours: &Tensors) -> HostTensor {
    let width = source.width();
    let mut values = Vec::with_capacity(source.shape.iter().product());
    for run in &source.runs {
        if let Some(tensor) = ours.get(&run.parameter) {
            values.extend_from_slice(&tensor.values[run.row * width..][..run.rows * width]);
        }
    }
    if source.transposed {
        values = transpose(&values, source.shape[1], source.shape[0]);
    }
    HostTensor { shape: source.shape.clone(), values }
}

/// A, B and magnitudes of one module.
fn update(source: &Source, module: &str, names: &[&str], ours: &Tensors, tensors: &mut Tensors) {
    let part = |name: &str, what: &str| ours.get(&format!("{name}.{what}"));
    let (mut a, mut rank, mut first_column) = (Vec::new(), 0, BTreeMap::new());
    for name in names {
        if let Some(tensor) = part(name, "lora_A") {
            first_column.insert(*name, rank);
            rank += tensor.shape[0];
            a.extend_from_slice(&tensor.values);
        }
    }
    let (mut b, mut magnitudes, mut outputs) = (Vec::new(), Vec::new(), 0);
    for run in &source.runs {
        let name = run.parameter.as_str();
        outputs += run.rows;
        if let (Some(tensor), Some(&first)) = (part(name, "lora_B"), first_column.get(name)) {
            let own = tensor.shape[1];
            for row in tensor.values[run.row * own..][..run.rows * own].chunks_exact(own) {
                let at = b.len();
                b.resize(at + rank, 0.0);
                b[at + first..at + first + own].copy_from_slice(row);
            }
        }
        if let Some(tensor) = part(name, "lora_magnitude_vector") {
            magnitudes.extend_from_slice(&tensor.values[run.row..][..run.rows]);
        }
    }
    let at = |what: &str| format!("{PREFIX}{module}.{what}");
    tensors.insert(at("lora_A.weight"), HostTensor { shape: vec![rank, source.width()], values: a });
    tensors.insert(at("lora_B.weight"), HostTensor { shape: vec![outputs, rank], values: b });
    if !magnitudes.is_empty() {
        tensors.insert(at("lora_magnitude_vector"), HostTensor { shape: vec![outputs], values: magnitudes });
    }
}

fn config(decoder: &Decoder, training: &AdapterTraining, ranks: Map<String, Value>, alphas: Map<String, Value>) -> Value {
    let spec = &training.spec;
    let mut value = spec.peft();
    let base = training.base_model.canonicalize().unwrap_or_else(|_| training.base_model.clone());
    value["base_model_name_or_path"] = json!(base.to_string_lossy());
    // GPT-2's projections are stored the other way round.
    value["fan_in_fan_out"] = json!(decoder.config().family == Family::Gpt2);
    if decoder.config().tie_word_embeddings && training.targets.saved.contains("model.embed_tokens.weight") {
        value["ensure_weight_tying"] = json!(true);
    }
    if spec.is_all_linear() {
        // As PEFT writes it: by name.
        let last = |target: &Target| target.module.rsplit('.').next().unwrap_or_default().to_string();
        value["target_modules"] = json!(training.targets.linears.values().map(last).collect::<BTreeSet<String>>());
    }
    if !ranks.is_empty() {
        // The first pattern that fits counts, so those of single modules must be alone.
        value["rank_pattern"] = Value::Object(ranks);
        value["alpha_pattern"] = Value::Object(alphas);
        for target in training.targets.linears.values().filter(|target| target.part.1 == 1) {
            let divisor = if spec.use_rslora { (target.rank as f64).sqrt() } else { target.rank as f64 };
            value["rank_pattern"][&target.module] = json!(target.rank);
            value["alpha_pattern"][&target.module] = number((f64::from(target.scale) * divisor * 1e6).round() / 1e6);
        }
    }
    value
}
