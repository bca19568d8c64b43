//! Vectors of 16 floats for kernels whose codes the compiler does not vectorise by itself: plain arrays, AVX2, AVX-512.
//!
//! A kernel is written once over [`Lanes`] and compiled for each of the three (`dispatched!`). The wider two fuse multiply and add, so the last
//! bits differ between processors, as those of the matrix products do.

use super::{LANES, fold};

/// 16 floats and what the kernels do with them.
pub(super) trait Lanes: Copy {
    /// A vector.
    type V: Copy;
    /// Values of the 16 codes of 4 bits.
    type Table: Copy;
    /// Vectors of 16 floats that the registers hold: 8 or 32.
    const REGISTERS: usize;
    fn splat(x: f32) -> Self::V;
    fn load16(x: &[f32; LANES]) -> Self::V;
    fn store16(out: &mut [f32; LANES], a: Self::V);
    /// Floats from their upper halves.
    fn bf16(bits: &[u16; LANES]) -> Self::V;
    fn load(x: &[f32; 32]) -> (Self::V, Self::V);
    fn store(out: &mut [f32; 32], low: Self::V, high: Self::V);
    fn add(a: Self::V, b: Self::V) -> Self::V;
    fn difference(a: Self::V, b: Self::V) -> Self::V;
    fn product(a: Self::V, b: Self::V) -> Self::V;
    /// `sum + a * b`.
    fn add_product(sum: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// Of all lanes, in one order.
    fn sum(a: Self::V) -> f32;
    /// [`Self::sum`] of each vector of `[r][c]`, as `[c][r]`.
    #[inline(always)]
    fn sums(a: &[[Self::V; 4]; 4]) -> [[f32; 4]; 4] {
        let mut out = [[0f32; 4]; 4];
        for r in 0..4 {
            for c in 0..4 {
                out[c][r] = Self::sum(a[r][c]);
            }
        }
        out
    }
    /// Ask for the line of the cache at an address, which need not be a valid one.
    #[inline(always)]
    fn fetch(_at: *const f32) {}
    /// A table of any values.
    fn table(values: &[f32; 16]) -> Self::Table;
    /// The table of the numbers 0 to 15.
    fn whole() -> Self::Table {
        Self::table(&std::array::from_fn(|i| i as f32))
    }
    /// Signed bytes as floats.
    fn bytes(codes: &[i8; 32]) -> (Self::V, Self::V);
    /// Low and high halves of bytes through a table.
    fn halves(codes: &[u8; 16], table: Self::Table) -> (Self::V, Self::V);
    /// Signed bytes as floats.
    fn bytes16(codes: &[i8; LANES]) -> Self::V;
}

/// Arrays.
#[derive(Clone, Copy)]
pub(super) struct Portable;

fn each(f: impl Fn(usize) -> f32) -> [f32; LANES] {
    std::array::from_fn(f)
}

impl Lanes for Portable {
    type V = [f32; LANES];
    type Table = [f32; 16];
    const REGISTERS: usize = 8;
    #[inline(always)]
    fn load16(x: &[f32; LANES]) -> Self::V {
        *x
    }
    #[inline(always)]
    fn store16(out: &mut [f32; LANES], a: Self::V) {
        *out = a;
    }
    #[inline(always)]
    fn bf16(bits: &[u16; LANES]) -> Self::V {
        each(|i| f32::from_bits(u32::from(bits[i]) << 16))
    }
    #[inline(always)]
    fn splat(x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(x: &[f32; 32]) -> (Self::V, Self::V) {
        (each(|i| x[i]), each(|i| x[i + LANES]))
    }
    #[inline(always)]
    fn store(out: &mut [f32; 32], low: Self::V, high: Self::V) {
        out[..LANES].copy_from_slice(&low);
        out[LANES..].copy_from_slice(&high);
    }
    #[inline(always)]
    fn add(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn difference(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn product(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn add_product(sum: Self::V, a: Self::V, b: Self::V) -> Self::V {
        each(|i| sum[i] + a[i] * b[i])
    }
    #[inline(always)]
    fn sum(a: Self::V) -> f32 {
        fold(a, |a, b| a + b)
    }
    #[inline(always)]
    fn table(values: &[f32; 16]) -> Self::Table {
        *values
    }
    #[inline(always)]
    fn bytes(codes: &[i8; 32]) -> (Self::V, Self::V) {
        (each(|i| f32::from(codes[i])), each(|i| f32::from(codes[i + LANES])))
    }
    #[inline(always)]
    fn halves(codes: &[u8; 16], table: Self::Table) -> (Self::V, Self::V) {
        (each(|i| table[usize::from(codes[i] & 15)]), each(|i| table[usize::from(codes[i] >> 4)]))
    }
    #[inline(always)]
    fn bytes16(codes: &[i8; LANES]) -> Self::V {
        each(|i| f32::from(codes[i]))
    }
}

/// AVX-512: one register. Only named inside functions compiled for it (`dispatched!`).
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct V4;

#[cfg(target_arch = "x86_64")]
mod v4 {
    use super::{LANES, Lanes, V4};
    use std::arch::x86_64::*;

    // SAFETY (all blocks of this implementation): callers are functions that `dispatched!` compiles for AVX-512 (and a test), on processors
    // where `level` found it; loads and stores are unaligned ones inside arrays whose lengths the types state.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Lanes for V4 {
        type V = __m512;
        type Table = __m512;
        const REGISTERS: usize = 32;
        #[inline(always)]
        fn load16(x: &[f32; LANES]) -> __m512 {
            unsafe { _mm512_loadu_ps(x.as_ptr()) }
        }
        #[inline(always)]
        fn store16(out: &mut [f32; LANES], a: __m512) {
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), a) }
        }
        #[inline(always)]
        fn bf16(bits: &[u16; LANES]) -> __m512 {
            unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(bits.as_ptr().cast())))) }
        }
        #[inline(always)]
        fn splat(x: f32) -> __m512 {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        fn load(x: &[f32; 32]) -> (__m512, __m512) {
            unsafe { (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(LANES))) }
        }
        #[inline(always)]
        fn store(out: &mut [f32; 32], low: __m512, high: __m512) {
            unsafe {
                _mm512_storeu_ps(out.as_mut_ptr(), low);
                _mm512_storeu_ps(out.as_mut_ptr().add(LANES), high);
            }
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
        fn add_product(sum: __m512, a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, sum) }
        }
        #[inline(always)]
        fn sum(a: __m512) -> f32 {
            // In the order of `fold`.
            unsafe { super::v3::sum(_mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a))) }
        }
        /// Two vectors become one at each step: its halves are what the two would become on their own.
        #[inline(always)]
        fn sums(a: &[[__m512; 4]; 4]) -> [[f32; 4]; 4] {
            unsafe {
                // Four lanes of 128 bits for each r: the four partial sums of each c.
                let mut rows = [_mm512_setzero_ps(); 4];
                for r in 0..4 {
                    let [a, b, c, d] = a[r];
                    let ab = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
                    let cd = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xee>(c, d));
                    rows[r] = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
                }
                let mut pairs = [_mm512_setzero_ps(); 2];
                for i in 0..2 {
                    let (a, b) = (_mm512_castps_pd(rows[2 * i]), _mm512_castps_pd(rows[2 * i + 1]));
                    let (low, high) = (_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
                    pairs[i] = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
                }
                let (even, odd) = (_mm512_shuffle_ps::<0x88>(pairs[0], pairs[1]), _mm512_shuffle_ps::<0xdd>(pairs[0], pairs[1]));
                let mut out = [[0f32; 4]; 4];
                _mm512_storeu_ps(out.as_mut_ptr().cast(), _mm512_add_ps(even, odd));
                out
            }
        }
        #[inline(always)]
        fn fetch(at: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }
        #[inline(always)]
        fn table(values: &[f32; 16]) -> __m512 {
            unsafe { _mm512_loadu_ps(values.as_ptr()) }
        }
        #[inline(always)]
        fn bytes(codes: &[i8; 32]) -> (__m512, __m512) {
            let wide = |at: usize| unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(codes.as_ptr().add(at).cast()))) };
            (wide(0), wide(LANES))
        }
        #[inline(always)]
        fn halves(codes: &[u8; 16], table: __m512) -> (__m512, __m512) {
            // The permutation looks at the low four bits of an index only.
            unsafe {
                let codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.as_ptr().cast()));
                (_mm512_permutexvar_ps(codes, table), _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(codes), table))
            }
        }
        #[inline(always)]
        fn bytes16(codes: &[i8; LANES]) -> __m512 {
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(codes.as_ptr().cast()))) }
        }
    }
}

