//! A language model that learns to see (LLaVA, Liu et al., 2023): captions or questions about pictures, with text exercises in between so
//! that it forgets nothing.
//!
//! The stages are the same objective with other settings: the connector stage freezes `vision_tower.*` and `language_model.*`, the
//! instruction stage the tower alone. Where the tower is frozen, its features are computed once.
//!
//! Legend: N tokens, M of them trained, I images, P tokens of an image, E width of the tower's features, D hidden, V vocabulary.

use super::contrastive::largest;
use super::conversations::{Conversation, Form, Writer};
use super::features::Features;
use super::images::Images;
use super::whiten::whiten;
use super::{read, require};
use crate::checkpoint::Identity;
use crate::freeze::is_frozen;
use crate::sequences::Sequences;
use crate::trainer::Outcome;
use crate::{Error, Loss, Objective, Result, Trainer, TrainerConfig};
use llm_arch::hf;
use llm_run::Seed;
use llm_run::seed::permuted;
use llm_tensor::burn::tensor::Tensor;
use llm_tensor::{DeviceSpec, Precision, host, ops, params};
use llm_tokenizer::Tokenizer;
use llm_vision::checkpoint::load_tower;
use llm_vision::{ConnectorKind, ImageProcessor, SelectStrategy, VisionFamily, Vlm, VlmOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Initial weights of a connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectorInit {
    /// Small random numbers, as LLaVA.
    #[default]
    Normal,
    /// The first layer takes the tower's features centred and with equal variance in the directions that it keeps, those that tell places
    /// apart among them: for small towers. Freeze it (`multi_modal_projector.linear_1.*`), or the optimiser undoes it.
    Whitened,
}

/// `llm-train vision`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InstructConfig {
    /// A text model to give eyes to, or a LLaVA folder to train further. Its tokenizer has an image token and a chat template.
    pub model: PathBuf,
    /// Folder of a vision tower or of a pair; for a text model only.
    pub tower: PathBuf,
    /// Between a tower and a text model.
    pub connector: ConnectorKind,
    /// How a fresh connector starts.
    pub connector_init: ConnectorInit,
    /// Hidden state of the tower that is shown to a text model; negative numbers count from the last.
    pub feature_layer: i64,
    /// Which of its tokens; by default all but a class token.
    pub select: Option<SelectStrategy>,
    /// Patches along a side of the squares that become one image token; 1 is LLaVA.
    pub spatial_merge_size: usize,
    /// Pictures to train on: a Parquet file or a folder of them.
    pub train: PathBuf,
    /// Held-out pictures; empty is no validation.
    pub heldout: PathBuf,
    /// What is learned about them.
    pub form: Form,
    /// Questions about a picture in one conversation; validation always asks one.
    pub questions_together: usize,
    /// Request for a caption, by language.
    pub caption_prompts: BTreeMap<String, String>,
    /// Learn so many captions of a picture in each language, from the first: pictures come with the fullest first. 0 is all.
    pub captions_per_language: usize,
    /// JSONL of exercises without pictures; empty is none.
    pub text: PathBuf,
    /// Share of the conversations that are such exercises.
    pub text_share: f64,
    /// Conversations per step.
    pub batch_size: usize,
    /// Conversations per forward pass.
    pub micro_batch_size: usize,
    /// Longest conversation in tokens, those of the image included; 0 is what the model was made for.
    pub max_length: usize,
    /// Held-out conversations per validation, the same ones each time; 0 is all.
    pub eval_conversations: usize,
    /// Keep resized images, and features of a frozen tower, in memory if each need no more, in MiB.
    pub cache_mib: usize,
    /// Seed of the connector's initial weights and of the data order.
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceSpec,
    /// Number format of weights and activations.
    pub precision: Precision,
    /// The loop; `trainer.freeze` makes the stage.
    pub trainer: TrainerConfig,
}

