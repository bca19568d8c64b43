//! Settings of the optimisers, and which of them a parameter gets.

use crate::{Error, Result, freeze};
use serde::{Deserialize, Serialize};

/// Who turns gradients into steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay (Loshchilov & Hutter, 2019).
    #[default]
    AdamW,
    /// Orthogonal momentum for the matrices of blocks, AdamW for everything else (Jordan et al. 2024).
    Muon,
    /// Second moments by row and column (Shazeer & Stern 2018), as in `torch.optim.Adafactor`.
    Adafactor,
    /// The sign of a momentum (Chen et al. 2023). Its authors take a third to a tenth of AdamW's rate and betas of 0.9 and 0.99.
    Lion,
}

/// How AdamW keeps its moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateFormat {
    /// 8 bytes a parameter.
    #[default]
    F32,
    /// 2 bytes a parameter: block-wise dynamic 8-bit (Dettmers et al. 2022). Tensors below [`MIN_QUANTIZED`] elements stay in `f32`.
    Int8,
}

/// Smallest tensor whose moments are kept in 8 bits, as in bitsandbytes.
pub const MIN_QUANTIZED: usize = 4096;

/// How Muon's rate depends on the shape of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdjustLr {
    /// `sqrt(max(1, rows / columns))`: the rate is Muon's own (0.02, say), and AdamW's parameters need a group with another.
    Original,
    /// `0.2 sqrt(max(rows, columns))`: steps as large as AdamW's, so that rate and decay are those of AdamW (Liu et al. 2025, section 2.2).
    #[default]
    MatchRmsAdamw,
    /// `sqrt(rows / columns)` (Bernstein 2025).
    SpectralUnclamped,
}

/// Coefficients of Muon's iteration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NsCoefficients {
    /// 3.4445, -4.7750, 2.0315 in every round (Jordan et al. 2024).
    #[default]
    Quintic,
    /// The best polynomial of each round (Amsel et al. 2025, algorithm 1).
    PolarExpress,
}

/// Settings of Muon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MuonConfig {
    /// Decay rate of the momentum.
    pub momentum: f64,
    /// Look ahead by one step of the momentum.
    pub nesterov: bool,
    /// Rounds of the iteration.
    pub ns_steps: usize,
    /// Its coefficients.
    pub ns_coefficients: NsCoefficients,
    /// How the rate depends on the shape.
    pub adjust_lr: AdjustLr,
    /// Smallest norm that a momentum is divided by.
    pub eps: f64,
}

impl Default for MuonConfig {
    fn default() -> Self {
        let (ns_coefficients, adjust_lr) = (NsCoefficients::default(), AdjustLr::default());
        Self { momentum: 0.95, nesterov: true, ns_steps: 5, ns_coefficients, adjust_lr, eps: 1e-7 }
    }
}

/// Settings of Adafactor; `betas` and `eps` of the others mean nothing to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdafactorConfig {
    /// The second moment at step t gets the weight `t^beta2_decay` of the new gradient.
    pub beta2_decay: f64,
    /// Smallest root of a second moment; by default the spacing of `f32` at 1.
    pub eps1: f64,
    /// Smallest root mean square of a parameter that scales its step.
    pub eps2: f64,
    /// Largest root mean square of an update.
    pub clip_threshold: f64,
}

impl Default for AdafactorConfig {
    fn default() -> Self {
        Self { beta2_decay: -0.8, eps1: f64::from(f32::EPSILON), eps2: 1e-3, clip_threshold: 1.0 }
    }
}

/// Other settings for the parameters whose names a pattern fits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParameterGroup {
    /// As in [`freeze`]: `*` stands for any characters, `?` for one. Of several groups that fit, the last counts, alone.
    pub pattern: String,
    /// Multiplies the learning rate.
    #[serde(default = "one")]
    pub lr_scale: f64,
    /// Weight decay of all parameters that fit, vectors as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Optimiser; `muon` takes all matrices that fit, not only those of blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<OptimizerKind>,
    /// Format of AdamW's moments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<StateFormat>,
}

fn one() -> f64 {
    1.0
}

