//! Parameters by part of the model.

use crate::DecoderConfig;
use crate::parameters::{Parameter, Role, parameters};
use serde::Serialize;

/// Learned numbers of a model. The parts add up to the total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Parts {
    /// All.
    pub total: usize,
    /// What one token uses: of the routed experts only the chosen ones. Equal to `total` in a dense model.
    pub active: usize,
    /// Token and position tables and the output projection; a tied table counts once.
    pub embedding: usize,
    /// Projections of attention, their biases and q/k norms.
    pub attention: usize,
    /// Dense feed-forward blocks.
    pub feed_forward: usize,
    /// Routed experts.
    pub experts: usize,
    /// Routers and shared experts.
    pub routing: usize,
    /// Norms of the residual stream.
    pub norms: usize,
    /// Numbers that multiply an input in the forward pass of one token: every active matrix and the output projection (also when it is
    /// the embedding table), but neither table lookups nor norms nor biases. The N of `2 N` FLOPs.
    pub matmul_active: usize,
}

impl Parts {
    /// Count a configuration.
    pub fn of(config: &DecoderConfig) -> Self {
        let mut parts = Self { matmul_active: config.vocab_size * config.hidden_size, ..Self::default() };
        for p in parameters(config).iter().filter(|p| p.role != Role::Buffer) {
            let (size, active) = (p.size(), active(config, p));
            parts.total += size;
            parts.active += active;
            if matches!(p.role, Role::Matrix | Role::Experts) {
                parts.matmul_active += active;
            }
            *parts.part_of(p) += size;
        }
        parts
    }

    fn part_of(&mut self, p: &Parameter) -> &mut usize {
        let within = |part: &str| p.name.contains(part);
        match p.role {
            Role::Embedding => &mut self.embedding,
            Role::Experts => &mut self.experts,
            _ if within(".self_attn.") || within(".mla.") => &mut self.attention,
            _ if within(".moe.") => &mut self.routing,
            _ if within(".mlp.") => &mut self.feed_forward,
            _ => &mut self.norms,
        }
    }
}

/// Elements of a parameter that work on one token.
fn active(config: &DecoderConfig, p: &Parameter) -> usize {
    match &config.moe {
        Some(moe) if p.role == Role::Experts => p.size() / moe.num_experts * moe.num_experts_per_tok,
        _ => p.size(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets::PRESETS;

    #[test]
    fn the_parts_add_up() {
        for p in PRESETS {
            let config = p.config();
            let parts = Parts::of(&config);
            let sum = parts.embedding + parts.attention + parts.feed_forward + parts.experts + parts.routing + parts.norms;
            assert_eq!((sum, parts.total), (p.parameters, p.parameters), "{}", p.name);
            assert_eq!(parts.active, config.num_active_parameters(), "{}", p.name);
            assert_eq!(parts.experts > 0, config.moe.is_some(), "{}", p.name);
        }
    }
}
