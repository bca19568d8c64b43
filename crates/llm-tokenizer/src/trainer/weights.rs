//! Balance between languages or domains without sampling: every text is counted, and each language or domain counts as much as its weight says.
//!
//! Throwing text away to balance a sample throws its rare words away too. Counts of a group are multiplied by a whole
//! number instead, so that the groups' bytes stand in the ratio of their weights to one part in 2^16; the same for any threads and
//! order.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Factors are whole multiples of this part of one.
pub const UNIT: u64 = 1 << 16;

/// Weight of each `lang` or `domain`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Weights(pub BTreeMap<String, f64>);

/// What one group contributed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Share {
    /// Bytes of its text.
    pub bytes: u64,
    /// Share of the text as it is.
    pub found: f64,
    /// Share that training gave it.
    pub given: f64,
    /// What its counts were multiplied with.
    pub factor: f64,
}

impl Weights {
    /// No weights: text is taken as it is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.0.len() > 200 {
            return Err(Error::Train(format!("weights has {} groups: at most 200 are supported", self.0.len())));
        }
        for (name, &weight) in &self.0 {
            if !(weight.is_finite() && weight >= 0.0) {
                return Err(Error::Train(format!("weights.{name} = {weight}: expected a number of at least 0")));
            }
        }
        match self.is_empty() || self.0.values().any(|&w| w > 0.0) {
            true => Ok(()),
            false => Err(Error::Train("weights are all 0: nothing would be counted".to_string())),
        }
    }

    /// Number of the group a text belongs to, by language or else by domain.
    pub fn group(&self, lang: Option<&str>, domain: Option<&str>) -> Option<u8> {
        let place = |name: &str| self.0.keys().position(|k| k == name);
        lang.and_then(place).or_else(|| domain.and_then(place)).map(|i| i as u8)
    }

    /// Factor of each group, in units of 1/[`UNIT`], from the bytes of each.
    pub(super) fn factors(&self, bytes: &[u64]) -> Vec<u64> {
        let total: u64 = bytes.iter().sum();
        let sum: f64 = self.0.values().zip(bytes).filter(|&(_, &b)| b > 0).map(|(w, _)| w).sum();
        let factor = |(&weight, &bytes): (&f64, &u64)| match bytes == 0 || weight == 0.0 {
            true => 0,
            false => ((weight / sum * total as f64 / bytes as f64 * UNIT as f64).round() as u64).max(1),
        };
        self.0.values().zip(bytes).map(factor).collect()
    }

    /// The report for the manifest.
    pub(super) fn shares(&self, bytes: &[u64]) -> BTreeMap<String, Share> {
        let factors = self.factors(bytes);
        let total = bytes.iter().sum::<u64>().max(1) as f64;
        let weighted: f64 = factors.iter().zip(bytes).map(|(&f, &b)| f as f64 * b as f64).sum::<f64>().max(1.0);
        let share = |(&b, &f): (&u64, &u64)| Share {
            bytes: b,
            found: b as f64 / total,
            given: f as f64 * b as f64 / weighted,
            factor: f as f64 / UNIT as f64,
        };
        self.0.keys().cloned().zip(bytes.iter().zip(&factors).map(share)).collect()
    }
}
