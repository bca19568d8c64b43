//! A vision and a text tower that agree: CLIP's softmax over the batch or SigLIP's sigmoid over its pairs, on pictures and captions.
//!
//! A step is one batch, since every other item of it is a counterexample. Which caption of a picture is read, and so in which language, is
//! drawn anew in every step. Texts are `<|begin_of_text|>` (if the tokenizer has one), the caption, `<|end_of_text|>`.
//!
//! Legend: B pictures and as many captions, E features.

use super::images::Images;
use super::{read, require, spread};
use crate::checkpoint::Identity;
use crate::trainer::Outcome;
use crate::{Error, Loss, Objective, Result, Trainer, TrainerConfig};
use llm_data::pictures::Picture;
use llm_run::seed::permuted;
use llm_run::{Rng, Seed};
use llm_tensor::burn::module::Param;
use llm_tensor::burn::tensor::Tensor;
use llm_tensor::{DeviceSpec, host};
use llm_tokenizer::Tokenizer;
use llm_vision::contrastive::MAX_LOGIT_SCALE;
use llm_vision::{ImageProcessor, Pair, PairConfig, PositionInit, TextBatch, VisionFamily};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Sizes of one tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TowerSizes {
    /// Width.
    pub hidden_size: usize,
    /// Width of the feed-forward blocks.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
}

impl Default for TowerSizes {
    fn default() -> Self {
        Self { hidden_size: 128, intermediate_size: 512, num_hidden_layers: 4, num_attention_heads: 4 }
    }
}

/// Sizes of a pair; everything else is as its family has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PairSizes {
    /// Kind of both towers, and the loss that belongs to it.
    pub family: VisionFamily,
    /// Height and width of the images in pixels.
    pub image_size: usize,
    /// Height and width of a patch.
    pub patch_size: usize,
    /// The vision tower.
    pub vision: TowerSizes,
    /// The text tower.
    pub text: TowerSizes,
    /// Longest caption in tokens, begin and end included; longer ones are cut.
    pub max_position_embeddings: usize,
    /// CLIP: width of the features. SigLIP's are as wide as its vision tower.
    pub projection_dim: usize,
}

impl Default for PairSizes {
    fn default() -> Self {
        Self {
            family: VisionFamily::Clip,
            image_size: 64,
            patch_size: 8,
            vision: TowerSizes::default(),
            text: TowerSizes { num_hidden_layers: 2, ..TowerSizes::default() },
            max_position_embeddings: 64,
            projection_dim: 128,
        }
    }
}

impl PairSizes {
    /// The whole configuration, for the vocabulary of a tokenizer.
    pub fn config(&self, tokenizer: &Tokenizer) -> Result<PairConfig> {
        let mut config = PairConfig::defaults(self.family);
        let (vision, text) = (&mut config.vision, &mut config.text);
        vision.image_size = self.image_size;
        vision.patch_size = self.patch_size;
        (vision.hidden_size, vision.intermediate_size) = (self.vision.hidden_size, self.vision.intermediate_size);
        (vision.num_hidden_layers, vision.num_attention_heads) = (self.vision.num_hidden_layers, self.vision.num_attention_heads);
        (text.hidden_size, text.intermediate_size) = (self.text.hidden_size, self.text.intermediate_size);
        (text.num_hidden_layers, text.num_attention_heads) = (self.text.num_hidden_layers, self.text.num_attention_heads);
        text.max_position_embeddings = self.max_position_embeddings;
        text.projection_size = self.vision.hidden_size;
        text.vocab_size = tokenizer.vocab_size().next_multiple_of(64);
        let end = tokenizer.eos_id().ok_or_else(|| Error::Config("the tokenizer has no end-of-text token, at which a text is read".into()))?;
        if end == 2 && self.family == VisionFamily::Clip {
            let message = "the end-of-text token has id 2, which means something else in a CLIP configuration; use model.family = \"siglip\"";
            return Err(Error::Config(message.into()));
        }
        text.eos_token_id = end;
        text.bos_token_id = tokenizer.bos_id();
        text.pad_token_id = Some(tokenizer.pad_id().unwrap_or(end));
        config.projection_dim = self.projection_dim;
        config.validate()?;
        Ok(config)
    }
}

