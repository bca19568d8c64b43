//! The matrix of a projection, or the table of an embedding: dense, watched, quantised, or one of these with adapters.
//!
//! A quantised matrix is no parameter: it is not trained, moved by an optimiser or averaged. Whoever walks the parameters sees its values
//! dequantised, so that counting, saving and comparing work as for a dense one. Adapters are no part of the model either: walkers see the base.

use super::{LoraBank, parameter};
use crate::ops;
use crate::quant::{Activations, Packed};
use burn::module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
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
            Self::Adapted(base, _) => base.val(),
        }
    }

    /// The quantised matrix, if it is one.
    pub fn as_packed(&self) -> Option<&Packed> {
        match self {
            Self::Packed(packed) => Some(packed.matrix()),
            Self::Adapted(base, _) => base.as_packed(),
            Self::Dense(_) | Self::Watched(..) => None,
        }
    }

    /// Multiply with inputs in that format, where it is quantised ([`Packed::with_activations`]); a dense one stays as it is.
    pub fn set_activations(&mut self, activations: Activations) {
        match self {
            Self::Packed(packed) => packed.set_activations(activations),
            Self::Adapted(base, _) => base.set_activations(activations),
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
            Self::Adapted(base, _) => base.shape(),
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
        }
    }

    /// Rows of the matrix by number: `[N, I]`.
    pub fn lookup(&self, ids: ops::Indices) -> Tensor<2> {
        match self {
            Self::Dense(weight) | Self::Watched(weight, _) => ops::embedding(weight.val(), ids),
            Self::Packed(packed) => ops::packed_embedding(packed, &ids),
            Self::Adapted(base, _) => base.lookup(ids),
        }
    }

    fn with(self, f: impl FnOnce(Param<Tensor<2>>) -> Param<Tensor<2>>) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(f(weight)),
            Self::Watched(weight, watcher) => Self::Watched(f(weight), watcher),
            Self::Adapted(base, bank) => Self::Adapted(Box::new(base.with(f)), bank),
            packed @ Self::Packed(_) => packed,
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
        }
    }
    fn fork(self, device: &Device) -> Self {
        match self {
            Self::Packed(packed) => Self::Packed(packed.on(device)),
            Self::Adapted(base, bank) => Self::Adapted(Box::new(base.fork(device)), bank.on(device)),
            dense => dense.with(|weight| weight.fork(device)),
        }
    }
    fn to_device(self, device: &Device) -> Self {
        match self {
            Self::Packed(packed) => Self::Packed(packed.on(device)),
            Self::Adapted(base, bank) => Self::Adapted(Box::new(base.to_device(device)), bank.on(device)),
            dense => dense.with(|weight| weight.to_device(device)),
        }
    }
    fn train(self) -> Self {
        self.with(Module::train)
    }
    fn valid(&self) -> Self {
        self.clone().with(|weight| weight.valid())
    }
    fn materialize(self) -> Self {
        self.with(Module::materialize)
    }
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        match self {
            Self::Dense(weight) | Self::Watched(weight, _) => weight.visit(visitor),
            Self::Packed(packed) => parameter(packed.dequantize()).set_require_grad(false).visit(visitor),
            Self::Adapted(base, _) => base.visit(visitor),
        }
    }
    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        self.with(|weight| Module::map(weight, mapper))
    }
}

impl ModuleDisplay for Weight {}
impl ModuleDisplayDefault for Weight {
    fn content(&self, content: Content) -> Option<Content> {
        match self {
            Self::Dense(weight) | Self::Watched(weight, _) => content.add_single(weight).optional(),
            Self::Packed(packed) => content.add_formatted(&format!("{:?}", packed.matrix())).optional(),
            Self::Adapted(base, _) => base.content(content),
        }
    }
}
