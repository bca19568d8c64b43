//! Codes of 16 rows side by side: the layout for products with inputs in 8 bits (`kernels::int8`).
//!
//! A vector register holds four codes of each of 16 rows, so that one instruction multiplies them with four inputs and every lane is the sum of
//! a row: nothing is added across lanes, and a code that was read serves all inputs of a batch. A row is cut into units of 32 codes (16 where
//! groups are smaller) that share a scale of the inputs; a unit is lines of 64 bytes, line `v` with codes `4v..4v + 4` of each row. In 4 bits the low
//! halves of the lines are the first half of the unit and the high halves the second. Codes of 8 bits that need only 6 (Q6_K, Q5) take two lines
//! like codes of 4 bits, in units of 16, and one with the two upper bits of each: bits `2v` and `2v + 1` of a byte belong to code `4v`.
//!
//! Scales and mins of groups below 128 are half-precision numbers times a power of two of the whole matrix, so that the largest uses the range
//! of the format and none becomes too small for it.
//!
//! Legend: O output features, G groups.

use super::packed::half;
use super::{Codes, Rows, Zeros};
use crate::kernels::packed::{ALIGN, SMALL};
use half::f16;
use rayon::prelude::*;
use std::ops::Range;

/// Rows of a panel.
pub(crate) const ROWS: usize = 16;
/// Groups from this size on keep their scales in `f32`: the bytes do not matter.
const LARGE: usize = 128;

/// Bytes of one register: four codes of each row of a panel.
#[derive(Clone, Copy, PartialEq)]
#[repr(align(64))]
pub(crate) struct Line(pub [u8; 4 * ROWS]);

/// One number a row of each group of each panel.
#[derive(Clone, PartialEq)]
pub(crate) enum Numbers {
    /// Half precision; to be multiplied by [`Panels::factor`].
    F16(Vec<[u16; ROWS]>),
    /// As they are.
    F32(Vec<[f32; ROWS]>),
}

/// What is subtracted.
#[derive(Clone, PartialEq)]
pub(crate) enum Moved {
    /// From every code.
    Same(i32),
    /// From the codes of a group.
    Each(Vec<[i16; ROWS]>),
    /// From the scaled values of a group.
    Mins(Numbers),
}

/// Panels of 16 rows.
#[derive(Clone, PartialEq)]
pub struct Panels {
    bits: usize,
    /// What was added to signed codes to make them unsigned.
    offset: i16,
    unit: usize,
    units: usize,
    groups: usize,
    codes: Vec<Line>,
    scales: Numbers,
    moved: Moved,
    factor: f32,
}

/// Half-precision numbers, finite ones only, as floats: in integer arithmetic, so that loops over it vectorise on every processor.
#[inline(always)]
pub(crate) fn widen(bits: u16) -> f32 {
    let bits = u32::from(bits);
    // The exponents are 112 apart; a product moves them and also normalises what is subnormal.
    f32::from_bits((bits & 0x7fff) << 13 | (bits & 0x8000) << 16) * f32::from_bits((127 + 112) << 23)
}

fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

impl Numbers {
    fn get(&self, row: usize, group: usize, groups: usize, factor: f32) -> f32 {
        let at = row / ROWS * groups + group;
        match self {
            Self::F16(values) => widen(values[at][row % ROWS]) * factor,
            Self::F32(values) => values[at][row % ROWS],
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::F16(values) => 2 * ROWS * values.len(),
            Self::F32(values) => 4 * ROWS * values.len(),
        }
    }

    fn rows(&self, groups: usize, rows: &[usize]) -> Self {
        match self {
            Self::F16(values) => Self::F16(gather(values, groups, rows)),
            Self::F32(values) => Self::F32(gather(values, groups, rows)),
        }
    }
}

/// `[O, G]` -> panels, `[O / 16, G, 16]`.
fn interleave<T: Copy, U: Copy + Default>(values: &[T], groups: usize, convert: impl Fn(T) -> U) -> Vec<[U; ROWS]> {
    let outputs = values.len() / groups.max(1);
    let mut out = vec![[U::default(); ROWS]; outputs.div_ceil(ROWS) * groups];
    for (i, &value) in values.iter().enumerate() {
        let (row, group) = (i / groups, i % groups);
        out[row / ROWS * groups + group][row % ROWS] = convert(value);
    }
    out
}

