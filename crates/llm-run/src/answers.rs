//! Answers to the same prompts before and after, side by side.

use crate::html::{Html, details, join, number, tag, text};
use crate::progress::thousands;
use serde_json::{Map, Value};

/// Prompts shown.
const MOST: usize = 12;
/// Characters of an answer.
const MOST_CHARACTERS: usize = 1500;

/// What a model answered after a step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answers {
    /// Steps taken.
    pub step: u64,
    /// Prompt, answer, and what the answer is worth where that is known.
    pub texts: Vec<(String, String, Option<f64>)>,
}

impl Answers {
    /// From the record of a validation; none without `samples`.
    pub fn of(record: &Map<String, Value>) -> Option<Self> {
        let word = |sample: &Value, key: &str| sample.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
        let samples = record.get("samples")?.as_array()?;
        let texts = samples.iter().map(|s| (word(s, "prompt"), word(s, "text"), s.get("reward").and_then(Value::as_f64)));
        Some(Self { step: record.get("step")?.as_u64()?, texts: texts.collect() })
    }

    fn find(&self, prompt: &str) -> Option<(&str, Option<f64>)> {
        self.texts.iter().find(|(p, ..)| p == prompt).map(|(_, text, worth)| (text.as_str(), *worth))
    }
}

fn cut(words: &str) -> String {
    match words.char_indices().nth(MOST_CHARACTERS) {
        Some((at, _)) => format!("{} ...", &words[..at]),
        None => words.to_string(),
    }
}

fn side(step: u64, (words, worth): (&str, Option<f64>)) -> Html {
    let when = if step == 0 { "at the start".to_string() } else { format!("after step {}", thousands(step)) };
    let worth = worth.map_or(String::new(), |worth| format!(" · reward {}", number(worth)));
    let words = if words.trim().is_empty() { tag("span class=soft", "(nothing)") } else { text(cut(words)) };
    tag("div class=side", [tag("span class=\"soft small\"", format!("{when}{worth}")), tag("div class=words", words)])
}

/// A card per prompt that was answered both times, with the answers in between behind a click. Nothing when there are no two times.
pub fn before_and_after(all: &[Answers]) -> Html {
    let (Some(first), Some(last)) = (all.first(), all.last()) else { return Html::default() };
    if first.step == last.step {
        return Html::default();
    }
    let card = |(prompt, before, worth): &(String, String, Option<f64>)| {
        let after = last.find(prompt)?;
        let between = all[1..all.len() - 1].iter().filter_map(|answers| Some(side(answers.step, answers.find(prompt)?)));
        let between: Vec<Html> = between.collect();
        let more = if between.is_empty() { Html::default() } else { details("in between", tag("div class=sides", between)) };
        let sides = tag("div class=sides", [side(first.step, (before.as_str(), *worth)), side(last.step, after)]);
        Some(tag("div class=card", [tag("div class=asked", cut(prompt)), sides, more]))
    };
    join(first.texts.iter().filter_map(card).take(MOST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answers(step: u64, texts: Value) -> Answers {
        Answers::of(json!({"step": step, "samples": texts}).as_object().unwrap()).unwrap()
    }

    /// If this fails, a change that training made is not seen, or what a model wrote becomes markup.
    #[test]
    fn the_first_and_the_last_answer_stand_beside_each_other() {
        let all = [
            answers(0, json!([{"prompt": "2+2?", "text": "<b>five", "reward": 0.0}, {"prompt": "gone", "text": "x"}])),
            answers(50, json!([{"prompt": "2+2?", "text": "fou"}])),
            answers(1200, json!([{"prompt": "2+2?", "text": "four", "reward": 1.0}, {"prompt": "new", "text": "y"}])),
        ];
        let page = before_and_after(&all).into_string();
        for part in ["2+2?", "&lt;b&gt;five", "at the start · reward 0", "after step 1,200 · reward 1", "after step 50", "in between"] {
            assert!(page.contains(part), "{part} is missing in {page}");
        }
        assert!(!page.contains("gone") && !page.contains("new"));
        assert_eq!(page.matches("<div").count(), page.matches("</div>").count());
        assert!(before_and_after(&all[..1]).is_empty() && before_and_after(&[]).is_empty());
        assert_eq!(Answers::of(json!({"step": 3, "val_loss": 1.0}).as_object().unwrap()), None);
    }

    #[test]
    fn long_answers_are_cut_between_characters() {
        assert_eq!(cut("äöü"), "äöü");
        assert_eq!(cut(&"ä".repeat(MOST_CHARACTERS + 5)).chars().count(), MOST_CHARACTERS + 4);
    }
}
