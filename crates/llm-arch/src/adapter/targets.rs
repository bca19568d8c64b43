//! What an adapter of these settings trains in a model of that configuration: which projections get an update, which parameters are trained whole.
//! Without a tensor, so that a plan can count it.
//!
//! Settings name modules as checkpoints do. Where a checkpoint keeps several of our projections fused (`c_attn`, `qkv_proj`, `gate_up_proj`,
//! `query_key_value`), each of them gets an update of its own; in a PEFT folder they are one whose A holds all of theirs and whose B is
//! block-diagonal ([`super::write()`]), which is the same function.

use super::AdapterSpec;
use crate::hf::names::{Source, sources};
use crate::parameters::{Parameter, Role, parameters};
use crate::{DecoderConfig, Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// An update of one projection.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The module in a checkpoint.
    pub module: String,
    /// `[O, I]`.
    pub shape: [usize; 2],
    /// R.
    pub rank: usize,
    /// Factor of the product.
    pub scale: f32,
    /// Which of the projections of that module this is, and how many there are.
    pub part: (usize, usize),
}

/// Everything that is trained.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Targets {
    /// By canonical name of the projection, without `.weight`.
    pub linears: BTreeMap<String, Target>,
    /// Canonical names of the parameters that are trained whole.
    pub saved: BTreeSet<String>,
}

/// Our parameters that a tensor has rows of, in order.
pub(super) fn parts(source: &Source) -> Vec<&str> {
    let mut out: Vec<&str> = Vec::new();
    for run in &source.runs {
        if !out.contains(&run.parameter.as_str()) {
            out.push(&run.parameter);
        }
    }
    out
}

impl Targets {
    /// Of a model of that configuration. Every problem is reported.
    pub fn of(model: &DecoderConfig, spec: &AdapterSpec) -> Result<Self> {
        let config = spec.config()?;
        let all = parameters(model);
        let by_name: HashMap<&str, &Parameter> = all.iter().map(|p| (p.name.as_str(), p)).collect();
        let adaptable = |name: &str| {
            let matrix = by_name.get(name).is_some_and(|p| p.role == Role::Matrix) && (!name.contains(".moe.") || name.contains(".shared_experts."));
            matrix || name == "lm_head.weight"
        };
        let (mut out, mut problems) = (Self::default(), Vec::new());
        let sources = sources(model);
        let mut unused: BTreeSet<&str> = spec.modules_to_save.iter().map(String::as_str).collect();
        for source in &sources {
            let Some((module, kind)) = source.name.rsplit_once('.') else { continue };
            // PEFT compares the ends of names here, not their parts.
            let saved: Vec<&str> = spec.modules_to_save.iter().map(String::as_str).filter(|name| module.ends_with(name)).collect();
            if !saved.is_empty() {
                unused.retain(|name| !saved.contains(name));
                out.saved.extend(parts(source).into_iter().map(str::to_string));
                continue;
            }
            if kind != "weight" || source.shape.len() != 2 || !config.targets(module) {
                continue;
            }
            let parts = parts(source);
            if !parts.iter().all(|name| adaptable(name)) {
                // Routers are no projections, and routed experts are stacked, as in transformers 5, where PEFT finds no modules either.
                if !parts.iter().any(|name| name.contains(".moe.")) && !spec.is_all_linear() {
                    problems.push(format!("`{module}` cannot have an update: embeddings have none here (modules_to_save trains them whole)"));
                }
                continue;
            }
            let (rank, scale) = config.rank_and_scale(module);
            for (i, name) in parts.iter().enumerate() {
                let Some([outputs, inputs]) = by_name.get(name).and_then(|p| <[usize; 2]>::try_from(p.shape.as_slice()).ok()) else { continue };
                let target = Target { module: module.into(), shape: [outputs, inputs], rank, scale, part: (i, parts.len()) };
                out.linears.insert(name.strip_suffix(".weight").unwrap_or(name).to_string(), target);
            }
        }
        for name in unused {
            let tied = if model.tie_word_embeddings && name.contains("head") { "; it is tied: save the embedding" } else { "" };
            problems.push(format!("`{name}` of modules_to_save is no module of this model{tied}"));
        }
        if out.linears.is_empty() && problems.is_empty() {
            let names: BTreeSet<&str> = sources.iter().filter_map(|s| s.name.strip_suffix(".weight")?.rsplit('.').next()).collect();
            let names: Vec<&str> = names.into_iter().collect();
            problems.push(format!("no projection of this model is a target; its modules are called {}", names.join(", ")));
        }
        if problems.is_empty() { Ok(out) } else { Err(Error::Config(format!("adapter: {}", problems.join("; ")))) }
    }

