//! Whole-number dot products of 16 rows of codes with one input: plain arrays, AVX2, AVX-VNNI, AVX-512 VNNI, NEON with and without `sdot`.
//!
//! A line of [`crate::quant::Panels`] holds four codes of each of 16 rows; an input gives four numbers, the same for all rows. The sums are exact on every
//! processor, and what follows in floats is the same products and sums in the same order (no fused ones), so all give the same bits.
//!
//! Instructions differ in which factor may be signed. `vpdpbusd` and `vpmaddubsw` want one unsigned: codes of 4 bits are, and bytes are
//! stored so. Where bytes are multiplied signed instead ([`Dots::OFFSET`]) the difference is made up for at the start of the sum.

use crate::quant::widen;

/// Rows of a panel, lanes of a vector.
pub(super) const ROWS: usize = 16;
/// Bytes of a line.
pub(super) const LINE: usize = 4 * ROWS;

/// Vectors of 16 lanes for one instruction set.
pub(super) trait Dots: Copy {
    /// 16 sums.
    type I: Copy;
    /// 16 floats.
    type F: Copy;
    /// Four bytes of each row.
    type Bytes: Copy;
    /// Four codes of 4 or 6 bits of each row.
    type Halves: Copy;
    /// What [`Dots::bytes`] takes from every code.
    const OFFSET: i32;
    /// Inputs that are multiplied at once.
    const WIDE: usize;
    /// Ask for the memory there, whatever is there.
    #[inline(always)]
    fn fetch(_at: *const u8) {}
    fn start(sum: i32) -> Self::I;
    fn bytes(line: &[u8; LINE]) -> Self::Bytes;
    fn halves(line: &[u8; LINE]) -> (Self::Halves, Self::Halves);
    /// A line as it is: two upper bits of four quads of codes in each byte.
    fn tops(line: &[u8; LINE]) -> Self::Halves;
    /// Codes of 6 bits from their lower four and the bits `2 * quad` and `2 * quad + 1` of `tops`.
    fn raised(codes: Self::Halves, tops: Self::Halves, quad: usize) -> Self::Halves;
    /// `sum + codes * x`, where `x` holds four signed bytes between -127 and 127.
    fn dot_bytes(sum: Self::I, codes: Self::Bytes, x: i32) -> Self::I;
    /// Of codes of at most 6 bits.
    fn dot_halves(sum: Self::I, low: Self::Halves, high: Self::Halves, x_low: i32, x_high: i32) -> Self::I;
    fn float(sums: Self::I) -> Self::F;
    fn splat(x: f32) -> Self::F;
    fn add(a: Self::F, b: Self::F) -> Self::F;
    fn difference(a: Self::F, b: Self::F) -> Self::F;
    fn product(a: Self::F, b: Self::F) -> Self::F;
    fn load(x: &[f32; ROWS]) -> Self::F;
    /// From half precision (finite numbers).
    fn half(bits: &[u16; ROWS]) -> Self::F;
    fn whole(numbers: &[i16; ROWS]) -> Self::F;
    fn store(out: &mut [f32; ROWS], a: Self::F);
}

/// Arrays.
#[derive(Clone, Copy)]
pub(super) struct Plain;

#[inline(always)]
fn floats(f: impl Fn(usize) -> f32) -> [f32; ROWS] {
    std::array::from_fn(f)
}

