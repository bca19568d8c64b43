//! Group-relative policy optimisation (Shao et al., DeepSeekMath, 2024) and its relatives, with rewards that can be verified.
//!
//! A batch of rollouts is `group_size` answers to each of `prompts_per_step` prompts, drawn with the weights as they are. They are rewarded,
//! and the probability of those that beat their own group is raised. The engine that draws and the trainer share one set of weights in memory,
//! and every log-probability in the loss comes from one forward pass, so no correction between the two is needed.
//!
//! | file | job |
//! |---|---|
//! | [`config`] | settings, and what each algorithm of the family makes of them |
//! | [`prompts`] | questions, and what answers are worth |
//! | [`collect`] | a batch of rollouts: draw, grade, draw again, compare |
//! | [`experience`] | the batch, and how it survives a restart between two of its updates |
//! | [`objective`] | which answers an optimiser step learns from, and its loss |
//! | [`forward`] | entropy, divergence and clipping of the step |
//! | [`thinking`] | how long an answer thinks |
//! | [`heldout`] | validation: greedy accuracy and pass@k |
//!
//! How token losses are averaged, what an advantage is divided by and whose ratio is bounded differs between implementations and is
//! named: [`LossType`], [`ScaleRewards`], [`ImportanceLevel`](crate::losses::policy::ImportanceLevel).

pub mod collect;
pub mod config;
pub mod experience;
pub mod forward;
pub mod heldout;
pub mod objective;
pub mod prompts;
pub mod thinking;

pub use crate::losses::advantages::{Baseline, ScaleRewards};
pub use crate::losses::policy::LossType;
pub use config::{Algorithm, Combine, GrpoConfig, Settings, Surrogate};
pub use objective::{Grpo, GrpoBatch};

use crate::data;
use crate::model;
use crate::rollouts::Sampler;
use crate::sft::require;
use crate::watchdog::{General, Samples};
use collect::Collector;
use heldout::Heldout;
use llm_arch::Decoder;
use llm_run::Seed;
use llm_tokenizer::Tokenizer;
use llm_train::checkpoint::Identity;
use llm_train::trainer::Outcome;
use llm_train::{Error, Result, Trainer};
use llm_verify::Rewards;
use prompts::Prompts;
use serde_json::json;
use std::path::Path;
use thinking::Thinking;

/// Train with verified rewards into `out`.
pub fn grpo(config: GrpoConfig, out: &Path) -> Result<Outcome<Decoder>> {
    require("model", &config.model)?;
    require("train", &config.train)?;
    config.check()?;
    config.watchdog.check().map_err(Error::Config)?;
    let device = config.device.open()?;
    let tokenizer = Tokenizer::load(&config.model)?;
    let policy = model::open(&config.model, &config.adapter, config.seed, &device)?;
    let context = policy.config().max_position_embeddings;
    let load = |path: &Path| Prompts::load(path, config.on_bad_row, &tokenizer, config.max_tokens, context);
    let prompts = load(&config.train)?;
    let heldout = if config.heldout.as_os_str().is_empty() { None } else { Some(load(&config.heldout)?) };
    let mut files = vec![(config.train.as_path(), prompts.skipped.as_slice())];
    files.extend(heldout.as_ref().map(|heldout| (config.heldout.as_path(), heldout.skipped.as_slice())));
    data::report(out, &files)?;
    let heldout = heldout.map(|mut prompts| {
        prompts.rows.truncate(config.heldout_prompts);
        prompts.ids.truncate(config.heldout_prompts);
        Heldout { prompts, draws: config.heldout_samples, samples: Samples::new(out) }
    });
    let rewards = Rewards::open(&config.rewards).map_err(|e| Error::Config(e.to_string()))?;
    let sampler = Sampler::new(&policy, &tokenizer, config.sampling(), Seed(config.seed))?;
    let general = General::open(&config.watchdog, &tokenizer, context)?;
    let reference = (config.kl_beta > 0.0 || config.track_kl).then(|| model::reference(&policy));
    let mut identity = json!({"config": config, "model": llm_run::hash::path(&config.model)?, "train": llm_run::hash::path(&config.train)?});
    let settings = config.settings();
    if settings.loss_type == LossType::Bnpo {
        // Elsewhere the size of micro-batches changes nothing.
        identity["bnpo_tokens"] = json!(config.micro_batch_tokens);
    }
    let trainer = Trainer { config: config.trainer.clone(), out: out.to_path_buf(), name: "grpo".into(), identity: Identity::new(identity) };
    let thinking = Thinking::of(&tokenizer);
    let collector = Collector { prompts, sampler, rewards, tokenizer: tokenizer.clone(), thinking, config, settings };
    let mut objective = Grpo::new(collector, reference, heldout, general);
    trainer.run(&mut objective, || Ok(policy), &tokenizer)
}
