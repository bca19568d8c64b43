//! Round to nearest: each weight by itself, without data.
//!
//! In groups of b bits: symmetric with `scale = 2 max|w| / (2^b - 1)` around the middle code, asymmetric between the smallest and the largest weight (zero
//! included); scales are rounded to float16 first, as the layout keeps them.
//!
//! Legend: I input features, O output features, G groups.

use half::f16;
use llm_tensor::quant::gptq::Grouped;

/// Scale and zero point of a group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// Distance of two codes.
    pub scale: f16,
    /// The code of 0.
    pub zero: u8,
    /// Largest code.
    pub top: u8,
}

impl Grid {
    /// The grid that covers `weights` in `bits` bits.
    pub fn of(weights: impl IntoIterator<Item = f32>, bits: usize, symmetric: bool) -> Self {
        let (low, high) = weights.into_iter().fold((0f32, 0f32), |(low, high), w| (low.min(w), high.max(w)));
        let top = ((1u32 << bits) - 1) as u8;
        let range = if symmetric { 2.0 * high.max(-low) } else { high - low };
        // A group of zeros: any scale will do.
        let scale = if range > 0.0 { f16::from_f32(range / f32::from(top)).max(f16::MIN_POSITIVE_SUBNORMAL) } else { f16::ONE };
        let zero = if symmetric {
            top / 2 + 1
        } else {
            // A stored zero point is one less, so 0 is out of reach.
            (-low / scale.to_f32()).round_ties_even().clamp(1.0, f32::from(top)) as u8
        };
        Self { scale, zero, top }
    }

    /// Nearest code.
    pub fn code(self, weight: f32) -> u8 {
        ((weight / self.scale.to_f32()).round_ties_even() + f32::from(self.zero)).clamp(0.0, f32::from(self.top)) as u8
    }

    /// The value of a code.
    pub fn value(self, code: u8) -> f32 {
        (f32::from(code) - f32::from(self.zero)) * self.scale.to_f32()
    }
}

/// `bits` bits in groups of `group` inputs.
pub fn groups(weights: &[f32], shape: [usize; 2], bits: usize, group: usize, symmetric: bool) -> Grouped {
    let inputs = shape[1];
    let (mut codes, mut scales, mut zeros) = (Vec::with_capacity(weights.len()), Vec::new(), Vec::new());
    for row in weights.chunks_exact(inputs) {
        for group in row.chunks(group) {
            let grid = Grid::of(group.iter().copied(), bits, symmetric);
            codes.extend(group.iter().map(|&w| grid.code(w)));
            scales.push(grid.scale);
            zeros.push(grid.zero);
        }
    }
    Grouped { shape, bits, codes, scales, zeros, g_idx: (0..inputs).map(|i| (i / group) as u32).collect() }
}
