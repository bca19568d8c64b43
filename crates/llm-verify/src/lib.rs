//! Is this answer right? Rewards that a program can check, without a tensor library.
//!
//! | module | noun | job |
//! |---|---|---|
//! | [`rewards`] | `Rewards`, `Task`, `Scored` | answers to numbers, in parallel, in the order they came |
//! | [`spec`] | `RewardSpec` | what `rewards = [...]` of a configuration can say |
//! | [`math`] | `grade`, `same` | extraction of final answers; equality of numbers, formulas, sets, intervals, matrices |
//! | [`sandbox`] | `Sandbox`, `Outcome` | generated programs, where they can do no harm |
//! | [`code`] | `CodeTests` | a program and its tests, in the sandbox |
//! | [`response`] | `Response` | thinking and answer, told apart |
//! | [`format`](mod@format) | `Format` | a pattern, or the `<think>` template |
//! | [`language`] | `LanguageRule` | thinking and answering in the language that was asked in |
//! | [`length`] | `LengthRule` | targets and penalties |
//! | [`rule`] | `Conditions` | contains, begins, ends, matches, so many words |
//! | [`command`] | `Judge` | a program of the user's, JSON lines in, numbers out |
//! | [`report`] | `verify` | grades a file of answers and shows why: for people who debug rewards |
//!
//! Deliberately absent: tensors, models (a learned judge is a reward model, not a verifier), running generated code
//! in this process.

pub mod code;
pub mod command;
mod error;
pub mod format;
pub mod language;
pub mod length;
pub mod math;
pub mod report;
pub mod response;
pub mod rewards;
pub mod rule;
pub mod sandbox;
pub mod spec;

pub use error::{Error, Result};
pub use rewards::{Rewards, Scored, Task};
pub use spec::RewardSpec;
