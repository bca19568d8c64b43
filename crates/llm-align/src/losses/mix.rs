//! Several losses on pairs with weights, as MPO (Wang et al. 2024, Mixed Preference Optimization) and TRL's `loss_type` list have them.
//!
//! In a configuration `loss` is a name, a list of names, or a list of names with weights:
//!
//! ```toml
//! loss = "sigmoid"
//! loss = ["sigmoid", "bco_pair", "sft"]
//! loss = [{ name = "sigmoid", weight = 0.8 }, { name = "bco_pair", weight = 0.2 }, { name = "sft", weight = 1.0 }]
//! ```

use super::preference::{FDivergence, Pairs, Parameters, PreferenceLoss};
use llm_tensor::burn::tensor::Tensor;
use serde::de::{Error as _, IntoDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// A loss and its weight.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    /// Which.
    pub name: PreferenceLoss,
    /// Its weight.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

/// A sum of losses.
#[derive(Debug, Clone, PartialEq)]
pub struct LossMix(pub Vec<Weighted>);

impl Default for LossMix {
    fn default() -> Self {
        PreferenceLoss::default().into()
    }
}

impl From<PreferenceLoss> for LossMix {
    fn from(name: PreferenceLoss) -> Self {
        Self(vec![Weighted { name, weight: 1.0 }])
    }
}

impl Serialize for LossMix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [Weighted { name, weight: 1.0 }] => name.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for LossMix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fn weighted<E: serde::de::Error>(value: Value) -> Result<Weighted, E> {
            match value {
                // In serde's own words, so that a typo gets its suggestion.
                Value::String(name) => {
                    let name: Result<PreferenceLoss, E> = PreferenceLoss::deserialize(name.into_deserializer());
                    Ok(Weighted { name: name?, weight: 1.0 })
                }
                other => serde_json::from_value(other).map_err(E::custom),
            }
        }
        match Value::deserialize(deserializer)? {
            Value::Array(values) => values.into_iter().map(weighted).collect::<Result<_, _>>().map(Self),
            name @ Value::String(_) => Ok(Self(vec![weighted(name)?])),
            other => {
                Err(D::Error::custom(format!("`loss` is {other}; expected a name such as \"sigmoid\", or a list of names or of {{ name, weight }}")))
            }
        }
    }
}

impl LossMix {
    fn any(&self, of: impl Fn(PreferenceLoss) -> bool) -> bool {
        self.0.iter().any(|w| of(w.name))
    }

    /// Does one of them compare with a reference model?
    pub fn needs_reference(&self) -> bool {
        self.any(PreferenceLoss::needs_reference)
    }

    /// [`PreferenceLoss::couples_pairs`] of one of them.
    pub fn couples_pairs(&self) -> bool {
        self.any(PreferenceLoss::couples_pairs)
    }

    /// [`PreferenceLoss::averages_log_probs`] of one of them.
    pub fn averages_log_probs(&self) -> bool {
        self.any(PreferenceLoss::averages_log_probs)
    }

    /// Weight of the chosen answers' negative log-likelihood.
    pub fn nll_weight(&self, p: &Parameters) -> f64 {
        self.0.iter().map(|w| w.weight * w.name.nll_weight(p)).sum()
    }

    /// Weighted sum `[B]` of [`PreferenceLoss::per_pair`].
    pub fn per_pair(&self, pairs: &Pairs, p: &Parameters) -> Tensor<1> {
        let terms = self.0.iter().map(|w| {
            let loss_B = w.name.per_pair(pairs, p);
            if w.weight == 1.0 { loss_B } else { loss_B.mul_scalar(w.weight) }
        });
        terms.reduce(|a, b| a + b).unwrap_or_else(|| pairs.chosen_B.zeros_like())
    }