/// Which of a picture's captions a step reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptionChoice {
    /// Any, drawn for each picture.
    #[default]
    Any,
    /// The same place in every picture's list. Where captions are written by rule (in one language, of the shapes alone, of the colours
    /// alone) the pictures of a step then differ in nothing but what such a caption tells, and the tower has to learn it; among captions
    /// of all kinds the easiest, colour, decides.
    Alike,
}

impl CaptionChoice {
    /// Places in lists of the given lengths, one list for each picture of a step.
    fn places(self, lengths: &[usize], rng: &mut Rng) -> Vec<usize> {
        match self {
            Self::Any => lengths.iter().map(|&n| rng.below(n)).collect(),
            Self::Alike => {
                // By share of the list, since pictures of another kind may have fewer captions in each language.
                let share = rng.uniform();
                lengths.iter().map(|&n| ((share * n as f64) as usize).min(n - 1)).collect()
            }
        }
    }
}

/// `llm-train contrastive`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContrastiveConfig {
    /// Pictures to train on: a Parquet file or a folder of them.
    pub train: PathBuf,
    /// Held-out pictures; empty is no validation.
    pub heldout: PathBuf,
    /// Tokenizer folder; copied into the model.
    pub tokenizer: PathBuf,
    /// Sizes.
    pub model: PairSizes,
    /// How the positions of the vision tower start.
    pub position_init: PositionInit,
    /// Pictures per step; each is compared with the captions of all.
    pub batch_size: usize,
    /// Which captions they come with.
    pub caption_choice: CaptionChoice,
    /// Held-out pictures per validation, spread evenly; 0 is all.
    pub eval_pictures: usize,
    /// Keep resized images in memory if they need no more, in MiB.
    pub cache_mib: usize,
    /// Seed of initial weights, data order and choice of captions.
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceSpec,
    /// The loop.
    pub trainer: TrainerConfig,
}

impl Default for ContrastiveConfig {
    fn default() -> Self {
        Self {
            train: PathBuf::new(),
            heldout: PathBuf::new(),
            tokenizer: PathBuf::new(),
            model: PairSizes::default(),
            position_init: PositionInit::Normal,
            batch_size: 64,
            caption_choice: CaptionChoice::Any,
            eval_pictures: 256,
            cache_mib: 1024,
            seed: 0,
            device: DeviceSpec::Auto,
            trainer: TrainerConfig::default(),
        }
    }
}

/// Images and the token ids of their captions.
#[derive(Debug)]
struct Captioned {
    images: Images,
    /// `[picture][caption][token]`; at least one each.
    captions: Vec<Vec<Vec<u32>>>,
}

impl Captioned {
    fn load(path: &Path, only: Option<usize>, tokenizer: &Tokenizer, model: &PairConfig, cache_mib: usize) -> Result<Self> {
        let mut pictures = read(path)?;
        if let Some(count) = only {
            let n = pictures.len();
            pictures = spread(count, n).map(|i| std::mem::take(&mut pictures[i])).collect();
        }
        if let Some(picture) = pictures.iter().find(|p| p.captions.is_empty()) {
            return Err(Error::Objective(format!("{}: picture `{}` has no caption", path.display(), picture.id)));
        }
        let captions = pictures.iter().map(|picture| encode(picture, tokenizer, model)).collect();
        let processor = ImageProcessor::for_tower(&model.vision);
        let images = Images::take(&mut pictures, path, processor, model.vision.image_size, cache_mib << 20)?;
        Ok(Self { images, captions })
    }
}

fn encode(picture: &Picture, tokenizer: &Tokenizer, model: &PairConfig) -> Vec<Vec<u32>> {
    let (most, end) = (model.text.max_position_embeddings, model.text.eos_token_id);
    let caption = |text: &str| {
        let mut ids: Vec<u32> = model.text.bos_token_id.into_iter().chain(tokenizer.encode(text)).collect();
        ids.truncate(most - 1);
        ids.push(end);
        ids
    };
    picture.captions.iter().map(|c| caption(&c.text)).collect()
}

/// The objective.
#[derive(Debug)]
pub struct Contrastive {
    train: Captioned,
    heldout: Option<Captioned>,
    model: PairConfig,
    config: ContrastiveConfig,
    /// `[B, B]` of the last step, and the factor in them.
    seen: Mutex<Option<(Tensor<2>, Tensor<1>)>>,
}

