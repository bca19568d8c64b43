//! The non-linearities of feed-forward blocks, alone and as gates (Shazeer, GLU variants, 2020): `act(x)` and
//! `act(gate) * up`, element-wise.

use super::{exp, filled, in_blocks, tanh, vectorized};
use rayon::prelude::*;
use std::mem::MaybeUninit;

const CHUNK: usize = 1 << 14;
/// What an element costs, in multiply-adds.
const WORK: usize = 16;

/// Elements that are computed at a time.
fn block(n: usize) -> usize {
    (n / 16).next_multiple_of(1 << 10).clamp(1 << 10, CHUNK)
}

/// Which non-linearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(x)`.
    #[default]
    Silu,
    /// `x * Phi(x)`, Phi the normal distribution function.
    Gelu,
    /// Gelu with Phi approximated by `tanh` (Hendrycks & Gimpel, 2016).
    GeluTanh,
}

/// Value and derivative of a non-linearity; a type, so that the choice is made outside the loops.
trait Curve {
    fn value(x: f32) -> f32;
    /// Value and derivative, which share most of their work.
    fn both(x: f32) -> (f32, f32);
}

struct Silu;
impl Curve for Silu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x / (1.0 + exp(-x))
    }
    #[inline(always)]
    fn both(x: f32) -> (f32, f32) {
        let s = 1.0 / (1.0 + exp(-x));
        (x * s, s * (1.0 + x * (1.0 - s)))
    }
}

/// Normal distribution function: Abramowitz & Stegun 7.1.26, absolute error below 1.5e-7.
#[inline(always)]
fn phi(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let p = ((((1.061_405_4 * t - 1.453_152) * t + 1.421_413_7) * t - 0.284_496_74) * t + 0.254_829_6) * t;
    let tail = 0.5 * p * exp(-z * z);
    if x < 0.0 { tail } else { 1.0 - tail }
}

struct Gelu;
impl Curve for Gelu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x * phi(x)
    }
    #[inline(always)]
    fn both(x: f32) -> (f32, f32) {
        const DENSITY_AT_0: f32 = 0.398_942_3;
        let p = phi(x);
        (x * p, p + x * DENSITY_AT_0 * exp(-0.5 * x * x))
    }
}

struct GeluTanh;
impl GeluTanh {
    const C: f32 = 0.797_884_6; // sqrt(2 / pi)
    const CUBE: f32 = 0.044_715;
    #[inline(always)]
    fn t(x: f32) -> f32 {
        tanh(Self::C * (x + Self::CUBE * x * x * x))
    }
}
impl Curve for GeluTanh {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        0.5 * x * (1.0 + Self::t(x))
    }
    #[inline(always)]
    fn both(x: f32) -> (f32, f32) {
        let t = Self::t(x);
        (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * Self::C * (1.0 + 3.0 * Self::CUBE * x * x))
    }
}

/// The loops of one curve under names of its own: a vectorised function cannot be generic.
macro_rules! loops {
    ($curve:ty, $gated:ident, $gated_back:ident, $plain:ident, $plain_back:ident) => {
        vectorized! {
            fn $gated(out: &mut [MaybeUninit<f32>], gate: &[f32], up: &[f32]) {
                for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
                    out.write(<$curve>::value(*g) * u);
                }
            }
            fn $gated_back(d_gate: &mut [MaybeUninit<f32>], d_up: &mut [MaybeUninit<f32>], gate: &[f32], up: &[f32], dy: &[f32]) {
                for ((((d_gate, d_up), g), u), dy) in d_gate.iter_mut().zip(d_up).zip(gate).zip(up).zip(dy) {
                    let (value, slope) = <$curve>::both(*g);
                    d_up.write(dy * value);
                    d_gate.write(dy * u * slope);
                }
            }
            fn $plain(out: &mut [MaybeUninit<f32>], x: &[f32]) {
                for (out, x) in out.iter_mut().zip(x) {
                    out.write(<$curve>::value(*x));
                }
            }
            fn $plain_back(dx: &mut [MaybeUninit<f32>], x: &[f32], dy: &[f32]) {
                for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
                    dx.write(dy * <$curve>::both(*x).1);
                }
            }
        }
    };
}
loops!(Silu, silu_gated, silu_gated_back, silu, silu_back);
loops!(Gelu, gelu_gated, gelu_gated_back, gelu, gelu_back);
loops!(GeluTanh, gelu_tanh_gated, gelu_tanh_gated_back, gelu_tanh, gelu_tanh_back);

/// Memory that is about to be written whole.
type Unwritten = [MaybeUninit<f32>];

