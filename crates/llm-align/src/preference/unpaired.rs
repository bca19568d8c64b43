//! The objective on single answers that someone found good or bad: KTO and unpaired APO-zero.
//!
//! KTO's KL estimate needs the prompts of a step with answers that do not belong to them: each prompt takes the answer of the row before it
//! in the step, the first that of the last (TRL cycles likewise, inside a device's batch). It is computed for the whole step before its first
//! micro-batch, so it does not depend on how the step is cut.
//!
//! Legend: B answers of a micro-batch, M trained tokens.

use super::config::KtoConfig;
use super::metrics::{self, Answers, Reward, Seen, Step};
use super::pairs::{constant, heldout_groups};
use super::reference::{self, Reference, ReferenceLogProbs};
use super::rows::{Order, Rows};
use super::scores;
use super::start::{self, CACHE, Start, steps};
use crate::data::{self, Encoder, Labelled, OnBadRow, Skipped};
use crate::losses::kto::{self, UnpairedLoss};
use crate::sft::require;
use crate::watchdog::{WatchdogConfig, Watched};
use llm_arch::Decoder;
use llm_run::Seed;
use llm_tensor::host;
use llm_train::checkpoint::Identity;
use llm_train::evaluation::Evaluation;
use llm_train::recompute::{self, Forward, Recompute};
use llm_train::sequences::{Sequence, Sequences, groups};
use llm_train::trainer::Outcome;
use llm_train::{Loss, Objective, Result, Trainer};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Labelled answers.
#[derive(Debug)]
struct Data {
    rows: Rows,
    desirable: Vec<bool>,
}

/// The objective.
#[derive(Debug)]
pub struct Kto {
    train: Data,
    heldout: Data,
    reference: Reference,
    /// The reference for mismatched answers; none where the loss has no KL.
    mismatched: Option<Decoder>,
    /// Of the held-out answers.
    heldout_reference: Vec<f32>,
    context: usize,
    evaluation: Option<Evaluation>,
    config: KtoConfig,
    step: Step,
    /// KL estimate of the last step.
    kl: f64,
    /// Metrics of the last step.
    last: Map<String, Value>,
}

/// One micro-batch.
#[derive(Debug)]
pub struct KtoBatch {
    micro: usize,
    sequences: Sequences,
    desirable: Vec<bool>,
    /// Log-probabilities under the reference, if they are known.
    reference: Option<Vec<f32>>,
    /// KL estimate of the step.
    kl: f64,
    /// Answers of the step.
    step_rows: usize,
}

/// The prompt of one row with the answer of another, cut to the context.
fn mismatch(prompt: &Sequence, answer: &Sequence, context: usize) -> Sequence {
    let from = |s: &Sequence| s.loss_mask.iter().position(|trained| *trained).unwrap_or(s.ids.len());
    let (end, begin) = (from(prompt), from(answer));
    let join = |a: &[u32], b: &[u32]| [a, b].concat();
    let mut ids = join(&prompt.ids[..end], &answer.ids[begin..]);
    let mut loss_mask = [vec![false; end], answer.loss_mask[begin..].to_vec()].concat();
    ids.truncate(context);
    loss_mask.truncate(context);
    Sequence { ids, loss_mask }
}

/// Prompts of the rows with each other's answers.
fn mismatches(rows: &Rows, picked: &[usize], context: usize) -> Vec<Sequence> {
    let before = |i: usize| picked[if i == 0 { picked.len() - 1 } else { i - 1 }];
    picked.iter().enumerate().map(|(i, &row)| mismatch(&rows.of(row)[0], &rows.of(before(i))[0], context)).collect()
}

impl Objective for Kto {
    type Model = Decoder;
    type Batch = KtoBatch;

    fn batches(&mut self, step: u64, model: &Decoder) -> Result<Vec<KtoBatch>> {
        let order = Order { seed: Seed(self.config.seed).stream("answer order"), rows: self.train.rows.len(), batch_size: self.config.batch_size };
        let picked = order.picked(step);
        self.kl = self.kl_of(&self.train.rows, &picked, &model.untracked());
        let rows = &self.train.rows;
        let batches = rows.groups(&picked, self.config.micro_batch_tokens).into_iter().enumerate().map(|(micro, group)| KtoBatch {
            micro,
            sequences: rows.pack(&group),
            desirable: group.iter().map(|&row| self.train.desirable[row]).collect(),
            reference: self.reference.known(&group, 1),
            kl: self.kl,
            step_rows: picked.len(),
        });
        Ok(batches.collect())
    }