/// Peak rate and coefficients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Who turns gradients into steps.
    pub kind: OptimizerKind,
    /// Peak learning rate.
    pub lr: f64,
    /// Decay rates of the moments.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// On parameters with two dimensions or more.
    pub weight_decay: f64,
    /// Largest global gradient norm; 0 is off.
    pub grad_clip: f64,
    /// Format of AdamW's moments.
    pub state: StateFormat,
    /// Settings of Muon.
    pub muon: MuonConfig,
    /// Settings of Adafactor.
    pub adafactor: AdafactorConfig,
    /// Exceptions by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<ParameterGroup>,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::AdamW,
            lr: 1e-3,
            betas: (0.9, 0.95),
            eps: 1e-8,
            weight_decay: 0.1,
            grad_clip: 1.0,
            state: StateFormat::F32,
            muon: MuonConfig::default(),
            adafactor: AdafactorConfig::default(),
            groups: Vec::new(),
        }
    }
}

/// What happens to one parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Optimiser; Muon only for what it can update.
    pub kind: OptimizerKind,
    /// Format of AdamW's moments.
    pub state: StateFormat,
    /// Multiplies the learning rate.
    pub lr_scale: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl OptimizerConfig {
    /// What happens to the parameter of that name and shape.
    pub fn rule(&self, name: &str, shape: &[usize]) -> Rule {
        let group = self.groups.iter().rev().find(|group| freeze::fits(&group.pattern, name));
        let matrix = shape.len() >= 2;
        let kind = match group.and_then(|group| group.kind) {
            Some(kind) => kind,
            None if self.kind == OptimizerKind::Muon && !in_block(name) => OptimizerKind::AdamW,
            None => self.kind,
        };
        let kind = if kind == OptimizerKind::Muon && !matrix { OptimizerKind::AdamW } else { kind };
        let state = group.and_then(|group| group.state).unwrap_or(self.state);
        let small = shape.iter().product::<usize>() < MIN_QUANTIZED;
        Rule {
            kind,
            state: if kind == OptimizerKind::AdamW && !small { state } else { StateFormat::F32 },
            lr_scale: group.map_or(1.0, |group| group.lr_scale),
            weight_decay: group.and_then(|group| group.weight_decay).unwrap_or(if matrix { self.weight_decay } else { 0.0 }),
        }
    }

    /// Bytes of what is kept of a trained parameter between steps, without its master copy.
    pub fn state_bytes(&self, name: &str, shape: &[usize]) -> f64 {
        let n = shape.iter().product::<usize>() as f64;
        let rule = self.rule(name, shape);
        match (rule.kind, rule.state) {
            (OptimizerKind::AdamW, StateFormat::F32) => 8.0 * n,
            // A scale for every 256 codes.
            (OptimizerKind::AdamW, StateFormat::Int8) => 2.0 * (n + 4.0 * (n / 256.0).ceil()),
            (OptimizerKind::Muon | OptimizerKind::Lion, _) => 4.0 * n,
            (OptimizerKind::Adafactor, _) => match shape.last_chunk::<2>() {
                Some([rows, columns]) => 4.0 * (n / *columns as f64 + n / *rows as f64),
                None => 4.0 * n,
            },
        }
    }

    /// Refuse settings that cannot work with parameters of these names; they are those that are trained.
    pub fn check<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Result<()> {
        let bad = |message: String| Err(Error::Config(format!("optimizer.{message}")));
        let is_rate = |beta: f64| (0.0..1.0).contains(&beta);
        if !is_rate(self.betas.0) || !is_rate(self.betas.1) {
            return bad(format!("betas = {:?}; both must be at least 0 and below 1", self.betas));
        }
        if !is_rate(self.muon.momentum) {
            return bad(format!("muon.momentum = {}; it must be at least 0 and below 1", self.muon.momentum));
        }
        if !(1..100).contains(&self.muon.ns_steps) {
            return bad(format!("muon.ns_steps = {}; it must be from 1 to 99, usually 5", self.muon.ns_steps));
        }
        if self.adafactor.beta2_decay > 0.0 || self.adafactor.clip_threshold < 1.0 {
            let AdafactorConfig { beta2_decay, clip_threshold, .. } = self.adafactor;
            let message = format!("beta2_decay = {beta2_decay}, clip_threshold = {clip_threshold}; at most 0 and at least 1 are expected");
            return bad(format!("adafactor: {message}"));
        }
        if self.state == StateFormat::Int8 && matches!(self.kind, OptimizerKind::Adafactor | OptimizerKind::Lion) {
            return bad("state = \"int8\" is for AdamW (and what muon leaves to AdamW); use kind = \"adamw\" or leave state out".into());
        }
        for group in &self.groups {
            if !names.clone().any(|name| freeze::fits(&group.pattern, name)) {
                return bad(format!("groups: {}", freeze::fits_nothing(&group.pattern, names)));
            }
        }
        Ok(())
    }
}

