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

use super::lanes::{Lanes, Portable, dispatched};
use super::matmul::{View, product_raw};
use super::{LANES, Shared};
use crate::quant::{Codes, Packed, Zeros};
use gemm::Parallelism;
use rayon::prelude::*;

/// Codes a group is padded to.
pub const ALIGN: usize = 2 * LANES;
/// Output rows of a task.
const TILE: usize = 64;
/// Up to so many rows the codes are decoded anew for each of them; beyond, once into a buffer.
const DIRECT: usize = 2;
/// Products with fewer multiply-adds than this stay on one thread.
const PARALLEL_FROM: usize = 1 << 19;

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
fn outputs<S: Lanes>(y: &mut [f32], first: usize, w: &Packed, x: &[f32], sums: &[f32]) {
    let padded = w.padded();
    let range = |row: usize, per_byte: usize| row * padded / per_byte..(row + 1) * padded / per_byte;
    match w.codes() {
        Codes::Int8(codes) => y.iter_mut().zip(first..).for_each(|(y, row)| *y = output::<S, _>(w, row, x, sums, Bytes(&codes[range(row, 1)]))),
        Codes::Int4(codes) => {
            let table = S::whole();
            y.iter_mut().zip(first..).for_each(|(y, row)| *y = output::<S, _>(w, row, x, sums, Halves(&codes[range(row, 2)], table)));
        }
        Codes::Table4(codes, table) => {
            let table = S::table(table);
            y.iter_mut().zip(first..).for_each(|(y, row)| *y = output::<S, _>(w, row, x, sums, Halves(&codes[range(row, 2)], table)));
        }
    }
}

/// Scaled groups, minus what the zero points add.
#[inline(always)]
fn output<S: Lanes, R: Row<S>>(w: &Packed, row: usize, x: &[f32], sums: &[f32], codes: R) -> f32 {
    let (stride, scales) = (w.stride(), w.row_scales(row));
    let mut total = S::splat(0.0);
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
    let shift: f32 = match w.zeros() {
        Zeros::None => 0.0,
        Zeros::Same(zero) => scales.iter().zip(sums).map(|(scale, sum)| scale * sum).sum::<f32>() * zero,
        Zeros::Each(_) => scales.iter().zip(w.row_zeros(row)).zip(sums).map(|((scale, &zero), sum)| scale * f32::from(zero) * sum).sum(),
    };
    S::sum(total) - shift
}

/// Rows `first..` as floats, in padded order; `out` holds whole rows.
#[inline(always)]
fn decode<S: Lanes>(out: &mut [f32], first: usize, w: &Packed) {
    let padded = w.padded();
    for (out, row) in out.chunks_exact_mut(padded).zip(first..) {
        match w.codes() {
            Codes::Int8(codes) => decode_row::<S, _>(out, w, row, Bytes(&codes[row * padded..][..padded])),
            Codes::Int4(codes) => decode_row::<S, _>(out, w, row, Halves(&codes[row * padded / 2..][..padded / 2], S::whole())),
            Codes::Table4(codes, table) => decode_row::<S, _>(out, w, row, Halves(&codes[row * padded / 2..][..padded / 2], S::table(table))),
        }
    }
}

#[inline(always)]
fn decode_row<S: Lanes, R: Row<S>>(out: &mut [f32], w: &Packed, row: usize, codes: R) {
    let stride = w.stride();
    for ((g, &scale), out) in w.row_scales(row).iter().enumerate().zip(out.chunks_exact_mut(stride)) {
        let (scale, zero) = (S::splat(scale), S::splat(w.zero(row, g)));
        for (i, out) in out.as_chunks_mut::<ALIGN>().0.iter_mut().enumerate() {
            let (low, high) = codes.decode(g * stride + i * ALIGN);
            // As the layouts define it: first the difference, then the product, each rounded.
            S::store(out, S::product(S::difference(low, zero), scale), S::product(S::difference(high, zero), scale));
        }
    }
}

dispatched! {
    fn outputs_best(y: &mut [f32], first: usize, w: &Packed, x: &[f32], sums: &[f32]) = outputs;
    fn decode_best(out: &mut [f32], first: usize, w: &Packed) = decode;
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
    let needs_sums = n <= DIRECT && !matches!(w.zeros(), Zeros::None);
    let sums: Vec<f32> = if needs_sums { x_np.chunks_exact(w.stride()).map(super::sum).collect() } else { vec![0.0; n * w.groups()] };
    let mut y = vec![0f32; n * outputs];
    let shared = Shared(y.as_mut_ptr());
    let task = |tile: usize| {
        let first = tile * TILE;
        let rows = TILE.min(outputs - first);
        if n > DIRECT {
            let mut decoded = vec![0f32; rows * padded];
            decode_best(&mut decoded, first, w);
            // SAFETY: this task alone writes columns `first..first + rows` of the n rows of `y`; both inputs hold their shapes by
            // construction (`spread` and the buffer above have rows of `padded` elements).
            unsafe {
                let (a, b) = (View::rows(&x_np, padded), View::rows(&decoded, padded).t());
                product_raw(shared.at(first), outputs, n, rows, padded, false, 1.0, a, b, Parallelism::None);
            }
            return;
        }
        for (i, (x, sums)) in x_np.chunks_exact(padded).zip(sums.chunks_exact(w.groups())).enumerate() {
            // SAFETY: these `rows` elements of row i lie inside `y`, and no other task writes them.
            let y = unsafe { std::slice::from_raw_parts_mut(shared.at(i * outputs + first), rows) };
            outputs_best(y, first, w, x, sums);
        }
    };
    let tiles = outputs.div_ceil(TILE);
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
        decode_best(&mut decoded, tile * TILE, w);
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
