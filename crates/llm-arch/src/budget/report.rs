//! Everything about one model, ready to print or to serialise.

use crate::budget::memory::{kv_bytes, kv_bytes_per_token};
use crate::budget::{DEVICES, Flops, Memory, Mode, Optimizer, Parts, Storage};
use crate::{DecoderConfig, KvDtype};
use serde::Serialize;

/// The ways to train or serve that a report lists.
pub const MODES: [(&str, Mode); 9] = [
    ("train f32, AdamW", Mode::TrainF32(Optimizer::AdamW)),
    ("train bf16, AdamW", Mode::TrainBf16(Optimizer::AdamW)),
    ("train bf16, AdamW 8-bit", Mode::TrainBf16(Optimizer::AdamW8bit)),
    ("train bf16, Muon", Mode::TrainBf16(Optimizer::Muon)),
    ("train bf16, SGD", Mode::TrainBf16(Optimizer::Sgd)),
    ("serve f32", Mode::Serve(Storage::F32)),
    ("serve bf16", Mode::Serve(Storage::Bf16)),
    ("serve int8", Mode::Serve(Storage::Int8)),
    ("serve int4", Mode::Serve(Storage::Int4)),
];

/// Columns of the table of devices: indices into [`MODES`].
pub const FIT_COLUMNS: [usize; 5] = [1, 2, 6, 7, 8];

/// Memory of one mode.
#[derive(Debug, Clone, Serialize)]
pub struct ModeMemory {
    /// Name from [`MODES`].
    pub mode: &'static str,
    /// Bytes by part.
    #[serde(flatten)]
    pub bytes: Memory,
    /// Bytes together.
    pub total: f64,
}

/// How many of a device each mode needs.
#[derive(Debug, Clone, Serialize)]
pub struct Fit {
    /// Name of the device.
    pub device: &'static str,
    /// Its memory.
    pub memory_gib: f64,
    /// By mode, in the order of [`FIT_COLUMNS`]; none: the activations of one micro-batch alone do not fit.
    pub devices_needed: Vec<Option<usize>>,
}

/// What `llm-arch inspect` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Rows of a micro-batch, or texts served at once.
    pub batch: usize,
    /// Tokens of each.
    pub context: usize,
    /// Parameter counts.
    pub parameters: Parts,
    /// Arithmetic per token.
    pub flops: Flops,
    /// Number format of the cache in the next two.
    pub kv_dtype: KvDtype,
    /// Cache bytes a token adds.
    pub kv_bytes_per_token: usize,
    /// Cache bytes of one text of `context` tokens.
    pub kv_bytes_per_text: usize,
    /// Memory by mode.
    pub memory: Vec<ModeMemory>,
    /// Modes of `fits`.
    pub fit_modes: Vec<&'static str>,
    /// What fits where.
    pub fits: Vec<Fit>,
}

impl Report {
    /// Compute everything, with a cache in bf16 (f32 weights: in f32).
    pub fn new(config: &DecoderConfig, batch: usize, context: usize) -> Self {
        Self::with_cache(config, batch, context, None)
    }

    /// [`Report::new`] with the cache in a chosen format.
    pub fn with_cache(config: &DecoderConfig, batch: usize, context: usize, cache: Option<KvDtype>) -> Self {
        let kv_dtype = cache.unwrap_or(KvDtype::Bf16);
        let memory: Vec<ModeMemory> = MODES
            .iter()
            .map(|&(mode, m)| {
                let bytes = Memory::with_cache(config, m, batch, context, cache);
                ModeMemory { mode, bytes, total: bytes.total() }
            })
            .collect();
        let fits = DEVICES.iter().map(|device| Fit {
            device: device.name,
            memory_gib: device.memory_gib,
            devices_needed: FIT_COLUMNS.iter().map(|&i| device.needed(memory[i].bytes.sharded(), memory[i].bytes.activations)).collect(),
        });
        Self {
            batch,
            context,
            parameters: Parts::of(config),
            flops: Flops::of(config, context),
            kv_dtype,
            kv_bytes_per_token: kv_bytes_per_token(config, kv_dtype),
            kv_bytes_per_text: kv_bytes(config, context, kv_dtype),
            fits: fits.collect(),
            fit_modes: FIT_COLUMNS.iter().map(|&i| MODES[i].0).collect(),
            memory,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets::preset;

    /// If this fails, people buy the wrong card: Llama 3 8B serves in bf16 on 24 GB; trained on rows of 4096 tokens it
    /// needs three 80 GB cards (128 GB of weights, gradients and optimiser, 18 GiB of activations on each).
    #[test]
    fn llama_3_8b_fits_where_it_is_known_to_fit() {
        let report = Report::new(&preset("llama-3-8b").unwrap(), 1, 4096);
        let needed = |device: &str, mode: &str| {
            let column = report.fit_modes.iter().position(|m| *m == mode).unwrap();
            report.fits.iter().find(|f| f.device == device).unwrap().devices_needed[column]
        };
        assert_eq!(needed("RTX 4090", "serve bf16"), Some(1));
        assert_eq!(needed("CPU 16 GB", "serve int4"), Some(1));
        assert_eq!(needed("H100", "train bf16, AdamW"), Some(3));
        assert!(needed("RTX 4090", "train bf16, AdamW") > Some(4));
        assert_eq!(report.memory.len(), MODES.len());
    }
}
