//! A quantised matrix in memory.
//!
//! One type with three bodies. `Rows` keeps the codes row by row and multiplies with inputs in floats; [`Panels`] keeps 16 rows side by side
//! and multiplies with inputs rounded to 8 bits ([`Activations`]); a matrix in bfloat16 is a body too, so that everything with fewer than
//! 32 bits goes through one door (`nn::Weight::Packed`).
//!
//! Legend: I input features, O output features, G groups, P padded row length.

use super::bitsandbytes::NF4;
use super::panels::Panels;
use crate::kernels::bf16::Columns;
use crate::kernels::packed::{self, ALIGN, SMALL};
use rayon::prelude::*;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

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

/// What is subtracted.
#[derive(Clone, PartialEq)]
pub enum Zeros {
    /// Nothing.
    None,
    /// The same from every code (symmetric).
    Same(f32),
    /// From the codes of a group, `[O, G]`.
    Each(Vec<i16>),
    /// From the scaled values of a group, `[O, G]`: an element is `scale * code - min` (Q4_K).
    Mins(Vec<f32>),
}

/// In which format inputs are multiplied with codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activations {
    /// Floats: codes are decoded, results differ from those of the dense matrix by rounding only.
    #[default]
    Exact,
    /// Inputs are rounded to signed 8 bits in blocks of 32 (of 16 where groups are smaller) with a scale each, products are sums of whole
    /// numbers: several times faster, with an error of about 0.5 % of the result.
    Int8,
}

impl FromStr for Activations {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "exact" => Ok(Self::Exact),
            "int8" => Ok(Self::Int8),
            other => Err(format!("`{other}` is no kind of inputs; expected exact or int8")),
        }
    }
}

/// A quantised matrix `[O, I]`: an element is `scale * (code - zero)` or `scale * code - min`, with all but the code shared by a group of a row.
#[derive(Clone, PartialEq)]
pub struct Packed {
    outputs: usize,
    inputs: usize,
    group: usize,
    order: Option<Vec<u32>>,
    body: Body,
}

/// What is stored, and so how it is multiplied.
#[derive(Clone, PartialEq)]
pub(crate) enum Body {
    /// Codes row by row, for inputs in floats.
    Rows(Rows),
    /// Codes of 16 rows together, for inputs in 8 bits.
    Panels(Panels),
    /// Values in 16 bits.
    Bf16(Columns),
}

/// Codes row by row.
#[derive(Clone, PartialEq)]
pub(crate) struct Rows {
    pub codes: Codes,
    /// `[O, G]`.
    pub scales: Vec<f32>,
    pub zeros: Zeros,
    /// G.
    pub groups: usize,
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

impl Rows {
    /// Scales of the groups of a row.
    #[inline(always)]
    pub fn row_scales(&self, row: usize) -> &[f32] {
        &self.scales[row * self.groups..][..self.groups]
    }