/// Some rows of panels of `width` entries.
fn gather<T: Copy + Default>(values: &[[T; ROWS]], width: usize, rows: &[usize]) -> Vec<[T; ROWS]> {
    let mut out = vec![[T::default(); ROWS]; rows.len().div_ceil(ROWS) * width];
    for (to, &from) in rows.iter().enumerate() {
        for i in 0..width {
            out[to / ROWS * width + i][to % ROWS] = values[from / ROWS * width + i][from % ROWS];
        }
    }
    out
}

impl Panels {
    /// From codes in rows; none for tables, and for scales or mins that are no finite numbers.
    pub(crate) fn new(rows: &Rows, [outputs, inputs]: [usize; 2], group: usize) -> Option<Self> {
        let mins: &[f32] = if let Zeros::Mins(mins) = &rows.zeros { mins } else { &[] };
        let largest = rows.scales.iter().chain(mins).fold(0f32, |m, v| if m.is_finite() && v.is_finite() { m.max(v.abs()) } else { f32::NAN });
        if matches!(rows.codes, Codes::Table4(..)) || largest.is_nan() {
            return None;
        }
        let stride = super::packed::stride(group);
        let padded = (rows.groups * stride).next_multiple_of(ALIGN);
        let within = |codes: &[i8], range: Range<i8>| {
            let of_group = |g: usize, codes: &[i8]| codes[..group.min(inputs - g * group)].iter().all(|c| range.contains(c));
            codes.chunks_exact(padded).all(|row| row.chunks(stride).take(rows.groups).enumerate().all(|(g, codes)| of_group(g, codes)))
        };
        let (bits, offset): (usize, i16) = match &rows.codes {
            // Mins belong to codes moved by 128, which are then the ones of the file.
            Codes::Int8(codes) if within(codes, -128..-64) => (6, 128),
            Codes::Int8(codes) if mins.is_empty() && within(codes, -32..32) => (6, 32),
            Codes::Int8(_) => (8, 128),
            _ => (4, 0),
        };
        let (unit, groups) = (if bits == 6 { SMALL } else { stride.min(ALIGN) }, rows.groups);
        let units = groups * stride / unit;
        let (exponent, small) = (largest.max(f32::MIN_POSITIVE).log2().floor() as i32, group < LARGE);
        // The largest number becomes one between 2^14 and 2^15. Both powers must be normal numbers themselves.
        let shift = (14 - exponent).clamp(-126, 126);
        let (to, factor) = if small { (power_of_two(shift), power_of_two(-shift)) } else { (1.0, 1.0) };
        let numbers = |values: &[f32]| {
            if small {
                Numbers::F16(interleave(values, groups, |v| f16::from_f32(v * to).to_bits()))
            } else {
                Numbers::F32(interleave(values, groups, |v| v))
            }
        };
        let moved = match &rows.zeros {
            Zeros::None => Moved::Same(i32::from(offset)),
            Zeros::Same(zero) => Moved::Same(*zero as i32 + i32::from(offset)),
            Zeros::Each(zeros) => Moved::Each(interleave(zeros, groups, |z| z + offset)),
            Zeros::Mins(mins) => Moved::Mins(numbers(mins)),
        };
        let mut panels = Self { bits, offset, unit, units, groups, codes: Vec::new(), scales: numbers(&rows.scales), moved, factor };
        let lines = units * panels.lines();
        panels.codes = vec![Line([0; 4 * ROWS]); outputs.div_ceil(ROWS) * lines];
        let mut codes = std::mem::take(&mut panels.codes);
        // Padding may not fit in fewer bits; what it becomes is multiplied by zeros.
        codes.par_chunks_mut(lines.max(1)).enumerate().for_each(|(panel, lines)| {
            for row in panel * ROWS..outputs.min((panel + 1) * ROWS) {
                let quads = lines.iter_mut().map(|line| &mut line.0.as_chunks_mut::<4>().0[row % ROWS]);
                match &rows.codes {
                    // Four bytes stay together.
                    Codes::Int8(codes) if bits == 8 => {
                        for (to, from) in quads.zip(codes[row * padded..].as_chunks::<4>().0) {
                            *to = from.map(|c| c.cast_unsigned() ^ 0x80);
                        }
                    }
                    // The halves of a block of 32 are those of a unit.
                    Codes::Int4(codes) if unit == ALIGN => {
                        quads.zip(codes[row * padded / 2..].as_chunks::<4>().0).for_each(|(to, from)| *to = *from);
                    }
                    Codes::Int8(codes) => {
                        for (at, code) in codes[row * padded..][..units * unit].iter().enumerate() {
                            panels.put(lines, row, at, code.wrapping_add_unsigned(offset as u8).cast_unsigned());
                        }
                    }
                    Codes::Int4(codes) | Codes::Table4(codes, _) => {
                        for at in 0..units * unit {
                            let (byte, shift) = half(row, padded, at);
                            panels.put(lines, row, at, codes[byte] >> shift & 15);
                        }
                    }
                }
            }
        });
        panels.codes = codes;
        Some(panels)
    }

