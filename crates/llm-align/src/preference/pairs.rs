//! The objective on pairs: DPO and its variants, and ORPO, SimPO and CPO, which need no reference.
//!
//! A step costs one forward and backward pass of the policy over chosen and rejected answers together, and without cache one forward pass of
//! the reference without gradients. Losses are means over the pairs of a step, likelihoods means over the chosen tokens of a step, whatever
//! the micro-batches.
//!
//! Legend: B pairs of a micro-batch, S = 2 B answers, M trained tokens, N input tokens, D hidden.

use super::config::DpoConfig;
use super::metrics::{self, Answers, Reward, Seen, Step};
use super::reference::{self, Reference, ReferenceLogProbs};
use super::rows::{Order, Rows};
use super::scores;
use super::start::{self, CACHE, Start, steps};
use crate::data::{self, Encoder, OnBadRow, Pair, Skipped};
use crate::losses::preference::{Pairs, halves};
use crate::sft::require;
use crate::watchdog::{WatchdogConfig, Watched};
use llm_arch::Decoder;
use llm_run::Seed;
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::host;
use llm_train::checkpoint::Identity;
use llm_train::evaluation::Evaluation;
use llm_train::recompute::{self, Forward, Recompute};
use llm_train::sequences::{Sequence, Sequences};
use llm_train::trainer::Outcome;
use llm_train::{Loss, Objective, Result, Trainer};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The objective.
#[derive(Debug)]
pub struct Dpo {
    train: Rows,
    heldout: Rows,
    reference: Reference,
    /// Of the held-out answers.
    heldout_reference: Vec<f32>,
    evaluation: Option<Evaluation>,
    config: DpoConfig,
    step: Step,
    /// Metrics of the last step.
    last: Map<String, Value>,
}

/// One micro-batch.
#[derive(Debug)]
pub struct DpoBatch {
    micro: usize,
    sequences: Sequences,
    lengths: Vec<f32>,
    /// Log-probabilities under the reference, if they are known.
    reference: Option<Vec<f32>>,
    /// Pairs of the step.
    step_pairs: usize,
    /// Tokens of its chosen answers.
    step_chosen: f64,
}

/// A constant on a device that may track gradients.
pub(super) fn constant(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let n = values.len();
    let values = host::from_vec(values, [n], &if device.is_autodiff() { device.clone().inner() } else { device.clone() });
    if device.is_autodiff() { Tensor::from_inner(values) } else { values }
}

/// Every other number from the first.
fn chosen(interleaved: &[f32]) -> f64 {
    interleaved.iter().step_by(2).map(|&x| f64::from(x)).sum()
}

impl Objective for Dpo {
    type Model = Decoder;
    type Batch = DpoBatch;

    fn batches(&mut self, step: u64, _: &Decoder) -> Result<Vec<DpoBatch>> {
        let groups = self.groups(step);
        let step_pairs = groups.iter().map(Vec::len).sum();
        let mut batches: Vec<DpoBatch> = groups
            .into_iter()
            .enumerate()
            .map(|(micro, group)| {
                let sequences = self.train.pack(&group);
                let lengths = scores::lengths(&sequences, 2 * group.len());
                DpoBatch { micro, sequences, lengths, reference: self.reference.known(&group, 2), step_pairs, step_chosen: 0.0 }
            })
            .collect();
        let step_chosen = batches.iter().map(|batch| chosen(&batch.lengths)).sum();
        batches.iter_mut().for_each(|batch| batch.step_chosen = step_chosen);
        Ok(batches)
    }

    fn loss(&self, model: &Decoder, batch: &DpoBatch) -> Result<Loss> {
        let DpoBatch { sequences, lengths, .. } = batch;
        let answers = lengths.len();
        let reference = match (&batch.reference, self.reference.model()) {
            (Some(known), _) => known.clone(),
            (None, Some(model)) => scores::of(model, sequences, answers),
            (None, None) => vec![0.0; answers],
        };
        let Forward { hidden_ND, deferred, .. } = recompute::forward(model, &sequences.batch, None, self.config.recompute);
        let seen_ND = self.config.use_weighting.then(|| hidden_ND.clone());
        let log_p_M = sequences.nll_of(model, hidden_ND).neg();
        let policy_S = scores::sums(log_p_M.clone(), &sequences.owner, answers);
        let device = policy_S.device();
        let pairs = Pairs::interleaved(policy_S.clone(), constant(reference.clone(), &device), constant(lengths.clone(), &device));
        let mut loss_B = self.config.loss.per_pair(&pairs, &self.config.parameters());
        if let Some(seen_ND) = seen_ND {
            let [chosen_B, rejected_B] = halves(scores::wpo_weights(model, seen_ND, log_p_M, sequences, answers));
            loss_B = loss_B * Tensor::from_inner(chosen_B * rejected_B);
        }
        let mut value = loss_B.sum().div_scalar(batch.step_pairs as f64);
        let nll_weight = self.config.nll_weight();
        if nll_weight != 0.0 {
            value = value - pairs.chosen_B.sum().mul_scalar(nll_weight / batch.step_chosen.max(1.0));
        }
        self.step.push(Seen { micro: batch.micro, policy: policy_S.inner(), reference, lengths: lengths.clone(), desirable: Vec::new() });
        Ok(Loss { value, tokens: sequences.batch.ids.len() as u64, deferred })
    }

