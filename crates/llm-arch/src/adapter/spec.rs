//! What adapter to train: the settings of PEFT's `LoraConfig` under its names, and how the frozen model below is kept.

use super::AdapterConfig;
use crate::hf::fields::Fields;
use crate::{Error, Result};
use llm_tensor::quant::bitsandbytes::Int8;
use llm_tensor::quant::{Packed, nf4};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Modules by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ModuleNames {
    /// `all-linear`, or a pattern that fits the whole name.
    Pattern(String),
    /// The last parts of the names.
    Names(Vec<String>),
}

/// How the matrices and tables that are not trained are kept. Norms and biases stay as they are; stacked experts do too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseFormat {
    /// As the model is: dense, or quantised as its folder is.
    #[default]
    None,
    /// 4 bits in blocks of 64 (QLoRA, Dettmers et al. 2023): 0.5625 bytes a number. Embeddings and output projection too, which bitsandbytes leaves
    /// as they are: in a small model they are a third of it. A matrix whose rows are no multiple of 16 numbers takes `int8`.
    Nf4,
    /// One byte a number, a scale a row (Dettmers et al. 2022, LLM.int8).
    Int8,
}

/// `adapter = { r = 16, ... }` of a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdapterSpec {
    /// Rank.
    pub r: usize,
    /// The update is multiplied with `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Share of the inputs of an update that are zeroed in training.
    pub lora_dropout: f64,
    /// Which projections get one, by their names in the checkpoint. `all-linear` is all of the blocks.
    pub target_modules: ModuleNames,
    /// Which of these do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_modules: Option<ModuleNames>,
    /// Other ranks by pattern of the last parts of a name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rank_pattern: BTreeMap<String, usize>,
    /// Other factors by pattern of the last parts of a name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Only these layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<Vec<usize>>,
    /// What the list of layers is called, where that is not clear.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers_pattern: Vec<String>,
    /// Divide by the root of the rank (Kalajdzievski 2023, rsLoRA).
    pub use_rslora: bool,
    /// A magnitude for every output (Liu et al. 2024, DoRA).
    pub use_dora: bool,
    /// Modules that are trained as a whole, e.g. `["lm_head", "embed_tokens"]`.
    pub modules_to_save: Vec<String>,
    /// How the frozen model is kept.
    pub base: BaseFormat,
    /// The maxima of NF4's blocks are quantised too, as a folder of bitsandbytes would have them. In memory they are decoded.
    pub double_quant: bool,
}

impl Default for AdapterSpec {
    fn default() -> Self {
        Self {
            r: 16,
            lora_alpha: 32.0,
            lora_dropout: 0.0,
            target_modules: ModuleNames::Pattern("all-linear".into()),
            exclude_modules: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            layers_to_transform: None,
            layers_pattern: Vec::new(),
            use_rslora: false,
            use_dora: false,
            modules_to_save: Vec::new(),
            base: BaseFormat::None,
            double_quant: true,
        }
    }
}

/// Elements that share a maximum.
const NF4_BLOCK: usize = 64;

fn common(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common(b, a % b) }
}

impl AdapterSpec {
    /// The checked settings.
    pub fn config(&self) -> Result<AdapterConfig> {
        let bad = |message: String| Error::Config(format!("adapter: {message}"));
        if self.r == 0 || self.rank_pattern.values().any(|r| *r == 0) {
            return Err(bad("`r` and the ranks of `rank_pattern` must be at least 1".into()));
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return Err(bad(format!("`lora_dropout` = {}; expected a number from 0 to below 1", self.lora_dropout)));
        }
        if !self.lora_alpha.is_finite() || self.alpha_pattern.values().any(|alpha| !alpha.is_finite()) {
            return Err(bad("`lora_alpha` and the values of `alpha_pattern` must be finite".into()));
        }
        AdapterConfig::from_json(&self.peft()).map_err(bad)
    }

    /// Does it ask for all projections of the blocks?
    pub fn is_all_linear(&self) -> bool {
        self.target_modules == ModuleNames::Pattern("all-linear".into())
    }

    /// The settings as PEFT writes them, without what only a model knows.
    pub(super) fn peft(&self) -> Value {
        let listed = |names: &[String]| if names.is_empty() { Value::Null } else { json!(names) };
        json!({
            "alpha_pattern": self.alpha_pattern.iter().map(|(name, alpha)| (name.clone(), number(*alpha))).collect::<Map<_, _>>(),
            "auto_mapping": null,
            "base_model_name_or_path": null,
            "bias": "none",
            "exclude_modules": self.exclude_modules,
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": listed(&self.layers_pattern),
            "layers_to_transform": self.layers_to_transform,
            "lora_alpha": number(self.lora_alpha),
            "lora_dropout": self.lora_dropout,
            "modules_to_save": listed(&self.modules_to_save),
            "peft_type": "LORA",
            "r": self.r,
            "rank_pattern": self.rank_pattern,
            "revision": null,
            "target_modules": self.target_modules,
            "task_type": "CAUSAL_LM",
            "use_dora": self.use_dora,
            "use_rslora": self.use_rslora,
        })
    }

