//! Block-wise dynamic 8-bit quantisation (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization", section 2.2): the numbers of a
//! block are divided by its largest magnitude, and each becomes the nearest of 256 values whose spacing is finer near zero.
//!
//! The values are those of bitsandbytes' `create_dynamic_map`: seven decades up to 1, decade i divided into 2^i equal parts (2^(i + 1) without a
//! sign) of which the middles are taken, then 0 and 1. Codes are stored four in a 32-bit word, the first in the low byte, because every
//! backend has such words; a block is [`BLOCK`] elements, the last one filled up.
//!
//! The nearest value is found without a search: the upper 16 bits of a float (sign, exponent, 7 bits of mantissa) are an index into a table,
//! and a bucket of the table holds at most one border between two values.

use std::sync::OnceLock;

/// Elements that share a largest magnitude.
pub const BLOCK: usize = 256;

/// Words of a block.
pub const WORDS: usize = BLOCK / 4;

/// 256 values in ascending order.
#[derive(Debug)]
pub struct Map {
    /// The values.
    pub values: [f32; 256],
    /// Border between a code and the next; infinity after the last.
    pub above: [f32; 256],
    /// Code of the smallest number of a bucket.
    first: [u8; 1 << 16],
}

impl Map {
    /// For numbers of both signs: first moments.
    pub fn signed() -> &'static Self {
        static MAP: OnceLock<Map> = OnceLock::new();
        MAP.get_or_init(|| Self::new(true))
    }

    /// For numbers that are not negative: second moments.
    pub fn unsigned() -> &'static Self {
        static MAP: OnceLock<Map> = OnceLock::new();
        MAP.get_or_init(|| Self::new(false))
    }

    fn new(signed: bool) -> Self {
        let mut values = [0f32; 256];
        values[1] = 1.0;
        let mut filled = 2;
        for decade in 0..7 {
            let parts = 1usize << if signed { decade } else { decade + 1 };
            for part in 0..parts {
                let value = (0.1 + 0.9 * (part as f64 + 0.5) / parts as f64) * 10f64.powi(decade - 6);
                values[filled] = value as f32;
                filled += 1;
                if signed {
                    values[filled] = -value as f32;
                    filled += 1;
                }
            }
        }
        values.sort_by(f32::total_cmp);
        let mut above = [f32::INFINITY; 256];
        for (border, pair) in above.iter_mut().zip(values.windows(2)) {
            *border = ((f64::from(pair[0]) + f64::from(pair[1])) / 2.0) as f32;
        }
        let smallest = |bucket: u32| f32::from_bits(bucket << 16 | if bucket < 1 << 15 { 0 } else { 0xFFFF });
        let mut first = [0u8; 1 << 16];
        for (code, bucket) in first.iter_mut().zip(0u32..) {
            *code = nearest(&above, smallest(bucket));
        }
        Self { values, above, first }
    }

    /// Code of the value nearest to `x`.
    #[inline(always)]
    pub fn code(&self, x: f32) -> u8 {
        let code = self.first[usize::from((x.to_bits() >> 16) as u16)];
        code + u8::from(x > self.above[usize::from(code)])
    }

    /// Numbers of one block.
    #[inline(always)]
    pub(super) fn decode(&self, words: &[i32; WORDS], absmax: f32, out: &mut [f32; BLOCK]) {
        for (word, out) in words.iter().zip(out.as_chunks_mut::<4>().0) {
            for (code, out) in word.to_le_bytes().into_iter().zip(out) {
                *out = self.values[usize::from(code)] * absmax;
            }
        }
    }

    /// Codes of one block of numbers whose largest magnitude is `absmax`; a positive number gets at least code `least`.
    #[inline(always)]
    pub(super) fn encode(&self, numbers: &[f32; BLOCK], absmax: f32, least: u8, words: &mut [i32; WORDS]) {
        let divisor = if absmax > 0.0 { absmax } else { 1.0 };
        for (numbers, word) in numbers.as_chunks::<4>().0.iter().zip(words) {
            let codes = numbers.map(|x| {
                let code = self.code(x / divisor);
                if x > 0.0 { code.max(least) } else { code }
            });
            *word = i32::from_le_bytes(codes);
        }
    }
}

/// By the definition: how many borders lie below.
fn nearest(above: &[f32; 256], x: f32) -> u8 {
    above[..255].partition_point(|&border| border < x) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// If this fails, some numbers are stored as a value that is not the nearest.
    #[test]
    fn no_bucket_holds_two_borders() {
        for map in [Map::signed(), Map::unsigned()] {
            for bucket in 0..1u32 << 16 {
                let ends = [f32::from_bits(bucket << 16), f32::from_bits(bucket << 16 | 0xFFFF)];
                if ends.iter().all(|x| x.abs() <= 1.0) {
                    for x in ends {
                        assert_eq!(map.code(x), nearest(&map.above, x), "{x:e}");
                    }
                    let [a, b] = ends.map(|x| nearest(&map.above, x));
                    assert!(a.abs_diff(b) <= 1, "codes {a} to {b} in the bucket of {:e}", ends[0]);
                }
            }
            assert!(map.values.is_sorted() && map.values.contains(&0.0) && map.values[255] == 1.0);
        }
    }

    proptest! {
        #[test]
        fn the_code_is_that_of_the_nearest_value(x in -1f32..1f32, small in 0i32..8) {
            let x = x * 10f32.powi(-small);
            for map in [Map::signed(), Map::unsigned()] {
                let got = map.values[usize::from(map.code(x))];
                let best = map.values.iter().map(|v| (v - x).abs()).fold(f32::INFINITY, f32::min);
                prop_assert!((got - x).abs() <= best * (1.0 + 1e-5), "{} for {}", got, x);
            }
        }
    }
}
