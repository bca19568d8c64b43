//! Products with quantised weights and inputs in floats: `y = x W^T` where `W` is stored in 4 or 8 bits and decoded on the way.
//!
//! Few rows (decoding) are memory-bound: the codes are read once and multiplied as they are decoded, so a 4-bit matrix moves an
//! eighth of the bytes of an `f32` one. More rows (batches, prompts, scoring) are compute-bound: tiles of output rows are decoded into a
//! small buffer and handed to [`dense`], from [`few`] rows on to `gemm`. Each output is summed in one order by one task, whatever the number of threads. Matrices for inputs in
//! 8 bits and in bfloat16 have kernels of their own ([`super::int8`], [`super::bf16`]); [`linear`] is the door to all of them.
//!
//! A row of the matrix is cut into groups that share a scale; a group is padded to 16 codes or to a multiple of [`ALIGN`], and the input is laid
//! out in the same way once per call ([`spread`]). In a block of 32 codes of 4 bits, byte `i` holds code `i` in its low half and code
//! `i + 16` in its high half, so that both halves become whole vectors; groups of 16 are then one half each.
//!
//! Legend: N rows (tokens), I input features, O output features, G groups, P padded row length.

use super::dense::{self, Product};
use super::lanes::{Lanes, Portable, dispatched};
use super::matmul::{View, few, parallelism, product, product_raw};
use super::{LANES, Shared, bf16, int8, row_invariant, split};
use crate::quant::{Body, Codes, Packed, Rows, Zeros};
use gemm::Parallelism;
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;

/// Codes a group is padded to a multiple of.
pub const ALIGN: usize = 2 * LANES;
/// Codes a group of at most so many is padded to.
pub const SMALL: usize = LANES;
/// Output rows of a task.
const TILE: usize = 64;
/// Up to so many rows the codes are decoded anew for each of them; beyond, once into a buffer.
const DIRECT: usize = 2;
/// Output rows decoded at a time where products take the order of [`dense`]: they stay in a near cache.
const SMALL_TILE: usize = 8;
/// Rows that are floats at a time in a gradient.
pub const GRADIENT_ROWS: usize = 512;

/// Codes of a row that become values when they are looked at.
trait Row<S: Lanes>: Copy {
    /// Values `at..at + 16` and `at + 16..at + 32`; `at` is a multiple of [`ALIGN`].
    fn decode(self, at: usize) -> (S::V, S::V);
}

#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [i8]);
impl<S: Lanes> Row<S> for Bytes<'_> {
    #[inline(always)]
    fn decode(self, at: usize) -> (S::V, S::V) {
        S::bytes(&self.0.as_chunks::<ALIGN>().0[at / ALIGN])
    }
}

#[derive(Clone, Copy)]
struct Halves<'a, T>(&'a [u8], T);
impl<S: Lanes> Row<S> for Halves<'_, S::Table> {
    #[inline(always)]
    fn decode(self, at: usize) -> (S::V, S::V) {
        S::halves(&self.0.as_chunks::<LANES>().0[at / ALIGN], self.1)
    }
}

/// Outputs `first..` for one spread row of the input; `sums` holds its sum in each group, where zero points need it.
#[inline(always)]
fn outputs<S: Lanes>(y: &mut [f32], first: usize, w: &Packed, rows: &Rows, x: &[f32], sums: &[f32]) {
    let padded = w.padded();
    let range = |row: usize, per_byte: usize| row * padded / per_byte..(row + 1) * padded / per_byte;
    let y = y.iter_mut().zip(first..);
    match &rows.codes {
        Codes::Int8(codes) => y.for_each(|(y, row)| *y = output::<S, _>(w, rows, row, x, sums, Bytes(&codes[range(row, 1)]))),
        Codes::Int4(codes) => {
            let table = S::whole();
            y.for_each(|(y, row)| *y = output::<S, _>(w, rows, row, x, sums, Halves(&codes[range(row, 2)], table)));
        }
        Codes::Table4(codes, table) => {
            let table = S::table(table);
            y.for_each(|(y, row)| *y = output::<S, _>(w, rows, row, x, sums, Halves(&codes[range(row, 2)], table)));
        }
    }
}

