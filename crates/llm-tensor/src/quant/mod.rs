//! Weights in 4 and 8 bits: one matrix type for the kernels, and the layouts of files.
//!
//! | module | layout |
//! |---|---|
//! | [`gptq`] | `qweight`, `qzeros`, `scales`, `g_idx` of AutoGPTQ and GPTQModel |
//! | [`awq`] | `qweight`, `qzeros`, `scales` of AutoAWQ, version `gemm` |
//! | [`gguf`] | the blocks of llama.cpp |
//! | [`bitsandbytes`] | 4-bit tables (NF4, FP4) with one or two levels of scales; int8 rows |
//!
//! How values become codes is not here but in `llm-quant`; this module stores and decodes.
//!
//! Legend: I input features, O output features, G groups, P padded row length.

pub mod awq;
pub mod bitsandbytes;
pub mod gguf;
pub mod gptq;

use crate::kernels::packed::{self, ALIGN};
use crate::weights::RawTensor;
use std::fmt;
use std::ops::Range;

/// The codes of a matrix, rows padded group by group (see [`crate::kernels::packed`]).
#[derive(Clone, PartialEq)]
pub enum Codes {
    /// Signed bytes, `[O, P]`.
    Int8(Vec<i8>),
    /// Two numbers 0 to 15 a byte, `[O, P / 2]`.
    Int4(Vec<u8>),
    /// Two indices into a table a byte, `[O, P / 2]`.
    Table4(Vec<u8>, [f32; 16]),
}

/// What is subtracted from a code.
#[derive(Clone, PartialEq)]
pub enum Zeros {
    /// Nothing.
    None,
    /// The same everywhere (symmetric).
    Same(f32),
    /// `[O, G]`.
    Each(Vec<i16>),
}

/// A quantised matrix `[O, I]`: an element is `scale * (code - zero)`, with scale and zero shared by a group of a row.
#[derive(Clone, PartialEq)]
pub struct Packed {
    outputs: usize,
    inputs: usize,
    group: usize,
    order: Option<Vec<u32>>,
    codes: Codes,
    /// `[O, G]`.
    scales: Vec<f32>,
    zeros: Zeros,
}

/// How the unpacked codes of [`Packed::new`] are to be read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Meaning {
    /// Numbers that fit in 8 bits, given as unsigned; stored moved by -128 together with their zeros.
    Bits8,
    /// Numbers 0 to 15.
    Bits4,
    /// Indices into a table.
    Table(&'static str, [f32; 16]),
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Packed({} bits [{}, {}], groups of {})", self.bits(), self.outputs, self.inputs, self.group)
    }
}

impl Packed {
    /// From codes `[O, I]` in the order in which groups lie together, one byte each; scales `[O, G]`; zeros `[O, G]` or none. `order[k]` is
    /// the input feature that code `k` of a row belongs to.
    ///
    /// # Panics
    /// When the lengths do not fit the shape: the caller has checked them.
    pub fn new(
        shape: [usize; 2],
        group: usize,
        order: Option<Vec<u32>>,
        codes: &[u8],
        meaning: Meaning,
        scales: Vec<f32>,
        zeros: Option<Vec<i16>>,
    ) -> Self {
        let [outputs, inputs] = shape;
        let group = group.clamp(1, inputs.max(1));
        let groups = inputs.div_ceil(group);
        assert!(codes.len() == outputs * inputs && scales.len() == outputs * groups, "packed matrix: lengths do not fit {shape:?}");
        assert!(zeros.as_ref().is_none_or(|z| z.len() == scales.len()), "packed matrix: one zero per scale");
        assert!(order.as_ref().is_none_or(|o| o.len() == inputs), "packed matrix: one input per code");
        let order = order.filter(|o| o.iter().enumerate().any(|(i, &x)| i != x as usize));
        let stride = group.next_multiple_of(ALIGN);
        let padded = groups * stride;
        let place = |k: usize| k / group * stride + k % group;
        let codes = match meaning {
            Meaning::Bits8 => {
                let mut out = vec![0i8; outputs * padded];
                for (row, codes) in codes.chunks_exact(inputs.max(1)).enumerate() {
                    codes.iter().enumerate().for_each(|(k, &c)| out[row * padded + place(k)] = (i16::from(c) - 128) as i8);
                }
                Codes::Int8(out)
            }
            Meaning::Bits4 | Meaning::Table(..) => {
                let mut out = vec![0u8; outputs * padded / 2];
                for (row, codes) in codes.chunks_exact(inputs.max(1)).enumerate() {
                    for (k, &code) in codes.iter().enumerate() {
                        let at = place(k);
                        let byte = &mut out[(row * padded + at / ALIGN * ALIGN) / 2 + at % (ALIGN / 2)];
                        *byte |= if at % ALIGN < ALIGN / 2 { code & 15 } else { code << 4 };
                    }
                }
                if let Meaning::Table(_, table) = meaning { Codes::Table4(out, table) } else { Codes::Int4(out) }
            }
        };
        let moved = if meaning == Meaning::Bits8 { 128 } else { 0 };
        let zeros = match zeros {
            None if moved == 0 => Zeros::None,
            None => Zeros::Same(-f32::from(moved)),
            Some(zeros) if zeros.iter().all(|z| *z == zeros[0]) => match zeros.first().map_or(0, |z| z - moved) {
                0 => Zeros::None,
                zero => Zeros::Same(f32::from(zero)),
            },
            Some(zeros) => Zeros::Each(zeros.into_iter().map(|z| z - moved).collect()),
        };
        Self { outputs, inputs, group, order, codes, scales, zeros }
    }

