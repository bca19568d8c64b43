//! Fresh weights, spread as transformers does it (`_init_weights` of CLIP and SigLIP). D width, L blocks of the tower.
//!
//! | | CLIP | SigLIP |
//! |---|---|---|
//! | q, k, v | normal, `D^-1/2 (2 L)^-1/2` | uniform, Glorot |
//! | attention output | normal, `D^-1/2` | uniform, Glorot |
//! | `fc1` | normal, `(2 D)^-1/2` | uniform, Glorot; bias normal, 1e-6 |
//! | `fc2` | normal, `D^-1/2 (2 L)^-1/2` | uniform, Glorot; bias normal, 1e-6 |
//! | class token | normal, `D^-1/2` | |
//! | patches | normal, 0.02 | normal, `fan_in^-1/2 / 0.8796` |
//! | positions, tokens | normal, 0.02 | normal, `D^-1/2` |
//! | projections, text head | normal, `D^-1/2` | normal, `D^-1/2 / 0.8796` |
//! | pooling head | | query and fused projection uniform, Glorot; output normal, `D^-1/2 / 0.8796` |
//!
//! Norms start at 1, biases at 0. The divisor belongs to a normal distribution cut off at two deviations, but transformers cuts at 2
//! itself, so nothing is cut; so it is here. The scale and bias of SigLIP's logits are the configuration's, where transformers has 0.
//!
//! Positions of the vision tower can start as waves instead ([`PositionInit::Sincos2d`]): beside a patch, whose entries are about one, a
//! CLIP position of 0.02 is not seen at first, and a short training never makes it large.

use crate::config::{VisionConfig, VisionFamily};
use crate::pair_config::{PairConfig, TextConfig};
use llm_run::Seed;
use serde::{Deserialize, Serialize};

/// How the positions of a fresh vision tower start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum PositionInit {
    /// Small random numbers, as transformers.
    #[default]
    #[serde(rename = "normal")]
    Normal,
    /// Sines and cosines of row and column, as fixed in MAE (He et al., 2022, appendix A.1) and found good by Beyer et al. (2022); here
    /// they are learned on from there, and the slowest wave fits the grid instead of a sentence of ten thousand words.
    #[serde(rename = "sincos_2d")]
    Sincos2d,
}

/// `[tokens, D]`: a quarter of the entries each for sine and cosine of the row, and of the column; frequencies fall from 1 to 1 / side
/// per patch. A class token has zeros.
fn sincos_2d(config: &VisionConfig) -> Vec<f32> {
    let (d, side) = (config.hidden_size, config.image_size / config.patch_size);
    let quarter = d / 4;
    let mut values = vec![0f32; (config.num_tokens() - side * side) * d];
    for patch in 0..side * side {
        let at = values.len();
        for along in [patch / side, patch % side] {
            let angles = (0..quarter).map(|k| along as f64 * (side as f64).powf(-(k as f64) / quarter as f64));
            values.extend(angles.clone().map(|a| a.sin() as f32));
            values.extend(angles.map(|a| a.cos() as f32));
        }
        values.resize(at + d, 0.0);
    }
    values
}

/// Deviation of a standard normal distribution cut off at two.
const CUT_NORMAL: f64 = 0.879_625_661_034_239_8;

#[derive(Debug, Clone, Copy)]
enum Spread {
    Constant(f64),
    /// Standard deviation.
    Normal(f64),
    /// Between minus and plus this.
    Uniform(f64),
}

/// `sqrt(6 / (fan_in + fan_out))` (Glorot & Bengio, 2010).
fn glorot(shape: &[usize]) -> Spread {
    let inner: usize = shape.iter().skip(2).product();
    let fan = |i: usize| (shape.get(i).copied().unwrap_or(1) * inner) as f64;
    Spread::Uniform((6.0 / (fan(0) + fan(1))).sqrt())
}

fn fill(spread: Spread, seed: Seed, name: &str, shape: &[usize]) -> Vec<f32> {
    let n: usize = shape.iter().product();
    let mut rng = seed.stream(name).rng();
    match spread {
        Spread::Constant(value) => vec![value as f32; n],
        Spread::Normal(std) => (0..n).map(|_| (rng.normal() * std) as f32).collect(),
        Spread::Uniform(bound) => (0..n).map(|_| ((rng.uniform() * 2.0 - 1.0) * bound) as f32).collect(),
    }
}