impl Dots for Plain {
    type I = [i32; ROWS];
    type F = [f32; ROWS];
    type Bytes = [u8; LINE];
    type Halves = [u8; LINE];
    const OFFSET: i32 = 0;
    const WIDE: usize = 2;
    #[inline(always)]
    fn start(sum: i32) -> Self::I {
        [sum; ROWS]
    }
    #[inline(always)]
    fn bytes(line: &[u8; LINE]) -> Self::Bytes {
        *line
    }
    #[inline(always)]
    fn halves(line: &[u8; LINE]) -> (Self::Halves, Self::Halves) {
        (line.map(|b| b & 15), line.map(|b| b >> 4))
    }
    #[inline(always)]
    fn tops(line: &[u8; LINE]) -> Self::Halves {
        *line
    }
    #[inline(always)]
    fn raised(codes: Self::Halves, tops: Self::Halves, quad: usize) -> Self::Halves {
        std::array::from_fn(|i| codes[i] | (tops[i] >> (2 * quad) & 3) << 4)
    }
    #[inline(always)]
    fn dot_bytes(mut sum: Self::I, codes: Self::Bytes, x: i32) -> Self::I {
        let x = x.to_le_bytes().map(|b| i32::from(b.cast_signed()));
        for (sum, codes) in sum.iter_mut().zip(codes.as_chunks::<4>().0) {
            for (code, x) in codes.iter().zip(x) {
                *sum += i32::from(*code) * x;
            }
        }
        sum
    }
    #[inline(always)]
    fn dot_halves(sum: Self::I, low: Self::Halves, high: Self::Halves, x_low: i32, x_high: i32) -> Self::I {
        Self::dot_bytes(Self::dot_bytes(sum, low, x_low), high, x_high)
    }
    #[inline(always)]
    fn float(sums: Self::I) -> Self::F {
        floats(|i| sums[i] as f32)
    }
    #[inline(always)]
    fn splat(x: f32) -> Self::F {
        [x; ROWS]
    }
    #[inline(always)]
    fn add(a: Self::F, b: Self::F) -> Self::F {
        floats(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn difference(a: Self::F, b: Self::F) -> Self::F {
        floats(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn product(a: Self::F, b: Self::F) -> Self::F {
        floats(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn load(x: &[f32; ROWS]) -> Self::F {
        *x
    }
    #[inline(always)]
    fn half(bits: &[u16; ROWS]) -> Self::F {
        floats(|i| widen(bits[i]))
    }
    #[inline(always)]
    fn whole(numbers: &[i16; ROWS]) -> Self::F {
        floats(|i| f32::from(numbers[i]))
    }
    #[inline(always)]
    fn store(out: &mut [f32; ROWS], a: Self::F) {
        *out = a;
    }
}

/// AVX-512 with VNNI: one register. Only named inside functions compiled for it.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Vnni512;

#[cfg(target_arch = "x86_64")]
mod vnni512 {
    use super::{Dots, LINE, ROWS, Vnni512};
    use std::arch::x86_64::*;

    // SAFETY (all blocks of this implementation): callers are functions that `int8` compiles for these instructions, on processors where
    // `Isa::best` found them; loads and stores are unaligned ones inside arrays whose lengths the types state.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Dots for Vnni512 {
        type I = __m512i;
        type F = __m512;
        type Bytes = __m512i;
        type Halves = __m512i;
        const OFFSET: i32 = 0;
        const WIDE: usize = 8;
        #[inline(always)]
        fn fetch(at: *const u8) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }
        #[inline(always)]
        fn start(sum: i32) -> __m512i {
            unsafe { _mm512_set1_epi32(sum) }
        }
        #[inline(always)]
        fn bytes(line: &[u8; LINE]) -> __m512i {
            unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
        }
        #[inline(always)]
        fn halves(line: &[u8; LINE]) -> (__m512i, __m512i) {
            unsafe {
                let (both, mask) = (_mm512_loadu_si512(line.as_ptr().cast()), _mm512_set1_epi8(15));
                (_mm512_and_si512(both, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(both), mask))
            }
        }
        #[inline(always)]
        fn tops(line: &[u8; LINE]) -> __m512i {
            Self::bytes(line)
        }
        #[inline(always)]
        fn raised(codes: __m512i, tops: __m512i, quad: usize) -> __m512i {
            // Shifts move bits between bytes too, to places that the mask clears.
            unsafe {
                let tops = match quad {
                    0 => _mm512_slli_epi16::<4>(tops),
                    1 => _mm512_slli_epi16::<2>(tops),
                    2 => tops,
                    _ => _mm512_srli_epi16::<2>(tops),
                };
                _mm512_or_si512(codes, _mm512_and_si512(tops, _mm512_set1_epi8(0x30)))
            }
        }
        #[inline(always)]
        fn dot_bytes(sum: __m512i, codes: __m512i, x: i32) -> __m512i {
            unsafe { _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(x)) }
        }
        #[inline(always)]
        fn dot_halves(sum: __m512i, low: __m512i, high: __m512i, x_low: i32, x_high: i32) -> __m512i {
            Self::dot_bytes(Self::dot_bytes(sum, low, x_low), high, x_high)
        }
        #[inline(always)]
        fn float(sums: __m512i) -> __m512 {
            unsafe { _mm512_cvtepi32_ps(sums) }
        }
        #[inline(always)]
        fn splat(x: f32) -> __m512 {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        fn add(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        fn difference(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        fn product(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        fn load(x: &[f32; ROWS]) -> __m512 {
            unsafe { _mm512_loadu_ps(x.as_ptr()) }
        }
        #[inline(always)]
        fn half(bits: &[u16; ROWS]) -> __m512 {
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(bits.as_ptr().cast())) }
        }
        #[inline(always)]
        fn whole(numbers: &[i16; ROWS]) -> __m512 {
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256(numbers.as_ptr().cast()))) }
        }
        #[inline(always)]
        fn store(out: &mut [f32; ROWS], a: __m512) {
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), a) }
        }
    }
}

