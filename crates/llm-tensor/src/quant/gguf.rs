//! The element types of GGUF files (llama.cpp) and their blocks.
//!
//! A row is a whole number of blocks; a block holds codes and the scales of its groups. Every supported type means `scale * (code - zero) - min`
//! with a group of 16 or 32 sharing scale and minimum, so all of them become a [`Packed`] without rounding anything again. Five bits are kept as
//! eight. Layouts follow `ggml-common.h` and `ggml-quants.c`; fixtures of the `gguf` Python package hold them in place (`fixtures/gguf`).
//!
//! Legend: I input features, O output features.

use super::{Meaning, Packed};
use half::{bf16, f16};
use std::fmt;

/// Elements of a block of the K types.
const SUPER: usize = 256;

/// An element type that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockType {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// 4 bits, groups of 32 with a scale.
    Q4_0,
    /// 4 bits, groups of 32 with scale and minimum.
    Q4_1,
    /// 5 bits, groups of 32 with a scale.
    Q5_0,
    /// 5 bits, groups of 32 with scale and minimum.
    Q5_1,
    /// 8 bits, groups of 32 with a scale.
    Q8_0,
    /// 4 bits, groups of 32 whose scales and minima have 6 bits.
    Q4K,
    /// 5 bits, groups of 32 whose scales and minima have 6 bits.
    Q5K,
    /// 6 bits, groups of 16 whose scales have 8 bits.
    Q6K,
}

/// What is known of each type that is read: ggml's number and name, elements and bytes of a block.
static TYPES: [(BlockType, u32, &str, usize, usize); 11] = [
    (BlockType::F32, 0, "F32", 1, 4),
    (BlockType::F16, 1, "F16", 1, 2),
    (BlockType::Q4_0, 2, "Q4_0", 32, 18),
    (BlockType::Q4_1, 3, "Q4_1", 32, 20),
    (BlockType::Q5_0, 6, "Q5_0", 32, 22),
    (BlockType::Q5_1, 7, "Q5_1", 32, 24),
    (BlockType::Q8_0, 8, "Q8_0", 32, 34),
    (BlockType::Q4K, 12, "Q4_K", SUPER, 144),
    (BlockType::Q5K, 13, "Q5_K", SUPER, 176),
    (BlockType::Q6K, 14, "Q6_K", SUPER, 210),
    (BlockType::Bf16, 30, "BF16", 1, 2),
];

/// Names of types that are not read, for errors.
const OTHERS: [(u32, &str); 21] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

impl fmt::Display for BlockType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().2)
    }
}

impl std::str::FromStr for BlockType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |text: &str| text.to_lowercase().replace('_', "");
        let found = TYPES.iter().find(|t| plain(t.2) == plain(text)).map(|t| t.0);
        found.ok_or_else(|| format!("`{text}` is no element type that is known here; {} are", names()))
    }
}

fn names() -> String {
    TYPES.map(|t| t.2).join(", ")
}

impl BlockType {
    fn row(self) -> &'static (Self, u32, &'static str, usize, usize) {
        TYPES.iter().find(|t| t.0 == self).unwrap_or(&TYPES[0])
    }

    /// From ggml's number. The error names the type and what is supported.
    pub fn from_number(number: u32) -> Result<Self, String> {
        TYPES.iter().find(|t| t.1 == number).map(|t| t.0).ok_or_else(|| {
            let name = OTHERS.iter().find(|t| t.0 == number).map_or_else(|| format!("number {number}"), |t| t.1.to_string());
            format!("elements of type {name} are not supported; supported are {}", names())
        })
    }

    /// ggml's number.
    pub fn number(self) -> u32 {
        self.row().1
    }

    /// Elements of a block.
    pub fn block(self) -> usize {
        self.row().3
    }

    /// Bytes of a row of `width` elements; none when it is no whole number of blocks.
    pub fn row_bytes(self, width: usize) -> Option<usize> {
        let (_, _, _, elements, bytes) = *self.row();
        if width.is_multiple_of(elements) { (width / elements).checked_mul(bytes) } else { None }
    }

    /// One number an element.
    pub fn is_dense(self) -> bool {
        self.block() == 1
    }

    /// Elements that share a scale, what their codes are, and which code means zero.
    fn groups(self) -> (usize, Meaning, u8) {
        match self {
            Self::Q4_0 => (32, Meaning::Bits4, 8),
            Self::Q4_1 | Self::Q4K => (32, Meaning::Bits4, 0),
            Self::Q5_1 | Self::Q5K => (32, Meaning::Bits8, 0),
            Self::Q6K => (16, Meaning::Bits8, 128),
            _ => (32, Meaning::Bits8, 128),
        }
    }

    fn has_minima(self) -> bool {
        matches!(self, Self::Q4_1 | Self::Q5_1 | Self::Q4K | Self::Q5K)
    }
}

