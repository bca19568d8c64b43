//! The layouts of bitsandbytes: 4-bit tables (NF4 of QLoRA, Dettmers et al. 2023, and FP4) and int8 rows (LLM.int8).
//!
//! **4 bits.** The matrix, row-major and flat, in blocks of `blocksize` that share an absolute maximum. A byte holds two indices into a table of
//! 16 values, the first in its high half: `weight` uint8 `[O*I / 2, 1]`. The maxima are float32 in `weight.absmax`, or, with double quantisation,
//! indices into a table of 256 values (`weight.nested_quant_map`) in blocks of `nested_blocksize` with a maximum each (`weight.nested_absmax`) and a
//! common offset. The rest is JSON in bytes: `weight.quant_state.bitsandbytes__nf4`.
//!
//! **8 bits.** `weight` int8 `[O, I]`, `SCB` float32 `[O]`: an element is `code * SCB / 127`.
//!
//! Legend: I input features, O output features.

use super::{Meaning, Packed};
use crate::weights::{Dtype, RawTensor, Weights};
use serde_json::{Value, json};

/// Values of NF4: quantiles of the normal distribution (QLoRA, appendix E; the constants of bitsandbytes).
#[allow(clippy::excessive_precision)]
pub const NF4: [f32; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

/// The maxima of the blocks.
#[derive(Debug, Clone, PartialEq)]
pub enum Absmax {
    /// As they are.
    Plain(Vec<f32>),
    /// Quantised again.
    Nested {
        /// Indices into the table.
        codes: Vec<u8>,
        /// Maximum of each block of maxima.
        absmax: Vec<f32>,
        /// 256 values.
        table: Vec<f32>,
        /// Maxima a block holds.
        blocksize: usize,
        /// Added to all.
        offset: f32,
    },
}

impl Absmax {
    /// One number a block.
    pub fn values(&self) -> Vec<f32> {
        match self {
            Self::Plain(values) => values.clone(),
            Self::Nested { codes, absmax, table, blocksize, offset } => {
                codes.iter().enumerate().map(|(i, &c)| table[usize::from(c)] * absmax[i / blocksize] + offset).collect()
            }
        }
    }
}

/// A matrix of indices into 16 values.
#[derive(Debug, Clone, PartialEq)]
pub struct Table4 {
    /// `[O, I]`.
    pub shape: [usize; 2],
    /// `nf4` or `fp4`.
    pub quant_type: String,
    /// Elements that share a maximum.
    pub blocksize: usize,
    /// The values.
    pub table: [f32; 16],
    /// Two indices a byte.
    pub packed: Vec<u8>,
    /// Maxima.
    pub absmax: Absmax,
    /// The format the matrix had before (`float32`, `bfloat16`, ...).
    pub dtype: String,
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn floats(weights: &Weights, name: &str) -> Result<Vec<f32>, String> {
    weights.get(name).map(|t| t.values).map_err(|e| e.to_string())
}

fn bytes_of(weights: &Weights, name: &str) -> Result<Vec<u8>, String> {
    let (dtype, shape, bytes) = weights.raw(name).map_err(|e| e.to_string())?;
    if dtype != Dtype::U8 {
        return Err(format!("`{name}` is {dtype} {shape:?}, expected U8"));
    }
    Ok(bytes.to_vec())
}

impl Table4 {
    /// Read `PREFIX.weight` and its companions.
    pub fn read(weights: &Weights, prefix: &str, shape: [usize; 2]) -> Result<Self, String> {
        let at = |name: &str| format!("{prefix}.weight.{name}");
        let Some(quant_type) = ["nf4", "fp4"].into_iter().find(|t| weights.contains(&at(&format!("quant_state.bitsandbytes__{t}")))) else {
            return Err(format!("no `{}`; expected 4-bit weights of type nf4 or fp4", at("quant_state.bitsandbytes__nf4")));
        };
        let state_name = at(&format!("quant_state.bitsandbytes__{quant_type}"));
        let state: Value = serde_json::from_slice(&bytes_of(weights, &state_name)?).map_err(|e| format!("`{state_name}` is not valid JSON: {e}"))?;
        let size = |key: &str| {
            let value = state.get(key).and_then(Value::as_u64).filter(|n| *n > 0);
            value.map(|n| n as usize).ok_or_else(|| format!("`{state_name}`: expected a whole number `{key}`"))
        };
        let stated: Vec<usize> = state["shape"].as_array().into_iter().flatten().filter_map(|v| v.as_u64().map(|n| n as usize)).collect();
        if stated != shape {
            return Err(format!("`{state_name}` is for shape {stated:?}, expected {shape:?}"));
        }
        let blocksize = size("blocksize")?;
        let elements = shape[0] * shape[1];
        let packed = bytes_of(weights, &format!("{prefix}.weight"))?;
        if packed.len() != elements.div_ceil(2) {
            return Err(format!("`{prefix}.weight` has {} bytes, expected {} for {shape:?}", packed.len(), elements.div_ceil(2)));
        }
        let map = floats(weights, &at("quant_map"))?;
        let table = <[f32; 16]>::try_from(map).map_err(|m| format!("`{}` has {} values, expected 16", at("quant_map"), m.len()))?;
        let blocks = elements.div_ceil(blocksize);
        let absmax = if state.get("nested_blocksize").is_some() {
            let nested = size("nested_blocksize")?;
            let offset = state["nested_offset"].as_f64().ok_or_else(|| format!("`{state_name}`: expected a number `nested_offset`"))? as f32;
            let codes = bytes_of(weights, &at("absmax"))?;
            let (absmax, table) = (floats(weights, &at("nested_absmax"))?, floats(weights, &at("nested_quant_map"))?);
            if codes.len() != blocks || absmax.len() != blocks.div_ceil(nested) || table.len() != 256 {
                let found = format!("{}, {} and {} values", codes.len(), absmax.len(), table.len());
                return Err(format!(
                    "`{prefix}.weight`: absmax, nested_absmax and nested_quant_map have {found}, expected {blocks}, {} and 256",
                    blocks.div_ceil(nested)
                ));
            }
            Absmax::Nested { codes, absmax, table, blocksize: nested, offset }
        } else {
            let values = floats(weights, &at("absmax"))?;
            if values.len() != blocks {
                return Err(format!("`{}` has {} values, expected {blocks}", at("absmax"), values.len()));
            }
            Absmax::Plain(values)
        };
        let dtype = state["dtype"].as_str().unwrap_or("float32").to_string();
        Ok(Self { shape, quant_type: quant_type.into(), blocksize, table, packed, absmax, dtype })
    }

    /// For the kernels. Where blocks straddle rows, groups are the largest pieces that never do.
    pub fn packed(&self) -> Packed {
        let [outputs, inputs] = self.shape;
        let elements = outputs * inputs;
        let mut codes: Vec<u8> = self.packed.iter().flat_map(|b| [b >> 4, b & 15]).collect();
        codes.truncate(elements);
        let maxima = self.absmax.values();
        let group = gcd(self.blocksize, inputs);
        let scales = (0..elements / group).map(|g| maxima[g * group / self.blocksize]).collect();
        let name = if self.quant_type == "fp4" { "fp4" } else { "nf4" };
        Packed::new(self.shape, group, None, &codes, Meaning::Table(name, self.table), scales, None)
    }

    /// The tensors of a file.
    pub fn tensors(&self, prefix: &str) -> Vec<RawTensor> {
        let tensor = |name: String, dtype, shape: Vec<usize>, bytes| RawTensor { name: format!("{prefix}.{name}"), dtype, shape, bytes };
        let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let at = |name: &str| format!("weight.{name}");
        let mut state = json!({"quant_type": self.quant_type, "blocksize": self.blocksize, "dtype": self.dtype, "shape": self.shape});
        let mut out = vec![
            tensor("weight".into(), Dtype::U8, vec![self.packed.len(), 1], self.packed.clone()),
            tensor(at("quant_map"), Dtype::F32, vec![16], floats(&self.table)),
        ];
        match &self.absmax {
            Absmax::Plain(values) => out.push(tensor(at("absmax"), Dtype::F32, vec![values.len()], floats(values))),
            Absmax::Nested { codes, absmax, table, blocksize, offset } => {
                out.push(tensor(at("absmax"), Dtype::U8, vec![codes.len()], codes.clone()));
                out.push(tensor(at("nested_absmax"), Dtype::F32, vec![absmax.len()], floats(absmax)));
                out.push(tensor(at("nested_quant_map"), Dtype::F32, vec![table.len()], floats(table)));
                state["nested_blocksize"] = json!(blocksize);
                state["nested_dtype"] = json!("float32");
                state["nested_offset"] = json!(f64::from(*offset));
            }
        }
        let state = state.to_string().into_bytes();
        out.push(tensor(at(&format!("quant_state.bitsandbytes__{}", self.quant_type)), Dtype::U8, vec![state.len()], state));
        out
    }
}

/// Signed bytes with one maximum a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Int8 {
    /// `[O, I]`.
    pub shape: [usize; 2],
    /// Codes.
    pub weight: Vec<i8>,
    /// Largest absolute value of each row.
    pub scb: Vec<f32>,
}

impl Int8 {
    /// Rounded to nearest, half to even, with `max|w| / 127` of each row as its scale (Dettmers et al. 2022, LLM.int8).
    pub fn round(weights: &[f32], shape: [usize; 2]) -> Self {
        let mut weight = Vec::with_capacity(weights.len());
        let mut scb = Vec::with_capacity(shape[0]);
        for row in weights.chunks_exact(shape[1].max(1)) {
            let largest = row.iter().fold(0f32, |m, w| m.max(w.abs()));
            let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
            weight.extend(row.iter().map(|w| (w / scale).round_ties_even().clamp(-127.0, 127.0) as i8));
            scb.push(if largest > 0.0 { largest } else { 127.0 });
        }
        Self { shape, weight, scb }
    }

    /// Read `PREFIX.weight` and `PREFIX.SCB`.
    pub fn read(weights: &Weights, prefix: &str, shape: [usize; 2]) -> Result<Self, String> {
        let name = format!("{prefix}.weight");
        let (dtype, found, bytes) = weights.raw(&name).map_err(|e| e.to_string())?;
        if dtype != Dtype::I8 || found != shape {
            return Err(format!("`{name}` is {dtype} {found:?}, expected I8 {shape:?}"));
        }
        let scb = floats(weights, &format!("{prefix}.SCB"))?;
        if scb.len() != shape[0] {
            return Err(format!("`{prefix}.SCB` has {} values, expected {}", scb.len(), shape[0]));
        }
        Ok(Self { shape, weight: bytes.iter().map(|b| b.cast_signed()).collect(), scb })
    }

    /// For the kernels.
    pub fn packed(&self) -> Packed {
        Packed::int8_rows(self.shape, &self.weight, self.scb.iter().map(|m| m / 127.0).collect())
    }

    /// The tensors of a file.
    pub fn tensors(&self, prefix: &str) -> Vec<RawTensor> {
        let tensor = |name: &str, dtype, shape: &[usize], bytes| RawTensor { name: format!("{prefix}.{name}"), dtype, shape: shape.to_vec(), bytes };
        vec![
            tensor("weight", Dtype::I8, &self.shape, self.weight.iter().map(|v| v.cast_unsigned()).collect()),
            tensor("SCB", Dtype::F32, &[self.scb.len()], self.scb.iter().flat_map(|v| v.to_le_bytes()).collect()),
        ]
    }
}