    fn loss(&self, model: &Decoder, batch: &KtoBatch) -> Result<Loss> {
        let KtoBatch { sequences, desirable, .. } = batch;
        let answers = desirable.len();
        let reference = match (&batch.reference, self.reference.model()) {
            (Some(known), _) => known.clone(),
            (None, Some(model)) => scores::of(model, sequences, answers),
            (None, None) => vec![0.0; answers],
        };
        let Forward { hidden_ND, deferred, .. } = recompute::forward(model, &sequences.batch, None, self.config.recompute);
        let log_p_M = sequences.nll_of(model, hidden_ND).neg();
        let policy_B = scores::sums(log_p_M, &sequences.owner, answers);
        let logratio_B = policy_B.clone() - constant(reference.clone(), &policy_B.device());
        let loss_B = kto::per_answer(self.config.loss, logratio_B, desirable, batch.kl, &self.config.parameters());
        let lengths = scores::lengths(sequences, answers);
        self.step.push(Seen { micro: batch.micro, policy: policy_B.inner(), reference, lengths, desirable: desirable.clone() });
        let value = loss_B.sum().div_scalar(batch.step_rows as f64);
        Ok(Loss { value, tokens: sequences.batch.ids.len() as u64, deferred })
    }

    fn tokens(&self) -> Option<(f64, usize)> {
        let (row, answer) = self.train.rows.mean_tokens();
        Some((self.config.batch_size as f64 * row, answer))
    }

    fn settings(&self) -> Value {
        json!(self.config)
    }

    fn metrics(&mut self) -> Map<String, Value> {
        self.last = metrics::of_answers("", &self.step.take(), self.reward(), self.kl);
        self.last.clone()
    }

    fn describe(&self, loss: f32) -> String {
        metrics::line(loss, &self.last)
    }

    fn validate(&mut self, model: &Decoder) -> Result<Map<String, Value>> {
        let mut record = self.evaluation.as_ref().map_or_else(|| Ok(Map::new()), |evaluation| evaluation.run(model))?;
        let Data { rows, desirable } = &self.heldout;
        if rows.len() == 0 {
            return Ok(record);
        }
        let mut all = Answers { reference: self.heldout_reference.clone(), desirable: desirable.clone(), ..Answers::default() };
        for group in heldout_groups(rows, self.config.micro_batch_tokens) {
            let sequences = rows.pack(&group);
            all.policy.extend(scores::of(model, &sequences, group.len()));
            all.lengths.extend(scores::lengths(&sequences, group.len()));
        }
        let kl = self.kl_of(rows, &(0..rows.len()).collect::<Vec<_>>(), model);
        let device = model.device();
        let logratio_B = constant(all.policy.clone(), &device) - constant(all.reference.clone(), &device);
        let losses = host::to_vec(kto::per_answer(self.config.loss, logratio_B, desirable, kl, &self.config.parameters()));
        record.insert("val_loss".into(), json!(losses.iter().map(|&x| f64::from(x)).sum::<f64>() / losses.len() as f64));
        record.extend(metrics::of_answers("eval_", &all, self.reward(), kl));
        Ok(record)
    }
}

impl Kto {
    fn reward(&self) -> Reward {
        Reward { beta: self.config.beta, against_reference: true, per_token: false }
    }

    /// The KL estimate over mismatched rows; 0 where the loss has none.
    fn kl_of(&self, rows: &Rows, picked: &[usize], policy: &Decoder) -> f64 {
        let Some(reference) = &self.mismatched else { return 0.0 };
        let sequences = mismatches(rows, picked, self.context);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for group in groups(&sequences, self.config.micro_batch_tokens) {
            let packed = Sequences::pack(group);
            ours.extend(scores::of(policy, &packed, group.len()));
            theirs.extend(scores::of(reference, &packed, group.len()));
        }
        kto::kl(&ours, &theirs)
    }
}

fn encode(path: &Path, rows: data::Rows<Labelled>, encoder: &Encoder<'_>, on_bad_row: OnBadRow) -> Result<(Data, Vec<Skipped>)> {
    let (kept, skipped) = data::keep(path, rows, on_bad_row, |row| Ok(((row.row, encoder.labelled(row)?), row.label)))?;
    let (rows, desirable): (Vec<_>, Vec<_>) = kept.into_iter().unzip();
    Ok((Data { rows: Rows::single(rows), desirable }, skipped))
}

