//! Length as a reward: a target to come close to, and soft limits.
//!
//! The soft limit is that of DAPO (Yu et al. 2025, equation 13): 0 up to `max`, falling evenly to -1 at `max + buffer`, -1
//! beyond. `min` mirrors it. A target gives 1 at the target, falling evenly to 0 at `tolerance` away from it. Lengths are in words
//! or characters: a verifier has no tokenizer. (Penalties in tokens belong to the objective, which counts them itself.)

use crate::response::{Part, Response};
use serde::{Deserialize, Serialize};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Runs between white space.
    #[default]
    Words,
    /// Unicode characters.
    Characters,
}

/// A target, limits, or both: their rewards are added.
#[derive(Debug, Clone, PartialEq)]
pub struct LengthRule {
    /// Length with the greatest reward.
    pub target: Option<u64>,
    /// How far from the target the reward reaches 0.
    pub tolerance: u64,
    /// Length from which on the penalty begins.
    pub max: Option<u64>,
    /// Length below which the penalty begins.
    pub min: Option<u64>,
    /// How much beyond a limit the penalty is full.
    pub buffer: u64,
    /// What is counted.
    pub unit: Unit,
    /// Where.
    pub part: Part,
}

impl LengthRule {
    /// Between -2 (both limits, never at once: -1) and 1.
    pub fn reward(&self, response: &Response) -> f32 {
        let text = response.part(self.part);
        let n = match self.unit {
            Unit::Words => text.split_whitespace().count(),
            Unit::Characters => text.chars().count(),
        } as f32;
        let penalty = |excess: f32| {
            if excess <= 0.0 {
                0.0
            } else if self.buffer == 0 {
                -1.0
            } else {
                -(excess / self.buffer as f32).min(1.0)
            }
        };
        let near = self.target.map_or(0.0, |target| {
            let distance = (n - target as f32).abs();
            if self.tolerance == 0 { f32::from(u8::from(distance == 0.0)) } else { 1.0 - (distance / self.tolerance as f32).min(1.0) }
        });
        near + self.max.map_or(0.0, |max| penalty(n - max as f32)) + self.min.map_or(0.0, |min| penalty(min as f32 - n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_penalties() {
        let none = LengthRule { target: None, tolerance: 0, max: None, min: None, buffer: 0, unit: Unit::Words, part: Part::Answer };
        let of = |rule: &LengthRule, n: usize| rule.reward(&Response::new(&format!("<think>so long</think>{}", "w ".repeat(n))));
        let target = LengthRule { target: Some(10), tolerance: 4, ..none.clone() };
        assert_eq!([10, 11, 8, 14, 40, 0].map(|n| of(&target, n)), [1.0, 0.75, 0.5, 0.0, 0.0, 0.0]);
        let soft = LengthRule { max: Some(10), buffer: 4, ..none.clone() };
        assert_eq!([0, 10, 11, 14, 99].map(|n| of(&soft, n)), [0.0, 0.0, -0.25, -1.0, -1.0]);
        let least = LengthRule { min: Some(2), ..none.clone() };
        assert_eq!([0, 1, 2, 3].map(|n| of(&least, n)), [-1.0, -1.0, 0.0, 0.0]);
        let thinking = LengthRule { target: Some(2), part: Part::Thinking, ..none };
        assert_eq!(of(&thinking, 50), 1.0);
    }
}
