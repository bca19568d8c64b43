//! CPU kernels on plain `f32` slices: no tensors, no autodiff, no Burn.
//!
//! Why own kernels: composed from element-wise tensor operations a Llama block touches memory some thirty times and spends
//! a fifth of a training step in scalar `expf`, page faults and copies. Each kernel here reads its inputs once, is
//! compiled for AVX2 and AVX-512 as well and chosen at run time (`vectorized!`, `dispatched!`), and splits its work into fixed chunks, so that its result does
//! not depend on the number of threads.
//!
//! Matrix products of many rows go to `gemm`, of few rows to [`dense`]; quantised ones to [`packed`] (inputs in floats) and [`int8`]. Dense
//! matrices are row-major.

pub mod activation;
pub mod adafactor;
pub mod adamw;
pub mod adamw8;
pub mod attention;
pub mod bandwidth;
pub mod bf16;
pub mod cross_entropy;
pub mod dense;
pub mod divergence;
mod dots;
pub mod dynamic_map;
pub mod embedding;
pub mod grouped;
pub mod int8;
pub mod kv;
mod lanes;
pub mod layer_norm;
pub mod linear_cross_entropy;
pub mod lion;
pub mod matmul;
pub mod muon;
pub mod packed;
pub mod packed_cross_entropy;
pub mod paged_attention;
pub mod rms_norm;
pub mod rope;
pub mod square_sum;
mod team;

use rayon::prelude::*;
use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Rows handled by one task of a row-wise kernel. Fixed, so that reductions over rows have one order for any thread count.
pub(crate) const ROWS_PER_TASK: usize = 64;

/// Instruction sets a vectorised kernel is compiled for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// What every machine of the target has.
    Base,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    V3,
    /// AVX-512 F, BW, DQ, VL.
    #[cfg(target_arch = "x86_64")]
    V4,
}

/// The best level this processor has.
pub(crate) fn level() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        use std::sync::OnceLock;
        static LEVEL: OnceLock<Level> = OnceLock::new();
        *LEVEL.get_or_init(|| {
            let v3 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let v4 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            match (v3, v4) {
                (true, true) => Level::V4,
                (true, false) => Level::V3,
                _ => Level::Base,
            }
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    Level::Base
}

/// Define functions whose bodies are compiled once per instruction set and chosen at run time.
///
/// Everything a body calls must be `#[inline(always)]`, or it is compiled for the base level only. Rust never fuses a
/// multiply and an add on its own, so all levels give the same bits.
macro_rules! vectorized {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident : $type:ty),* $(,)?) $(-> $out:ty)? $body:block)+) => {$(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body($($arg: $type),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn v4($($arg: $type),*) $(-> $out)? { body($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn v3($($arg: $type),*) $(-> $out)? { body($($arg),*) }
                match $crate::kernels::level() {
                    // SAFETY: `level` found the features of this function on the running processor.
                    $crate::kernels::Level::V4 => return unsafe { v4($($arg),*) },
                    // SAFETY: as above.
                    $crate::kernels::Level::V3 => return unsafe { v3($($arg),*) },
                    $crate::kernels::Level::Base => {}
                }
            }
            body($($arg),*)
        }
    )+};
}
pub(crate) use vectorized;

/// `exp` for `f32` with a relative error below 2e-7 in [-87, 88]; clamps outside. Branch-free, so loops over it vectorise.
///
/// Range reduction by multiples of ln 2 and a degree-6 polynomial (coefficients as in Cephes `expf`).
#[inline(always)]
#[allow(clippy::excessive_precision)] // the published coefficients
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to the nearest integer, which is then in the low bits
    const LN2_HIGH: f32 = 0.693_359_375;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > -87.0 { x } else { -87.0 };
    let x = if x < 88.0 { x } else { 88.0 };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5.000_000_1e-1;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    (p * r * r + r + 1.0) * f32::from_bits(exponent)
}

/// `tanh` through [`exp`]: absolute error below 3e-7.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// Lanes of a reduction: fixed, so a sum has one order whatever the instruction set.
pub(crate) const LANES: usize = 16;

#[inline(always)]
pub(crate) fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
    }
    lanes[0]
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// Largest element; negative infinity for none.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], chunk[i]);
        }
    }
    rest.iter().fold(fold(lanes, larger), |m, &x| larger(m, x))
}

/// Sum.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += chunk[i];
        }
    }
    fold(lanes, |a, b| a + b) + rest.iter().sum::<f32>()
}

/// `sum(exp(x - shift))`.
#[inline(always)]
pub(crate) fn sum_exp(x: &[f32], shift: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += exp(chunk[i] - shift);
        }
    }
    fold(lanes, |a, b| a + b) + rest.iter().map(|x| exp(x - shift)).sum::<f32>()
}

/// Dot product.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] += x[i] * y[i];
        }
    }
    fold(lanes, |a, b| a + b) + a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum::<f32>()
}

/// `sum(a * b * c)`.
#[inline(always)]
pub(crate) fn dot3(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let (c_chunks, c_rest) = c.as_chunks::<LANES>();
    for ((x, y), z) in a_chunks.iter().zip(b_chunks).zip(c_chunks) {
        for i in 0..LANES {
            lanes[i] += x[i] * y[i] * z[i];
        }
    }
    fold(lanes, |a, b| a + b) + a_rest.iter().zip(b_rest).zip(c_rest).map(|((x, y), z)| x * y * z).sum::<f32>()
}