/// AVX2 and FMA: two registers. Only named inside functions compiled for it (`dispatched!`).
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct V3;

#[cfg(target_arch = "x86_64")]
mod v3 {
    use super::{LANES, Lanes, V3};
    use std::arch::x86_64::*;

    type Pair = [__m256; 2];

    /// Of eight lanes, in the order of `fold`.
    ///
    /// # Safety
    /// The caller is compiled for AVX2, on a processor that has it.
    #[inline(always)]
    pub(super) unsafe fn sum(a: __m256) -> f32 {
        // SAFETY: registers only; the caller has the instructions.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    // SAFETY (all blocks of this implementation): as for `V4`, with AVX2 and FMA.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Lanes for V3 {
        type V = Pair;
        type Table = Pair;
        const REGISTERS: usize = 8;
        #[inline(always)]
        fn load16(x: &[f32; LANES]) -> Pair {
            unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] }
        }
        #[inline(always)]
        fn store16(out: &mut [f32; LANES], a: Pair) {
            unsafe {
                _mm256_storeu_ps(out.as_mut_ptr(), a[0]);
                _mm256_storeu_ps(out.as_mut_ptr().add(8), a[1]);
            }
        }
        #[inline(always)]
        fn bf16(bits: &[u16; LANES]) -> Pair {
            let wide = |at: usize| unsafe {
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(bits.as_ptr().add(at).cast()))))
            };
            [wide(0), wide(8)]
        }
        #[inline(always)]
        fn splat(x: f32) -> Pair {
            unsafe { [_mm256_set1_ps(x); 2] }
        }
        #[inline(always)]
        fn load(x: &[f32; 32]) -> (Pair, Pair) {
            let at = |i: usize| unsafe { _mm256_loadu_ps(x.as_ptr().add(i)) };
            ([at(0), at(8)], [at(16), at(24)])
        }
        #[inline(always)]
        fn store(out: &mut [f32; 32], low: Pair, high: Pair) {
            for (i, v) in [low[0], low[1], high[0], high[1]].into_iter().enumerate() {
                unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(8 * i), v) };
            }
        }
        #[inline(always)]
        fn add(a: Pair, b: Pair) -> Pair {
            unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn difference(a: Pair, b: Pair) -> Pair {
            unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn product(a: Pair, b: Pair) -> Pair {
            unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn add_product(sum: Pair, a: Pair, b: Pair) -> Pair {
            unsafe { [_mm256_fmadd_ps(a[0], b[0], sum[0]), _mm256_fmadd_ps(a[1], b[1], sum[1])] }
        }
        #[inline(always)]
        fn sum(a: Pair) -> f32 {
            unsafe { sum(_mm256_add_ps(a[0], a[1])) }
        }
        #[inline(always)]
        fn fetch(at: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }
        #[inline(always)]
        fn table(values: &[f32; 16]) -> Pair {
            unsafe { [_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))] }
        }
        #[inline(always)]
        fn bytes(codes: &[i8; 32]) -> (Pair, Pair) {
            let wide = |at: usize| unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(codes.as_ptr().add(at).cast()))) };
            ([wide(0), wide(8)], [wide(16), wide(24)])
        }
        #[inline(always)]
        fn halves(codes: &[u8; 16], table: Pair) -> (Pair, Pair) {
            let wide = |at: usize| unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(codes.as_ptr().add(at).cast())) };
            // Bit 3 of an index chooses the half of the table: moved to the sign, which the blend looks at.
            let look = |i: __m256i| unsafe {
                let (first, second) = (_mm256_permutevar8x32_ps(table[0], i), _mm256_permutevar8x32_ps(table[1], i));
                _mm256_blendv_ps(first, second, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(i)))
            };
            let upper = |i: __m256i| unsafe { _mm256_srli_epi32::<4>(i) };
            let (a, b) = (wide(0), wide(8));
            ([look(a), look(b)], [look(upper(a)), look(upper(b))])
        }
        #[inline(always)]
        fn bytes16(codes: &[i8; LANES]) -> Pair {
            let wide = |at: usize| unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(codes.as_ptr().add(at).cast()))) };
            [wide(0), wide(8)]
        }
    }
}