    /// The parameters of the updates by name and shape.
    pub fn parameters(&self, spec: &AdapterSpec) -> Vec<Parameter> {
        let mut out = Vec::new();
        for (name, Target { shape: [outputs, inputs], rank, .. }) in &self.linears {
            let mut add = |part: &str, shape: Vec<usize>, role| out.push(Parameter { name: format!("{name}.weight.{part}"), shape, role });
            add("lora_A", vec![*rank, *inputs], Role::Matrix);
            add("lora_B", vec![*outputs, *rank], Role::Matrix);
            if spec.use_dora {
                add("lora_magnitude_vector", vec![*outputs], Role::Vector);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::ModuleNames;
    use crate::config::Family;

    fn spec(names: &[&str]) -> AdapterSpec {
        AdapterSpec { target_modules: ModuleNames::Names(names.iter().map(|n| n.to_string()).collect()), ..AdapterSpec::default() }
    }

    fn model(family: Family) -> DecoderConfig {
        DecoderConfig { family, num_hidden_layers: 2, tie_word_embeddings: false, ..DecoderConfig::default() }
    }

    #[test]
    fn names_are_those_of_the_checkpoint_and_fused_ones_are_several() {
        let of = |family, spec: &AdapterSpec| Targets::of(&model(family), spec).map(|t| t.linears.into_keys().collect::<Vec<_>>());
        let q = "model.layers.0.self_attn.q_proj";
        assert_eq!(of(Family::Llama, &spec(&["layers.0.self_attn.q_proj"])).unwrap(), [q]);
        let fused = Targets::of(&model(Family::Phi3), &spec(&["qkv_proj"])).unwrap().linears;
        assert_eq!(fused.len(), 6);
        assert_eq!((fused[q].part, fused[q].module.as_str()), ((0, 3), "model.layers.0.self_attn.qkv_proj"));
        assert_eq!(of(Family::Llama, &AdapterSpec::default()).unwrap().len(), 14);
        let message = of(Family::Phi3, &spec(&["q_proj"])).unwrap_err().to_string();
        assert!(message.contains("gate_up_proj") && message.contains("qkv_proj"), "{message}");
        let message = of(Family::Llama, &spec(&["embed_tokens"])).unwrap_err().to_string();
        assert!(message.contains("embed_tokens` cannot have an update"), "{message}");
    }

    #[test]
    fn whole_modules_are_found_and_others_named() {
        let with = |names: &[&str]| AdapterSpec { modules_to_save: names.iter().map(|n| n.to_string()).collect(), ..AdapterSpec::default() };
        let saved = |names: &[&str]| Targets::of(&model(Family::Llama), &with(names)).map(|t| t.saved.into_iter().collect::<Vec<_>>());
        assert_eq!(saved(&["lm_head", "embed_tokens"]).unwrap(), ["lm_head.weight", "model.embed_tokens.weight"]);
        assert!(saved(&["lm_heat"]).unwrap_err().to_string().contains("lm_heat"));
        let tied = DecoderConfig { tie_word_embeddings: true, ..model(Family::Llama) };
        let message = Targets::of(&tied, &with(&["lm_head"])).unwrap_err().to_string();
        assert!(message.contains("tied"), "{message}");
    }
}
