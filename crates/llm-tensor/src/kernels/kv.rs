//! Storage of keys and values in `f32`, `bf16` or 8 bits.
//!
//! A row is one token: `[heads, width]`. In 8 bits every head of a row has a scale of its own, `element = scale * code` with the largest
//! element at 127: the error of an element is at most 1/254 of the largest one of its vector, and no other token has a part in it, so what
//! a sequence finds in the cache does not depend on how it was computed or with whom.
//!
//! Readers take a [`View`] and convert in registers; nothing is ever decoded as a whole.

use super::LANES;
use super::lanes::Lanes;
use half::bf16;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// Number format of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvDtype {
    /// 4 bytes, exact.
    #[default]
    F32,
    /// 2 bytes, 8 bits of mantissa.
    Bf16,
    /// 1 byte, and a scale of 4 bytes for each vector.
    Int8,
}

impl KvDtype {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Int8];

    /// Bytes of one vector: the keys or the values of one head and token.
    pub fn vector_bytes(self, width: usize) -> usize {
        match self {
            Self::F32 => 4 * width,
            Self::Bf16 => 2 * width,
            Self::Int8 => width + 4,
        }
    }
}

impl fmt::Display for KvDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        })
    }
}

impl FromStr for KvDtype {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|dtype| dtype.to_string() == text);
        found.ok_or_else(|| format!("`{text}` is no format of the cache; expected f32, bf16 or int8"))
    }
}

/// Rows of vectors.
#[derive(Debug)]
pub struct Cells {
    data: Data,
    heads: usize,
    width: usize,
}

#[derive(Debug)]
enum Data {
    F32(Vec<f32>),
    /// Bits of `bf16`: whole numbers, because only those are allocated without being touched.
    Bf16(Vec<u16>),
    /// Codes, and a scale for each vector.
    Int8(Vec<i8>, Vec<f32>),
}

