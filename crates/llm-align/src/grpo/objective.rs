//! The objective: which rollouts an optimiser step learns from, and its loss.
//!
//! Step `n` is update `n mod U` of batch `n / U` of rollouts, with U = `updates_per_rollout * minibatches`. The rollouts of a batch are drawn at
//! its first update; at the others they are there, or come from the checkpoint ([`super::experience`]).
//!
//! With U = 1 the weights that learn are those that drew, the ratio is exactly one, and the loss is `-advantage * log p`. With more, the ratio
//! compares with log-probabilities that the training forward gave before the first update; at the first update itself it is one by
//! construction, as the old log-probabilities are then the new ones.
//!
//! Legend: M trained tokens.

use super::collect::{Collector, signals};
use super::config::{GrpoConfig, Surrogate};
use super::experience::{Answer, Experience};
use super::forward::{Part, Parts, entropy};
use super::heldout::Heldout;
use crate::losses::kl::KlEstimator;
use crate::losses::policy::{ImportanceLevel, LossType, Owners, UpdateSize, cispo, clip_counts, clipped, constant, log_ratios, sapo};
use crate::rollouts::token_log_probs;
use crate::watchdog::{General, Watchdog, general};
use llm_arch::Decoder;
use llm_run::Seed;
use llm_run::seed::permuted;
use llm_tensor::burn::tensor::Tensor;
use llm_tensor::host;
use llm_train::recompute::{self, Forward};
use llm_train::sequences::{Sequence, Sequences, groups};
use llm_train::{Error, Loss, Objective, Result};
use serde_json::{Map, Value, json};

/// The objective.
#[derive(Debug)]
pub struct Grpo {
    pub(super) collector: Collector,
    /// The starting model, if anything asks for it.
    pub(super) reference: Option<Decoder>,
    pub(super) heldout: Option<Heldout>,
    pub(super) watchdog: Watchdog,
    /// Text that must not be forgotten.
    pub(super) general: Option<General>,
    state: State,
    parts: Parts,
    /// The record of the last step.
    last: Map<String, Value>,
}

/// What changes from step to step.
#[derive(Debug, Default)]
struct State {
    experience: Option<Experience>,
    /// The checkpoint's rollouts cannot be read.
    damaged: bool,
    /// Number of the next step.
    next: u64,
    /// New rollouts, which the watch-dog has not seen.
    unseen: bool,
    /// The held-out reward that the watch-dog has not seen.
    heldout: Option<f64>,
}

/// Where the ratio of a micro-batch comes from.
#[derive(Debug)]
enum Old {
    /// The weights that drew the answers learn from them once.
    Same,
    /// They learn several times; this is the first.
    First,
    /// `[M]` log-probabilities before the first update.
    LogProbs(Vec<f32>),
}

/// One micro-batch of answers.
#[derive(Debug)]
pub struct GrpoBatch {
    /// Place in the step.
    number: usize,
    sequences: Sequences,
    /// `[M]` advantage of the token's answer.
    advantages: Vec<f32>,
    /// `[M]` weight of the token in the step's mean.
    weights: Vec<f32>,
    old: Old,
    /// `[M]` log-probabilities under the starting model, where they are known already.
    reference: Option<Vec<f32>>,
}

impl Grpo {
    pub(super) fn new(collector: Collector, reference: Option<Decoder>, heldout: Option<Heldout>, general: Option<General>) -> Self {
        let watchdog = Watchdog::new(collector.config.watchdog.clone());
        Self { collector, reference, heldout, watchdog, general, state: State::default(), parts: Parts::default(), last: Map::new() }
    }

    fn config(&self) -> &GrpoConfig {
        &self.collector.config
    }

    /// Does the loss depend on this answer? One whose group agrees has no advantage; without a KL penalty it has no gradient at all. A mean over
    /// each micro-batch counts it all the same.
    fn trains(&self, answer: &Answer) -> bool {
        let counts = self.config().kl_beta > 0.0 || self.collector.settings.loss_type == LossType::Bnpo;
        !answer.masked && (counts || answer.advantage != 0.0)
    }

