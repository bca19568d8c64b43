//! Rotary frequencies: the plain ones, and the ways to stretch them beyond the trained context.
//!
//! Formulas as in transformers' `modeling_rope_utils.py`. Two of them (`dynamic`, `longrope`) depend on how long the text is, so
//! frequencies are a function of the length.

use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;

/// Stretching of the rotary frequencies beyond the trained context.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "rope_type", deny_unknown_fields)]
pub enum RopeScaling {
    /// None.
    #[default]
    Default,
    /// Positions divided by `factor` (Chen et al., 2023).
    Linear {
        /// How much longer.
        factor: f64,
    },
    /// A larger base once the text is longer than `max_position_embeddings` (dynamic NTK).
    Dynamic {
        /// How much longer.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, smooth between.
    Llama3 {
        /// How much longer.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Trained context.
        original_max_position_embeddings: usize,
    },
    /// YaRN (Peng et al., 2023): a ramp between kept and divided frequencies, and scores a little sharper.
    Yarn {
        /// How much longer.
        factor: f64,
        /// Trained context.
        original_max_position_embeddings: usize,
        /// Frequencies that turn more often than this within the trained context are kept.
        #[serde(default = "beta_fast")]
        beta_fast: f64,
        /// Frequencies that turn less often than this are divided.
        #[serde(default = "beta_slow")]
        beta_slow: f64,
        /// Factor on cosines and sines; by default computed from `factor` and the two below.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attention_factor: Option<f64>,
        /// DeepSeek's numerator.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mscale: Option<f64>,
        /// DeepSeek's denominator; its square also multiplies the attention scale of latent attention.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mscale_all_dim: Option<f64>,
        /// Round the ends of the ramp to whole dimensions.
        #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
        truncate: bool,
    },
    /// LongRoPE (Ding et al., 2024): one list of divisors up to the trained context, another beyond.
    Longrope {
        /// Divisors for texts within the trained context.
        short_factor: Vec<f64>,
        /// Divisors for longer ones.
        long_factor: Vec<f64>,
        /// Trained context.
        original_max_position_embeddings: usize,
        /// How much longer.
        factor: f64,
        /// Factor on cosines and sines; by default `sqrt(1 + ln(factor) / ln(original))`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attention_factor: Option<f64>,
    },
}

fn beta_fast() -> f64 {
    32.0
}
fn beta_slow() -> f64 {
    1.0
}
fn yes() -> bool {
    true
}

/// YaRN's temperature: `0.1 m ln(factor) + 1`.
pub fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

impl RopeScaling {
    /// True when the frequencies depend on the length of the text.
    pub fn depends_on_length(&self) -> bool {
        matches!(self, Self::Dynamic { .. } | Self::Longrope { .. })
    }

    /// What cosines and sines are multiplied by.
    pub fn attention_factor(&self) -> f64 {
        match *self {
            Self::Yarn { attention_factor: Some(factor), .. } => factor,
            Self::Yarn { factor, mscale: Some(m), mscale_all_dim: Some(all), .. } if m != 0.0 && all != 0.0 => {
                yarn_mscale(factor, m) / yarn_mscale(factor, all)
            }
            Self::Yarn { factor, .. } => yarn_mscale(factor, 1.0),
            Self::Longrope { attention_factor: Some(factor), .. } => factor,
            Self::Longrope { factor, original_max_position_embeddings, .. } if factor > 1.0 => {
                (1.0 + factor.ln() / (original_max_position_embeddings as f64).ln()).sqrt()
            }
            _ => 1.0,
        }
    }

    /// Refuse what cannot work, naming the field.
    pub fn validate(&self, rotary_dim: usize) -> Result<(), String> {
        let positive = |name: &str, value: f64| {
            if value.is_finite() && value > 0.0 { Ok(()) } else { Err(format!("rope scaling: `{name}` = {value}: expected a positive number")) }
        };
        match self {
            Self::Default => Ok(()),
            Self::Linear { factor } | Self::Dynamic { factor } => positive("factor", *factor),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                positive("factor", *factor)?;
                positive("low_freq_factor", *low_freq_factor)?;
                positive("high_freq_factor", *high_freq_factor)?;
                positive("original_max_position_embeddings", *original_max_position_embeddings as f64)
            }
            Self::Yarn { factor, original_max_position_embeddings, beta_fast, beta_slow, .. } => {
                positive("factor", *factor)?;
                positive("beta_fast", *beta_fast)?;
                positive("beta_slow", *beta_slow)?;
                positive("original_max_position_embeddings", *original_max_position_embeddings as f64)
            }
            Self::Longrope { short_factor, long_factor, original_max_position_embeddings, .. } => {
                for (name, list) in [("short_factor", short_factor), ("long_factor", long_factor)] {
                    if list.len() != rotary_dim / 2 {
                        return Err(format!("rope scaling: `{name}` has {} entries, expected {}", list.len(), rotary_dim / 2));
                    }
                    list.iter().try_for_each(|&f| positive(name, f))?;
                }
                positive("original_max_position_embeddings", *original_max_position_embeddings as f64)
            }
        }
    }

