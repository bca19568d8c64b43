//! Products with quantised weights: `y = x W^T` where `W` is stored in 4 or 8 bits and decoded on the way.
//!
//! Few rows (decoding) are memory-bound: the codes are read once and multiplied as they are decoded, so a 4-bit matrix moves an
//! eighth of the bytes of an `f32` one. Many rows (prompts, scoring) are compute-bound: tiles of output rows are decoded into a
//! small buffer and handed to `gemm`. Each output is summed in one order by one task, whatever the number of threads.
//!
//! A row of the matrix is cut into groups that share a scale; a group is padded to a multiple of [`ALIGN`] codes, and the input is laid
//! out in the same way once per call ([`spread`]). In a block of 32 codes of 4 bits, byte `i` holds code `i` in its low half and code
//! `i + 16` in its high half, so that both halves become whole vectors.
//!
//! Legend: N rows (tokens), I input features, O output features, G groups, P padded row length.

use super::matmul::{View, product_raw};
use super::{LANES, Shared, fold, vectorized};
use crate::quant::{Codes, Packed, Zeros};
use gemm::Parallelism;
use rayon::prelude::*;

/// Codes a group is padded to.
pub const ALIGN: usize = 32;
/// Output rows of a task.
const TILE: usize = 64;
/// Up to so many rows the codes are decoded anew for each of them; beyond, once into a buffer.
const DIRECT: usize = 3;
/// Products with fewer multiply-adds than this stay on one thread.
const PARALLEL_FROM: usize = 1 << 19;

/// 16 values from 16 bytes: a low and a high half.
trait Decode: Copy {
    fn low(self, bytes: &[u8; LANES]) -> [f32; LANES];
    fn high(self, bytes: &[u8; LANES]) -> [f32; LANES];
}

/// The code is the value.
#[derive(Clone, Copy)]
struct Whole;
impl Decode for Whole {
    #[inline(always)]
    fn low(self, bytes: &[u8; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| f32::from(bytes[i] & 15))
    }
    #[inline(always)]
    fn high(self, bytes: &[u8; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| f32::from(bytes[i] >> 4))
    }
}

/// The code is an index.
#[derive(Clone, Copy)]
struct Lookup([f32; 16]);
impl Decode for Lookup {
    #[inline(always)]
    fn low(self, bytes: &[u8; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| self.0[usize::from(bytes[i] & 15)])
    }
    #[inline(always)]
    fn high(self, bytes: &[u8; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| self.0[usize::from(bytes[i] >> 4)])
    }
}

/// [`Lookup`] as one permutation of a register; only made in functions that have AVX-512.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Permute512([f32; 16]);
#[cfg(target_arch = "x86_64")]
impl Permute512 {
    #[inline(always)]
    fn permute(self, bytes: &[u8; LANES], shift: bool) -> [f32; LANES] {
        use std::arch::x86_64::*;
        let mut out = [0f32; LANES];
        // SAFETY: `lookup_v4` is the only place this type is made in, and it is compiled with and only called on AVX-512; all loads and
        // stores are unaligned accesses of whole 16-element arrays.
        unsafe {
            let codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()));
            let codes = if shift { _mm512_srli_epi32::<4>(codes) } else { codes };
            // The instruction looks at the low four bits of an index only.
            _mm512_storeu_ps(out.as_mut_ptr(), _mm512_permutexvar_ps(codes, _mm512_loadu_ps(self.0.as_ptr())));
        }
        out
    }
}
#[cfg(target_arch = "x86_64")]
impl Decode for Permute512 {
    #[inline(always)]
    fn low(self, bytes: &[u8; LANES]) -> [f32; LANES] {
        self.permute(bytes, false)
    }
    #[inline(always)]
    fn high(self, bytes: &[u8; LANES]) -> [f32; LANES] {
        self.permute(bytes, true)
    }
}