/// `act(gate) * up`.
pub fn gated(gate: &[f32], up: &[f32], act: Activation) -> Vec<f32> {
    let f = match act {
        Activation::Silu => silu_gated,
        Activation::Gelu => gelu_gated,
        Activation::GeluTanh => gelu_tanh_gated,
    };
    assert_eq!(gate.len(), up.len(), "gate and up");
    let write = |out: &mut Unwritten| in_blocks(out, block(gate.len()), WORK, |at, out| f(out, &gate[at.clone()], &up[at]));
    // SAFETY: the three slices have one length, so the blocks cover the output and `f` writes all of each.
    unsafe { filled(gate.len(), write) }
}

/// Gradients `(d_gate, d_up)` of [`gated`].
pub fn gated_backward(gate: &[f32], up: &[f32], dy: &[f32], act: Activation) -> (Vec<f32>, Vec<f32>) {
    let f = match act {
        Activation::Silu => silu_gated_back,
        Activation::Gelu => gelu_gated_back,
        Activation::GeluTanh => gelu_tanh_gated_back,
    };
    assert!(gate.len() == up.len() && gate.len() == dy.len(), "gate, up and dy");
    let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK));
    let mut d_up = Vec::new();
    let write = |d_gate: &mut Unwritten| {
        let write_up = |d_up: &mut Unwritten| {
            let outputs = d_gate.par_chunks_mut(CHUNK).zip(d_up.par_chunks_mut(CHUNK));
            outputs.zip(inputs).for_each(|((d_gate, d_up), ((gate, up), dy))| f(d_gate, d_up, gate, up, dy));
        };
        // SAFETY: the five slices have one length, so the chunks cover both outputs and `f` writes all of each.
        d_up = unsafe { filled(gate.len(), write_up) };
    };
    // SAFETY: as above.
    let d_gate = unsafe { filled(gate.len(), write) };
    (d_gate, d_up)
}

/// `act(x)`.
pub fn plain(x: &[f32], act: Activation) -> Vec<f32> {
    let f = match act {
        Activation::Silu => silu,
        Activation::Gelu => gelu,
        Activation::GeluTanh => gelu_tanh,
    };
    let write = |out: &mut Unwritten| in_blocks(out, block(x.len()), WORK, |at, out| f(out, &x[at]));
    // SAFETY: input and output have one length, so the blocks cover the output and `f` writes all of each.
    unsafe { filled(x.len(), write) }
}

/// Gradient of [`plain`].
pub fn plain_backward(x: &[f32], dy: &[f32], act: Activation) -> Vec<f32> {
    let f = match act {
        Activation::Silu => silu_back,
        Activation::Gelu => gelu_back,
        Activation::GeluTanh => gelu_tanh_back,
    };
    assert_eq!(x.len(), dy.len(), "x and dy");
    let inputs = x.par_chunks(CHUNK).zip(dy.par_chunks(CHUNK));
    let write = |dx: &mut Unwritten| dx.par_chunks_mut(CHUNK).zip(inputs).for_each(|(dx, (x, dy))| f(dx, x, dy));
    // SAFETY: the three slices have one length, so the chunks cover the output and `f` writes all of each.
    unsafe { filled(x.len(), write) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, GPT-2, Gemma or Falcon drift from their reference layer by layer.
    #[test]
    fn values_and_slopes_equal_their_definitions_in_double_precision() {
        let erf = |x: f64| {
            // Series for small arguments, enough terms for |x| <= 5.
            let mut term = x;
            let mut sum = x;
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * 2.0 / std::f64::consts::PI.sqrt()
        };
        let gelu = |x: f64| 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2));
        let gelu_tanh = |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
        let silu = |x: f64| x / (1.0 + (-x).exp());
        type Double<'a> = &'a dyn Fn(f64) -> f64;
        let cases: [(Activation, Double); 3] = [(Activation::Gelu, &gelu), (Activation::GeluTanh, &gelu_tanh), (Activation::Silu, &silu)];
        for (act, f) in cases {
            for i in -500..=500 {
                let x = f64::from(i) / 100.0;
                let got = plain(&[x as f32], act)[0];
                assert!((f64::from(got) - f(x)).abs() < 1e-6, "{act:?} {x}: {got} against {}", f(x));
                let slope = plain_backward(&[x as f32], &[1.0], act)[0];
                let want = (f(x + 1e-4) - f(x - 1e-4)) / 2e-4;
                assert!((f64::from(slope) - want).abs() < 2e-6, "{act:?} slope {x}: {slope} against {want}");
            }
        }
    }
}
