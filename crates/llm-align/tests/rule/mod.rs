//! A small world with a rule: answers of a few words, of which those with the word "thanks" are preferred.
#![allow(dead_code)] // each test file uses a part

#[path = "../tiny/mod.rs"]
mod tiny;

use llm_align::{RewardConfig, SftConfig};
use llm_arch::DecoderConfig;
use llm_run::Seed;
use llm_run::seed::Rng;
use llm_tensor::DeviceSpec;
use llm_train::{OptimizerConfig, Schedule, ScheduleKind, TrainerConfig};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub const RULE: &str = "thanks";
const WORDS: [&str; 10] = ["blue", "cat", "dog", "green", "house", "moon", "red", "sun", "tree", "water"];

/// A folder with `model` (random weights, tokenizer), `sft.jsonl`, `pairs.jsonl`, `heldout.jsonl` and `prompts.jsonl`.
pub struct World {
    pub dir: tempfile::TempDir,
}

fn answer(rng: &mut Rng, thanks: bool) -> String {
    let mut words: Vec<&str> = (0..3).map(|_| *rng.pick(&WORDS)).collect();
    if thanks {
        words[rng.below(3)] = RULE;
    }
    words.join(" ")
}

fn prompt(rng: &mut Rng) -> String {
    format!("Say three words like {}.", rng.pick(&WORDS))
}

fn write(path: &Path, rows: Vec<Value>) {
    let text: String = rows.into_iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(path, text).unwrap();
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut rng = Seed(11).rng();
        let at = |name: &str| dir.path().join(name);
        let pair = |rng: &mut Rng| json!({"prompt": prompt(rng), "chosen": answer(rng, true), "rejected": answer(rng, false)});
        write(&at("pairs.jsonl"), (0..256).map(|_| pair(&mut rng)).collect());
        write(&at("heldout.jsonl"), (0..64).map(|_| pair(&mut rng)).collect());
        write(&at("prompts.jsonl"), (0..32).map(|_| json!({"prompt": prompt(&mut rng)})).collect());
        let conversations: Vec<(String, String)> = (0..256)
            .map(|i| {
                let question = prompt(&mut rng);
                (question, answer(&mut rng, i % 4 == 0))
            })
            .collect();
        let row = |(question, answer): &(String, String)| json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]});
        write(&at("sft.jsonl"), conversations.iter().map(row).collect());
        let texts: Vec<String> = conversations.into_iter().flat_map(|(q, a)| [q, a]).collect();
        tiny::save(&at("model"), &texts, 340, DecoderConfig { max_position_embeddings: 128, ..tiny::config() });
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A policy that answers in three words, with the rule's word in every fourth answer.
    pub fn policy(&self) -> PathBuf {
        let out = self.path("policy");
        let config = SftConfig {
            model: self.path("model"),
            train: self.path("sft.jsonl"),
            batch_size: 16,
            device: DeviceSpec::Cpu,
            trainer: steps(60, 1e-2),
            ..SftConfig::default()
        };
        llm_align::sft(config, &out).unwrap();
        out.join("model")
    }

    pub fn reward_config(&self) -> RewardConfig {
        RewardConfig {
            model: self.path("model"),
            train: self.path("pairs.jsonl"),
            heldout: self.path("heldout.jsonl"),
            batch_size: 16,
            device: DeviceSpec::Cpu,
            trainer: steps(50, 5e-3),
            ..RewardConfig::default()
        }
    }
}

pub fn steps(max_steps: u64, lr: f64) -> TrainerConfig {
    TrainerConfig {
        max_steps,
        optimizer: OptimizerConfig { lr, weight_decay: 0.0, ..OptimizerConfig::default() },
        schedule: Schedule { kind: ScheduleKind::Constant, warmup_steps: 1, min_lr_ratio: 0.1, ..Schedule::default() },
        eval_every: 0,
        checkpoint_every: 0,
        ..TrainerConfig::default()
    }
}