/// Train on labelled answers into `out`.
pub fn kto(mut config: KtoConfig, out: &Path) -> Result<Outcome<Decoder>> {
    require("model", &config.model)?;
    require("train", &config.train)?;
    config.check()?;
    // Damaged rows are told before a large model is read.
    let rows = data::labelled(&config.train, config.on_bad_row)?;
    let heldout_rows = if config.heldout.as_os_str().is_empty() { None } else { Some(data::labelled(&config.heldout, config.on_bad_row)?) };
    let start = Start::open(&config.model, &config.adapter, config.seed, config.device.open()?.autodiff())?;
    let encoder = Encoder::new(&start.tokenizer, start.context());
    let (train, skipped) = encode(&config.train, rows, &encoder, config.on_bad_row)?;
    let (mut heldout, heldout_skipped) = match heldout_rows {
        Some(rows) => encode(&config.heldout, rows, &encoder, config.on_bad_row)?,
        None => (Data { rows: Rows::single(Vec::new()), desirable: Vec::new() }, Vec::new()),
    };
    heldout.rows.truncate(config.eval_rows);
    heldout.desirable.truncate(config.eval_rows);
    data::report(out, &[(config.train.as_path(), skipped.as_slice()), (config.heldout.as_path(), heldout_skipped.as_slice())])?;
    if config.epochs > 0.0 {
        config.trainer.max_steps = steps(config.epochs, train.rows.len(), config.batch_size);
    }
    // Recomputation and watching change no result, so they may be set anew in the middle of a run.
    let same = KtoConfig { recompute: Recompute::None, watchdog: WatchdogConfig::default(), ..config.clone() };
    let hashes = start::inputs(&config.model, &config.reference, &config.train)?;
    let identity = json!({"config": same, "inputs": hashes});
    let trainer = Trainer { config: config.trainer.clone(), out: out.to_path_buf(), name: "kto".into(), identity: Identity::new(identity) };
    let evaluation = Evaluation::open(&config.evaluation, &start.tokenizer)?;
    let model = start.reference(&config.reference)?;
    let asked = heldout_groups(&heldout.rows, config.micro_batch_tokens);
    let heldout_reference = reference::compute(&model, &config.heldout, &heldout.rows, &asked)?;
    let mismatched = (config.loss == UnpairedLoss::Kto).then(|| model.clone());
    let reference = match config.reference_log_probs {
        ReferenceLogProbs::Recomputed => Reference::Model(Box::new(model)),
        ReferenceLogProbs::Cached => {
            let answers = train.rows.len();
            let order = Order { seed: Seed(config.seed).stream("answer order"), rows: answers, batch_size: config.batch_size };
            let first_pass =
                || (0..order.steps()).flat_map(|step| train.rows.groups(&order.picked(step), config.micro_batch_tokens)).collect::<Vec<_>>();
            let key = json!({"inputs": hashes, "answers": answers});
            let sums = reference::cached(&out.join(CACHE), key, answers, || reference::compute(&model, &config.train, &train.rows, &first_pass()))?;
            Reference::Sums(sums)
        }
    };
    let context = start.context();
    let Start { policy, tokenizer, .. } = start;
    let (step, last) = (Step::default(), Map::new());
    let watchdog = config.watchdog.clone();
    let objective = Kto { train, heldout, reference, mismatched, heldout_reference, context, evaluation, config, step, kl: 0.0, last };
    trainer.run(&mut Watched::new(objective, &watchdog, &tokenizer, context)?, || Ok(policy), &tokenizer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(ids: &[u32], prompt: usize) -> Sequence {
        Sequence { ids: ids.to_vec(), loss_mask: (0..ids.len()).map(|i| i >= prompt).collect() }
    }

    /// If this fails, the KL estimate is over pairs that belong together: the reward itself.
    #[test]
    fn prompts_meet_the_answer_of_the_row_before() {
        let rows = Rows::single(vec![(1, sequence(&[1, 2, 10], 2)), (2, sequence(&[3, 20, 21], 1)), (3, sequence(&[4, 5, 30], 2))]);
        let got = mismatches(&rows, &[0, 2, 1], 100);
        assert_eq!(got, [sequence(&[1, 2, 20, 21], 2), sequence(&[4, 5, 10], 2), sequence(&[3, 30], 1)]);
        assert_eq!(mismatches(&rows, &[0, 2, 1], 3)[0], sequence(&[1, 2, 20], 2));
    }
}
