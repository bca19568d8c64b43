//! What a response thinks and what it answers.
//!
//! Responses are decoded with their control tokens, because `</think>` separates the reasoning, which may hold the right
//! answer by accident, from the answer. Some chat templates open the block themselves, so a response may hold only
//! its end. Thinking that never ends has no answer.

/// The marks of reasoning.
pub const OPEN: &str = "<think>";
/// Longest name of a control token.
const MOST_NAME: usize = 64;
/// The end of reasoning.
pub const CLOSE: &str = "</think>";

/// A response, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Inside the first `<think>...`, to the last `</think>` or the end; `None` without either mark.
    pub thinking: Option<String>,
    /// After the last `</think>`; `None` when the thinking does not end.
    pub answer: Option<String>,
}

/// Which part of a response a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// What follows the thinking.
    #[default]
    Answer,
    /// The thinking.
    Thinking,
    /// Both.
    All,
}

impl Response {
    /// Take `text` apart; control tokens such as `<|eot_id|>` are left out of both parts.
    pub fn new(text: &str) -> Self {
        let (thinking, answer) = match (text.find(OPEN), text.rfind(CLOSE)) {
            (open, Some(close)) => {
                let start = open.filter(|at| at + OPEN.len() <= close).map_or(0, |at| at + OPEN.len());
                (Some(&text[start..close]), Some(&text[close + CLOSE.len()..]))
            }
            (Some(open), None) => (Some(&text[open + OPEN.len()..]), None),
            (None, None) => (None, Some(text)),
        };
        let plain = |part: &str| without_control_tokens(part).trim().to_string();
        Response { thinking: thinking.map(plain), answer: answer.map(plain) }
    }

    /// The part; empty when it is missing.
    pub fn part(&self, part: Part) -> String {
        let (thinking, answer) = (self.thinking.as_deref().unwrap_or_default(), self.answer.as_deref().unwrap_or_default());
        match part {
            Part::Answer => answer.to_string(),
            Part::Thinking => thinking.to_string(),
            Part::All => format!("{thinking}\n{answer}").trim().to_string(),
        }
    }
}

/// The next control token of `text`: a name between `<|` and `|>`. `<|x - 1|>` in a formula is none.
pub(crate) fn control_token(text: &str) -> Option<std::ops::Range<usize>> {
    text.match_indices("<|").find_map(|(start, open)| {
        let name = &text[start + open.len()..];
        let allowed = |c: &char| c.is_alphanumeric() || matches!(c, '_' | '-' | ':' | '.' | '▁');
        let length: usize = name.chars().take_while(allowed).take(MOST_NAME).map(char::len_utf8).sum();
        (length > 0 && name[length..].starts_with("|>")).then(|| start..start + open.len() + length + "|>".len())
    })
}

/// Every control token is a space.
pub fn without_control_tokens(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(token) = control_token(rest) {
        plain.push_str(&rest[..token.start]);
        plain.push(' ');
        rest = &rest[token.end..];
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let parts = |text: &str| {
            let r = Response::new(text);
            (r.thinking, r.answer)
        };
        let some = |text: &str| Some(text.to_string());
        assert_eq!(parts("<think>a</think>b<|eot_id|>"), (some("a"), some("b")));
        assert_eq!(parts("a</think>b"), (some("a"), some("b")));
        assert_eq!(parts("<think>a"), (some("a"), None));
        assert_eq!(parts("b"), (None, some("b")));
        assert_eq!(parts("</think><think>b"), (some(""), some("<think>b")));
        assert_eq!(parts("<think>a</think>b<think>c</think>d"), (some("a</think>b<think>c"), some("d")));
        assert_eq!(parts("0 <|x| < 3 and <|y|> <|eot_id|>"), (None, some("0 <|x| < 3 and")));
        assert_eq!(parts("0 <|x - 1|> 2"), (None, some("0 <|x - 1|> 2")));
        assert_eq!(Response::new("<think>a</think>b").part(Part::All), "a\nb");
    }
}