    /// Signed bytes `[O, I]` with one scale a row.
    ///
    /// # Panics
    /// When the lengths do not fit the shape.
    pub fn int8_rows(shape: [usize; 2], values: &[i8], scales: Vec<f32>) -> Self {
        let codes: Vec<u8> = values.iter().map(|&v| (i16::from(v) + 128) as u8).collect();
        let zeros = vec![128; scales.len()];
        Self::new(shape, shape[1], None, &codes, Meaning::Bits8, scales, Some(zeros))
    }

    /// Rows.
    pub fn outputs(&self) -> usize {
        self.outputs
    }
    /// Columns.
    pub fn inputs(&self) -> usize {
        self.inputs
    }
    /// Codes that share a scale; the last group of a row may be shorter.
    pub fn group(&self) -> usize {
        self.group
    }
    /// Groups of a row.
    pub fn groups(&self) -> usize {
        self.inputs.div_ceil(self.group)
    }
    /// Codes a group takes with its padding.
    pub fn stride(&self) -> usize {
        self.group.next_multiple_of(ALIGN)
    }
    /// Codes a row takes with its padding: P.
    pub fn padded(&self) -> usize {
        self.groups() * self.stride()
    }
    /// Bits of a code.
    pub fn bits(&self) -> usize {
        if matches!(self.codes, Codes::Int8(_)) { 8 } else { 4 }
    }
    /// Which input each code of a row belongs to, where groups are not runs of inputs.
    pub fn order(&self) -> Option<&[u32]> {
        self.order.as_deref()
    }
    /// The codes.
    pub fn codes(&self) -> &Codes {
        &self.codes
    }
    /// What is subtracted.
    pub fn zeros(&self) -> &Zeros {
        &self.zeros
    }

    /// Scales of the groups of a row.
    #[inline(always)]
    pub fn row_scales(&self, row: usize) -> &[f32] {
        let groups = self.groups();
        &self.scales[row * groups..][..groups]
    }

    /// Zeros of the groups of a row; empty unless they differ.
    #[inline(always)]
    pub fn row_zeros(&self, row: usize) -> &[i16] {
        match &self.zeros {
            Zeros::Each(zeros) => &zeros[row * self.groups()..][..self.groups()],
            _ => &[],
        }
    }

    /// The zero of one group.
    #[inline(always)]
    pub fn zero(&self, row: usize, group: usize) -> f32 {
        match &self.zeros {
            Zeros::None => 0.0,
            Zeros::Same(zero) => *zero,
            Zeros::Each(zeros) => f32::from(zeros[row * self.groups() + group]),
        }
    }