/// Rows to read.
#[derive(Debug, Clone, Copy)]
pub enum View<'a> {
    /// Numbers.
    F32(&'a [f32]),
    /// Bits of `bf16`.
    Bf16(&'a [u16]),
    /// Codes, and a scale for each vector.
    Int8(&'a [i8], &'a [f32]),
}

impl Cells {
    /// Room for so many rows, all zero; memory is touched only as rows are written.
    pub fn new(dtype: KvDtype, rows: usize, heads: usize, width: usize) -> Self {
        let n = rows * heads * width;
        let data = match dtype {
            KvDtype::F32 => Data::F32(vec![0.0; n]),
            KvDtype::Bf16 => Data::Bf16(vec![0; n]),
            KvDtype::Int8 => Data::Int8(vec![0; n], vec![0.0; rows * heads]),
        };
        Self { data, heads, width }
    }

    /// To read from.
    pub fn view(&self) -> View<'_> {
        match &self.data {
            Data::F32(x) => View::F32(x),
            Data::Bf16(x) => View::Bf16(x),
            Data::Int8(codes, scales) => View::Int8(codes, scales),
        }
    }

    fn cells(&self, rows: Range<usize>) -> Range<usize> {
        let size = self.heads * self.width;
        rows.start * size..rows.end * size
    }

    fn vectors(&self, rows: Range<usize>) -> Range<usize> {
        rows.start * self.heads..rows.end * self.heads
    }

    /// Replace a row by `[heads, width]` numbers.
    ///
    /// # Panics
    /// When there is no such row or `values` have another size: the caller's arithmetic is wrong.
    pub fn write(&mut self, row: usize, values: &[f32]) {
        let (cells, vectors, width) = (self.cells(row..row + 1), self.vectors(row..row + 1), self.width);
        match &mut self.data {
            Data::F32(x) => x[cells].copy_from_slice(values),
            Data::Bf16(x) => {
                assert_eq!(values.len(), cells.len(), "a row of the cache");
                x[cells].iter_mut().zip(values).for_each(|(x, &value)| *x = bf16::from_f32(value).to_bits());
            }
            Data::Int8(codes, scales) => {
                assert_eq!(values.len(), cells.len(), "a row of the cache");
                let vectors = codes[cells].chunks_exact_mut(width).zip(values.chunks_exact(width)).zip(&mut scales[vectors]);
                for ((codes, values), scale) in vectors {
                    *scale = encode(codes, values);
                }
            }
        }
    }

    /// Copy rows to those from `to` on.
    pub fn copy(&mut self, rows: Range<usize>, to: usize) {
        let (cells, vectors) = (self.cells(rows.clone()), self.vectors(rows));
        let (cell, vector) = (to * self.heads * self.width, to * self.heads);
        match &mut self.data {
            Data::F32(x) => x.copy_within(cells, cell),
            Data::Bf16(x) => x.copy_within(cells, cell),
            Data::Int8(codes, scales) => {
                codes.copy_within(cells, cell);
                scales.copy_within(vectors, vector);
            }
        }
    }

    /// Append the bytes of rows to `out`: numbers or codes in little-endian order, then the scales.
    pub fn read_bytes(&self, rows: Range<usize>, out: &mut Vec<u8>) {
        let (cells, vectors) = (self.cells(rows.clone()), self.vectors(rows));
        match &self.data {
            Data::F32(x) => out.extend(x[cells].iter().flat_map(|x| x.to_le_bytes())),
            Data::Bf16(x) => out.extend(x[cells].iter().flat_map(|x| x.to_le_bytes())),
            Data::Int8(codes, scales) => {
                out.extend(codes[cells].iter().map(|code| code.cast_unsigned()));
                out.extend(scales[vectors].iter().flat_map(|x| x.to_le_bytes()));
            }
        }
    }

    /// Put back what [`Cells::read_bytes`] gave; returns the bytes that are left. Too few bytes leave the last elements as they are.
    pub fn write_bytes<'b>(&mut self, rows: Range<usize>, bytes: &'b [u8]) -> &'b [u8] {
        fn words<'b, T, const N: usize>(out: &mut [T], bytes: &'b [u8], word: impl Fn([u8; N]) -> T) -> &'b [u8] {
            let (now, rest) = bytes.split_at(bytes.len().min(out.len() * N));
            out.iter_mut().zip(now.as_chunks::<N>().0).for_each(|(out, &bytes)| *out = word(bytes));
            rest
        }
        let (cells, vectors) = (self.cells(rows.clone()), self.vectors(rows));
        match &mut self.data {
            Data::F32(x) => words(&mut x[cells], bytes, f32::from_le_bytes),
            Data::Bf16(x) => words(&mut x[cells], bytes, u16::from_le_bytes),
            Data::Int8(codes, scales) => {
                let rest = words(&mut codes[cells], bytes, i8::from_le_bytes);
                words(&mut scales[vectors], rest, f32::from_le_bytes)
            }
        }
    }
}

/// Codes of a vector; returns the scale. A number that is not finite makes all of the vector so when it is read.
fn encode(codes: &mut [i8], values: &[f32]) -> f32 {
    let largest = values.iter().fold(0f32, |m, x| if x.abs() > m || x.is_nan() { x.abs() } else { m });
    // Below, the inverse is no longer finite; such a vector is zero.
    if largest < 1e-30 {
        codes.fill(0);
        return 0.0;
    }
    if !largest.is_finite() {
        codes.fill(1);
        return largest;
    }
    let inverse = 127.0 / largest;
    codes.iter_mut().zip(values).for_each(|(code, value)| *code = (value * inverse).round_ties_even() as i8);
    largest / 127.0
}

/// A number as it lies in memory.
pub(super) trait Cell: Copy {
    fn float(self) -> f32;
    /// Sixteen of them as floats.
    fn load<L: Lanes>(cells: &[Self; LANES]) -> L::V;
}
impl Cell for f32 {
    #[inline(always)]
    fn float(self) -> f32 {
        self
    }
    #[inline(always)]
    fn load<L: Lanes>(cells: &[Self; LANES]) -> L::V {
        L::load16(cells)
    }
}
/// Bits of `bf16`.
impl Cell for u16 {
    #[inline(always)]
    fn float(self) -> f32 {
        f32::from_bits(u32::from(self) << 16)
    }
    #[inline(always)]
    fn load<L: Lanes>(cells: &[Self; LANES]) -> L::V {
        L::bf16(cells)
    }
}
impl Cell for i8 {
    #[inline(always)]
    fn float(self) -> f32 {
        f32::from(self)
    }
    #[inline(always)]
    fn load<L: Lanes>(cells: &[Self; LANES]) -> L::V {
        L::bytes16(cells)
    }
}

