//! The updates. Every one is a step of the trainer: batch of rollouts `step / (epochs * mini-batches)`, and within it the mini-batches of an
//! epoch in an order that is a function of (seed, batch, epoch). The first step of a batch draws it; a checkpoint in between keeps it
//! ([`experience`](super::experience)), so that a killed run continues to the bit.
//!
//! Legend: M answer tokens, D hidden.

use super::PpoConfig;
use super::actor_critic::ActorCritic;
use super::controller::Controller;
use super::experience::Experience;
use super::scores::{Judges, mean};
use crate::grpo::prompts::Prompts;
use crate::losses::policy::{ClipRange, clip_counts, clipped, constant};
use crate::losses::value::{ValueLoss, clipped_value};
use crate::rollouts::{Rollout, Sampler, SamplingConfig};
use crate::watchdog::{General, Samples, Watchdog, general};
use llm_arch::Decoder;
use llm_run::Seed;
use llm_run::seed::permuted;
use llm_tensor::burn::tensor::{DType, Tensor};
use llm_tensor::{host, ops};
use llm_tokenizer::Tokenizer;
use llm_train::recompute::{self, Forward};
use llm_train::sequences::{Sequence, Sequences, groups};
use llm_train::{Error, Loss, Objective, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Prompts whose answers are shown with every validation.
const SHOWN: usize = 4;

/// The objective.
#[derive(Debug)]
pub struct Ppo {
    pub(super) config: PpoConfig,
    pub(super) tokenizer: Tokenizer,
    pub(super) prompts: Prompts,
    pub(super) heldout: Option<Prompts>,
    pub(super) sampler: Sampler,
    pub(super) judges: Judges,
    pub(super) reference: Decoder,
    pub(super) controller: Controller,
    pub(super) watchdog: Watchdog,
    pub(super) general: Option<General>,
    pub(super) samples: Samples,
    /// The batch of rollouts that is being used.
    pub(super) experience: Option<Experience>,
    /// Numbers of a batch that no record has had yet.
    pub(super) of_batch: Map<String, Value>,
    /// Reward and KL of the newest batch, for the progress line.
    pub(super) latest: (f64, f64),
    /// Number of the newest batch.
    pub(super) drawn: u64,
    /// Updates begun.
    pub(super) taken: u64,
    /// The checkpoint's batch could not be read.
    pub(super) damaged: bool,
    /// Sums over the micro-batches of an update, by number ([`SUMS`]).
    pub(super) seen: Mutex<BTreeMap<usize, Tensor<1>>>,
    /// Answer tokens of the update.
    pub(super) tokens: usize,
}

/// One micro-batch of an update. Lists have one number per answer token.
#[derive(Debug)]
pub struct PpoBatch {
    number: usize,
    sequences: Sequences,
    log_p: Vec<f32>,
    values: Vec<f32>,
    advantages: Vec<f32>,
    returns: Vec<f32>,
    /// Answer tokens of the whole update.
    tokens: usize,
}

/// What is summed over the tokens of an update, under TRL's names for the means.
const SUMS: [&str; 6] = ["loss/policy_avg", "loss/value_avg", "policy/clipfrac_avg", "val/clipfrac_avg", "policy/approxkl_avg", "val/ratio"];

fn plain(x: Tensor<1>) -> Tensor<1> {
    if x.device().is_autodiff() { x.inner() } else { x }
}

impl Objective for Ppo {
    type Model = ActorCritic;
    type Batch = PpoBatch;

    fn batches(&mut self, step: u64, model: &ActorCritic) -> Result<Vec<PpoBatch>> {
        self.seen.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        let (number, update) = (step / self.config.updates(), step % self.config.updates());
        if std::mem::take(&mut self.damaged) {
            let message = "the rollouts in the checkpoint are damaged; delete it to continue from the one before".to_string();
            return Err(Error::Objective(message));
        }
        if self.experience.as_ref().is_none_or(|e| e.number != number) {
            self.drawn = number;
            self.experience = Some(self.explore(number, step, model)?);
        }
        self.taken = step + 1;
        let answers = self.experience.as_ref().map_or(&[][..], |e| e.answers.as_slice());
        let (n, parts) = (answers.len(), self.config.num_mini_batches);
        let (epoch, part) = (update / parts as u64, (update % parts as u64) as usize);
        let order = Seed(self.config.seed).stream("mini-batches").at(number).at(epoch);
        // Answers that could not be scored are missing, so the parts may differ in size; none is empty.
        let from = part * n / parts;
        let to = ((part + 1) * n / parts).max(from + 1).min(n);
        let picked: Vec<usize> = (from..to).map(|i| permuted(order, i as u64, n as u64) as usize).collect();
        let sequences: Vec<Sequence> = picked.iter().map(|&i| answers[i].sequence.clone()).collect();
        let tokens = picked.iter().map(|&i| answers[i].log_p.len()).sum();
        self.tokens = tokens;
        let mut at = 0;
        let batch = |(number, group): (usize, &[Sequence])| {
            let own = &picked[at..at + group.len()];
            at += group.len();
            let all = |of: &dyn Fn(usize) -> Vec<f32>| own.iter().flat_map(|&i| of(i)).collect::<Vec<f32>>();
            PpoBatch {
                number,
                sequences: Sequences::pack(group),
                log_p: all(&|i| answers[i].log_p.clone()),
                values: all(&|i| answers[i].values.clone()),
                advantages: all(&|i| answers[i].advantages.clone()),
                returns: all(&|i| answers[i].returns.clone()),
                tokens,
            }
        };
        Ok(groups(&sequences, self.config.micro_batch_tokens).into_iter().enumerate().map(batch).collect())
    }

    fn loss(&self, model: &ActorCritic, batch: &PpoBatch) -> Result<Loss> {
        let sequences = &batch.sequences;
        let Forward { hidden_ND, deferred, .. } = recompute::forward(&model.policy, &sequences.batch, None, self.config.recompute);
        let hidden_MD = ops::embedding(hidden_ND, sequences.rows.clone());
        let values_M = model.values(sequences, hidden_MD.clone());
        let log_p_M = model.policy.nll(hidden_MD, sequences.targets.clone()).neg().cast(DType::F32);
        let (m, device) = (sequences.trained(), log_p_M.device());
        let fixed = |values: &[f32]| constant(values.to_vec(), [m], &device);
        let (log_ratio_M, advantages_M) = (log_p_M - fixed(&batch.log_p), fixed(&batch.advantages));
        let range = ClipRange::symmetric(self.config.cliprange);
        let policy = clipped(log_ratio_M.clone(), advantages_M.clone(), &range).sum();
        let ValueLoss { loss_M, clipped_M } = clipped_value(values_M, fixed(&batch.values), fixed(&batch.returns), self.config.cliprange_value);
        let value = loss_M.sum();
        let (below, above) = clip_counts(log_ratio_M.clone(), advantages_M, &range);
        let log_ratio_M = log_ratio_M.inner();
        let sums = vec![
            policy.clone().inner(),
            value.clone().inner(),
            below + above,
            plain(clipped_M.sum()),
            log_ratio_M.clone().square().sum().mul_scalar(0.5),
            log_ratio_M.exp().sum(),
        ];
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(batch.number, Tensor::cat(sums, 0));
        let loss = (policy + value.mul_scalar(self.config.vf_coef)).div_scalar(batch.tokens.max(1) as f32);
        Ok(Loss { value: loss, tokens: sequences.batch.ids.len() as u64, deferred })
    }

    fn metrics(&mut self) -> Map<String, Value> {
        let seen = std::mem::take(self.seen.get_mut().unwrap_or_else(PoisonError::into_inner));
        let mut sums = [0f64; SUMS.len()];
        for of_batch in seen.into_values().map(host::to_vec) {
            sums.iter_mut().zip(of_batch).for_each(|(sum, x)| *sum += f64::from(x));
        }
        let mut metrics: Map<String, Value> =
            SUMS.iter().zip(sums).map(|(name, sum)| (name.to_string(), json!(sum / self.tokens.max(1) as f64))).collect();
        metrics.extend(std::mem::take(&mut self.of_batch));
        metrics.extend(self.watchdog.take_record());
        metrics
    }

    fn describe(&self, _: f32) -> String {
        format!("reward {:.3} kl {:.2} kl_coef {:.3}", self.latest.0, self.latest.1, self.controller.coefficient())
    }

    fn settings(&self) -> Value {
        json!(self.config)
    }

    fn validate(&mut self, model: &ActorCritic) -> Result<Map<String, Value>> {
        let mut record = Map::new();
        if let Some(general) = &self.general {
            let loss = general.loss(&model.policy);
            record.insert(general::KEY.into(), json!(loss));
            self.watchdog.general_loss(self.taken, loss);
        }
        let (prompts, file, most) = match &self.heldout {
            Some(heldout) => (heldout, &self.config.heldout, self.config.heldout_prompts),
            None => (&self.prompts, &self.config.train, SHOWN),
        };
        let asked: Vec<&[u32]> = prompts.ids.iter().take(most).map(Vec::as_slice).collect();
        let likeliest = SamplingConfig { temperature: 0.0, ..self.config.sampling };
        let rollouts = self.sampler.answer(&model.policy, &likeliest, Seed(self.config.seed).stream("heldout"), &asked)?;
        let answers: Vec<(usize, &Rollout)> = rollouts.iter().enumerate().collect();
        let scores = self.judges.score(file, prompts, &answers, &self.tokenizer)?;
        for ((i, rollout), score) in answers.iter().zip(&scores.scores).take(SHOWN) {
            let text = self.tokenizer.decode(rollout.answer(), false);
            self.samples.record(self.taken, prompts.rows[*i].text(), &text, score.map(f64::from))?;
        }
        if self.heldout.is_some() {
            let over = |of: &dyn Fn(&Rollout) -> usize| mean(rollouts.iter().map(|r| of(r) as f64));
            let numbers = [
                ("val_reward", mean(scores.scores.iter().flatten().map(|&s| f64::from(s)))),
                ("val_judge", scores.judge),
                ("val_length", over(&|r| r.tokens.len())),
                ("val_cut_off", over(&|r| usize::from(!r.ended))),
            ];
            record.extend(numbers.into_iter().filter_map(|(key, number)| Some((key.to_string(), json!(number?)))));
        }
        record.insert("samples".into(), self.samples.newest());
        record.extend(self.watchdog.take_record());
        Ok(record)
    }

    fn halt(&self) -> Option<String> {
        self.watchdog.stopped()
    }

    fn save(&self) -> Map<String, Value> {
        let mut state = Map::from_iter([
            ("taken".to_string(), json!(self.taken)),
            // As a number with a point it could lose its last bit.
            ("kl_coef_bits".to_string(), json!(self.controller.coefficient().to_bits())),
            ("watchdog".to_string(), Value::Object(self.watchdog.save())),
        ]);
        if !self.taken.is_multiple_of(self.config.updates()) {
            state.extend(self.experience.as_ref().map(|experience| ("experience".to_string(), experience.save())));
        }
        state
    }

    fn restore(&mut self, state: &Map<String, Value>) {
        self.taken = state.get("taken").and_then(Value::as_u64).unwrap_or(0);
        if let Some(bits) = state.get("kl_coef_bits").and_then(Value::as_u64) {
            self.controller = self.controller.with_coefficient(f64::from_bits(bits));
        }
        if let Some(Value::Object(watchdog)) = state.get("watchdog") {
            self.watchdog.restore(watchdog);
        }
        self.of_batch.clear();
        self.experience = state.get("experience").and_then(Value::as_object).and_then(Experience::restore);
        self.damaged = state.contains_key("experience") && self.experience.is_none();
        self.drawn = self.experience.as_ref().map_or(0, |e| e.number);
    }
}
