//! `llm-align pairs`: preference pairs from a model's own answers.
//!
//! For every prompt some answers are sampled, each is scored by rewards (`llm-verify`: a verifier, a rule, a program of the user's), and the
//! best stands against the worst. So the pairs are on-policy (Guo et al. 2024, "Direct language model alignment from online AI feedback",
//! find that this matters more than the loss), and with a rule the preference is known exactly, which is how the alignment methods are tested.
//!
//! `OUT/train.jsonl` and `OUT/heldout.jsonl` hold `{id, prompt, chosen, rejected, score_chosen, score_rejected, margin}` with prompt and answers as
//! messages: TRL's explicit-prompt format with the scores of UltraFeedback. Prompts, not pairs, are split, so no prompt is in both.
//!
//! Answers that were cut off or are empty are no candidates: the template would end them, and the model did not. A killed run goes on behind
//! its last whole batch of prompts, kept in `OUT/parts`.

use crate::data::{self, Encoder, OnBadRow, Pair, Prompt};
use crate::grpo::prompts::{Prompts, grade};
use crate::model;
use crate::rollouts::{Rollout, Sampler, SamplingConfig};
use crate::sft::require;
use crate::{Error, Result};
use llm_arch::Decoder;
use llm_run::{Progress, Seed, atomic, program};
use llm_tensor::DeviceSpec;
use llm_tokenizer::{Message, Tokenizer};
use llm_verify::{RewardSpec, Rewards, Scored};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// `llm-align pairs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PairsConfig {
    /// Model folder to sample from.
    pub model: PathBuf,
    /// Prompts: every format of [`crate::data`].
    pub prompts: PathBuf,
    /// Only the first prompts; 0 is all.
    pub max_prompts: usize,
    /// Answers per prompt.
    pub answers_per_prompt: usize,
    /// How they are drawn.
    pub sampling: SamplingConfig,
    /// What judges them; the score is the weighted sum.
    pub rewards: Vec<RewardSpec>,
    /// Least difference of the scores of best and worst; equal ones are never a pair.
    pub min_margin: f32,
    /// Share of the prompts whose pairs go to `heldout.jsonl`.
    pub heldout: f64,
    /// Prompts sampled together, and saved together.
    pub prompts_per_step: usize,
    /// What to do with rows that cannot be used.
    pub on_bad_row: OnBadRow,
    /// Seed of sampling and split.
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceSpec,
}

impl Default for PairsConfig {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            prompts: PathBuf::new(),
            max_prompts: 0,
            answers_per_prompt: 8,
            sampling: SamplingConfig::default(),
            rewards: RewardSpec::default_list(),
            min_margin: 0.0,
            heldout: 0.1,
            prompts_per_step: 32,
            on_bad_row: OnBadRow::Error,
            seed: 0,
            device: DeviceSpec::Auto,
        }
    }
}

/// What became of prompts and answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Prompts that were answered.
    pub prompts: usize,
    /// Rows with a prompt that an earlier row had.
    pub duplicates: usize,
    /// Rows that could not be used.
    pub skipped: usize,
    /// Answers.
    pub answers: usize,
    /// Answers without an end.
    pub cut_off: usize,
    /// Answers without text.
    pub empty: usize,
    /// Answers that a prompt got before.
    pub repeated: usize,
    /// Answers that the rewards could not judge.
    pub unscored: usize,
    /// Sum of the scores of the others.
    pub score: f64,
    /// Prompts whose answers differ too little.
    pub too_close: usize,
    /// Pairs that the chat template cannot tell apart or that do not fit the context.
    pub unusable: usize,
    /// Pairs.
    pub pairs: usize,
    /// Those of them that are held out.
    pub heldout: usize,
    /// Sum of the scores of chosen answers.
    pub chosen: f64,
    /// Sum of the scores of rejected answers.
    pub rejected: f64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        let Self { prompts, answers, cut_off, empty, repeated, unscored, too_close, unusable, pairs, heldout, .. } = other;
        self.prompts += prompts;
        self.answers += answers;
        self.cut_off += cut_off;
        self.empty += empty;
        self.repeated += repeated;
        self.unscored += unscored;
        self.too_close += too_close;
        self.unusable += unusable;
        self.pairs += pairs;
        self.heldout += heldout;
        self.score += other.score;
        self.chosen += other.chosen;
        self.rejected += other.rejected;
    }

    /// Mean score of all answers that were judged: the rate of a rule.
    pub fn mean_score(&self) -> f64 {
        self.score / (self.answers - self.unscored).max(1) as f64
    }
}

