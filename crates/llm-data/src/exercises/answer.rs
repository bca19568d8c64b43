//! What a response answers, and whether that is right: the verifiable reward of reinforcement learning and the metric of
//! the evaluation.
//!
//! The response must have been decoded *with* its control tokens, because `</think>` separates the reasoning (which may
//! hold the right number by accident) from the answer. Reasoning that never ends has no answer.

/// The answer a response gives after `</think>`: its last number in plain form (`1.234,50` -> `1234.5`), or without a
/// number its words, lower-cased and without surrounding punctuation. `None` when nothing follows the reasoning, or when
/// the reasoning is not closed.
pub fn extract_answer(response: &str) -> Option<String> {
    let text = final_text(response)?;
    last_number(&text).or_else(|| Some(words(&text)).filter(|w| !w.is_empty()).map(|w| w.to_lowercase()))
}

/// True when the response ends in `answer`, the gold answer of an exercise.
///
/// Numbers compare by value, so `132`, `132.` and `The answer is 132,0` are the same. Words compare as the whole answer,
/// with upper and lower case told apart only where the gold answer holds capitals (there the case is the task).
pub fn is_correct(response: &str, answer: &str) -> bool {
    let Some(text) = final_text(response) else { return false };
    let gold = words(answer);
    match last_number(answer) {
        Some(number) if is_only_a_number(answer) => last_number(&text) == Some(number),
        _ if gold.chars().any(char::is_uppercase) => words(&text) == gold,
        _ => words(&text).to_lowercase() == gold,
    }
}

/// What follows the last `</think>`, without control tokens such as `<|eot_id|>`.
fn final_text(response: &str) -> Option<String> {
    let text = match response.rfind("</think>") {
        Some(end) => &response[end + "</think>".len()..],
        None if response.contains("<think>") => return None,
        None => response,
    };
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("<|") {
        plain.push_str(before);
        plain.push(' ');
        rest = after.split_once("|>").map_or("", |(_, tail)| tail);
    }
    plain.push_str(rest);
    Some(plain)
}

/// Words joined by single spaces, punctuation around each removed.
fn words(text: &str) -> String {
    let trimmed = text.split_whitespace().map(|w| w.trim_matches(|c: char| !c.is_alphanumeric()));
    trimmed.filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ")
}

fn is_only_a_number(answer: &str) -> bool {
    answer.chars().all(|c| !c.is_alphabetic())
}

/// Apostrophe and no-break spaces group digits in some locales; an ordinary space separates numbers.
fn is_group_space(c: char) -> bool {
    matches!(c, '\'' | '\u{2019}' | '\u{a0}' | '\u{202f}')
}

/// The last number of a text in plain form.
fn last_number(text: &str) -> Option<String> {
    let chars: Vec<char> = text.chars().collect();
    let end = chars.iter().rposition(char::is_ascii_digit)? + 1;
    let mut start = end - 1;
    while start > 0 {
        let c = chars[start - 1];
        let joins = (matches!(c, '.' | ',') || is_group_space(c)) && start >= 2 && chars[start - 2].is_ascii_digit();
        if !c.is_ascii_digit() && !joins {
            break;
        }
        start -= 1;
    }
    let negative = start > 0 && matches!(chars[start - 1], '-' | '\u{2212}') && (start == 1 || !chars[start - 2].is_alphanumeric());
    let number: String = chars[start..end].iter().filter(|c| !is_group_space(**c)).collect();
    Some(plain_number(&number, negative))
}

/// `1.234,5` and `1,234.5` -> `1234.5`. One kind of mark followed by exactly three digits groups thousands, unless the
/// number starts with 0; otherwise it is the decimal mark. Where both occur, the last one is the decimal mark.
fn plain_number(number: &str, negative: bool) -> String {
    let marks: Vec<(usize, char)> = number.char_indices().filter(|(_, c)| !c.is_ascii_digit()).collect();
    let decimal_at = match marks.as_slice() {
        [] => None,
        [.., (last, mark)] if marks.iter().any(|(_, m)| m != mark) => Some(*last),
        [(at, _)] => {
            let groups = number.len() - at - 1 == 3 && (1..=3).contains(at) && !number.starts_with('0');
            (!groups).then_some(*at)
        }
        _ => None,
    };
    let split = decimal_at.unwrap_or(number.len());
    let only_digits = |s: &str| s.chars().filter(char::is_ascii_digit).collect::<String>();
    let whole = only_digits(&number[..split]);
    let whole = whole.trim_start_matches('0');
    let fraction = only_digits(&number[split..]);
    let fraction = fraction.trim_end_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let sign = if negative && (whole != "0" || !fraction.is_empty()) { "-" } else { "" };
    if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_three_locales() {
        for (response, expected) in [
            ("<think>47+85=133</think>132<|eot_id|>", "132"),
            ("The answer is 1,234.50.", "1234.5"),
            ("Es sind 1.234,5 Äpfel", "1234.5"),
            ("son 3,5", "3.5"),
            ("0,125", "0.125"),
            ("1.234.567", "1234567"),
            ("1.234", "1234"),
            ("12\u{202f}345", "12345"),
            ("10 12", "12"),
            ("-7", "-7"),
            ("12-7", "7"),
            ("007", "7"),
            ("Antwort: 5.", "5"),
        ] {
            assert_eq!(extract_answer(response).as_deref(), Some(expected), "{response}");
        }
    }

    #[test]
    fn words_and_case() {
        assert_eq!(extract_answer("<think>x</think> \"Rojo\". ").as_deref(), Some("rojo"));
        assert!(is_correct("<think>r</think>ROT", "ROT"));
        assert!(!is_correct("<think>r</think>rot", "ROT"), "capitals are the task");
        assert!(is_correct("Rot.", "rot"));
        assert!(!is_correct("rot rot rot", "rot rot"));
    }

    #[test]
    fn reasoning_does_not_count() {
        assert_eq!(extract_answer("<think>47+85=132"), None);
        assert!(!is_correct("<think>47+85=132", "132"));
        assert!(!is_correct("<think>132</think>", "132"));
        assert!(!is_correct("<think>132</think>133", "132"));
        assert!(is_correct("132", "132"), "content that was already separated from its reasoning");
    }
}
