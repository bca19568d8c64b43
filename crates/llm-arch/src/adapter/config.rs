//! `adapter_config.json` as PEFT writes it: which projections an adapter changes, and by how much.
//!
//! Settings that change what is computed and that we do not compute are errors; so are unknown ones that are switched on. Those that only matter
//! while training are not looked at.

use crate::hf::fields::Fields;
use regex::Regex;
use serde_json::{Map, Value};

type Result<T> = std::result::Result<T, String>;

/// Which projections, how strong.
#[derive(Debug, Clone)]
pub struct AdapterConfig {
    /// What the file says it was trained on; not checked.
    pub base_model: Option<String>,
    /// Weight-decomposed: each changed row has a magnitude of its own (Liu et al. 2024).
    pub use_dora: bool,
    /// Modules that are there as a whole.
    pub modules_to_save: Vec<String>,
    rank: usize,
    alpha: f64,
    /// Divide by the root of the rank (Kalajdzievski 2023).
    use_rslora: bool,
    targets: Modules,
    exclude: Option<Modules>,
    layers: Option<Vec<usize>>,
    layers_pattern: Vec<String>,
    rank_pattern: Vec<(Regex, usize)>,
    alpha_pattern: Vec<(Regex, f64)>,
}

/// A choice of modules by name.
#[derive(Debug, Clone)]
enum Modules {
    /// All projections of the blocks.
    AllLinear,
    /// The whole name.
    Pattern(Regex),
    /// The last parts of the name.
    Names(Vec<String>),
}

/// No part in what an adapter computes.
const IRRELEVANT: [&str; 29] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    // Read below.
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "fan_in_fan_out",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "modules_to_save",
    "r",
    "rank_pattern",
    "target_modules",
];

impl AdapterConfig {
    /// Read the value of the file. The error names the field.
    pub fn from_json(value: &Value) -> Result<Self> {
        let f = Fields(value.as_object().ok_or("expected a JSON object")?);
        match f.text("peft_type")? {
            Some("LORA") => {}
            other => return Err(format!("`peft_type` = {other:?} is not supported; expected \"LORA\"")),
        }
        if let Some(bias) = f.text("bias")?.filter(|bias| *bias != "none") {
            return Err(format!("`bias` = \"{bias}\" is not supported; expected \"none\""));
        }
        match f.get("init_lora_weights") {
            None | Some(Value::Bool(_)) => {}
            Some(Value::String(kind)) if ["gaussian", "eva", "orthogonal"].contains(&kind.as_str()) => {}
            Some(other) => {
                return Err(format!(
                    "`init_lora_weights` = {other} changes the base weights as well; save the adapter with PEFT's path_initial_model_for_weight_conversion"
                ));
            }
        }
        let on = |v: &Value| match v {
            Value::Null | Value::Bool(false) => false,
            Value::Object(map) => !map.is_empty(),
            Value::Array(list) => !list.is_empty(),
            _ => true,
        };
        let known = |key: &str| IRRELEVANT.contains(&key) || ["use_rslora", "use_dora"].contains(&key);
        if let Some((key, value)) = f.0.iter().find(|(key, value)| !known(key) && on(value)) {
            return Err(format!("`{key}` = {value} is not supported; merge the adapter with PEFT"));
        }
        let rank = f.required("r")?;
        Ok(Self {
            base_model: f.text("base_model_name_or_path")?.map(str::to_string),
            use_dora: f.flag("use_dora", false)?,
            modules_to_save: texts(f, "modules_to_save")?,
            rank,
            alpha: f.number_or("lora_alpha", 8.0)?,
            use_rslora: f.flag("use_rslora", false)?,
            targets: modules(f, "target_modules")?.ok_or("`target_modules` is missing; expected a list, a pattern or \"all-linear\"")?,
            exclude: modules(f, "exclude_modules")?,
            layers: match f.get("layers_to_transform") {
                None => None,
                Some(Value::Array(_)) => Some(f.sizes("layers_to_transform")?),
                Some(_) => f.size("layers_to_transform")?.map(|layer| vec![layer]),
            },
            layers_pattern: texts(f, "layers_pattern")?,
            rank_pattern: patterns(f, "rank_pattern", |v| v.as_u64().filter(|r| *r > 0).map(|r| r as usize))?,
            alpha_pattern: patterns(f, "alpha_pattern", Value::as_f64)?,
        })
    }

    /// Rank and factor of a module, e.g. `model.layers.0.self_attn.q_proj`.
    pub fn rank_and_scale(&self, module: &str) -> (usize, f32) {
        fn first<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
            patterns.iter().find(|(pattern, _)| pattern.is_match(module)).map(|p| p.1)
        }
        let rank = first(&self.rank_pattern, module).unwrap_or(self.rank);
        let alpha = first(&self.alpha_pattern, module).unwrap_or(self.alpha);
        let divisor = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        (rank, (alpha / divisor) as f32)
    }

    /// Does the configuration ask for a change of that module?
    pub fn targets(&self, module: &str) -> bool {
        let excluded = self.exclude.as_ref().is_some_and(|modules| modules.names(module));
        !excluded && self.targets.names(module) && self.transforms(module)
    }

    /// Is the module in one of the layers that are changed?
    fn transforms(&self, module: &str) -> bool {
        let Some(layers) = &self.layers else { return true };
        let parts: Vec<&str> = module.split('.').collect();
        // The last number with a name before it and after it, as PEFT's pattern finds it; something stands in front of the list of layers.
        let of_layer = |i: usize| self.layers_pattern.is_empty() || self.layers_pattern.iter().any(|name| name == parts[i - 1]);
        let found = (2..parts.len().saturating_sub(1)).rev().filter(|&i| of_layer(i)).find_map(|i| parts[i].parse::<usize>().ok());
        found.is_some_and(|layer| layers.contains(&layer))
    }
}

