//! Answers of BIG-Bench Hard (Suzgun et al. 2022).
//!
//! The harness takes `(?<=the answer is )(.*)(?=.)`. The full stop in the last part is not escaped: it is any character,
//! so the last character of the line is dropped whatever it is, and an answer without a full stop loses a letter. Kept as it
//! is under the harness's name; [`fixed`] drops a full stop and nothing else, and takes the last answer instead of the first.

use super::filter::INVALID;
use crate::python::strip;

const PHRASE: &str = "the answer is ";

/// As lm-evaluation-harness extracts it.
pub fn harness(text: &str) -> String {
    let lines = text.match_indices(PHRASE).map(|(at, _)| text[at + PHRASE.len()..].split('\n').next().unwrap_or_default());
    let found = lines.map(|line| line.char_indices().next_back().map(|(last, _)| &line[..last])).find_map(|answer| answer);
    strip(found.unwrap_or(INVALID)).to_string()
}

/// What was meant: the rest of the line after the last "the answer is", without white space and one final full stop.
pub fn fixed(text: &str) -> String {
    let found = text.rmatch_indices(PHRASE).map(|(at, _)| strip(text[at + PHRASE.len()..].split('\n').next().unwrap_or_default()));
    let answer = found.map(|line| strip(line.strip_suffix('.').unwrap_or(line))).find(|answer| !answer.is_empty());
    answer.unwrap_or(INVALID).to_string()
}
