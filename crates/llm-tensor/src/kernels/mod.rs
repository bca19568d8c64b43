//! CPU kernels on plain `f32` slices: no tensors, no autodiff, no Burn.
//!
//! Why own kernels: composed from element-wise tensor operations a Llama block touches memory some thirty times and spends
//! a fifth of a training step in scalar `expf`, page faults and copies. Each kernel here reads its inputs once, is
//! vectorised at run time for AVX2/AVX-512 through `pulp`, and splits its work into fixed chunks, so that its result does
//! not depend on the number of threads.
//!
//! Matrix products go to `gemm`. All matrices are row-major.

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod embedding;
pub mod matmul;
pub mod paged_attention;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;

/// Rows handled by one task of a row-wise kernel. Fixed, so that reductions over rows have one order for any thread count.
pub(crate) const ROWS_PER_TASK: usize = 64;

/// `exp` for `f32` with a relative error below 2e-7 in [-87, 88]; clamps outside. Branch-free, so loops over it vectorise.
///
/// Range reduction by multiples of ln 2 and a degree-6 polynomial (coefficients as in Cephes `expf`).
#[inline(always)]
#[allow(clippy::excessive_precision)] // the published coefficients
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding and subtracting it rounds to the nearest integer
    const LN2_HIGH: f32 = 0.693_359_375;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5.000_000_1e-1;
    (p * r * r + r + 1.0) * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// Sum in eight lanes: vectorises, and has one order whatever the instruction set.
#[inline(always)]
pub(crate) fn sum8(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let mut lanes = [0f32; 8];
    for (i, v) in values.enumerate() {
        lanes[i & 7] += v;
    }
    ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]))
}

/// Dot product in sixteen lanes.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let (a16, a_rest) = a.as_chunks::<16>();
    let (b16, b_rest) = b.as_chunks::<16>();
    for (x, y) in a16.iter().zip(b16) {
        for i in 0..16 {
            lanes[i] += x[i] * y[i];
        }
    }
    let mut total = 0.0;
    for (x, y) in a_rest.iter().zip(b_rest) {
        total += x * y;
    }
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
    }
    total + lanes[0]
}

/// A raw pointer that may cross threads; every use writes a region no other task touches.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub *mut f32);
// SAFETY: the pointer is only dereferenced inside parallel loops whose tasks write disjoint regions (argued at each use).
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}
impl Shared {
    /// The pointer `offset` floats further.
    ///
    /// # Safety
    /// The offset must stay inside the allocation the pointer was made from.
    pub(crate) unsafe fn at(self, offset: usize) -> *mut f32 {
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
    fn dot_sums_every_element() {
        for n in [0, 1, 15, 16, 17, 48, 63] {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let want: f32 = (0..n).map(|i| (i * i) as f32).sum();
            assert_eq!(super::dot(&a, &a), want);
        }
    }
}