    /// Log-probabilities before the first update, of the answers that will be trained on.
    fn remember(&self, experience: &mut Experience, model: &Decoder) {
        let model = model.untracked();
        let kept: Vec<usize> = (0..experience.answers.len()).filter(|&i| self.trains(&experience.answers[i])).collect();
        let sequences: Vec<Sequence> = kept.iter().map(|&i| experience.answers[i].rollout.sequence()).collect();
        let mut at = 0;
        for group in groups(&sequences, self.config().micro_batch_tokens) {
            let owners = &kept[at..at + group.len()];
            at += group.len();
            let packed = Sequences::pack(group);
            let old = host::to_vec(token_log_probs(&model, &packed));
            let reference = self.reference.as_ref().map(|reference| host::to_vec(token_log_probs(reference, &packed)));
            for (i, &owner) in packed.owner.iter().enumerate() {
                let answer = &mut experience.answers[owners[owner]];
                answer.old.push(old[i]);
                answer.reference.extend(reference.as_ref().map(|r| r[i]));
            }
        }
    }

    /// The answers of an update: all of them, or a part of a new permutation in every pass.
    fn part(&self, experience: &Experience, update: u64) -> Vec<usize> {
        let (n, parts) = (experience.answers.len() as u64, self.config().minibatches);
        let (pass, part) = (update / parts, update % parts);
        if parts == 1 {
            return (0..n as usize).collect();
        }
        let order = Seed(self.config().seed).stream("minibatches").at(experience.index).at(pass);
        (n * part / parts..n * (part + 1) / parts).map(|i| permuted(order, i, n) as usize).collect()
    }

    /// The micro-batches of an update.
    fn micro_batches(&self, experience: &Experience, update: u64) -> Vec<GrpoBatch> {
        let loss_type = self.collector.settings.loss_type;
        let chosen = self.part(experience, update);
        let length = |i: usize| experience.answers[i].rollout.tokens.len();
        let counted = chosen.iter().filter(|&&i| !experience.answers[i].masked);
        let step = UpdateSize { answers: chosen.len(), tokens: counted.map(|&i| length(i)).sum(), max_tokens: self.config().max_tokens };
        let kept: Vec<usize> = chosen.into_iter().filter(|&i| self.trains(&experience.answers[i])).collect();
        let sequences: Vec<Sequence> = kept.iter().map(|&i| experience.answers[i].rollout.sequence()).collect();
        let packs = groups(&sequences, self.config().micro_batch_tokens);
        let count = packs.len();
        let mut at = 0;
        let batch = |(number, group): (usize, &[Sequence])| {
            let owners = &kept[at..at + group.len()];
            at += group.len();
            let sequences = Sequences::pack(group);
            let weight = |i: usize| match loss_type {
                LossType::Bnpo => loss_type.weight(length(i), UpdateSize { tokens: sequences.trained(), ..step }) / count as f32,
                _ => loss_type.weight(length(i), step),
            };
            let weights: Vec<f32> = sequences.owner.iter().map(|&o| weight(owners[o])).collect();
            let advantages = sequences.owner.iter().map(|&o| experience.answers[owners[o]].advantage).collect();
            // Tokens are packed answer after answer.
            let known =
                |of: fn(&Answer) -> &Vec<f32>| -> Vec<f32> { owners.iter().flat_map(|&i| of(&experience.answers[i]).iter().copied()).collect() };
            let old = match (self.config().updates(), update) {
                (1, _) => Old::Same,
                (_, 0) => Old::First,
                _ => Old::LogProbs(known(|answer| &answer.old)),
            };
            let reference: Option<Vec<f32>> = (self.config().updates() > 1 && self.reference.is_some()).then(|| known(|answer| &answer.reference));
            GrpoBatch { number, sequences, advantages, weights, old, reference }
        };
        packs.into_iter().enumerate().map(batch).collect()
    }