/// [`Lookup`] as two permutations and a blend; only made in functions that have AVX2.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Permute256([f32; 16]);
#[cfg(target_arch = "x86_64")]
impl Permute256 {
    #[inline(always)]
    fn permute(self, bytes: &[u8; LANES], shift: bool) -> [f32; LANES] {
        use std::arch::x86_64::*;
        let mut out = [0f32; LANES];
        // SAFETY: as for `Permute512`, with `lookup_v3` and AVX2; the 8-byte loads are halves of the 16-byte array.
        unsafe {
            let (first, second) = (_mm256_loadu_ps(self.0.as_ptr()), _mm256_loadu_ps(self.0.as_ptr().add(8)));
            for half in [0, 8] {
                let codes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes.as_ptr().add(half).cast()));
                let codes = if shift { _mm256_srli_epi32::<4>(codes) } else { codes };
                // Bit 3 chooses the half of the table; moved to the sign bit, which the blend looks at.
                let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
                let value = _mm256_blendv_ps(_mm256_permutevar8x32_ps(first, codes), _mm256_permutevar8x32_ps(second, codes), upper);
                _mm256_storeu_ps(out.as_mut_ptr().add(half), value);
            }
        }
        out
    }
}
#[cfg(target_arch = "x86_64")]
impl Decode for Permute256 {
    #[inline(always)]
    fn low(self, bytes: &[u8; LANES]) -> [f32; LANES] {
        self.permute(bytes, false)
    }
    #[inline(always)]
    fn high(self, bytes: &[u8; LANES]) -> [f32; LANES] {
        self.permute(bytes, true)
    }
}

/// Lane sums of one group of 4-bit codes times the input.
#[inline(always)]
fn group4(decode: impl Decode, codes: &[u8], x: &[f32]) -> [f32; LANES] {
    let (mut a, mut b) = ([0f32; LANES], [0f32; LANES]);
    for (codes, x) in codes.as_chunks::<LANES>().0.iter().zip(x.as_chunks::<{ 2 * LANES }>().0) {
        let (low, high) = (decode.low(codes), decode.high(codes));
        for i in 0..LANES {
            a[i] += low[i] * x[i];
            b[i] += high[i] * x[i + LANES];
        }
    }
    std::array::from_fn(|i| a[i] + b[i])
}

/// The same for 8-bit codes.
#[inline(always)]
fn group8(codes: &[i8], x: &[f32]) -> [f32; LANES] {
    let (mut a, mut b) = ([0f32; LANES], [0f32; LANES]);
    for (codes, x) in codes.as_chunks::<{ 2 * LANES }>().0.iter().zip(x.as_chunks::<{ 2 * LANES }>().0) {
        for i in 0..LANES {
            a[i] += f32::from(codes[i]) * x[i];
            b[i] += f32::from(codes[i + LANES]) * x[i + LANES];
        }
    }
    std::array::from_fn(|i| a[i] + b[i])
}

/// One output: scaled groups, minus what the zero points add. `sums` holds the sum of the input in each group.
#[inline(always)]
fn output(w: &Packed, row: usize, sums: &[f32], group: impl Fn(usize) -> [f32; LANES]) -> f32 {
    let scales = w.row_scales(row);
    let mut total = [0f32; LANES];
    for (g, &scale) in scales.iter().enumerate() {
        let part = group(g);
        for i in 0..LANES {
            total[i] += scale * part[i];
        }
    }
    let shift = match w.zeros() {
        Zeros::None => 0.0,
        Zeros::Same(zero) => scales.iter().zip(sums).map(|(scale, sum)| scale * sum).sum::<f32>() * zero,
        Zeros::Each(_) => scales.iter().zip(w.row_zeros(row)).zip(sums).map(|((scale, &zero), sum)| scale * f32::from(zero) * sum).sum(),
    };
    fold(total, |a, b| a + b) - shift
}

#[inline(always)]
fn outputs4(decode: impl Decode, y: &mut [f32], first: usize, w: &Packed, codes: &[u8], x: &[f32], sums: &[f32]) {
    let (stride, row_bytes) = (w.stride(), w.padded() / 2);
    for (r, y) in y.iter_mut().enumerate() {
        let row = &codes[(first + r) * row_bytes..][..row_bytes];
        *y = output(w, first + r, sums, |g| group4(decode, &row[g * stride / 2..][..stride / 2], &x[g * stride..][..stride]));
    }
}

