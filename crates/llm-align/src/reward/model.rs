//! A reward model: a decoder whose output projection is replaced by one row of weights, saved and loaded as Hugging Face's sequence
//! classification with one label.
//!
//! Parameters have the names of those files: `model.*` and `score.weight`. So the decoder inside adds no name of its own.
//!
//! Legend: B texts, N tokens, M answer tokens, D hidden.

use llm_arch::{Decoder, PackedBatch, adapter, hf};
use llm_run::Seed;
use llm_tensor::burn::module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
use llm_tensor::burn::tensor::{DType, Device, Tensor};
use llm_tensor::nn::{Linear, parameter_from};
use llm_tensor::ops::{self, Indices};
use llm_tensor::weights::{SaveOptions, Weights};
use llm_tensor::{Precision, host};
use llm_tokenizer::Tokenizer;
use llm_train::sequences::Sequences;
use llm_train::{Result, Trainable};
use std::collections::BTreeSet;
use std::path::Path;

/// Name of the head among the parameters.
const SCORE: &str = "score";

/// A decoder that gives texts a number. Rewards are only defined up to a constant: their differences are learned.
#[derive(Debug, Clone)]
pub struct RewardModel {
    /// The decoder, without output projection.
    pub model: Decoder,
    /// `[1, D]`.
    pub score: Linear,
    /// Written into the model folder for the padding of others; texts must not end with it.
    pub pad_token_id: Option<u32>,
}

/// Whole texts of any length as one packed batch without padding: every token is an input.
#[derive(Debug, Clone)]
pub struct Texts {
    /// Inputs.
    pub batch: PackedBatch,
    /// `[B]` positions of the last tokens.
    pub last: Indices,
}

impl Texts {
    /// Pack texts of at least one token each.
    pub fn pack<'a>(texts: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let (mut ids, mut starts, mut last) = (Vec::new(), Vec::new(), Vec::new());
        for text in texts {
            starts.push(ids.len() as u32);
            ids.extend_from_slice(text);
            last.push((ids.len() as u32).saturating_sub(1));
        }
        let length = ids.len();
        Self { batch: PackedBatch::documents(ids, &[&starts], length), last: last.into() }
    }
}

impl RewardModel {
    /// A decoder with a fresh head: normal, with standard deviation `1 / sqrt(D + 1)` (Stiennon et al., 2020).
    pub fn from_decoder(decoder: Decoder, seed: Seed) -> Self {
        let width = decoder.config().hidden_size;
        let mut rng = seed.stream("score").rng();
        let std = 1.0 / ((width + 1) as f64).sqrt();
        Self::with_score(decoder, (0..width).map(|_| (rng.normal() * std) as f32).collect())
    }

    /// A decoder with a head of zeros: every text gets 0 until something is learned.
    pub fn zeroed(decoder: Decoder) -> Self {
        let width = decoder.config().hidden_size;
        Self::with_score(decoder, vec![0.0; width])
    }

    fn with_score(decoder: Decoder, score: Vec<f32>) -> Self {
        let pad_token_id = decoder.config().pad_token_id;
        let (device, precision, width) = (decoder.device(), decoder.precision(), score.len());
        let score = Linear::dense(parameter_from(score, [1, width], precision, &device), None);
        Self { model: decoder.without_head(), score, pad_token_id }
    }

    /// Choose the padding token that is written down: the model's or the tokenizer's, unless texts end with it. None means that others
    /// must give this model one text at a time; with the end token as padding they would silently read the reward one token too early.
    pub fn with_pad_token(mut self, tokenizer: &Tokenizer) -> Self {
        let ends = &self.model.config().eos_token_id;
        let candidates = [self.pad_token_id, tokenizer.pad_id(), tokenizer.unk_id()];
        let usable = |id: &u32| !ends.contains(id) && tokenizer.eos_id() != Some(*id);
        self.pad_token_id = candidates.into_iter().flatten().find(usable);
        self
    }

    /// Load a sequence-classification folder with one label in `f32`.
    pub fn load(dir: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let (decoder, score) = hf::load_classifier(dir, None, device, Precision::F32)?;
        Ok(Self::with_score(decoder, score))
    }

    /// Save as a sequence-classification folder, without tokenizer.
    pub fn save(&self, dir: impl AsRef<Path>, options: SaveOptions) -> Result<()> {
        let score = self.score.weight.val();
        let score = if score.device().is_autodiff() { score.inner() } else { score };
        Ok(hf::save_classifier(dir, &self.model, &host::to_vec(score), self.pad_token_id, options)?)
    }

    /// The same without tracking, for scoring. Shares memory.
    pub fn untracked(&self) -> Self {
        self.valid()
    }

    /// Rewards `[B]` of whole texts: the head at each one's last token, the end token if there is one.
    pub fn rewards(&self, texts: &Texts) -> Tensor<1> {
        self.score_rows(self.model.hidden(&texts.batch), &texts.last)
    }