    /// The loss of the tokens without KL, weighted and summed; what it says of the ratios goes into `part`.
    fn policy_loss(&self, log_p_M: &Tensor<1>, batch: &GrpoBatch, part: &mut Part) -> Tensor<1> {
        let settings = &self.collector.settings;
        let device = log_p_M.device();
        let constant = |values: Vec<f32>| {
            let n = values.len();
            constant(values, [n], &device)
        };
        let owners = &batch.sequences.owner;
        let old_M = match &batch.old {
            Old::Same => {
                // The gradient of any ratio at one. Every token of an answer carries the loss of the whole of it where the ratio does.
                let lengths = if settings.level == ImportanceLevel::SequenceProduct { lengths_of(owners) } else { Vec::new() };
                let weighted = |(i, (w, a)): (usize, (&f32, &f32))| w * a * lengths.get(i).copied().unwrap_or(1.0);
                let weighted = batch.weights.iter().zip(&batch.advantages).enumerate().map(weighted).collect();
                return (log_p_M.clone() * constant(weighted)).sum().neg();
            }
            Old::First => Tensor::from_inner(log_p_M.clone().inner()),
            Old::LogProbs(values) => constant(values.clone()),
        };
        let advantages_M = constant(batch.advantages.clone());
        // The answers come from the old weights, so this estimates the divergence from them to the new ones.
        let token_M = log_p_M.clone().inner() - old_M.clone().inner();
        part.moved = Some(KlEstimator::K3.estimate(token_M.zeros_like(), token_M).sum());
        let ratios_M = log_ratios(log_p_M.clone(), old_M, settings.level, &Owners::new(owners));
        let losses_M = match settings.surrogate {
            Surrogate::Clip => {
                part.clipped = Some(clip_counts(ratios_M.clone(), advantages_M.clone(), &settings.range));
                clipped(ratios_M, advantages_M, &settings.range)
            }
            Surrogate::Cispo => cispo(log_p_M.clone(), ratios_M, advantages_M, settings.range.high),
            Surrogate::Sapo => {
                let GrpoConfig { sapo_temperature_pos, sapo_temperature_neg, .. } = *self.config();
                sapo(ratios_M, advantages_M, sapo_temperature_pos, sapo_temperature_neg)
            }
        };
        (losses_M * constant(batch.weights.clone())).sum()
    }
}

/// `[M]` length of each token's answer.
fn lengths_of(owner: &[usize]) -> Vec<f32> {
    let owners = Owners::new(owner);
    owners.lengths().iter().flat_map(|&n| std::iter::repeat_n(n as f32, n)).collect()
}

impl Objective for Grpo {
    type Model = Decoder;
    type Batch = GrpoBatch;

    fn batches(&mut self, step: u64, model: &Decoder) -> Result<Vec<GrpoBatch>> {
        if self.state.damaged {
            let advice = "delete the newest checkpoint to go on from the one before";
            return Err(Error::Objective(format!("the rollouts in the checkpoint of step {step} cannot be read; {advice}")));
        }
        let updates = self.config().updates();
        let (index, update) = (step / updates, step % updates);
        let experience = match self.state.experience.take() {
            Some(experience) if experience.index == index => experience,
            _ => {
                let mut experience = self.collector.collect(index, model)?;
                if updates > 1 {
                    self.remember(&mut experience, model);
                }
                self.state.unseen = true;
                experience
            }
        };
        self.parts.clear();
        let batches = self.micro_batches(&experience, update);
        self.state.experience = Some(experience);
        self.state.next = step + 1;
        Ok(batches)
    }