/// Define functions that call a kernel over [`Lanes`] with the best of the three for the running processor.
macro_rules! dispatched {
    ($(fn $name:ident($($arg:ident : $type:ty),* $(,)?) = $kernel:ident;)+) => {$(
        fn $name($($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn v4($($arg: $type),*) { $kernel::<$crate::kernels::lanes::V4>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn v3($($arg: $type),*) { $kernel::<$crate::kernels::lanes::V3>($($arg),*) }
                match $crate::kernels::level() {
                    // SAFETY: `level` found the features of this function on the running processor.
                    $crate::kernels::Level::V4 => return unsafe { v4($($arg),*) },
                    // SAFETY: as above.
                    $crate::kernels::Level::V3 => return unsafe { v3($($arg),*) },
                    $crate::kernels::Level::Base => {}
                }
            }
            $kernel::<Portable>($($arg),*)
        }
    )+};
}
pub(super) use dispatched;

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded<S: Lanes>(bytes: &[i8; 32], halves: &[u8; 16], table: &[f32; 16]) -> Vec<f32> {
        let mut out = Vec::new();
        for (low, high) in [S::bytes(bytes), S::halves(halves, S::table(table)), S::halves(halves, S::whole())] {
            let mut values = [0f32; 32];
            S::store(&mut values, low, high);
            out.extend(values);
            out.push(S::sum(S::product(S::difference(low, S::splat(0.5)), high)));
        }
        out
    }

    #[test]
    fn sixteen_sums_at_once_are_those_of_each_vector() {
        fn check<S: Lanes>() {
            let vector = |i: usize| S::load16(&std::array::from_fn(|lane| ((i * 16 + lane) * 7919 % 1009) as f32 * 0.37 - 150.0));
            let vectors: [[S::V; 4]; 4] = std::array::from_fn(|r| std::array::from_fn(|c| vector(4 * r + c)));
            let sums = S::sums(&vectors);
            for (r, row) in vectors.iter().enumerate() {
                for (c, vector) in row.iter().enumerate() {
                    assert_eq!(sums[c][r].to_bits(), S::sum(*vector).to_bits(), "row {r}, column {c}");
                }
            }
        }
        check::<Portable>();
        #[cfg(target_arch = "x86_64")]
        {
            if super::super::level() != super::super::Level::Base {
                check::<V3>();
            }
            if super::super::level() == super::super::Level::V4 {
                check::<V4>();
            }
        }
    }

    #[test]
    fn all_levels_decode_alike() {
        let bytes: [i8; 32] = std::array::from_fn(|i| (i as i8).wrapping_mul(37).wrapping_add(-128));
        let halves: [u8; 16] = std::array::from_fn(|i| (i as u8) << 4 | (15 - i as u8));
        let table = std::array::from_fn(|i| (i as f32 - 7.1) * 0.3);
        let want = decoded::<Portable>(&bytes, &halves, &table);
        assert_eq!(want[0], -128.0);
        assert_eq!(want[33], table[15]);
        #[cfg(target_arch = "x86_64")]
        {
            if super::super::level() != super::super::Level::Base {
                assert_eq!(decoded::<V3>(&bytes, &halves, &table), want);
            }
            if super::super::level() == super::super::Level::V4 {
                assert_eq!(decoded::<V4>(&bytes, &halves, &table), want);
            }
        }
    }
}
