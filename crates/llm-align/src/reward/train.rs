//! Training a reward model on pairs (TRL, `reward_trainer.py`): chosen and rejected texts of a micro-batch go through the decoder as one
//! packed batch without padding, and the head is applied to their last tokens only.
//!
//! The held-out pairs give accuracy and calibration with every validation: the numbers go into `metrics.jsonl`, the reliability
//! diagram into `calibration.json` of the output folder.

use super::calibration::{Calibration, right, surprise};
use super::{RewardConfig, RewardModel, Texts};
use crate::data::{self, Encoder, Pair, Skipped};
use crate::losses::policy::constant;
use crate::losses::reward::{bradley_terry, centring};
use crate::sft::require;
use llm_arch::hf;
use llm_run::Seed;
use llm_run::seed::permuted;
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::host;
use llm_tokenizer::Tokenizer;
use llm_train::checkpoint::Identity;
use llm_train::recompute::{self, Forward};
use llm_train::trainer::Outcome;
use llm_train::{Loss, Objective, Result, Trainer};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A pair as token ids.
#[derive(Debug, Clone)]
struct Encoded {
    chosen: Vec<u32>,
    rejected: Vec<u32>,
    margin: f32,
}

impl Encoded {
    fn len(&self) -> usize {
        self.chosen.len() + self.rejected.len()
    }
}

/// The objective.
#[derive(Debug)]
pub struct Reward {
    train: Vec<Encoded>,
    heldout: Vec<Encoded>,
    config: RewardConfig,
    /// Where `calibration.json` goes.
    out: PathBuf,
    /// Rewards of the micro-batches of the step, chosen ones first, by number.
    seen: Mutex<BTreeMap<usize, Tensor<1>>>,
    accuracy: f64,
}

/// One micro-batch.
#[derive(Debug)]
pub struct RewardBatch {
    number: usize,
    /// Chosen texts, then the rejected ones in the same order.
    texts: Texts,
    margins: Vec<f32>,
    /// Pairs of the whole step.
    step_pairs: usize,
}

/// Ranges of pairs of at most `budget` tokens, at least one each.
fn groups(pairs: &[Encoded], budget: usize) -> Vec<Range<usize>> {
    let (mut out, mut from, mut tokens) = (Vec::new(), 0, 0);
    for (i, pair) in pairs.iter().enumerate() {
        if i > from && tokens + pair.len() > budget {
            out.push(from..i);
            (from, tokens) = (i, 0);
        }
        tokens += pair.len();
    }
    if from < pairs.len() {
        out.push(from..pairs.len());
    }
    out
}

fn pack(pairs: &[Encoded]) -> Texts {
    Texts::pack(pairs.iter().map(|p| p.chosen.as_slice()).chain(pairs.iter().map(|p| p.rejected.as_slice())))
}

impl Objective for Reward {
    type Model = RewardModel;
    type Batch = RewardBatch;

    fn batches(&mut self, step: u64, _: &RewardModel) -> Result<Vec<RewardBatch>> {
        self.seen.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        let n = self.train.len() as u64;
        let order = Seed(self.config.seed).stream("pair order");
        let picked: Vec<Encoded> = (0..self.config.batch_size as u64)
            .map(|j| {
                let i = step * self.config.batch_size as u64 + j;
                self.train[permuted(order.at(i / n), i % n, n) as usize].clone()
            })
            .collect();
        let batch = |(number, range): (usize, Range<usize>)| {
            let pairs = &picked[range];
            RewardBatch { number, texts: pack(pairs), margins: pairs.iter().map(|p| p.margin).collect(), step_pairs: picked.len() }
        };
        Ok(groups(&picked, self.config.micro_batch_tokens).into_iter().enumerate().map(batch).collect())
    }

    fn loss(&self, model: &RewardModel, batch: &RewardBatch) -> Result<Loss> {
        let Forward { hidden_ND, deferred, .. } = recompute::forward(&model.model, &batch.texts.batch, None, self.config.recompute);
        let rewards = model.score_rows(hidden_ND, &batch.texts.last);
        let seen = if rewards.device().is_autodiff() { rewards.clone().inner() } else { rewards.clone() };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(batch.number, seen);
        let b = batch.margins.len();
        let (chosen_B, rejected_B) = (rewards.clone().narrow(0, 0, b), rewards.narrow(0, b, b));
        let margin_B = batch.margins.iter().any(|&m| m != 0.0).then(|| constant(batch.margins.clone(), [b], &chosen_B.device()));
        let mut loss_B = bradley_terry(chosen_B.clone(), rejected_B.clone(), margin_B);
        if self.config.center_rewards_coefficient > 0.0 {
            loss_B = loss_B + centring(chosen_B, rejected_B).mul_scalar(self.config.center_rewards_coefficient);
        }
        let value = loss_B.sum().div_scalar(batch.step_pairs as f32);
        Ok(Loss { value, tokens: batch.texts.batch.ids.len() as u64, deferred })
    }

