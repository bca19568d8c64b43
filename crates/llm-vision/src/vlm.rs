//! A language model that sees: tower, connector and decoder (LLaVA, Liu et al., 2023).
//!
//! A prompt holds one placeholder token for every image token; their vectors are replaced by the connector's output in order of
//! appearance, and the decoder runs as it always does. After the prompt nothing of the image is needed: it is in the cache.
//!
//! Legend: N tokens, I images, P tokens of an image, S patches along a side of a merged square, G such squares along
//! a side, E width of the tower's features, D width of the language model.

use crate::checkpoint::{Reader, read_json, tower_tensors, write_json};
use crate::encoder::beside;
use crate::vlm_config::{ConnectorKind, SelectStrategy, VlmConfig, VlmOptions};
use crate::{Connector, Error, ImageProcessor, Result, VisionTower};
use llm_arch::decoder::Observer;
use llm_arch::hf::{self, Checkpoint, FileTensors};
use llm_arch::{CachedBatch, Decoder, KvPool, PackedBatch};
use llm_run::Seed;
use llm_tensor::burn::module::Module;
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::weights::{self, HostTensor, Pending, SaveOptions, Weights};
use llm_tensor::{Precision, ops, params};
use std::path::Path;

/// Tower, connector, decoder.
#[derive(Module, Debug)]
pub struct Vlm {
    /// The tower.
    pub vision_tower: VisionTower,
    /// The connector.
    pub multi_modal_projector: Connector,
    /// The decoder.
    pub language_model: Decoder,
    #[module(skip)]
    config: VlmConfig,
}

