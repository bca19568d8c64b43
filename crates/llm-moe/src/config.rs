//! Sizes and choices of a mixture, nothing learned. Field names are Hugging Face's (Qwen and DeepSeek configurations) where it has one.
//!
//! How the families spell themselves here:
//!
//! | family | `scoring_func` | `topk_method` | `norm_topk_prob` | besides |
//! |---|---|---|---|---|
//! | Mixtral | softmax | greedy | true | `router_jitter_noise` |
//! | Qwen2-MoE | softmax | greedy | false | a shared expert with `shared_expert_gate` |
//! | Qwen3-MoE, OLMoE | softmax | greedy | as configured | |
//! | DeepSeek-V2 | softmax | greedy or group_limited_greedy | false | shared experts, `routed_scaling_factor` |
//! | DeepSeek-V3 | sigmoid | noaux_tc | true | shared experts, `routed_scaling_factor` |

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// From a router's logits to scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scoring {
    /// Over all experts: scores of a token sum to 1.
    #[default]
    Softmax,
    /// Each expert on its own (DeepSeek-V3).
    Sigmoid,
}

/// Which experts a token gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TopkMethod {
    /// The best scores.
    #[default]
    Greedy,
    /// The best scores inside the groups that have the best single scores (DeepSeek-V2).
    GroupLimitedGreedy,
    /// The best scores after adding a correction bias, inside the groups with the best sums of two such scores; the weights
    /// come from the scores without the bias (DeepSeek-V3).
    NoauxTc,
}

/// A mixture-of-experts block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MoeConfig {
    /// Routed experts.
    pub num_experts: usize,
    /// Experts per token.
    pub num_experts_per_tok: usize,
    /// Width inside a routed expert.
    pub moe_intermediate_size: usize,
    /// Width inside the expert that sees every token; 0: there is none. (DeepSeek's `n_shared_experts` are one expert of that many widths.)
    pub shared_expert_intermediate_size: usize,
    /// The shared expert is multiplied by a learned sigmoid per token (Qwen2-MoE).
    pub shared_expert_gate: bool,
    /// Logits to scores.
    pub scoring_func: Scoring,
    /// Scores to experts.
    pub topk_method: TopkMethod,
    /// Groups of neighbouring experts; read by the two group methods.
    pub n_group: usize,
    /// Groups a token may use.
    pub topk_group: usize,
    /// Divide a token's weights by their sum.
    pub norm_topk_prob: bool,
    /// Multiplies the weights, after that division.
    pub routed_scaling_factor: f64,
    /// In training, the block's input is multiplied by uniform noise in `1 - j ..= 1 + j` (Mixtral's implementation: experts see it too).
    pub router_jitter_noise: f64,
    /// In training, an expert takes at most `ceil(factor * tokens * num_experts_per_tok / num_experts)` choices, first come first served; what
    /// overflows is dropped (Switch Transformer, section 2.2). Never at inference, where a token must not depend on its neighbours. None: no limit.
    pub capacity_factor: Option<f64>,
    /// Weight of [`crate::balance::load_balancing_loss`].
    pub router_aux_loss_coef: f64,
    /// Weight of [`crate::balance::z_loss`].
    pub router_z_loss_coef: f64,
    /// Weight of [`crate::balance::sequence_loss`].
    pub seq_aux_loss_coef: f64,
    /// Step of [`crate::balance::bias_update`]; needs `topk_method = "noaux_tc"`.
    pub bias_update_rate: f64,
}

impl Default for MoeConfig {
    /// Mixtral-8x7B's.
    fn default() -> Self {
        Self {
            num_experts: 8,
            num_experts_per_tok: 2,
            moe_intermediate_size: 14336,
            shared_expert_intermediate_size: 0,
            shared_expert_gate: false,
            scoring_func: Scoring::Softmax,
            topk_method: TopkMethod::Greedy,
            n_group: 1,
            topk_group: 1,
            norm_topk_prob: true,
            routed_scaling_factor: 1.0,
            router_jitter_noise: 0.0,
            capacity_factor: None,
            router_aux_loss_coef: 0.0,
            router_z_loss_coef: 0.0,
            seq_aux_loss_coef: 0.0,
            bias_update_rate: 0.0,
        }
    }
}

