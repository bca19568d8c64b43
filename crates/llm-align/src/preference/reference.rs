//! Log-probabilities of the answers under the reference model: computed once before training, or with every step.
//!
//! Cached ones lie in `OUT/reference_log_probs.json` under a key of what they depend on (models, data) and with a checksum; a run that is
//! started again reads them and needs no reference. They are computed in the micro-batches of the first pass over the data, so within it a
//! run is, on the processor, the same to the bit whether they are cached or not; later passes pack other rows together, which changes the order
//! of sums.

use super::rows::Rows;
use super::scores;
use llm_arch::Decoder;
use llm_run::{Progress, atomic, hash};
use llm_train::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// When the reference model is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReferenceLogProbs {
    /// Once, before training: costs a pass over all the data, after which the reference takes neither time nor memory.
    #[default]
    Cached,
    /// With every step: for runs of less than one pass.
    Recomputed,
}

/// Where a step finds the reference's log-probabilities.
#[derive(Debug)]
pub(super) enum Reference {
    /// The loss has no reference.
    None,
    /// Asked for every micro-batch.
    Model(Box<Decoder>),
    /// Of all answers.
    Sums(Vec<f32>),
}

impl Reference {
    /// What is known of a group of rows before the step.
    pub fn known(&self, group: &[usize], width: usize) -> Option<Vec<f32>> {
        match self {
            Self::None => Some(vec![0.0; group.len() * width]),
            Self::Sums(sums) => Some(group.iter().flat_map(|&row| &sums[row * width..][..width]).copied().collect()),
            Self::Model(_) => None,
        }
    }

    /// The model, where it is still needed.
    pub fn model(&self) -> Option<&Decoder> {
        match self {
            Self::Model(model) => Some(model),
            Self::None | Self::Sums(_) => None,
        }
    }
}

/// Log-probabilities of every answer of `rows`, read from `path`, in the batches that `groups` names; a row that comes again keeps its first.
pub(super) fn compute(reference: &Decoder, path: &Path, rows: &Rows, groups: &[Vec<usize>]) -> Result<Vec<f32>> {
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let width = rows.width;
    let mut sums = vec![None; rows.len() * width];
    let mut progress = Progress::new("reference", groups.len() as u64, "batches");
    for group in groups {
        let found = scores::of(reference, &rows.pack(group), group.len() * width);
        for (&row, found) in group.iter().zip(found.chunks_exact(width)) {
            if let Some(wrong) = found.iter().find(|x| !x.is_finite()) {
                let place = format!("{}: row {}", path.display(), rows.numbers[row]);
                return Err(Error::Objective(format!("{place}: its log-probability under the reference model is {wrong}; are its weights whole?")));
            }
            for (slot, &found) in sums[row * width..][..width].iter_mut().zip(found) {
                slot.get_or_insert(found);
            }
        }
        progress.inc(1);
    }
    progress.finish(format!("{} answers", sums.len()));
    Ok(sums.into_iter().map(Option::unwrap_or_default).collect())
}

#[derive(Serialize, Deserialize)]
struct File {
    /// What the numbers depend on.
    key: Value,
    /// BLAKE3 of the numbers as little-endian `f32`.
    checksum: String,
    /// As `f64`, which JSON gives back exactly.
    log_probs: Vec<f64>,
}

fn checksum(sums: &[f32]) -> String {
    hash::bytes(&sums.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
}

/// The numbers in `path` if they are whole and of this `key`; else they are computed and written there.
pub(super) fn cached(path: &Path, key: Value, answers: usize, compute: impl FnOnce() -> Result<Vec<f32>>) -> Result<Vec<f32>> {
    if let Ok(text) = std::fs::read_to_string(path) {
        match serde_json::from_str::<File>(&text) {
            Ok(file) => {
                let sums: Vec<f32> = file.log_probs.iter().map(|&x| x as f32).collect();
                let whole = sums.len() == answers && checksum(&sums) == file.checksum;
                if whole && file.key == key {
                    return Ok(sums);
                }
                let why = if whole { "belongs to other models or data" } else { "is damaged" };
                eprintln!("note: {} {why}; computing it again", path.display());
            }
            Err(_) => eprintln!("note: {} is damaged; computing it again", path.display()),
        }
    }
    let sums = compute()?;
    let file = File { key, checksum: checksum(&sums), log_probs: sums.iter().map(|&x| f64::from(x)).collect() };
    let text = serde_json::to_string(&file).map_err(|e| Error::Objective(format!("{}: {e}", path.display())))?;
    atomic::write(path, text)?;
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// If this fails, a resumed run trains against numbers of another reference, or of half a file.
    #[test]
    fn only_whole_numbers_of_the_same_key_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sums.json");
        let numbers = vec![-1.5f32, -0.1, f32::MIN_POSITIVE, -12345.678];
        let get = |key: &str, found: &[f32]| cached(&path, json!({"model": key}), 4, || Ok(found.to_vec())).unwrap();
        assert_eq!(get("a", &numbers), numbers);
        assert_eq!(get("a", &[0.0; 4]), numbers, "not read back");
        assert_eq!(get("b", &[1.0; 4]), [1.0; 4], "of another model");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("1.0", "2.0", 1)).unwrap();
        assert_eq!(get("b", &[3.0; 4]), [3.0; 4], "a changed number was believed");
        std::fs::write(&path, "{").unwrap();
        assert_eq!(get("b", &[4.0; 4]), [4.0; 4]);
    }
}
