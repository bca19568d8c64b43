//! The fused steps of the optimisers as a Burn backend extension for Flex. They never see tracked tensors, so there are no gradients.

#![allow(clippy::type_complexity)] // a step returns all that it changed

use crate::kernels::{adafactor, adamw, adamw8, lion, muon};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Flex, backend_extension};
use burn_flex::FlexTensor;

/// Steps in place.
#[backend_extension(Flex)]
pub trait OptimizerOps: Backend {
    fn fused_lion(p: FloatTensor<Self>, m: FloatTensor<Self>, g: FloatTensor<Self>, step: lion::Step) -> (FloatTensor<Self>, FloatTensor<Self>);
    fn fused_muon(p: FloatTensor<Self>, m: FloatTensor<Self>, g: FloatTensor<Self>, step: muon::Step) -> (FloatTensor<Self>, FloatTensor<Self>);
    fn fused_adafactor_matrices(
        p: FloatTensor<Self>,
        row: FloatTensor<Self>,
        column: FloatTensor<Self>,
        g: FloatTensor<Self>,
        shape: [usize; 2],
        step: adafactor::Step,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    fn fused_adafactor_vector(
        p: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        g: FloatTensor<Self>,
        step: adafactor::Step,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    fn fused_adamw_8bit(
        p: FloatTensor<Self>,
        m: IntTensor<Self>,
        m_max: FloatTensor<Self>,
        v: IntTensor<Self>,
        v_max: FloatTensor<Self>,
        g: FloatTensor<Self>,
        step: adamw::Step,
    ) -> (FloatTensor<Self>, IntTensor<Self>, FloatTensor<Self>, IntTensor<Self>, FloatTensor<Self>);
}

/// From the start of its buffer and without gaps; copies only where it is not.
fn plain(t: FlexTensor) -> FlexTensor {
    if t.is_contiguous() && t.layout().start_offset() == 0 { t } else { t.to_contiguous() }
}

fn len(t: &FlexTensor) -> usize {
    t.layout().shape().iter().product()
}

/// The elements of a plain tensor; copies the buffer only where something else holds it.
fn floats(t: &mut FlexTensor) -> &mut [f32] {
    let n = len(t);
    &mut t.storage_mut::<f32>()[..n]
}

/// Codes, four a word.
fn words(t: &mut FlexTensor) -> &mut [i32] {
    let n = len(t);
    &mut t.storage_mut::<i32>()[..n]
}

/// The elements of a plain tensor to read.
fn read(t: &FlexTensor) -> &[f32] {
    // `plain` made it contiguous and `fused` checked the dtype.
    t.as_slice::<f32>().unwrap_or_default()
}

impl OptimizerOps for Flex {
    fn fused_lion(p: FlexTensor, m: FlexTensor, g: FlexTensor, step: lion::Step) -> (FlexTensor, FlexTensor) {
        let (mut p, mut m, g) = (plain(p), plain(m), plain(g));
        lion::step(floats(&mut p), floats(&mut m), read(&g), step);
        (p, m)
    }
    fn fused_muon(p: FlexTensor, m: FlexTensor, g: FlexTensor, step: muon::Step) -> (FlexTensor, FlexTensor) {
        let (mut p, mut m, g) = (plain(p), plain(m), plain(g));
        muon::step(floats(&mut p), floats(&mut m), read(&g), &step);
        (p, m)
    }
    fn fused_adafactor_matrices(
        p: FlexTensor,
        row: FlexTensor,
        column: FlexTensor,
        g: FlexTensor,
        shape: [usize; 2],
        step: adafactor::Step,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let (mut p, mut row, mut column, g) = (plain(p), plain(row), plain(column), plain(g));
        adafactor::matrices(floats(&mut p), floats(&mut row), floats(&mut column), read(&g), shape, step);
        (p, row, column)
    }
    fn fused_adafactor_vector(p: FlexTensor, variance: FlexTensor, g: FlexTensor, step: adafactor::Step) -> (FlexTensor, FlexTensor) {
        let (mut p, mut variance, g) = (plain(p), plain(variance), plain(g));
        adafactor::vector(floats(&mut p), floats(&mut variance), read(&g), step);
        (p, variance)
    }
    fn fused_adamw_8bit(
        p: FlexTensor,
        m: FlexTensor,
        m_max: FlexTensor,
        v: FlexTensor,
        v_max: FlexTensor,
        g: FlexTensor,
        step: adamw::Step,
    ) -> (FlexTensor, FlexTensor, FlexTensor, FlexTensor, FlexTensor) {
        let (mut p, mut m, mut m_max, mut v, mut v_max, g) = (plain(p), plain(m), plain(m_max), plain(v), plain(v_max), plain(g));
        let m_state = adamw8::Moment { words: words(&mut m), absmax: floats(&mut m_max) };
        let v_state = adamw8::Moment { words: words(&mut v), absmax: floats(&mut v_max) };
        adamw8::step(floats(&mut p), m_state, v_state, read(&g), step);
        (p, m, m_max, v, v_max)
    }
}