/// AVX2 with F16C: two registers; with `VNNI` also AVX-VNNI. Only named inside functions compiled for it.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx2<const VNNI: bool>;

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Avx2, Dots, LINE, ROWS};
    use std::arch::x86_64::*;

    type Pair<T> = [T; 2];

    #[inline(always)]
    fn pair<T>(f: impl Fn(usize) -> T) -> Pair<T> {
        [f(0), f(1)]
    }

    // SAFETY (all blocks of this implementation): as for `Vnni512`.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl<const VNNI: bool> Dots for Avx2<VNNI> {
        type I = Pair<__m256i>;
        type F = Pair<__m256>;
        type Bytes = Pair<__m256i>;
        type Halves = Pair<__m256i>;
        const OFFSET: i32 = if VNNI { 0 } else { 128 };
        const WIDE: usize = 4;
        #[inline(always)]
        fn fetch(at: *const u8) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }
        #[inline(always)]
        fn start(sum: i32) -> Self::I {
            unsafe { [_mm256_set1_epi32(sum); 2] }
        }
        #[inline(always)]
        fn bytes(line: &[u8; LINE]) -> Self::Bytes {
            pair(|i| unsafe {
                let codes = _mm256_loadu_si256(line.as_ptr().add(32 * i).cast());
                if VNNI { codes } else { _mm256_xor_si256(codes, _mm256_set1_epi8(-128)) }
            })
        }
        #[inline(always)]
        fn halves(line: &[u8; LINE]) -> (Self::Halves, Self::Halves) {
            let both = pair(|i| unsafe { _mm256_loadu_si256(line.as_ptr().add(32 * i).cast()) });
            let masked = |x: __m256i| unsafe { _mm256_and_si256(x, _mm256_set1_epi8(15)) };
            (pair(|i| masked(both[i])), pair(|i| masked(unsafe { _mm256_srli_epi16::<4>(both[i]) })))
        }
        #[inline(always)]
        fn tops(line: &[u8; LINE]) -> Self::Halves {
            pair(|i| unsafe { _mm256_loadu_si256(line.as_ptr().add(32 * i).cast()) })
        }
        #[inline(always)]
        fn raised(codes: Self::Halves, tops: Self::Halves, quad: usize) -> Self::Halves {
            pair(|i| unsafe {
                let tops = match quad {
                    0 => _mm256_slli_epi16::<4>(tops[i]),
                    1 => _mm256_slli_epi16::<2>(tops[i]),
                    2 => tops[i],
                    _ => _mm256_srli_epi16::<2>(tops[i]),
                };
                _mm256_or_si256(codes[i], _mm256_and_si256(tops, _mm256_set1_epi8(0x30)))
            })
        }
        #[inline(always)]
        fn dot_bytes(sum: Self::I, codes: Self::Bytes, x: i32) -> Self::I {
            pair(|i| unsafe {
                let x = _mm256_set1_epi32(x);
                if VNNI {
                    return _mm256_dpbusd_avx_epi32(sum[i], codes[i], x);
                }
                // The sign moves from the codes to the input, so that one factor is unsigned: at most 2 * 128 * 127 a pair.
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes[i]), _mm256_sign_epi8(x, codes[i]));
                _mm256_add_epi32(sum[i], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            })
        }
        #[inline(always)]
        fn dot_halves(sum: Self::I, low: Self::Halves, high: Self::Halves, x_low: i32, x_high: i32) -> Self::I {
            pair(|i| unsafe {
                let (x_low, x_high) = (_mm256_set1_epi32(x_low), _mm256_set1_epi32(x_high));
                if VNNI {
                    return _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(sum[i], low[i], x_low), high[i], x_high);
                }
                // At most 4 * 63 * 127 in 16 bits.
                let pairs = _mm256_add_epi16(_mm256_maddubs_epi16(low[i], x_low), _mm256_maddubs_epi16(high[i], x_high));
                _mm256_add_epi32(sum[i], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            })
        }
        #[inline(always)]
        fn float(sums: Self::I) -> Self::F {
            pair(|i| unsafe { _mm256_cvtepi32_ps(sums[i]) })
        }
        #[inline(always)]
        fn splat(x: f32) -> Self::F {
            unsafe { [_mm256_set1_ps(x); 2] }
        }
        #[inline(always)]
        fn add(a: Self::F, b: Self::F) -> Self::F {
            pair(|i| unsafe { _mm256_add_ps(a[i], b[i]) })
        }
        #[inline(always)]
        fn difference(a: Self::F, b: Self::F) -> Self::F {
            pair(|i| unsafe { _mm256_sub_ps(a[i], b[i]) })
        }
        #[inline(always)]
        fn product(a: Self::F, b: Self::F) -> Self::F {
            pair(|i| unsafe { _mm256_mul_ps(a[i], b[i]) })
        }
        #[inline(always)]
        fn load(x: &[f32; ROWS]) -> Self::F {
            pair(|i| unsafe { _mm256_loadu_ps(x.as_ptr().add(8 * i)) })
        }
        #[inline(always)]
        fn half(bits: &[u16; ROWS]) -> Self::F {
            pair(|i| unsafe { _mm256_cvtph_ps(_mm_loadu_si128(bits.as_ptr().add(8 * i).cast())) })
        }
        #[inline(always)]
        fn whole(numbers: &[i16; ROWS]) -> Self::F {
            pair(|i| unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128(numbers.as_ptr().add(8 * i).cast()))) })
        }
        #[inline(always)]
        fn store(out: &mut [f32; ROWS], a: Self::F) {
            for (i, a) in a.into_iter().enumerate() {
                unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(8 * i), a) }
            }
        }
    }
}

