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

/// Sums of the products of R rows of the matrix with C rows of the input, not yet added up. `ahead` points to what is read next: L of its lines are asked
/// for with every line of a row, and it moves on.
///
/// Loops, not `array::map`: its closures are compiled for any processor of the target, and the instructions inside become calls.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn sums<S: Lanes, const R: usize, const C: usize, const L: usize>(w: [&[f32]; R], x: [&[f32]; C], ahead: &mut *const f32) -> [[S::V; C]; R] {
    let mut sums = [[S::splat(0.0); C]; R];
    let w_chunks = w.map(|w| w.as_chunks::<LANES>());
    let x_chunks = x.map(|x| x.as_chunks::<LANES>());
    let n = w_chunks[0].0.len();
    assert!(w_chunks.iter().all(|w| w.0.len() == n) && x_chunks.iter().all(|x| x.0.len() == n), "dense product: rows of one length");
    for i in 0..n {
        for _ in 0..L {
            S::fetch(*ahead);
            *ahead = ahead.wrapping_add(LANES);
        }
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
    sums
}

/// Outputs `rows` of C rows of the input from row `at`.
///
/// # Safety
/// As of [`block`].
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn strip<S: Lanes, const R: usize, const C: usize, const L: usize>(
    y: Shared,
    p: Product,
    at: usize,
    rows: Range<usize>,
    ahead: &mut *const f32,
) {
    let row = |o: usize| &p.w[o * p.inputs..][..p.inputs];
    let x: [&[f32]; C] = std::array::from_fn(|c| &p.x[(at + c) * p.inputs..][..p.inputs]);
    let put = |o: usize, c: usize, value: f32| {
        // SAFETY: upheld by the caller of `block`.
        unsafe { *y.at((at + c) * p.stride + o) = value }
    };
    let mut o = rows.start;
    while o + R <= rows.end {
        let sums = sums::<S, R, C, L>(std::array::from_fn(|r| row(o + r)), x, ahead);
        for r in 0..R {
            for c in 0..C {
                put(o + r, c, S::sum(sums[r][c]));
            }
        }
        o += R;
    }
    while o < rows.end {
        let sums = sums::<S, 1, C, 0>([row(o)], x, ahead);
        for c in 0..C {
            put(o, c, S::sum(sums[0][c]));
        }
        o += 1;
    }
}

/// [`strip`] of four rows, four outputs at a time.
///
/// # Safety
/// As of [`block`].
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn square<S: Lanes, const L: usize>(y: Shared, p: Product, at: usize, rows: Range<usize>, ahead: &mut *const f32) {
    let row = |o: usize| &p.w[o * p.inputs..][..p.inputs];
    let x: [&[f32]; 4] = std::array::from_fn(|c| &p.x[(at + c) * p.inputs..][..p.inputs]);
    let mut o = rows.start;
    while o + 4 <= rows.end {
        let sums = S::sums(&sums::<S, 4, 4, L>(std::array::from_fn(|r| row(o + r)), x, ahead));
        for c in 0..4 {
            // SAFETY: upheld by the caller of `block`.
            unsafe { std::ptr::copy_nonoverlapping(sums[c].as_ptr(), y.at((at + c) * p.stride + o), 4) }
        }
        o += 4;
    }
    if o < rows.end {
        // SAFETY: as above.
        unsafe { strip::<S, 1, 4, 0>(y, p, at, o..rows.end, ahead) }
    }
}

/// Bytes of the matrix that pass by all rows of the input before the next ones do, at most: small beside a level-2 cache.
const TILE_BYTES: usize = 1 << 17;
/// Rows of the matrix in a tile, at most.
const TILE_ROWS: usize = 16;

/// Outputs `rows` of all rows of the input, on this thread, a tile of the matrix after the other. While rows of the input pass by one tile, the next is
/// asked for in equal parts: the processor would see only when it is there that it is needed.
#[inline(always)]
fn outputs<S: Lanes>(y: Shared, p: Product, rows: Range<usize>) {
    let n = p.x.len() / p.inputs;
    let tile = (TILE_BYTES / (4 * p.inputs)).clamp(4, TILE_ROWS) / 4 * 4;
    let mut start = rows.start;
    while start < rows.end {
        let rows = start..rows.end.min(start + tile);
        start = rows.end;
        let mut ahead = p.w.as_ptr().wrapping_add(rows.end * p.inputs);
        let mut at = 0;
        // SAFETY: the caller of `block` hands over these outputs of all n rows.
        unsafe {
            if S::REGISTERS >= 32 {
                match n / 4 {
                    0 => {}
                    1 => {
                        square::<S, 4>(y, p, 0, rows.clone(), &mut ahead);
                        at = 4;
                    }
                    2 | 3 => {
                        for _ in 0..2 {
                            square::<S, 2>(y, p, at, rows.clone(), &mut ahead);
                            at += 4;
                        }
                    }
                    _ => {
                        for _ in 0..4 {
                            square::<S, 1>(y, p, at, rows.clone(), &mut ahead);
                            at += 4;
                        }
                    }
                }
                while at + 4 <= n {
                    square::<S, 0>(y, p, at, rows.clone(), &mut ahead);
                    at += 4;
                }
            } else if n >= 4 {
                for _ in 0..2 {
                    strip::<S, 2, 2, 1>(y, p, at, rows.clone(), &mut ahead);
                    at += 2;
                }
            }
            while at + 2 <= n {
                strip::<S, 2, 2, 0>(y, p, at, rows.clone(), &mut ahead);
                at += 2;
            }
            if at < n {
                strip::<S, 4, 1, 0>(y, p, at, rows, &mut ahead);
            }
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

/// Outputs of a task, at most: the first tile of each is read without having been asked for.
const TASK: usize = 256;

/// `y[N, O] = x[N, I] w[O, I]^T`.
///
/// # Panics
/// When `x` or `w` is no whole number of rows: the caller's arithmetic is wrong.
pub fn linear(x: &[f32], w: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    assert!(x.len().is_multiple_of(inputs) && w.len() == inputs * outputs, "dense product: shapes do not fit");
    let n = x.len() / inputs;
    let task = (outputs.div_ceil(2 * rayon::current_num_threads()).next_multiple_of(TILE_ROWS)).min(TASK);
    let p = Product { x, w, inputs, stride: outputs };
    // SAFETY: the ranges of `split` cover all outputs without overlap, and each task writes its outputs of all n rows.
    unsafe {
        filled(n * outputs, |y| {
            let y = Shared(y.as_mut_ptr().cast());
            split(outputs, task, n * outputs * inputs, |rows| block(y, p, rows));
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
