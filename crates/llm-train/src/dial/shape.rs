//! The shape of a decoder from its depth or its size.
//!
//! Width is 64 times the depth, rounded up to whole heads (nanochat `scripts/base_train.py`: `--aspect-ratio 64`). Heads have 128 elements
//! from a width of 512 on, 64 from 256, 32 from 128, and 16 below, so that there are always at least four; from eight
//! on their number is even, which leaves groups to choose. Queries share keys and values
//! in groups of four, three or two, the largest that divides the heads and leaves two (GQA: Ainslie et al. 2023; Llama 3 has groups of
//! four and more). The feed-forward width is 8/3 of the width in SwiGLU (Shazeer 2020, section 3.1), otherwise four times it, rounded up to
//! a multiple of 64.

use crate::{Error, Result};
use llm_arch::DecoderConfig;
use llm_arch::budget::Parts;

/// Width for each layer of depth.
pub const ASPECT: usize = 64;
/// A shape further off the wanted size than this is refused.
const FAR: f64 = 0.10;
/// How far width over depth may be from [`ASPECT`], as a factor: a wider range is tried only where the one before has no shape near enough.
const ASPECTS: [f64; 4] = [1.6, 3.0, 8.0, f64::INFINITY];
const DEEPEST: usize = 160;
const WIDEST: usize = 16_384;

/// Depth and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// `num_hidden_layers`.
    pub depth: usize,
    /// `hidden_size`.
    pub width: usize,
}

/// Which parameters a size counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// All of them: what a model is called by.
    All,
    /// Those that multiply ([`Parts::matmul_active`]): what scaling laws are fitted on.
    Matmul,
}

impl Count {
    /// Of a configuration.
    pub fn of(self, config: &DecoderConfig) -> f64 {
        let parts = Parts::of(config);
        match self {
            Self::All => parts.total as f64,
            Self::Matmul => parts.matmul_active as f64,
        }
    }
}

/// Elements of a head where the width is divisible by that, otherwise the largest multiple of 8 below that divides it.
fn head_size(width: usize) -> usize {
    let wanted = match width {
        512.. => 128,
        256.. => 64,
        128.. => 32,
        _ => 16,
    };
    (1..=wanted / 8).rev().map(|k| 8 * k).find(|size| width.is_multiple_of(*size)).unwrap_or(width)
}

fn key_value_heads(heads: usize) -> usize {
    [4, 3, 2].into_iter().find(|group| heads.is_multiple_of(*group) && heads / group >= 2).map_or(heads, |group| heads / group)
}

impl Shape {
    /// The shape of a depth.
    pub fn of_depth(depth: usize) -> Self {
        let width = ASPECT * depth;
        let unit = match width {
            1024.. => 256,
            512.. => 128,
            _ => head_size(width),
        };
        Self { depth, width: width.next_multiple_of(unit) }
    }

    /// Put the shape into `config`, except where `given` says that a field (by its name) is already decided.
    pub fn fill(self, config: &mut DecoderConfig, given: &dyn Fn(&str) -> bool) {
        if !given("num_hidden_layers") {
            config.num_hidden_layers = self.depth;
        }
        if !given("hidden_size") {
            config.hidden_size = self.width;
        }
        let width = config.hidden_size;
        if !given("num_attention_heads") {
            let size = if config.head_dim > 0 { config.head_dim } else { head_size(width) };
            config.num_attention_heads = (width / size.max(1)).max(1);
        }
        if !given("num_key_value_heads") {
            let heads = config.num_attention_heads;
            config.num_key_value_heads = if config.mla.is_some() { heads } else { key_value_heads(heads) };
        }
        if !given("intermediate_size") {
            let times = if config.gated_mlp { (8 * width).div_ceil(3) } else { 4 * width };
            config.intermediate_size = times.next_multiple_of(64);
        }
    }

