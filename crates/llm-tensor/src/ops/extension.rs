//! The fused operations as a Burn backend extension: CPU bodies for Flex, hand-written gradients for autodiff.
//!
//! Only `f32` tensors on Flex reach this file (`ops::fused` decides); other backends never call the trait. A backward pass
//! keeps the operation's inputs and nothing else.

use super::{AttentionSpan, Indices, RopeTable, attention_shape};
use crate::kernels;
use crate::quant::Packed;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::autodiff::{Autodiff, NodeId};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, backend_extension};
use burn::tensor::TensorData;
use burn_flex::FlexTensor;
use kernels::activation::Activation;
use kernels::adamw::Step;
use kernels::attention::Score;
use kernels::linear_cross_entropy as lce;
use std::sync::Arc;

/// Operations of a decoder; `*_backward` take the inputs, then the gradient of the output.
#[backend_extension(Flex, Autodiff)]
pub trait DecoderOps: Backend {
    fn fused_linear(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self>;
    /// A gradient that is not wanted (of a frozen matrix, of pixels) is empty.
    fn fused_linear_backward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        d: FloatTensor<Self>,
        want_x: bool,
        want_w: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    fn fused_packed_linear(x: FloatTensor<Self>, w: Arc<Packed>) -> FloatTensor<Self>;
    /// Of the inputs; codes have no gradient.
    fn fused_packed_linear_backward(d: FloatTensor<Self>, w: Arc<Packed>) -> FloatTensor<Self>;
    fn fused_packed_cross_entropy(h: FloatTensor<Self>, w: Arc<Packed>, targets: Indices, softcap: Option<f32>) -> FloatTensor<Self>;
    /// The value and the gradient of its sum.
    fn fused_packed_cross_entropy_unit(
        h: FloatTensor<Self>,
        w: Arc<Packed>,
        targets: Indices,
        softcap: Option<f32>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// `x [N, D]`, each row times its element of `d [N]`.
    fn fused_scale_rows(x: FloatTensor<Self>, d: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_grouped_linear(x: FloatTensor<Self>, w: FloatTensor<Self>, offsets: Indices) -> FloatTensor<Self>;
    fn fused_grouped_linear_backward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        d: FloatTensor<Self>,
        offsets: Indices,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    fn fused_embedding(table: FloatTensor<Self>, ids: Indices) -> FloatTensor<Self>;
    fn fused_embedding_backward(table: FloatTensor<Self>, d: FloatTensor<Self>, ids: Indices) -> FloatTensor<Self>;
    fn fused_rms_norm(x: FloatTensor<Self>, w: FloatTensor<Self>, eps: f32) -> FloatTensor<Self>;
    fn fused_rms_norm_backward(x: FloatTensor<Self>, w: FloatTensor<Self>, d: FloatTensor<Self>, eps: f32) -> (FloatTensor<Self>, FloatTensor<Self>);
    fn fused_layer_norm(x: FloatTensor<Self>, w: FloatTensor<Self>, b: FloatTensor<Self>, eps: f32) -> FloatTensor<Self>;
    fn fused_layer_norm_backward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        d: FloatTensor<Self>,
        eps: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    fn fused_rope(x: FloatTensor<Self>, positions: Indices, table: RopeTable, sign: f32) -> FloatTensor<Self>;
    fn fused_gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, act: Activation) -> FloatTensor<Self>;
    fn fused_gated_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        d: FloatTensor<Self>,
        act: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    fn fused_activate(x: FloatTensor<Self>, act: Activation) -> FloatTensor<Self>;
    fn fused_activate_backward(x: FloatTensor<Self>, d: FloatTensor<Self>, act: Activation) -> FloatTensor<Self>;
    fn fused_attention(q: FloatTensor<Self>, k: FloatTensor<Self>, v: FloatTensor<Self>, span: AttentionSpan, score: Score) -> FloatTensor<Self>;
    fn fused_attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        d: FloatTensor<Self>,
        span: AttentionSpan,
        score: Score,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    fn fused_cross_entropy(logits: FloatTensor<Self>, targets: Indices) -> FloatTensor<Self>;
    fn fused_cross_entropy_backward(logits: FloatTensor<Self>, d: FloatTensor<Self>, targets: Indices) -> FloatTensor<Self>;
    fn fused_adamw(
        p: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        g: FloatTensor<Self>,
        step: Step,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    /// The sum in two floats `[2]`: its value rounded, and what rounding lost.
    fn fused_square_sum(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_linear_cross_entropy(h: FloatTensor<Self>, w: FloatTensor<Self>, targets: Indices, softcap: Option<f32>) -> FloatTensor<Self>;
    /// The value and the gradients of its sum; without `train_weight` the last is empty.
    fn fused_linear_cross_entropy_unit(
        h: FloatTensor<Self>,
        w: FloatTensor<Self>,
        targets: Indices,
        softcap: Option<f32>,
        train_weight: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    /// `unit_h` and `unit_w` are those gradients.
    fn fused_linear_cross_entropy_backward(
        h: FloatTensor<Self>,
        w: FloatTensor<Self>,
        d: FloatTensor<Self>,
        unit_h: FloatTensor<Self>,
        unit_w: FloatTensor<Self>,
        targets: Indices,
        softcap: Option<f32>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

fn dims(t: &FlexTensor) -> Vec<usize> {
    t.layout().shape().to_vec()
}

fn last_dim(t: &FlexTensor) -> usize {
    dims(t).last().copied().unwrap_or(1)
}

fn tensor(values: Vec<f32>, shape: Vec<usize>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// A contiguous view of the elements; copies only when strided.
struct Floats(FlexTensor);
impl Floats {
    fn of(t: &FlexTensor) -> Self {
        Self(if t.is_contiguous() { t.clone() } else { t.to_contiguous() })
    }
}
impl std::ops::Deref for Floats {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // `of` made it contiguous and `fused` checked the dtype.
        self.0.as_slice::<f32>().unwrap_or_default()
    }
}

fn cube(t: &FlexTensor) -> [usize; 3] {
    let d = dims(t);
    [d[0], d[1], d[2]]
}

fn problem<'a>(hidden: &'a Floats, weight: &'a Floats, targets: &'a [u32], softcap: Option<f32>, hidden_size: usize) -> lce::Problem<'a> {
    lce::Problem { hidden_ND: hidden, weight_VD: weight, targets, hidden_size, softcap }
}

impl DecoderOps for Flex {
    fn fused_linear(x: FlexTensor, w: FlexTensor) -> FlexTensor {
        let (rows, inputs, outputs) = (dims(&x)[0], last_dim(&x), dims(&w)[0]);
        tensor(kernels::matmul::linear(&Floats::of(&x), &Floats::of(&w), inputs, outputs), vec![rows, outputs])
    }
    fn fused_linear_backward(x: FlexTensor, w: FlexTensor, d: FlexTensor, want_x: bool, want_w: bool) -> (FlexTensor, FlexTensor) {
        let (inputs, outputs) = (last_dim(&x), dims(&w)[0]);
        let d = Floats::of(&d);
        let none = || tensor(Vec::new(), vec![0, inputs]);
        let dx = if want_x { tensor(kernels::matmul::linear_grad_input(&d, &Floats::of(&w), inputs, outputs), dims(&x)) } else { none() };
        let dw = if want_w { tensor(kernels::matmul::linear_grad_weight(&d, &Floats::of(&x), inputs, outputs), dims(&w)) } else { none() };
        (dx, dw)
    }
    fn fused_packed_linear(x: FlexTensor, w: Arc<Packed>) -> FlexTensor {
        tensor(kernels::packed::linear(&Floats::of(&x), &w), vec![dims(&x)[0], w.outputs()])
    }
    fn fused_packed_linear_backward(d: FlexTensor, w: Arc<Packed>) -> FlexTensor {
        tensor(kernels::packed::linear_grad_input(&Floats::of(&d), &w), vec![dims(&d)[0], w.inputs()])
    }
    fn fused_packed_cross_entropy(h: FlexTensor, w: Arc<Packed>, targets: Indices, softcap: Option<f32>) -> FlexTensor {
        let (nll, _) = kernels::packed_cross_entropy::losses(&Floats::of(&h), &w, &targets, softcap, false);
        tensor(nll, vec![targets.len()])
    }
    fn fused_packed_cross_entropy_unit(h: FlexTensor, w: Arc<Packed>, targets: Indices, softcap: Option<f32>) -> (FlexTensor, FlexTensor) {
        let (nll, d_hidden) = kernels::packed_cross_entropy::losses(&Floats::of(&h), &w, &targets, softcap, true);
        (tensor(nll, vec![targets.len()]), tensor(d_hidden, dims(&h)))
    }
    fn fused_scale_rows(mut x: FlexTensor, d: FlexTensor) -> FlexTensor {
        let width = last_dim(&x);
        lce::scale_rows(x.storage_mut::<f32>(), &Floats::of(&d), width);
        x
    }
    fn fused_grouped_linear(x: FlexTensor, w: FlexTensor, offsets: Indices) -> FlexTensor {
        let (rows, [_, outputs, inputs]) = (dims(&x)[0], cube(&w));
        tensor(kernels::grouped::linear(&Floats::of(&x), &Floats::of(&w), &offsets, inputs, outputs), vec![rows, outputs])
    }
    fn fused_grouped_linear_backward(x: FlexTensor, w: FlexTensor, d: FlexTensor, offsets: Indices) -> (FlexTensor, FlexTensor) {
        let [_, outputs, inputs] = cube(&w);
        let d = Floats::of(&d);
        let dx = kernels::grouped::linear_grad_input(&d, &Floats::of(&w), &offsets, inputs, outputs);
        let dw = kernels::grouped::linear_grad_weight(&d, &Floats::of(&x), &offsets, inputs, outputs);
        (tensor(dx, dims(&x)), tensor(dw, dims(&w)))
    }
    fn fused_embedding(table: FlexTensor, ids: Indices) -> FlexTensor {
        let d = last_dim(&table);
        tensor(kernels::embedding::forward(&Floats::of(&table), &ids, d), vec![ids.len(), d])
    }
    fn fused_embedding_backward(table: FlexTensor, d: FlexTensor, ids: Indices) -> FlexTensor {
        let shape = dims(&table);
        tensor(kernels::embedding::backward(&Floats::of(&d), &ids, shape[1], shape[0]), shape)
    }
    fn fused_rms_norm(x: FlexTensor, w: FlexTensor, eps: f32) -> FlexTensor {
        tensor(kernels::rms_norm::forward(&Floats::of(&x), &Floats::of(&w), eps), dims(&x))
    }
    fn fused_rms_norm_backward(x: FlexTensor, w: FlexTensor, d: FlexTensor, eps: f32) -> (FlexTensor, FlexTensor) {
        let (dx, dw) = kernels::rms_norm::backward(&Floats::of(&x), &Floats::of(&w), &Floats::of(&d), eps);
        (tensor(dx, dims(&x)), tensor(dw, dims(&w)))
    }
    fn fused_layer_norm(x: FlexTensor, w: FlexTensor, b: FlexTensor, eps: f32) -> FlexTensor {
        tensor(kernels::layer_norm::forward(&Floats::of(&x), &Floats::of(&w), &Floats::of(&b), eps), dims(&x))
    }
    fn fused_layer_norm_backward(x: FlexTensor, w: FlexTensor, d: FlexTensor, eps: f32) -> (FlexTensor, FlexTensor, FlexTensor) {
        let (dx, dw, db) = kernels::layer_norm::backward(&Floats::of(&x), &Floats::of(&w), &Floats::of(&d), eps);
        (tensor(dx, dims(&x)), tensor(dw, dims(&w)), tensor(db, dims(&w)))
    }
    fn fused_rope(x: FlexTensor, positions: Indices, table: RopeTable, sign: f32) -> FlexTensor {
        let [_, heads, head_dim] = cube(&x);
        tensor(kernels::rope::rotate(&Floats::of(&x), &positions, &table.cos, &table.sin, heads, head_dim, table.half, table.pairing, sign), dims(&x))
    }
    fn fused_gated(gate: FlexTensor, up: FlexTensor, act: Activation) -> FlexTensor {
        tensor(kernels::activation::gated(&Floats::of(&gate), &Floats::of(&up), act), dims(&gate))
    }
    fn fused_gated_backward(gate: FlexTensor, up: FlexTensor, d: FlexTensor, act: Activation) -> (FlexTensor, FlexTensor) {
        let (d_gate, d_up) = kernels::activation::gated_backward(&Floats::of(&gate), &Floats::of(&up), &Floats::of(&d), act);
        (tensor(d_gate, dims(&gate)), tensor(d_up, dims(&up)))
    }
    fn fused_activate(x: FlexTensor, act: Activation) -> FlexTensor {
        tensor(kernels::activation::plain(&Floats::of(&x), act), dims(&x))
    }
    fn fused_activate_backward(x: FlexTensor, d: FlexTensor, act: Activation) -> FlexTensor {
        tensor(kernels::activation::plain_backward(&Floats::of(&x), &Floats::of(&d), act), dims(&x))
    }
    fn fused_attention(q: FlexTensor, k: FlexTensor, v: FlexTensor, span: AttentionSpan, score: Score) -> FlexTensor {
        let shape = attention_shape(&span, cube(&q), cube(&k), cube(&v));
        let out = kernels::attention::forward(&Floats::of(&q), &Floats::of(&k), &Floats::of(&v), &span.first_key, shape, score);
        tensor(out, vec![span.batch * span.length, shape.heads, shape.value_dim])
    }
    fn fused_attention_backward(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        d: FlexTensor,
        span: AttentionSpan,
        score: Score,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let shape = attention_shape(&span, cube(&q), cube(&k), cube(&v));
        let (dq, dk, dv) =
            kernels::attention::backward(&Floats::of(&q), &Floats::of(&k), &Floats::of(&v), &Floats::of(&d), &span.first_key, shape, score);
        (tensor(dq, dims(&q)), tensor(dk, dims(&k)), tensor(dv, dims(&v)))
    }
    fn fused_cross_entropy(logits: FlexTensor, targets: Indices) -> FlexTensor {
        let vocab = last_dim(&logits);
        tensor(kernels::cross_entropy::forward(&Floats::of(&logits), &targets, vocab), vec![targets.len()])
    }
    fn fused_cross_entropy_backward(logits: FlexTensor, d: FlexTensor, targets: Indices) -> FlexTensor {
        let vocab = last_dim(&logits);
        tensor(kernels::cross_entropy::backward(&Floats::of(&logits), &targets, &Floats::of(&d), vocab), dims(&logits))
    }
    fn fused_adamw(mut p: FlexTensor, mut m: FlexTensor, mut v: FlexTensor, g: FlexTensor, step: Step) -> (FlexTensor, FlexTensor, FlexTensor) {
        for t in [&mut p, &mut m, &mut v] {
            if !t.is_contiguous() || t.layout().start_offset() != 0 {
                *t = tensor(Floats::of(t).to_vec(), dims(t));
            }
        }
        kernels::adamw::step(p.storage_mut::<f32>(), m.storage_mut::<f32>(), v.storage_mut::<f32>(), &Floats::of(&g), step);
        (p, m, v)
    }
    fn fused_square_sum(x: FlexTensor) -> FlexTensor {
        let sum = kernels::square_sum::square_sum(&Floats::of(&x));
        let high = sum as f32;
        let low = if high.is_finite() { (sum - f64::from(high)) as f32 } else { 0.0 };
        tensor(vec![high, low], vec![2])
    }
    fn fused_linear_cross_entropy(h: FlexTensor, w: FlexTensor, targets: Indices, softcap: Option<f32>) -> FlexTensor {
        let nll = lce::forward(problem(&Floats::of(&h), &Floats::of(&w), &targets, softcap, last_dim(&h)));
        tensor(nll, vec![targets.len()])
    }
    fn fused_linear_cross_entropy_unit(
        h: FlexTensor,
        w: FlexTensor,
        targets: Indices,
        softcap: Option<f32>,
        train_weight: bool,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let (hidden, weight) = (Floats::of(&h), Floats::of(&w));
        let out = lce::forward_backward(problem(&hidden, &weight, &targets, softcap, last_dim(&h)), |_| 1.0, true, train_weight);
        let weight_shape = if train_weight { dims(&w) } else { vec![0, last_dim(&w)] };
        (tensor(out.nll_N, vec![targets.len()]), tensor(out.d_hidden_ND, dims(&h)), tensor(out.d_weight_VD, weight_shape))
    }
    fn fused_linear_cross_entropy_backward(
        h: FlexTensor,
        w: FlexTensor,
        d: FlexTensor,
        mut unit_h: FlexTensor,
        mut unit_w: FlexTensor,
        targets: Indices,
        softcap: Option<f32>,
    ) -> (FlexTensor, FlexTensor) {
        let d = Floats::of(&d);
        if let Some(factor) = lce::uniform(&d, &targets) {
            lce::scale(unit_h.storage_mut::<f32>(), factor);
            lce::scale(unit_w.storage_mut::<f32>(), factor);
            return (unit_h, unit_w);
        }
        lce::scale_rows(unit_h.storage_mut::<f32>(), &d, last_dim(&h));
        if dims(&unit_w) == dims(&w) {
            let (hidden, weight) = (Floats::of(&h), Floats::of(&w));
            let out = lce::forward_backward(problem(&hidden, &weight, &targets, softcap, last_dim(&h)), |n| d[n], false, true);
            unit_w = tensor(out.d_weight_VD, dims(&w));
        }
        (unit_h, unit_w)
    }
}

/// One differentiable operation: forward through `B::$name`, backward through an expression over the saved inputs, which may ask
/// whose gradients are `$wanted`.
macro_rules! differentiable {
    ($name:ident, $count:literal, [$($input:ident),+], [$($constant:ident : $type:ty),*], |$b:ident, $grad:ident $(, $wanted:ident)?| $backward:expr) => {
        fn $name($($input: FloatTensor<Self>,)+ $($constant: $type),*) -> FloatTensor<Self> {
            #[derive(Debug)]
            struct Step;
            impl<$b: DecoderOps> Backward<$b, $count> for Step {
                type State = ([NodeId; $count], ($($type,)*));
                fn backward(self, ops: Ops<Self::State, $count>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
                    let ([$($input),+], ($($constant,)*)) = ops.state;
                    $(let $input: $b::FloatTensorPrimitive = checkpointer.retrieve_node_output($input);)+
                    let $grad = grads.consume::<$b>(&ops.node);
                    $(let $wanted: [bool; $count] = ops.parents.each_ref().map(|parent| parent.is_some());)?
                    let gradients: [$b::FloatTensorPrimitive; $count] = $backward;
                    for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
                        if let Some(parent) = parent {
                            grads.register::<$b>(parent.id, gradient);
                        }
                    }
                }
            }
            match Step.prepare::<C>([$($input.node()),+]).compute_bound().stateful() {
                OpsKind::Tracked(mut prepared) => {
                    let state = ([$(prepared.checkpoint(&$input)),+], ($($constant.clone(),)*));
                    prepared.finish(state, B::$name($($input.primitive().clone(),)+ $($constant),*))
                }
                OpsKind::UnTracked(prepared) => prepared.finish(B::$name($($input.primitive().clone(),)+ $($constant),*)),
            }
        }
    };
}

/// Gradients of gradients, and optimiser steps on tracked tensors, are not supported; no public function reaches these.
macro_rules! first_order_only {
    ($(fn $name:ident($($arg:ident : $type:ty),*) -> $out:ty;)+) => {
        $(fn $name($($arg: $type),*) -> $out {
            $(let _ = $arg;)*
            unreachable!(concat!(stringify!($name), " is only called on tensors without autodiff"))
        })+
    };
}

/// Does anyone want this tensor's gradient? An operation on it alone is tracked if and only if it is.
fn is_tracked<B: DecoderOps, C: CheckpointStrategy>(x: &FloatTensor<Autodiff<B, C>>) -> bool {
    #[derive(Debug)]
    struct Probe;
    impl<B: DecoderOps> Backward<B, 1> for Probe {
        type State = ();
        fn backward(self, _: Ops<(), 1>, _: &mut Gradients, _: &mut Checkpointer) {}
    }
    matches!(<Probe as Backward<B, 1>>::prepare::<C>(Probe, [x.node()]).compute_bound().stateful(), OpsKind::Tracked(_))
}

impl<B: DecoderOps, C: CheckpointStrategy> DecoderOps for Autodiff<B, C> {
    differentiable!(fused_linear, 2, [x, w], [], |B, d, wanted| {
        let (dx, dw) = B::fused_linear_backward(x, w, d, wanted[0], wanted[1]);
        [dx, dw]
    });
    differentiable!(fused_grouped_linear, 2, [x, w], [offsets: Indices], |B, d| {
        let (dx, dw) = B::fused_grouped_linear_backward(x, w, d, offsets);
        [dx, dw]
    });
    differentiable!(fused_embedding, 1, [table], [ids: Indices], |B, d| [B::fused_embedding_backward(table, d, ids)]);
    differentiable!(fused_rms_norm, 2, [x, w], [eps: f32], |B, d| { let (dx, dw) = B::fused_rms_norm_backward(x, w, d, eps); [dx, dw] });
    differentiable!(fused_layer_norm, 3, [x, w, b], [eps: f32], |B, d| {
        let _ = b;
        let (dx, dw, db) = B::fused_layer_norm_backward(x, w, d, eps);
        [dx, dw, db]
    });
    /// A rotation is undone by the opposite one, so nothing of the input is kept.
    fn fused_rope(x: FloatTensor<Self>, positions: Indices, table: RopeTable, sign: f32) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: DecoderOps> Backward<B, 1> for Step {
            type State = (Indices, RopeTable, f32);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let (positions, table, sign) = ops.state;
                let d = grads.consume::<B>(&ops.node);
                if let [Some(parent)] = ops.parents {
                    grads.register::<B>(parent.id, B::fused_rope(d, positions, table, -sign));
                }
            }
        }
        let rotated = B::fused_rope(x.primitive().clone(), positions.clone(), table.clone(), sign);
        match Step.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((positions, table, sign), rotated),
            OpsKind::UnTracked(prepared) => prepared.finish(rotated),
        }
    }
    differentiable!(fused_gated, 2, [gate, up], [act: Activation], |B, d| {
        let (d_gate, d_up) = B::fused_gated_backward(gate, up, d, act);
        [d_gate, d_up]
    });
    differentiable!(fused_activate, 1, [x], [act: Activation], |B, d| [B::fused_activate_backward(x, d, act)]);
    differentiable!(fused_attention, 3, [q, k, v], [span: AttentionSpan, score: Score], |B, d| {
        let (dq, dk, dv) = B::fused_attention_backward(q, k, v, d, span, score);
        [dq, dk, dv]
    });
    differentiable!(fused_cross_entropy, 1, [logits], [targets: Indices], |B, d| [B::fused_cross_entropy_backward(logits, d, targets)]);

    /// With gradients the value and the gradients of its sum are computed together; the backward pass scales them when every row
    /// gets the same gradient (the mean of a batch) and computes the weight's again otherwise.
    fn fused_linear_cross_entropy(h: FloatTensor<Self>, w: FloatTensor<Self>, targets: Indices, softcap: Option<f32>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: DecoderOps> Backward<B, 2> for Step {
            type State = ([NodeId; 2], [B::FloatTensorPrimitive; 2], Indices, Option<f32>);
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
                let ([h, w], [unit_h, unit_w], targets, softcap) = ops.state;
                let (h, w) = (checkpointer.retrieve_node_output(h), checkpointer.retrieve_node_output(w));
                let d = grads.consume::<B>(&ops.node);
                let (dh, dw) = B::fused_linear_cross_entropy_backward(h, w, d, unit_h, unit_w, targets, softcap);
                for (parent, gradient) in ops.parents.into_iter().zip([dh, dw]) {
                    if let Some(parent) = parent {
                        grads.register::<B>(parent.id, gradient);
                    }
                }
            }
        }
        match Step.prepare::<C>([h.node(), w.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let inputs = [prepared.checkpoint(&h), prepared.checkpoint(&w)];
                let train_weight = is_tracked::<B, C>(&w); // a frozen head (LoRA) costs no weight gradient
                let (h, w) = (h.primitive().clone(), w.primitive().clone());
                let (nll, unit_h, unit_w) = B::fused_linear_cross_entropy_unit(h, w, targets.clone(), softcap, train_weight);
                prepared.finish((inputs, [unit_h, unit_w], targets, softcap), nll)
            }
            OpsKind::UnTracked(prepared) => {
                prepared.finish(B::fused_linear_cross_entropy(h.primitive().clone(), w.primitive().clone(), targets, softcap))
            }
        }
    }