/// NEON, which every 64-bit ARM has: four registers; with `DOT` also its dot products. Those only inside functions compiled for them.
#[cfg(target_arch = "aarch64")]
#[derive(Clone, Copy)]
pub(super) struct Neon<const DOT: bool>;

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::{Dots, LINE, Neon, ROWS};
    use crate::quant::widen;
    use std::arch::aarch64::*;

    type Four<T> = [T; 4];

    #[inline(always)]
    fn four<T>(f: impl Fn(usize) -> T) -> Four<T> {
        std::array::from_fn(f)
    }

    /// `sum + a * b`, four products a lane. Written out, since its intrinsic is not stable yet.
    ///
    /// # Safety
    /// The processor must have the dot-product extension.
    #[inline(always)]
    unsafe fn sdot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: one instruction on registers, which the caller says exists.
        unsafe {
            std::arch::asm!(
                ".arch_extension dotprod",
                "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
                inout(vreg) sum, in(vreg) a, in(vreg) b,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sum
    }

    // SAFETY (all blocks of this implementation): NEON is part of the target; loads and stores are inside arrays whose lengths the types state.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl<const DOT: bool> Dots for Neon<DOT> {
        type I = Four<int32x4_t>;
        type F = Four<float32x4_t>;
        type Bytes = Four<int8x16_t>;
        type Halves = Four<int8x16_t>;
        const OFFSET: i32 = 128;
        const WIDE: usize = 4;
        #[inline(always)]
        fn start(sum: i32) -> Self::I {
            unsafe { [vdupq_n_s32(sum); 4] }
        }
        #[inline(always)]
        fn bytes(line: &[u8; LINE]) -> Self::Bytes {
            four(|i| unsafe { vreinterpretq_s8_u8(veorq_u8(vld1q_u8(line.as_ptr().add(16 * i)), vdupq_n_u8(128))) })
        }
        #[inline(always)]
        fn halves(line: &[u8; LINE]) -> (Self::Halves, Self::Halves) {
            let both = four(|i| unsafe { vld1q_u8(line.as_ptr().add(16 * i)) });
            let low = four(|i| unsafe { vreinterpretq_s8_u8(vandq_u8(both[i], vdupq_n_u8(15))) });
            (low, four(|i| unsafe { vreinterpretq_s8_u8(vshrq_n_u8::<4>(both[i])) }))
        }
        #[inline(always)]
        fn tops(line: &[u8; LINE]) -> Self::Halves {
            four(|i| unsafe { vreinterpretq_s8_u8(vld1q_u8(line.as_ptr().add(16 * i))) })
        }
        #[inline(always)]
        fn raised(codes: Self::Halves, tops: Self::Halves, quad: usize) -> Self::Halves {
            four(|i| unsafe {
                let tops = vreinterpretq_u8_s8(tops[i]);
                let tops = match quad {
                    0 => vshlq_n_u8::<4>(tops),
                    1 => vshlq_n_u8::<2>(tops),
                    2 => tops,
                    _ => vshrq_n_u8::<2>(tops),
                };
                vorrq_s8(codes[i], vreinterpretq_s8_u8(vandq_u8(tops, vdupq_n_u8(0x30))))
            })
        }
        #[inline(always)]
        fn dot_bytes(sum: Self::I, codes: Self::Bytes, x: i32) -> Self::I {
            four(|i| unsafe {
                if DOT {
                    return sdot(sum[i], codes[i], vreinterpretq_s8_s32(vdupq_n_s32(x)));
                }
                let x = vreinterpret_s8_s32(vdup_n_s32(x));
                let first = vmull_s8(vget_low_s8(codes[i]), x);
                let second = vmull_s8(vget_high_s8(codes[i]), x);
                // Pairs are at most 2 * 128 * 127; pairs of pairs are added in 32 bits.
                vpadalq_s16(sum[i], vpaddq_s16(first, second))
            })
        }
        #[inline(always)]
        fn dot_halves(sum: Self::I, low: Self::Halves, high: Self::Halves, x_low: i32, x_high: i32) -> Self::I {
            if DOT {
                return Self::dot_bytes(Self::dot_bytes(sum, low, x_low), high, x_high);
            }
            four(|i| unsafe {
                let (x_low, x_high) = (vreinterpret_s8_s32(vdup_n_s32(x_low)), vreinterpret_s8_s32(vdup_n_s32(x_high)));
                let first = vmlal_s8(vmull_s8(vget_low_s8(low[i]), x_low), vget_low_s8(high[i]), x_high);
                let second = vmlal_s8(vmull_s8(vget_high_s8(low[i]), x_low), vget_high_s8(high[i]), x_high);
                vpadalq_s16(sum[i], vpaddq_s16(first, second))
            })
        }
        #[inline(always)]
        fn float(sums: Self::I) -> Self::F {
            four(|i| unsafe { vcvtq_f32_s32(sums[i]) })
        }
        #[inline(always)]
        fn splat(x: f32) -> Self::F {
            unsafe { [vdupq_n_f32(x); 4] }
        }
        #[inline(always)]
        fn add(a: Self::F, b: Self::F) -> Self::F {
            four(|i| unsafe { vaddq_f32(a[i], b[i]) })
        }
        #[inline(always)]
        fn difference(a: Self::F, b: Self::F) -> Self::F {
            four(|i| unsafe { vsubq_f32(a[i], b[i]) })
        }
        #[inline(always)]
        fn product(a: Self::F, b: Self::F) -> Self::F {
            four(|i| unsafe { vmulq_f32(a[i], b[i]) })
        }
        #[inline(always)]
        fn load(x: &[f32; ROWS]) -> Self::F {
            four(|i| unsafe { vld1q_f32(x.as_ptr().add(4 * i)) })
        }
        #[inline(always)]
        fn half(bits: &[u16; ROWS]) -> Self::F {
            Self::load(&bits.map(widen))
        }
        #[inline(always)]
        fn whole(numbers: &[i16; ROWS]) -> Self::F {
            four(|i| unsafe { vcvtq_f32_s32(vmovl_s16(vld1_s16(numbers.as_ptr().add(4 * i)))) })
        }
        #[inline(always)]
        fn store(out: &mut [f32; ROWS], a: Self::F) {
            for (i, a) in a.into_iter().enumerate() {
                unsafe { vst1q_f32(out.as_mut_ptr().add(4 * i), a) }
            }
        }
    }
}