/// Is this a parameter of a repeated block: `model.layers.3.mlp.up_proj.weight`, `transformer.h.0.attn.c_attn.weight`? Embeddings, output
/// heads and connectors have no number in their names.
fn in_block(name: &str) -> bool {
    name.split('.').any(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn muon_gets_the_matrices_of_blocks_and_a_group_may_say_otherwise() {
        let group = |pattern: &str, kind| ParameterGroup { pattern: pattern.into(), lr_scale: 0.5, weight_decay: Some(0.0), kind, state: None };
        let mut config = OptimizerConfig { kind: OptimizerKind::Muon, state: StateFormat::Int8, ..OptimizerConfig::default() };
        let kind = |config: &OptimizerConfig, name: &str, shape: &[usize]| config.rule(name, shape).kind;
        assert_eq!(kind(&config, "model.layers.0.mlp.up_proj.weight", &[64, 64]), OptimizerKind::Muon);
        assert_eq!(kind(&config, "model.layers.0.mlp.experts.up_proj", &[4, 64, 64]), OptimizerKind::Muon);
        for (name, shape) in
            [("model.layers.0.input_layernorm.weight", &[64][..]), ("model.embed_tokens.weight", &[99, 64]), ("lm_head.weight", &[99, 64])]
        {
            assert_eq!(kind(&config, name, shape), OptimizerKind::AdamW, "{name}");
        }
        assert_eq!(config.rule("lm_head.weight", &[99, 64]).state, StateFormat::Int8);
        assert_eq!(config.rule("lm_head.weight", &[9, 64]).state, StateFormat::F32, "too small for 8 bits");
        config.groups = vec![group("*", Some(OptimizerKind::Lion)), group("lm_head.*", None)];
        let rule = config.rule("lm_head.weight", &[99, 64]);
        assert_eq!((rule.kind, rule.lr_scale, rule.weight_decay), (OptimizerKind::AdamW, 0.5, 0.0), "the last group counts, alone");
        assert_eq!(kind(&config, "model.norm.weight", &[64]), OptimizerKind::Lion);
    }

    #[test]
    fn impossible_settings_are_refused_with_the_key() {
        let names = ["model.layers.0.weight", "model.norm.weight", "lm_head.weight"];
        let message = |toml: &str| toml::from_str::<OptimizerConfig>(toml).unwrap().check(names.into_iter()).unwrap_err().to_string();
        let text = message("groups = [{ pattern = \"model.layer.*\", lr_scale = 0.1 }]");
        assert!(text.contains("`model.layer.*`") && text.contains("model., lm_head."), "{text}");
        assert!(message("kind = \"lion\"\nstate = \"int8\"").contains("state"));
        assert!(message("betas = [0.9, 1.0]").contains("betas"));
        assert!(message("muon = { ns_steps = 0 }").contains("ns_steps"));
        assert!(message("adafactor = { clip_threshold = 0.5 }").contains("clip_threshold"));
        assert!(toml::from_str::<OptimizerConfig>("muon = { speed = 1 }").is_err());
        let old: OptimizerConfig = toml::from_str("lr = 1e-3\nbetas = [0.9, 0.95]\neps = 1e-8\nweight_decay = 0.1\ngrad_clip = 1.0").unwrap();
        assert_eq!(old, OptimizerConfig::default());
        assert_eq!(toml::from_str::<OptimizerConfig>(&toml::to_string(&old).unwrap()).unwrap(), old);
    }
}
