//! Rewards that can be checked: `llm_verify` under the names that objectives use, and `llm-align verify`.

use llm_data::exercises::{Exercise, is_correct};

pub use llm_verify::report::{VerifyConfig, verify};
pub use llm_verify::{RewardSpec, Rewards, Scored, Task};

/// Grades an answer.
pub trait Verifier {
    /// What is graded against.
    type Item;
    /// Reward of a decoded answer, control tokens included (so that unfinished thinking can be told from an answer).
    fn reward(&self, item: &Self::Item, response: &str) -> f32;
}

/// 1 for the right final answer of a generated exercise, 0 otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExerciseVerifier;

impl Verifier for ExerciseVerifier {
    type Item = Exercise;

    fn reward(&self, item: &Exercise, response: &str) -> f32 {
        if is_correct(response, &item.answer) { 1.0 } else { 0.0 }
    }
}
