//! Matrix products for projections: `y = x W^T` and its two gradients, with `W` in the checkpoint's `[out, in]` layout.
//!
//! Legend: N rows (tokens), I input features, O output features.

use super::{Level, dense, filled, level, row_invariant};
use gemm::{Parallelism, gemm};

/// Products with fewer multiply-adds than this are not worth waking a second thread for.
const PARALLEL_FROM: usize = 1 << 21;

/// Up to so many rows [`linear`] takes the order of [`dense`], which is then faster than packing operands (`cargo bench --bench packed`). Without
/// AVX-512 a dot product of short inputs is mostly the sum over its lanes, so `gemm` catches up sooner.
pub fn few(inputs: usize) -> usize {
    match inputs {
        _ if level() == Level::V4 => 512,
        0..128 => 16,
        128..256 => 64,
        256..512 => 128,
        _ => 256,
    }
}

/// How many threads a product of so many multiply-adds gets.
pub fn parallelism(work: usize) -> Parallelism {
    if work >= PARALLEL_FROM { Parallelism::Rayon(0) } else { Parallelism::None }
}

/// A read-only matrix view: element `(r, c)` is `data[r * row_stride + c * col_stride]`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Distance between rows.
    pub row_stride: usize,
    /// Distance between columns.
    pub col_stride: usize,
}

impl<'a> View<'a> {
    /// Row-major, contiguous.
    pub fn rows(data: &'a [f32], columns: usize) -> Self {
        Self { data, row_stride: columns, col_stride: 1 }
    }
    /// The transpose.
    pub fn t(self) -> Self {
        Self { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
    pub(crate) fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0 || columns == 0 || (rows - 1) * self.row_stride + (columns - 1) * self.col_stride < self.data.len()
    }
}

/// `out[m, n] = add * out + factor * a[m, k] b[k, n]`, `out` row-major with `out_stride` between rows.
///
/// # Panics
/// When a view is smaller than its shape: the caller's arithmetic is wrong.
#[allow(clippy::too_many_arguments)]
pub fn product(out: &mut [f32], out_stride: usize, m: usize, n: usize, k: usize, add: bool, factor: f32, a: View, b: View, threads: Parallelism) {
    assert!(a.holds(m, k) && b.holds(k, n), "matrix view too small");
    assert!(m == 0 || n == 0 || (m - 1) * out_stride + n <= out.len(), "output too small");
    // SAFETY: the asserts above bound every index the three strided accesses can form, and `out` is uniquely borrowed.
    unsafe { product_raw(out.as_mut_ptr(), out_stride, m, n, k, add, factor, a, b, threads) }
}

/// [`product`] into a region given by pointer, for kernels that write interleaved heads.
///
/// # Safety
/// Rows `0..m` of `n` floats at distance `out_stride` from `out` must be writable and not accessed by anyone else; `a` and
/// `b` must hold their shapes.
#[allow(clippy::too_many_arguments)]
pub unsafe fn product_raw(
    out: *mut f32,
    out_stride: usize,
    m: usize,
    n: usize,
    k: usize,
    add: bool,
    factor: f32,
    a: View,
    b: View,
    threads: Parallelism,
) {
    // SAFETY: upheld by the caller; strides are in elements and fit isize.
    unsafe {
        gemm(
            m,
            n,
            k,
            out,
            1,
            out_stride as isize,
            add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            factor,
            false,
            false,
            false,
            threads,
        );
    }
}

/// `a[m, k] b[k, n]`, row-major, into a new buffer.
fn new_product(m: usize, n: usize, k: usize, a: View, b: View) -> Vec<f32> {
    assert!(a.holds(m, k) && b.holds(k, n), "matrix view too small");
    if k == 0 {
        return vec![0f32; m * n];
    }
    let threads = parallelism(m * n * k);
    // SAFETY: the product writes all m * n elements and reads none of them (`add` is false); the assert bounds both inputs.
    unsafe { filled(m * n, |out| product_raw(out.as_mut_ptr().cast(), n, m, n, k, false, 1.0, a, b, threads)) }
}

/// `y[N, O] = x[N, I] w[O, I]^T`.
pub fn linear(x: &[f32], w: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    if inputs > 0 && (row_invariant() || x.len() / inputs <= few(inputs)) {
        return dense::linear(x, w, inputs, outputs);
    }
    new_product(x.len() / inputs, outputs, inputs, View::rows(x, inputs), View::rows(w, inputs).t())
}

/// `dx[N, I] = dy[N, O] w[O, I]`.
pub fn linear_grad_input(dy: &[f32], w: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    new_product(dy.len() / outputs, inputs, outputs, View::rows(dy, outputs), View::rows(w, inputs))
}

/// `dw[O, I] = dy[N, O]^T x[N, I]`.
pub fn linear_grad_weight(dy: &[f32], x: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    new_product(outputs, inputs, dy.len() / outputs, View::rows(dy, outputs).t(), View::rows(x, inputs))
}
