//! Parameters that training leaves alone, named by patterns: `vision_tower.*`, `language_model.model.layers.?.mlp.*`.
//!
//! A name is a parameter's path of field names. `*` stands for any characters, dots included, `?` for one; a pattern fits the whole
//! name. Frozen parameters are constants of the gradient tape: no gradient is computed for them, they have no optimiser state, and no
//! weight decay reaches them.

use crate::{Error, Result};
use llm_tensor::burn::module::Module;
use llm_tensor::params;
use std::collections::BTreeSet;

/// Does one of the patterns fit?
pub fn is_frozen(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| fits(pattern, name))
}

/// Names of the parameters that the patterns freeze. A pattern without effect is an error, and so is leaving nothing to train;
/// `buffers` are not trained anyway.
pub fn frozen<M: Module>(module: &M, patterns: &[String], buffers: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    if patterns.is_empty() {
        return Ok(BTreeSet::new());
    }
    let shapes = params::shapes(module);
    if let Some(pattern) = patterns.iter().find(|pattern| !shapes.keys().any(|name| fits(pattern, name))) {
        return Err(Error::Config(format!("freeze: {}", fits_nothing(pattern, shapes.keys().map(String::as_str)))));
    }
    if shapes.keys().all(|name| buffers.contains(name) || is_frozen(patterns, name)) {
        return Err(Error::Config(format!("freeze = {patterns:?} freezes every parameter; nothing is left to train")));
    }
    Ok(shapes.into_keys().filter(|name| is_frozen(patterns, name)).collect())
}

/// What to say of a pattern that fits none of these names.
pub(crate) fn fits_nothing<'a>(pattern: &str, names: impl Iterator<Item = &'a str>) -> String {
    let mut firsts: Vec<String> = names.map(first_part).collect();
    firsts.dedup();
    format!("`{pattern}` fits no parameter; their names begin with {} (`*` stands for any characters)", firsts.join(", "))
}

/// `vision_tower.` of `vision_tower.encoder...`; a name without dots is itself.
fn first_part(name: &str) -> String {
    name.split_once('.').map_or(name.to_string(), |(first, _)| format!("{first}."))
}

/// Does the pattern fit the whole name? The usual matching with one point to return to: the last `*`.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == b'?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                // Let the star take one character more.
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                n = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, name, want) in [
            ("vision_tower.*", "vision_tower.encoder.layers.0.mlp.fc1.weight", true),
            ("vision_tower", "vision_tower.head", false),
            ("*.layers.?.mlp.*", "model.layers.3.mlp.up_proj.weight", true),
            ("*.layers.?.mlp.*", "model.layers.13.mlp.up_proj.weight", false),
            ("*bias", "a.bias.weight", false),
            ("*a*b*c", "xxaybzc", true),
            ("*", "", true),
            ("", "a", false),
        ] {
            assert_eq!(fits(pattern, name), want, "{pattern} on {name}");
        }
    }

    proptest! {
        /// Against a definition by recursion.
        #[test]
        fn matching_is_the_definition(pattern in "[ab*?]{0,8}", name in "[ab]{0,8}") {
            fn plain(p: &[u8], n: &[u8]) -> bool {
                match p {
                    [] => n.is_empty(),
                    [b'*', rest @ ..] => (0..=n.len()).any(|i| plain(rest, &n[i..])),
                    [c, rest @ ..] => n.first().is_some_and(|x| *c == b'?' || c == x) && plain(rest, &n[1..]),
                }
            }
            prop_assert_eq!(fits(&pattern, &name), plain(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
