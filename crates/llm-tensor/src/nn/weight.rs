//! The matrix of a projection, or the table of an embedding: dense, watched, quantised, or one of these with adapters.
//!
//! A quantised matrix is no parameter: it is not trained, moved by an optimiser or averaged. Whoever walks the parameters sees one without a value,
//! which is decoded if it is asked for, so that counting, saving and comparing work as for a dense one. Adapters of single rows are no part of the
//! model either: walkers see the base. An update that is being trained is: walkers see the base under its own name and the update's parameters
//! below it, `...q_proj.weight` and `...q_proj.weight.lora_A`. Who trains it leaves the base off the tape.

use super::{Lora, LoraBank};
use crate::ops;
use crate::quant::{Activations, Packed};
use burn::module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Shape, Tensor};
use std::convert::identity;
use std::fmt;
use std::sync::Arc;

/// Sees the inputs of a projection, `[N, I]`.
#[derive(Clone)]
pub struct Watcher(Arc<dyn Fn(&Tensor<2>) + Send + Sync>);

impl Watcher {
    /// Call `see` before every product.
    pub fn new(see: impl Fn(&Tensor<2>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(see))
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watcher")
    }
}

/// The matrix `[O, I]` of a [`super::Linear`], or the table `[V, D]` of a [`super::Embedding`].
#[derive(Debug, Clone)]
pub enum Weight {
    /// A parameter.
    Dense(Param<Tensor<2>>),
    /// A parameter whose inputs somebody looks at: calibration.
    Watched(Param<Tensor<2>>, Watcher),
    /// 4, 8 or 16 bits.
    Packed(ops::PackedWeight),
    /// Any of these, changed for the rows of a batch that use an adapter.
    Adapted(Box<Weight>, LoraBank),
    /// One of the first three, frozen, with an update that is being trained.
    Trained(Box<Weight>, Box<Lora>),
}

impl From<Param<Tensor<2>>> for Weight {
    fn from(weight: Param<Tensor<2>>) -> Self {
        Self::Dense(weight)
    }
}

impl Weight {
    /// A quantised matrix for that device.
    pub fn packed(matrix: Packed, device: &Device) -> Self {
        Self::Packed(ops::PackedWeight::new(Arc::new(matrix), device))
    }

    /// The bank of this matrix, which gets one if it has none.
    pub fn adapt(&mut self, make: impl FnOnce() -> LoraBank) -> LoraBank {
        if let Self::Adapted(_, bank) = self {
            return bank.clone();
        }
        let bank = make();
        *self = Self::Adapted(Box::new(self.clone()), bank.clone());
        bank
    }

    /// The bank of this matrix.
    pub fn bank(&self) -> Option<&LoraBank> {
        if let Self::Adapted(_, bank) = self { Some(bank) } else { None }
    }

    /// Take the bank away.
    pub fn unadapt(&mut self) {
        if let Self::Adapted(base, _) = self {
            *self = (**base).clone();
        }
    }

    /// The values, `[O, I]`, without adapters; a quantised matrix is decoded for it.
    pub fn val(&self) -> Tensor<2> {
        match self {
            Self::Dense(weight) | Self::Watched(weight, _) => weight.val(),
            Self::Packed(packed) => packed.dequantize(),
            Self::Adapted(base, _) | Self::Trained(base, _) => base.val(),
        }
    }

    /// [`Weight::val`] with the update that is being trained, without gradients where there is one.
    pub fn effective(&self) -> Tensor<2> {
        match self {
            Self::Trained(base, lora) => lora.effective(base),
            Self::Adapted(base, _) => base.effective(),
            other => other.val(),
        }
    }

    /// The update that is being trained.
    pub fn trained(&self) -> Option<&Lora> {
        match self {
            Self::Trained(_, lora) => Some(lora),
            Self::Adapted(base, _) => base.trained(),
            _ => None,
        }
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        match self {
            Self::Dense(weight) | Self::Watched(weight, _) => weight.val().device(),
            Self::Packed(packed) => packed.device().clone(),
            Self::Adapted(base, _) | Self::Trained(base, _) => base.device(),
        }
    }

    /// The quantised matrix, if it is one.
    pub fn as_packed(&self) -> Option<&Packed> {
        self.packed_weight().map(ops::PackedWeight::matrix)
    }

    /// The quantised matrix on its device.
    pub fn packed_weight(&self) -> Option<&ops::PackedWeight> {
        match self {
            Self::Packed(packed) => Some(packed),
            Self::Adapted(base, _) | Self::Trained(base, _) => base.packed_weight(),
            Self::Dense(_) | Self::Watched(..) => None,
        }
    }

    /// Multiply with inputs in that format, where it is quantised ([`Packed::with_activations`]); a dense one stays as it is.
    pub fn set_activations(&mut self, activations: Activations) {
        match self {
            Self::Packed(packed) => packed.set_activations(activations),
            Self::Adapted(base, _) | Self::Trained(base, _) => base.set_activations(activations),
            Self::Dense(_) | Self::Watched(..) => {}
        }
    }

    /// Keep a dense matrix in bfloat16 for the processor's kernels: half the memory, inputs and sums stay `f32`. It is no parameter any more.
    pub fn keep_bf16(&mut self) {
        if let Self::Dense(weight) | Self::Watched(weight, _) = self {
            let w = weight.val();
            let (shape, device) = (w.dims(), w.device());
            *self = Self::packed(Packed::bf16(shape, &crate::host::to_vec(w)), &device);
        }
    }