/// Cells of one format and the scales of their vectors.
pub(super) trait Store: Copy {
    type Cell: Cell;
    fn cells(&self) -> &[Self::Cell];
    /// What the cells of a vector are multiplied with.
    fn scale(&self, vector: usize) -> f32;
}

/// Cells whose scale is 1.
#[derive(Clone, Copy)]
pub(super) struct Plain<'a, C>(pub &'a [C]);
impl<C: Cell> Store for Plain<'_, C> {
    type Cell = C;
    #[inline(always)]
    fn cells(&self) -> &[C] {
        self.0
    }
    #[inline(always)]
    fn scale(&self, _: usize) -> f32 {
        1.0
    }
}

/// Cells with scales.
#[derive(Clone, Copy)]
pub(super) struct Scaled<'a, C>(pub &'a [C], pub &'a [f32]);
impl<C: Cell> Store for Scaled<'_, C> {
    type Cell = C;
    #[inline(always)]
    fn cells(&self) -> &[C] {
        self.0
    }
    #[inline(always)]
    fn scale(&self, vector: usize) -> f32 {
        self.1[vector]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_run::Seed;

    fn values(n: usize) -> Vec<f32> {
        let mut rng = Seed(5).rng();
        (0..n).map(|_| rng.normal() as f32).collect()
    }

    fn read(cells: &Cells, i: usize) -> f32 {
        match cells.view() {
            View::F32(x) => x[i],
            View::Bf16(x) => x[i].float(),
            View::Int8(x, scales) => x[i].float() * scales[i / cells.width],
        }
    }

    #[test]
    fn errors_are_those_of_the_format() {
        let (heads, width) = (2, 24);
        let values = values(heads * width);
        for dtype in KvDtype::ALL {
            let mut cells = Cells::new(dtype, 3, heads, width);
            cells.write(1, &values);
            for (i, (value, vector)) in values.iter().zip(values.chunks(width).flat_map(|v| std::iter::repeat_n(v, width))).enumerate() {
                let largest = vector.iter().fold(0f32, |m, x| m.max(x.abs()));
                let bound = match dtype {
                    KvDtype::F32 => 0.0,
                    KvDtype::Bf16 => value.abs() / 256.0,
                    KvDtype::Int8 => largest / 253.9,
                };
                assert!((read(&cells, heads * width + i) - value).abs() <= bound, "{dtype}: {i}");
            }
            assert_eq!(dtype.to_string().parse(), Ok(dtype));
        }
        assert!("fp8".parse::<KvDtype>().unwrap_err().contains("expected f32, bf16 or int8"));
    }

    /// If this fails, a damaged model answers in well-formed nonsense.
    #[test]
    fn what_is_not_finite_stays_so() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for dtype in KvDtype::ALL {
                let mut cells = Cells::new(dtype, 1, 1, 4);
                cells.write(0, &[1.0, bad, 0.0, -2.0]);
                assert!(!read(&cells, 1).is_finite(), "{dtype} {bad}");
            }
        }
        let mut cells = Cells::new(KvDtype::Int8, 1, 2, 2);
        cells.write(0, &[0.0, -0.0, 3e-39, 0.0]);
        assert_eq!([read(&cells, 0), read(&cells, 1)], [0.0, 0.0]);
        assert!((0..4).all(|i| read(&cells, i).is_finite()));
    }

    #[test]
    fn bytes_come_back() {
        let (heads, width) = (2, 5);
        for dtype in KvDtype::ALL {
            let mut cells = Cells::new(dtype, 4, heads, width);
            (0..4).for_each(|row| cells.write(row, &values(40)[row * 10..][..10]));
            let mut bytes = Vec::new();
            cells.read_bytes(0..2, &mut bytes);
            assert_eq!(bytes.len(), 2 * heads * dtype.vector_bytes(width), "{dtype}");
            cells.copy(2..4, 0);
            assert!((0..20).all(|i| read(&cells, i) == read(&cells, 20 + i)), "{dtype}");
            bytes.extend([7, 7]);
            assert_eq!(cells.write_bytes(2..4, &bytes), [7, 7]);
            let mut again = Vec::new();
            cells.read_bytes(2..4, &mut again);
            assert_eq!(again, bytes[..bytes.len() - 2], "{dtype}");
        }
    }
}
