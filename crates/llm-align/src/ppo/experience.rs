//! What a batch of rollouts leaves for its updates, and how a checkpoint keeps it.
//!
//! A batch is drawn by the weights of its first update and used for several. A run that is killed in between cannot draw it again, since those
//! weights are gone; so the checkpoint holds tokens, log-probabilities, values, advantages and returns as they were, bit for bit. They
//! stand in the trainer's state as one text of hexadecimal words: its JSON would spend a line on each number.

use llm_train::sequences::Sequence;
use serde_json::{Map, Value, json};

/// An answer and the numbers of its tokens. All four lists are as long as the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Prompt and answer, of which the answer is trained.
    pub sequence: Sequence,
    /// Log-probabilities when it was drawn, nats.
    pub log_p: Vec<f32>,
    /// Values when it was drawn.
    pub values: Vec<f32>,
    /// Advantages.
    pub advantages: Vec<f32>,
    /// What the value function should have said.
    pub returns: Vec<f32>,
}

/// A batch of rollouts.
#[derive(Debug, Clone, PartialEq)]
pub struct Experience {
    /// Its number, from 0.
    pub number: u64,
    /// Its answers.
    pub answers: Vec<Answer>,
}

/// A batch of rollouts in words of 32 bits.
fn words(answers: &[Answer]) -> Vec<u32> {
    let mut words = vec![answers.len() as u32];
    for Answer { sequence, log_p, values, advantages, returns } in answers {
        words.extend([sequence.ids.len() as u32, log_p.len() as u32]);
        words.extend(&sequence.ids);
        words.extend([log_p, values, advantages, returns].into_iter().flatten().map(|x| x.to_bits()));
    }
    words
}

/// The way back; none when the words are not such a batch.
fn answers(words: &[u32]) -> Option<Vec<Answer>> {
    let mut at = 0usize;
    let mut take = |n: usize| {
        let part = words.get(at..at.checked_add(n)?)?;
        at += n;
        Some(part)
    };
    let count = take(1)?[0];
    let mut out = Vec::new();
    for _ in 0..count {
        let &[length, trained] = take(2)? else { return None };
        let (length, trained) = (length as usize, trained as usize);
        let ids = take(length)?.to_vec();
        let prompt = length.checked_sub(trained)?;
        let mut numbers = || Some(take(trained)?.iter().map(|&bits| f32::from_bits(bits)).collect::<Vec<f32>>());
        let (log_p, values, advantages, returns) = (numbers()?, numbers()?, numbers()?, numbers()?);
        let loss_mask = (0..length).map(|i| i >= prompt).collect();
        out.push(Answer { sequence: Sequence { ids, loss_mask }, log_p, values, advantages, returns });
    }
    (at == words.len()).then_some(out)
}

impl Experience {
    /// For a checkpoint.
    pub fn save(&self) -> Value {
        let hex: String = words(&self.answers).into_iter().map(|word| format!("{word:08x}")).collect();
        json!({"number": self.number, "answers": hex})
    }

    /// From a checkpoint; none when it is damaged.
    pub fn restore(state: &Map<String, Value>) -> Option<Self> {
        let hex = state.get("answers")?.as_str()?.as_bytes();
        let word = |digits: &[u8]| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        let words: Vec<u32> = hex.chunks(8).map(|digits| word(digits).filter(|_| digits.len() == 8)).collect::<Option<_>>()?;
        Some(Self { number: state.get("number")?.as_u64()?, answers: answers(&words)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn experience(shapes: &[(usize, usize)], seed: u32) -> Experience {
        let answer = |&(prompt, trained): &(usize, usize)| {
            let numbers = |k: u32| (0..trained as u32).map(|i| f32::from_bits((seed ^ k).wrapping_mul(i + 1) >> 2)).collect::<Vec<f32>>();
            let ids = (0..(prompt + trained) as u32).map(|i| i.wrapping_mul(seed)).collect();
            let loss_mask = (0..prompt + trained).map(|i| i >= prompt).collect();
            let (log_p, values, advantages, returns) = (numbers(1), numbers(2), numbers(3), numbers(4));
            Answer { sequence: Sequence { ids, loss_mask }, log_p, values, advantages, returns }
        };
        Experience { number: u64::from(seed), answers: shapes.iter().map(answer).collect() }
    }

    proptest! {
        /// If this fails, a run that was killed between two updates goes on with other numbers.
        #[test]
        fn a_checkpoint_keeps_every_bit(shapes in prop::collection::vec((1usize..5, 0usize..6), 0..6), seed in 0u32..1 << 30) {
            let before = experience(&shapes, seed);
            let text = before.save().to_string();
            let state: Map<String, Value> = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(Experience::restore(&state), Some(before));
        }
    }

    /// If this fails, damage is taken for a batch of rollouts.
    #[test]
    fn damage_is_noticed() {
        let Value::Object(good) = experience(&[(2, 3)], 77).save() else { unreachable!() };
        let damages: [fn(&str) -> String; 3] = [|hex| hex[1..].into(), |hex| hex[..hex.len() - 8].into(), |hex| format!("{hex}00000000")];
        for damaged in damages {
            let mut state = good.clone();
            state.insert("answers".into(), json!(damaged(good["answers"].as_str().unwrap())));
            assert_eq!(Experience::restore(&state), None);
        }
    }
}