impl Modules {
    fn names(&self, module: &str) -> bool {
        match self {
            Self::AllLinear => {
                let last = module.rsplit('.').next().unwrap_or_default();
                !["lm_head", "embed_out", "embed_tokens", "wte", "wpe", "word_embeddings", "embed_in"].contains(&last)
            }
            Self::Pattern(pattern) => pattern.is_match(module),
            Self::Names(names) => {
                names.iter().any(|name| module == name || module.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.')))
            }
        }
    }
}

fn modules(f: Fields, key: &str) -> Result<Option<Modules>> {
    match f.get(key) {
        None => Ok(None),
        Some(Value::String(text)) if text == "all-linear" => Ok(Some(Modules::AllLinear)),
        Some(Value::String(text)) => Ok(Some(Modules::Pattern(pattern(key, &format!("^(?:{text})$"))?))),
        Some(_) => Ok(Some(Modules::Names(texts(f, key)?))),
    }
}

/// A text or a list of them.
fn texts(f: Fields, key: &str) -> Result<Vec<String>> {
    let text = |v: &Value| v.as_str().map(str::to_string).ok_or_else(|| format!("`{key}`: expected texts, got {v}"));
    match f.get(key) {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(text).collect(),
        Some(one) => Ok(vec![text(one)?]),
    }
}

fn pattern(key: &str, text: &str) -> Result<Regex> {
    Regex::new(text).map_err(|e| format!("`{key}`: {e}"))
}

/// Numbers by pattern of the last parts of a module's name.
fn patterns<T>(f: Fields, key: &str, number: impl Fn(&Value) -> Option<T>) -> Result<Vec<(Regex, T)>> {
    let empty = Map::new();
    let one = |(name, value): (&String, &Value)| {
        let number = number(value).ok_or_else(|| format!("`{key}`: `{name}`: expected a positive number, got {value}"))?;
        Ok((pattern(key, &format!(r"^(?:.*\.)?(?:{name})$"))?, number))
    };
    f.object(key)?.unwrap_or(&empty).iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(more: Value) -> Result<AdapterConfig> {
        let mut value = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "mlp.up_proj"], "lora_dropout": 0.1});
        for (key, new) in more.as_object().unwrap() {
            value[key] = new.clone();
        }
        AdapterConfig::from_json(&value)
    }

    const Q0: &str = "model.layers.0.self_attn.q_proj";
    const UP1: &str = "model.layers.1.mlp.up_proj";

    #[test]
    fn modules_are_chosen_as_peft_chooses_them() {
        let targets = |more: Value| {
            let config = config(more).unwrap();
            [Q0, UP1, "model.layers.1.xq_proj", "lm_head"].map(|module| config.targets(module))
        };
        assert_eq!(targets(json!({})), [true, true, false, false]);
        assert_eq!(targets(json!({"target_modules": "all-linear"})), [true, true, true, false]);
        assert_eq!(targets(json!({"target_modules": ".*\\.(q|v)_proj"})), [true, false, false, false]);
        assert_eq!(targets(json!({"target_modules": ["lm_head", "q_proj"]})), [true, false, false, true]);
        assert_eq!(targets(json!({"layers_to_transform": [1]})), [false, true, false, false]);
        assert_eq!(targets(json!({"layers_to_transform": 0, "layers_pattern": "layers"})), [true, false, false, false]);
        assert_eq!(targets(json!({"layers_to_transform": 0, "layers_pattern": ["h"]})), [false, false, false, false]);
        assert_eq!(targets(json!({"exclude_modules": ["layers.0.self_attn.q_proj"]})), [false, true, false, false]);
    }

    #[test]
    fn ranks_and_factors_have_patterns() {
        let both = |more: Value| {
            let config = config(more).unwrap();
            (config.rank_and_scale(Q0), config.rank_and_scale(UP1))
        };
        assert_eq!(both(json!({})), ((4, 2.0), (4, 2.0)));
        assert_eq!(both(json!({"use_rslora": true, "lora_alpha": 6})), ((4, 3.0), (4, 3.0)));
        assert_eq!(both(json!({"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"^model.layers.1.mlp.*": 1}})), ((2, 4.0), (4, 0.25)));
        assert_eq!(both(json!({"rank_pattern": {"layers.0.self_attn.q_proj": 16}})), ((16, 0.5), (4, 2.0)));
    }

    /// If this fails, an adapter is applied as something that it is not.
    #[test]
    fn what_would_be_computed_otherwise_is_refused() {
        for (more, part) in [
            (json!({"peft_type": "IA3"}), "peft_type"),
            (json!({"bias": "all"}), "`bias` = \"all\""),
            (json!({"init_lora_weights": "pissa_niter_4"}), "path_initial_model"),
            (json!({"layer_replication": [[0, 2]]}), "layer_replication"),
            (json!({"trainable_token_indices": [3]}), "trainable_token_indices"),
            (json!({"from_the_future": true}), "from_the_future"),
            (json!({"lora_bias": true}), "lora_bias"),
            (json!({"target_modules": "(?=x)"}), "target_modules"),
            (json!({"target_modules": null}), "target_modules"),
            (json!({"rank_pattern": {"q_proj": 0}}), "rank_pattern"),
            (json!({"r": null}), "`r` is missing"),
        ] {
            let error = config(more.clone()).unwrap_err();
            assert!(error.contains(part), "{more}: {error}");
        }
        assert!(config(json!({"use_qalora": false, "eva_config": {"rho": 2.0}, "alora_invocation_tokens": null})).is_ok());
    }
}
