//! The GPTQ layout of AutoGPTQ and GPTQModel, for 4 and 8 bits.
//!
//! `qweight` int32 `[I / n, O]` with n = 32 / bits: bits `b*j..` of row `i` hold the code of input `n*i + j`. `qzeros` int32 `[G, O / n]`, packed
//! along the outputs in the same way; version 1 of the format (`checkpoint_format: gptq`) stores each zero point less one, version 2
//! (`gptq_v2`) the zero point itself. `scales` float16 `[G, O]`, `g_idx` int32 `[I]`: the group of each input. An element is
//! `scale * (code - zero)`. Checked against fixtures of the layout (`fixtures/quant`).
//!
//! Legend: I input features, O output features, G groups.

use super::{Meaning, Packed};
use crate::weights::{Dtype, RawTensor, Weights};
use half::f16;

/// Names of the four tensors, after the layer's name.
pub const TENSORS: [&str; 4] = ["qweight", "qzeros", "scales", "g_idx"];

/// A matrix as its file holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Gptq {
    /// 4 or 8.
    pub bits: usize,
    /// `[O, I]`.
    pub shape: [usize; 2],
    /// `[I / n, O]`.
    pub qweight: Vec<i32>,
    /// `[G, O / n]`.
    pub qzeros: Vec<i32>,
    /// `[G, O]`.
    pub scales: Vec<f16>,
    /// `[I]`.
    pub g_idx: Vec<i32>,
}

/// A matrix before packing.
#[derive(Debug, Clone, PartialEq)]
pub struct Grouped {
    /// `[O, I]`.
    pub shape: [usize; 2],
    /// 4 or 8.
    pub bits: usize,
    /// `[O, I]`, inputs in their own order.
    pub codes: Vec<u8>,
    /// `[O, G]`.
    pub scales: Vec<f16>,
    /// `[O, G]`.
    pub zeros: Vec<u8>,
    /// The group of each input, `[I]`.
    pub g_idx: Vec<u32>,
}

fn per_word(bits: usize) -> usize {
    32 / bits
}

/// Whether a shape can be packed: whole words along both dimensions.
pub fn fits(shape: [usize; 2], bits: usize) -> Result<(), String> {
    if bits != 4 && bits != 8 {
        return Err(format!("{bits} bits are not supported; expected 4 or 8"));
    }
    let n = per_word(bits);
    match shape.iter().find(|size| !size.is_multiple_of(n)) {
        Some(size) => Err(format!("shape {shape:?}: {size} is no multiple of {n}, which the layout needs at {bits} bits")),
        None => Ok(()),
    }
}

impl Grouped {
    /// Groups.
    pub fn groups(&self) -> usize {
        self.scales.len() / self.shape[0].max(1)
    }

    /// Into words, as version 1 stores them.
    pub fn pack(&self) -> Result<Gptq, String> {
        fits(self.shape, self.bits)?;
        let ([outputs, inputs], groups, bits) = (self.shape, self.groups(), self.bits);
        let n = per_word(bits);
        if self.zeros.contains(&0) {
            return Err("a zero point of 0 cannot be stored: version 1 of the layout keeps it less one".into());
        }
        let mut qweight = vec![0u32; inputs / n * outputs];
        for (o, row) in self.codes.chunks_exact(inputs).enumerate() {
            for (i, &code) in row.iter().enumerate() {
                qweight[i / n * outputs + o] |= u32::from(code) << (bits * (i % n));
            }
        }
        let (mut qzeros, mut scales) = (vec![0u32; groups * outputs / n], vec![f16::ZERO; groups * outputs]);
        for o in 0..outputs {
            for g in 0..groups {
                qzeros[g * (outputs / n) + o / n] |= u32::from(self.zeros[o * groups + g] - 1) << (bits * (o % n));
                scales[g * outputs + o] = self.scales[o * groups + g];
            }
        }
        let words = |words: Vec<u32>| words.into_iter().map(u32::cast_signed).collect();
        let g_idx = self.g_idx.iter().map(|&g| g as i32).collect();
        Ok(Gptq { bits, shape: self.shape, qweight: words(qweight), qzeros: words(qzeros), scales, g_idx })
    }

    /// For the kernels.
    pub fn packed(&self) -> Result<Packed, String> {
        let ([outputs, inputs], groups) = (self.shape, self.groups());
        let (group, order) = order(&self.g_idx, groups)?;
        let mut codes = Vec::with_capacity(outputs * inputs);
        for row in self.codes.chunks_exact(inputs) {
            codes.extend(order.iter().map(|&i| row[i as usize]));
        }
        let scales = self.scales.iter().map(|s| s.to_f32()).collect();
        let zeros = self.zeros.iter().map(|&z| i16::from(z)).collect();
        let meaning = if self.bits == 8 { Meaning::Bits8 } else { Meaning::Bits4 };
        Ok(Packed::new(self.shape, group, Some(order), &codes, meaning, scales, Some(zeros)))
    }
}

/// The size of groups and the inputs sorted by group, first come first. All groups but the last have the same size.
fn order(g_idx: &[u32], groups: usize) -> Result<(usize, Vec<u32>), String> {
    let mut order: Vec<u32> = (0..g_idx.len() as u32).collect();
    order.sort_by_key(|&i| g_idx[i as usize]);
    let group = g_idx.iter().filter(|&&g| g == 0).count().max(1);
    let wrong = order.iter().enumerate().find(|(k, i)| g_idx[**i as usize] as usize != k / group);
    match wrong {
        None if g_idx.len().div_ceil(group) == groups => Ok((group, order)),
        _ => Err(format!("g_idx: expected {groups} groups of equal size (the last may be smaller), and not all groups are")),
    }
}