    fn metrics(&mut self) -> Map<String, Value> {
        let seen = std::mem::take(self.seen.get_mut().unwrap_or_else(PoisonError::into_inner));
        let (mut chosen, mut rejected) = (Vec::new(), Vec::new());
        for rewards in seen.into_values().map(host::to_vec) {
            let (c, r) = rewards.split_at(rewards.len() / 2);
            chosen.extend(c.iter().map(|&x| f64::from(x)));
            rejected.extend(r.iter().map(|&x| f64::from(x)));
        }
        if chosen.is_empty() {
            return Map::new();
        }
        let n = chosen.len() as f64;
        let margins: Vec<f64> = chosen.iter().zip(&rejected).map(|(c, r)| c - r).collect();
        let all = || chosen.iter().chain(&rejected).copied();
        self.accuracy = margins.iter().map(|&m| right(m)).sum::<f64>() / n;
        Map::from_iter([
            ("accuracy".to_string(), json!(self.accuracy)),
            ("margin".to_string(), json!(margins.iter().sum::<f64>() / n)),
            ("mean_reward".to_string(), json!(all().sum::<f64>() / (2.0 * n))),
            ("min_reward".to_string(), json!(all().fold(f64::INFINITY, f64::min))),
            ("max_reward".to_string(), json!(all().fold(f64::NEG_INFINITY, f64::max))),
        ])
    }

    fn describe(&self, loss: f32) -> String {
        format!("loss {loss:.3} accuracy {:.3}", self.accuracy)
    }

    fn tokens(&self) -> Option<(f64, usize)> {
        let texts = 2 * self.train.len().max(1);
        let length = self.train.iter().map(Encoded::len).sum::<usize>() / texts;
        Some(((2 * self.config.batch_size * length) as f64, length))
    }

    fn settings(&self) -> Value {
        json!(self.config)
    }

    fn validate(&mut self, model: &RewardModel) -> Result<Map<String, Value>> {
        let (mut margins, mut loss) = (Vec::with_capacity(self.heldout.len()), 0f64);
        for range in groups(&self.heldout, self.config.micro_batch_tokens) {
            let pairs = &self.heldout[range];
            let rewards = host::to_vec(model.rewards(&pack(pairs)));
            let (chosen, rejected) = rewards.split_at(pairs.len());
            for ((c, r), pair) in chosen.iter().zip(rejected).zip(pairs) {
                let margin = f64::from(*c) - f64::from(*r);
                loss += surprise(margin - f64::from(pair.margin));
                margins.push(margin);
            }
        }
        let Some(calibration) = Calibration::of(&margins) else { return Ok(Map::new()) };
        let text = serde_json::to_string_pretty(&calibration).unwrap_or_default() + "\n";
        llm_run::atomic::write(self.out.join("calibration.json"), text)?;
        Ok(Map::from_iter([
            ("val_loss".to_string(), json!(loss / margins.len() as f64)),
            ("val_accuracy".to_string(), json!(calibration.accuracy)),
            ("val_margin".to_string(), json!(calibration.margin)),
            ("val_brier".to_string(), json!(calibration.brier)),
            ("val_expected_calibration_error".to_string(), json!(calibration.expected_calibration_error)),
        ]))
    }
}

/// Pairs of a file as token ids.
fn load(path: &Path, config: &RewardConfig, tokenizer: &Tokenizer, context: usize) -> Result<(Vec<Encoded>, Vec<Skipped>)> {
    let encoder = Encoder::new(tokenizer, context);
    let encode = |pair: &Pair| {
        let (chosen, rejected) = encoder.pair(pair)?;
        let margin = pair.margin.filter(|_| config.use_margin).unwrap_or(0.0);
        if !margin.is_finite() {
            return Err(format!("`margin` is {margin}; expected a number"));
        }
        Ok(Encoded { chosen: chosen.ids, rejected: rejected.ids, margin })
    };
    data::keep(path, data::pairs(path, config.on_bad_row)?, config.on_bad_row, encode)
}

/// A reward model to start from: the folder's own, or a language model with a fresh head.
fn start(config: &RewardConfig, tokenizer: &Tokenizer, device: &Device) -> Result<RewardModel> {
    let model = if super::model::is_classifier(&config.model)? {
        RewardModel::load(&config.model, device)?
    } else {
        RewardModel::from_decoder(hf::load(&config.model, device)?, Seed(config.seed))
    };
    Ok(model.with_pad_token(tokenizer))
}

/// Train a reward model into `out`.
pub fn reward(mut config: RewardConfig, out: &Path) -> Result<Outcome<RewardModel>> {
    require("model", &config.model)?;
    require("train", &config.train)?;
    config.check()?;
    let tokenizer = Tokenizer::load(&config.model)?;
    let context = hf::load_config(&config.model)?.max_position_embeddings;
    let (train, skipped) = load(&config.train, &config, &tokenizer, context)?;
    let none = config.heldout.as_os_str().is_empty();
    let (mut heldout, skipped_heldout) = if none { Default::default() } else { load(&config.heldout, &config, &tokenizer, context)? };
    data::report(out, &[(config.train.as_path(), skipped.as_slice()), (config.heldout.as_path(), skipped_heldout.as_slice())])?;
    heldout.truncate(config.eval_pairs);
    if config.epochs > 0.0 {
        config.trainer.max_steps = (config.epochs * train.len() as f64 / config.batch_size as f64).ceil() as u64;
    }
    let identity = json!({"config": config, "model": llm_run::hash::path(&config.model)?, "train": llm_run::hash::path(&config.train)?});
    let trainer = Trainer { config: config.trainer.clone(), out: out.to_path_buf(), name: "reward".into(), identity: Identity::new(identity) };
    let device = config.device.open()?.autodiff();
    let model = start(&config, &tokenizer, &device)?;
    let seen = Mutex::new(BTreeMap::new());
    let mut objective = Reward { train, heldout, config, out: out.to_path_buf(), seen, accuracy: 0.0 };
    trainer.run(&mut objective, || Ok(model), &tokenizer)
}