    /// The shape whose model, with what is `given` in `base`, has nearest to `target` parameters.
    pub fn of_size(base: &DecoderConfig, given: &dyn Fn(&str) -> bool, target: f64, count: Count) -> Result<Self> {
        let depths = if given("num_hidden_layers") { base.num_hidden_layers..=base.num_hidden_layers } else { 1..=DEEPEST };
        let widths: Vec<usize> = if given("hidden_size") { vec![base.hidden_size] } else { widths(given("num_hidden_layers")).collect() };
        let at = |width, depth| {
            let mut config = base.clone();
            Self { depth, width }.fill(&mut config, given);
            count.of(&config)
        };
        let mut candidates: Vec<(f64, f64, Self)> = Vec::new();
        for width in widths {
            // Every layer has the same parameters.
            let (first, from) = (at(width, *depths.start()), *depths.start());
            let layer = if depths.end() > depths.start() { at(width, from + 1) - first } else { 0.0 };
            candidates.extend(depths.clone().map(|depth| {
                let size = first + layer * (depth - from) as f64;
                let shape = Self { depth, width };
                ((size / target).ln().abs(), (width as f64 / (ASPECT * depth) as f64).ln().abs(), shape)
            }));
        }
        let nearest = |within: f64| candidates.iter().filter(|c| c.1 <= within.ln()).min_by(|a, b| a.0.total_cmp(&b.0));
        let near = ASPECTS.iter().filter_map(|within| nearest(*within)).find(|c| c.0 <= FAR.ln_1p());
        let best = near.or_else(|| nearest(f64::INFINITY));
        match best {
            Some((error, _, shape)) if *error <= FAR.ln_1p() => Ok(*shape),
            Some((_, _, shape)) => Err(Error::Config(format!(
                "params = {}: the nearest model has {} (a vocabulary of {} and width {} need {} for the embedding alone); choose another size, a \
                 smaller vocabulary, or leave more of `model` open",
                crate::quantity::count(target),
                crate::quantity::count(at(shape.width, shape.depth)),
                base.vocab_size,
                shape.width,
                crate::quantity::count((base.vocab_size * shape.width) as f64),
            ))),
            None => Err(Error::Config("model.num_hidden_layers must be at least 1".into())),
        }
    }
}

/// Widths that are worth having: finer where models are small, and where the depth cannot make up for a coarse one.
fn widths(fine: bool) -> impl Iterator<Item = usize> {
    let steps = if fine { [64, 64] } else { [128, 256] };
    let rest = (512..1024).step_by(steps[0]).chain((1024..=WIDEST).step_by(steps[1]));
    (16..128).step_by(16).chain((128..256).step_by(32)).chain((256..512).step_by(64)).chain(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn open(_: &str) -> bool {
        false
    }

    fn base(vocab_size: usize) -> DecoderConfig {
        DecoderConfig { vocab_size, ..DecoderConfig::default() }
    }

    fn filled(shape: Shape, vocab_size: usize) -> DecoderConfig {
        let mut config = base(vocab_size);
        shape.fill(&mut config, &open);
        config
    }

    /// If this fails, `--depth` gives a model that cannot be built, or a deeper one is not larger.
    #[test]
    fn every_depth_is_valid_and_larger_than_the_one_before() {
        let mut before = 0;
        for depth in 1..=100 {
            let config = filled(Shape::of_depth(depth), 4096);
            config.validate().unwrap();
            let heads = config.num_attention_heads;
            assert!(heads.is_multiple_of(config.num_key_value_heads) && config.hidden_size.is_multiple_of(heads), "{config:?}");
            assert!(heads >= 4 && (depth < 8 || config.head_size() == 128), "depth {depth}: {heads} heads");
            assert!(config.num_parameters() > before, "depth {depth}");
            before = config.num_parameters();
        }
    }

    #[test]
    fn known_depths() {
        let of = |depth| {
            let c = filled(Shape::of_depth(depth), 4096);
            [c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.intermediate_size]
        };
        assert_eq!(of(3), [192, 6, 2, 512], "the width of the quickstart");
        assert_eq!(of(4), [256, 4, 2, 704]);
        assert_eq!(of(12), [768, 6, 2, 2048]);
        assert_eq!(of(13), [896, 7, 7, 2432], "64 x 13 rounded up to whole heads of 128");
        assert_eq!(of(32), [2048, 16, 4, 5504]);
    }

    proptest! {
        /// If this fails, `--params 50M` does not give a model of 50 M.
        #[test]
        fn a_size_is_met_within_ten_percent_and_grows_with_what_is_asked(exponent in 6.0f64..10.0, more in 1.0f64..2.0) {
            let target = 10f64.powf(exponent);
            let vocab = if target < 2e7 { 4096 } else { 32_768 };
            let size = |target: f64| Count::All.of(&filled(Shape::of_size(&base(vocab), &open, target, Count::All).unwrap(), vocab));
            let got = size(target);
            prop_assert!((got / target - 1.0).abs() < 0.10, "{got} for {target}");
            let larger = (target * more).min(1e10);
            prop_assert!(size(larger) >= got, "{larger}");
        }
    }

    #[test]
    fn what_is_given_stays_and_impossible_sizes_are_refused() {
        let given = |field: &str| field == "num_hidden_layers";
        let base = DecoderConfig { num_hidden_layers: 6, ..base(4096) };
        let shape = Shape::of_size(&base, &given, 50e6, Count::All).unwrap();
        assert_eq!(shape.depth, 6);
        let message = Shape::of_size(&self::base(128_256), &open, 1e6, Count::All).unwrap_err().to_string();
        assert!(message.contains("vocabulary of 128256"), "{message}");
    }
}
