//! Proximal policy optimisation (Schulman et al., 2017) from a learned or a checkable reward, as in Ouyang et al. (InstructGPT, 2022) and
//! TRL's `ppo_trainer.py`.
//!
//! | file | job |
//! |---|---|
//! | [`config`] | settings |
//! | [`actor_critic`] | policy and value function as one model, with one trunk or two |
//! | `scores` | what an answer is worth |
//! | `explore` | a batch of answers, their rewards and advantages |
//! | [`experience`] | what of it the updates need, and a checkpoint keeps |
//! | [`controller`] | the weight of the KL penalty |
//! | [`objective`] | the updates |
//!
//! Rollouts and updates use the same weights in memory and the same forward pass, so the ratio of the first update of a batch is one.

pub mod actor_critic;
pub mod config;
pub mod controller;
pub mod experience;
mod explore;
pub mod objective;
mod scores;

pub use actor_critic::ActorCritic;
pub use config::{PpoConfig, ValueKind};
pub use controller::Controller;
pub use objective::{Ppo, PpoBatch};

use crate::grpo::prompts::Prompts;
use crate::reward::RewardModel;
use crate::rollouts::Sampler;
use crate::sft::require;
use crate::watchdog::{General, Samples, Watchdog};
use crate::{data, model};
use llm_arch::{Decoder, hf};
use llm_run::Seed;
use llm_tensor::burn::tensor::Device;
use llm_tokenizer::Tokenizer;
use llm_train::checkpoint::Identity;
use llm_train::trainer::Outcome;
use llm_train::{Error, Result, Trainer};
use scores::Judges;
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

/// A reward model reads the policy's tokens as they are, so both must mean the same by every id.
fn same_vocabulary(path: &Path, theirs: &RewardModel, ours: &Tokenizer, policy: &Decoder) -> Result<()> {
    let bad = |what: String| {
        let advice = "train it from a model of the policy's family";
        Err(Error::Config(format!("reward_model = {}: {what}; it must read the policy's tokens: {advice}", path.display())))
    };
    let (their_size, our_size) = (theirs.model.config().vocab_size, policy.config().vocab_size);
    if their_size != our_size {
        return bad(format!("it has {their_size} tokens, the policy {our_size}"));
    }
    let tokenizer = Tokenizer::load(path)?;
    let differs = |id: &u32| tokenizer.token_bytes(*id) != ours.token_bytes(*id);
    match (0..our_size as u32).find(differs) {
        None => Ok(()),
        Some(id) => bad(format!("token {id} is another one than the policy's")),
    }
}

fn value_function(config: &PpoConfig, reward_model: Option<&RewardModel>, device: &Device) -> Result<RewardModel> {
    match reward_model {
        Some(reward_model) => Ok(reward_model.clone()),
        None => Ok(RewardModel::zeroed(hf::load(&config.model, device)?)),
    }
}

/// Train with PPO into `out`: `out/model` is the policy, `out/model/value` the value function.
pub fn ppo(config: PpoConfig, out: &Path) -> Result<Outcome<ActorCritic>> {
    require("model", &config.model)?;
    require("train", &config.train)?;
    config.check()?;
    let device = config.device.open()?;
    let tokenizer = Tokenizer::load(&config.model)?;
    let policy = model::open(&config.model, &config.adapter, config.seed, &device)?;
    let reference = model::reference(&policy);
    let reward_model = if config.reward_model.as_os_str().is_empty() { None } else { Some(RewardModel::load(&config.reward_model, &device)?) };
    let mut context = policy.config().max_position_embeddings;
    if let Some(reward_model) = &reward_model {
        same_vocabulary(&config.reward_model, reward_model, &tokenizer, &policy)?;
        context = context.min(reward_model.model.config().max_position_embeddings);
    }
    let load = |path: &Path| Prompts::load(path, config.on_bad_row, &tokenizer, config.sampling.max_tokens, context);
    let prompts = load(&config.train)?;
    let heldout = if config.heldout.as_os_str().is_empty() { None } else { Some(load(&config.heldout)?) };
    let mut files = vec![(config.train.as_path(), prompts.skipped.as_slice())];
    files.extend(heldout.as_ref().map(|heldout| (config.heldout.as_path(), heldout.skipped.as_slice())));
    data::report(out, &files)?;
    let sampler = Sampler::new(&policy, &tokenizer, config.sampling, Seed(config.seed))?;
    let general = General::open(&config.watchdog, &tokenizer, context)?;
    let actor_critic = match config.value {
        ValueKind::Shared => ActorCritic::shared(policy),
        ValueKind::Separate => ActorCritic::separate(policy, value_function(&config, reward_model.as_ref(), &device)?),
    };
    let judges = Judges::open(reward_model, &config.rewards, &config.judge, config.micro_batch_tokens)?;
    let mut identity = json!({"config": config, "model": llm_run::hash::path(&config.model)?, "train": llm_run::hash::path(&config.train)?});
    if judges.reward_model.is_some() {
        identity["reward_model"] = json!(llm_run::hash::path(&config.reward_model)?);
    }
    let trainer = Trainer { config: config.trainer.clone(), out: out.to_path_buf(), name: "ppo".into(), identity: Identity::new(identity) };
    let mut objective = Ppo {
        tokenizer: tokenizer.clone(),
        prompts,
        heldout,
        sampler,
        judges,
        reference,
        controller: config.controller(),
        watchdog: Watchdog::new(config.watchdog.clone()),
        general,
        samples: Samples::new(out),
        experience: None,
        of_batch: Map::new(),
        latest: (0.0, 0.0),
        drawn: 0,
        taken: 0,
        damaged: false,
        seen: Mutex::new(BTreeMap::new()),
        tokens: 0,
        config,
    };
    trainer.run(&mut objective, || Ok(actor_critic), &tokenizer)
}
