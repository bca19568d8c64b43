//! From a policy to a batch of experience: answers, their worth, and what each token has to do with it (TRL, `ppo_trainer.py`).
//!
//! 1. the policy answers; judges score the answers, a cut-off one for less;
//! 2. one forward pass of the policy without tape gives log-probabilities and entropies, and the values where the trunk is shared; the
//!    reference and a value function of its own take the same packed batches;
//! 3. each token pays for its divergence from the reference, the last one, the end token if there is one, gets the score;
//! 4. rewards, values: generalised advantages; whitening over all tokens of the batch.
//!
//! TRL adds the score one position after the end token, where it also has a value; here it belongs to the end token itself, as in Ouyang et
//! al. (2022). What cannot be scored is left out.
//!
//! Legend: M answer tokens, D hidden, V vocabulary.

use super::actor_critic::ActorCritic;
use super::experience::{Answer, Experience};
use super::objective::Ppo;
use super::scores::{Scores, mean};
use crate::losses::advantages::{gae, whiten};
use crate::losses::kl::shaped_rewards;
use crate::rollouts::Rollout;
use crate::watchdog::{Answers, Signals, distinct, format_only, repetition};
use llm_arch::Decoder;
use llm_run::Seed;
use llm_tensor::burn::module::Module;
use llm_tensor::burn::tensor::activation::log_softmax;
use llm_tensor::burn::tensor::{DType, Tensor};
use llm_tensor::host;
use llm_train::sequences::{Sequence, Sequences, groups};
use llm_train::{Error, Result};
use serde_json::{Map, json};

/// Rows whose logits are in memory at the same time.
const ROWS: usize = 256;

/// What forward passes say of the tokens of the answers, one list per answer.
#[derive(Debug, Default)]
struct Looked {
    log_p: Vec<Vec<f32>>,
    reference: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    /// Mean over all tokens, nats.
    entropy: f64,
}

/// Entropies of next-token distributions from hidden states `[M, D]`, nats.
fn entropies(policy: &Decoder, hidden_MD: Tensor<2>) -> Vec<f32> {
    let [m, d] = hidden_MD.dims();
    let of_rows = |from: usize| {
        let logits_MV = policy.logits(hidden_MD.clone().slice([from..m.min(from + ROWS), 0..d])).cast(DType::F32);
        let log_p_MV = log_softmax(logits_MV, 1);
        host::to_vec((log_p_MV.clone().exp() * log_p_MV).sum_dim(1).neg())
    };
    (0..m).step_by(ROWS).flat_map(of_rows).collect()
}

/// Cut a list over all tokens into those of the answers.
fn split(all: &[f32], lengths: impl Iterator<Item = usize>) -> Vec<Vec<f32>> {
    let mut from = 0;
    lengths
        .map(|n| {
            from += n;
            all[from - n..from].to_vec()
        })
        .collect()
}

fn total(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x)).sum()
}

