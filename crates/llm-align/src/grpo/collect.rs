//! A batch of rollouts: draw, grade, draw again where all answers of a group got the same, compare.
//!
//! A group without signal has no gradient. Dynamic sampling (DAPO, section 3.2) replaces it by a group of another prompt, a fixed number
//! of times; what still has none stays, with advantage 0. What is logged is of the groups that were drawn first: those that were chosen for
//! their signal would flatter the policy. Everything is a function of (seed, batch, attempt) and the weights.

use super::config::{Combine, GrpoConfig, Settings};
use super::experience::{Answer, Experience};
use super::prompts::{Prompts, grade};
use super::thinking::{Thinking, excess};
use crate::losses::advantages::{group, length_rewards, normalize_then_sum, soft_overlong};
use crate::rollouts::{Rollout, Sampler};
use crate::watchdog::{Answers, Signals, distinct, format_only, repetition};
use llm_arch::Decoder;
use llm_run::Seed;
use llm_tokenizer::Tokenizer;
use llm_train::Result;
use llm_verify::{RewardSpec, Rewards, Scored};
use serde_json::{Map, Value, json};

/// Rows without a reward that a record names.
const NAMED_ROWS: usize = 8;

/// Draws and grades.
#[derive(Debug)]
pub struct Collector {
    /// What is asked.
    pub prompts: Prompts,
    /// What answers.
    pub sampler: Sampler,
    /// What grades.
    pub rewards: Rewards,
    /// Ids to text.
    pub tokenizer: Tokenizer,
    /// How long answers think.
    pub thinking: Thinking,
    /// The configuration.
    pub config: GrpoConfig,
    /// And what the algorithm adds to it.
    pub settings: Settings,
}

/// Answers to one prompt.
#[derive(Debug)]
struct Group {
    prompt: usize,
    rollouts: Vec<Rollout>,
    grades: Vec<Scored>,
    /// Added to each answer's rewards for its length.
    shaping: Vec<f32>,
}

impl Group {
    /// Do the rewards of its answers differ?
    fn has_signal(&self) -> bool {
        let mut scored = self.grades.iter().filter_map(|g| g.total);
        let first = scored.next();
        scored.any(|reward| Some(reward) != first)
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut n) = (0f64, 0u64);
    for value in values {
        sum += value;
        n += 1;
    }
    sum / n.max(1) as f64
}

impl Collector {
    fn seed(&self) -> Seed {
        Seed(self.config.seed)
    }

    /// A right answer, as far as a reward of at most 1 tells.
    fn is_right(grade: &Scored) -> bool {
        grade.total.is_some_and(|reward| reward > 0.5)
    }

    /// Batch `index`, drawn with the weights of `model`.
    pub fn collect(&mut self, index: u64, model: &Decoder) -> Result<Experience> {
        let n = self.config.prompts_per_step;
        let picked = self.prompts.in_order(self.seed(), index, n);
        let mut groups = self.draw(index, 0, &picked, model)?;
        let mut metrics = self.measure(&groups);
        let mut replaced = 0;
        for attempt in 1..=self.settings.max_resamples {
            let empty: Vec<usize> = (0..groups.len()).filter(|&i| !groups[i].has_signal()).collect();
            if empty.is_empty() {
                break;
            }
            let others = self.prompts.others(self.seed(), index, attempt, empty.len());
            replaced += others.len();
            let drawn = self.draw(index, attempt, &others, model)?;
            for (slot, group) in empty.into_iter().zip(drawn).filter(|(_, group)| group.has_signal()) {
                groups[slot] = group;
            }
        }
        if self.settings.max_resamples > 0 {
            let with_signal = groups.iter().filter(|g| g.has_signal()).count();
            metrics.insert("resampled_groups".into(), json!(replaced));
            metrics.insert("trained_groups".into(), json!(with_signal as f64 / groups.len() as f64));
        }
        let advantages = self.advantages(&groups);
        let all = groups.into_iter().flat_map(|group| group.rollouts.into_iter().map(move |rollout| (group.prompt, rollout)));
        let mask = self.config.mask_truncated;
        let answer = |((prompt, rollout), advantage): ((usize, Rollout), f32)| Answer {
            prompt,
            masked: mask && !rollout.ended,
            rollout,
            advantage,
            ..Answer::default()
        };
        let answers = all.zip(advantages).map(answer).collect();
        Ok(Experience { index, answers, metrics })
    }

    /// Draw and grade a group for each prompt.
    fn draw(&mut self, index: u64, attempt: u64, picked: &[usize], model: &Decoder) -> Result<Vec<Group>> {
        let size = self.config.group_size;
        let first = attempt * (self.config.prompts_per_step * size) as u64;
        let ids: Vec<&[u32]> = picked.iter().flat_map(|&p| std::iter::repeat_n(self.prompts.ids[p].as_slice(), size)).collect();
        let rollouts = self.sampler.sample_from(model, index, first, &ids)?;
        let asked: Vec<(usize, &Rollout)> = rollouts.iter().enumerate().map(|(i, rollout)| (picked[i / size], rollout)).collect();
        let mut grades = grade(&self.rewards, &self.tokenizer, &self.prompts, &asked)?.into_iter();
        let mut rollouts = rollouts.into_iter();
        let group = |&prompt: &usize| {
            let rollouts: Vec<Rollout> = rollouts.by_ref().take(size).collect();
            let grades: Vec<Scored> = grades.by_ref().take(size).collect();
            let shaping = self.shaping(&rollouts, &grades);
            Group { prompt, rollouts, grades, shaping }
        };
        Ok(picked.iter().map(group).collect())
    }