/// Codes of a row with the scales and minima of its groups.
#[derive(Debug, Default)]
struct Row {
    codes: Vec<u8>,
    scales: Vec<f32>,
    /// Empty for types without.
    mins: Vec<f32>,
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Scale and minimum `j` of the eight pairs of 6 bits in 12 bytes.
fn six_bits(bytes: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) =
        if j < 4 { (bytes[j] & 63, bytes[j + 4] & 63) } else { (bytes[j + 4] & 15 | bytes[j - 4] >> 6 << 4, bytes[j + 4] >> 4 | bytes[j] >> 6 << 4) };
    (f32::from(scale), f32::from(min))
}

/// The low halves of 16 bytes, then the high ones.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().map(|b| b & 15).chain(bytes.iter().map(|b| b >> 4))
}

impl Row {
    fn clear(&mut self) {
        self.codes.clear();
        self.scales.clear();
        self.mins.clear();
    }

    /// Append a block of a type that is not dense.
    fn push(&mut self, kind: BlockType, block: &[u8]) {
        match kind {
            BlockType::Q8_0 => {
                self.scales.push(half_at(block, 0));
                self.codes.extend(block[2..34].iter().map(|&b| b ^ 128));
            }
            BlockType::Q4_0 | BlockType::Q4_1 => {
                self.scales.push(half_at(block, 0));
                let start = if kind == BlockType::Q4_1 { 4 } else { 2 };
                if kind == BlockType::Q4_1 {
                    self.mins.push(-half_at(block, 2));
                }
                self.codes.extend(nibbles(&block[start..start + 16]));
            }
            BlockType::Q5_0 | BlockType::Q5_1 => {
                self.scales.push(half_at(block, 0));
                let (start, moved) = if kind == BlockType::Q5_1 { (4, 0) } else { (2, 128 - 16) };
                if kind == BlockType::Q5_1 {
                    self.mins.push(-half_at(block, 2));
                }
                let high = u32::from_le_bytes([block[start], block[start + 1], block[start + 2], block[start + 3]]);
                let low = nibbles(&block[start + 4..start + 20]).enumerate();
                self.codes.extend(low.map(|(j, low)| (low | ((high >> j & 1) as u8 * 16)) + moved));
            }
            BlockType::Q4K | BlockType::Q5K => {
                let (d, d_min) = (half_at(block, 0), half_at(block, 2));
                for j in 0..8 {
                    let (scale, min) = six_bits(&block[4..16], j);
                    self.scales.push(d * scale);
                    self.mins.push(d_min * min);
                }
                let (high, low) = if kind == BlockType::Q5K { (Some(&block[16..48]), &block[48..176]) } else { (None, &block[16..144]) };
                for j in 0..8 {
                    let bytes = low[j / 2 * 32..][..32].iter().enumerate();
                    self.codes.extend(bytes.map(|(l, b)| (b >> (j % 2 * 4) & 15) | high.map_or(0, |high| (high[l] >> j & 1) << 4)));
                }
            }
            BlockType::Q6K => {
                let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], half_at(block, 208));
                self.scales.extend(scales.iter().map(|&s| d * f32::from(s.cast_signed())));
                for y in 0..SUPER {
                    let (n, k, l) = (y / 128, y % 128 / 32, y % 32);
                    let four = low[64 * n + k % 2 * 32 + l] >> (k / 2 * 4) & 15;
                    let two = high[32 * n + l] >> (2 * k) & 3;
                    self.codes.push((four | two << 4) + (128 - 32));
                }
            }
            BlockType::F32 | BlockType::F16 | BlockType::Bf16 => {}
        }
    }
}

