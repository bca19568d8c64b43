//! A batch of rollouts with all that its updates need, and how it survives a restart.
//!
//! With several updates per batch a run may be killed between two of them. What the next update sees cannot be computed again then: the
//! weights that drew the answers are gone. So the checkpoint holds the batch, while updates of it are left: the answers' ids and the bits of
//! their advantages and log-probabilities. The updates after the restart are those that would have come, to the bit.

use crate::rollouts::Rollout;
use serde_json::{Map, Value, json};
use std::str::FromStr;

/// An answer and what was found out about it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// Index of its prompt in the data.
    pub prompt: usize,
    /// Prompt and answer.
    pub rollout: Rollout,
    /// What it is worth against the others of its group.
    pub advantage: f32,
    /// It is left out of the loss.
    pub masked: bool,
    /// Log-probability of each token under the weights that drew it; empty where one update is all.
    pub old: Vec<f32>,
    /// The same under the starting model; empty where the loss computes it.
    pub reference: Vec<f32>,
}

/// A batch of rollouts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Experience {
    /// Which of the run, from 0.
    pub index: u64,
    /// Group after group.
    pub answers: Vec<Answer>,
    /// What to log of it.
    pub metrics: Map<String, Value>,
}

fn words<T: ToString>(values: impl Iterator<Item = T>) -> String {
    values.map(|v| v.to_string()).collect::<Vec<_>>().join(" ")
}

fn bits(values: &[f32]) -> String {
    words(values.iter().map(|v| v.to_bits()))
}

fn parse<T: FromStr>(value: &Value) -> Option<Vec<T>> {
    value.as_str()?.split_whitespace().map(|word| word.parse().ok()).collect()
}

fn floats(value: &Value) -> Option<Vec<f32>> {
    Some(parse::<u32>(value)?.into_iter().map(f32::from_bits).collect())
}

/// A number by its bits: as decimal text it may come back with another last one.
fn exact(value: &Value) -> Value {
    match value.as_f64().filter(|_| value.is_f64()) {
        Some(number) => json!({"bits": number.to_bits()}),
        None => value.clone(),
    }
}

fn inexact(value: &Value) -> Value {
    value.get("bits").and_then(Value::as_u64).map_or_else(|| value.clone(), |bits| json!(f64::from_bits(bits)))
}

fn each(map: &Map<String, Value>, of: fn(&Value) -> Value) -> Map<String, Value> {
    map.iter().map(|(key, value)| (key.clone(), of(value))).collect()
}

impl Experience {
    /// As JSON: an answer is one line of numbers each for its ids and log-probabilities, floats by their bits. The ids of prompts are in the
    /// data.
    pub fn save(&self) -> Value {
        let answer = |a: &Answer| {
            json!({
                "prompt": a.prompt,
                "tokens": words(a.rollout.tokens.iter()),
                "ended": a.rollout.ended,
                "masked": a.masked,
                "advantage": a.advantage.to_bits(),
                "old": bits(&a.old),
                "reference": bits(&a.reference),
            })
        };
        json!({"index": self.index, "metrics": each(&self.metrics, exact), "answers": self.answers.iter().map(answer).collect::<Vec<_>>()})
    }

    /// What [`Experience::save`] wrote; `prompts` are the ids of each prompt. None if it is damaged.
    pub fn restore(value: &Value, prompts: &[Vec<u32>]) -> Option<Self> {
        let answer = |value: &Value| {
            let prompt = usize::try_from(value.get("prompt")?.as_u64()?).ok()?;
            Some(Answer {
                prompt,
                rollout: Rollout {
                    prompt: prompts.get(prompt)?.clone(),
                    tokens: parse(value.get("tokens")?)?,
                    ended: value.get("ended")?.as_bool()?,
                },
                advantage: f32::from_bits(u32::try_from(value.get("advantage")?.as_u64()?).ok()?),
                masked: value.get("masked")?.as_bool()?,
                old: floats(value.get("old")?)?,
                reference: floats(value.get("reference")?)?,
            })
        };
        Some(Self {
            index: value.get("index")?.as_u64()?,
            answers: value.get("answers")?.as_array()?.iter().map(answer).collect::<Option<_>>()?,
            metrics: each(value.get("metrics")?.as_object()?, inexact),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answers() -> impl Strategy<Value = Vec<Answer>> {
        let floats = || prop::collection::vec(any::<u32>().prop_map(f32::from_bits), 0..6);
        let rollout = (0usize..2, prop::collection::vec(any::<u32>(), 1..6), any::<bool>());
        let answer = (rollout, any::<f32>(), any::<bool>(), floats(), floats());
        type Parts = ((usize, Vec<u32>, bool), f32, bool, Vec<f32>, Vec<f32>);
        let made = |((prompt, tokens, ended), advantage, masked, old, reference): Parts| Answer {
            prompt,
            rollout: Rollout { prompt: vec![prompt as u32, 7], tokens, ended },
            advantage,
            masked,
            old,
            reference,
        };
        prop::collection::vec(answer.prop_map(made), 0..5)
    }

    proptest! {
        /// If this fails, a run that is killed between two updates of a batch goes on with other numbers.
        #[test]
        fn a_batch_comes_back_to_the_bit(answers in answers(), index in any::<u64>(), reward in -1e3f64..1e3) {
            let metrics = Map::from_iter([("reward".to_string(), json!(reward)), ("unscored_rows".to_string(), json!([1, 2]))]);
            let experience = Experience { index, answers, metrics };
            // Through text, as a checkpoint.
            let text = serde_json::to_string_pretty(&experience.save()).unwrap();
            let back = Experience::restore(&serde_json::from_str(&text).unwrap(), &[vec![0, 7], vec![1, 7]]).unwrap();
            prop_assert_eq!(back.save(), experience.save());
            prop_assert_eq!(&back.metrics, &experience.metrics);
            for (a, b) in back.answers.iter().zip(&experience.answers) {
                prop_assert_eq!(&a.rollout, &b.rollout);
            }
        }
    }

    #[test]
    fn a_damaged_batch_is_noticed() {
        let experience = Experience { answers: vec![Answer { old: vec![1.0], ..Answer::default() }], ..Experience::default() };
        let good = experience.save();
        assert!(Experience::restore(&good, &[vec![1]]).is_some());
        assert!(Experience::restore(&good, &[]).is_none(), "a prompt that is not there");
        let mut bad = good.clone();
        bad["answers"][0]["old"] = json!("12 x");
        assert!(Experience::restore(&bad, &[vec![1]]).is_none());
        bad["answers"] = json!(3);
        assert!(Experience::restore(&bad, &[vec![1]]).is_none());
    }
}
