//! What is evaluated: something that scores token sequences and continues prompts.
//!
//! [`LanguageModel`] is the token-level face of a model. [`Local`] is a model folder behind `llm_infer`, the same engine that
//! serves, so what is scored is what is served; a trainer puts its weights in memory behind [`Local::from_model`]. Tests put a
//! model with a known distribution behind the trait and check the exact numbers.

use crate::backend::Identity;
use crate::error::{Error, Result, check_interrupt};
use llm_infer::{Completion, Engine, EngineConfig, Event, Image, Likelihood, Model, Request, Scored};
use llm_tensor::DeviceSpec;
use llm_tokenizer::Tokenizer;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A model under evaluation.
pub trait LanguageModel {
    /// Its tokenizer, chat template included.
    fn tokenizer(&self) -> &Tokenizer;

    /// Tokens it can see at once, prompt and answer together.
    fn context_length(&self) -> usize;

    /// For each sequence, natural log p(token i | tokens before it) for i >= 1: one number less than there are tokens.
    fn log_probabilities(&self, sequences: &[Vec<u32>]) -> Result<Vec<Vec<f32>>>;

    /// Log-likelihood of the end of each sequence, and whether it is greedy. A sequence may be one token longer than the
    /// context: its last token is never fed.
    fn likelihoods(&self, sequences: &[Scored]) -> Result<Vec<Likelihood>>;

    /// Continue every prompt; completions come back in the order of the requests. `done` hears of each one as it ends, with the
    /// place of its request.
    fn generate(&self, requests: Vec<Request>, done: &mut dyn FnMut(usize, &Completion) -> Result<()>) -> Result<Vec<Completion>>;

    /// Decode and preprocess an image file; an error that says so where the model reads text only.
    fn image(&self, bytes: &[u8]) -> Result<Image> {
        let _ = bytes;
        Err(Error::Model {
            model: self.identity().id,
            message: "it reads text only and the task shows pictures; give a vision-language model".to_string(),
        })
    }

    /// The token that stands for an image, and how many tokens an image takes; `None` where the model reads text only.
    fn image_tokens(&self) -> Option<(u32, usize)> {
        None
    }

    /// Which model it is; without a hash its answers are never written into a journal.
    fn identity(&self) -> Identity {
        Identity::default()
    }
}

/// A model folder on this machine, or weights in memory.
pub struct Local {
    model: Model,
    max_batch: usize,
    identity: Identity,
}

impl Local {
    /// Load a folder; `max_batch` requests are generated together.
    pub fn load(dir: &Path, device: DeviceSpec, max_batch: usize) -> Result<Self> {
        let mut local = Self::from_model(Model::load(dir, &device)?, max_batch);
        local.identity.path = dir.to_path_buf();
        // The tokenizer and the configuration decide what the weights are asked; the number format what they answer.
        let beside =
            ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"];
        let mut parts =
            vec![local.model.hash.clone(), format!("{:?}", local.model.decoder.precision()), format!("{:?}", local.model.decoder.device())];
        for name in beside.iter().map(|name| dir.join(name)).filter(|path| path.exists()) {
            parts.push(llm_run::hash::path(name)?);
        }
        local.identity.key = llm_run::hash::bytes(parts.join(" ").as_bytes());
        Ok(local)
    }

    /// Weights that are in memory already, e.g. a trainer's.
    pub fn from_model(model: Model, max_batch: usize) -> Self {
        let identity = Identity { path: PathBuf::from(&model.id), id: model.id.clone(), hash: model.hash.clone(), key: String::new() };
        Self { model, max_batch, identity }
    }

    /// The model itself.
    pub fn model(&self) -> &Model {
        &self.model
    }
}

impl LanguageModel for Local {
    fn tokenizer(&self) -> &Tokenizer {
        &self.model.tokenizer
    }

    fn context_length(&self) -> usize {
        self.model.decoder.config().max_position_embeddings
    }

    fn log_probabilities(&self, sequences: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        Ok(llm_infer::score(&self.model, sequences)?)
    }

    fn likelihoods(&self, sequences: &[Scored]) -> Result<Vec<Likelihood>> {
        Ok(llm_infer::likelihoods(&self.model, sequences)?)
    }

    fn generate(&self, requests: Vec<Request>, done: &mut dyn FnMut(usize, &Completion) -> Result<()>) -> Result<Vec<Completion>> {
        let mut engine = Engine::new(&self.model, EngineConfig { max_batch: self.max_batch, ..EngineConfig::default() })?;
        let mut places = BTreeMap::new();
        let mut completions: Vec<Option<Completion>> = vec![None; requests.len()];
        for (place, request) in requests.into_iter().enumerate() {
            places.insert(engine.submit(request)?, place);
        }
        while !engine.is_idle() {
            check_interrupt()?;
            for event in engine.step()? {
                if let Event::Done { id, completion } = event
                    && let Some(&place) = places.get(&id)
                {
                    done(place, &completion)?;
                    completions[place] = Some(completion);
                }
            }
        }
        let lost = || Error::Model { model: self.model.id.clone(), message: "the engine went idle with requests unanswered".to_string() };
        completions.into_iter().map(|c| c.ok_or_else(lost)).collect()
    }

    fn image(&self, bytes: &[u8]) -> Result<Image> {
        Ok(self.model.image(bytes)?)
    }

    fn image_tokens(&self) -> Option<(u32, usize)> {
        self.model.vision.as_ref().map(|v| (v.image_token_id(), v.tokens_per_image()))
    }

    fn identity(&self) -> Identity {
        self.identity.clone()
    }
}
