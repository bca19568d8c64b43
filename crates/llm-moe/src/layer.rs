//! The block: router, routed experts, shared experts.
//!
//! Field names are DeepSeek's tensor names; families that spell them otherwise (Mixtral's `block_sparse_moe`, Qwen2's
//! `shared_expert`) are translated by whoever reads the checkpoint.
//!
//! Legend: N tokens, D hidden, E experts, K experts per token.

use crate::{Error, Experts, Grouping, MoeConfig, Result, Router, TopkMethod, balance};
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};
use llm_run::Seed;
use llm_tensor::nn::{Linear, parameter};
use llm_tensor::{burn, host, ops};
use std::sync::Arc;

/// A feed-forward that sees every token.
#[derive(Module, Debug)]
pub struct SharedExpert {
    /// `[F, D]`.
    pub gate_proj: Linear,
    /// `[F, D]`.
    pub up_proj: Linear,
    /// `[D, F]`.
    pub down_proj: Linear,
}

/// A mixture-of-experts feed-forward.
#[derive(Module, Debug)]
pub struct Moe {
    /// Router.
    pub gate: Router,
    /// Routed experts.
    pub experts: Experts,
    /// The expert of every token.
    pub shared_experts: Option<SharedExpert>,
    /// `[1, D]`: how much of it (Qwen2-MoE).
    pub shared_expert_gate: Option<Linear>,
    #[module(skip)]
    config: MoeConfig,
}

/// What the router did with one batch: for auxiliary losses, bias updates and statistics.
#[derive(Debug, Clone)]
pub struct Routing {
    /// `[N, E]`, differentiable.
    pub logits_NE: Tensor<2>,
    /// `[N * K]`: each token's experts, best first.
    pub chosen: Arc<[u32]>,
    /// `[E]`: choices per expert, the dropped ones included.
    pub counts: Vec<u64>,
    /// Choices beyond the capacity of their expert.
    pub dropped: usize,
}

impl Moe {
    /// A layer whose values `init` hands out by parameter name (relative to the layer, as in `gate.weight` or
    /// `experts.gate_proj`) and shape, row-major.
    pub fn new(config: &MoeConfig, hidden_size: usize, init: &mut dyn FnMut(&str, &[usize]) -> Vec<f32>, device: &Device) -> Result<Self> {
        config.validate()?;
        let (d, e, f) = (hidden_size, config.num_experts, config.moe_intermediate_size);
        let mut source = Source { init, device };
        let bias = match config.topk_method {
            // A buffer, so not `parameter`, which would be tracked.
            TopkMethod::NoauxTc => Some(Param::from_tensor(source.tensor("gate.e_score_correction_bias", [e])?).set_require_grad(false)),
            _ => None,
        };
        let shared = config.shared_expert_intermediate_size;
        Ok(Self {
            gate: Router { weight: parameter(source.tensor("gate.weight", [e, d])?), e_score_correction_bias: bias },
            experts: Experts {
                gate_proj: parameter(source.tensor("experts.gate_proj", [e, f, d])?),
                up_proj: parameter(source.tensor("experts.up_proj", [e, f, d])?),
                down_proj: parameter(source.tensor("experts.down_proj", [e, d, f])?),
            },
            shared_experts: if shared > 0 {
                Some(SharedExpert {
                    gate_proj: source.linear("shared_experts.gate_proj.weight", [shared, d])?,
                    up_proj: source.linear("shared_experts.up_proj.weight", [shared, d])?,
                    down_proj: source.linear("shared_experts.down_proj.weight", [d, shared])?,
                })
            } else {
                None
            },
            shared_expert_gate: if config.shared_expert_gate { Some(source.linear("shared_expert_gate.weight", [1, d])?) } else { None },
            config: config.clone(),
        })
    }

    /// Sizes and choices.
    pub fn config(&self) -> &MoeConfig {
        &self.config
    }

    /// `[N, D]` -> `[N, D]`. `training` carries the randomness of the jitter and switches jitter and capacity on; without
    /// it a token's result depends on that token alone.
    pub fn forward(&self, x_ND: Tensor<2>, training: Option<Seed>) -> (Tensor<2>, Routing) {
        let config = &self.config;
        let x_ND = match training {
            Some(seed) if config.router_jitter_noise > 0.0 => jitter(x_ND, config.router_jitter_noise, seed),
            _ => x_ND,
        };
        let capacity = training.and_then(|_| config.capacity(x_ND.dims()[0]));
        let logits_NE = self.gate.logits(x_ND.clone());
        let (chosen, weights_NK) = self.gate.choose(config, logits_NE.clone());
        let grouping = Grouping::new(&chosen, config.num_experts, config.num_experts_per_tok, capacity);
        let mut y_ND = self.experts.forward(x_ND.clone(), &grouping, weights_NK);
        if let Some(shared) = &self.shared_experts {
            let out_ND = shared.forward(x_ND.clone());
            y_ND = y_ND
                + match &self.shared_expert_gate {
                    Some(gate) => out_ND * activation::sigmoid(gate.forward(x_ND)),
                    None => out_ND,
                };
        }
        (y_ND, Routing { logits_NE, chosen, counts: grouping.counts, dropped: grouping.dropped })
    }

    /// Move the correction bias against the load of a step, `counts [E]` summed over everything the step saw. Called after the
    /// optimiser; does nothing without a bias or with `bias_update_rate = 0`.
    pub fn update_bias(&mut self, counts: &[u64]) {
        if let Some(bias) = self.gate.e_score_correction_bias.take() {
            let (id, tensor, _) = bias.consume();
            let device = tensor.device();
            let moved = balance::bias_update(&host::to_vec(tensor), counts, self.config.bias_update_rate);
            let moved = host::from_vec(moved, [self.config.num_experts], &device);
            self.gate.e_score_correction_bias = Some(Param::initialized(id, moved).set_require_grad(false));
        }
    }
}

impl SharedExpert {
    fn forward(&self, x_ND: Tensor<2>) -> Tensor<2> {
        self.down_proj.forward(ops::swiglu(self.gate_proj.forward(x_ND.clone()), self.up_proj.forward(x_ND)))
    }
}

fn jitter(x_ND: Tensor<2>, noise: f64, seed: Seed) -> Tensor<2> {
    let shape = x_ND.dims();
    let mut rng = seed.rng();
    let factors = (0..shape[0] * shape[1]).map(|_| (1.0 + noise * (2.0 * rng.uniform() - 1.0)) as f32).collect();
    let factors = host::from_vec(factors, shape, &x_ND.device()).cast(x_ND.dtype());
    x_ND * factors
}

/// Initial values by name.
struct Source<'a> {
    init: &'a mut dyn FnMut(&str, &[usize]) -> Vec<f32>,
    device: &'a Device,
}

impl Source<'_> {
    fn tensor<const R: usize>(&mut self, name: &str, shape: [usize; R]) -> Result<Tensor<R>> {
        let values = (self.init)(name, &shape);
        if values.len() != shape.iter().product::<usize>() {
            return Err(Error::Parameter { name: name.into(), shape: shape.to_vec(), got: values.len() });
        }
        Ok(host::from_vec(values, shape, self.device))
    }

    fn linear(&mut self, name: &str, shape: [usize; 2]) -> Result<Linear> {
        Ok(Linear::dense(parameter(self.tensor(name, shape)?), None))
    }
}