impl Default for InstructConfig {
    fn default() -> Self {
        let prompts = [("de", "Beschreibe das Bild."), ("en", "Describe the image."), ("es", "Describe la imagen.")];
        Self {
            model: PathBuf::new(),
            tower: PathBuf::new(),
            connector: ConnectorKind::Mlp,
            connector_init: ConnectorInit::Normal,
            feature_layer: -2,
            select: None,
            spatial_merge_size: 1,
            train: PathBuf::new(),
            heldout: PathBuf::new(),
            form: Form::Captions,
            captions_per_language: 0,
            questions_together: 1,
            caption_prompts: prompts.into_iter().map(|(lang, text)| (lang.to_string(), text.to_string())).collect(),
            text: PathBuf::new(),
            text_share: 0.0,
            batch_size: 32,
            micro_batch_size: 8,
            max_length: 0,
            eval_conversations: 128,
            cache_mib: 1024,
            seed: 0,
            device: DeviceSpec::Auto,
            precision: Precision::F32,
            trainer: TrainerConfig::default(),
        }
    }
}

/// Pictures and what is said about them.
#[derive(Debug)]
struct Pictured {
    images: Images,
    conversations: Vec<Conversation>,
    features: Option<Features>,
}

impl Pictured {
    /// The connector's output for some pictures, `[I * P, D]`.
    fn seen(&self, model: &Vlm, pictures: &[usize]) -> Result<Option<Tensor<2>>> {
        if pictures.is_empty() {
            return Ok(None);
        }
        let (dtype, device) = (model.precision().dtype(), model.device());
        let known = self.features.as_ref().and_then(|features| features.get(pictures, dtype, &device));
        let features = match known {
            Some(features) => features,
            None => model.tower_features(self.images.pixel_values(pictures, &device)?.cast(dtype))?,
        };
        Ok(Some(model.multi_modal_projector.forward(features)))
    }

    /// Final hidden states of the trained positions, `[M, D]`.
    fn hidden(&self, model: &Vlm, sequences: &Sequences, pictures: &[usize]) -> Result<Tensor<2>> {
        let hidden_ND = model.hidden(&sequences.batch, self.seen(model, pictures)?, None)?;
        Ok(ops::embedding(hidden_ND, sequences.rows.clone()))
    }
}

/// The objective.
#[derive(Debug)]
pub struct Instruct {
    train: Pictured,
    heldout: Option<Pictured>,
    text: Vec<Conversation>,
    config: InstructConfig,
    /// Features are computed before the first step.
    tower_frozen: bool,
}

/// One micro-batch and the trained tokens of its whole step.
#[derive(Debug)]
pub struct Batch {
    sequences: Sequences,
    pictures: Vec<usize>,
    step_trained: usize,
}

impl Objective for Instruct {
    type Model = Vlm;
    type Batch = Batch;

    fn batches(&mut self, step: u64, model: &Vlm) -> Result<Vec<Batch>> {
        self.look(model)?;
        let picked = self.picked(step);
        let micro: Vec<(Sequences, Vec<usize>)> = picked.chunks(self.config.micro_batch_size).map(pack).collect();
        let step_trained = micro.iter().map(|(sequences, _)| sequences.trained()).sum();
        Ok(micro.into_iter().map(|(sequences, pictures)| Batch { sequences, pictures, step_trained }).collect())
    }

    fn loss(&self, model: &Vlm, batch: &Batch) -> Result<Loss> {
        let hidden_MD = self.train.hidden(model, &batch.sequences, &batch.pictures)?;
        let nll_M = model.language_model.nll(hidden_MD, batch.sequences.targets.clone());
        Ok(Loss { value: nll_M.sum() / batch.step_trained.max(1) as f32, tokens: batch.sequences.batch.ids.len() as u64, deferred: None })
    }

    fn settings(&self) -> Value {
        json!(self.config)
    }

