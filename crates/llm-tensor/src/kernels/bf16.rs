//! Products with matrices in bfloat16: half the bytes of `f32`, inputs and sums in `f32`.
//!
//! 16 rows lie side by side, so a register holds one element of each and every lane is the sum of a row, taken in the order of the inputs:
//! one result for any number of rows of the input and threads.
//!
//! Legend: N rows, I input features, O output features.

use super::lanes::{Lanes, Portable, dispatched};
use super::{LANES, Shared, filled, split};
use std::ops::Range;

/// One element of each of 16 rows.
#[derive(Clone, Copy, PartialEq)]
#[repr(align(32))]
struct Column([u16; LANES]);

/// A matrix `[O, I]` in bfloat16, in panels of 16 rows: `[O / 16, I, 16]`.
#[derive(Clone, PartialEq)]
pub struct Columns {
    inputs: usize,
    values: Vec<Column>,
}

impl Columns {
    /// From values `[O, I]`, rounded to nearest even.
    pub fn new(values: &[f32], inputs: usize) -> Self {
        let outputs = values.len() / inputs.max(1);
        let mut columns = vec![Column([0; LANES]); outputs.div_ceil(LANES) * inputs];
        for (row, values) in values.chunks_exact(inputs.max(1)).enumerate() {
            for (column, value) in columns[row / LANES * inputs..].iter_mut().zip(values) {
                column.0[row % LANES] = half::bf16::from_f32(*value).to_bits();
            }
        }
        Self { inputs, values: columns }
    }

    /// The values of a row, `[I]`.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        for (out, column) in out.iter_mut().zip(&self.values[row / LANES * self.inputs..][..self.inputs]) {
            *out = f32::from_bits(u32::from(column.0[row % LANES]) << 16);
        }
    }

    /// Rows of several ranges, one after the other.
    pub fn rows(&self, ranges: &[Range<usize>]) -> Self {
        let rows: Vec<usize> = ranges.iter().cloned().flatten().collect();
        let mut values = vec![Column([0; LANES]); rows.len().div_ceil(LANES) * self.inputs];
        for (to, from) in rows.iter().enumerate() {
            for i in 0..self.inputs {
                values[to / LANES * self.inputs + i].0[to % LANES] = self.values[from / LANES * self.inputs + i].0[from % LANES];
            }
        }
        Self { inputs: self.inputs, values }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        size_of::<Column>() * self.values.len()
    }
}

#[inline(always)]
fn sums<S: Lanes, const R: usize, const C: usize>(w: [&[Column]; R], x: [&[f32]; C]) -> [[S::V; C]; R] {
    let mut sums = [[S::splat(0.0); C]; R];
    let n = w[0].len();
    assert!(w.iter().all(|w| w.len() == n) && x.iter().all(|x| x.len() == n), "bfloat16 product: rows of one length");
    for k in 0..n {
        for r in 0..R {
            let w = S::bf16(&w[r][k].0);
            for c in 0..C {
                sums[r][c] = S::add_product(sums[r][c], w, S::splat(x[c][k]));
            }
        }
    }
    sums
}

/// Panels `panels` of C rows of the input from row `at`, R panels at a time.
#[inline(always)]
fn strip<S: Lanes, const R: usize, const C: usize>(y: Shared, outputs: usize, w: &Columns, x: &[f32], at: usize, panels: Range<usize>) {
    let x: [&[f32]; C] = std::array::from_fn(|c| &x[(at + c) * w.inputs..][..w.inputs]);
    let panel = |p: usize| &w.values[p * w.inputs..][..w.inputs];
    let put = |p: usize, sums: [S::V; C]| {
        for (c, sums) in sums.into_iter().enumerate() {
            let mut lanes = [0f32; LANES];
            S::store16(&mut lanes, sums);
            let first = p * LANES;
            for (o, value) in (first..outputs.min(first + LANES)).zip(lanes) {
                // SAFETY: output o < O of row at + c < N, which only this task writes.
                unsafe { *y.at((at + c) * outputs + o) = value };
            }
        }
    };
    let mut p = panels.start;
    while p + R <= panels.end {
        let together = sums::<S, R, C>(std::array::from_fn(|r| panel(p + r)), x);
        together.into_iter().enumerate().for_each(|(r, sums)| put(p + r, sums));
        p += R;
    }
    while p < panels.end {
        let [sums] = sums::<S, 1, C>([panel(p)], x);
        put(p, sums);
        p += 1;
    }
}

#[inline(always)]
fn task<S: Lanes>(y: Shared, outputs: usize, w: &Columns, x: &[f32], panels: Range<usize>) {
    let n = x.len() / w.inputs;
    let mut at = 0;
    if S::REGISTERS >= 32 {
        while at + 8 <= n {
            strip::<S, 1, 8>(y, outputs, w, x, at, panels.clone());
            at += 8;
        }
    }
    while at + 4 <= n {
        strip::<S, 1, 4>(y, outputs, w, x, at, panels.clone());
        at += 4;
    }
    while at + 2 <= n {
        strip::<S, 2, 2>(y, outputs, w, x, at, panels.clone());
        at += 2;
    }
    if at < n {
        strip::<S, 4, 1>(y, outputs, w, x, at, panels);
    }
}

dispatched! {
    fn task_best(y: Shared, outputs: usize, w: &Columns, x: &[f32], panels: Range<usize>) = task;
}

/// `y[N, O] = x[N, I] W^T`.
///
/// # Panics
/// When `x` is no whole number of rows: the caller's arithmetic is wrong.
pub fn linear(x: &[f32], w: &Columns, outputs: usize) -> Vec<f32> {
    assert!(x.len().is_multiple_of(w.inputs) && w.values.len() == outputs.div_ceil(LANES) * w.inputs, "bfloat16 product: shapes do not fit");
    let n = x.len() / w.inputs;
    // SAFETY: the ranges of `split` cover all panels without overlap, and each task writes its outputs of all n rows.
    unsafe {
        filled(n * outputs, |y| {
            let y = Shared(y.as_mut_ptr().cast());
            split(outputs.div_ceil(LANES), 4, n * outputs * w.inputs, |panels| task_best(y, outputs, w, x, panels));
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_the_rounded_values_and_do_not_depend_on_the_rows() {
        for (inputs, outputs) in [(1, 1), (33, 16), (100, 37), (257, 130)] {
            let x: Vec<f32> = (0..32 * inputs).map(|i| ((i * 37 + 11) % 101) as f32 / 101.0 - 0.4).collect();
            let w: Vec<f32> = (0..outputs * inputs).map(|i| ((i * 53 + 7) % 89) as f32 / 89.0 - 0.6).collect();
            let columns = Columns::new(&w, inputs);
            let rounded: Vec<f32> = w.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect();
            let together = linear(&x, &columns, outputs);
            for (i, y) in together.iter().enumerate() {
                let (n, o) = (i / outputs, i % outputs);
                let want: f64 = (0..inputs).map(|k| f64::from(x[n * inputs + k]) * f64::from(rounded[o * inputs + k])).sum();
                assert!((f64::from(*y) - want).abs() < 1e-5 * (inputs as f64).sqrt(), "{y} for {want}");
            }
            for n in 1..=9 {
                let few = linear(&x[..n * inputs], &columns, outputs);
                assert!(few.iter().zip(&together).all(|(a, b)| a.to_bits() == b.to_bits()), "{n} rows");
            }
            let mut row = vec![0f32; inputs];
            columns.rows(&[outputs - 1..outputs, 0..outputs]).row(outputs, &mut row);
            assert_eq!(row, rounded[(outputs - 1) * inputs..]);
        }
    }
}
