//! Writing a tokenizer in other programs' formats. What a format cannot express is refused and named, never left out silently.

use super::gguf::{Metadata, Value};
use super::{gguf_vocab, tiktoken};
use crate::added::AddedToken;
use crate::byte_level;
use crate::error::{Error, Result, format};
use crate::native::{BpeSection, VocabEntry};
use crate::pretokenize::Pattern;
use crate::spm::json::to_model;
use crate::spm::model::{PieceModel, PieceType};
use crate::tokenizer::{Engine, Tokenizer};
use llm_run::atomic;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// A format of tokenizer files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A folder with tokenizer.json (transformers, tokenizers, vLLM)
    Hf,
    /// tokenizer.model (sentencepiece)
    Sentencepiece,
    /// NAME.tiktoken and NAME.json (tiktoken)
    Tiktoken,
    /// A GGUF file without tensors (llama.cpp)
    Gguf,
}

/// A byte-level BPE laid open.
struct ByteLevel {
    vocab: Vec<VocabEntry>,
    section: BpeSection,
    rules: Vec<(u32, u32, u32)>,
    pattern: Pattern,
}

impl Tokenizer {
    /// Write the tokenizer in a format; the files that were written.
    ///
    /// `path` is a folder for [`Format::Hf`], else a file. The error names what the format cannot express.
    pub fn save_as(&self, format: Format, path: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        let path = path.as_ref();
        match format {
            Format::Hf => {
                self.save(path)?;
                Ok(vec![path.to_path_buf()])
            }
            Format::Sentencepiece => {
                let model = self.pieces().map_err(|what| refused(path, "a SentencePiece model", &what))?;
                atomic::write(path, model.to_bytes())?;
                Ok(vec![path.to_path_buf()])
            }
            Format::Tiktoken => {
                let (file, sidecar) = self.ranks(path)?;
                let beside = tiktoken::sidecar_of(path);
                let text = serde_json::to_string_pretty(&sidecar).unwrap_or_default() + "\n";
                atomic::write(&beside, text)?;
                atomic::write(path, file)?;
                Ok(vec![path.to_path_buf(), beside])
            }
            Format::Gguf => {
                atomic::write(path, self.gguf_metadata(path)?.to_bytes())?;
                Ok(vec![path.to_path_buf()])
            }
        }
    }

    /// What a GGUF file says about this tokenizer; `path` is named in errors. The error says what the format cannot express.
    pub fn gguf_metadata(&self, path: impl AsRef<Path>) -> Result<Metadata> {
        let path = path.as_ref();
        let metadata = match self.pieces() {
            Ok(model) => gguf_vocab::of_pieces(&model, &self.0.config),
            Err(_) if matches!(self.0.engine, Engine::ByteLevel(_)) => self.gguf_byte_level(path)?,
            Err(what) => Err(what),
        };
        let mut metadata = metadata.map_err(|what| refused(path, "a GGUF vocabulary", &what))?;
        if let Some(template) = self.chat_template() {
            metadata.0.insert("tokenizer.chat_template".into(), Value::Text(template.source().to_string()));
        }
        Ok(metadata)
    }

    fn pieces(&self) -> Result<Cow<'_, PieceModel>, String> {
        let spm = match &self.0.engine {
            Engine::Pieces(spm) => spm,
            Engine::ByteLevel(_) => return Err("byte-level BPE: its tokens are bytes, not pieces of text".into()),
            Engine::Fallback(_) => return Err("its pipeline (see `llm-tokenizer inspect`); byte-level BPE and pieces can be converted".into()),
        };
        match &spm.model {
            Some(model) => Ok(Cow::Borrowed(model)),
            None => to_model(&self.json_value()?, spm, self.added_tokens(), &self.0.config).map(Cow::Owned),
        }
    }

    fn byte_level(&self, path: &Path, kind: &str) -> Result<ByteLevel> {
        let Engine::ByteLevel(native) = &self.0.engine else {
            return Err(refused(path, kind, "anything but byte-level BPE"));
        };
        if native.nfc() {
            return Err(refused(path, kind, "its normalisation (NFC)"));
        }
        let json = self.json_value().map_err(|e| format(path, e))?;
        let section = BpeSection::deserialize(&json["model"]).map_err(|e| format(path, format!("model: {e}")))?;
        let vocab = section.vocab.iter().filter_map(|(token, &id)| Some((byte_level::from_alphabet(token)?, id))).collect();
        let rules = section.rules(path)?;
        Ok(ByteLevel { vocab, section, rules, pattern: native.pattern() })
    }

    fn ranks(&self, path: &Path) -> Result<(Vec<u8>, tiktoken::Sidecar)> {
        let ByteLevel { vocab, rules, pattern, .. } = self.byte_level(path, "a tiktoken file")?;
        if let Some(token) = self.added_tokens().iter().find(|t| !t.special) {
            let what = format!("the added token {:?}, which is not special: tiktoken knows control tokens and ranks", token.content);
            return Err(refused(path, "a tiktoken file", &what));
        }
        tiktoken::write(&vocab, &rules, pattern, self.added_tokens()).map_err(|what| refused(path, "a tiktoken file", &what))
    }

    fn gguf_byte_level(&self, path: &Path) -> Result<Result<Metadata, String>> {
        let ByteLevel { section, pattern, .. } = self.byte_level(path, "a GGUF vocabulary")?;
        let size = self.vocab_size();
        let mut tokens: Vec<String> = (0..size).map(|id| format!("[PAD{id}]")).collect();
        let mut kinds = vec![PieceType::Unused; size];
        for (token, &id) in &section.vocab {
            tokens[id as usize].clone_from(token);
            kinds[id as usize] = PieceType::Normal;
        }
        for AddedToken { id, content, special, .. } in self.added_tokens() {
            tokens[*id as usize].clone_from(content);
            kinds[*id as usize] = if *special { PieceType::Control } else { PieceType::UserDefined };
        }
        let merges = section.merge_lines();
        Ok(gguf_vocab::of_byte_level(tokens, &kinds, merges, pattern, section.ignore_merges, &self.0.config))
    }
}

fn refused(path: &Path, kind: &str, what: &str) -> Error {
    format(path, format!("this tokenizer cannot be written as {kind}: {kind} cannot express {what}"))
}