    /// An answer is exact when each of its tokens is the likeliest after those before it: it is then what greedy decoding says.
    fn validate(&mut self, model: &Vlm) -> Result<Map<String, Value>> {
        self.look(model)?;
        let Some(heldout) = &self.heldout else { return Ok(Map::new()) };
        let (mut nll, mut trained) = (0f64, 0usize);
        let mut exact: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        let all: Vec<&Conversation> = heldout.conversations.iter().collect();
        for group in all.chunks(self.config.micro_batch_size) {
            let (sequences, pictures) = pack(group);
            let hidden_MD = heldout.hidden(model, &sequences, &pictures)?;
            trained += sequences.trained();
            let losses = host::to_vec(model.language_model.nll(hidden_MD.clone(), sequences.targets.clone()));
            nll += losses.iter().map(|&x| f64::from(x)).sum::<f64>();
            if self.config.form != Form::Captions {
                let logits_MV = model.language_model.logits(hidden_MD);
                let vocab = logits_MV.dims()[1];
                let mut right = vec![true; group.len()];
                for (m, row) in host::to_vec(logits_MV).chunks_exact(vocab).enumerate() {
                    right[sequences.owner[m]] &= largest(row) == sequences.targets[m] as usize;
                }
                for (conversation, right) in group.iter().zip(right).filter(|(c, _)| !c.kind.is_empty()) {
                    let (sum, n) = exact.entry(&conversation.kind).or_default();
                    *sum += usize::from(right);
                    *n += 1;
                }
            }
        }
        let mut out = Map::from_iter([("val_loss".to_string(), json!(nll / trained.max(1) as f64))]);
        if !exact.is_empty() {
            let (right, n) = exact.values().fold((0, 0), |(a, b), (right, n)| (a + right, b + n));
            out.insert("val_exact".into(), json!(right as f64 / n as f64));
            out.extend(exact.into_iter().map(|(kind, (right, n))| (format!("val_exact_{kind}"), json!(right as f64 / n as f64))));
        }
        Ok(out)
    }

    fn finish(&self, dir: &Path) -> Result<()> {
        Ok(self.train.images.processor().save(dir)?)
    }
}

/// One ragged row, and the pictures in the order of their placeholders.
fn pack(conversations: &[&Conversation]) -> (Sequences, Vec<usize>) {
    let sequences = Sequences::pack(conversations.iter().map(|c| &c.sequence));
    (sequences, conversations.iter().filter_map(|c| c.picture).collect())
}

impl Instruct {
    /// The conversations of a step: of every 1 / `text_share` one is text, and both kinds have an order of their own.
    fn picked(&self, step: u64) -> Vec<&Conversation> {
        let seed = Seed(self.config.seed);
        let b = self.config.batch_size as u64;
        let texts_before = |i: u64| (i as f64 * self.config.text_share).floor() as u64;
        let item = |list: &'_ [Conversation], order: Seed, i: u64| {
            let n = list.len() as u64;
            permuted(order.at(i / n), i % n, n) as usize
        };
        let pick = |i: u64| {
            let texts = texts_before(i);
            if texts_before(i + 1) > texts {
                &self.text[item(&self.text, seed.stream("text order"), texts)]
            } else {
                &self.train.conversations[item(&self.train.conversations, seed.stream("conversation order"), i - texts)]
            }
        };
        (step * b..(step + 1) * b).map(pick).collect()
    }

    /// Compute the features of all pictures that the run will see, if the tower is frozen and they fit.
    fn look(&mut self, model: &Vlm) -> Result<()> {
        if !std::mem::take(&mut self.tower_frozen) {
            return Ok(());
        }
        let limit = self.config.cache_mib << 20;
        let mut seen = BTreeSet::new();
        for step in 0..self.config.trainer.max_steps {
            seen.extend(self.picked(step).into_iter().filter_map(|c| c.picture));
        }
        if Features::bytes(model.config(), seen.len()) <= limit {
            self.train.features = Some(Features::compute(model, &self.train.images, &seen)?);
        }
        if let Some(heldout) = &mut self.heldout {
            let seen: BTreeSet<usize> = heldout.conversations.iter().filter_map(|c| c.picture).collect();
            if Features::bytes(model.config(), seen.len()) <= limit {
                heldout.features = Some(Features::compute(model, &heldout.images, &seen)?);
            }
        }
        Ok(())
    }
}

