//! What a plan looks like when an adapter is trained: a frozen base in its own format, without gradients and moments, the parameters of the
//! updates, and what their operations keep and need.
//!
//! Beside what the projection itself keeps, an update keeps its inner outputs, with dropout a mask and the dropped inputs, and where it is
//! weight-decomposed the outputs that are multiplied with the magnitudes. A quantised projection without an update keeps no input: codes have no
//! gradient. Its gradient decodes some rows at a time; the norms of a weight-decomposed update need a whole matrix in floats, four times.
//!
//! Legend (numbers per token): I inputs, O outputs, R rank.

use super::Workload;
use crate::Result;
use llm_arch::DecoderConfig;
use llm_arch::adapter::{AdapterSpec, BaseFormat, Target, Targets};
use llm_arch::parameters::{Parameter, Role};
use llm_tensor::kernels::packed::GRADIENT_ROWS;
use llm_tensor::kernels::packed_cross_entropy::ROWS;

/// The adapter of a [`Workload`].
#[derive(Debug, Clone)]
pub struct AdapterPlan {
    spec: AdapterSpec,
    targets: Targets,
}

impl AdapterPlan {
    /// Of a model of that configuration.
    pub fn of(model: &DecoderConfig, spec: &AdapterSpec) -> Result<Self> {
        Ok(Self { spec: spec.clone(), targets: Targets::of(model, spec)? })
    }

    /// The parameters of the updates.
    pub(super) fn parameters(&self) -> Vec<Parameter> {
        self.targets.parameters(&self.spec)
    }

    pub(super) fn trains(&self, name: &str) -> bool {
        name.contains(".weight.lora_") || self.targets.saved.contains(name)
    }

    /// The shape of a matrix that is kept in the base's format.
    fn stored(&self, p: &Parameter) -> Option<[usize; 2]> {
        let matrix = matches!(p.role, Role::Matrix | Role::Embedding) && !self.trains(&p.name);
        let routed = p.name.contains(".moe.") && !p.name.contains(".shared_experts.");
        if self.spec.base == BaseFormat::None || !matrix || routed { None } else { <[usize; 2]>::try_from(p.shape.as_slice()).ok() }
    }

    /// Bytes of a parameter, `number` bytes each where it is dense. What is trained whole is there twice: the model without the adapter has its own.
    pub(super) fn bytes(&self, p: &Parameter, number: usize) -> usize {
        if self.targets.saved.contains(&p.name) {
            return 2 * p.size() * number;
        }
        match self.stored(p) {
            Some(shape) => self.spec.stored_bytes(shape, number),
            None => p.size() * number,
        }
    }

    /// Bytes that exist while the largest matrix is quantised: its values, its codes one a byte, in their layout and in that of a file.
    pub(super) fn loading(&self, all: &[Parameter]) -> f64 {
        all.iter().filter(|p| self.stored(p).is_some()).map(|p| 7.0 * p.size() as f64).fold(0.0, f64::max)
    }

    /// Is the output projection quantised?
    pub(super) fn packs_head(&self, model: &DecoderConfig) -> bool {
        let head = if model.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        self.spec.base != BaseFormat::None && !self.targets.saved.contains(head)
    }

    /// Bytes of logits that are kept and that exist for a while, where they are not those of a dense projection without an update.
    pub(super) fn logits(&self, w: &Workload) -> Option<(f64, f64)> {
        let v = w.model.vocab_size as f64;
        let tokens = w.tokens() as f64;
        if self.targets.linears.contains_key("lm_head") {
            return Some((4.0 * tokens * v, 4.0 * tokens * v));
        }
        let rows = ROWS.min(w.tokens()) as f64;
        self.packs_head(w.model).then(|| (0.0, 4.0 * (2.0 * rows * v + self.decoded(w.model.hidden_size))))
    }

    fn decoded(&self, inputs: usize) -> f64 {
        (GRADIENT_ROWS * inputs) as f64
    }

    fn layer(&self, layer: usize) -> impl Iterator<Item = (&str, &Target)> {
        let at = format!("model.layers.{layer}.");
        self.targets.linears.iter().filter(move |(name, _)| name.starts_with(&at)).map(|(name, target)| (name.as_str(), target))
    }

    /// Numbers per token that a layer keeps more, or less, than without an adapter.
    pub(super) fn kept_by_layer(&self, w: &Workload, layer: usize) -> f64 {
        let more = |target: &Target| {
            let [outputs, inputs] = target.shape;
            let dropout = if self.spec.lora_dropout > 0.0 { 2 * inputs } else { 0 };
            let products = if self.spec.use_dora { outputs } else { 0 };
            (target.rank + dropout + products) as f64
        };
        let kept: f64 = self.layer(layer).map(|(_, target)| more(target)).sum();
        if !w.fused || self.spec.base == BaseFormat::None || w.model.is_moe(layer) || w.model.mla.is_some() {
            return kept;
        }
        let has = |parts: &[&str]| self.layer(layer).any(|(name, _)| parts.iter().any(|part| name.ends_with(part)));
        let (d, f) = (w.model.hidden_size, w.model.intermediate_size);
        let unkept = [
            (&["q_proj", "k_proj", "v_proj"][..], d),
            (&["o_proj"][..], w.model.num_attention_heads * w.model.value_head_size()),
            (&["gate_proj", "up_proj"][..], d),
            (&["down_proj"][..], f),
        ];
        let less: usize = unkept.iter().filter(|(parts, _)| !has(parts)).map(|(_, numbers)| numbers).sum();
        kept - less as f64
    }

    /// Bytes that decoding takes in the backward pass of a layer.
    pub(super) fn scratch(&self, model: &DecoderConfig) -> f64 {
        let widest = model.intermediate_size.max(model.hidden_size);
        if self.spec.base == BaseFormat::None { 0.0 } else { 4.0 * self.decoded(widest) }
    }

    /// Bytes that the norms of a weight-decomposed update take in a forward pass.
    pub(super) fn norms(&self) -> f64 {
        let largest = self.targets.linears.values().map(|target| target.shape[0] * target.shape[1]).max().unwrap_or(0);
        if self.spec.use_dora { 16.0 * largest as f64 } else { 0.0 }
    }
}