    fn tokens(&self) -> Option<(f64, usize)> {
        let (pair, answer) = self.train.mean_tokens();
        Some((self.config.batch_size as f64 * pair, answer))
    }

    fn settings(&self) -> Value {
        json!(self.config)
    }

    fn metrics(&mut self) -> Map<String, Value> {
        self.last = metrics::of_pairs("", &self.step.take(), self.reward());
        self.last.clone()
    }

    fn describe(&self, loss: f32) -> String {
        metrics::line(loss, &self.last)
    }

    fn validate(&mut self, model: &Decoder) -> Result<Map<String, Value>> {
        let mut record = self.evaluation.as_ref().map_or_else(|| Ok(Map::new()), |evaluation| evaluation.run(model))?;
        if self.heldout.len() == 0 {
            return Ok(record);
        }
        let mut all = Answers { reference: self.heldout_reference.clone(), ..Answers::default() };
        let mut weights = Vec::new();
        for group in heldout_groups(&self.heldout, self.config.micro_batch_tokens) {
            let (sequences, answers) = (self.heldout.pack(&group), 2 * group.len());
            let hidden_ND = model.hidden(&sequences.batch);
            let log_p_M = sequences.nll_of(model, hidden_ND.clone()).neg();
            all.policy.extend(host::to_vec(scores::sums(log_p_M.clone(), &sequences.owner, answers)));
            all.lengths.extend(scores::lengths(&sequences, answers));
            if self.config.use_weighting {
                weights.extend(host::to_vec(scores::wpo_weights(model, hidden_ND, log_p_M, &sequences, answers)));
            }
        }
        // All pairs at once, so that losses that sort see them together.
        let device = model.device();
        let of = |values: &[f32]| constant(values.to_vec(), &device);
        let pairs = Pairs::interleaved(of(&all.policy), of(&all.reference), of(&all.lengths));
        let mut loss_B = self.config.loss.per_pair(&pairs, &self.config.parameters());
        if !weights.is_empty() {
            let [chosen_B, rejected_B] = halves(of(&weights));
            loss_B = loss_B * chosen_B * rejected_B;
        }
        let losses = host::to_vec(loss_B);
        let mean = losses.iter().map(|&x| f64::from(x)).sum::<f64>() / losses.len() as f64;
        let nll = -chosen(&all.policy) / chosen(&all.lengths).max(1.0);
        record.insert("val_loss".into(), json!(mean + self.config.nll_weight() * nll));
        record.extend(metrics::of_pairs("eval_", &all, self.reward()));
        Ok(record)
    }
}

/// Held-out rows in order.
pub(super) fn heldout_groups(heldout: &Rows, budget: usize) -> Vec<Vec<usize>> {
    heldout.groups(&(0..heldout.len()).collect::<Vec<_>>(), budget)
}

impl Dpo {
    /// On encoded pairs, chosen first, without held-out data. `reference` is asked with every step.
    pub fn new(config: DpoConfig, pairs: Vec<(Sequence, Sequence)>, reference: Option<Decoder>) -> Self {
        let train = Rows::pairs(pairs.into_iter().enumerate().map(|(i, pair)| (i + 1, pair)).collect());
        Self::on(config, train, reference)
    }

    fn on(config: DpoConfig, train: Rows, reference: Option<Decoder>) -> Self {
        let reference = reference.map_or(Reference::None, |model| Reference::Model(Box::new(model)));
        let (heldout, heldout_reference) = (Rows::pairs(Vec::new()), Vec::new());
        Self { train, heldout, reference, heldout_reference, evaluation: None, config, step: Step::default(), last: Map::new() }
    }