/// Is everything below `prefix` frozen?
fn all_frozen(model: &Vlm, prefix: &str, patterns: &[String]) -> bool {
    params::shapes(model).keys().filter(|name| name.starts_with(prefix)).all(|name| is_frozen(patterns, name))
}

/// Is it a LLaVA folder?
fn sees(model: &Path) -> Result<bool> {
    let path = model.join("config.json");
    let bad = |e: String| Error::Config(format!("{}: {e}; expected a model folder", path.display()));
    let text = std::fs::read_to_string(&path).map_err(|e| bad(format!("cannot read: {e}")))?;
    let value: Value = serde_json::from_str(&text).map_err(|e| bad(format!("not valid JSON: {e}")))?;
    Ok(value["model_type"] == "llava")
}

/// The model to start from, and what its images go through.
fn open(config: &InstructConfig, tokenizer: &Tokenizer) -> Result<(Vlm, ImageProcessor)> {
    let device = config.device.open()?;
    if sees(&config.model)? {
        if !config.tower.as_os_str().is_empty() {
            let message = format!("{} has a tower already; leave `tower` empty, or give a text model", config.model.display());
            return Err(Error::Config(message));
        }
        return Ok((Vlm::load(&config.model, &device, config.precision)?, ImageProcessor::load(&config.model)?));
    }
    require("tower", &config.tower)?;
    let image_token_id = tokenizer.image_token_id().ok_or_else(|| {
        Error::Config(format!("the tokenizer of {} has no image token; expected `<|image|>` among its added tokens", config.model.display()))
    })?;
    let tower = load_tower(&config.tower, &device, config.precision)?;
    let by_family = if tower.config().family == VisionFamily::Clip { SelectStrategy::Default } else { SelectStrategy::Full };
    let options = VlmOptions {
        image_token_id,
        connector: config.connector,
        vision_feature_layer: vec![config.feature_layer],
        vision_feature_select_strategy: config.select.unwrap_or(by_family),
        spatial_merge_size: config.spatial_merge_size,
        ..VlmOptions::default()
    };
    let processor = match ["preprocessor_config.json", "processor_config.json"].iter().any(|name| config.tower.join(name).exists()) {
        true => ImageProcessor::load(&config.tower)?,
        false => ImageProcessor::for_tower(tower.config()),
    };
    let text = hf::load_as(&config.model, &device, config.precision)?;
    Ok((Vlm::from_parts(text, tower, &options, Seed(config.seed).stream("initial weights"))?, processor))
}

