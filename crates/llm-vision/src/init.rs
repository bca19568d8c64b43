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
//! Positions of the image may start as a table of sines and cosines instead ([`PositionInit`]).
//!
//! Norms start at 1, biases at 0. The divisor belongs to a normal distribution cut off at two deviations, but transformers cuts at 2
//! itself, so nothing is cut; so it is here. The scale and bias of SigLIP's logits are the configuration's, where transformers has 0.

use crate::config::{VisionConfig, VisionFamily};
use crate::pair_config::{PairConfig, TextConfig};
use llm_run::Seed;
use serde::{Deserialize, Serialize};

/// How the learned positions of a vision tower start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PositionInit {
    /// As the family has it: small random numbers, which a short training hardly leaves.
    #[default]
    Random,
    /// The table of sines and cosines of row and column that MAE uses (He et al., 2021), half as large, which is about the size of the
    /// patches' own values: places can be told apart from the first step.
    #[serde(rename = "sincos_2d")]
    SinCos2d,
}

/// `[T, D]`, row by row; the class token's row is 0. The first half of the width tells the row, the second the column; of each, sines
/// before cosines, at frequencies from 1 to 1/10000.
fn sincos_2d(config: &VisionConfig) -> Vec<f32> {
    let (grid, d) = (config.grid(), config.hidden_size);
    let half = d / 2;
    let waves = half.div_ceil(2);
    let value = |place: usize, i: usize| {
        let angle = place as f64 / 10_000f64.powf((i % waves) as f64 / waves as f64);
        if i < waves { angle.sin() } else { angle.cos() }
    };
    let patch = |p: usize| (0..d).map(move |i| if i < half { value(p / grid, i) } else { value(p % grid, (i - half).min(2 * waves - 1)) });
    let class = vec![0.0; config.class_tokens() * d];
    class.into_iter().chain((0..config.num_patches()).flat_map(patch)).map(|v| 0.5 * v as f32).collect()
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
    let mut vision = vision(&config.vision, seed.stream("vision_model"));
    let mut text = text(&config.text, seed.stream("text_model"));
    let (scale, bias) = (config.logit_scale_init_value, config.logit_bias_init_value);
    let table = (positions == PositionInit::SinCos2d).then(|| sincos_2d(&config.vision));
    move |name, shape| match (name.strip_prefix("vision_model."), name.strip_prefix("text_model.")) {
        (Some("embeddings.position_embedding.weight"), _) if table.is_some() => table.clone().unwrap_or_default(),
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

    /// If this fails, two places look alike to a fresh tower, or the table is not the size that the tower has room for.
    #[test]
    fn every_place_of_the_grid_starts_with_a_row_of_its_own() {
        let config = VisionConfig { image_size: 96, patch_size: 16, hidden_size: 30, ..VisionConfig::defaults(VisionFamily::Clip) };
        let table = sincos_2d(&config);
        assert_eq!(table.len(), config.num_tokens() * 30);
        let rows: Vec<&[f32]> = table.chunks(30).collect();
        assert!(rows[0].iter().all(|v| *v == 0.0), "the class token is nowhere");
        let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum::<f32>();
        for (i, a) in rows.iter().enumerate().skip(1) {
            assert!(rows[i + 1..].iter().all(|b| distance(a, b) > 0.1), "place {}", i - 1);
        }
        // Rows of the grid share the first half, columns the second.
        assert_eq!(rows[1][..15], rows[2][..15]);
        assert_eq!(rows[1][15..], rows[7][15..]);
        assert!((rows[2][15] - 0.5 * 1f32.sin()).abs() < 1e-6, "column 1 at frequency 1");
    }
}