/// One pair, as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Made {
    id: String,
    prompt: Vec<Message>,
    chosen: Vec<Message>,
    rejected: Vec<Message>,
    score_chosen: f32,
    score_rejected: f32,
    margin: f32,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    heldout: bool,
}

/// A batch of prompts, done.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Part {
    counts: Counts,
    pairs: Vec<Made>,
}

/// An answer as a message: a thought in front of it is its reasoning.
pub fn answer(text: &str) -> Message {
    match text.strip_prefix("<think>").and_then(|rest| rest.split_once("</think>")) {
        Some((thought, said)) => Message::new("assistant", said).with_reasoning(thought),
        None => Message::new("assistant", text),
    }
}

/// Places of the best and the worst score, the first of equal ones; none if they differ by less than `min_margin`, or not at all.
fn best_and_worst(scores: &[f32], min_margin: f32) -> Option<(usize, usize)> {
    let first = |better: fn(f32, f32) -> bool| (0..scores.len()).reduce(|best, i| if better(scores[i], scores[best]) { i } else { best });
    let (best, worst) = (first(|a, b| a > b)?, first(|a, b| a < b)?);
    let margin = scores[best] - scores[worst];
    (margin > 0.0 && margin >= min_margin).then_some((best, worst))
}

/// Places of what was not there before.
fn first_of_each(ids: &[Vec<u32>]) -> Vec<usize> {
    let mut seen = HashSet::new();
    let new: Vec<usize> = (0..ids.len()).filter(|&number| seen.insert(&ids[number])).collect();
    new
}

/// A value as one line of JSON; numbers stay as short as they are.
fn line<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map(|text| text + "\n").map_err(|e| Error::Objective(format!("a pair cannot be written as JSON: {e}")))
}

struct Maker<'a> {
    config: &'a PairsConfig,
    tokenizer: &'a Tokenizer,
    encoder: Encoder<'a>,
    prompts: Prompts,
    rewards: Rewards,
}

impl Maker<'_> {
    /// The answers of one prompt to at most one pair.
    fn pair(&self, number: usize, prompt: &Prompt, answers: &[Rollout], grades: &[Scored], counts: &mut Counts) -> Option<Made> {
        counts.prompts += 1;
        counts.answers += answers.len();
        let (mut candidates, mut scores, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        for (rollout, grade) in answers.iter().zip(grades) {
            let Some(score) = grade.total else {
                counts.unscored += 1;
                continue;
            };
            counts.score += f64::from(score);
            let message = answer(&self.tokenizer.decode(rollout.answer(), false));
            if !rollout.ended {
                counts.cut_off += 1;
            } else if message.content.trim().is_empty() {
                counts.empty += 1;
            } else if !seen.insert(rollout.answer()) {
                counts.repeated += 1;
            } else {
                candidates.push(message);
                scores.push(score);
            }
        }
        let Some((best, worst)) = best_and_worst(&scores, self.config.min_margin) else {
            counts.too_close += 1;
            return None;
        };
        let (chosen, rejected) = (vec![candidates[best].clone()], vec![candidates[worst].clone()]);
        let pair = Pair { prompt: prompt.messages.clone(), chosen: chosen.clone(), rejected: rejected.clone(), ..Pair::default() };
        if self.encoder.pair(&pair).is_err() {
            counts.unusable += 1;
            return None;
        }
        let heldout = Seed(self.config.seed).stream("held out").at(number as u64).rng().chance(self.config.heldout);
        let (score_chosen, score_rejected) = (scores[best], scores[worst]);
        counts.pairs += 1;
        counts.heldout += usize::from(heldout);
        counts.chosen += f64::from(score_chosen);
        counts.rejected += f64::from(score_rejected);
        let margin = score_chosen - score_rejected;
        Some(Made { id: prompt.id.clone(), prompt: pair.prompt, chosen, rejected, score_chosen, score_rejected, margin, heldout })
    }

    /// Sample and judge the `step`-th batch of prompts: those of these numbers.
    fn part(&self, sampler: &mut Sampler, model: &Decoder, step: usize, numbers: &[usize]) -> Result<Part> {
        let k = self.config.answers_per_prompt;
        let owners: Vec<usize> = numbers.iter().flat_map(|&number| std::iter::repeat_n(number, k)).collect();
        let ids: Vec<&[u32]> = owners.iter().map(|&owner| self.prompts.ids[owner].as_slice()).collect();
        let rollouts = sampler.sample(model, step as u64, &ids)?;
        let answers: Vec<(usize, &Rollout)> = owners.iter().copied().zip(&rollouts).collect();
        let grades = grade(&self.rewards, self.tokenizer, &self.prompts, &answers)?;
        let mut part = Part::default();
        for ((&number, rollouts), grades) in numbers.iter().zip(rollouts.chunks(k)).zip(grades.chunks(k)) {
            part.pairs.extend(self.pair(number, &self.prompts.rows[number], rollouts, grades, &mut part.counts));
        }
        Ok(part)
    }
}