    /// The line inside its panel, the byte and the shift of code `at` of a row; of 6 bits, of the lower four.
    fn place(&self, row: usize, at: usize) -> (usize, usize, u32) {
        // A unit is a power of two.
        let (unit, i) = (at >> self.unit.ilog2(), at & (self.unit - 1));
        let half = if self.bits == 8 { self.unit } else { self.unit / 2 };
        let (i, shift) = if i < half { (i, 0) } else { (i - half, 4) };
        (unit * self.lines() + i / 4, row % ROWS * 4 + i % 4, shift)
    }

    /// As [`Panels::place`], of the upper two of 6 bits.
    fn place_top(&self, row: usize, at: usize) -> (usize, usize, u32) {
        let (unit, i) = (at >> self.unit.ilog2(), at & (self.unit - 1));
        (unit * self.lines() + 2, row % ROWS * 4 + i % 4, 2 * (i / 4) as u32)
    }

    /// Write a code into the lines of its panel, which are zero there.
    fn put(&self, lines: &mut [Line], row: usize, at: usize, code: u8) {
        let (line, byte, shift) = self.place(row, at);
        lines[line].0[byte] |= (if self.bits == 8 { code } else { code & 15 }) << shift;
        if self.bits == 6 {
            let (line, byte, shift) = self.place_top(row, at);
            lines[line].0[byte] |= (code >> 4 & 3) << shift;
        }
    }

    /// Back to rows; no value changes.
    pub(crate) fn to_rows(&self, outputs: usize) -> Rows {
        let padded = (self.units * self.unit).next_multiple_of(ALIGN);
        let each = |number: &dyn Fn(usize, usize) -> f32| (0..outputs).flat_map(|o| (0..self.groups).map(move |g| number(o, g))).collect();
        let codes = if self.bits > 4 {
            let mut codes = vec![0i8; outputs * padded];
            for (row, codes) in codes.chunks_exact_mut(padded.max(1)).enumerate() {
                (0..self.units * self.unit).for_each(|at| codes[at] = self.code(row, at).wrapping_sub(self.offset as u8).cast_signed());
            }
            Codes::Int8(codes)
        } else {
            let mut codes = vec![0u8; outputs * padded / 2];
            for row in 0..outputs {
                for at in 0..self.units * self.unit {
                    let (byte, shift) = half(row, padded, at);
                    codes[byte] |= self.code(row, at) << shift;
                }
            }
            Codes::Int4(codes)
        };
        let offset = self.offset;
        let zeros = match &self.moved {
            Moved::Same(zero) if *zero == i32::from(offset) => Zeros::None,
            Moved::Same(zero) => Zeros::Same((zero - i32::from(offset)) as f32),
            Moved::Each(zeros) => {
                let zero = |o: usize, g: usize| zeros[o / ROWS * self.groups + g][o % ROWS] - offset;
                Zeros::Each((0..outputs).flat_map(|o| (0..self.groups).map(move |g| (o, g))).map(|(o, g)| zero(o, g)).collect())
            }
            Moved::Mins(mins) => Zeros::Mins(each(&|o, g| mins.get(o, g, self.groups, self.factor))),
        };
        Rows { codes, scales: each(&|o, g| self.scales.get(o, g, self.groups, self.factor)), zeros, groups: self.groups }
    }

