//! Dense products in one order: `y = x W^T` as dot products along the rows of `W`, several rows of both at a time.
//!
//! Every output is one chain of 16 partial sums over the inputs, added in one order at the end, whatever the number of rows of `x`, of threads,
//! and of outputs computed together. `gemm` packs its operands and cuts the inputs differently for each shape, so a row's result depends on
//! how many rows come with it; here it does not. With few rows this is also the faster of the two: nothing is packed, the matrix
//! is read once, and by all threads.
//!
//! Legend: N rows, I input features, O output features.

use super::lanes::{Lanes, Portable, dispatched};
use super::{LANES, Shared, filled, split};
use std::ops::Range;

/// A product whose outputs are written column by column from several tasks.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    /// `[N, I]`.
    pub x: &'a [f32],
    /// `[O, I]`.
    pub w: &'a [f32],
    /// I.
    pub inputs: usize,
    /// Distance between the rows of `y`.
    pub stride: usize,
}

/// Loops, not `array::map`: its closures are compiled for any processor of the target, and the instructions inside become calls.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn dots<S: Lanes, const R: usize, const C: usize>(w: [&[f32]; R], x: [&[f32]; C]) -> [[f32; C]; R] {
    let mut sums = [[S::splat(0.0); C]; R];
    let w_chunks = w.map(|w| w.as_chunks::<LANES>());
    let x_chunks = x.map(|x| x.as_chunks::<LANES>());
    let n = w_chunks[0].0.len();
    assert!(w_chunks.iter().all(|w| w.0.len() == n) && x_chunks.iter().all(|x| x.0.len() == n), "dense product: rows of one length");
    for i in 0..n {
        let mut x = [S::splat(0.0); C];
        for c in 0..C {
            x[c] = S::load16(&x_chunks[c].0[i]);
        }
        for r in 0..R {
            let w = S::load16(&w_chunks[r].0[i]);
            for c in 0..C {
                sums[r][c] = S::add_product(sums[r][c], w, x[c]);
            }
        }
    }
    if !x_chunks[0].1.is_empty() {
        let padded = |rest: &[f32]| {
            let mut out = [0f32; LANES];
            out[..rest.len()].copy_from_slice(rest);
            S::load16(&out)
        };
        let x = x_chunks.map(|x| padded(x.1));
        for r in 0..R {
            let w = padded(w_chunks[r].1);
            for c in 0..C {
                sums[r][c] = S::add_product(sums[r][c], w, x[c]);
            }
        }
    }
    let mut out = [[0f32; C]; R];
    for r in 0..R {
        for c in 0..C {
            out[r][c] = S::sum(sums[r][c]);
        }
    }
    out
}

/// Outputs `rows` of C rows of the input from row `at`.
///
/// # Safety
/// As of [`block`].
#[inline(always)]
unsafe fn strip<S: Lanes, const R: usize, const C: usize>(y: Shared, p: Product, at: usize, rows: Range<usize>) {
    let row = |o: usize| &p.w[o * p.inputs..][..p.inputs];
    let x: [&[f32]; C] = std::array::from_fn(|c| &p.x[(at + c) * p.inputs..][..p.inputs]);
    let put = |o: usize, c: usize, value: f32| {
        // SAFETY: upheld by the caller of `block`.
        unsafe { *y.at((at + c) * p.stride + o) = value }
    };
    let mut o = rows.start;
    while o + R <= rows.end {
        let sums = dots::<S, R, C>(std::array::from_fn(|r| row(o + r)), x);
        (0..R).for_each(|r| (0..C).for_each(|c| put(o + r, c, sums[r][c])));
        o += R;
    }
    while o < rows.end {
        let sums = dots::<S, 1, C>([row(o)], x);
        (0..C).for_each(|c| put(o, c, sums[0][c]));
        o += 1;
    }
}

/// Outputs `rows` of all rows of the input, on this thread.
#[inline(always)]
fn outputs<S: Lanes>(y: Shared, p: Product, rows: Range<usize>) {
    let n = p.x.len() / p.inputs;
    let mut at = 0;
    // SAFETY: the caller of `block` hands over these outputs of all n rows.
    unsafe {
        if S::REGISTERS >= 32 {
            while at + 4 <= n {
                strip::<S, 4, 4>(y, p, at, rows.clone());
                at += 4;
            }
        }
        while at + 2 <= n {
            strip::<S, 2, 2>(y, p, at, rows.clone());
            at += 2;
        }
        if at < n {
            strip::<S, 4, 1>(y, p, at, rows);
        }
    }
}

dispatched! {
    fn outputs_best(y: Shared, p: Product, rows: Range<usize>) = outputs;
}

/// Outputs `rows` of all rows of the input, on this thread: `y[n * stride + o]` for `o` in `rows`.
///
/// # Safety
/// Those elements of `y` must be writable and not accessed by anyone else.
///
/// # Panics
/// When `x` or `w` is too short: the caller's arithmetic is wrong.
pub(crate) unsafe fn block(y: Shared, p: Product, rows: Range<usize>) {
    assert!(p.inputs > 0 && p.x.len().is_multiple_of(p.inputs) && rows.end * p.inputs <= p.w.len(), "dense product: shapes do not fit");
    outputs_best(y, p, rows);
}

/// Bytes of the matrix a task works on before it goes on to the next rows of the input: half a level-2 cache.
const TILE_BYTES: usize = 1 << 18;

/// `y[N, O] = x[N, I] w[O, I]^T`.
///
/// # Panics
/// When `x` or `w` is no whole number of rows: the caller's arithmetic is wrong.
pub fn linear(x: &[f32], w: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    assert!(x.len().is_multiple_of(inputs) && w.len() == inputs * outputs, "dense product: shapes do not fit");
    let n = x.len() / inputs;
    let tile = (TILE_BYTES / (4 * inputs)).clamp(4, 64) / 4 * 4;
    let p = Product { x, w, inputs, stride: outputs };
    // SAFETY: the ranges of `split` cover all outputs without overlap, and each task writes its outputs of all n rows.
    unsafe {
        filled(n * outputs, |y| {
            let y = Shared(y.as_mut_ptr().cast());
            split(outputs, tile, n * outputs * inputs, |rows| block(y, p, rows));
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_same_bits_whatever_comes_with_it() {
        for (inputs, outputs) in [(1, 1), (15, 3), (16, 16), (100, 37), (513, 70)] {
            let x: Vec<f32> = (0..33 * inputs).map(|i| ((i * 37 + 11) % 101) as f32 / 101.0 - 0.4).collect();
            let w: Vec<f32> = (0..outputs * inputs).map(|i| ((i * 53 + 7) % 89) as f32 / 89.0 - 0.6).collect();
            let together = linear(&x, &w, inputs, outputs);
            for n in [1, 2, 3, 5, 7, 8, 32] {
                let few = linear(&x[..n * inputs], &w, inputs, outputs);
                assert!(few.iter().zip(&together).all(|(a, b)| a.to_bits() == b.to_bits()), "{n} rows of {inputs} x {outputs}");
            }
            for (i, y) in together.iter().enumerate() {
                let (n, o) = (i / outputs, i % outputs);
                let want: f64 = (0..inputs).map(|k| f64::from(x[n * inputs + k]) * f64::from(w[o * inputs + k])).sum();
                assert!((f64::from(*y) - want).abs() < 1e-5 * (inputs as f64).sqrt(), "{y} for {want}");
            }
        }
    }
}