    /// The settings of a PEFT folder, over a base that is kept in another way.
    pub fn of_folder(dir: &Path, base: BaseFormat, double_quant: bool) -> Result<Self> {
        let path = dir.join("adapter_config.json");
        let bad = |message: String| Error::File { path: path.clone(), message };
        let text = std::fs::read_to_string(&path).map_err(|e| bad(format!("cannot read the adapter's configuration: {e}")))?;
        let value: Value = serde_json::from_str(&text).map_err(|e| bad(format!("not valid JSON: {e}")))?;
        // What is not supported is found there, with the field.
        AdapterConfig::from_json(&value).map_err(bad)?;
        let fields = Fields(value.as_object().ok_or_else(|| bad("expected a JSON object".into()))?);
        Self::of_fields(fields, base, double_quant).map_err(bad)
    }

    fn of_fields(f: Fields, base: BaseFormat, double_quant: bool) -> Result<Self, String> {
        fn get<T: serde::de::DeserializeOwned>(f: Fields, key: &str) -> Result<Option<T>, String> {
            f.get(key).map(|v| serde_json::from_value(v.clone()).map_err(|e| format!("`{key}`: {e}"))).transpose()
        }
        let names = |key: &str| match get::<ModuleNames>(f, key)? {
            None => Ok::<_, String>(Vec::new()),
            Some(ModuleNames::Pattern(one)) => Ok(vec![one]),
            Some(ModuleNames::Names(many)) => Ok(many),
        };
        let layers = match f.get("layers_to_transform") {
            Some(Value::Number(_)) => f.size("layers_to_transform")?.map(|layer| vec![layer]),
            _ => get(f, "layers_to_transform")?,
        };
        let default = Self::default();
        Ok(Self {
            r: f.required("r")?,
            lora_alpha: f.number_or("lora_alpha", 8.0)?,
            lora_dropout: f.number_or("lora_dropout", 0.0)?,
            target_modules: get(f, "target_modules")?.unwrap_or(default.target_modules),
            exclude_modules: get(f, "exclude_modules")?,
            rank_pattern: get(f, "rank_pattern")?.unwrap_or_default(),
            alpha_pattern: get(f, "alpha_pattern")?.unwrap_or_default(),
            layers_to_transform: layers,
            layers_pattern: names("layers_pattern")?,
            use_rslora: f.flag("use_rslora", false)?,
            use_dora: f.flag("use_dora", false)?,
            modules_to_save: names("modules_to_save")?,
            base,
            double_quant,
        })
    }

    /// A frozen matrix as it is kept; none where that is dense.
    pub fn store(&self, values: &[f32], shape: [usize; 2]) -> Option<Packed> {
        match self.stored(shape) {
            BaseFormat::None => None,
            BaseFormat::Nf4 => Some(nf4::nf4(values, shape, NF4_BLOCK, self.double_quant, "float32").packed()),
            BaseFormat::Int8 => Some(Int8::round(values, shape).packed()),
        }
    }

    /// Bytes of a frozen matrix, `number` bytes each where it is dense.
    pub fn stored_bytes(&self, [outputs, inputs]: [usize; 2], number: usize) -> usize {
        let padded = inputs.next_multiple_of(32);
        match self.stored([outputs, inputs]) {
            BaseFormat::None => outputs * inputs * number,
            BaseFormat::Nf4 => outputs * (padded / 2 + 4 * inputs / common(NF4_BLOCK, inputs)),
            BaseFormat::Int8 => outputs * (padded + 4),
        }
    }

    /// Groups of codes lie within rows; short ones would be more padding than codes.
    fn stored(&self, [_, inputs]: [usize; 2]) -> BaseFormat {
        match self.base {
            BaseFormat::Nf4 if inputs % 16 != 0 => BaseFormat::Int8,
            other => other,
        }
    }
}

/// A whole number without a point, as Python writes it.
pub(super) fn number(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 { json!(x as i64) } else { json!(x) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_a_table_and_mistakes_are_named() {
        let spec: AdapterSpec = serde_json::from_value(json!({"r": 4, "target_modules": ["q_proj"], "base": "nf4"})).unwrap();
        assert_eq!((spec.r, spec.base), (4, BaseFormat::Nf4));
        assert!(spec.config().unwrap().targets("model.layers.0.self_attn.q_proj"));
        assert_eq!(serde_json::from_value::<AdapterSpec>(serde_json::to_value(&spec).unwrap()).unwrap(), spec);
        assert!(serde_json::from_value::<AdapterSpec>(json!({"rank": 4})).unwrap_err().to_string().contains("rank"));
        for (more, part) in
            [(json!({"r": 0}), "`r`"), (json!({"lora_dropout": 1.0}), "lora_dropout"), (json!({"target_modules": "(?=x)"}), "target_modules")]
        {
            let spec: AdapterSpec = serde_json::from_value(more).unwrap();
            let message = spec.config().unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    /// If this fails, the memory plan of a run over a quantised base is wrong, or the base takes more than 0.6 bytes a number.
    #[test]
    fn frozen_matrices_take_the_bytes_that_are_planned() {
        for base in [BaseFormat::Nf4, BaseFormat::Int8] {
            let spec = AdapterSpec { base, ..AdapterSpec::default() };
            for shape in [[8, 768], [5, 64], [7, 32], [3, 48], [6, 80], [4, 100]] {
                let values: Vec<f32> = (0..shape[0] * shape[1]).map(|i| (i as f32 * 0.7).sin()).collect();
                let bytes = spec.store(&values, shape).unwrap().bytes();
                assert_eq!(bytes, spec.stored_bytes(shape, 4), "{base:?} {shape:?}");
                assert!(base != BaseFormat::Nf4 || shape[1] % 64 != 0 || bytes as f64 <= 0.6 * values.len() as f64, "{shape:?}: {bytes}");
            }
        }
    }
}