    /// For people: bits, groups, kind of codes.
    pub fn describe(&self) -> String {
        let group = if self.group == self.inputs { "rows".to_string() } else { format!("groups of {}", self.group) };
        let kind = match (&self.codes, &self.zeros) {
            (Codes::Table4(_, table), _) if *table == bitsandbytes::NF4 => "nf4, ",
            (Codes::Table4(..), _) => "table, ",
            (_, Zeros::Each(_)) => "asymmetric, ",
            _ => "",
        };
        let order = if self.order.is_some() { ", ordered" } else { "" };
        format!("{} bits, {kind}{group}{order}", self.bits())
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let codes = match &self.codes {
            Codes::Int8(codes) => codes.len(),
            Codes::Int4(codes) | Codes::Table4(codes, _) => codes.len(),
        };
        let zeros = if let Zeros::Each(zeros) = &self.zeros { 2 * zeros.len() } else { 0 };
        codes + 4 * self.scales.len() + zeros + 4 * self.order.as_ref().map_or(0, Vec::len)
    }

    /// All values, `[O, I]`.
    pub fn dequantize(&self) -> Vec<f32> {
        packed::dequantize(self)
    }

    /// The code of element `k` of a row; of 8 bits as an unsigned number (moved by 128).
    pub fn raw_code(&self, row: usize, k: usize) -> u8 {
        let at = k / self.group * self.stride() + k % self.group;
        match &self.codes {
            Codes::Int8(codes) => (i16::from(codes[row * self.padded() + at]) + 128) as u8,
            Codes::Int4(codes) | Codes::Table4(codes, _) => {
                let byte = codes[(row * self.padded() + at / ALIGN * ALIGN) / 2 + at % (ALIGN / 2)];
                if at % ALIGN < ALIGN / 2 { byte & 15 } else { byte >> 4 }
            }
        }
    }

    /// Rows of several ranges, one after the other, as a matrix of their own.
    ///
    /// # Panics
    /// When a range leaves the matrix.
    pub fn rows(&self, ranges: &[Range<usize>]) -> Self {
        let (padded, groups) = (self.padded(), self.groups());
        fn pick<T: Copy>(values: &[T], width: usize, ranges: &[Range<usize>]) -> Vec<T> {
            ranges.iter().flat_map(|r| &values[r.start * width..r.end * width]).copied().collect()
        }
        let codes = match &self.codes {
            Codes::Int8(codes) => Codes::Int8(pick(codes, padded, ranges)),
            Codes::Int4(codes) => Codes::Int4(pick(codes, padded / 2, ranges)),
            Codes::Table4(codes, table) => Codes::Table4(pick(codes, padded / 2, ranges), *table),
        };
        let zeros = match &self.zeros {
            Zeros::Each(zeros) => Zeros::Each(pick(zeros, groups, ranges)),
            other => other.clone(),
        };
        Self {
            outputs: ranges.iter().map(Range::len).sum(),
            scales: pick(&self.scales, groups, ranges),
            order: self.order.clone(),
            codes,
            zeros,
            ..*self
        }
    }
}

/// A matrix as its file holds it.
#[derive(Debug, Clone, PartialEq)]
pub enum Stored {
    /// GPTQ layout.
    Gptq(gptq::Gptq),
    /// Table of 16 values.
    Table4(bitsandbytes::Table4),
    /// Int8 rows.
    Int8(bitsandbytes::Int8),
}

impl Stored {
    /// `[O, I]`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Gptq(matrix) => matrix.shape,
            Self::Table4(matrix) => matrix.shape,
            Self::Int8(matrix) => matrix.shape,
        }
    }

    /// For the kernels.
    pub fn packed(&self) -> Result<Packed, String> {
        match self {
            Self::Gptq(matrix) => matrix.unpack().packed(),
            Self::Table4(matrix) => Ok(matrix.packed()),
            Self::Int8(matrix) => Ok(matrix.packed()),
        }
    }

    /// The tensors of a file, of the layer `prefix`.
    pub fn tensors(&self, prefix: &str) -> Vec<RawTensor> {
        match self {
            Self::Gptq(matrix) => matrix.tensors(prefix),
            Self::Table4(matrix) => matrix.tensors(prefix),
            Self::Int8(matrix) => matrix.tensors(prefix),
        }
    }
}
