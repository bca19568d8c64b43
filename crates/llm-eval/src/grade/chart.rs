//! Relaxed accuracy of ChartQA (Masry et al. 2022, section 5.1), as lmms-eval counts it.
//!
//! Numbers are right within 5 % of the reference, per cents are divided by 100 on both sides, anything else must be equal but
//! for case. A reference of 0 is compared as text.

use super::text::python_float;

const MOST_CHANGE: f64 = 0.05;

fn number(text: &str) -> Option<f64> {
    if text.ends_with('%') { python_float(text.trim_end_matches('%')).map(|v| v / 100.0) } else { python_float(text) }
}

/// Is `answer` near enough to `reference`?
pub fn relaxed(answer: &str, reference: &str) -> bool {
    match (number(answer), number(reference)) {
        (Some(answer), Some(reference)) if reference != 0.0 => (answer - reference).abs() / reference.abs() <= MOST_CHANGE,
        _ => answer.to_lowercase() == reference.to_lowercase(),
    }
}