impl Gptq {
    /// Read `PREFIX.qweight` and its companions; `v2` says that zero points are stored as they are.
    pub fn read(weights: &Weights, prefix: &str, bits: usize, shape: [usize; 2], v2: bool) -> Result<Self, String> {
        fits(shape, bits)?;
        let [outputs, inputs] = shape;
        let n = per_word(bits);
        let get = |name: &str, dtypes: &[Dtype], expected: &[usize]| {
            let name = format!("{prefix}.{name}");
            let (dtype, shape, bytes) = weights.raw(&name).map_err(|e| e.to_string())?;
            let fits = expected.len() == shape.len() && expected.iter().zip(shape).all(|(e, s)| *e == usize::MAX || e == s);
            if !dtypes.contains(&dtype) || !fits {
                let expected: Vec<String> = expected.iter().map(|e| if *e == usize::MAX { "groups".into() } else { e.to_string() }).collect();
                return Err(format!("`{name}` is {dtype} {shape:?}, expected {} [{}]", dtypes[0], expected.join(", ")));
            }
            Ok((shape, bytes))
        };
        let words = |bytes: &[u8]| -> Vec<i32> { bytes.as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b)).collect() };
        let qweight = words(get("qweight", &[Dtype::I32], &[inputs / n, outputs])?.1);
        let (scales_shape, scale_bytes) = get("scales", &[Dtype::F16, Dtype::BF16, Dtype::F32], &[usize::MAX, outputs])?;
        let groups = scales_shape[0];
        let scales = match weights.raw(&format!("{prefix}.scales")).map_err(|e| e.to_string())?.0 {
            Dtype::F16 => scale_bytes.as_chunks::<2>().0.iter().map(|&b| f16::from_le_bytes(b)).collect(),
            Dtype::BF16 => scale_bytes.as_chunks::<2>().0.iter().map(|&b| f16::from_f32(half::bf16::from_le_bytes(b).to_f32())).collect(),
            _ => scale_bytes.as_chunks::<4>().0.iter().map(|&b| f16::from_f32(f32::from_le_bytes(b))).collect(),
        };
        let mut qzeros = words(get("qzeros", &[Dtype::I32], &[groups, outputs / n])?.1);
        if v2 {
            // To version 1: less one in every field. A zero point of 0 cannot be told there, so it stays an error.
            for word in &mut qzeros {
                let fields: Vec<u32> = fields(*word, bits).collect();
                if fields.contains(&0) {
                    return Err(format!("`{prefix}.qzeros` holds a zero point of 0, which is not supported"));
                }
                *word = fields.iter().enumerate().fold(0u32, |w, (j, z)| w | (z - 1) << (bits * j)).cast_signed();
            }
        }
        let g_idx = if weights.contains(&format!("{prefix}.g_idx")) {
            words(get("g_idx", &[Dtype::I32], &[inputs])?.1)
        } else {
            let group = inputs.div_ceil(groups.max(1));
            (0..inputs).map(|i| (i / group) as i32).collect()
        };
        if let Some(g) = g_idx.iter().find(|g| **g < 0 || **g as usize >= groups) {
            return Err(format!("`{prefix}.g_idx` names group {g} of {groups}"));
        }
        Ok(Self { bits, shape, qweight, qzeros, scales, g_idx })
    }

    /// One byte a code, outputs first.
    pub fn unpack(&self) -> Grouped {
        let ([outputs, inputs], bits) = (self.shape, self.bits);
        let n = per_word(bits);
        let groups = self.scales.len() / outputs.max(1);
        let mut codes = vec![0u8; outputs * inputs];
        for (r, row) in self.qweight.chunks_exact(outputs).enumerate() {
            for (o, word) in row.iter().enumerate() {
                for (j, code) in fields(*word, bits).enumerate() {
                    codes[o * inputs + r * n + j] = code as u8;
                }
            }
        }
        let (mut zeros, mut scales) = (vec![0u8; outputs * groups], vec![f16::ZERO; outputs * groups]);
        for g in 0..groups {
            for o in 0..outputs {
                let word = self.qzeros[g * (outputs / n) + o / n].cast_unsigned();
                // 8 bits: a stored 255 means 256 in the reference's arithmetic; no quantiser writes it.
                zeros[o * groups + g] = ((word >> (bits * (o % n)) & ((1 << bits) - 1)) + 1).min(255) as u8;
                scales[o * groups + g] = self.scales[g * outputs + o];
            }
        }
        Grouped { shape: self.shape, bits, codes, scales, zeros, g_idx: self.g_idx.iter().map(|&g| g as u32).collect() }
    }

    /// The tensors of a file.
    pub fn tensors(&self, prefix: &str) -> Vec<RawTensor> {
        let [outputs, inputs] = self.shape;
        let n = per_word(self.bits);
        let groups = self.scales.len() / outputs.max(1);
        let words = |words: &[i32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        let tensor = |name: &str, dtype, shape: Vec<usize>, bytes| RawTensor { name: format!("{prefix}.{name}"), dtype, shape, bytes };
        vec![
            tensor("qweight", Dtype::I32, vec![inputs / n, outputs], words(&self.qweight)),
            tensor("qzeros", Dtype::I32, vec![groups, outputs / n], words(&self.qzeros)),
            tensor("scales", Dtype::F16, vec![groups, outputs], self.scales.iter().flat_map(|s| s.to_le_bytes()).collect()),
            tensor("g_idx", Dtype::I32, vec![inputs], words(&self.g_idx)),
        ]
    }
}

fn fields(word: i32, bits: usize) -> impl Iterator<Item = u32> {
    (0..per_word(bits)).map(move |j| word.cast_unsigned() >> (bits * j) & ((1u32 << bits) - 1))
}