    /// What contradicts itself, or would be ignored without a word.
    pub fn check(&self, p: &Parameters) -> Result<(), String> {
        let names: Vec<String> = self.0.iter().map(|w| w.name.name()).collect();
        let names = names.join(", ");
        if self.0.is_empty() {
            return Err("loss is an empty list; expected names such as \"sigmoid\"".into());
        }
        if let Some(w) = self.0.iter().find(|w| !w.weight.is_finite()) {
            return Err(format!("loss: the weight of {} is {}; expected a number", w.name.name(), w.weight));
        }
        if !(p.beta.is_finite() && p.beta > 0.0) {
            return Err(format!("beta is {}; expected a positive number", p.beta));
        }
        if !(0.0..0.5).contains(&p.label_smoothing) {
            return Err(format!("label_smoothing is {}; expected 0 or more and less than 0.5", p.label_smoothing));
        }
        if p.label_smoothing > 0.0 && !self.any(PreferenceLoss::reads_label_smoothing) {
            return Err(format!("label_smoothing has no effect on {names}; the smoothed variants of sigmoid are cdpo and robust"));
        }
        if p.label_smoothing == 0.0 && self.any(|l| l == PreferenceLoss::ExoPair) {
            return Err("exo_pair needs label_smoothing above 0, its epsilon; TRL takes 1e-3".into());
        }
        if p.f_divergence != FDivergence::ReverseKl && !self.any(PreferenceLoss::reads_f_divergence) {
            return Err(format!("f_divergence has no effect on {names}"));
        }
        if !(p.discopop_tau.is_finite() && p.discopop_tau > 0.0) {
            return Err(format!("discopop_tau is {}; expected a positive number", p.discopop_tau));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<LossMix, String> {
        serde_json::from_str(text).map_err(|e| e.to_string())
    }

    #[test]
    fn a_name_and_a_list_are_read_and_written_back() {
        let one = read("\"ipo_trl\"").unwrap();
        assert_eq!(one, PreferenceLoss::IpoTrl.into());
        assert_eq!(serde_json::to_string(&one).unwrap(), "\"ipo_trl\"");
        let several = read(r#"["sigmoid", {"name": "bco_pair", "weight": 0.2}, {"name": "sft"}]"#).unwrap();
        assert_eq!(several.0.iter().map(|w| w.weight).collect::<Vec<_>>(), [1.0, 0.2, 1.0]);
        assert_eq!(read(&serde_json::to_string(&several).unwrap()).unwrap(), several);
    }

    /// If this fails, a typo trains something else, or is refused without saying what there is.
    #[test]
    fn wrong_names_say_what_there_is() {
        for text in ["\"sigmoud\"", r#"["sigmoud"]"#, r#"[{"name": "sigmoud"}]"#] {
            let message = read(text).unwrap_err();
            assert!(message.contains("`sigmoud`") && message.contains("`sigmoid`"), "{message}");
        }
        assert!(read("3").unwrap_err().contains("expected a name"));
        assert!(read(r#"[{"name": "sft", "wieght": 1}]"#).unwrap_err().contains("wieght"));
    }

    /// If this fails, a setting is ignored in silence, as TRL ignores label smoothing of `sigmoid`.
    #[test]
    fn settings_without_effect_are_refused() {
        let with = |loss: PreferenceLoss, p: Parameters| LossMix::from(loss).check(&p);
        let smoothed = Parameters { label_smoothing: 0.1, ..Parameters::default() };
        assert!(with(PreferenceLoss::Sigmoid, smoothed).unwrap_err().contains("cdpo"));
        assert!(with(PreferenceLoss::Robust, smoothed).is_ok());
        assert!(with(PreferenceLoss::ExoPair, Parameters::default()).unwrap_err().contains("1e-3"));
        let forward = Parameters { f_divergence: FDivergence::ForwardKl, ..Parameters::default() };
        assert!(with(PreferenceLoss::Orpo, forward).is_err() && with(PreferenceLoss::Hinge, forward).is_ok());
        assert!(with(PreferenceLoss::Robust, Parameters { label_smoothing: 0.5, ..Parameters::default() }).is_err());
        assert!(with(PreferenceLoss::Sigmoid, Parameters { beta: f64::NAN, ..Parameters::default() }).is_err());
        assert!(LossMix(Vec::new()).check(&Parameters::default()).is_err());
    }
}