/// Batches that were done before: `OUT/parts/00012.json`, of the same settings and inputs.
struct Parts(PathBuf);

impl Parts {
    fn open(out: &Path, identity: &Value) -> Result<Self> {
        let dir = out.join("parts");
        let settings = dir.join("settings.json");
        let text = identity.to_string();
        if std::fs::read_to_string(&settings).ok().as_deref() != Some(text.as_str()) {
            atomic::remove_dir(&dir)?;
            atomic::write(&settings, &text)?;
        }
        Ok(Self(dir))
    }

    fn path(&self, step: usize) -> PathBuf {
        self.0.join(format!("{step:05}.json"))
    }

    fn read(&self, step: usize) -> Option<Part> {
        serde_json::from_str(&std::fs::read_to_string(self.path(step)).ok()?).ok()
    }

    fn write(&self, step: usize, part: &Part) -> Result<()> {
        Ok(atomic::write(self.path(step), line(part)?)?)
    }
}

fn check(config: &PairsConfig) -> Result<()> {
    require("model", &config.model)?;
    require("prompts", &config.prompts)?;
    if config.answers_per_prompt < 2 || config.prompts_per_step == 0 {
        return Err(Error::Config("answers_per_prompt must be at least 2 and prompts_per_step positive".into()));
    }
    if !(0.0..1.0).contains(&config.heldout) {
        return Err(Error::Config(format!("heldout = {}: expected a share, 0 or more and less than 1", config.heldout)));
    }
    if !(config.min_margin >= 0.0 && config.min_margin.is_finite()) {
        return Err(Error::Config(format!("min_margin = {}: expected 0 or a positive number", config.min_margin)));
    }
    Ok(())
}

