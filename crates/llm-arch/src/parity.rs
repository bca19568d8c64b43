//! A model against recorded numbers of another implementation: hidden states of every layer, logits, greedy tokens.
//!
//! A folder holds `config.json` and weights, `inputs.json` (`batches` of `input_ids` and `attention_mask`, `greedy_steps`) and
//! `expected.safetensors` (`BATCH.logits`, `BATCH.hidden.I`, `BATCH.greedy_tokens`). `benches/peers/dump_parity.py` makes one from a checkpoint.

use crate::{CachedBatch, Decoder, Error, KvDtype, KvPool, PackedBatch, Result, hf};
use llm_tensor::Precision;
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::host::to_vec;
use llm_tensor::weights::Weights;
use serde::Serialize;
use std::path::Path;

/// Largest difference allowed, relative to the largest expected value, in `f32`.
pub const TOLERANCE: f64 = 1e-4;

/// What was compared and how it came out.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Folder name.
    pub name: String,
    /// `model_type`-like family.
    pub family: crate::Family,
    /// Worst relative difference of the logits.
    pub logits: f64,
    /// Worst relative difference of the hidden states; none when nothing is recorded.
    pub hidden: Option<f64>,
    /// Greedy tokens that are equal, and how many there are.
    pub greedy: (usize, usize),
    /// Where the hidden states first differ by more than the tolerance: 0 is the embedding, `i` the output of block `i - 1`.
    pub first_divergent_layer: Option<usize>,
    /// All within tolerance, all tokens equal.
    pub passed: bool,
}

/// One recorded batch.
#[derive(Debug, Clone)]
struct Case {
    name: String,
    ids: Vec<Vec<u32>>,
    mask: Vec<Vec<u32>>,
}

impl Case {
    /// Left padding is the same thing as a document that starts later.
    fn packed(&self) -> PackedBatch {
        let starts: Vec<Vec<u32>> = self.mask.iter().map(|m| vec![0, m.iter().position(|&x| x == 1).unwrap_or(0) as u32]).collect();
        let starts: Vec<&[u32]> = starts.iter().map(Vec::as_slice).collect();
        PackedBatch::documents(self.ids.concat(), &starts, self.ids.first().map_or(0, Vec::len))
    }

    /// The real tokens of each row.
    fn prompts(&self) -> impl Iterator<Item = Vec<u32>> {
        self.ids.iter().zip(&self.mask).map(|(ids, mask)| ids.iter().zip(mask).filter(|(_, m)| **m == 1).map(|(id, _)| *id).collect())
    }
}

fn cases(dir: &Path, vocab: usize) -> Result<(Vec<Case>, usize)> {
    let path = dir.join("inputs.json");
    let bad = |message: String| Error::File { path: path.clone(), message };
    let text =
        std::fs::read_to_string(&path).map_err(|e| bad(format!("cannot read the recorded inputs: {e}; benches/peers/dump_parity.py makes them")))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| bad(format!("not valid JSON: {e}")))?;
    let batches = json["batches"].as_array().ok_or_else(|| bad("expected a list `batches`".into()))?;
    let mut out = Vec::new();
    for (i, batch) in batches.iter().enumerate() {
        let grid = |key: &str| -> Result<Vec<Vec<u32>>> {
            serde_json::from_value(batch[key].clone()).map_err(|e| bad(format!("batches[{i}].{key}: {e}; expected rows of whole numbers")))
        };
        let name = batch["name"].as_str().ok_or_else(|| bad(format!("batches[{i}].name: expected a text")))?;
        let case = Case { name: name.to_string(), ids: grid("input_ids")?, mask: grid("attention_mask")? };
        let length = case.ids.first().map_or(0, Vec::len);
        if length == 0 || case.mask.len() != case.ids.len() || case.ids.iter().chain(&case.mask).any(|row| row.len() != length) {
            return Err(bad(format!("batches[{i}]: input_ids and attention_mask must be rows of one length")));
        }
        if let Some(id) = case.ids.iter().flatten().find(|&&id| id as usize >= vocab) {
            return Err(bad(format!("batches[{i}].input_ids: {id} is not below vocab_size = {vocab}")));
        }
        out.push(case);
    }
    Ok((out, json["greedy_steps"].as_u64().unwrap_or(16) as usize))
}

/// Worst difference of the elements that count, relative to the largest expected one.
fn difference(path: &Path, name: &str, got: &[f32], want: &[f32], counts: impl Fn(usize) -> bool) -> Result<f64> {
    if got.len() != want.len() {
        let message = format!("`{name}` holds {} numbers, the model gives {}", want.len(), got.len());
        return Err(Error::File { path: path.to_path_buf(), message });
    }
    let pairs = || got.iter().zip(want).enumerate().filter(|(i, _)| counts(*i)).map(|(_, p)| p);
    let largest = pairs().fold(f32::MIN_POSITIVE, |m, (_, w)| m.max(w.abs()));
    // NaN must not look like agreement.
    let worst = pairs().map(|(g, w)| (g - w).abs()).fold(0f32, |m, d| if d > m || d.is_nan() { d } else { m });
    Ok(f64::from(worst) / f64::from(largest))
}