impl Ppo {
    /// Draw batch `number` with the weights of `model`; `step` counts updates and is for the watch-dog.
    pub(super) fn explore(&mut self, number: u64, step: u64, model: &ActorCritic) -> Result<Experience> {
        let picked = self.prompts.in_order(Seed(self.config.seed), number, self.config.batch_size);
        let asked: Vec<&[u32]> = picked.iter().map(|&p| self.prompts.ids[p].as_slice()).collect();
        let rollouts = self.sampler.sample(&model.policy, number, &asked)?;
        let drawn: Vec<(usize, &Rollout)> = picked.iter().copied().zip(&rollouts).collect();
        let scores = self.judges.score(&self.config.train, &self.prompts, &drawn, &self.tokenizer)?;
        let kept: Vec<usize> = (0..rollouts.len()).filter(|&i| scores.scores[i].is_some()).collect();
        if kept.is_empty() {
            let message = format!("batch {number}: none of the {} answers can be scored; look at `rewards` and the prompts' answers", rollouts.len());
            return Err(Error::Objective(message));
        }
        let sequences: Vec<Sequence> = kept.iter().map(|&i| rollouts[i].sequence()).collect();
        let looked = self.look(&model.valid(), &sequences);
        let paid: Vec<f32> = kept
            .iter()
            .map(|&i| {
                let penalty = if rollouts[i].ended { 0.0 } else { self.config.missing_eos_penalty.unwrap_or(0.0) };
                scores.scores[i].unwrap_or(0.0) - penalty as f32
            })
            .collect();
        let (estimator, coefficient) = (self.config.kl_estimator, self.controller.coefficient());
        let mut rewards: Vec<Vec<f32>> =
            (0..kept.len()).map(|k| shaped_rewards(estimator, &looked.log_p[k], &looked.reference[k], paid[k], coefficient)).collect();
        if let Some(k) = rewards.iter().position(|of_answer| of_answer.iter().any(|r| !r.is_finite())) {
            let row = &self.prompts.rows[picked[kept[k]]];
            let message = format!(
                "{}: row {} (`{}`): the KL penalty of the answer to it is not a number; the policy or the reference gives no probabilities any more",
                self.config.train.display(),
                row.row,
                row.id
            );
            return Err(Error::Objective(message));
        }
        self.measure(step, &kept, &rollouts, &scores, &paid, &looked);
        let lengths = || sequences.iter().map(trained);
        if self.config.whiten_rewards {
            let mut all = rewards.concat();
            whiten(&mut all, false);
            rewards = split(&all, lengths());
        }
        let estimates = rewards.iter().zip(&looked.values).map(|(rewards, values)| gae(rewards, values, self.config.gamma, self.config.lam));
        let (mut advantages, returns): (Vec<Vec<f32>>, Vec<Vec<f32>>) = estimates.unzip();
        if self.config.whiten_advantages {
            let mut all = advantages.concat();
            whiten(&mut all, true);
            advantages = split(&all, lengths());
        }
        let Looked { log_p, values, .. } = looked;
        let parts = sequences.into_iter().zip(log_p).zip(values).zip(advantages).zip(returns);
        let answers =
            parts.map(|((((sequence, log_p), values), advantages), returns)| Answer { sequence, log_p, values, advantages, returns }).collect();
        Ok(Experience { number, answers })
    }

    /// Forward passes over the answers with a model without tape.
    fn look(&self, model: &ActorCritic, sequences: &[Sequence]) -> Looked {
        let mut looked = Looked::default();
        let (mut entropy, mut tokens) = (0f64, 0usize);
        for group in groups(sequences, self.config.micro_batch_tokens) {
            let packed = Sequences::pack(group);
            let hidden_MD = model.hidden(&packed);
            let lengths = || group.iter().map(trained);
            let log_p_M = model.policy.nll(hidden_MD.clone(), packed.targets.clone()).neg();
            looked.log_p.extend(split(&host::to_vec(log_p_M), lengths()));
            looked.values.extend(split(&host::to_vec(model.values(&packed, hidden_MD.clone())), lengths()));
            looked.reference.extend(split(&host::to_vec(packed.nll(&self.reference).neg()), lengths()));
            entropy += total(&entropies(&model.policy, hidden_MD));
            tokens += packed.trained();
        }
        Looked { entropy: entropy / tokens.max(1) as f64, ..looked }
    }