vectorized! {
    fn outputs_whole(y: &mut [f32], first: usize, w: &Packed, codes: &[u8], x: &[f32], sums: &[f32]) {
        outputs4(Whole, y, first, w, codes, x, sums);
    }

    fn outputs8(y: &mut [f32], first: usize, w: &Packed, codes: &[i8], x: &[f32], sums: &[f32]) {
        let (stride, row_length) = (w.stride(), w.padded());
        for (r, y) in y.iter_mut().enumerate() {
            let row = &codes[(first + r) * row_length..][..row_length];
            *y = output(w, first + r, sums, |g| group8(&row[g * stride..][..stride], &x[g * stride..][..stride]));
        }
    }

    /// Rows `first..` as floats, in padded order; `out` holds whole rows.
    fn decode_rows(out: &mut [f32], first: usize, w: &Packed) {
        let (stride, padded) = (w.stride(), w.padded());
        for (r, out) in out.chunks_exact_mut(padded).enumerate() {
            let row = first + r;
            for (g, out) in out.chunks_exact_mut(stride).enumerate() {
                let (scale, zero, start) = (w.row_scales(row)[g], w.zero(row, g), row * padded + g * stride);
                match w.codes() {
                    Codes::Int8(codes) => {
                        for (out, &code) in out.iter_mut().zip(&codes[start..][..stride]) {
                            *out = (f32::from(code) - zero) * scale;
                        }
                    }
                    Codes::Int4(codes) => decode_group(out, &codes[start / 2..][..stride / 2], Whole, zero, scale),
                    Codes::Table4(codes, table) => decode_group(out, &codes[start / 2..][..stride / 2], Lookup(*table), zero, scale),
                }
            }
        }
    }

    /// Sums of the groups of one spread row.
    fn group_sums(sums: &mut [f32], x: &[f32], stride: usize) {
        for (sum, x) in sums.iter_mut().zip(x.chunks_exact(stride)) {
            *sum = super::sum(x);
        }
    }
}

#[inline(always)]
fn decode_group(out: &mut [f32], codes: &[u8], decode: impl Decode, zero: f32, scale: f32) {
    for (out, codes) in out.as_chunks_mut::<{ 2 * LANES }>().0.iter_mut().zip(codes.as_chunks::<LANES>().0) {
        let (low, high) = (decode.low(codes), decode.high(codes));
        for i in 0..LANES {
            out[i] = (low[i] - zero) * scale;
            out[i + LANES] = (high[i] - zero) * scale;
        }
    }
}

/// [`outputs_whole`] through a table; by hand, since the level decides which permutation there is.
fn outputs_lookup(y: &mut [f32], first: usize, w: &Packed, codes: &[u8], table: &[f32; 16], x: &[f32], sums: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn lookup_v4(y: &mut [f32], first: usize, w: &Packed, codes: &[u8], table: &[f32; 16], x: &[f32], sums: &[f32]) {
            outputs4(Permute512(*table), y, first, w, codes, x, sums);
        }
        #[target_feature(enable = "avx2,fma")]
        fn lookup_v3(y: &mut [f32], first: usize, w: &Packed, codes: &[u8], table: &[f32; 16], x: &[f32], sums: &[f32]) {
            outputs4(Permute256(*table), y, first, w, codes, x, sums);
        }
        match super::level() {
            // SAFETY: `level` found the features of this function on the running processor.
            super::Level::V4 => return unsafe { lookup_v4(y, first, w, codes, table, x, sums) },
            // SAFETY: as above.
            super::Level::V3 => return unsafe { lookup_v3(y, first, w, codes, table, x, sums) },
            super::Level::Base => {}
        }
    }
    outputs4(Lookup(*table), y, first, w, codes, x, sums);
}