/// The larger one; not-a-number stays.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || b <= a { a } else { b }
}

/// Greedy continuation through the paged cache, on pages that are out of order on purpose.
fn greedy(decoder: &Decoder, prompt: &[u32], steps: usize) -> Vec<u32> {
    let page_size = 8;
    let count = (prompt.len() + steps).div_ceil(page_size) as u32;
    let pages: Vec<u32> = (0..count).map(|i| (i * 5 + 3) % count.max(1)).collect();
    let pages = if count.is_multiple_of(5) { (0..count).rev().collect() } else { pages };
    let mut pool = KvPool::new(decoder.config(), count as usize, page_size, KvDtype::F32);
    let (mut tokens, mut new, mut at) = (Vec::new(), prompt.to_vec(), 0);
    while tokens.len() < steps {
        let batch = CachedBatch { ids: new.clone().into(), positions: (at..at + new.len() as u32).collect(), pages: vec![&pages; new.len()] };
        at += new.len() as u32;
        let hidden = decoder.hidden_cached(&batch, &mut pool);
        let n = hidden.dims()[0];
        let logits = to_vec(decoder.logits(hidden.narrow(0, n - 1, 1)));
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |b| b.0 as u32);
        tokens.push(best);
        new = vec![best];
    }
    tokens
}

/// Compare a folder's model with its recorded numbers.
pub fn check(dir: &Path, device: &Device, precision: Precision, tolerance: f64) -> Result<Report> {
    check_decoder(&hf::load_as(dir, device, precision)?, dir, tolerance)
}

/// Compare a model that was loaded from elsewhere with the numbers recorded in a folder.
pub fn check_decoder(decoder: &Decoder, dir: &Path, tolerance: f64) -> Result<Report> {
    let recorded = dir.join("expected.safetensors");
    let expected = Weights::open(&recorded)?;
    let config = decoder.config();
    let (cases, steps) = cases(dir, config.vocab_size)?;
    let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mut report = Report { name, family: config.family, logits: 0.0, hidden: None, greedy: (0, 0), first_divergent_layer: None, passed: true };
    let within = |off: f64| off <= tolerance;
    for case in &cases {
        let visible: Vec<bool> = case.mask.concat().iter().map(|&m| m == 1).collect();
        let mut states: Vec<(usize, Vec<f32>)> = Vec::new();
        let mut observe = |i: usize, x: &Tensor<2>| {
            if expected.contains(&format!("{}.hidden.{i}", case.name)) {
                states.push((i, to_vec(x.clone())));
            }
        };
        let hidden = decoder.hidden_observed(&case.packed(), &mut observe);
        for (i, got) in &states {
            let key = format!("{}.hidden.{i}", case.name);
            let off = difference(&recorded, &key, got, &expected.get(&key)?.values, |j| visible[j / config.hidden_size])?;
            report.hidden = Some(report.hidden.map_or(off, |worst| worse(worst, off)));
            if !within(off) && report.first_divergent_layer.is_none_or(|l| *i < l) {
                report.first_divergent_layer = Some(*i);
            }
        }
        let key = format!("{}.logits", case.name);
        let logits = to_vec(decoder.logits(hidden));
        let off = difference(&recorded, &key, &logits, &expected.get(&key)?.values, |j| visible[j / config.vocab_size])?;
        report.logits = worse(report.logits, off);
        let key = format!("{}.greedy_tokens", case.name);
        if expected.contains(&key) {
            let want = expected.integers(&key)?;
            let longest = case.prompts().map(|p| p.len()).max().unwrap_or(0);
            for (row, prompt) in case.prompts().enumerate() {
                // Frequencies that depend on the length depend, in transformers, on the longest text of the batch; here a text
                // never depends on its neighbours, so only the longest rows are the same question.
                if config.rope_scaling.depends_on_length() && prompt.len() < longest {
                    continue;
                }
                let got = greedy(decoder, &prompt, steps);
                let want = want.get(row * steps..(row + 1) * steps).unwrap_or_default();
                report.greedy.0 += got.iter().zip(want).filter(|(g, w)| i64::from(**g) == **w).count();
                report.greedy.1 += steps;
            }
        }
    }
    report.passed = within(report.logits) && report.hidden.is_none_or(within) && report.greedy.0 == report.greedy.1;
    Ok(report)
}