/// Of a tower of that width and depth; `name` without the tower's own prefix.
fn spread(family: VisionFamily, d: usize, layers: usize, name: &str, shape: &[usize]) -> Spread {
    let narrow = (d as f64).powf(-0.5);
    let deep = narrow * (2.0 * layers as f64).powf(-0.5);
    let fan_in: usize = shape.iter().skip(1).product();
    let (stem, bias) = match name.strip_suffix(".bias") {
        Some(stem) => (stem, true),
        None => (name.strip_suffix(".weight").unwrap_or(name), false),
    };
    let last = stem.rsplit('.').next().unwrap_or_default();
    if bias || last == "in_proj_bias" {
        let feed_forward = family == VisionFamily::Siglip && (last == "fc1" || last == "fc2");
        return if feed_forward { Spread::Normal(1e-6) } else { Spread::Constant(0.0) };
    }
    if last.contains("norm") {
        return Spread::Constant(1.0);
    }
    match (family, last) {
        (VisionFamily::Clip, "q_proj" | "k_proj" | "v_proj" | "fc2") => Spread::Normal(deep),
        (VisionFamily::Clip, "fc1") => Spread::Normal((2.0 * d as f64).powf(-0.5)),
        (VisionFamily::Clip, "patch_embedding" | "position_embedding" | "token_embedding") => Spread::Normal(0.02),
        // Attention output and class token.
        (VisionFamily::Clip, _) => Spread::Normal(narrow),
        (VisionFamily::Siglip, "position_embedding" | "token_embedding") => Spread::Normal(narrow),
        (VisionFamily::Siglip, "patch_embedding" | "head") => Spread::Normal((fan_in as f64).powf(-0.5) / CUT_NORMAL),
        (VisionFamily::Siglip, "out_proj") if stem.starts_with("head.") => Spread::Normal(narrow / CUT_NORMAL),
        (VisionFamily::Siglip, _) => glorot(shape),
    }
}

/// Values of a vision tower, by names without prefix.
pub(crate) fn vision(config: &VisionConfig, seed: Seed) -> impl FnMut(&str, &[usize]) -> Vec<f32> + use<> {
    let (family, d, layers) = (config.family, config.hidden_size, config.num_hidden_layers);
    move |name, shape| fill(spread(family, d, layers, name, shape), seed, name, shape)
}

fn text(config: &TextConfig, seed: Seed) -> impl FnMut(&str, &[usize]) -> Vec<f32> + use<> {
    let (family, d, layers) = (config.family, config.hidden_size, config.num_hidden_layers);
    move |name, shape| fill(spread(family, d, layers, name, shape), seed, name, shape)
}

/// Values of a pair.
pub(crate) fn pair(config: &PairConfig, positions: PositionInit, seed: Seed) -> impl FnMut(&str, &[usize]) -> Vec<f32> + use<> {
    let waves = (positions == PositionInit::Sincos2d).then(|| sincos_2d(&config.vision));
    let mut vision = vision(&config.vision, seed.stream("vision_model"));
    let mut text = text(&config.text, seed.stream("text_model"));
    let (scale, bias) = (config.logit_scale_init_value, config.logit_bias_init_value);
    move |name, shape| match (name.strip_prefix("vision_model."), name.strip_prefix("text_model.")) {
        (Some("embeddings.position_embedding.weight"), _) if let Some(waves) = &waves => waves.clone(),
        (Some(name), _) => vision(name, shape),
        (_, Some(name)) => text(name, shape),
        (None, None) => {
            let narrow = shape.last().map_or(1.0, |&d| (d as f64).powf(-0.5));
            let spread = match name {
                "logit_scale" => Spread::Constant(scale),
                "logit_bias" => Spread::Constant(bias),
                _ => Spread::Normal(narrow),
            };
            fill(spread, seed, name, shape)
        }
    }
}

/// Values of a connector: both layers normal, 0.02, biases 0 (transformers' `LlavaPreTrainedModel`).
pub(crate) fn connector(seed: Seed) -> impl FnMut(&str, &[usize]) -> Vec<f32> {
    move |name, shape| {
        let spread = if name.ends_with(".bias") { Spread::Constant(0.0) } else { Spread::Normal(0.02) };
        fill(spread, seed, name, shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, two places of a picture start alike, or waves are not where a checkpoint's positions are.
    #[test]
    fn every_place_has_waves_of_its_own() {
        let mut config = VisionConfig::defaults(VisionFamily::Clip);
        (config.image_size, config.patch_size, config.hidden_size) = (96, 16, 30);
        let values = sincos_2d(&config);
        assert_eq!(values.len(), config.num_tokens() * 30);
        let rows: Vec<&[f32]> = values.chunks_exact(30).collect();
        assert!(rows[0].iter().all(|v| *v == 0.0), "the class token");
        for i in 1..rows.len() {
            for j in 1..i {
                let far: f32 = rows[i].iter().zip(rows[j]).map(|(a, b)| (a - b).powi(2)).sum();
                assert!(far > 0.5, "patches {i} and {j} are {far} apart");
            }
        }
        // Patch 8 is in row 1, column 2.
        assert!((rows[9][0] - 1f32.sin()).abs() < 1e-6 && (rows[9][14] - 2f32.sin()).abs() < 1e-6);
    }
}