/// Append the values of whole rows.
pub fn dequantize(kind: BlockType, bytes: &[u8], out: &mut Vec<f32>) {
    match kind {
        BlockType::F32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b))),
        BlockType::F16 => out.extend(bytes.as_chunks::<2>().0.iter().map(|&b| f16::from_le_bytes(b).to_f32())),
        BlockType::Bf16 => out.extend(bytes.as_chunks::<2>().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32())),
        _ => {
            let (group, _, zero) = kind.groups();
            let mut row = Row::default();
            for block in bytes.chunks_exact(kind.row().4) {
                row.clear();
                row.push(kind, block);
                for (g, codes) in row.codes.chunks_exact(group).enumerate() {
                    let (scale, min) = (row.scales[g], row.mins.get(g).copied().unwrap_or(0.0));
                    out.extend(codes.iter().map(|&code| scale * (f32::from(code) - f32::from(zero)) - min));
                }
            }
        }
    }
}

/// The matrix `[O, I]` for the kernels; its row `r` is row `source(r)` of `bytes`. None for dense types. The error says what of the bytes is
/// damaged.
pub fn packed(kind: BlockType, shape: [usize; 2], bytes: &[u8], source: impl Fn(usize) -> usize) -> Result<Option<Packed>, String> {
    if kind.is_dense() {
        return Ok(None);
    }
    let [outputs, inputs] = shape;
    let width = kind.row_bytes(inputs).filter(|width| *width > 0 && outputs.checked_mul(*width).is_some_and(|n| n <= bytes.len()));
    let width = width.ok_or_else(|| format!("a matrix {shape:?} of {kind} does not fit {} bytes", bytes.len()))?;
    let (group, meaning, zero) = kind.groups();
    let mut all = Row::default();
    all.codes.reserve_exact(outputs * inputs);
    for r in 0..outputs {
        let row = bytes.get(source(r) * width..).and_then(|rest| rest.get(..width)).ok_or_else(|| format!("row {r} of {outputs} is not there"))?;
        row.chunks_exact(kind.row().4).for_each(|block| all.push(kind, block));
    }
    if let Some(at) = all.scales.iter().chain(&all.mins).position(|s| !s.is_finite()) {
        return Err(format!("the scales of row {} are not all finite; the checkpoint is damaged", at % all.scales.len() / (inputs / group)));
    }
    let Row { codes, scales, mins } = all;
    Ok(Some(if kind.has_minima() {
        Packed::with_mins(shape, group, &codes, meaning, scales, mins)
    } else {
        let zeros = vec![i16::from(zero); scales.len()];
        Packed::new(shape, group, None, &codes, meaning, scales, Some(zeros))
    }))
}

/// Types that [`quantize`] can write.
pub const WRITTEN: [BlockType; 5] = [BlockType::F32, BlockType::F16, BlockType::Bf16, BlockType::Q8_0, BlockType::Q4_0];