impl Vlm {
    /// Load a LLaVA folder. Tensor names may be those of published files or of transformers 5.
    pub fn load(dir: impl AsRef<Path>, device: &Device, precision: Precision) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join("config.json");
        let config = VlmConfig::from_json(&read_json(&path)?).map_err(|e| Error::file(&path, e.to_string()))?;
        let weights = Weights::open(dir)?;
        let mut reader = Reader::new(&weights, device, precision);
        let vision_tower = reader.tower(&config.vision);
        let name = weights.names().into_iter().find_map(|name| name.strip_suffix("multi_modal_projector.linear_1.weight")).unwrap_or_default();
        let at = format!("{name}multi_modal_projector");
        let multi_modal_projector = reader.build(|builder| Connector::build(builder, &format!("{at}."), &config));
        if config.connector == ConnectorKind::Linear {
            reader.identity(&format!("{at}.linear_2"), config.text.hidden_size);
        }
        reader.finish(dir, |name| !name.contains("language_model.") && !name.starts_with("lm_head."))?;
        let language_model = Checkpoint::open_part(dir, config.text.clone(), "language_model")?.load(device, precision)?;
        Ok(Self { vision_tower, multi_modal_projector, language_model, config })
    }

    /// A model that has not learned to see yet: a language model and a tower with a fresh connector between them, a function of the seed.
    pub fn from_parts(language_model: Decoder, vision_tower: VisionTower, options: &VlmOptions, seed: Seed) -> Result<Self> {
        let config = VlmConfig::from_parts(language_model.config(), vision_tower.config(), options)?;
        let mut multi_modal_projector = Connector::init(&config, seed.stream("multi_modal_projector"), &language_model.device())?;
        let precision = language_model.precision();
        if precision != Precision::F32 {
            multi_modal_projector = params::map(multi_modal_projector, |_, _, value| value.cast(precision.dtype()));
        }
        Ok(Self { vision_tower, multi_modal_projector, language_model, config })
    }

    /// Save a LLaVA folder: `config.json`, `generation_config.json`, `preprocessor_config.json` and weights under the names of published
    /// files, which transformers 4 and 5 read. Tokenizer files are the caller's.
    pub fn save(&self, dir: impl AsRef<Path>, processor: &ImageProcessor, options: SaveOptions) -> Result<()> {
        let dir = dir.as_ref();
        let mut seeing = tower_tensors(&self.vision_tower, "vision_tower.vision_model.");
        seeing.extend(params::to_host(&self.multi_modal_projector).into_iter().map(|(name, t)| (format!("multi_modal_projector.{name}"), t)));
        if self.config.connector == ConnectorKind::Linear {
            let d = self.config.text.hidden_size;
            let values = (0..d * d).map(|i| if i % (d + 1) == 0 { 1.0 } else { 0.0 }).collect();
            seeing.insert("multi_modal_projector.linear_2.weight".into(), HostTensor { shape: vec![d, d], values });
            if self.config.multimodal_projector_bias {
                seeing.insert("multi_modal_projector.linear_2.bias".into(), HostTensor { shape: vec![d], values: vec![0.0; d] });
            }
        }
        const TEXT: &str = "language_model.";
        let text = FileTensors::of(&self.language_model);
        let mut pending: Vec<Pending> = text.pending().into_iter().map(|t| Pending { name: format!("{TEXT}{}", t.name), ..t }).collect();
        pending.extend(seeing.iter().map(|(name, t)| Pending { name: name.clone(), shape: t.shape.clone() }));
        weights::save_folder(dir, pending, options, |tensor| match tensor.name.strip_prefix(TEXT) {
            Some(name) => text.values(name),
            None => seeing[&tensor.name].values.clone(),
        })?;
        write_json(&dir.join("config.json"), &self.config.to_json(options.precision))?;
        write_json(&dir.join("generation_config.json"), &hf::generation_config(&self.config.text))?;
        processor.save(dir)
    }

    /// Sizes and choices.
    pub fn config(&self) -> &VlmConfig {
        &self.config
    }

    /// Where the language model lives.
    pub fn device(&self) -> Device {
        self.language_model.device()
    }

    /// Number format of the weights.
    pub fn precision(&self) -> Precision {
        self.language_model.precision()
    }

    /// Learned numbers.
    pub fn num_parameters(&self) -> usize {
        Module::num_params(&self.vision_tower) + Module::num_params(&self.multi_modal_projector) + self.language_model.num_parameters()
    }

    /// The same weights, tracked for training.
    pub fn tracked(self) -> Self {
        params::track(self)
    }

    /// The same weights without tracking: for evaluation and generation. Shares memory.
    pub fn untracked(&self) -> Self {
        self.valid()
    }

    /// `pixel_values [I, C, image_size, image_size]` -> `[I * P, D]`, image after image.
    pub fn image_features(&self, pixel_values: Tensor<4>) -> Result<Tensor<2>> {
        image_features(&self.vision_tower, &self.multi_modal_projector, &self.config, pixel_values)
    }

    /// What the connector is given: `pixel_values [I, C, image_size, image_size]` -> `[I * P, E]`.
    pub fn tower_features(&self, pixel_values: Tensor<4>) -> Result<Tensor<2>> {
        tower_features(&self.vision_tower, &self.config, pixel_values)
    }

    /// Every placeholder becomes as many as an image has tokens: from one token per image to what [`Vlm::embed`] takes.
    pub fn expand(&self, ids: &[u32]) -> Vec<u32> {
        let image = self.config.image_token_id;
        ids.iter().flat_map(|&id| std::iter::repeat_n(id, if id == image { self.config.tokens_per_image() } else { 1 })).collect()
    }

    /// Token vectors `[N, D]` with the rows of `features` in the place of the placeholders, in order.
    pub fn embed(&self, ids: &[u32], features: Option<Tensor<2>>) -> Result<Tensor<2>> {
        let placeholders = ids.iter().filter(|&&id| id == self.config.image_token_id).count();
        let rows = features.as_ref().map_or(0, |f| f.dims()[0]);
        if placeholders != rows {
            let message = format!("{placeholders} image tokens for {rows} image features; each image takes {}", self.config.tokens_per_image());
            return Err(Error::Prompt(message));
        }
        let text_ND = self.language_model.embed(ids.into());
        let Some(features) = features else { return Ok(text_ND) };
        // One table of both, and for each token the row that it takes.
        let mut next = ids.len() as u32;
        let row = |(n, &id): (usize, &u32)| {
            if id != self.config.image_token_id {
                return n as u32;
            }
            next += 1;
            next - 1
        };
        let rows: Vec<u32> = ids.iter().enumerate().map(row).collect();
        // Either may be frozen and off the tape.
        let text_ND = beside(text_ND, &features.device());
        let features = beside(features, &text_ND.device()).cast(text_ND.dtype());
        Ok(ops::embedding(Tensor::cat(vec![text_ND, features], 0), rows.into()))
    }

    /// Final hidden states `[N, D]` of a packed batch whose placeholders stand for `features`.
    pub fn hidden(&self, batch: &PackedBatch, features: Option<Tensor<2>>, observer: Option<Observer>) -> Result<Tensor<2>> {
        Ok(self.language_model.hidden_from(self.embed(&batch.ids, features)?, batch, observer))
    }

    /// The same for a batch that reads and extends the cache.
    pub fn hidden_cached(&self, batch: &CachedBatch, features: Option<Tensor<2>>, pool: &mut KvPool) -> Result<Tensor<2>> {
        Ok(self.language_model.hidden_cached_from(self.embed(&batch.ids, features)?, batch, pool))
    }
}

/// [`Vlm::image_features`] for who holds the parts without the decoder.
pub fn image_features(tower: &VisionTower, connector: &Connector, config: &VlmConfig, pixel_values: Tensor<4>) -> Result<Tensor<2>> {
    Ok(connector.forward(tower_features(tower, config, pixel_values)?))
}

/// The chosen hidden states of the chosen tokens, side by side.
fn tower_features(tower: &VisionTower, config: &VlmConfig, pixel_values: Tensor<4>) -> Result<Tensor<2>> {
    let images = pixel_values.dims()[0];
    let VlmConfig { vision, feature_layers, select, .. } = config;
    let states = tower.hidden_states(pixel_values, feature_layers.iter().copied().max().unwrap_or(0))?;
    let first = usize::from(*select == SelectStrategy::Default);
    let selected = feature_layers.iter().map(|&i| states[i].clone().narrow(1, first, vision.num_tokens() - first)).collect();
    let x_IPE = Tensor::cat(selected, 2);
    let (width, s) = (x_IPE.dims()[2], config.spatial_merge_size);
    let tokens = images * config.tokens_per_image();
    if s == 1 {
        return Ok(x_IPE.reshape([tokens, width]));
    }
    // Squares of s x s patches, row by row, side by side in one token.
    let g = vision.grid() / s;
    let x_IGSGSE: Tensor<6> = x_IPE.reshape([images, g, s, g, s, width]);
    Ok(x_IGSGSE.swap_dims(2, 3).reshape([tokens, s * s * width]))
}