    /// Codes are constants, and the gradient of the input needs nothing else: neither the input nor decoded values are kept.
    fn fused_packed_linear(x: FloatTensor<Self>, w: Arc<Packed>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: DecoderOps> Backward<B, 1> for Step {
            type State = Arc<Packed>;
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let w = ops.state;
                let d = grads.consume::<B>(&ops.node);
                if let [Some(parent)] = ops.parents {
                    grads.register::<B>(parent.id, B::fused_packed_linear_backward(d, w));
                }
            }
        }
        let y = B::fused_packed_linear(x.primitive().clone(), w.clone());
        match Step.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(w, y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }

    /// With gradients the value and the gradient of its sum are computed together; no logits are kept.
    fn fused_packed_cross_entropy(h: FloatTensor<Self>, w: Arc<Packed>, targets: Indices, softcap: Option<f32>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: DecoderOps> Backward<B, 1> for Step {
            type State = B::FloatTensorPrimitive;
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let unit_h = ops.state;
                let d = grads.consume::<B>(&ops.node);
                if let [Some(parent)] = ops.parents {
                    grads.register::<B>(parent.id, B::fused_scale_rows(unit_h, d));
                }
            }
        }
        let hidden = h.primitive().clone();
        match Step.prepare::<C>([h.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let (nll, unit_h) = B::fused_packed_cross_entropy_unit(hidden, w, targets, softcap);
                prepared.finish(unit_h, nll)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::fused_packed_cross_entropy(hidden, w, targets, softcap)),
        }
    }

    first_order_only! {
        fn fused_square_sum(x: FloatTensor<Self>) -> FloatTensor<Self>;
        fn fused_packed_linear_backward(d: FloatTensor<Self>, w: Arc<Packed>) -> FloatTensor<Self>;
        fn fused_packed_cross_entropy_unit(h: FloatTensor<Self>, w: Arc<Packed>, targets: Indices, softcap: Option<f32>) -> (FloatTensor<Self>, FloatTensor<Self>);
        fn fused_scale_rows(x: FloatTensor<Self>, d: FloatTensor<Self>) -> FloatTensor<Self>;
        fn fused_linear_cross_entropy_unit(h: FloatTensor<Self>, w: FloatTensor<Self>, targets: Indices, softcap: Option<f32>, train_weight: bool) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
        fn fused_linear_cross_entropy_backward(h: FloatTensor<Self>, w: FloatTensor<Self>, d: FloatTensor<Self>, unit_h: FloatTensor<Self>, unit_w: FloatTensor<Self>, targets: Indices, softcap: Option<f32>) -> (FloatTensor<Self>, FloatTensor<Self>);
        fn fused_linear_backward(x: FloatTensor<Self>, w: FloatTensor<Self>, d: FloatTensor<Self>, want_x: bool, want_w: bool) -> (FloatTensor<Self>, FloatTensor<Self>);
        fn fused_grouped_linear_backward(x: FloatTensor<Self>, w: FloatTensor<Self>, d: FloatTensor<Self>, offsets: Indices) -> (FloatTensor<Self>, FloatTensor<Self>);
        fn fused_embedding_backward(table: FloatTensor<Self>, d: FloatTensor<Self>, ids: Indices) -> FloatTensor<Self>;
        fn fused_rms_norm_backward(x: FloatTensor<Self>, w: FloatTensor<Self>, d: FloatTensor<Self>, eps: f32) -> (FloatTensor<Self>, FloatTensor<Self>);
        fn fused_layer_norm_backward(x: FloatTensor<Self>, w: FloatTensor<Self>, d: FloatTensor<Self>, eps: f32) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
        fn fused_gated_backward(gate: FloatTensor<Self>, up: FloatTensor<Self>, d: FloatTensor<Self>, act: Activation) -> (FloatTensor<Self>, FloatTensor<Self>);
        fn fused_activate_backward(x: FloatTensor<Self>, d: FloatTensor<Self>, act: Activation) -> FloatTensor<Self>;
        fn fused_attention_backward(q: FloatTensor<Self>, k: FloatTensor<Self>, v: FloatTensor<Self>, d: FloatTensor<Self>, span: AttentionSpan, score: Score) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
        fn fused_cross_entropy_backward(logits: FloatTensor<Self>, d: FloatTensor<Self>, targets: Indices) -> FloatTensor<Self>;
        fn fused_adamw(p: FloatTensor<Self>, m: FloatTensor<Self>, v: FloatTensor<Self>, g: FloatTensor<Self>, step: Step) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    }
}