/// Train a vision-language model into `out`.
pub fn instruct(config: InstructConfig, out: &Path) -> Result<Outcome<Vlm>> {
    require("model", &config.model)?;
    require("train", &config.train)?;
    if config.batch_size == 0 || config.micro_batch_size == 0 || config.questions_together == 0 {
        return Err(Error::Config("batch_size, micro_batch_size and questions_together must be positive".into()));
    }
    if !(0.0..1.0).contains(&config.text_share) {
        return Err(Error::Config(format!("text_share = {}; expected 0 or more and less than 1", config.text_share)));
    }
    let tokenizer = Tokenizer::load(&config.model)?;
    let (mut model, processor) = open(&config, &tokenizer)?;
    let freeze = &config.trainer.freeze;
    if config.text_share > 0.0 {
        require("text", &config.text)?;
        if all_frozen(&model, "language_model.", freeze) {
            return Err(Error::Config("text_share > 0, but the language model is frozen: text would train nothing; set text_share = 0".into()));
        }
    }
    let tower_frozen = all_frozen(&model, "vision_tower.", freeze);
    let context = model.config().text.max_position_embeddings;
    let writer = Writer {
        tokenizer: &tokenizer,
        model: model.config(),
        max_length: if config.max_length == 0 { context } else { config.max_length.min(context) },
        caption_prompts: &config.caption_prompts,
        captions_per_language: config.captions_per_language,
    };
    let seed = Seed(config.seed).stream("questions");
    let load = |path: &Path, together: usize, only: Option<usize>| -> Result<Pictured> {
        let mut pictures = read(path)?;
        let mut conversations = writer.pictures(path, &pictures, config.form, together, seed)?;
        if let Some(count) = only {
            let n = conversations.len();
            let count = if count == 0 { n } else { count.min(n) };
            conversations = (0..count).map(|i| conversations[permuted(seed, i as u64, n as u64) as usize].clone()).collect();
            // Only the pictures that are asked about.
            let asked: BTreeSet<usize> = conversations.iter().filter_map(|c| c.picture).collect();
            let places: BTreeMap<usize, usize> = asked.iter().enumerate().map(|(new, &old)| (old, new)).collect();
            conversations.iter_mut().for_each(|c| c.picture = c.picture.and_then(|p| places.get(&p).copied()));
            pictures = asked.into_iter().map(|i| std::mem::take(&mut pictures[i])).collect();
        }
        let images = Images::take(&mut pictures, path, processor.clone(), model.config().vision.image_size, config.cache_mib << 20)?;
        Ok(Pictured { images, conversations, features: None })
    };
    let train = load(&config.train, config.questions_together, None)?;
    let heldout = match config.heldout.as_os_str().is_empty() {
        true => None,
        false => Some(load(&config.heldout, 1, Some(config.eval_conversations))?),
    };
    let fresh = !config.tower.as_os_str().is_empty();
    let text = if config.text_share > 0.0 { writer.text(&config.text)? } else { Vec::new() };
    let mut identity = json!({"config": config});
    for (key, path) in [("model", &config.model), ("tower", &config.tower), ("train", &config.train), ("text", &config.text)] {
        if !path.as_os_str().is_empty() {
            identity[key] = json!(llm_run::hash::path(path)?);
        }
    }
    let trainer = Trainer { config: config.trainer.clone(), out: out.to_path_buf(), name: "vision".into(), identity: Identity::new(identity) };
    if fresh && config.connector_init == ConnectorInit::Whitened {
        model = whiten(model, &train.images, train.images.count(), Seed(config.seed))?;
    }
    trainer.run(&mut Instruct { train, heldout, text, config, tower_frozen }, || Ok(model), &tokenizer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequences::Sequence;
    use llm_vision::VisionConfig;

    /// If this fails, text is trained more or less often than asked for, or rows are seen twice before others are seen once.
    #[test]
    fn text_has_its_share_and_every_row_comes_once_an_epoch() {
        let conversation = |picture: Option<usize>, id: u32| {
            let sequence = Sequence { ids: vec![id, id], loss_mask: vec![false, true] };
            Conversation { picture, sequence, kind: String::new() }
        };
        let processor = ImageProcessor::for_tower(&VisionConfig::defaults(VisionFamily::Clip));
        let images = Images::take(&mut [], Path::new("none"), processor, 224, 0).unwrap();
        let conversations = (0..12).map(|i| conversation(Some(i), i as u32)).collect();
        let objective = Instruct {
            train: Pictured { images, conversations, features: None },
            heldout: None,
            text: (100..104).map(|id| conversation(None, id)).collect(),
            config: InstructConfig { text_share: 0.25, batch_size: 8, ..InstructConfig::default() },
            tower_frozen: false,
        };
        for epoch in 0..3 {
            let steps = [objective.picked(2 * epoch), objective.picked(2 * epoch + 1)];
            assert!(steps.iter().all(|step| step.iter().filter(|c| c.picture.is_none()).count() == 2));
            let mut ids: Vec<u32> = steps.concat().iter().map(|c| c.sequence.ids[0]).collect();
            ids.sort_unstable();
            assert_eq!(ids, (0..12).chain(100..104).collect::<Vec<u32>>());
        }
    }
}