    /// Inverse frequencies, `rotary_dim / 2` of them, for texts of up to `length` tokens. `trained` is `max_position_embeddings`.
    pub fn inverse_frequencies(&self, theta: f64, rotary_dim: usize, trained: usize, length: usize) -> Vec<f32> {
        let d = rotary_dim as f64;
        // Rounded where transformers rounds: exponent, power and reciprocal are float32 there. Late in a long text the last bit of a
        // frequency is the fourth digit of an angle.
        let plain = |theta: f64| {
            move |i: usize| {
                let power = theta.powf(f64::from(2.0 * i as f32 / rotary_dim as f32)) as f32;
                f64::from(1.0 / power)
            }
        };
        let all = 0..rotary_dim / 2;
        let frequencies: Vec<f64> = match self {
            Self::Default => all.map(plain(theta)).collect(),
            Self::Linear { factor } => all.map(plain(theta)).map(|f| f / factor).collect(),
            Self::Dynamic { factor } => {
                let length = length.max(trained) as f64;
                let stretched = theta * (factor * length / trained as f64 - (factor - 1.0)).powf(d / (d - 2.0));
                all.map(plain(stretched)).collect()
            }
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let original = *original_max_position_embeddings as f64;
                all.map(plain(theta))
                    .map(|f| {
                        let wavelength = TAU / f;
                        if wavelength > original / low_freq_factor {
                            f / factor
                        } else if wavelength < original / high_freq_factor {
                            f
                        } else {
                            let s = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                            (1.0 - s) * f / factor + s * f
                        }
                    })
                    .collect()
            }
            Self::Yarn { factor, original_max_position_embeddings, beta_fast, beta_slow, truncate, .. } => {
                let original = *original_max_position_embeddings as f64;
                let dimension = |turns: f64| d * (original / (turns * TAU)).ln() / (2.0 * theta.ln());
                let (mut low, mut high) = (dimension(*beta_fast), dimension(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(d - 1.0));
                if low == high {
                    high += 0.001;
                }
                all.map(|i| {
                    let f = plain(theta)(i);
                    let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    f / factor * ramp + f * (1.0 - ramp)
                })
                .collect()
            }
            Self::Longrope { short_factor, long_factor, original_max_position_embeddings, .. } => {
                let divisors = if length > *original_max_position_embeddings { long_factor } else { short_factor };
                all.zip(divisors).map(|(i, divisor)| plain(theta)(i) / divisor).collect()
            }
        };
        frequencies.into_iter().map(|f| f as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::hf::rope_scaling;

    /// If this fails, long contexts are rotated by other angles than the model was trained with.
    #[test]
    fn cosines_and_sines_equal_transformers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/losses/rope_tables.json");
        let fixture: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let mut tested = 0;
        for case in fixture["cases"].as_array().unwrap() {
            let (inputs, expected) = (&case["inputs"], &case["expected"]);
            let name = case["name"].as_str().unwrap();
            let parameters = inputs["rope_parameters"].as_object().unwrap();
            let theta = parameters["rope_theta"].as_f64().unwrap();
            let trained = inputs["max_position_embeddings"].as_u64().unwrap() as usize;
            let partial = parameters.get("partial_rotary_factor").map_or(1.0, |f| f.as_f64().unwrap());
            let dim = (inputs["head_dim"].as_f64().unwrap() * partial) as usize;
            let scaling = rope_scaling(parameters, trained).unwrap();
            scaling.validate(dim).unwrap();
            let length = inputs["seq_len"].as_u64().map_or(1, |n| n as usize);
            let frequencies = scaling.inverse_frequencies(theta, dim, trained, length);
            for (got, want) in frequencies.iter().zip(expected["inv_freq"].as_array().unwrap()) {
                let want = want.as_f64().unwrap();
                assert!((f64::from(*got) / want - 1.0).abs() < 2e-6, "{name}: {got} against {want}");
            }
            assert_eq!(frequencies.len(), expected["inv_freq"].as_array().unwrap().len(), "{name}");
            let factor = scaling.attention_factor();
            assert!((factor - expected["attention_factor"].as_f64().unwrap()).abs() < 1e-9, "{name}: attention factor {factor}");
            for (row, p) in inputs["positions"].as_array().into_iter().flatten().enumerate() {
                for (i, f) in frequencies.iter().enumerate() {
                    let angle = p.as_f64().unwrap() as f32 * f;
                    for (which, got) in [("cos", angle.cos() * factor as f32), ("sin", angle.sin() * factor as f32)] {
                        let want = expected[which][row][i].as_f64().unwrap() as f32;
                        assert!((got - want).abs() < 2e-5, "{name} {which} position {p} dimension {i}: {got} against {want}");
                    }
                }
            }
            tested += 1;
        }
        assert!(tested >= 15, "only {tested} cases");
    }
}
