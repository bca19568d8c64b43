//! One prompt with its images, continued token by token through the cache. Many at once are `llm-infer`'s business.

use crate::{Error, Result, Vlm};
use llm_arch::{CachedBatch, KvDtype, KvPool};
use llm_tensor::burn::tensor::Tensor;
use llm_tensor::host::to_vec;

const PAGE: usize = 16;

/// A sequence being read and written.
#[derive(Debug)]
pub struct Sequence<'a> {
    vlm: &'a Vlm,
    pool: KvPool,
    pages: Vec<u32>,
    length: usize,
}

impl<'a> Sequence<'a> {
    /// Room for that many tokens, image tokens included.
    pub fn new(vlm: &'a Vlm, tokens: usize) -> Self {
        let pages: Vec<u32> = (0..tokens.div_ceil(PAGE).max(1) as u32).collect();
        let pool = KvPool::new(vlm.language_model.config(), pages.len(), PAGE, KvDtype::F32);
        Self { vlm, pool, pages, length: 0 }
    }

    /// Read tokens, whose placeholders stand for the rows of `features [I * P, D]`, and return the logits `[V]` after the last of them.
    pub fn read(&mut self, ids: &[u32], features: Option<Tensor<2>>) -> Result<Vec<f32>> {
        let (from, room) = (self.length, self.pages.len() * PAGE);
        if ids.is_empty() || from + ids.len() > room {
            return Err(Error::Prompt(format!("{} tokens after {from} in a sequence with room for {room}", ids.len())));
        }
        self.length += ids.len();
        let positions = (from as u32..self.length as u32).collect();
        let batch = CachedBatch { ids: ids.into(), positions, pages: vec![&self.pages; ids.len()] };
        let hidden_ND = self.vlm.hidden_cached(&batch, features, &mut self.pool)?;
        Ok(to_vec(self.vlm.language_model.logits(hidden_ND.narrow(0, ids.len() - 1, 1))))
    }
}
