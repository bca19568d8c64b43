//! Memory and peak arithmetic of common devices, as their makers state them.
//!
//! Peaks are dense (no sparsity) bf16 matrix products accumulated in f32, of the model named: what MFU is a share of. Memory is what the
//! driver offers to programs, a little less than the round number on the box.

use serde::Serialize;

const GIB: f64 = (1u64 << 30) as f64;

/// Where a model might run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Device {
    /// Name.
    pub name: &'static str,
    /// GiB of memory.
    pub memory_gib: f64,
    /// Share of it that tensors can have: the rest goes to the runtime, fragmentation and, where memory is shared, the system.
    pub usable: f64,
    /// Peak dense bf16, in FLOP/s; none where the maker states none.
    pub peak_flops: Option<f64>,
}

const CARD: f64 = 0.9;
/// macOS lets the GPU have about three quarters of the memory; a computer without a card keeps some for the system as well.
const SHARED: f64 = 0.75;

const fn device(name: &'static str, memory_gib: f64, usable: f64, tflops: Option<f64>) -> Device {
    let peak_flops = match tflops {
        Some(t) => Some(t * 1e12),
        None => None,
    };
    Device { name, memory_gib, usable, peak_flops }
}

/// Devices by memory within their kind.
///
/// Sources of the peaks: NVIDIA's data sheets of the SXM models and architecture papers of Ada and Blackwell (dense values, f32
/// accumulation), AMD's data sheet of the MI300X, Apple's f32 statement for the M2 Ultra (its GPU has no faster bf16).
pub const DEVICES: &[Device] = &[
    device("RTX 4090", 24.0, CARD, Some(165.2)),
    device("RTX 5090", 31.8, CARD, Some(209.5)),
    device("A100-40", 39.6, CARD, Some(312.0)),
    device("A100-80", 79.6, CARD, Some(312.0)),
    device("L40S", 45.0, CARD, Some(362.0)),
    device("H100", 79.6, CARD, Some(989.4)),
    device("H200", 140.4, CARD, Some(989.4)),
    device("B200", 179.0, CARD, Some(2250.0)),
    device("MI300X", 191.7, CARD, Some(1307.4)),
    device("M4 16 GB", 16.0, SHARED, None),
    device("M4 Max 128 GB", 128.0, SHARED, None),
    device("M2 Ultra 192 GB", 192.0, SHARED, Some(27.2)),
    device("CPU 16 GB", 16.0, SHARED, None),
    device("CPU 64 GB", 64.0, SHARED, None),
];

fn key(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect()
}

impl Device {
    /// The device of a name, whatever its case and spaces. A part of a name will do (`4090`); of several the last one is meant, so `A100` is
    /// the one with 80 GB.
    pub fn find(name: &str) -> Option<&'static Self> {
        let wanted = key(name);
        let exact = DEVICES.iter().find(|d| key(d.name) == wanted);
        exact.or_else(|| DEVICES.iter().rev().find(|d| !wanted.is_empty() && key(d.name).contains(&wanted)))
    }

    /// Bytes that tensors can have.
    pub fn usable_bytes(&self) -> f64 {
        self.memory_gib * GIB * self.usable
    }

    /// Devices needed when `sharded` bytes are spread over all of them and each also holds `each` bytes. None: not even then.
    pub fn needed(&self, sharded: f64, each: f64) -> Option<usize> {
        let room = self.usable_bytes() - each;
        (room > 0.0).then(|| (sharded / room).ceil().max(1.0)).filter(|n| *n <= 1e6).map(|n| n as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_shards_are_counted() {
        for (name, found) in
            [("h100", "H100"), ("rtx4090", "RTX 4090"), ("4090", "RTX 4090"), ("A100", "A100-80"), ("a100-40", "A100-40"), ("mi300x", "MI300X")]
        {
            assert_eq!(Device::find(name).map(|d| d.name), Some(found));
        }
        assert!(Device::find("").is_none() && Device::find("tpu").is_none());
        let h100 = Device::find("H100").unwrap();
        let room = h100.usable_bytes();
        assert_eq!(h100.needed(0.9 * room, 0.0), Some(1));
        assert_eq!(h100.needed(0.9 * room, 0.2 * room), Some(2), "0.9 of the memory does not fit into the 0.8 that is left");
        assert_eq!(h100.needed(1.0, 1.1 * room), None, "what every device must hold does not fit");
    }
}
