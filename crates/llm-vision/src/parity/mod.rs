//! Towers, pairs, models and image processors against recorded numbers of another implementation.
//!
//! A folder holds `config.json` and weights, what goes in (`inputs.json`, `inputs.safetensors`) and what came out
//! (`expected.safetensors`); or, without `config.json`, images and `processor_NAME` folders with the pixels that came out.
//! `benches/peers` has the scripts that make such folders.

mod images;
mod models;

use crate::checkpoint::read_json;
use crate::{Error, Result};
use llm_tensor::Precision;
use llm_tensor::burn::tensor::Device;
use llm_tensor::weights::{HostTensor, Weights};
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Largest difference allowed, relative to the largest expected value, in `f32`.
pub const TOLERANCE: f64 = 1e-4;

/// How far one kind of numbers is off.
#[derive(Debug, Clone, Serialize)]
pub struct Quantity {
    /// Which numbers.
    pub name: String,
    /// How many tensors.
    pub tensors: usize,
    /// Worst difference; of models relative to the largest expected value, of pixels as it is.
    pub worst: f64,
    /// What is allowed.
    pub limit: f64,
}

/// What was compared and how it came out.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Folder name.
    pub name: String,
    /// What is in it: a `model_type`, or `images`.
    pub kind: String,
    /// Numbers.
    pub quantities: Vec<Quantity>,
    /// Greedy tokens that are equal, and how many there are.
    pub greedy: Option<(usize, usize)>,
    /// What is recorded there and was not compared.
    pub skipped: Vec<String>,
    /// All within their limits, all tokens equal.
    pub passed: bool,
}

/// Compare a folder with its recorded numbers.
pub fn check(dir: &Path, device: &Device, precision: Precision, tolerance: f64) -> Result<Report> {
    let path = dir.join("config.json");
    let mut recorded = Recorded::open(dir, tolerance)?;
    let kind = if path.exists() || dir.join("model.safetensors").exists() {
        let config = read_json(&path)?;
        let kind = config.get("model_type").and_then(Value::as_str).unwrap_or_default().to_string();
        match kind.as_str() {
            "clip_vision_model" | "siglip_vision_model" => models::tower(&mut recorded, device, precision)?,
            "clip" | "siglip" => models::pair(&mut recorded, device, precision)?,
            "llava" => models::vlm(&mut recorded, device, precision)?,
            other => {
                let message = format!("`model_type` = \"{other}\"; expected clip_vision_model, siglip_vision_model, clip, siglip or llava");
                return Err(Error::file(&path, message));
            }
        }
        kind
    } else {
        images::processors(&mut recorded)?;
        "images".to_string()
    };
    Ok(recorded.report(kind))
}

/// The recorded numbers of a folder, and how the comparison stands.
pub(crate) struct Recorded {
    dir: PathBuf,
    path: PathBuf,
    expected: Weights,
    tolerance: f64,
    quantities: Vec<Quantity>,
    greedy: Option<(usize, usize)>,
    skipped: Vec<String>,
}

impl Recorded {
    fn open(dir: &Path, tolerance: f64) -> Result<Self> {
        if !dir.is_dir() {
            return Err(Error::file(dir, "not a folder; expected one with expected.safetensors"));
        }
        let path = dir.join("expected.safetensors");
        let expected = Weights::open(&path)?;
        Ok(Self { dir: dir.to_path_buf(), path, expected, tolerance, quantities: Vec::new(), greedy: None, skipped: Vec::new() })
    }

    fn file(&self, message: String) -> Error {
        Error::File { path: self.path.clone(), message }
    }

    /// A tensor of `inputs.safetensors`.
    fn input(&self, name: &str) -> Result<HostTensor> {
        Ok(Weights::open(self.dir.join("inputs.safetensors"))?.get(name)?)
    }

    /// Compare what `name` holds with `got`, as one of the numbers called `quantity`; only elements that count.
    fn compare(&mut self, quantity: &str, name: &str, got: &[f32], counts: impl Fn(usize) -> bool) -> Result<()> {
        let want = self.expected.get(name)?.values;
        if got.len() != want.len() {
            return Err(self.file(format!("`{name}` holds {} numbers, the model gives {}", want.len(), got.len())));
        }
        let pairs = || got.iter().zip(&want).enumerate().filter(|(i, _)| counts(*i)).map(|(_, p)| p);
        let largest = pairs().fold(f32::MIN_POSITIVE, |m, (_, w)| m.max(w.abs()));
        let worst = pairs().map(|(g, w)| (g - w).abs()).fold(0f32, larger);
        self.note(quantity, f64::from(worst) / f64::from(largest), self.tolerance);
        Ok(())
    }

    fn note(&mut self, quantity: &str, off: f64, limit: f64) {
        match self.quantities.iter_mut().find(|q| q.name == quantity) {
            Some(known) => {
                known.tensors += 1;
                known.worst = if known.worst.is_nan() || off <= known.worst { known.worst } else { off };
            }
            None => self.quantities.push(Quantity { name: quantity.to_string(), tensors: 1, worst: off, limit }),
        }
    }

    fn report(self, kind: String) -> Report {
        let name = self.dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let within = !self.quantities.is_empty() && self.quantities.iter().all(|q| q.worst <= q.limit);
        let passed = within && self.greedy.is_none_or(|(equal, all)| equal == all);
        Report { name, kind, quantities: self.quantities, greedy: self.greedy, skipped: self.skipped, passed }
    }
}

/// The larger one; not-a-number stays, lest it look like agreement.
fn larger(a: f32, b: f32) -> f32 {
    if a.is_nan() || b <= a { a } else { b }
}