/// Append whole rows in that type, rounded as ggml's reference does; none for a type that is not in [`WRITTEN`].
pub fn quantize(kind: BlockType, values: &[f32], out: &mut Vec<u8>) -> Option<()> {
    match kind {
        BlockType::F32 => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        BlockType::F16 => out.extend(values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes())),
        BlockType::Bf16 => out.extend(values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes())),
        BlockType::Q8_0 => {
            for block in values.as_chunks::<32>().0 {
                let d = block.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0;
                let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
                out.extend(f16::from_f32(d).to_le_bytes());
                out.extend(block.iter().map(|v| ((v * inverse).round() as i8).cast_unsigned()));
            }
        }
        BlockType::Q4_0 => {
            for block in values.as_chunks::<32>().0 {
                // The element of largest magnitude becomes -8, the only code without a counterpart.
                let largest = block.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
                let d = largest / -8.0;
                let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
                let code = |v: f32| ((f64::from(v) * f64::from(inverse) + 8.5) as u8).min(15);
                out.extend(f16::from_f32(d).to_le_bytes());
                out.extend((0..16).map(|j| code(block[j]) | code(block[j + 16]) << 4));
            }
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_that_are_not_read_are_named() {
        for (number, name) in [(10, "Q2_K"), (39, "MXFP4"), (77, "number 77")] {
            let message = BlockType::from_number(number).unwrap_err();
            assert!(message.contains(name) && message.contains("Q4_K, Q5_K, Q6_K"), "{message}");
        }
        for (kind, number, name, ..) in TYPES {
            assert_eq!((BlockType::from_number(number), name.parse()), (Ok(kind), Ok(kind)));
        }
    }

    /// What is written is what the reader makes of it, within half a step.
    #[test]
    fn written_blocks_are_read_again() {
        let values: Vec<f32> = (0..128).map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0).collect();
        for kind in WRITTEN {
            let (mut bytes, mut again) = (Vec::new(), Vec::new());
            quantize(kind, &values, &mut bytes).unwrap();
            assert_eq!(Some(bytes.len()), kind.row_bytes(values.len()), "{kind}");
            dequantize(kind, &bytes, &mut again);
            let step = match kind {
                BlockType::F32 => 0.0,
                BlockType::F16 => 2e-3,
                BlockType::Bf16 => 1.2e-2,
                BlockType::Q8_0 => 0.013,
                _ => 0.41,
            };
            let worst = values.iter().zip(&again).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(again.len() == values.len() && worst <= step, "{kind}: off by {worst}");
        }
    }

    #[test]
    fn a_matrix_keeps_its_values_and_rows_go_where_they_are_sent() {
        for (kind, ..) in TYPES.into_iter().filter(|t| !t.0.is_dense()) {
            let (rows, inputs) = (3, 2 * kind.block());
            let width = kind.row_bytes(inputs).unwrap();
            let mut bytes: Vec<u8> = (0..rows * width).map(|i| (i * 89 % 251) as u8).collect();
            // Scales that are finite: small halves in their places.
            for block in bytes.chunks_exact_mut(kind.row().4) {
                let places: &[usize] = if kind == BlockType::Q6K {
                    &[208]
                } else if kind.has_minima() {
                    &[0, 2]
                } else {
                    &[0]
                };
                places.iter().for_each(|&at| block[at..at + 2].copy_from_slice(&f16::from_f32(0.02).to_le_bytes()));
            }
            let mut want = Vec::new();
            [2, 0, 1].iter().for_each(|r| dequantize(kind, &bytes[r * width..][..width], &mut want));
            let matrix = packed(kind, [rows, inputs], &bytes, |r| (r + 2) % 3).unwrap().unwrap();
            let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
            for (got, want) in matrix.dequantize().iter().zip(&want) {
                assert!((got - want).abs() <= 2e-6 * largest, "{kind}: {got} {want}");
            }
            assert!(packed(kind, [rows + 1, inputs], &bytes, |r| r).is_err());
        }
    }

    #[test]
    fn damaged_scales_are_an_error() {
        let mut bytes = vec![1u8; 68];
        bytes[34..36].copy_from_slice(&f16::NAN.to_le_bytes());
        let message = packed(BlockType::Q8_0, [2, 32], &bytes, |r| r).unwrap_err();
        assert!(message.contains("row 1"), "{message}");
    }
}
