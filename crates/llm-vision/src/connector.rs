//! From the tower's width to the language model's: one linear layer (LLaVA) or two with a gelu between (LLaVA-1.5, section 3.2).
//!
//! Legend: N image tokens, E width of the tower's features, D width of the language model.

use crate::build::Builder;
use crate::encoder::beside;
use crate::vlm_config::{ConnectorKind, VlmConfig};
use crate::{Result, init};
use llm_run::Seed;
use llm_tensor::burn::module::Module;
use llm_tensor::burn::tensor::{Device, Tensor};
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
    /// Fresh random weights: a function of the seed and each parameter's name.
    pub fn init(config: &VlmConfig, seed: Seed, device: &Device) -> Result<Self> {
        config.validate()?;
        let mut values = init::connector(seed);
        Ok(Self::build(&mut Builder::new(&mut values, device), "", config))
    }

    /// Names begin with `at`.
    pub(crate) fn build(builder: &mut Builder, at: &str, config: &VlmConfig) -> Self {
        let (d, e, bias) = (config.text.hidden_size, config.feature_size(), config.multimodal_projector_bias);
        Self {
            linear_1: builder.linear(&format!("{at}linear_1"), d, e, bias),
            linear_2: (config.connector == ConnectorKind::Mlp).then(|| builder.linear(&format!("{at}linear_2"), d, d, bias)),
            hidden_act: config.projector_hidden_act,
        }
    }

    /// `[N, E]` -> `[N, D]`.
    pub fn forward(&self, x_NE: Tensor<2>) -> Tensor<2> {
        let weight = self.linear_1.weight.val();
        let x_ND = self.linear_1.forward(beside(x_NE, &weight.device()));
        match &self.linear_2 {
            Some(second) => second.forward(ops::activate(x_ND, self.hidden_act)),
            None => x_ND,
        }
    }
}