/// Scaled groups, minus what the zero points or mins add.
#[inline(always)]
fn output<S: Lanes, R: Row<S>>(w: &Packed, rows: &Rows, row: usize, x: &[f32], sums: &[f32], codes: R) -> f32 {
    let (stride, scales) = (w.stride(), rows.row_scales(row));
    let mut total = S::splat(0.0);
    if stride < ALIGN {
        // Two groups a block.
        for (i, x) in x.as_chunks::<ALIGN>().0.iter().enumerate() {
            let (low, high) = codes.decode(i * ALIGN);
            let (x_low, x_high) = S::load(x);
            total = S::add_product(total, S::splat(scales[2 * i]), S::product(low, x_low));
            if let Some(scale) = scales.get(2 * i + 1) {
                total = S::add_product(total, S::splat(*scale), S::product(high, x_high));
            }
        }
    } else {
        for ((g, &scale), x) in scales.iter().enumerate().zip(x.chunks_exact(stride)) {
            let (mut a, mut b) = (S::splat(0.0), S::splat(0.0));
            for (i, x) in x.as_chunks::<ALIGN>().0.iter().enumerate() {
                let (low, high) = codes.decode(g * stride + i * ALIGN);
                let (x_low, x_high) = S::load(x);
                a = S::add_product(a, low, x_low);
                b = S::add_product(b, high, x_high);
            }
            total = S::add_product(total, S::splat(scale), S::add(a, b));
        }
    }
    let shift: f32 = match &rows.zeros {
        Zeros::None => 0.0,
        Zeros::Same(zero) => scales.iter().zip(sums).map(|(scale, sum)| scale * sum).sum::<f32>() * zero,
        Zeros::Each(zeros) => scales.iter().zip(rows.row_of(zeros, row)).zip(sums).map(|((scale, &zero), sum)| scale * f32::from(zero) * sum).sum(),
        Zeros::Mins(mins) => {
            let zero = rows.zero(row, 0);
            scales.iter().zip(rows.row_of(mins, row)).zip(sums).map(|((scale, min), sum)| (scale * zero + min) * sum).sum()
        }
    };
    S::sum(total) - shift
}

/// Rows `first..` as floats, in padded order; `out` holds whole rows.
#[inline(always)]
fn decode<S: Lanes>(out: &mut [f32], first: usize, w: &Packed, rows: &Rows) {
    let padded = w.padded();
    for (out, row) in out.chunks_exact_mut(padded).zip(first..) {
        match &rows.codes {
            Codes::Int8(codes) => decode_row::<S, _>(out, w, rows, row, Bytes(&codes[row * padded..][..padded])),
            Codes::Int4(codes) => decode_row::<S, _>(out, w, rows, row, Halves(&codes[row * padded / 2..][..padded / 2], S::whole())),
            Codes::Table4(codes, table) => decode_row::<S, _>(out, w, rows, row, Halves(&codes[row * padded / 2..][..padded / 2], S::table(table))),
        }
    }
}

#[inline(always)]
fn decode_row<S: Lanes, R: Row<S>>(out: &mut [f32], w: &Packed, rows: &Rows, row: usize, codes: R) {
    let stride = w.stride();
    if stride < ALIGN {
        // Two groups a block; the last may be padding, which is zero.
        for (i, out) in out.as_chunks_mut::<ALIGN>().0.iter_mut().enumerate() {
            let (low, high) = codes.decode(i * ALIGN);
            let second = if 2 * i + 1 < rows.groups { values::<S>(high, rows, row, 2 * i + 1) } else { S::splat(0.0) };
            S::store(out, values::<S>(low, rows, row, 2 * i), second);
        }
        return;
    }
    for (g, out) in out.chunks_exact_mut(stride).enumerate() {
        for (i, out) in out.as_chunks_mut::<ALIGN>().0.iter_mut().enumerate() {
            let (low, high) = codes.decode(g * stride + i * ALIGN);
            S::store(out, values::<S>(low, rows, row, g), values::<S>(high, rows, row, g));
        }
    }
}

/// Of the codes of a group. As the layouts define it: first the difference, then the product, then the min, each rounded.
#[inline(always)]
fn values<S: Lanes>(codes: S::V, rows: &Rows, row: usize, group: usize) -> S::V {
    let (scale, zero) = (rows.row_scales(row)[group], rows.zero(row, group));
    let scaled = S::product(S::difference(codes, S::splat(zero)), S::splat(scale));
    if let Zeros::Mins(mins) = &rows.zeros { S::difference(scaled, S::splat(rows.row_of(mins, row)[group])) } else { scaled }
}

dispatched! {
    fn outputs_best(y: &mut [f32], first: usize, w: &Packed, rows: &Rows, x: &[f32], sums: &[f32]) = outputs;
    fn decode_best(out: &mut [f32], first: usize, w: &Packed, rows: &Rows) = decode;
}

/// Rows of the input in the order and with the padding of the codes: `[N, I]` -> `[N, P]`.
pub fn spread<'x>(x: &'x [f32], w: &Packed) -> Cow<'x, [f32]> {
    let (inputs, group, stride, padded) = (w.inputs(), w.group(), w.stride(), w.padded());
    if w.order().is_none() && padded == inputs {
        return Cow::Borrowed(x);
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
    Cow::Owned(out)
}

/// `y[N, O] = x[N, I] W^T`.
///
/// # Panics
/// When `x` is no whole number of rows: the caller's arithmetic is wrong.
pub fn linear(x: &[f32], w: &Packed) -> Vec<f32> {
    match w.body() {
        Body::Rows(rows) => with_floats(x, w, rows),
        Body::Panels(panels) => int8::linear(x, w, panels),
        Body::Bf16(columns) => bf16::linear(x, columns, w.outputs()),
    }
}

