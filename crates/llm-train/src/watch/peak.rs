//! What the device could do, for MFU: as given, as the maker of a known card states, as an earlier start measured, or measured now.

use super::config::{About, WatchConfig};
use super::history::Entry;
use crate::bench;
use llm_run::Metrics;
use llm_tensor::DeviceSpec;
use llm_tensor::burn::tensor::{DType, Device, Tensor};
use llm_tensor::host;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

/// Rows and columns of the matrices.
const SIZE: usize = 768;
const MOST: Duration = Duration::from_millis(400);

/// Peak in FLOP/s; none where it is not known and was not to be measured. `out` is the run folder, in which an earlier start may have
/// written what it measured on a device of the same name.
pub fn find(config: &WatchConfig, device: &Device, dtype: DType, out: &Path, name: &str) -> Option<f64> {
    let stated = config.peak_tflops.map(|t| t * 1e12).or_else(|| bench::peak_of(DeviceSpec::card(device)?.as_str()));
    stated.or_else(|| earlier(out, name)).or_else(|| if config.probe_peak { probe(device, dtype) } else { None })
}

fn earlier(out: &Path, name: &str) -> Option<f64> {
    let path = out.join("events.jsonl");
    let records = if path.is_file() { Metrics::read(path).ok()? } else { return None };
    let starts = records.into_iter().filter_map(|record| match serde_json::from_value(Value::Object(record)) {
        Ok(Entry::Start { about, .. }) => Some(*about),
        _ => None,
    });
    starts.filter(|about: &About| about.device == name).filter_map(|about| about.peak_flops).next_back()
}

/// The fastest of as many matrix products as fit into [`MOST`]. A product of [`SIZE`] does not reach the peak of a large card; it is meant
/// for processors, where nobody states one.
fn probe(device: &Device, dtype: DType) -> Option<f64> {
    let a_SS = Tensor::<2>::ones([SIZE, SIZE], device).cast(dtype);
    let mut fastest: Option<f64> = None;
    let clock = Instant::now();
    while clock.elapsed() < MOST {
        let started = Instant::now();
        let b_SS = a_SS.clone().matmul(a_SS.clone());
        // Reading one number waits for the device.
        host::scalar(b_SS.slice([0..1, 0..1]).reshape([1]));
        let seconds = started.elapsed().as_secs_f64();
        fastest = Some(fastest.map_or(seconds, |f| f.min(seconds)));
    }
    fastest.map(|seconds| 2.0 * (SIZE as f64).powi(3) / seconds)
}
