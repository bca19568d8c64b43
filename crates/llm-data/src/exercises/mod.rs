//! Exercises with gold answers: arithmetic word problems and short instructions in English, German and Spanish.
//!
//! They are the material of the supervised and the reinforcement stage, and their held-out part is the accuracy every
//! later stage is measured by. Each row is a two-message chat; the assistant's `reasoning_content` works towards the
//! answer and its `content` is the bare answer. A share of the training solutions works digit by digit and the rest states
//! the equation at once ([`ExercisesConfig::worked_share`]), over the same distribution of problems.
//!
//! | file | job |
//! |---|---|
//! | `problem` | operation and operands, gold answer, the key that separates training from held-out |
//! | `language`, `english`, `german`, `spanish` | templates and words |
//! | `solution` | reasoning text, worked or direct |
//! | `generate` | configuration, sampling, the disjoint split |
//! | `answer` | `extract_answer`, `is_correct` |

mod answer;
mod english;
mod generate;
mod german;
mod language;
mod problem;
mod solution;
mod spanish;

pub use answer::{extract_answer, is_correct};
pub use generate::{Exercises, ExercisesConfig, Weights, generate};
pub use language::Language;
pub use problem::Category;

use crate::error::{Result, io, record};
use llm_run::atomic::AtomicFile;
use llm_tokenizer::Message;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

/// One row of an exercise file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exercise {
    /// `train-00017` or `heldout-00017`.
    pub id: String,
    /// Language of the prompt.
    pub lang: Language,
    /// Kind of problem.
    pub category: Category,
    /// The user's prompt and the assistant's solution.
    pub messages: Vec<Message>,
    /// The gold answer, equal to the assistant's `content`.
    pub answer: String,
}

impl Exercise {
    /// The user's prompt.
    pub fn prompt(&self) -> &str {
        self.messages.first().map_or("", |m| &m.content)
    }

    /// The assistant's reasoning.
    pub fn reasoning(&self) -> &str {
        self.messages.last().and_then(|m| m.reasoning_content.as_deref()).unwrap_or_default()
    }
}

/// Write exercises as JSON lines, atomically.
pub fn write(path: &Path, exercises: &[Exercise]) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    for exercise in exercises {
        let line = serde_json::to_string(exercise).map_err(|e| record(path, &exercise.id, e.to_string()))?;
        writeln!(file, "{line}").map_err(io(path, "cannot write"))?;
    }
    Ok(file.commit()?)
}

/// Read an exercise file; a damaged line is an error with its number.
pub fn read(path: &Path) -> Result<Vec<Exercise>> {
    let file = std::fs::File::open(path).map_err(io(path, "cannot read"))?;
    let mut exercises = Vec::new();
    for (i, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(io(path, "cannot read"))?;
        if line.trim().is_empty() {
            continue;
        }
        let exercise = serde_json::from_str(&line).map_err(|e| {
            record(path, format!("line {}", i + 1), format!("{e}; expected an exercise row {{id, lang, category, messages, answer}}"))
        })?;
        exercises.push(exercise);
    }
    Ok(exercises)
}