/// [`linear`] with several matrices at once, where that is quicker than one after the other; the same bits. None where it is not.
pub fn linear_all(x: &[f32], all: &[&Packed]) -> Option<Vec<Vec<f32>>> {
    let mut panels = Vec::with_capacity(all.len());
    for w in all {
        let Body::Panels(body) = w.body() else { return None };
        panels.push((*w, body));
    }
    int8::linear_all(x, &panels)
}

/// [`linear`] where codes are decoded.
fn with_floats(x: &[f32], w: &Packed, rows: &Rows) -> Vec<f32> {
    let (inputs, outputs, padded) = (w.inputs(), w.outputs(), w.padded());
    assert!(x.len().is_multiple_of(inputs), "packed linear: input is no whole number of rows");
    let n = x.len() / inputs;
    let x_np = spread(x, w);
    let x_np: &[f32] = &x_np;
    let invariant = row_invariant();
    let direct = n <= DIRECT && !invariant;
    let one_order = invariant || n <= few(padded);
    let per_row = padded / w.stride();
    let needs_sums = direct && !matches!(rows.zeros, Zeros::None);
    let sums: Vec<f32> = if needs_sums { x_np.chunks_exact(w.stride()).map(super::sum).collect() } else { vec![0.0; n * per_row] };
    let mut y = vec![0f32; n * outputs];
    let shared = Shared(y.as_mut_ptr());
    let task = |range: Range<usize>| {
        if direct {
            for (i, (x, sums)) in x_np.chunks_exact(padded).zip(sums.chunks_exact(per_row)).enumerate() {
                // SAFETY: these elements of row i lie inside `y`, and no other task writes them.
                let y = unsafe { std::slice::from_raw_parts_mut(shared.at(i * outputs + range.start), range.len()) };
                outputs_best(y, range.start, w, rows, x, sums);
            }
            return;
        }
        let mut decoded = vec![0f32; range.len() * padded];
        decode_best(&mut decoded, range.start, w, rows);
        // SAFETY: this task alone writes these columns of the n rows of `y`; both inputs hold their shapes by construction (`spread` and
        // the buffer above have rows of `padded` elements).
        unsafe {
            let y = shared.at(range.start);
            if one_order {
                dense::block(Shared(y), Product { x: x_np, w: &decoded, inputs: padded, stride: outputs }, 0..range.len());
            } else {
                let (a, b) = (View::rows(x_np, padded), View::rows(&decoded, padded).t());
                product_raw(y, outputs, n, range.len(), padded, false, 1.0, a, b, Parallelism::None);
            }
        }
    };
    split(outputs, if one_order && !direct { SMALL_TILE } else { TILE }, n * outputs * padded, task);
    y
}

/// `dx[N, I] = dy[N, O] W`. Some rows of `W` at a time are decoded; it is never whole.
///
/// # Panics
/// When `dy` is no whole number of rows: the caller's arithmetic is wrong.
pub fn linear_grad_input(dy: &[f32], w: &Packed) -> Vec<f32> {
    let (inputs, outputs) = (w.inputs(), w.outputs());
    assert!(dy.len().is_multiple_of(outputs), "packed linear: gradient is no whole number of rows");
    let n = dy.len() / outputs;
    let mut dx = vec![0f32; n * inputs];
    if dx.is_empty() {
        return dx;
    }
    let mut buffer = vec![0f32; GRADIENT_ROWS.min(outputs) * inputs];
    for first in (0..outputs).step_by(GRADIENT_ROWS) {
        let rows = GRADIENT_ROWS.min(outputs - first);
        let decoded = &mut buffer[..rows * inputs];
        decoded.par_chunks_mut(inputs).with_min_len(SMALL_TILE).enumerate().for_each(|(i, out)| row(w, first + i, out));
        let d = View { data: &dy[first..], row_stride: outputs, col_stride: 1 };
        product(&mut dx, inputs, n, inputs, rows, true, 1.0, d, View::rows(decoded, inputs), parallelism(n * inputs * rows));
    }
    dx
}

/// The values of one row, in the order of the inputs.
pub fn row(w: &Packed, row: usize, out: &mut [f32]) {
    let mut decoded = vec![0f32; w.padded()];
    match w.body() {
        Body::Bf16(columns) => return columns.row(row, out),
        Body::Rows(rows) => decode_best(&mut decoded, row, w, rows),
        Body::Panels(panels) => panels.decode(row, &mut decoded),
    }
    let values = decoded.chunks_exact(w.stride()).flat_map(|values| &values[..w.group()]);
    match w.order() {
        None => out.iter_mut().zip(values).for_each(|(out, value)| *out = *value),
        Some(order) => order.iter().zip(values).for_each(|(&i, value)| out[i as usize] = *value),
    }
}

/// All values, `[O, I]`, in the order of the inputs.
pub fn dequantize(w: &Packed) -> Vec<f32> {
    let inputs = w.inputs();
    let mut out = vec![0f32; w.outputs() * inputs];
    out.par_chunks_mut(inputs.max(1)).with_min_len(SMALL_TILE).enumerate().for_each(|(i, out)| row(w, i, out));
    out
}
