//! LoRA adapters of an engine: loaded from PEFT folders, chosen for each request, in one batch with others and with none.
//!
//! Numbers are never given twice, so what the prefix cache kept for an adapter that is gone is never taken for another's.

use crate::{Error, Result};
use llm_arch::adapter::{attach, detach};
use llm_arch::{Adapter, Decoder};
use llm_tensor::nn::lora::Rows;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names an adapter within its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdapterId(pub u32);

/// The adapters of a decoder.
#[derive(Debug, Default)]
pub struct Adapters {
    rows: Rows,
    loaded: BTreeMap<AdapterId, PathBuf>,
    next: u32,
}

impl Adapters {
    /// Read a PEFT folder and attach it to the decoder.
    pub fn load(&mut self, decoder: &mut Decoder, dir: &Path) -> Result<AdapterId> {
        let id = AdapterId(self.next);
        self.load_as(decoder, id, dir)?;
        Ok(id)
    }

    /// The same under the number that the adapter had in another engine, whose place this one takes.
    pub fn load_as(&mut self, decoder: &mut Decoder, id: AdapterId, dir: &Path) -> Result<()> {
        let adapter = Adapter::load(dir, decoder.config())?;
        attach(decoder, &self.rows, id.0, &adapter)?;
        self.next = self.next.max(id.0 + 1);
        self.loaded.insert(id, dir.to_path_buf());
        Ok(())
    }

    /// Forget an adapter. Whether requests use it is the engine's to know.
    pub fn unload(&mut self, decoder: &mut Decoder, id: AdapterId) -> Result<()> {
        self.check(id)?;
        self.loaded.remove(&id);
        detach(decoder, id.0);
        Ok(())
    }

    /// An error when there is no such adapter.
    pub fn check(&self, id: AdapterId) -> Result<()> {
        if self.loaded.contains_key(&id) {
            return Ok(());
        }
        Err(Error::Request(format!("adapter {} is not loaded", id.0)))
    }

    /// Those that are loaded, with their folders.
    pub fn loaded(&self) -> impl Iterator<Item = (AdapterId, &Path)> {
        self.loaded.iter().map(|(id, dir)| (*id, dir.as_path()))
    }

    /// Which adapter each row of the next pass uses.
    pub fn select(&self, rows: impl IntoIterator<Item = Option<AdapterId>>) {
        if self.loaded.is_empty() {
            return;
        }
        let rows: Vec<Option<u32>> = rows.into_iter().map(|id| id.map(|id| id.0)).collect();
        self.rows.select(&rows);
    }
}