    /// Ask the reference about all answers now, in the micro-batches of the first pass, and never again.
    fn cache_reference(&mut self, out: &Path, inputs: &Value) -> Result<()> {
        let Some(model) = self.reference.model() else { return Ok(()) };
        let answers = 2 * self.train.len();
        let key = json!({"inputs": inputs, "answers": answers});
        let sums = reference::cached(&out.join(CACHE), key, answers, || {
            let groups: Vec<_> = (0..self.order().steps()).flat_map(|step| self.groups(step)).collect();
            reference::compute(model, &self.config.train, &self.train, &groups)
        })?;
        self.reference = Reference::Sums(sums);
        Ok(())
    }

    fn order(&self) -> Order {
        Order { seed: Seed(self.config.seed).stream("pair order"), rows: self.train.len(), batch_size: self.config.batch_size }
    }

    /// Pairs of the micro-batches of a step.
    fn groups(&self, step: u64) -> Vec<Vec<usize>> {
        let budget = if self.config.loss.couples_pairs() { usize::MAX } else { self.config.micro_batch_tokens };
        self.train.groups(&self.order().picked(step), budget)
    }

    fn reward(&self) -> Reward {
        let loss = &self.config.loss;
        Reward { beta: self.config.beta, against_reference: loss.needs_reference(), per_token: loss.averages_log_probs() }
    }
}

/// Row number, chosen and rejected answer.
pub(crate) type Encoded = (usize, (Sequence, Sequence));

/// The pairs of a file as ids, and the rows that were left out.
pub(crate) fn encode(path: &Path, rows: data::Rows<Pair>, encoder: &Encoder<'_>, on_bad_row: OnBadRow) -> Result<(Vec<Encoded>, Vec<Skipped>)> {
    data::keep(path, rows, on_bad_row, |pair| Ok((pair.row, encoder.pair(pair)?)))
}

/// Train on pairs into `out`.
pub fn dpo(mut config: DpoConfig, out: &Path) -> Result<Outcome<Decoder>> {
    require("model", &config.model)?;
    require("train", &config.train)?;
    config.check()?;
    // Damaged rows are told before a large model is read.
    let rows = data::pairs(&config.train, config.on_bad_row)?;
    let heldout_rows = if config.heldout.as_os_str().is_empty() { None } else { Some(data::pairs(&config.heldout, config.on_bad_row)?) };
    let start = Start::open(&config.model, &config.adapter, config.seed, config.device.open()?.autodiff())?;
    let encoder = Encoder::new(&start.tokenizer, start.context());
    let (train, skipped) = encode(&config.train, rows, &encoder, config.on_bad_row)?;
    let (heldout, heldout_skipped) = match heldout_rows {
        Some(rows) => encode(&config.heldout, rows, &encoder, config.on_bad_row)?,
        None => (Vec::new(), Vec::new()),
    };
    let (train, mut heldout) = (Rows::pairs(train), Rows::pairs(heldout));
    heldout.truncate(config.eval_rows);
    data::report(out, &[(config.train.as_path(), skipped.as_slice()), (config.heldout.as_path(), heldout_skipped.as_slice())])?;
    if config.epochs > 0.0 {
        config.trainer.max_steps = steps(config.epochs, train.len(), config.batch_size);
    }
    // Recomputation and watching change no result, so they may be set anew in the middle of a run.
    let same = DpoConfig { recompute: Recompute::None, watchdog: WatchdogConfig::default(), ..config.clone() };
    let hashes = start::inputs(&config.model, &config.reference, &config.train)?;
    let identity = json!({"config": same, "inputs": hashes});
    let trainer = Trainer { config: config.trainer.clone(), out: out.to_path_buf(), name: "dpo".into(), identity: Identity::new(identity) };
    let evaluation = Evaluation::open(&config.evaluation, &start.tokenizer)?;
    let model = if config.loss.needs_reference() { Some(start.reference(&config.reference)?) } else { None };
    let heldout_reference = match &model {
        Some(model) => reference::compute(model, &config.heldout, &heldout, &heldout_groups(&heldout, config.micro_batch_tokens))?,
        None => vec![0.0; 2 * heldout.len()],
    };
    let watchdog = config.watchdog.clone();
    let mut objective = Dpo { heldout, heldout_reference, evaluation, ..Dpo::on(config, train, model) };
    if objective.config.reference_log_probs == ReferenceLogProbs::Cached {
        objective.cache_reference(out, &hashes)?;
    }
    let context = start.context();
    let Start { policy, tokenizer, .. } = start;
    trainer.run(&mut Watched::new(objective, &watchdog, &tokenizer, context)?, || Ok(policy), &tokenizer)
}
