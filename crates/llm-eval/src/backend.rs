//! Who answers: the text-level face of a model, whether it lies in this memory or behind a URL.
//!
//! Tasks make [`Instance`]s and count [`Answer`]s; in between stands [`Backend`]. [`crate::tokens::Tokens`] puts any
//! [`crate::model::LanguageModel`] behind it; a server is another.

use crate::error::Result;
use crate::prompt::Instance;
use crate::task::Answer;
use serde_json::json;

/// Which model it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Folder or URL.
    pub path: std::path::PathBuf,
    /// Its name.
    pub id: String,
    /// BLAKE3 of the weights; empty where nobody knows.
    pub hash: String,
    /// BLAKE3 of everything that an answer depends on: weights, tokenizer, chat template, number format, context.
    pub key: String,
}

/// An instance as the model reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prepared {
    /// The prompt as one text, chat template applied.
    pub text: String,
    /// Its tokens, before anything is cut off; empty where the tokenizer is on the other side.
    pub context: Vec<u32>,
    /// Tokens of the continuation, for likelihoods.
    pub continuation: Vec<u32>,
}

/// Something that answers instances.
pub trait Backend {
    /// Which model it is.
    fn identity(&self) -> Identity;

    /// Render and encode, in order.
    fn prepare(&self, instances: &[Instance]) -> Result<Vec<Prepared>>;

    /// Answer every instance that is not `known`; `done` hears of each as soon as it is answered, in any order. The same
    /// instances give the same answers whatever is known.
    fn answer(&self, instances: &[Instance], prepared: &[Prepared], known: &[bool], done: &mut dyn FnMut(usize, Answer) -> Result<()>) -> Result<()>;
}

/// Names a request in the journal: BLAKE3 of the model, the task's name and version, and everything that is asked.
pub fn request_id(identity: &Identity, task: &str, instance: &Instance, prepared: &Prepared) -> String {
    let asked = match instance {
        Instance::Likelihood { continuation, .. } => json!(["likelihood", continuation]),
        Instance::Rolling { text } => json!(["rolling", text]),
        Instance::Generate { images, settings, repeat, .. } => json!(["generate", images, settings, repeat]),
    };
    let Prepared { text, context, continuation } = prepared;
    llm_run::hash::bytes(json!([identity.key, task, text, context, continuation, asked]).to_string().as_bytes())
}