/// Pictures and, for each, the ids of one of its captions.
#[derive(Debug)]
pub struct Batch {
    pictures: Vec<usize>,
    captions: Vec<Vec<u32>>,
}

impl Objective for Contrastive {
    type Model = Pair;
    type Batch = Batch;

    fn batches(&mut self, step: u64, _: &Pair) -> Result<Vec<Batch>> {
        let (n, b) = (self.train.captions.len() as u64, self.config.batch_size as u64);
        let order = Seed(self.config.seed).stream("picture order");
        let mut choice = Seed(self.config.seed).stream("caption").at(step).rng();
        // Whole batches of an epoch only, so that no picture stands beside itself.
        let per_epoch = n / b;
        let (epoch, first) = (order.at(step / per_epoch), step % per_epoch * b);
        let pictures: Vec<usize> = (first..first + b).map(|i| permuted(epoch, i, n) as usize).collect();
        let lengths: Vec<usize> = pictures.iter().map(|&p| self.train.captions[p].len()).collect();
        let places = self.config.caption_choice.places(&lengths, &mut choice);
        let captions = pictures.iter().zip(places).map(|(&p, place)| self.train.captions[p][place].clone()).collect();
        Ok(vec![Batch { pictures, captions }])
    }

    fn loss(&self, model: &Pair, batch: &Batch) -> Result<Loss> {
        let texts = self.texts(&batch.captions)?;
        let tokens = (texts.batch() * texts.length() + batch.pictures.len() * self.model.vision.num_tokens()) as u64;
        let image_BE = model.image_features(self.train.images.pixel_values(&batch.pictures, &model.device())?)?;
        let text_BE = model.text_features(&texts)?;
        let seen = (model.logits_per_image(image_BE.clone(), text_BE.clone()).inner(), model.logit_scale.val().inner());
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        Ok(Loss { value: model.loss(image_BE, text_BE), tokens, deferred: None })
    }

    /// CLIP's factor on cosines stays at most 100.
    fn after_step(&mut self, model: &mut Pair) {
        if self.model.family() == VisionFamily::Clip && model.logit_scale.val().is_require_grad() {
            let (id, value, _) = model.logit_scale.clone().consume();
            model.logit_scale = Param::initialized(id, Tensor::from_inner(value.inner().clamp_max(MAX_LOGIT_SCALE)).require_grad());
        }
    }

    fn settings(&self) -> Value {
        json!(self.config)
    }

    fn metrics(&mut self) -> Map<String, Value> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((logits, scale)) = seen else { return Map::new() };
        let b = logits.dims()[0];
        let right = host::to_vec(logits).chunks_exact(b).enumerate().filter(|(i, row)| largest(row) == *i).count();
        Map::from_iter([
            ("accuracy".to_string(), json!(right as f64 / b as f64)),
            ("logit_scale".to_string(), json!(f64::from(host::scalar(scale)).exp())),
        ])
    }

    fn validate(&mut self, model: &Pair) -> Result<Map<String, Value>> {
        let Some(heldout) = &self.heldout else { return Ok(Map::new()) };
        let seed = Seed(self.config.seed).stream("heldout caption");
        let captions: Vec<&Vec<u32>> = heldout.captions.iter().enumerate().map(|(i, c)| seed.at(i as u64).rng().pick(c)).collect();
        let (n, device, e) = (captions.len(), model.device(), self.model.feature_size());
        let (mut images, mut texts, mut losses) = (Vec::new(), Vec::new(), Vec::new());
        for at in (0..n).step_by(self.config.batch_size) {
            let which: Vec<usize> = (at..n.min(at + self.config.batch_size)).collect();
            let image_BE = model.image_features(heldout.images.pixel_values(&which, &device)?)?;
            let rows: Vec<Vec<u32>> = which.iter().map(|&i| captions[i].clone()).collect();
            let text_BE = model.text_features(&self.texts(&rows)?)?;
            // A rest is easier than a whole batch.
            if which.len() == self.config.batch_size || losses.is_empty() {
                losses.push(f64::from(host::scalar(model.loss(image_BE.clone(), text_BE.clone()))));
            }
            images.extend(host::to_vec(image_BE));
            texts.extend(host::to_vec(text_BE));
        }
        let logits = model.logits_per_image(host::from_vec(images, [n, e], &device), host::from_vec(texts, [n, e], &device));
        // Two pictures may have the same caption; finding either is right.
        let recall = |logits_NN: Tensor<2>| {
            let logits = host::to_vec(logits_NN);
            let right = logits.chunks_exact(n).enumerate().filter(|(i, row)| captions[largest(row)] == captions[*i]).count();
            right as f64 / n as f64
        };
        Ok(Map::from_iter([
            ("val_loss".to_string(), json!(losses.iter().sum::<f64>() / losses.len() as f64)),
            ("val_text_recall_at_1".to_string(), json!(recall(logits.clone()))),
            ("val_image_recall_at_1".to_string(), json!(recall(logits.transpose()))),
            ("val_pictures".to_string(), json!(n)),
        ]))
    }

    fn finish(&self, dir: &Path) -> Result<()> {
        Ok(self.train.images.processor().save(dir)?)
    }
}

