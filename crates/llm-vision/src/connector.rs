//! From the tower's width to the language model's: one linear layer (LLaVA) or two with a gelu between (LLaVA-1.5, section 3.2).
//!
//! Legend: N image tokens, E width of the tower's features, D width of the language model.

use llm_tensor::burn::module::Module;
use llm_tensor::burn::tensor::Tensor;
use llm_tensor::nn::Linear;
use llm_tensor::ops::{self, Activation};

/// A projector; field names are those of checkpoints.
#[derive(Module, Debug)]
pub struct Connector {
    /// `[D, E]`.
    pub linear_1: Linear,
    /// `[D, D]`; absent in a linear connector.
    pub linear_2: Option<Linear>,
    /// Between the two.
    #[module(skip)]
    pub hidden_act: Activation,
}

impl Connector {
    /// `[N, E]` -> `[N, D]`.
    pub fn forward(&self, x_NE: Tensor<2>) -> Tensor<2> {
        let x_ND = self.linear_1.forward(x_NE);
        match &self.linear_2 {
            Some(second) => second.forward(ops::activate(x_ND, self.hidden_act)),
            None => x_ND,
        }
    }
}
