//! Does a response have the form that was asked for: a pattern, or the `<think>...</think>answer` template.
//!
//! The template (DeepSeek-AI, DeepSeek-R1, 2025, section 2.2.2) asks for exactly one block, at the very beginning, with something
//! in it, and an answer after it. Marks inside the answer, a second block and control tokens anywhere but at the very end are
//! leaks: they are how a policy learns to look right to a lenient pattern.

use crate::response::{CLOSE, OPEN, control_token};
use regex::{Regex, RegexBuilder};

/// A form.
#[derive(Debug)]
pub enum Format {
    /// The template above.
    Think,
    /// A pattern that the whole response, without control tokens at its end, has to match; `.` is any character.
    Pattern(Regex),
}

impl Format {
    /// The template, or a pattern.
    ///
    /// # Errors
    /// What is wrong with the pattern.
    pub fn new(pattern: Option<&str>) -> Result<Self, String> {
        let Some(pattern) = pattern else { return Ok(Format::Think) };
        let whole = format!(r"\A(?:{pattern})\z");
        RegexBuilder::new(&whole).dot_matches_new_line(true).build().map(Format::Pattern).map_err(|e| format!("pattern: {e}"))
    }

    /// Does the response to `prompt` have the form? A prompt that ends in `<think>` has opened the block already.
    pub fn holds(&self, prompt: &str, response: &str) -> bool {
        let text = without_end_tokens(response);
        match self {
            Format::Pattern(pattern) => pattern.is_match(text),
            Format::Think => {
                let opened = prompt.trim_end().ends_with(OPEN);
                let Some(body) = (if opened { Some(text) } else { text.trim_start().strip_prefix(OPEN) }) else { return false };
                let Some((thinking, answer)) = body.split_once(CLOSE) else { return false };
                let clean = |part: &str| {
                    let marks = part.contains("<think") || part.contains("</think") || control_token(part).is_some();
                    !marks && !part.trim().is_empty()
                };
                clean(thinking) && clean(answer)
            }
        }
    }
}

/// Without the control tokens at the end, which every finished answer has.
fn without_end_tokens(text: &str) -> &str {
    let mut rest = text.trim_end();
    while let Some(start) = rest.rfind("<|").filter(|&at| control_token(&rest[at..]) == Some(0..rest.len() - at)) {
        rest = rest[..start].trim_end();
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_block_and_an_answer() {
        let think = Format::new(None).unwrap();
        for good in ["<think>a</think>b", "<think>\na\n</think>\n\nb<|eot_id|>", " <think>1 < 2</think>3<|im_end|><|endoftext|>"] {
            assert!(think.holds("p", good), "{good}");
        }
        for bad in [
            "",
            "b",
            "<think>a",
            "<think>a</think>",
            "<think></think>b",
            "<think>a</think> <|eot_id|>",
            "b<think>a</think>c",
            "<think>a</think>b<think>c</think>d",
            "<think><think>a</think>b",
            "<think>a</think>b</think>",
            "<think>a<|eot_id|></think>b",
            "<think>a</think>b<|eot_id|>c",
            "<think>a</think><think >b",
            "a</think>b",
        ] {
            assert!(!think.holds("p", bad), "{bad}");
        }
        assert!(think.holds("p <think>\n", "a</think>b") && !think.holds("p <think>", "<think>a</think>b"));
    }

    #[test]
    fn patterns_match_all_of_it() {
        let pattern = Format::new(Some(r"<answer>.*</answer>|none")).unwrap();
        assert!(pattern.holds("", "<answer>1\n2</answer><|eot_id|>") && pattern.holds("", "none"));
        assert!(!pattern.holds("", "so <answer>1</answer>") && !pattern.holds("", "none of it"));
        assert!(Format::new(Some("(")).is_err());
    }
}
