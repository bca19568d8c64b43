//! Rewards of the rows of a file: `llm-align score`.
//!
//! One JSON object per row, in order, with the row's number and id. A conversation or a prompt with its answer gets `reward`; a pair gets
//! `chosen`, `rejected` and `margin`, their difference.

use super::{RewardModel, Texts};
use crate::data::{self, Conversation, Encoder, Kind, Labelled, OnBadRow, Pair, Skipped};
use llm_run::atomic::AtomicFile;
use llm_tensor::{DeviceSpec, host};
use llm_tokenizer::Tokenizer;
use llm_train::{Error, Result};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What to score, and with what.
#[derive(Debug, Clone)]
pub struct ScoreConfig {
    /// Folder of a reward model with its tokenizer.
    pub model: PathBuf,
    /// Rows.
    pub data: PathBuf,
    /// What they are; none is what the columns of the first say.
    pub kind: Option<Kind>,
    /// Rows that cannot be used.
    pub on_bad_row: OnBadRow,
    /// Tokens per forward pass.
    pub micro_batch_tokens: usize,
    /// Where to compute.
    pub device: DeviceSpec,
}

/// A row as texts to score: one, or a chosen and a rejected one.
struct Item {
    row: usize,
    id: String,
    texts: Vec<Vec<u32>>,
}

fn load(config: &ScoreConfig, kind: Kind, encoder: &Encoder) -> Result<(Vec<Item>, Vec<Skipped>)> {
    let (path, on_bad_row) = (config.data.as_path(), config.on_bad_row);
    match kind {
        Kind::Conversations => {
            let encode = |c: &Conversation| Ok(Item { row: c.row, id: c.id.clone(), texts: vec![encoder.conversation(c)?.ids] });
            data::keep(path, data::conversations(path, on_bad_row)?, on_bad_row, encode)
        }
        Kind::Labelled => {
            let encode = |l: &Labelled| Ok(Item { row: l.row, id: l.id.clone(), texts: vec![encoder.labelled(l)?.ids] });
            data::keep(path, data::labelled(path, on_bad_row)?, on_bad_row, encode)
        }
        Kind::Pairs => {
            let encode = |p: &Pair| {
                let (chosen, rejected) = encoder.pair(p)?;
                Ok(Item { row: p.row, id: p.id.clone(), texts: vec![chosen.ids, rejected.ids] })
            };
            data::keep(path, data::pairs(path, on_bad_row)?, on_bad_row, encode)
        }
        Kind::Prompts => {
            let message = format!("{}: its rows are prompts without answers; expected conversations, prompts with answers, or pairs", path.display());
            Err(Error::Objective(message))
        }
    }
}

/// The line of a row; an error where a reward is no number.
fn line(path: &Path, item: &Item, rewards: &[f32]) -> Result<Map<String, Value>> {
    if let Some(bad) = rewards.iter().find(|r| !r.is_finite()) {
        let message = format!("{}: row {} (`{}`): its reward is {bad}; the reward model is damaged or diverged", path.display(), item.row, item.id);
        return Err(Error::Objective(message));
    }
    let mut line = Map::from_iter([("row".to_string(), json!(item.row)), ("id".to_string(), json!(item.id))]);
    match rewards {
        [chosen, rejected] => {
            line.insert("chosen".into(), json!(chosen));
            line.insert("rejected".into(), json!(rejected));
            line.insert("margin".into(), json!(chosen - rejected));
        }
        rewards => line.extend(rewards.first().map(|reward| ("reward".to_string(), json!(reward)))),
    }
    Ok(line)
}

/// Score all rows into the JSONL file `out`, which appears whole. Gives counts and means.
pub fn score(config: &ScoreConfig, out: &Path) -> Result<Map<String, Value>> {
    let tokenizer = Tokenizer::load(&config.model)?;
    let model = RewardModel::load(&config.model, &config.device.open()?)?;
    let encoder = Encoder::new(&tokenizer, model.model.config().max_position_embeddings);
    let kind = config.kind.map_or_else(|| data::kind(&config.data), Ok)?;
    let (items, skipped) = load(config, kind, &encoder)?;
    let io = |e: std::io::Error| Error::Objective(format!("{}: cannot write: {e}", out.display()));
    let mut file = AtomicFile::create(out)?;
    let (mut sum, mut texts, mut right) = (0f64, 0usize, 0f64);
    let mut from = 0;
    while from < items.len() {
        let (mut to, mut tokens) = (from, 0);
        while to < items.len() {
            tokens += items[to].texts.iter().map(Vec::len).sum::<usize>();
            if to > from && tokens > config.micro_batch_tokens {
                break;
            }
            to += 1;
        }
        let batch = &items[from..to];
        let rewards = host::to_vec(model.rewards(&Texts::pack(batch.iter().flat_map(|item| item.texts.iter().map(Vec::as_slice)))));
        let mut rest = rewards.as_slice();
        for item in batch {
            let (own, others) = rest.split_at(item.texts.len());
            rest = others;
            let line = line(&config.data, item, own)?;
            sum += own.iter().map(|&r| f64::from(r)).sum::<f64>();
            texts += own.len();
            right += line.get("margin").and_then(Value::as_f64).map_or(0.0, super::calibration::right);
            writeln!(file, "{}", Value::Object(line)).map_err(io)?;
        }
        from = to;
    }
    file.commit()?;
    let mut summary = Map::from_iter([
        ("rows".to_string(), json!(items.len())),
        ("skipped".to_string(), json!(skipped.len())),
        ("mean_reward".to_string(), json!(sum / texts as f64)),
    ]);
    if kind == Kind::Pairs {
        summary.insert("accuracy".into(), json!(right / items.len() as f64));
    }
    Ok(summary)
}