    /// Values `[M]` of a value function of this shape: what it expects before each trained token is chosen.
    pub fn values(&self, sequences: &Sequences) -> Tensor<1> {
        self.score_rows(self.model.hidden(&sequences.batch), &sequences.rows)
    }

    /// The head on some rows of final hidden states `[N, D]`, in `f32`.
    pub fn score_rows(&self, hidden_ND: Tensor<2>, rows: &Indices) -> Tensor<1> {
        head(&self.score, ops::embedding(hidden_ND, rows.clone()))
    }
}

/// Does the folder hold a model with a scalar head?
pub(crate) fn is_classifier(dir: &Path) -> Result<bool> {
    // An adapter's folder is a language model's.
    Ok(!adapter::is_folder(dir) && Weights::open(dir)?.contains("score.weight"))
}

/// A scalar head on hidden states `[M, D]`: `[M]` in `f32`.
pub(crate) fn head(score: &Linear, hidden_MD: Tensor<2>) -> Tensor<1> {
    let m = hidden_MD.dims()[0];
    score.forward(hidden_MD).reshape([m]).cast(DType::F32)
}

impl Module for RewardModel {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.score.collect_devices(self.model.collect_devices(devices))
    }
    fn fork(self, device: &Device) -> Self {
        Self { model: self.model.fork(device), score: self.score.fork(device), ..self }
    }
    fn to_device(self, device: &Device) -> Self {
        Self { model: self.model.to_device(device), score: self.score.to_device(device), ..self }
    }
    fn train(self) -> Self {
        Self { model: self.model.train(), score: self.score.train(), ..self }
    }
    fn valid(&self) -> Self {
        Self { model: self.model.valid(), score: self.score.valid(), pad_token_id: self.pad_token_id }
    }
    fn materialize(self) -> Self {
        Self { model: self.model.materialize(), score: self.score.materialize(), ..self }
    }
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.model.visit(visitor);
        visitor.enter_module(SCORE, "Struct:RewardModel");
        self.score.visit(visitor);
        visitor.exit_module(SCORE, "Struct:RewardModel");
    }
    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let model = Module::map(self.model, mapper);
        mapper.enter_module(SCORE, "Struct:RewardModel");
        let score = Module::map(self.score, mapper);
        mapper.exit_module(SCORE, "Struct:RewardModel");
        Self { model, score, pad_token_id: self.pad_token_id }
    }
}

impl ModuleDisplay for RewardModel {}
impl ModuleDisplayDefault for RewardModel {
    fn content(&self, content: Content) -> Option<Content> {
        content.add("model", &self.model).add(SCORE, &self.score).optional()
    }
}

impl Trainable for RewardModel {
    fn device(&self) -> Device {
        self.model.device()
    }

    fn precision(&self) -> Precision {
        self.model.precision()
    }

    fn buffers(&self) -> BTreeSet<String> {
        Trainable::buffers(&self.model)
    }

    fn save(&self, dir: &Path, options: SaveOptions) -> Result<()> {
        self.save(dir, options)
    }

    fn restore(&self, dir: &Path) -> Result<Self> {
        let (decoder, score) = hf::load_classifier(dir, Some(self.model.config()), &self.model.device(), self.model.precision())?;
        Ok(Self { pad_token_id: self.pad_token_id, ..Self::with_score(decoder, score) })
    }

    fn decoder(&self) -> Option<(&Decoder, &'static str)> {
        Some((&self.model, ""))
    }

    fn flops_per_token(&self, length: usize) -> Option<f64> {
        self.model.flops_per_token(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_arch::DecoderConfig;
    use llm_tensor::params;

    fn tiny() -> RewardModel {
        let config = DecoderConfig {
            vocab_size: 40,
            hidden_size: 16,
            intermediate_size: 32,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            max_position_embeddings: 32,
            ..DecoderConfig::default()
        };
        RewardModel::from_decoder(Decoder::new(&config, Seed(3), &Device::flex()).unwrap(), Seed(4))
    }

    /// If this fails, optimiser states and freeze patterns use names that no file has.
    #[test]
    fn parameters_have_the_names_of_files() {
        let names: Vec<String> = params::shapes(&tiny()).into_keys().collect();
        assert!(names.contains(&"model.embed_tokens.weight".to_string()) && names.contains(&"score.weight".to_string()), "{names:?}");
        assert!(names.iter().all(|n| n == "score.weight" || n.starts_with("model.") && !n.starts_with("model.model.")), "{names:?}");
    }

    /// If this fails, neighbours in a batch change a text's reward, or it is read at the wrong token.
    #[test]
    fn a_text_has_its_reward_in_any_company() {
        let model = tiny();
        let texts: [&[u32]; 3] = [&[5, 6, 7], &[9], &[1, 2, 3, 4, 8]];
        let together = host::to_vec(model.rewards(&Texts::pack(texts)));
        for (text, got) in texts.into_iter().zip(together) {
            let alone = host::to_vec(model.rewards(&Texts::pack([text])));
            assert!((alone[0] - got).abs() < 1e-5, "{alone:?} is not {got}");
        }
    }
}