    /// `[O, I]`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(weight) | Self::Watched(weight, _) => weight.val().dims(),
            Self::Packed(packed) => [packed.matrix().outputs(), packed.matrix().inputs()],
            Self::Adapted(base, _) | Self::Trained(base, _) => base.shape(),
        }
    }

    /// `x W^T`: `[N, I]` -> `[N, O]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Dense(weight) => ops::linear(x, weight.val()),
            Self::Watched(weight, watcher) => {
                (watcher.0)(&x);
                ops::linear(x, weight.val())
            }
            Self::Packed(packed) => ops::packed_linear(x, packed),
            Self::Adapted(base, bank) if !bank.active() => base.forward(x),
            Self::Adapted(base, bank) => bank.apply(x.clone(), base.forward(x)),
            Self::Trained(base, lora) => lora.forward(x, base),
        }
    }

    /// Rows of the matrix by number: `[N, I]`.
    pub fn lookup(&self, ids: ops::Indices) -> Tensor<2> {
        match self {
            Self::Dense(weight) | Self::Watched(weight, _) => ops::embedding(weight.val(), ids),
            Self::Packed(packed) => ops::packed_embedding(packed, &ids),
            Self::Adapted(base, _) | Self::Trained(base, _) => base.lookup(ids),
        }
    }

    /// The same with its parameters and its update changed.
    fn with(self, f: impl FnOnce(Param<Tensor<2>>) -> Param<Tensor<2>>, update: impl FnOnce(Lora) -> Lora) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(f(weight)),
            Self::Watched(weight, watcher) => Self::Watched(f(weight), watcher),
            Self::Adapted(base, bank) => Self::Adapted(Box::new(base.with(f, update)), bank),
            Self::Trained(base, lora) => Self::Trained(Box::new(base.with(f, identity::<Lora>)), Box::new(update(*lora))),
            packed @ Self::Packed(_) => packed,
        }
    }

    /// The same on another device, where `f` and `update` bring parameters there.
    fn on(self, device: &Device, f: impl FnOnce(Param<Tensor<2>>) -> Param<Tensor<2>>, update: impl FnOnce(Lora) -> Lora) -> Self {
        match self {
            Self::Packed(packed) => Self::Packed(packed.on(device)),
            Self::Adapted(base, bank) => Self::Adapted(Box::new(base.on(device, f, update)), bank.on(device)),
            Self::Trained(base, lora) => Self::Trained(Box::new(base.on(device, f, identity::<Lora>)), Box::new(update(*lora))),
            dense => dense.with(f, update),
        }
    }
}

impl Module for Weight {
    fn collect_devices(&self, mut devices: Devices) -> Devices {
        match self {
            Self::Dense(weight) | Self::Watched(weight, _) => weight.collect_devices(devices),
            Self::Packed(packed) => {
                if !devices.contains(packed.device()) {
                    devices.push(packed.device().clone());
                }
                devices
            }
            Self::Adapted(base, _) => base.collect_devices(devices),
            Self::Trained(base, lora) => lora.collect_devices(base.collect_devices(devices)),
        }
    }
    fn fork(self, device: &Device) -> Self {
        self.on(device, |weight| weight.fork(device), |lora| lora.fork(device))
    }
    fn to_device(self, device: &Device) -> Self {
        self.on(device, |weight| weight.to_device(device), |lora| lora.to_device(device))
    }
    fn train(self) -> Self {
        self.with(Module::train, Module::train)
    }
    fn valid(&self) -> Self {
        self.clone().with(|weight| weight.valid(), |lora| lora.valid())
    }
    fn materialize(self) -> Self {
        self.with(Module::materialize, Module::materialize)
    }
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        match self {
            Self::Dense(weight) | Self::Watched(weight, _) => weight.visit(visitor),
            Self::Packed(packed) => decoded_if_asked(packed).visit(visitor),
            Self::Adapted(base, _) => base.visit(visitor),
            Self::Trained(base, lora) => {
                base.visit(visitor);
                lora.visit(visitor);
            }
        }
    }
    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(Module::map(weight, mapper)),
            Self::Watched(weight, watcher) => Self::Watched(Module::map(weight, mapper), watcher),
            Self::Adapted(base, bank) => Self::Adapted(Box::new(Module::map(*base, mapper)), bank),
            Self::Trained(base, lora) => Self::Trained(Box::new(Module::map(*base, mapper)), Box::new(Module::map(*lora, mapper))),
            packed @ Self::Packed(_) => packed,
        }
    }
}

/// A parameter that becomes the values of a quantised matrix when somebody looks at them.
fn decoded_if_asked(packed: &ops::PackedWeight) -> Param<Tensor<2>> {
    let matrix = packed.shared();
    let shape = [matrix.outputs(), matrix.inputs()];
    let decode = move |device: &Device, _: bool| crate::host::from_vec(matrix.dequantize(), shape, device);
    Param::uninitialized(ParamId::new(), decode, packed.device().clone(), false, Shape::from(shape))
}

impl ModuleDisplay for Weight {}
impl ModuleDisplayDefault for Weight {
    fn content(&self, content: Content) -> Option<Content> {
        match self {
            Self::Dense(weight) | Self::Watched(weight, _) => content.add_single(weight).optional(),
            Self::Packed(packed) => content.add_formatted(&format!("{:?}", packed.matrix())).optional(),
            Self::Adapted(base, _) | Self::Trained(base, _) => base.content(content),
        }
    }
}
