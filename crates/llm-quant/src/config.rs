//! What `llm-quant quantize` can be told.

use crate::{Error, Result, gptq};
use llm_tensor::Precision;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;

/// How weights become codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Round to nearest in groups, GPTQ layout.
    Rtn,
    /// GPTQ with calibration, GPTQ layout.
    #[default]
    Gptq,
    /// NF4, bitsandbytes layout.
    Nf4,
    /// int8 rows, bitsandbytes layout.
    Int8,
}

impl Method {
    /// As the configuration spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rtn => "rtn",
            Self::Gptq => "gptq",
            Self::Nf4 => "nf4",
            Self::Int8 => "int8",
        }
    }
}

/// Configuration of `llm-quant quantize`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuantizeConfig {
    /// Model folder (HF layout), not quantised yet.
    pub model: PathBuf,
    /// `rtn`, `gptq`, `nf4` or `int8`.
    pub method: Method,
    /// Bits of a weight, 4 or 8; `rtn` and `gptq` only (`nf4` has 4, `int8` 8).
    pub bits: usize,
    /// Input features that share a scale (`rtn`, `gptq`), -1 for all of a row; must divide the inputs of every projection.
    pub group_size: i64,
    /// Zero point in the middle of the range (`rtn`, `gptq`).
    pub sym: bool,
    /// Input features with large activations first (`gptq`).
    pub act_order: bool,
    /// Added to the diagonal of the Hessian, as a share of its mean (`gptq`).
    pub damping: f64,
    /// Calibration: a folder of shards (`llm-data pack`), documents (Parquet) or conversations (JSON lines with `messages`).
    pub calibration: Option<PathBuf>,
    /// Token rows used for calibration.
    pub samples: usize,
    /// Tokens of a row cut from documents; rows of shards keep their own length. 0 takes the model's context, at most 2048.
    pub sequence_length: usize,
    /// Weights that share a maximum (`nf4`).
    pub blocksize: usize,
    /// Quantise the maxima too (`nf4`).
    pub double_quant: bool,
    /// Canonical names of projections that stay dense contain one of these texts.
    pub keep: Vec<String>,
    /// Number format of what is not quantised: float32, bfloat16, float16. Absent: as in `config.json`, else float32.
    pub precision: Option<Precision>,
    /// Chooses the calibration rows.
    pub seed: u64,
}

impl Default for QuantizeConfig {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            method: Method::default(),
            bits: 4,
            group_size: 128,
            sym: true,
            act_order: true,
            damping: 0.01,
            calibration: None,
            samples: 128,
            sequence_length: 0,
            blocksize: 64,
            double_quant: true,
            keep: Vec::new(),
            precision: None,
            seed: 0,
        }
    }
}

impl QuantizeConfig {
    /// Contradictions that only the whole shows.
    pub fn check(&self) -> Result<()> {
        let wrong = |message: String| Err(Error::Config(message));
        if self.model.as_os_str().is_empty() {
            return wrong("`model` is not set; give the folder of the model to quantise".into());
        }
        if matches!(self.method, Method::Rtn | Method::Gptq) {
            if self.bits != 4 && self.bits != 8 {
                return wrong(format!("`bits` = {} is not supported; expected 4 or 8", self.bits));
            }
            if self.group_size != -1 && self.group_size < 8 {
                return wrong(format!("`group_size` = {}; expected at least 8, or -1 for whole rows", self.group_size));
            }
        }
        if self.method == Method::Gptq {
            if self.calibration.is_none() {
                return wrong("`calibration` is not set; `gptq` needs a folder of shards or documents (`rtn` needs none)".into());
            }
            if self.samples == 0 {
                return wrong("`samples` is 0; `gptq` needs at least one token row, 128 is usual".into());
            }
            if !(0.0..=1.0).contains(&self.damping) {
                return wrong(format!("`damping` = {}; expected a share between 0 and 1, usually 0.01", self.damping));
            }
        }
        if self.method == Method::Nf4 && (!self.blocksize.is_power_of_two() || !(32..=4096).contains(&self.blocksize)) {
            return wrong(format!("`blocksize` = {}; expected a power of two from 32 to 4096, usually 64", self.blocksize));
        }
        Ok(())
    }