    /// Rows of several ranges, one after the other.
    pub(crate) fn rows(&self, outputs: usize, ranges: &[Range<usize>]) -> Self {
        let rows: Vec<usize> = ranges.iter().cloned().flatten().collect();
        assert!(rows.iter().all(|row| *row < outputs), "packed matrix: a range leaves it");
        let lines = self.units * self.lines();
        let mut codes = vec![Line([0; 4 * ROWS]); rows.len().div_ceil(ROWS) * lines];
        for (to, from) in rows.iter().enumerate() {
            for i in 0..lines {
                let four = &self.codes[from / ROWS * lines + i].0[from % ROWS * 4..][..4];
                codes[to / ROWS * lines + i].0[to % ROWS * 4..][..4].copy_from_slice(four);
            }
        }
        let moved = match &self.moved {
            Moved::Same(zero) => Moved::Same(*zero),
            Moved::Each(zeros) => Moved::Each(gather(zeros, self.groups, &rows)),
            Moved::Mins(mins) => Moved::Mins(mins.rows(self.groups, &rows)),
        };
        Self { codes, scales: self.scales.rows(self.groups, &rows), moved, ..*self }
    }

    /// Bits of a code: 4, 6 or 8.
    pub fn bits(&self) -> usize {
        self.bits
    }
    /// Codes that are multiplied with inputs of one scale: 32, or 16.
    pub fn unit(&self) -> usize {
        self.unit
    }
    /// Units of a row.
    pub fn units(&self) -> usize {
        self.units
    }
    /// Groups of a row.
    pub fn groups(&self) -> usize {
        self.groups
    }
    /// Lines of a unit.
    pub fn lines(&self) -> usize {
        self.unit * self.bits / 32
    }
    pub(crate) fn codes(&self) -> &[Line] {
        &self.codes
    }
    pub(crate) fn scales(&self) -> &Numbers {
        &self.scales
    }
    pub(crate) fn moved(&self) -> &Moved {
        &self.moved
    }
    /// A power of two that numbers in half precision are multiplied by.
    pub(crate) fn factor(&self) -> f32 {
        self.factor
    }

    /// The code at a place of a padded row, unsigned.
    pub(crate) fn code(&self, row: usize, at: usize) -> u8 {
        let lines = &self.codes[row / ROWS * self.units * self.lines()..];
        let at_place = |(line, byte, shift): (usize, usize, u32)| lines[line].0[byte] >> shift;
        let code = at_place(self.place(row, at));
        match self.bits {
            8 => code,
            6 => code & 15 | (at_place(self.place_top(row, at)) & 3) << 4,
            _ => code & 15,
        }
    }

    /// Scale, zero and min of one group.
    pub(crate) fn scaling(&self, row: usize, group: usize) -> [f32; 3] {
        let scale = self.scales.get(row, group, self.groups, self.factor);
        match &self.moved {
            Moved::Same(zero) => [scale, *zero as f32, 0.0],
            Moved::Each(zeros) => [scale, f32::from(zeros[row / ROWS * self.groups + group][row % ROWS]), 0.0],
            Moved::Mins(mins) => [scale, 0.0, mins.get(row, group, self.groups, self.factor)],
        }
    }

    /// The values of a row, in padded order.
    pub(crate) fn decode(&self, row: usize, out: &mut [f32]) {
        let stride = self.units * self.unit / self.groups.max(1);
        for (g, out) in out.chunks_exact_mut(stride.max(1)).take(self.groups).enumerate() {
            let [scale, zero, min] = self.scaling(row, g);
            for (i, out) in out.iter_mut().enumerate() {
                *out = (f32::from(self.code(row, g * stride + i)) - zero) * scale - min;
            }
        }
    }

    /// For [`super::Packed::describe`].
    pub(crate) fn kind(&self) -> &'static str {
        match self.moved {
            Moved::Same(_) => "",
            Moved::Each(_) => "asymmetric, ",
            Moved::Mins(_) => "mins, ",
        }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let moved = match &self.moved {
            Moved::Same(_) => 0,
            Moved::Each(zeros) => 2 * ROWS * zeros.len(),
            Moved::Mins(mins) => mins.bytes(),
        };
        4 * ROWS * self.codes.len() + self.scales.bytes() + moved
    }
}

#[cfg(test)]
mod tests {
    use super::widen;
    use half::f16;

    #[test]
    fn half_precision_is_widened_exactly() {
        for bits in (0..=u16::MAX).filter(|b| f16::from_bits(*b).is_finite()) {
            assert_eq!(widen(bits).to_bits(), f16::from_bits(bits).to_f32().to_bits(), "{bits:#x}");
        }
    }
}
