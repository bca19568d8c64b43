//! What a program must come to, for the tests of both sandboxes. They give `sandbox`, none where it cannot be had, and `WITHIN`.

use crate::{WITHIN, sandbox};
use llm_verify::sandbox::Outcome;
use std::time::Instant;

/// Run, and end within the deadline and its grace.
pub fn run(program: &str) -> Option<Outcome> {
    let sandbox = sandbox()?;
    let start = Instant::now();
    let outcome = sandbox.run(program);
    assert!(start.elapsed() < WITHIN, "{:?} for {program}", start.elapsed());
    Some(outcome)
}

/// Asserts inside the program speak for themselves.
pub fn passes(program: &str) {
    if let Some(outcome) = run(program) {
        assert_eq!(outcome, Outcome::Passed, "{program}");
    }
}

/// It fails, and says so with these words.
pub fn fails(program: &str, because: &str) {
    if let Some(outcome) = run(program) {
        assert!(matches!(&outcome, Outcome::Failed { stderr } if stderr.contains(because)), "{outcome:?} for {program}");
    }
}
