//! What is evaluated: something that scores token sequences and continues prompts.
//!
//! Tasks see [`LanguageModel`] only. [`Local`] is a model folder behind `llm_infer`, the same engine that serves, so what
//! is scored is what is served. Tests put a model with a known distribution behind the trait and check the exact numbers.

use crate::error::{Error, Result, check_interrupt};
use llm_infer::{Completion, Engine, EngineConfig, Event, Model, Request};
use llm_tensor::DeviceSpec;
use llm_tokenizer::Tokenizer;
use std::collections::BTreeMap;
use std::path::Path;

/// A model under evaluation.
pub trait LanguageModel {
    /// Its tokenizer, chat template included.
    fn tokenizer(&self) -> &Tokenizer;

    /// Tokens it can see at once, prompt and answer together.
    fn context_length(&self) -> usize;

    /// For each sequence, natural log p(token i | tokens before it) for i >= 1: one number less than there are tokens.
    fn log_probabilities(&self, sequences: &[Vec<u32>]) -> Result<Vec<Vec<f32>>>;

    /// Continue every prompt; completions come back in the order of the requests. `done` hears of each one as it ends,
    /// with the number of its tokens.
    fn generate(&self, requests: Vec<Request>, done: &mut dyn FnMut(usize)) -> Result<Vec<Completion>>;
}

/// A model folder on this machine.
pub struct Local {
    model: Model,
    max_batch: usize,
}

impl Local {
    /// Load a folder; `max_batch` requests are generated together.
    pub fn load(dir: &Path, device: DeviceSpec, max_batch: usize) -> Result<Self> {
        Ok(Self { model: Model::load(dir, &device)?, max_batch })
    }

    /// Its name and the hash of its weights.
    pub fn identity(&self) -> (&str, &str) {
        (&self.model.id, &self.model.hash)
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

    fn generate(&self, requests: Vec<Request>, done: &mut dyn FnMut(usize)) -> Result<Vec<Completion>> {
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
                    done(completion.tokens.len());
                    completions[place] = Some(completion);
                }
            }
        }
        let lost = || Error::Model { model: self.model.id.clone(), message: "the engine went idle with requests unanswered".to_string() };
        completions.into_iter().map(|c| c.ok_or_else(lost)).collect()
    }
}
