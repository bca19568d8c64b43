//! Tensors to and from host memory, always as `f32`.

use burn::tensor::{DType, Device, Tensor, TensorData};

/// All elements in row-major order; moves instead of copying where the tensor owns its buffer.
pub fn to_vec<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.into_data();
    let data = if data.dtype() == DType::F32 { data } else { data.convert::<f32>() };
    // The dtype was made f32 just above, so the conversion cannot fail.
    data.try_into_vec::<f32>().unwrap_or_default()
}

/// A tensor of that shape.
pub fn from_vec<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// The single element of a one-element tensor.
pub fn scalar(tensor: Tensor<1>) -> f32 {
    to_vec(tensor).first().copied().unwrap_or(f32::NAN)
}