/// Index of the largest; the first of several.
pub(super) fn largest(values: &[f32]) -> usize {
    values.iter().enumerate().fold(0, |best, (i, v)| if *v > values[best] { i } else { best })
}

impl Contrastive {
    /// CLIP's texts see nothing behind them, so the longest of the batch is long enough; SigLIP's are as long as in training.
    fn texts(&self, captions: &[Vec<u32>]) -> Result<TextBatch> {
        let text = &self.model.text;
        let length = match self.model.family() {
            VisionFamily::Clip => captions.iter().map(Vec::len).max().unwrap_or(1),
            VisionFamily::Siglip => text.max_position_embeddings,
        };
        Ok(TextBatch::padded(captions, length, text.pad_token_id.unwrap_or(text.eos_token_id))?)
    }
}

/// Train a pair of towers into `out`.
pub fn contrastive(config: ContrastiveConfig, out: &Path) -> Result<Outcome<Pair>> {
    for (key, path) in [("train", &config.train), ("tokenizer", &config.tokenizer)] {
        require(key, path)?;
    }
    if config.batch_size < 2 || config.model.max_position_embeddings < 2 {
        return Err(Error::Config("batch_size and model.max_position_embeddings must be at least 2".into()));
    }
    let tokenizer = Tokenizer::load(&config.tokenizer)?;
    let model = config.model.config(&tokenizer)?;
    let train = Captioned::load(&config.train, None, &tokenizer, &model, config.cache_mib)?;
    if train.captions.len() < config.batch_size {
        let (n, b) = (train.captions.len(), config.batch_size);
        return Err(Error::Config(format!("{}: {n} pictures are fewer than batch_size = {b}", config.train.display())));
    }
    let heldout = match config.heldout.as_os_str().is_empty() {
        true => None,
        false => Some(Captioned::load(&config.heldout, Some(config.eval_pictures), &tokenizer, &model, config.cache_mib)?),
    };
    let identity = json!({
        "config": config,
        "train": llm_run::hash::path(&config.train)?,
        "tokenizer": llm_run::hash::path(&config.tokenizer)?,
    });
    let trainer = Trainer { config: config.trainer.clone(), out: out.to_path_buf(), name: "contrastive".into(), identity: Identity::new(identity) };
    let device = config.device.open()?.autodiff();
    let seed = Seed(config.seed).stream("initial weights");
    let positions = config.position_init;
    let mut objective = Contrastive { train, heldout, model: model.clone(), config, seen: Mutex::default() };
    trainer.run(&mut objective, || Ok(Pair::init(&model, positions, seed, &device)?), &tokenizer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, a step mixes captions of several kinds, or some are never read.
    #[test]
    fn captions_alike_stand_at_the_same_place_and_all_come_up() {
        let mut rng = Seed(1).rng();
        let mut read = [false; 15];
        for _ in 0..400 {
            let places = CaptionChoice::Alike.places(&[15, 3, 15, 1], &mut rng);
            assert_eq!((places[0], places[0] / 5, 0), (places[2], places[1], places[3]), "five captions a language beside one a language");
            read[places[0]] = true;
        }
        assert!(read.iter().all(|&r| r));
        let any = (0..50).any(|_| matches!(CaptionChoice::Any.places(&[15, 15], &mut rng)[..], [a, b] if a != b));
        assert!(any, "any caption means one drawn for each picture");
    }
}