/// Make pairs into `out`.
pub fn pairs(config: &PairsConfig, out: &Path) -> Result<Counts> {
    check(config)?;
    program::catch_interrupts();
    let rewards = Rewards::open(&config.rewards).map_err(|e| Error::Config(format!("rewards: {e}")))?;
    let tokenizer = Tokenizer::load(&config.model)?;
    let model = model::open(&config.model, &None, config.seed, &config.device.open()?)?;
    let context = model.config().max_position_embeddings;
    let prompts = Prompts::load(&config.prompts, config.on_bad_row, &tokenizer, config.sampling.max_tokens, context)?;
    data::report(out, &[(config.prompts.as_path(), prompts.skipped.as_slice())])?;
    let mut numbers = first_of_each(&prompts.ids);
    let mut counts = Counts { skipped: prompts.skipped.len(), duplicates: prompts.ids.len() - numbers.len(), ..Counts::default() };
    if config.max_prompts > 0 {
        numbers.truncate(config.max_prompts);
    }
    let identity = json!({"config": config, "model": llm_run::hash::path(&config.model)?, "prompts": llm_run::hash::path(&config.prompts)?});
    let parts = Parts::open(out, &identity)?;
    let mut sampler = Sampler::new(&model, &tokenizer, config.sampling, Seed(config.seed))?;
    let maker = Maker { config, tokenizer: &tokenizer, encoder: Encoder::new(&tokenizer, context), prompts, rewards };
    let mut progress = Progress::new("pairs", numbers.len() as u64, "prompts");
    let (mut train, mut heldout) = (String::new(), String::new());
    for (step, batch) in numbers.chunks(config.prompts_per_step).enumerate() {
        let part = match parts.read(step) {
            Some(part) => part,
            None => {
                if program::interrupted() {
                    program::saved();
                    return Err(Error::Interrupted { step: step as u64 });
                }
                let part = maker.part(&mut sampler, &model, step, batch)?;
                parts.write(step, &part)?;
                part
            }
        };
        counts.add(&part.counts);
        for made in part.pairs {
            let lines = if made.heldout { &mut heldout } else { &mut train };
            *lines += &line(&Made { heldout: false, ..made })?;
        }
        progress.inc(batch.len() as u64);
    }
    progress.finish(format!("{} pairs, mean score {:.3}", counts.pairs, counts.mean_score()));
    if counts.pairs == 0 {
        let Counts { prompts, answers, cut_off, empty, unscored, .. } = counts;
        let message = format!(
            "no pair: of {answers} answers to {prompts} prompts {cut_off} were cut off, {empty} empty, {unscored} not judged, and the others of \
             each prompt differ by less than min_margin = {}; sample more answers, raise sampling.temperature or max_tokens, or lower min_margin",
            config.min_margin
        );
        return Err(Error::Objective(message));
    }
    atomic::write(out.join("train.jsonl"), train)?;
    if config.heldout > 0.0 {
        atomic::write(out.join("heldout.jsonl"), heldout)?;
    }
    atomic::remove_dir(&parts.0)?;
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_best_stands_against_the_first_worst() {
        assert_eq!(best_and_worst(&[0.5, 1.0, 0.0, 1.0, 0.0], 0.0), Some((1, 2)));
        assert_eq!(best_and_worst(&[0.5, 1.0, 0.25], 0.75), Some((1, 2)));
        assert_eq!(best_and_worst(&[0.5, 1.0, 0.25], 0.8), None);
        assert_eq!(best_and_worst(&[1.0, 1.0], 0.0), None);
        assert_eq!(best_and_worst(&[], 0.0), None);
    }

    #[test]
    fn a_prompt_is_answered_once() {
        assert_eq!(first_of_each(&[vec![1], vec![2], vec![1], vec![], vec![2], vec![]]), [0, 1, 3]);
    }

    #[test]
    fn what_is_written_is_a_pair_that_is_read() {
        let messages = |role: &str, text: &str| vec![Message::new(role, text)];
        let made = Made {
            id: "p".into(),
            prompt: messages("user", "Q"),
            chosen: messages("assistant", "A"),
            rejected: messages("assistant", "B"),
            score_chosen: 0.7,
            score_rejected: 0.1,
            margin: 0.6,
            heldout: false,
        };
        let text = line(&made).unwrap();
        assert!(text.contains("\"score_chosen\":0.7,\"score_rejected\":0.1,\"margin\":0.6}\n"), "{text}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train.jsonl");
        atomic::write(&path, text).unwrap();
        let found = data::pairs(&path, OnBadRow::Error).unwrap().rows.remove(0);
        assert_eq!((found.id, found.prompt, found.chosen, found.rejected), (made.id, made.prompt, made.chosen, made.rejected));
        assert_eq!(found.margin, Some(0.6));
    }

    #[test]
    fn a_thought_is_the_answers_reasoning() {
        assert_eq!(answer("<think>so</think>4"), Message::new("assistant", "4").with_reasoning("so"));
        assert_eq!(answer("<think>no end"), Message::new("assistant", "<think>no end"));
        assert_eq!(answer("4"), Message::new("assistant", "4"));
    }
}