    /// Inputs that share a scale in a projection with so many.
    pub fn group(&self, layer: &str, inputs: usize) -> Result<usize> {
        let group = usize::try_from(self.group_size).unwrap_or(inputs).max(1);
        if group <= inputs && inputs.is_multiple_of(group) {
            return Ok(group);
        }
        let fitting: Vec<String> = [128, 64, 32, 16].iter().filter(|g| inputs.is_multiple_of(**g)).map(ToString::to_string).collect();
        let hint = if fitting.is_empty() { "-1 (whole rows)".to_string() } else { fitting.join(" or ") };
        Err(Error::Layer { layer: layer.into(), message: format!("`group_size` = {group} does not divide its {inputs} inputs; {hint} does") })
    }

    /// For GPTQ.
    pub fn gptq(&self, group: usize) -> gptq::Options {
        gptq::Options { bits: self.bits, group, symmetric: self.sym, act_order: self.act_order, damping: self.damping }
    }

    /// What `config.json` says about the quantised model, as the libraries that own the layout write it.
    pub fn quantization_config(&self, precision: Precision) -> Value {
        match self.method {
            Method::Rtn | Method::Gptq => json!({
                "quant_method": "gptq",
                "bits": self.bits,
                "group_size": self.group_size,
                "desc_act": self.method == Method::Gptq && self.act_order,
                "sym": self.sym,
                "damp_percent": self.damping,
                "true_sequential": self.method == Method::Gptq,
                "static_groups": false,
                "lm_head": false,
                "checkpoint_format": "gptq",
                "meta": {"quantizer": [format!("llm-quant:{}", env!("CARGO_PKG_VERSION"))], "method": self.method.name()},
            }),
            Method::Nf4 => json!({
                "quant_method": "bitsandbytes",
                "_load_in_4bit": true,
                "_load_in_8bit": false,
                "load_in_4bit": true,
                "load_in_8bit": false,
                "bnb_4bit_compute_dtype": precision.to_string(),
                "bnb_4bit_quant_storage": "uint8",
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": self.double_quant,
                "llm_int8_enable_fp32_cpu_offload": false,
                "llm_int8_has_fp16_weight": false,
                "llm_int8_skip_modules": ["lm_head"],
                "llm_int8_threshold": 6.0,
            }),
            Method::Int8 => json!({
                "quant_method": "bitsandbytes",
                "_load_in_4bit": false,
                "_load_in_8bit": true,
                "load_in_4bit": false,
                "load_in_8bit": true,
                "llm_int8_enable_fp32_cpu_offload": false,
                "llm_int8_has_fp16_weight": false,
                "llm_int8_skip_modules": ["lm_head"],
                "llm_int8_threshold": 6.0,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_named() {
        let base = QuantizeConfig { model: "m".into(), calibration: Some("c".into()), ..QuantizeConfig::default() };
        assert!(base.check().is_ok());
        let message = |change: &dyn Fn(&mut QuantizeConfig)| {
            let mut config = base.clone();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert!(message(&|c| c.model = PathBuf::new()).contains("`model`"));
        assert!(message(&|c| c.bits = 3).contains("expected 4 or 8"));
        assert!(message(&|c| c.group_size = 0).contains("`group_size`"));
        assert!(message(&|c| c.calibration = None).contains("`calibration`"));
        assert!(message(&|c| c.samples = 0).contains("`samples`"));
        assert!(message(&|c| c.damping = f64::NAN).contains("`damping`"));
        assert!(message(&|c| (c.method, c.blocksize) = (Method::Nf4, 48)).contains("`blocksize`"));
        let message = base.group("q", 192).unwrap_err().to_string();
        assert!(message.contains("`q`") && message.contains("64 or 32"), "{message}");
        assert_eq!(QuantizeConfig { group_size: -1, ..base }.group("q", 192).unwrap(), 192);
    }
}