impl MoeConfig {
    /// The first contradiction, by field name.
    pub fn validate(&self) -> Result<()> {
        let bad = |message: String| Err(Error::Config(message));
        let (experts, k) = (self.num_experts, self.num_experts_per_tok);
        for (name, value) in [("num_experts", experts), ("num_experts_per_tok", k), ("moe_intermediate_size", self.moe_intermediate_size)] {
            if value == 0 || value > 1 << 28 {
                return bad(format!("`{name}` = {value}: expected a positive size"));
            }
        }
        if k > experts {
            return bad(format!("`num_experts_per_tok` = {k} must not exceed `num_experts` = {experts}"));
        }
        if self.shared_expert_gate && self.shared_expert_intermediate_size == 0 {
            return bad("`shared_expert_gate` needs a shared expert: set `shared_expert_intermediate_size`".into());
        }
        if self.topk_method != TopkMethod::Greedy {
            self.validate_groups()?;
        }
        for (name, value) in [
            ("router_aux_loss_coef", self.router_aux_loss_coef),
            ("router_z_loss_coef", self.router_z_loss_coef),
            ("seq_aux_loss_coef", self.seq_aux_loss_coef),
            ("bias_update_rate", self.bias_update_rate),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return bad(format!("`{name}` = {value}: expected a number from 0"));
            }
        }
        for (name, value) in [("routed_scaling_factor", self.routed_scaling_factor), ("capacity_factor", self.capacity_factor.unwrap_or(1.0))] {
            if !(value.is_finite() && value > 0.0) {
                return bad(format!("`{name}` = {value}: expected a positive number"));
            }
        }
        if !(0.0..1.0).contains(&self.router_jitter_noise) {
            return bad(format!("`router_jitter_noise` = {}: expected a number in 0..1", self.router_jitter_noise));
        }
        if self.bias_update_rate > 0.0 && self.topk_method != TopkMethod::NoauxTc {
            return bad("`bias_update_rate` needs `topk_method` = \"noaux_tc\": other methods have no bias".into());
        }
        Ok(())
    }

    fn validate_groups(&self) -> Result<()> {
        let Self { num_experts, num_experts_per_tok: k, n_group, topk_group, .. } = *self;
        let bad = |message: String| Err(Error::Config(message));
        if n_group == 0 || !num_experts.is_multiple_of(n_group) {
            return bad(format!("`n_group` = {n_group} must divide `num_experts` = {num_experts}"));
        }
        if topk_group == 0 || topk_group > n_group {
            return bad(format!("`topk_group` = {topk_group} must be in 1..={n_group} (`n_group`)"));
        }
        let size = num_experts / n_group;
        if topk_group * size < k {
            return bad(format!("`topk_group` = {topk_group} groups of {size} experts hold fewer than `num_experts_per_tok` = {k}"));
        }
        if self.topk_method == TopkMethod::NoauxTc && n_group > 1 && size < 2 {
            return bad(format!("`n_group` = {n_group}: groups of one expert have no sum of two scores"));
        }
        Ok(())
    }

    /// Choices an expert takes of a batch of that many tokens, in training.
    pub fn capacity(&self, tokens: usize) -> Option<usize> {
        let average = (tokens * self.num_experts_per_tok) as f64 / self.num_experts as f64;
        self.capacity_factor.map(|factor| (average * factor).ceil() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_impossible_setting_is_named() {
        let v3 = MoeConfig { topk_method: TopkMethod::NoauxTc, n_group: 4, topk_group: 2, ..Default::default() };
        assert!(v3.validate().is_ok());
        let default = MoeConfig::default;
        for (field, config) in [
            ("num_experts", MoeConfig { num_experts: 0, ..default() }),
            ("num_experts_per_tok", MoeConfig { num_experts_per_tok: 9, ..default() }),
            ("moe_intermediate_size", MoeConfig { moe_intermediate_size: 0, ..default() }),
            ("shared_expert_gate", MoeConfig { shared_expert_gate: true, ..default() }),
            ("n_group", MoeConfig { n_group: 3, ..v3.clone() }),
            ("n_group", MoeConfig { n_group: 8, topk_group: 8, ..v3.clone() }),
            ("topk_group", MoeConfig { topk_group: 5, ..v3.clone() }),
            ("topk_group", MoeConfig { topk_group: 1, num_experts_per_tok: 3, ..v3.clone() }),
            ("routed_scaling_factor", MoeConfig { routed_scaling_factor: f64::NAN, ..default() }),
            ("router_jitter_noise", MoeConfig { router_jitter_noise: 1.0, ..default() }),
            ("capacity_factor", MoeConfig { capacity_factor: Some(0.0), ..default() }),
            ("router_aux_loss_coef", MoeConfig { router_aux_loss_coef: -1.0, ..default() }),
            ("bias_update_rate", MoeConfig { bias_update_rate: 1e-3, ..default() }),
        ] {
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(&format!("`{field}`")), "{field} not named in: {message}");
        }
    }

    #[test]
    fn a_typo_is_an_error_and_the_names_of_the_field_are_read() {
        let config: MoeConfig = serde_json::from_str(r#"{"scoring_func": "sigmoid", "topk_method": "group_limited_greedy"}"#).unwrap();
        assert_eq!((config.scoring_func, config.topk_method), (Scoring::Sigmoid, TopkMethod::GroupLimitedGreedy));
        assert!(serde_json::from_str::<MoeConfig>(r#"{"num_expert": 8}"#).unwrap_err().to_string().contains("num_expert"));
    }
}
