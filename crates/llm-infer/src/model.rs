//! A model folder, or a GGUF file, in memory.

use crate::{Error, Image, Result, Vision};
use llm_arch::{Decoder, gguf, hf};
use llm_tensor::{DeviceSpec, Precision};
use llm_tokenizer::Tokenizer;
use llm_vision::{ImageProcessor, Vlm};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

/// Weights and words of one model.
#[derive(Debug, Clone)]
pub struct Model {
    /// The network, without gradient tracking.
    pub decoder: Decoder,
    /// What it sees with; `None` for a model of text only.
    pub vision: Option<Vision>,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Folder name; for a GGUF file its name without the ending.
    pub id: String,
    /// BLAKE3 of the weights.
    pub hash: String,
    /// Tokens that end a generation.
    pub eos_token_ids: Vec<u32>,
    /// A smaller model of the same vocabulary that an engine lets guess ([`crate::Speculation::Draft`]).
    pub draft: Option<Arc<Model>>,
}

impl Model {
    /// Load `config.json`, `model.safetensors`, the tokenizer and, if present, `generation_config.json`. A LLaVA folder (`model_type` is
    /// `llava`) also needs its `preprocessor_config.json` or `processor_config.json`. A `.gguf` file, or a folder with one and without
    /// `config.json`, has everything in it.
    pub fn load(dir: impl AsRef<Path>, device: &DeviceSpec) -> Result<Self> {
        let dir = dir.as_ref();
        if let Some(file) = gguf::find(dir) {
            return Self::load_gguf(&file, device);
        }
        let several = gguf::files(dir).len();
        if several > 1 && !dir.join("config.json").exists() {
            return Err(Error::File { path: dir.to_path_buf(), message: format!("holds {several} GGUF files; name the one to load") });
        }
        if !dir.is_dir() {
            return Err(Error::File {
                path: dir.to_path_buf(),
                message: "no such model; expected a folder with config.json, model.safetensors and tokenizer.json, or a GGUF file".into(),
            });
        }
        let device = device.open()?;
        let (decoder, vision) = if Self::sees(dir) {
            let vlm = Vlm::load(dir, &device, Precision::F32)?;
            let vision = Vision::new(&vlm, ImageProcessor::load(dir)?)?;
            (vlm.language_model, Some(vision))
        } else {
            (hf::load(dir, &device)?, None)
        };
        let tokenizer = Tokenizer::load(dir)?;
        if let (Some(vision), Some(id)) = (&vision, tokenizer.image_token_id().filter(|&id| Some(id) != vision.as_ref().map(Vision::image_token_id)))
        {
            let message = format!(
                "the image token is {} with id {id}, but config.json says {}; set `image_token` in tokenizer_config.json to the right one",
                tokenizer.image_token().unwrap_or_default(),
                vision.image_token_id()
            );
            return Err(Error::File { path: dir.join("tokenizer.json"), message });
        }
        together(&dir.join("tokenizer.json"), &decoder, &tokenizer)?;
        let single = dir.join("model.safetensors");
        let hash = llm_run::hash::path(if single.exists() { &single } else { dir })?;
        let id = name(dir.canonicalize().ok().and_then(|d| d.file_name().map(OsStr::to_os_string)));
        let eos_token_ids = generation_ends(dir)?.unwrap_or_else(|| decoder.config().eos_token_id.clone());
        Ok(Self { decoder, vision, tokenizer, id, hash, eos_token_ids, draft: None })
    }

    fn load_gguf(file: &Path, device: &DeviceSpec) -> Result<Self> {
        let decoder = gguf::load(file, &device.open()?, Precision::F32)?;
        let tokenizer = Tokenizer::load(file)?;
        together(file, &decoder, &tokenizer)?;
        let eos_token_ids = decoder.config().eos_token_id.clone();
        let hash = llm_run::hash::path(file)?;
        Ok(Self { decoder, vision: None, tokenizer, id: name(file.file_stem().map(OsStr::to_os_string)), hash, eos_token_ids, draft: None })
    }

    /// Whether the folder holds a model that takes images. Whatever is wrong with its `config.json` is for [`Model::load`] to say.
    pub fn sees(dir: impl AsRef<Path>) -> bool {
        let text = std::fs::read_to_string(dir.as_ref().join("config.json")).unwrap_or_default();
        serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|config| config["model_type"] == "llava")
    }

    /// A model from parts that are already in memory, e.g. the policy of a running trainer.
    pub fn from_parts(decoder: Decoder, tokenizer: Tokenizer, id: impl Into<String>) -> Self {
        let eos_token_ids = decoder.config().eos_token_id.clone();
        Self { decoder: decoder.untracked(), vision: None, tokenizer, id: id.into(), hash: String::new(), eos_token_ids, draft: None }
    }

    /// The same with a smaller model that may guess for it.
    pub fn with_draft(mut self, draft: Model) -> Self {
        self.draft = Some(Arc::new(draft));
        self
    }

    /// Decode and preprocess a PNG, JPEG or WebP file for a [`crate::Request`].
    pub fn image(&self, bytes: &[u8]) -> Result<Image> {
        self.eyes()?.image(bytes)
    }

    /// The eyes, or an error that says that there are none.
    pub fn eyes(&self) -> Result<&Vision> {
        self.vision.as_ref().ok_or_else(|| Error::Request(format!("the model `{}` reads text only; it has no vision tower for images", self.id)))
    }

    /// Tokens a prompt takes in the context: a placeholder counts as all tokens of its image.
    pub fn prompt_len(&self, prompt: &[u32]) -> usize {
        prompt.len() + self.vision.as_ref().map_or(0, |v| v.placeholders(prompt) * (v.tokens_per_image() - 1))
    }
}

/// What people call a model whose file or folder has that name.
fn name(of: Option<OsString>) -> String {
    of.map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

/// Refuse a tokenizer whose ids the model has no rows for.
fn together(path: &Path, decoder: &Decoder, tokenizer: &Tokenizer) -> Result<()> {
    let (vocab, table) = (tokenizer.vocab_size(), decoder.config().vocab_size);
    if vocab <= table {
        return Ok(());
    }
    let message = format!("the tokenizer has {vocab} tokens but the model only {table} rows; they do not belong together");
    Err(Error::File { path: path.to_path_buf(), message })
}

fn generation_ends(dir: &Path) -> Result<Option<Vec<u32>>> {
    let path = dir.join("generation_config.json");
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(None) };
    let bad = |message: String| Error::File { path: path.clone(), message };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| bad(format!("not valid JSON: {e}")))?;
    let id = |v: &serde_json::Value| {
        v.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| bad("`eos_token_id`: expected a token id or a list of them".into()))
    };
    match value.get("eos_token_id") {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(serde_json::Value::Array(list)) => list.iter().map(id).collect::<Result<_>>().map(Some),
        Some(one) => Ok(Some(vec![id(one)?])),
    }
}
