//! Parameters by name: read them, replace them, collect their gradients.
//!
//! A parameter's name is its path of field names, which are chosen to be the checkpoint's tensor names. All three walks
//! hand out flat tensors without autodiff, so that callers need not know ranks.
//!
//! A quantised matrix is visited as a parameter that has no value yet: it is decoded for whoever asks for its values and for nobody else.

use crate::host;
use crate::weights::HostTensor;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Gradients, Tensor};
use std::collections::BTreeMap;

fn plain<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    if tensor.device().is_autodiff() { tensor.inner() } else { tensor }
}

fn flat<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let n = tensor.dims().iter().product::<usize>();
    tensor.reshape([n])
}

/// What to do with one parameter of any rank.
trait Visit {
    fn visit<const D: usize>(&mut self, name: String, param: &Param<Tensor<D>>);
}

/// Dimensions, without making a value.
fn shape<const D: usize>(param: &Param<Tensor<D>>) -> Vec<usize> {
    param.lazy_shape().to_vec()
}

/// Keeps the path of field names while Burn walks the module.
struct Walk<V>(V, Vec<String>);
impl<V: Visit> ModuleVisitor for Walk<V> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.1.push(name.to_string());
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.1.pop();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.visit(self.1.join("."), param);
    }
}

fn walk<M: Module, V: Visit>(module: &M, visitor: V) -> V {
    let mut walk = Walk(visitor, Vec::new());
    module.visit(&mut walk);
    walk.0
}

/// Shapes by name.
pub fn shapes<M: Module>(module: &M) -> BTreeMap<String, Vec<usize>> {
    struct Shapes(BTreeMap<String, Vec<usize>>);
    impl Visit for Shapes {
        fn visit<const D: usize>(&mut self, name: String, param: &Param<Tensor<D>>) {
            self.0.insert(name, shape(param));
        }
    }
    walk(module, Shapes(BTreeMap::new())).0
}

/// Shapes and number formats by name; of quantised matrices `f32`, which they are decoded to.
pub fn layouts<M: Module>(module: &M) -> BTreeMap<String, (Vec<usize>, DType)> {
    struct Layouts(BTreeMap<String, (Vec<usize>, DType)>);
    impl Visit for Layouts {
        fn visit<const D: usize>(&mut self, name: String, param: &Param<Tensor<D>>) {
            let dtype = if param.is_initialized() { param.val().dtype() } else { DType::F32 };
            self.0.insert(name, (shape(param), dtype));
        }
    }
    walk(module, Layouts(BTreeMap::new())).0
}

/// All parameters on the host.
pub fn to_host<M: Module>(module: &M) -> BTreeMap<String, HostTensor> {
    to_host_where(module, |_| true)
}

/// The parameters on the host whose names `wanted` accepts.
pub fn to_host_where<M: Module>(module: &M, wanted: impl FnMut(&str) -> bool) -> BTreeMap<String, HostTensor> {
    struct Values<F>(F, BTreeMap<String, HostTensor>);
    impl<F: FnMut(&str) -> bool> Visit for Values<F> {
        fn visit<const D: usize>(&mut self, name: String, param: &Param<Tensor<D>>) {
            if (self.0)(&name) {
                self.1.insert(name, HostTensor { shape: shape(param), values: host::to_vec(plain(param.val())) });
            }
        }
    }
    walk(module, Values(wanted, BTreeMap::new())).1
}

/// Gradients by name, flat. Parameters that the loss did not reach are absent.
pub fn gradients<M: Module>(module: &M, gradients: &Gradients) -> BTreeMap<String, Tensor<1>> {
    struct Collect<'a>(&'a Gradients, BTreeMap<String, Tensor<1>>);
    impl Visit for Collect<'_> {
        fn visit<const D: usize>(&mut self, name: String, param: &Param<Tensor<D>>) {
            if param.is_initialized()
                && let Some(gradient) = param.val().grad(self.0)
            {
                self.1.insert(name, flat(gradient));
            }
        }
    }
    walk(module, Collect(gradients, BTreeMap::new())).1
}

/// Is one of the parameters a leaf of a gradient tape?
pub fn is_tracked<M: Module>(module: &M) -> bool {
    struct Tracked(bool);
    impl Visit for Tracked {
        fn visit<const D: usize>(&mut self, _: String, param: &Param<Tensor<D>>) {
            self.0 |= param.is_initialized() && param.val().is_require_grad();
        }
    }
    walk(module, Tracked(false)).0
}

/// Replace every parameter by `f(name, shape, flat value)`; the result is tracked where the parameter was.
pub fn map<M: Module>(module: M, f: impl FnMut(&str, &[usize], Tensor<1>) -> Tensor<1>) -> M {
    struct Replace<F>(F, Vec<String>);
    impl<F: FnMut(&str, &[usize], Tensor<1>) -> Tensor<1>> ModuleMapper for Replace<F> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.1.push(name.to_string());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.1.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, tensor, mapper) = param.consume();
            let shape = tensor.dims();
            let tracked = tensor.is_require_grad();
            let autodiff = tensor.device().is_autodiff();
            let value = (self.0)(&self.1.join("."), &shape, flat(plain(tensor))).reshape(shape);
            let value = if autodiff { Tensor::from_inner(value).set_require_grad(tracked) } else { value };
            Param::from_mapped_value(id, value, mapper)
        }
    }
    module.map(&mut Replace(f, Vec::new()))
}

/// The same values as leaves of a gradient tape.
pub fn track<M: Module>(module: M) -> M {
    track_where(module, |_| true)
}

/// [`track`] for the parameters whose names `tracked` accepts. The others are constants: nothing is computed for their gradients.
pub fn track_where<M: Module>(module: M, tracked: impl FnMut(&str) -> bool) -> M {
    struct Track<F>(F, Vec<String>);
    impl<F: FnMut(&str) -> bool> ModuleMapper for Track<F> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.1.push(name.to_string());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.1.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, tensor, _) = param.consume();
            let value = Tensor::from_inner(plain(tensor));
            Param::initialized(id, if (self.0)(&self.1.join(".")) { value.require_grad() } else { value })
        }
    }
    module.map(&mut Track(tracked, Vec::new()))
}