/// Rows of the input in the order and with the padding of the codes: `[N, I]` -> `[N, P]`.
pub fn spread(x: &[f32], w: &Packed) -> Vec<f32> {
    let (inputs, group, stride, padded) = (w.inputs(), w.group(), w.stride(), w.padded());
    if w.order().is_none() && padded == inputs {
        return x.to_vec();
    }
    let mut out = vec![0f32; x.len() / inputs * padded];
    for (x, out) in x.chunks_exact(inputs).zip(out.chunks_exact_mut(padded)) {
        match w.order() {
            None => {
                for (x, out) in x.chunks(group).zip(out.chunks_exact_mut(stride)) {
                    out[..x.len()].copy_from_slice(x);
                }
            }
            Some(order) => {
                for (order, out) in order.chunks(group).zip(out.chunks_exact_mut(stride)) {
                    for (out, &i) in out.iter_mut().zip(order) {
                        *out = x[i as usize];
                    }
                }
            }
        }
    }
    out
}

/// `y[N, O] = x[N, I] W^T`.
///
/// # Panics
/// When `x` is no whole number of rows: the caller's arithmetic is wrong.
pub fn linear(x: &[f32], w: &Packed) -> Vec<f32> {
    let (inputs, outputs, padded) = (w.inputs(), w.outputs(), w.padded());
    assert!(x.len().is_multiple_of(inputs), "packed linear: input is no whole number of rows");
    let n = x.len() / inputs;
    let x_np = spread(x, w);
    let mut y = vec![0f32; n * outputs];
    let groups = w.groups();
    let tiles = outputs.div_ceil(TILE);
    let shared = Shared(y.as_mut_ptr());
    let task = |tile: usize| {
        let first = tile * TILE;
        let rows = TILE.min(outputs - first);
        if n > DIRECT {
            let mut decoded = vec![0f32; rows * padded];
            decode_rows(&mut decoded, first, w);
            // SAFETY: this task alone writes columns `first..first + rows` of the n rows of `y`; both inputs hold their shapes by
            // construction (`spread` and the buffer above have rows of `padded` elements).
            unsafe {
                product_raw(
                    shared.at(first),
                    outputs,
                    n,
                    rows,
                    padded,
                    false,
                    1.0,
                    View::rows(&x_np, padded),
                    View::rows(&decoded, padded).t(),
                    Parallelism::None,
                );
            }
            return;
        }
        for (i, x) in x_np.chunks_exact(padded).enumerate() {
            let mut sums = vec![0f32; groups];
            if !matches!(w.zeros(), Zeros::None) {
                group_sums(&mut sums, x, w.stride());
            }
            // SAFETY: these `rows` elements of row i lie inside `y`, and no other task writes them.
            let y = unsafe { std::slice::from_raw_parts_mut(shared.at(i * outputs + first), rows) };
            match w.codes() {
                Codes::Int8(codes) => outputs8(y, first, w, codes, x, &sums),
                Codes::Int4(codes) => outputs_whole(y, first, w, codes, x, &sums),
                Codes::Table4(codes, table) => outputs_lookup(y, first, w, codes, table, x, &sums),
            }
        }
    };
    if n * outputs * padded >= PARALLEL_FROM {
        (0..tiles).into_par_iter().for_each(task);
    } else {
        (0..tiles).for_each(task);
    }
    y
}

/// All values, `[O, I]`, in the order of the inputs.
pub fn dequantize(w: &Packed) -> Vec<f32> {
    let (inputs, group, stride, padded) = (w.inputs(), w.group(), w.stride(), w.padded());
    let mut out = vec![0f32; w.outputs() * inputs];
    out.par_chunks_mut(TILE * inputs).enumerate().for_each(|(tile, out)| {
        let mut decoded = vec![0f32; out.len() / inputs * padded];
        decode_rows(&mut decoded, tile * TILE, w);
        for (out, decoded) in out.chunks_exact_mut(inputs).zip(decoded.chunks_exact(padded)) {
            let values = decoded.chunks_exact(stride).flat_map(|values| &values[..group]);
            match w.order() {
                None => out.iter_mut().zip(values).for_each(|(out, value)| *out = *value),
                Some(order) => order.iter().zip(values).for_each(|(&i, value)| out[i as usize] = *value),
            }
        }
    });
    out
}