/// `n` floats that `write` fills, without clearing them first: clearing the outputs of a training step on one thread costs a
/// twentieth of its time.
///
/// # Safety
/// `write` must initialise every element.
pub(crate) unsafe fn filled(n: usize, write: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut out = Vec::with_capacity(n);
    write(&mut out.spare_capacity_mut()[..n]);
    // SAFETY: the capacity is at least n and the caller's `write` initialised the first n elements.
    unsafe { out.set_len(n) };
    out
}

/// Products with fewer multiply-adds than this stay on one thread.
const PARALLEL_FROM: usize = 1 << 18;

/// Call `task` with ranges of `unit` that cover `0..n`, on all threads where `work` multiply-adds are worth it.
pub(crate) fn split(n: usize, unit: usize, work: usize, task: impl Fn(Range<usize>) + Sync) {
    let (pieces, piece) = (n.div_ceil(unit), |i: usize| task(i * unit..n.min((i + 1) * unit)));
    if work < PARALLEL_FROM {
        (0..pieces).for_each(piece);
    } else if !team::for_each(pieces, &piece) {
        (0..pieces).into_par_iter().for_each(piece);
    }
}

/// Outputs of this many elements are written by rayon's threads; of fewer, by those of a decoding step, which need not be woken.
const WAKE_FROM: usize = 1 << 18;

/// Call `task` with blocks of `unit` elements of `out`, and where they lie in it, on all threads where `work` multiply-adds an element are worth it.
pub(crate) fn in_blocks<T: Send>(out: &mut [T], unit: usize, work: usize, task: impl Fn(Range<usize>, &mut [T]) + Sync) {
    let n = out.len();
    if n >= WAKE_FROM {
        return out.par_chunks_mut(unit).enumerate().for_each(|(i, out)| task(i * unit..i * unit + out.len(), out));
    }
    let shared = Shared(out.as_mut_ptr());
    // SAFETY: the ranges of `split` lie inside `0..n` and do not overlap, and `out` is borrowed until it returns.
    split(n, unit, n * work, |range| task(range.clone(), unsafe { std::slice::from_raw_parts_mut(shared.at(range.start), range.len()) }));
}

thread_local! {
    static ROW_INVARIANT: Cell<bool> = const { Cell::new(false) };
}

/// While this lives, products with weights that are called on this thread give a row the same bits whatever rows come with it.
///
/// By default products of many rows go to `gemm`, whose order of summation depends on the shape. Under this guard dense products (and those of
/// experts) take one order, that of [`dense`]; quantised ones with inputs in floats are decoded and take the same. Products with inputs in
/// 8 bits and with bfloat16 have one order anyway. It costs nothing for up to [`matmul::few`] rows of a dense matrix, where that order is the
/// default; `docs/quantisation.md` has the price of more rows.
///
/// Everything else in a decoder's forward pass works row by row.
#[derive(Debug)]
#[must_use = "the products of this thread are row-invariant while the guard lives"]
pub struct RowInvariant {
    before: bool,
    /// Of this thread, so it may not leave it.
    _here: PhantomData<*const ()>,
}

impl RowInvariant {
    /// From now on, on this thread.
    pub fn begin() -> Self {
        Self { before: ROW_INVARIANT.replace(true), _here: PhantomData }
    }
}

impl Drop for RowInvariant {
    fn drop(&mut self) {
        ROW_INVARIANT.set(self.before);
    }
}

/// Whether a [`RowInvariant`] lives on this thread.
pub(crate) fn row_invariant() -> bool {
    ROW_INVARIANT.get()
}

/// A raw pointer that may cross threads; every use writes a region no other task touches.
pub(crate) struct Shared<T = f32>(pub *mut T);
// Derived, they would ask `T` to be `Copy`.
impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<T> {}
// SAFETY: the pointer is only dereferenced inside parallel loops whose tasks write disjoint regions (argued at each use), of a type that may be
// written from any thread.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}
impl<T> Shared<T> {
    /// The pointer `offset` elements further.
    ///
    /// # Safety
    /// The offset must stay inside the allocation the pointer was made from.
    pub(crate) unsafe fn at(self, offset: usize) -> *mut T {
        // SAFETY: the caller keeps the offset inside the allocation.
        unsafe { self.0.add(offset) }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn exp_is_as_accurate_as_documented() {
        let mut worst = 0f64;
        for i in 0..200_000 {
            let x = -87.0 + 175.0 * (i as f32) / 200_000.0;
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(super::exp(x)) - want).abs() / want);
        }
        assert!(worst < 2e-7, "relative error {worst:e}");
        assert!(super::exp(f32::NEG_INFINITY) < 2e-38);
    }

    #[test]
    fn tanh_is_as_accurate_as_documented() {
        for i in -20_000..20_000 {
            let x = i as f32 / 1000.0;
            assert!((f64::from(super::tanh(x)) - f64::from(x).tanh()).abs() < 3e-7, "{x}");
        }
    }

    #[test]
    fn dot_sums_every_element() {
        for n in [0, 1, 15, 16, 17, 48, 63] {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let want: f32 = (0..n).map(|i| (i * i) as f32).sum();
            assert_eq!(super::dot(&a, &a), want);
        }
    }
}