    /// What the lengths of a group's answers add to their rewards.
    fn shaping(&self, rollouts: &[Rollout], grades: &[Scored]) -> Vec<f32> {
        let GrpoConfig { max_tokens, length_penalty, max_thinking_tokens, .. } = self.config;
        let mut shaping = vec![0f32; rollouts.len()];
        if self.settings.overlong_buffer > 0 {
            // An answer that was cut off is longer than it looks.
            let length = |r: &Rollout| r.tokens.len() + usize::from(!r.ended);
            let buffer = self.settings.overlong_buffer;
            shaping.iter_mut().zip(rollouts).for_each(|(s, r)| *s += soft_overlong(length(r), max_tokens, buffer));
        }
        if length_penalty > 0.0 {
            let lengths: Vec<usize> = rollouts.iter().map(|r| r.tokens.len()).collect();
            let right: Vec<bool> = grades.iter().map(Self::is_right).collect();
            shaping.iter_mut().zip(length_rewards(&lengths, &right)).for_each(|(s, reward)| *s += length_penalty * reward);
        }
        if max_thinking_tokens > 0 {
            let thinking = |r: &Rollout| excess(self.thinking.tokens(&r.prompt, &r.tokens), max_thinking_tokens);
            shaping.iter_mut().zip(rollouts).for_each(|(s, r)| *s -= thinking(r));
        }
        shaping
    }

    /// Every answer's advantage, group after group.
    fn advantages(&self, groups: &[Group]) -> Vec<f32> {
        let size = self.config.group_size;
        let graded = groups.iter().flat_map(|g| g.grades.iter().zip(&g.shaping));
        match self.config.combine {
            Combine::SumThenNormalize => {
                let rewards: Vec<Option<f32>> = graded.map(|(grade, shaping)| Some(grade.total? + shaping)).collect();
                group(&rewards, size, self.settings.baseline, self.settings.scale_rewards)
            }
            Combine::NormalizeThenSum => {
                // What the lengths add is one more reward.
                let with = |(grade, shaping): (&Scored, &f32)| grade.parts.iter().copied().chain([grade.total.map(|_| *shaping)]).collect();
                let parts: Vec<Vec<Option<f32>>> = graded.map(with).collect();
                let weights: Vec<f32> = self.config.rewards.iter().map(RewardSpec::weight).chain([1.0]).collect();
                normalize_then_sum(&parts, &weights, size)
            }
        }
    }

    /// What to log of answers.
    fn measure(&self, groups: &[Group]) -> Map<String, Value> {
        let answers = || groups.iter().flat_map(|g| g.rollouts.iter().zip(&g.grades));
        let scored = || answers().filter_map(|(_, grade)| grade.total);
        let share = |yes: bool| f64::from(u8::from(yes));
        let mut record = Map::from_iter([
            ("reward".to_string(), json!(mean(scored().map(f64::from)))),
            ("accuracy".to_string(), json!(mean(scored().map(|r| share(r > 0.5))))),
            ("completion_length".to_string(), json!(mean(answers().map(|(r, _)| r.tokens.len() as f64)))),
            ("cut_off".to_string(), json!(mean(answers().map(|(r, _)| share(!r.ended))))),
            ("groups_with_signal".to_string(), json!(mean(groups.iter().map(|g| share(g.has_signal()))))),
            ("repetition".to_string(), json!(mean(answers().map(|(r, _)| repetition(&r.tokens))))),
        ]);
        let names = self.rewards.names();
        if names.len() > 1 {
            for (k, name) in names.iter().enumerate() {
                let part = answers().filter_map(|(_, grade)| grade.parts.get(k).copied().flatten());
                record.insert(format!("reward/{name}"), json!(mean(part.map(f64::from))));
            }
        }
        if self.thinking.known() {
            let tokens = |r: &Rollout| self.thinking.tokens(&r.prompt, &r.tokens) as f64;
            record.insert("thinking_length".into(), json!(mean(answers().map(|(r, _)| tokens(r)))));
        }
        let without = |g: &&Group| g.grades.iter().any(|grade| grade.total.is_none());
        let rows: Vec<usize> = groups.iter().filter(without).map(|g| self.prompts.rows[g.prompt].row).collect();
        if !rows.is_empty() {
            let unscored = answers().filter(|(_, grade)| grade.total.is_none()).count();
            record.insert("unscored".into(), json!(unscored));
            record.insert("unscored_rows".into(), json!(rows.iter().take(NAMED_ROWS).collect::<Vec<_>>()));
        }
        let firsts: Vec<&[u32]> = groups.iter().filter_map(|g| Some(g.rollouts.first()?.tokens.as_slice())).collect();
        record.insert("distinct".into(), json!(distinct(&firsts)));
        if let Some(hollow) = format_only(&names, groups.iter().flat_map(|g| &g.grades).map(|grade| grade.parts.as_slice())) {
            record.insert("format_only".into(), json!(hollow));
        }
        record
    }
}

/// The signs that the watch-dog reads, from the record of a step. `steps` are those taken, this one included.
pub fn signals(record: &Map<String, Value>, steps: u64, heldout: Option<f64>) -> (Signals, Answers) {
    let number = |key: &str| record.get(key).and_then(Value::as_f64);
    let or_zero = |key: &str| number(key).unwrap_or(0.0);
    let signals = Signals {
        step: steps,
        reward: or_zero("reward"),
        kl: number("kl_per_answer"),
        entropy: number("entropy"),
        length: or_zero("completion_length"),
        truncated: or_zero("cut_off"),
        repetition: or_zero("repetition"),
        groups_with_signal: number("groups_with_signal"),
        heldout,
    };
    (signals, Answers { distinct: number("distinct"), format_only: number("format_only") })
}
