//! Folders with quantised projections: `quantization_config` in `config.json`, and matrices in the layouts of [`llm_tensor::quant`].

use llm_tensor::quant::bitsandbytes::{Int8, Table4};
use llm_tensor::quant::gptq::{self, Gptq};
use llm_tensor::quant::{Packed, Stored, awq};
use llm_tensor::weights::Weights;
use serde_json::Value;

/// How a folder's projections are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantisation {
    /// GPTQ layout.
    Gptq {
        /// 4 or 8.
        bits: usize,
        /// Zero points as they are (`checkpoint_format: gptq_v2`), not less one.
        v2: bool,
    },
    /// AWQ, version `gemm`, 4 bits.
    Awq,
    /// bitsandbytes, 4 bits.
    Table4,
    /// bitsandbytes, int8 rows.
    Int8,
}

impl Quantisation {
    /// From `config.json`; none for dense models and for 8-bit floats, which are converted as they are read.
    pub fn of(config: &Value) -> Result<Option<Self>, String> {
        let Some(settings) = config.get("quantization_config").filter(|v| !v.is_null()) else { return Ok(None) };
        let flag = |key: &str| settings.get(key).and_then(Value::as_bool).unwrap_or(false);
        let method = settings.get("quant_method").and_then(Value::as_str);
        match method {
            Some("fp8") => Ok(None),
            None if settings.get("weight_block_size").is_some() => Ok(None),
            Some("gptq") => {
                let bits = settings.get("bits").and_then(Value::as_u64).unwrap_or(0) as usize;
                if bits != 4 && bits != 8 {
                    return Err(format!("`quantization_config.bits` = {} is not supported; expected 4 or 8", settings["bits"]));
                }
                match settings.get("checkpoint_format").and_then(Value::as_str).unwrap_or("gptq") {
                    "gptq" => Ok(Some(Self::Gptq { bits, v2: false })),
                    "gptq_v2" => Ok(Some(Self::Gptq { bits, v2: true })),
                    other => Err(format!("`quantization_config.checkpoint_format` = \"{other}\" is not supported; expected gptq or gptq_v2")),
                }
            }
            Some("awq") => {
                let bits = settings.get("bits").or_else(|| settings.get("w_bit")).and_then(Value::as_u64);
                if bits != Some(4) {
                    return Err("`quantization_config.bits` of an AWQ model has to be 4".into());
                }
                match settings.get("version").and_then(Value::as_str).unwrap_or("gemm").to_lowercase().as_str() {
                    "gemm" => Ok(Some(Self::Awq)),
                    other => Err(format!(
                        "`quantization_config.version` = \"{other}\" is not supported; expected gemm: save the model again with version=\"GEMM\""
                    )),
                }
            }
            Some("bitsandbytes") if flag("load_in_4bit") || flag("_load_in_4bit") => {
                match settings.get("bnb_4bit_quant_storage").and_then(Value::as_str) {
                    None | Some("uint8") => Ok(Some(Self::Table4)),
                    Some(other) => Err(format!("`quantization_config.bnb_4bit_quant_storage` = \"{other}\" is not supported; expected uint8")),
                }
            }
            Some("bitsandbytes") if flag("load_in_8bit") || flag("_load_in_8bit") => Ok(Some(Self::Int8)),
            Some("bitsandbytes") => Err("`quantization_config`: expected load_in_4bit or load_in_8bit to be true".into()),
            Some(other) => Err(format!("`quantization_config.quant_method` = \"{other}\" is not supported; expected gptq, awq, bitsandbytes or fp8")),
            None => Err("`quantization_config.quant_method` is missing; expected gptq, awq, bitsandbytes or fp8".into()),
        }
    }

    /// Names of the tensors that hold the matrix of `prefix`, if it is quantised in this file.
    pub(super) fn tensors(self, weights: &Weights, prefix: &str) -> Vec<String> {
        let mark = match self {
            Self::Gptq { .. } | Self::Awq => "qweight",
            Self::Table4 => "weight.quant_map",
            Self::Int8 => "SCB",
        };
        if !weights.contains(&format!("{prefix}.{mark}")) {
            return Vec::new();
        }
        match self {
            Self::Gptq { .. } => gptq::TENSORS.iter().map(|name| format!("{prefix}.{name}")).collect(),
            Self::Awq => awq::TENSORS.iter().map(|name| format!("{prefix}.{name}")).collect(),
            Self::Table4 => {
                let start = format!("{prefix}.weight");
                let own = |name: &&str| name.strip_prefix(start.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
                weights.names().into_iter().filter(own).map(str::to_string).collect()
            }
            Self::Int8 => ["weight", "SCB", "weight_format"].iter().map(|name| format!("{prefix}.{name}")).collect(),
        }
    }

    /// The matrix `[outputs, inputs]` of `prefix`.
    pub(super) fn read(self, weights: &Weights, prefix: &str, shape: [usize; 2]) -> Result<Packed, String> {
        let packed = match self {
            Self::Gptq { bits, v2 } => Stored::Gptq(Gptq::read(weights, prefix, bits, shape, v2)?).packed(),
            Self::Awq => awq::read(weights, prefix, shape),
            Self::Table4 => Stored::Table4(Table4::read(weights, prefix, shape)?).packed(),
            Self::Int8 => Stored::Int8(Int8::read(weights, prefix, shape)?).packed(),
        };
        let packed = packed.map_err(|e| format!("`{prefix}`: {e}"))?;
        match (0..packed.outputs()).find(|&row| packed.row_scales(row).iter().any(|s| !s.is_finite())) {
            Some(row) => Err(format!("`{prefix}`: the scales of row {row} are not all finite; the checkpoint is damaged")),
            None => Ok(packed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn methods_and_widths_that_are_not_read_are_named() {
        for (settings, names) in [
            (json!({"quant_method": "aqlm", "bits": 4}), "aqlm"),
            (json!({"quant_method": "awq", "bits": 4, "version": "gemv"}), "gemv"),
            (json!({"quant_method": "awq", "bits": 8}), "has to be 4"),
            (json!({"quant_method": "gptq", "bits": 3}), "bits` = 3"),
            (json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}), "marlin"),
            (json!({"quant_method": "bitsandbytes"}), "load_in_4bit"),
            (json!({"bits": 4}), "quant_method"),
        ] {
            let message = Quantisation::of(&json!({"quantization_config": settings})).unwrap_err();
            assert!(message.contains(names), "{message}");
        }
        assert_eq!(Quantisation::of(&json!({})), Ok(None));
        let awq = json!({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": true}});
        assert_eq!(Quantisation::of(&awq), Ok(Some(Quantisation::Awq)));
        let v2 = json!({"quantization_config": {"quant_method": "gptq", "bits": 8, "checkpoint_format": "gptq_v2"}});
        assert_eq!(Quantisation::of(&v2), Ok(Some(Quantisation::Gptq { bits: 8, v2: true })));
    }
}