    fn loss(&self, model: &Decoder, batch: &GrpoBatch) -> Result<Loss> {
        let sequences = &batch.sequences;
        let Forward { hidden_ND, deferred, .. } = recompute::forward(model, &sequences.batch, None, self.config().recompute);
        let log_p_M = sequences.nll_of(model, hidden_ND.clone()).neg();
        let mut part = Part { tokens: sequences.trained(), ..Part::default() };
        part.answers = Owners::new(&sequences.owner).lengths().len();
        part.entropy = entropy(model, hidden_ND, sequences);
        let mut value = self.policy_loss(&log_p_M, batch, &mut part);
        if let Some(reference) = &self.reference {
            let n = sequences.trained();
            let device = log_p_M.device();
            let known = batch.reference.clone().unwrap_or_else(|| host::to_vec(token_log_probs(reference, sequences)));
            let reference_M = constant(known, [n], &device);
            let k3_M = KlEstimator::K3.estimate(log_p_M, reference_M);
            part.kl = Some(k3_M.clone().inner().sum());
            if self.config().kl_beta > 0.0 {
                value = value + (k3_M * constant(batch.weights.clone(), [n], &device)).sum().mul_scalar(self.config().kl_beta);
            }
        }
        self.parts.add(batch.number, part);
        Ok(Loss { value, tokens: sequences.batch.ids.len() as u64, deferred })
    }

    fn settings(&self) -> Value {
        json!(self.config())
    }

    fn metrics(&mut self) -> Map<String, Value> {
        let mut record = self.state.experience.as_ref().map(|experience| experience.metrics.clone()).unwrap_or_default();
        record.extend(self.parts.take());
        if std::mem::take(&mut self.state.unseen) {
            let (signals, answers) = signals(&record, self.state.next, self.state.heldout.take());
            self.watchdog.answers(answers);
            self.watchdog.observe(signals);
        }
        record.extend(self.watchdog.take_record());
        self.last = record.clone();
        record
    }

    fn halt(&self) -> Option<String> {
        self.watchdog.stopped()
    }

    fn validate(&mut self, model: &Decoder) -> Result<Map<String, Value>> {
        let mut record = Map::new();
        if let Some(heldout) = &mut self.heldout {
            record = heldout.validate(&mut self.collector, model, self.state.next)?;
            self.state.heldout = record.get("val_reward").and_then(Value::as_f64);
        }
        if let Some(general) = &self.general {
            let loss = general.loss(model);
            record.insert(general::KEY.into(), json!(loss));
            self.watchdog.general_loss(self.state.next, loss);
        }
        record.extend(self.watchdog.take_record());
        Ok(record)
    }

    fn describe(&self, _: f32) -> String {
        let number = |key: &str| self.last.get(key).and_then(Value::as_f64).unwrap_or(0.0);
        format!("reward {:.3} length {:.1}", number("reward"), number("completion_length"))
    }

    fn documents(&self, step: u64) -> Vec<String> {
        let index = step / self.config().updates();
        let picked = self.collector.prompts.in_order(Seed(self.config().seed), index, self.config().prompts_per_step);
        picked.into_iter().map(|i| self.collector.prompts.rows[i].id.clone()).collect()
    }

    fn save(&self) -> Map<String, Value> {
        let mut state = Map::from_iter([("watchdog".to_string(), Value::Object(self.watchdog.save())), ("next".to_string(), json!(self.state.next))]);
        state.extend(self.state.heldout.map(|reward| ("heldout".to_string(), json!(reward))));
        // Only while updates of it are left.
        let updates = self.config().updates();
        let unfinished = |experience: &&Experience| experience.index == self.state.next / updates && !self.state.next.is_multiple_of(updates);
        if let Some(experience) = self.state.experience.as_ref().filter(unfinished) {
            state.insert("rollouts".into(), experience.save());
        }
        state
    }

    fn restore(&mut self, state: &Map<String, Value>) {
        if let Some(Value::Object(memory)) = state.get("watchdog") {
            self.watchdog.restore(memory);
        }
        let rollouts = state.get("rollouts");
        let experience = rollouts.and_then(|value| Experience::restore(value, &self.collector.prompts.ids));
        self.state = State {
            damaged: rollouts.is_some() && experience.is_none(),
            experience,
            next: state.get("next").and_then(Value::as_u64).unwrap_or(0),
            unseen: false,
            heldout: state.get("heldout").and_then(Value::as_f64),
        };
    }
}