    /// Of a row of `values [O, G]`.
    #[inline(always)]
    pub fn row_of<'a, T>(&self, values: &'a [T], row: usize) -> &'a [T] {
        &values[row * self.groups..][..self.groups]
    }

    /// What is subtracted from the codes of one group.
    #[inline(always)]
    pub fn zero(&self, row: usize, group: usize) -> f32 {
        match (&self.zeros, &self.codes) {
            (Zeros::None, _) => 0.0,
            (Zeros::Same(zero), _) => *zero,
            (Zeros::Each(zeros), _) => f32::from(zeros[row * self.groups + group]),
            (Zeros::Mins(_), Codes::Int8(_)) => -128.0, // the codes were moved, their mins were not
            (Zeros::Mins(_), _) => 0.0,
        }
    }

    /// What is subtracted from the scaled values of one group.
    #[inline(always)]
    pub fn min(&self, row: usize, group: usize) -> f32 {
        if let Zeros::Mins(mins) = &self.zeros { mins[row * self.groups + group] } else { 0.0 }
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
        let moved = if meaning == Meaning::Bits8 { 128 } else { 0 };
        assert!(zeros.as_ref().is_none_or(|z| z.len() == scales.len()), "packed matrix: one zero per scale");
        let zeros = match zeros {
            None if moved == 0 => Zeros::None,
            None => Zeros::Same(-f32::from(moved)),
            Some(zeros) if zeros.iter().all(|z| *z == zeros[0]) => match zeros.first().map_or(0, |z| z - moved) {
                0 => Zeros::None,
                zero => Zeros::Same(f32::from(zero)),
            },
            Some(zeros) => Zeros::Each(zeros.into_iter().map(|z| z - moved).collect()),
        };
        Self::build(shape, group, order, codes, meaning, scales, zeros)
    }

    /// From codes `[O, I]`, one byte each, whose elements are `scale * code - min`, with scales and mins `[O, G]`.
    ///
    /// # Panics
    /// When the lengths do not fit the shape: the caller has checked them.
    pub fn with_mins(shape: [usize; 2], group: usize, codes: &[u8], meaning: Meaning, scales: Vec<f32>, mins: Vec<f32>) -> Self {
        assert!(mins.len() == scales.len(), "packed matrix: one min per scale");
        Self::build(shape, group, None, codes, meaning, scales, Zeros::Mins(mins))
    }

    fn build(shape: [usize; 2], group: usize, order: Option<Vec<u32>>, codes: &[u8], meaning: Meaning, scales: Vec<f32>, zeros: Zeros) -> Self {
        let [outputs, inputs] = shape;
        let group = group.clamp(1, inputs.max(1));
        let groups = inputs.div_ceil(group);
        assert!(codes.len() == outputs * inputs && scales.len() == outputs * groups, "packed matrix: lengths do not fit {shape:?}");
        assert!(order.as_ref().is_none_or(|o| o.len() == inputs), "packed matrix: one input per code");
        let order = order.filter(|o| o.iter().enumerate().any(|(i, &x)| i != x as usize));
        let stride = stride(group);
        let padded = (groups * stride).next_multiple_of(ALIGN);
        let rows = codes.par_chunks(inputs.max(1));
        let codes = match meaning {
            Meaning::Bits8 => {
                let mut out = vec![0i8; outputs * padded];
                out.par_chunks_mut(padded.max(1)).zip(rows).for_each(|(out, codes)| {
                    for (out, codes) in out.chunks_mut(stride).zip(codes.chunks(group)) {
                        out.iter_mut().zip(codes).for_each(|(out, code)| *out = (code ^ 0x80).cast_signed());
                    }
                });
                Codes::Int8(out)
            }
            Meaning::Bits4 | Meaning::Table(..) => {
                let mut out = vec![0u8; outputs * padded / 2];
                out.par_chunks_mut((padded / 2).max(1)).zip(rows).for_each(|(out, codes)| {
                    for (g, codes) in codes.chunks(group).enumerate() {
                        for (i, code) in codes.iter().enumerate() {
                            let (byte, shift) = half(0, padded, g * stride + i);
                            out[byte] |= (code & 15) << shift;
                        }
                    }
                });
                if let Meaning::Table(_, table) = meaning { Codes::Table4(out, table) } else { Codes::Int4(out) }
            }
        };
        Self { outputs, inputs, group, order, body: Body::Rows(Rows { codes, scales, zeros, groups }) }
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

    /// Values `[O, I]` in bfloat16, rounded to nearest even: half the bytes of `f32`, multiplied with inputs in `f32`.
    ///
    /// # Panics
    /// When the length does not fit the shape.
    pub fn bf16(shape: [usize; 2], values: &[f32]) -> Self {
        let [outputs, inputs] = shape;
        assert!(values.len() == outputs * inputs, "packed matrix: length does not fit {shape:?}");
        Self { outputs, inputs, group: inputs.max(1), order: None, body: Body::Bf16(Columns::new(values, inputs)) }
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
        stride(self.group)
    }
    /// Codes a row takes with its padding: P.
    pub fn padded(&self) -> usize {
        (self.groups() * self.stride()).next_multiple_of(ALIGN)
    }
    /// Bits a code takes: 4, 8, or 16; 6 where all codes of 8 bits fit and [`Activations::Int8`] stores them so.
    pub fn bits(&self) -> usize {
        match &self.body {
            Body::Rows(Rows { codes: Codes::Int8(_), .. }) => 8,
            Body::Rows(_) => 4,
            Body::Panels(panels) => panels.bits(),
            Body::Bf16(_) => 16,
        }
    }
    /// Which input each code of a row belongs to, where groups are not runs of inputs.
    pub fn order(&self) -> Option<&[u32]> {
        self.order.as_deref()
    }
    pub(crate) fn body(&self) -> &Body {
        &self.body
    }
    /// The table that codes index, if they do.
    pub fn table(&self) -> Option<&[f32; 16]> {
        if let Body::Rows(Rows { codes: Codes::Table4(_, table), .. }) = &self.body { Some(table) } else { None }
    }

    /// Scales of the groups of a row, where they are kept in `f32` row by row ([`Activations::Exact`]); else empty.
    pub fn row_scales(&self, row: usize) -> &[f32] {
        if let Body::Rows(rows) = &self.body { rows.row_scales(row) } else { &[] }
    }

    /// Scale, zero and min of one group: an element is `scale * (code - zero) - min`, with the code as [`Packed::raw_code`] gives it.
    pub fn scaling(&self, row: usize, group: usize) -> [f32; 3] {
        match &self.body {
            Body::Rows(rows) => {
                let moved = if matches!(rows.codes, Codes::Int8(_)) { 128.0 } else { 0.0 };
                [rows.scales[row * rows.groups + group], rows.zero(row, group) + moved, rows.min(row, group)]
            }
            Body::Panels(panels) => panels.scaling(row, group),
            Body::Bf16(_) => [1.0, 0.0, 0.0],
        }
    }

    /// How inputs are multiplied.
    pub fn activations(&self) -> Activations {
        if matches!(self.body, Body::Panels(_)) { Activations::Int8 } else { Activations::Exact }
    }

    /// The same matrix for inputs in that format. From [`Activations::Exact`] to [`Activations::Int8`] scales and mins of groups below 128
    /// are rounded to 11 bits (those of most files have no more); tables (NF4, FP4), bfloat16 and matrices with scales that are no numbers
    /// stay as they are. The way back changes no value.
    pub fn with_activations(mut self, activations: Activations) -> Self {
        self.set_activations(activations);
        self
    }

    /// [`Packed::with_activations`] in place.
    pub fn set_activations(&mut self, activations: Activations) {
        // An empty body stands in for the one that is being rewritten.
        self.body = match (std::mem::replace(&mut self.body, Body::Bf16(Columns::new(&[], 0))), activations) {
            (Body::Rows(rows), Activations::Int8) => match Panels::new(&rows, [self.outputs, self.inputs], self.group) {
                Some(panels) => Body::Panels(panels),
                None => Body::Rows(rows),
            },
            (Body::Panels(panels), Activations::Exact) => Body::Rows(panels.to_rows(self.outputs)),
            (body, _) => body,
        };
    }

    /// For people: bits, groups, kind of codes.
    pub fn describe(&self) -> String {
        let group = if self.group == self.inputs { "rows".to_string() } else { format!("groups of {}", self.group) };
        let kind = match &self.body {
            Body::Bf16(_) => return "bfloat16".into(),
            Body::Rows(Rows { codes: Codes::Table4(_, table), .. }) if *table == NF4 => "nf4, ",
            Body::Rows(Rows { codes: Codes::Table4(..), .. }) => "table, ",
            Body::Rows(Rows { zeros: Zeros::Each(_), .. }) => "asymmetric, ",
            Body::Rows(Rows { zeros: Zeros::Mins(_), .. }) => "mins, ",
            Body::Rows(_) => "",
            Body::Panels(panels) => panels.kind(),
        };
        let order = if self.order.is_some() { ", ordered" } else { "" };
        let inputs = if self.activations() == Activations::Int8 { ", 8-bit inputs" } else { "" };
        format!("{} bits, {kind}{group}{order}{inputs}", self.bits())
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let body = match &self.body {
            Body::Rows(rows) => {
                let codes = match &rows.codes {
                    Codes::Int8(codes) => codes.len(),
                    Codes::Int4(codes) | Codes::Table4(codes, _) => codes.len(),
                };
                let zeros = match &rows.zeros {
                    Zeros::None | Zeros::Same(_) => 0,
                    Zeros::Each(zeros) => 2 * zeros.len(),
                    Zeros::Mins(mins) => 4 * mins.len(),
                };
                codes + 4 * rows.scales.len() + zeros
            }
            Body::Panels(panels) => panels.bytes(),
            Body::Bf16(columns) => columns.bytes(),
        };
        body + 4 * self.order.as_ref().map_or(0, Vec::len)
    }

    /// All values, `[O, I]`.
    pub fn dequantize(&self) -> Vec<f32> {
        packed::dequantize(self)
    }

    /// The values of one row, `[I]`: what an embedding looks up.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, row: usize) -> Vec<f32> {
        let mut out = vec![0f32; self.inputs];
        packed::row(self, row, &mut out);
        out
    }

    /// The code of element `k` of a row (in the order of the codes) as an unsigned number (of 8 bits moved by 128), to be read with
    /// [`Packed::scaling`]; 0 in bfloat16, which has none.
    pub fn raw_code(&self, row: usize, k: usize) -> u8 {
        let at = k / self.group * self.stride() + k % self.group;
        match &self.body {
            Body::Rows(Rows { codes: Codes::Int8(codes), .. }) => codes[row * self.padded() + at].cast_unsigned() ^ 0x80,
            Body::Rows(Rows { codes: Codes::Int4(codes) | Codes::Table4(codes, _), .. }) => {
                let (byte, shift) = half(row, self.padded(), at);
                codes[byte] >> shift & 15
            }
            Body::Panels(panels) => panels.code(row, at),
            Body::Bf16(_) => 0,
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
        let body = match &self.body {
            Body::Rows(rows) => Body::Rows(Rows {
                codes: match &rows.codes {
                    Codes::Int8(codes) => Codes::Int8(pick(codes, padded, ranges)),
                    Codes::Int4(codes) => Codes::Int4(pick(codes, padded / 2, ranges)),
                    Codes::Table4(codes, table) => Codes::Table4(pick(codes, padded / 2, ranges), *table),
                },
                scales: pick(&rows.scales, groups, ranges),
                zeros: match &rows.zeros {
                    Zeros::Each(zeros) => Zeros::Each(pick(zeros, groups, ranges)),
                    Zeros::Mins(mins) => Zeros::Mins(pick(mins, groups, ranges)),
                    other => other.clone(),
                },
                groups,
            }),
            Body::Panels(panels) => Body::Panels(panels.rows(self.outputs, ranges)),
            Body::Bf16(columns) => Body::Bf16(columns.rows(ranges)),
        };
        Self { outputs: ranges.iter().map(Range::len).sum(), order: self.order.clone(), body, ..*self }
    }
}

/// Codes a group takes with its padding: 16, or whole blocks of [`ALIGN`].
pub(super) fn stride(group: usize) -> usize {
    if group <= SMALL { SMALL } else { group.next_multiple_of(ALIGN) }
}

/// The byte and the shift of code `at` of a row of 4-bit codes.
pub(super) fn half(row: usize, padded: usize, at: usize) -> (usize, u32) {
    let byte = (row * padded + at / ALIGN * ALIGN) / 2 + at % SMALL;
    (byte, if at % ALIGN < SMALL { 0 } else { 4 })
}
