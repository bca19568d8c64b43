//! The text transformers beside vision towers: CLIP's (Radford et al., 2021, section 2.4) and SigLIP's (Zhai et al., 2023).
//!
//! One forward pass for both. CLIP: a token sees those before it, and the text is what stands at its end token. SigLIP: a token sees all,
//! and the text is what stands at the last place, sent through a head; its texts are padded to the longest length, and the padding is seen.
//!
//! Field names are the tensor names of checkpoints.
//!
//! Legend: B texts, L tokens of a text, N = B*L, D hidden, E features.

use crate::config::VisionFamily;
use crate::encoder::{Encoder, Rows, Sight};
use crate::pair_config::TextConfig;
use crate::{Error, Result};
use llm_tensor::burn::module::Module;
use llm_tensor::burn::tensor::{Bool, Device, Tensor, TensorData};
use llm_tensor::nn::{Embedding, Linear, Norm};
use llm_tensor::ops::{self, AttentionSpan, Indices};
use std::sync::Arc;

/// A text tower.
#[derive(Module, Debug)]
pub struct TextTower {
    /// Tokens and positions.
    pub embeddings: TextEmbeddings,
    /// Blocks.
    pub encoder: Encoder,
    /// After the last block.
    pub final_layer_norm: Norm,
    /// SigLIP: `[E, D]`.
    pub head: Option<Linear>,
    #[module(skip)]
    pub(crate) config: TextConfig,
}

/// From ids to vectors.
#[derive(Module, Debug)]
pub struct TextEmbeddings {
    /// `[V, D]`.
    pub token_embedding: Embedding,
    /// `[L, D]`.
    pub position_embedding: Embedding,
}

/// Token ids of several texts, equally long.
#[derive(Debug, Clone)]
pub struct TextBatch {
    ids: Indices,
    length: usize,
    /// True for what may be seen; none where everything is.
    visible: Option<Arc<[bool]>>,
}

impl TextBatch {
    /// Rows of one length.
    pub fn new(rows: &[Vec<u32>]) -> Result<Self> {
        let length = rows.first().map_or(0, Vec::len);
        match rows.iter().position(|row| row.len() != length) {
            _ if length == 0 => Err(Error::Prompt("no text, or a text without tokens".into())),
            Some(i) => Err(Error::Prompt(format!("text {i} has {} tokens, the first has {length}; pad them to one length", rows[i].len()))),
            None => Ok(Self { ids: rows.concat().into(), length, visible: None }),
        }
    }

    /// Rows filled up with `pad` to `length`; longer ones are cut, keeping their last token, which is the end token.
    pub fn padded(rows: &[Vec<u32>], length: usize, pad: u32) -> Result<Self> {
        let fill = |row: &Vec<u32>| {
            let mut row = row.clone();
            if let (true, Some(&last)) = (row.len() > length, row.last()) {
                row.truncate(length.saturating_sub(1));
                row.push(last);
            }
            row.resize(length, pad);
            row
        };
        Self::new(&rows.iter().map(fill).collect::<Vec<_>>())
    }

    /// Hide tokens: `mask [B * L]`, 1 for what may be seen (`attention_mask`). CLIP and SigLIP are used without one.
    pub fn with_mask(self, mask: &[u32]) -> Result<Self> {
        if mask.len() != self.ids.len() {
            return Err(Error::Prompt(format!("attention mask of {} numbers for {} tokens", mask.len(), self.ids.len())));
        }
        Ok(Self { visible: mask.contains(&0).then(|| mask.iter().map(|&m| m != 0).collect()), ..self })
    }

    /// Texts.
    pub fn batch(&self) -> usize {
        self.ids.len() / self.length
    }

    /// Tokens of each.
    pub fn length(&self) -> usize {
        self.length
    }

    fn sight(&self, causal: bool, device: &Device) -> Sight {
        let (b, l) = (self.batch(), self.length);
        match &self.visible {
            None if causal => Sight::Causal(AttentionSpan::causal(b, l)),
            None => Sight::All,
            Some(visible) => {
                let hidden: Vec<bool> = visible.iter().map(|v| !v).collect();
                let hidden = Tensor::<4, Bool>::from_data(TensorData::new(hidden, [b, 1, 1, l]), device).expand([b, 1, l, l]);
                Sight::Masked(Box::new(if causal { hidden.bool_or(AttentionSpan::causal(b, l).mask(device)) } else { hidden }))
            }
        }
    }
}

/// What a tower makes of texts.
#[derive(Debug, Clone)]
pub struct TextOutput {
    /// `[B, L, D]`, after the last norm.
    pub last_hidden_state: Tensor<3>,
    /// CLIP: `[B, D]`. SigLIP: `[B, E]`.
    pub pooler_output: Tensor<2>,
}

impl TextTower {
    /// Sizes and choices.
    pub fn config(&self) -> &TextConfig {
        &self.config
    }

    /// Hidden states and pooled vectors of texts.
    pub fn forward(&self, batch: &TextBatch) -> Result<TextOutput> {
        let TextConfig { hidden_size: d, vocab_size, max_position_embeddings, .. } = self.config;
        let (b, l) = (batch.batch(), batch.length);
        if l > max_position_embeddings {
            return Err(Error::Prompt(format!("texts of {l} tokens; this tower takes at most {max_position_embeddings}")));
        }
        if let Some(id) = batch.ids.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(Error::Prompt(format!("token {id} is not below vocab_size = {vocab_size}; is this the tower's own tokenizer?")));
        }
        let ends = self.ends(batch)?;
        let positions: Indices = (0..b * l).map(|n| (n % l) as u32).collect();
        let x_ND = self.embeddings.token_embedding.forward(batch.ids.clone()) + self.embeddings.position_embedding.forward(positions);
        let sight = batch.sight(self.config.family == VisionFamily::Clip, &x_ND.device());
        let rows = Rows { batch: b, heads: self.config.num_attention_heads, act: self.config.hidden_act, sight };
        let x_ND = self.encoder.states(x_ND.clone(), usize::MAX, &rows).last().unwrap_or(x_ND);
        let x_ND = self.final_layer_norm.forward(x_ND);
        let pooled_BD = ops::embedding(x_ND.clone(), ends);
        let pooler_output = match &self.head {
            Some(head) => head.forward(pooled_BD),
            None => pooled_BD,
        };
        Ok(TextOutput { last_hidden_state: x_ND.reshape([b, l, d]), pooler_output })
    }

    /// The row of `[N, D]` that each text is pooled at.
    fn ends(&self, batch: &TextBatch) -> Result<Indices> {
        /// What configurations said before transformers 4.30.
        const WRONG_END: u32 = 2;
        let (l, end) = (batch.length, self.config.eos_token_id);
        let place = |(i, row): (usize, &[u32])| {
            let at = match self.config.family {
                VisionFamily::Siglip => Some(l - 1),
                // The first of the largest ids.
                VisionFamily::Clip if end == WRONG_END => (0..l).rev().max_by_key(|&t| row[t]),
                VisionFamily::Clip => row.iter().position(|&id| id == end),
            };
            let at = at.ok_or_else(|| Error::Prompt(format!("text {i} has no end token {end}, at which this tower reads it; append it")))?;
            Ok((i * l + at) as u32)
        };
        batch.ids.chunks_exact(l).enumerate().map(place).collect()
    }
}
