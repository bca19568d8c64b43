//! Which machine computes: parsed from a flag, turned into a Burn device once.

use crate::{Error, Result};
use burn::backend::DispatchDevice;
use burn::tensor::Device;
use std::fmt;
use std::str::FromStr;

/// A device as users write it: `auto`, `cpu`, `cuda[:N]`, `vulkan[:N]`, `webgpu[:N]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceSpec {
    /// The first of CUDA, Vulkan, CPU that was compiled in and answers.
    #[default]
    Auto,
    /// Burn's Flex on the processor, with this crate's kernels.
    Cpu,
    /// An NVIDIA card (feature `cuda`).
    Cuda(usize),
    /// A Vulkan device through SPIR-V (feature `vulkan`).
    Vulkan(usize),
    /// A WebGPU device through WGSL (feature `webgpu`); `webgpu:cpu` is a software adapter.
    WebGpu(Option<usize>),
}

impl FromStr for DeviceSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (kind, index) = match text.split_once(':') {
            Some((kind, index)) => (kind, Some(index)),
            None => (text, None),
        };
        let bad = |message: &str| Error::Device { spec: text.to_string(), message: message.to_string() };
        let number = || index.unwrap_or("0").parse::<usize>().map_err(|_| bad("the part after `:` must be a number such as cuda:0"));
        match kind {
            "auto" if index.is_none() => Ok(Self::Auto),
            "cpu" if index.is_none() => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(number()?)),
            "vulkan" => Ok(Self::Vulkan(number()?)),
            "webgpu" if index == Some("cpu") => Ok(Self::WebGpu(None)),
            "webgpu" => Ok(Self::WebGpu(Some(number()?))),
            _ => Err(bad("expected auto, cpu, cuda[:N], vulkan[:N] or webgpu[:N|:cpu]")),
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(i) => write!(f, "cuda:{i}"),
            Self::Vulkan(i) => write!(f, "vulkan:{i}"),
            Self::WebGpu(Some(i)) => write!(f, "webgpu:{i}"),
            Self::WebGpu(None) => f.write_str("webgpu:cpu"),
        }
    }
}

impl serde::Serialize for DeviceSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for DeviceSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// True for the processor of this machine, where a tensor's numbers are in our own memory.
pub fn is_cpu(device: &Device) -> bool {
    fn flex(device: &DispatchDevice) -> bool {
        match device {
            DispatchDevice::Flex(_) => true,
            DispatchDevice::Autodiff(inner) => flex(&inner.clone().inner()),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }
    flex(device.as_dispatch())
}

impl DeviceSpec {
    /// Open the device. A missing feature, driver or card is an error that says so, never a panic.
    pub fn open(&self) -> Result<Device> {
        if matches!(self, Self::Auto | Self::Cpu) {
            crate::host::keep_freed_memory();
        }
        let missing = |feature: &str| Error::Device {
            spec: self.to_string(),
            message: format!("this binary was built without it; build with `--features {feature}`, or use --device cpu"),
        };
        match *self {
            Self::Auto => Ok(Self::candidates().into_iter().find_map(|spec| spec.open().ok()).unwrap_or_else(Device::flex)),
            Self::Cpu => Ok(Device::flex()),
            #[cfg(feature = "cuda")]
            Self::Cuda(index) => self.probe(move || Device::cuda(index)),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => Err(missing("cuda")),
            #[cfg(feature = "vulkan")]
            Self::Vulkan(index) => self.probe(move || Device::vulkan(burn::tensor::DeviceKind::DiscreteGpu(index))),
            #[cfg(not(feature = "vulkan"))]
            Self::Vulkan(_) => Err(missing("vulkan")),
            #[cfg(feature = "webgpu")]
            Self::WebGpu(index) => {
                self.probe(move || Device::webgpu(index.map_or(burn::tensor::DeviceKind::Cpu, burn::tensor::DeviceKind::DiscreteGpu)))
            }
            #[cfg(not(feature = "webgpu"))]
            Self::WebGpu(_) => Err(missing("webgpu")),
        }
    }

    /// What the card of an open device calls itself, for example `NVIDIA H200`; none for a processor.
    pub fn card(device: &Device) -> Option<String> {
        #[cfg(any(feature = "cuda", feature = "vulkan", feature = "webgpu"))]
        return device.identity().map(|identity| identity.name);
        #[cfg(not(any(feature = "cuda", feature = "vulkan", feature = "webgpu")))]
        {
            let _ = device;
            None
        }
    }

    fn candidates() -> Vec<DeviceSpec> {
        let mut specs = Vec::new();
        if cfg!(feature = "cuda") {
            specs.push(Self::Cuda(0));
        }
        if cfg!(feature = "vulkan") {
            specs.push(Self::Vulkan(0));
        }
        specs
    }

    /// Burn's GPU runtimes panic when driver or card are missing; a tiny computation on a thread of its own turns that into
    /// an error. The first panic, often on a thread of the runtime, is the reason.
    #[cfg(any(feature = "cuda", feature = "vulkan", feature = "webgpu"))]
    fn probe(&self, open: impl FnOnce() -> Device + Send + 'static) -> Result<Device> {
        let hook = std::panic::take_hook();
        let first = std::sync::Arc::new(std::sync::Mutex::new(None));
        let seen = first.clone();
        std::panic::set_hook(Box::new(move |info| {
            let text = info.payload().downcast_ref::<String>().cloned();
            let text = text.or_else(|| info.payload().downcast_ref::<&str>().map(|s| (*s).to_string())).unwrap_or_default();
            let mut seen = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            seen.get_or_insert(text);
        }));
        let outcome = std::thread::spawn(move || {
            let device = open();
            let one = burn::tensor::Tensor::<1>::ones([1], &device).into_data();
            (device, one.num_elements())
        })
        .join();
        std::panic::set_hook(hook);
        match outcome {
            Ok((device, 1)) => Ok(device),
            Ok(_) => Err(Error::Device { spec: self.to_string(), message: "a test computation failed".into() }),
            Err(_) => {
                let reason = first.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take().unwrap_or_default();
                // Some runtimes list every library name they tried.
                let reason = reason.lines().next().unwrap_or_default().split(" - ").next().unwrap_or_default().to_string();
                Err(Error::Device { spec: self.to_string(), message: format!("no usable driver or card ({reason}); use --device cpu") })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_parses_back() {
        for text in ["auto", "cpu", "cuda:0", "cuda:3", "vulkan:1", "webgpu:0", "webgpu:cpu"] {
            assert_eq!(text.parse::<DeviceSpec>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse::<DeviceSpec>().unwrap(), DeviceSpec::Cuda(0));
    }

    #[test]
    fn a_wrong_device_is_an_error_that_lists_the_right_ones() {
        for text in ["gpu", "cuda:x", "cpu:1", ""] {
            let message = text.parse::<DeviceSpec>().unwrap_err().to_string();
            assert!(message.contains("cuda"), "{message}");
        }
    }
}
