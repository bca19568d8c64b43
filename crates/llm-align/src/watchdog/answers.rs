//! What the watch-dog wants to know of the answers themselves.

use std::collections::HashSet;

/// Tokens in a row that count as a repetition when they come again.
const N: usize = 4;

/// Share of the 4-grams of an answer that were there before in it, 0 to 1: `seq-rep-4` of Welleck et al. 2020 (section 6). 0 for an answer of
/// at most four tokens.
pub fn repetition(tokens: &[u32]) -> f64 {
    let grams = tokens.windows(N).count();
    if grams < 2 {
        return 0.0;
    }
    let distinct = tokens.windows(N).collect::<HashSet<_>>().len();
    1.0 - distinct as f64 / grams as f64
}

/// Different answers over answers, 1 where all differ. Meant for one answer per prompt: that the answers to one prompt agree is what
/// training is for, that those to different prompts do is not.
pub fn distinct(answers: &[&[u32]]) -> f64 {
    if answers.is_empty() {
        return 1.0;
    }
    answers.iter().collect::<HashSet<_>>().len() as f64 / answers.len() as f64
}

/// Parts of a reward that pay for the form of an answer.
const FORMS: [&str; 3] = ["format", "language", "length"];

/// Share of answers that earn with their form and with nothing else. None when the reward has no part for the form, or no other.
///
/// `names` are the parts of the reward; each answer has a value for every one, or none where it could not be scored.
pub fn format_only<'a>(names: &[String], answers: impl IntoIterator<Item = &'a [Option<f32>]>) -> Option<f64> {
    let is_form = |name: &String| FORMS.iter().any(|form| name.starts_with(form));
    if !names.iter().any(is_form) || names.iter().all(is_form) {
        return None;
    }
    let (mut all, mut hollow) = (0u32, 0u32);
    for parts in answers {
        let earns = |form: bool| names.iter().zip(parts).any(|(name, part)| is_form(name) == form && part.is_some_and(|p| p > 0.0));
        all += 1;
        hollow += u32::from(earns(true) && !earns(false));
    }
    (all > 0).then(|| f64::from(hollow) / f64::from(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_nearly_all_repetition_and_a_sentence_none() {
        assert_eq!(repetition(&[]), 0.0);
        assert_eq!(repetition(&[5, 5, 5, 5]), 0.0);
        assert_eq!(repetition(&(0..50).collect::<Vec<_>>()), 0.0);
        let one_word = vec![7; 43];
        assert!((repetition(&one_word) - 39.0 / 40.0).abs() < 1e-12);
        let three_words: Vec<u32> = (0..43).map(|i| i % 3).collect();
        assert!((repetition(&three_words) - 37.0 / 40.0).abs() < 1e-12);
    }

    #[test]
    fn equal_answers_are_counted_once() {
        assert_eq!(distinct(&[]), 1.0);
        assert_eq!(distinct(&[&[1, 2], &[1, 2], &[3], &[1]]), 0.75);
    }

    /// If this fails, answers that are right count as hollow, or hollow ones as right.
    #[test]
    fn form_without_content_is_counted() {
        let names = ["format".to_string(), "math".to_string()];
        let answers = [[Some(1.0), Some(1.0)], [Some(1.0), Some(0.0)], [Some(0.0), Some(0.0)], [Some(0.5), None]];
        assert_eq!(format_only(&names, answers.iter().map(|a| &a[..])), Some(0.5));
        assert_eq!(format_only(&names[..1], answers.iter().map(|a| &a[..1])), None);
        assert_eq!(format_only(&names[1..], answers.iter().map(|a| &a[1..])), None);
    }
}
