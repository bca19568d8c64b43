//! Tensors to and from host memory, always as `f32`.

use burn::tensor::{DType, Device, Tensor, TensorData};

/// Ask the allocator to keep freed memory instead of giving it back to the system.
///
/// A training step frees and takes the same large buffers again and again; by default glibc unmaps them, and every step pays for
/// clearing and mapping fresh pages (3 % of a dense step, 10 % of one with 64 experts). Called when a CPU device is opened; the
/// settings are those of the environment variables `MALLOC_MMAP_THRESHOLD_` and `MALLOC_TRIM_THRESHOLD_`, which win if they are set.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::sync::Once;
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let asked = |name: &str| std::env::var_os(name).is_some();
            if asked("GLIBC_TUNABLES") || asked("MALLOC_MMAP_THRESHOLD_") || asked("MALLOC_TRIM_THRESHOLD_") {
                return;
            }
            // The largest mmap threshold glibc accepts; buffers above it are mapped and unmapped as before.
            const MMAP_THRESHOLD: libc::c_int = 32 << 20;
            // SAFETY: mallopt only sets parameters of the allocator, under the allocator's own lock.
            unsafe {
                libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD);
                libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
                libc::mallopt(libc::M_TOP_PAD, 64 << 20);
            }
        });
    }
}

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