    /// Numbers of the batch under TRL's names, the watch-dog, and the controller of the penalty.
    fn measure(&mut self, step: u64, kept: &[usize], rollouts: &[Rollout], scores: &Scores, paid: &[f32], looked: &Looked) {
        let n = kept.len();
        let of_kept = |of: &dyn Fn(usize) -> f64| (0..n).map(of).sum::<f64>() / n as f64;
        let over_all = |of: &dyn Fn(&Rollout) -> f64| rollouts.iter().map(of).sum::<f64>() / rollouts.len() as f64;
        let coefficient = self.controller.coefficient();
        let penalty = |k: usize| {
            let tokens = looked.log_p[k].iter().zip(&looked.reference[k]);
            coefficient * tokens.map(|(&p, &q)| self.config.kl_estimator.of(f64::from(p), f64::from(q))).sum::<f64>()
        };
        let kl = of_kept(&|k| total(&looked.log_p[k]) - total(&looked.reference[k]));
        let non_score = -of_kept(&penalty);
        let paid = of_kept(&|k| f64::from(paid[k]));
        let reward = mean(scores.scores.iter().flatten().map(|&s| f64::from(s))).unwrap_or(0.0);
        let length = over_all(&|r| r.tokens.len() as f64);
        let cut_off = over_all(&|r| f64::from(u8::from(!r.ended)));
        let mut metrics = Map::from_iter([
            ("reward".to_string(), json!(reward)),
            ("objective/kl".to_string(), json!(kl)),
            ("objective/entropy".to_string(), json!(-of_kept(&|k| total(&looked.log_p[k])))),
            ("objective/non_score_reward".to_string(), json!(non_score)),
            ("objective/rlhf_reward".to_string(), json!(non_score + paid)),
            ("objective/scores".to_string(), json!(paid)),
            ("objective/kl_coef".to_string(), json!(coefficient)),
            ("policy/entropy_avg".to_string(), json!(looked.entropy)),
            ("val/num_eos_tokens".to_string(), json!(rollouts.iter().filter(|r| r.ended).count())),
            ("completion_length".to_string(), json!(length)),
            ("cut_off".to_string(), json!(cut_off)),
            ("unscored".to_string(), json!(rollouts.len() - n)),
            ("episode".to_string(), json!((self.drawn + 1) * self.config.batch_size as u64)),
        ]);
        metrics.extend(scores.part_means(self.judges.names()));
        metrics.extend(scores.judge.map(|judge| ("judge".to_string(), json!(judge))));
        let texts: Vec<&[u32]> = rollouts.iter().map(|r| r.tokens.as_slice()).collect();
        let repeated = over_all(&|r| repetition(&r.tokens));
        let answers =
            Answers { distinct: Some(distinct(&texts)), format_only: format_only(self.judges.names(), scores.parts.iter().map(Vec::as_slice)) };
        metrics.insert("repetition".into(), json!(repeated));
        metrics.extend(answers.distinct.map(|share| ("distinct".to_string(), json!(share))));
        metrics.extend(answers.format_only.map(|share| ("format_only".to_string(), json!(share))));
        self.of_batch = metrics;
        self.latest = (reward, kl);
        self.watchdog.answers(answers);
        self.watchdog.observe(Signals {
            step: step + 1,
            reward,
            kl: Some(kl),
            entropy: Some(looked.entropy),
            length,
            truncated: cut_off,
            repetition: repeated,
            heldout: scores.judge,
            ..Signals::default()
        });
        self.controller.update(kl, n);
    }
}

/// Trained tokens of a sequence.
fn trained(sequence: &Sequence) -> usize {
    sequence.loss_mask.iter().filter(|m| **m).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_arch::DecoderConfig;
    use llm_tensor::burn::tensor::Device;

    /// If this fails, the entropy that the watch-dog sees is not that of the policy.
    #[test]
    fn the_entropy_of_an_indifferent_policy_is_the_logarithm_of_its_vocabulary() {
        let config = DecoderConfig {
            vocab_size: 50,
            hidden_size: 8,
            intermediate_size: 8,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            max_position_embeddings: 8,
            ..DecoderConfig::default()
        };
        let policy = Decoder::new(&config, Seed(1), &Device::flex()).unwrap();
        let got = entropies(&policy, Tensor::zeros([ROWS + 3, 8], &Device::flex()));
        assert_eq!(got.len(), ROWS + 3);
        assert!(got.iter().all(|e| (e - 50f32.ln()).abs() < 1e-4), "{:?}", &got[..4]);
    }

    #[test]
    fn lists_are_cut_at_the_ends_of_answers() {
        assert_eq!(split(&[1.0, 2.0, 3.0], [1, 0, 2].into_iter()), [vec![1.0], vec![], vec![2.0, 3.0]]);
    }
}
