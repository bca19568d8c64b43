//! Several adapters of one model as one, by the methods and under the names of PEFT's `add_weighted_adapter` (`tuners/lora/model.py`,
//! `utils/merge_utils.py`): they work on the factors A and B, each with the root of its adapter's weight and factor, so that all but `cat` hold
//! products of one adapter's A with another's B too.
//!
//! | method | what becomes of the numbers of one place |
//! |---|---|
//! | `linear` | their weighted sum |
//! | `cat` | they stay apart: ranks add up, and the update is exactly the weighted sum of the updates |
//! | `magnitude_prune` | of each adapter only the largest `density`, then the weighted sum |
//! | `ties` | of each the largest; those of the sign that weighs more, their weighted mean (Yadav et al. 2023) |
//! | `dare_linear` | of each a random `density`, divided by it, then the weighted sum (Yu et al. 2023) |
//! | `dare_ties` | of each a random `density`, then as `ties` |

use super::{Adapter, Change, Delta};
use crate::{Error, Result};
use llm_run::Seed;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

/// How adapters become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Combination {
    /// Weighted sum of the factors.
    Linear,
    /// Weighted sum of the updates.
    #[default]
    Cat,
    /// Trimmed, one sign elected, averaged.
    Ties,
    /// Random share, summed.
    DareLinear,
    /// Random share, one sign elected, averaged.
    DareTies,
    /// Trimmed, summed.
    MagnitudePrune,
}

impl FromStr for Combination {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let known = "linear, cat, ties, dare_linear, dare_ties or magnitude_prune";
        serde_json::from_value(text.into()).map_err(|_| format!("`{text}` is no way to combine adapters; expected {known}"))
    }
}

/// One of the adapters at one place.
struct Term<'a> {
    /// The root of weight times factor.
    root: f32,
    /// Weight times factor.
    scale: f32,
    rank: usize,
    a: &'a [f32],
    b: &'a [f32],
}

/// One adapter from several with their weights. `density` is the share that pruning keeps; what DARE drops is a function of the seed.
pub fn combine(adapters: &[(Adapter, f64)], how: Combination, density: f64, seed: Seed) -> Result<Adapter> {
    let Some((first, _)) = adapters.first() else { return Err(Error::Config("combine: no adapters".into())) };
    let mut problems = Vec::new();
    if !(density > 0.0 && density <= 1.0) {
        problems.push(format!("density = {density}; expected a number above 0, at most 1"));
    }
    for (adapter, weight) in adapters {
        let positive = *weight > 0.0 || how == Combination::Cat;
        if !weight.is_finite() || !positive {
            let dir = adapter.dir.display();
            problems.push(format!("{dir}: weight {weight}; expected a positive number (any other only with `cat`)"));
        }
    }
    let names: BTreeSet<&String> = adapters.iter().flat_map(|(adapter, _)| adapter.changes.keys()).collect();
    let mut changes = BTreeMap::new();
    for name in names {
        match merged(name, adapters, how, density, seed) {
            Ok(merged) => drop(changes.insert(name.clone(), merged)),
            Err(problem) => problems.push(format!("`{name}`: {problem}")),
        }
    }
    if !problems.is_empty() {
        return Err(Error::Adapter { path: first.dir.clone(), problems });
    }
    Ok(Adapter { dir: first.dir.clone(), config: first.config.clone(), changes })
}

/// The changes of one parameter. Those of a fused module change the same rows in every adapter.
fn merged(name: &str, adapters: &[(Adapter, f64)], how: Combination, density: f64, seed: Seed) -> std::result::Result<Vec<Change>, String> {
    let mut by_rows: BTreeMap<(usize, usize), Vec<Term>> = BTreeMap::new();
    for (adapter, weight) in adapters {
        for Change { first_row, rows, delta } in adapter.changes.get(name).into_iter().flatten() {
            match delta {
                Delta::LowRank { rank, scale, a, b, magnitude: None } => {
                    let scale = (*weight * f64::from(*scale)) as f32;
                    let term = Term { root: scale.abs().sqrt(), scale, rank: *rank, a, b };
                    by_rows.entry((*first_row, *rows)).or_default().push(term);
                }
                Delta::LowRank { .. } => return Err("is weight-decomposed (DoRA); merge such adapters one after the other".into()),
                Delta::Whole(_) if adapters.len() == 1 => {
                    return Ok(adapter.changes[name].clone());
                }
                Delta::Whole(_) => return Err("is replaced as a whole; only low-rank updates can be combined".into()),
            }
        }
    }
    let one = |((first_row, rows), terms): ((usize, usize), Vec<Term>)| {
        let ranks: BTreeSet<usize> = terms.iter().map(|term| term.rank).collect();
        let delta = match (how, ranks.first()) {
            (Combination::Cat, _) => cat(&terms, rows),
            (_, Some(&rank)) if ranks.len() == 1 => {
                let factor = |what: &str, values: fn(&Term) -> Vec<f32>| {
                    let (roots, tensors): (Vec<f32>, Vec<Vec<f32>>) = terms.iter().map(|term| (term.root, values(term))).unzip();
                    together(tensors, &roots, how, density, seed.stream(name).stream(what))
                };
                let (a, b) = (factor("lora_A", |term| term.a.to_vec()), factor("lora_B", |term| term.b.to_vec()));
                Delta::LowRank { rank, scale: 1.0, a, b, magnitude: None }
            }
            _ => return Err(format!("ranks {ranks:?} differ; only `cat` takes those")),
        };
        Ok(Change { first_row, rows, delta })
    };
    by_rows.into_iter().map(one).collect()
}

/// Ranks side by side; A carries weights and factors.
fn cat(terms: &[Term], rows: usize) -> Delta {
    let rank = terms.iter().map(|term| term.rank).sum();
    let a = terms.iter().flat_map(|term| term.a.iter().map(|x| x * term.scale)).collect();
    let row = |o: usize| terms.iter().flat_map(move |term| &term.b[o * term.rank..(o + 1) * term.rank]).copied();
    Delta::LowRank { rank, scale: 1.0, a, b: (0..rows).flat_map(row).collect(), magnitude: None }
}

/// The numbers of several adapters as one's.
fn together(mut tensors: Vec<Vec<f32>>, weights: &[f32], how: Combination, density: f64, seed: Seed) -> Vec<f32> {
    for (i, tensor) in tensors.iter_mut().enumerate() {
        match how {
            Combination::Ties | Combination::MagnitudePrune => keep_largest(tensor, density),
            Combination::DareLinear | Combination::DareTies => keep_some(tensor, density, seed.at(i as u64)),
            Combination::Linear | Combination::Cat => {}
        }
    }
    let elects = matches!(how, Combination::Ties | Combination::DareTies);
    let place = |i: usize| {
        let values = tensors.iter().map(|tensor| tensor[i]);
        if !elects {
            return values.zip(weights).map(|(x, w)| x * w).sum();
        }
        let sign = if values.clone().sum::<f32>() >= 0.0 { 1.0 } else { -1.0 };
        let (mut sum, mut count) = (0f32, 0f32);
        for (x, w) in values.zip(weights).filter(|(x, _)| x * sign > 0.0) {
            sum += x * w;
            count += 1.0;
        }
        sum / count.max(1.0)
    };
    (0..tensors.first().map_or(0, Vec::len)).map(place).collect()
}

/// Zero all but the largest share.
fn keep_largest(tensor: &mut [f32], density: f64) {
    let keep = (density * tensor.len() as f64) as usize;
    let mut order: Vec<usize> = (0..tensor.len()).collect();
    order.sort_by(|&i, &j| tensor[j].abs().total_cmp(&tensor[i].abs()));
    order[keep.min(tensor.len())..].iter().for_each(|&i| tensor[i] = 0.0);
}

/// Zero all but a random share, and divide what is left by it.
fn keep_some(tensor: &mut [f32], density: f64, seed: Seed) {
    let mut rng = seed.rng();
    tensor.iter_mut().for_each(|x| *x = if rng.chance(density) { *x / density as f32 } else { 0.0 });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand, as PEFT's `merge_utils` computes them.
    #[test]
    fn numbers_of_one_place_become_what_peft_makes_of_them() {
        let tensors = || vec![vec![4.0, -1.0, 2.0, 0.5], vec![-1.0, -3.0, 2.0, 0.0]];
        let of = |how, density| together(tensors(), &[1.0, 0.5], how, density, Seed(1));
        assert_eq!(of(Combination::Linear, 1.0), [3.5, -2.5, 3.0, 0.5]);
        // The largest two of each: [4, 0, 2, 0] and [0, -3, 2, 0].
        assert_eq!(of(Combination::MagnitudePrune, 0.5), [4.0, -1.5, 3.0, 0.0]);
        // Signs +, -, +, +; the mean of those that agree.
        assert_eq!(of(Combination::Ties, 1.0), [4.0, -1.25, 1.5, 0.5]);
        assert_eq!(of(Combination::Ties, 0.5), [4.0, -1.5, 1.5, 0.0]);
        assert_eq!(of(Combination::DareLinear, 1.0), of(Combination::Linear, 1.0));
        assert_eq!(of(Combination::DareTies, 1.0), of(Combination::Ties, 1.0));
        let some = of(Combination::DareLinear, 0.5);
        assert!(some == of(Combination::DareLinear, 0.5) && some != of(Combination::Linear, 1.0), "{some:?}");
    }

    /// If this fails, `cat` is no longer the weighted sum of the updates.
    #[test]
    fn ranks_side_by_side_are_the_sum_of_the_updates() {
        let terms = [
            Term { root: 0.0, scale: 0.5, rank: 1, a: &[1.0, 2.0], b: &[3.0, -1.0, 2.0] },
            Term { root: 0.0, scale: -2.0, rank: 2, a: &[1.0, 0.0, 0.5, 1.0], b: &[1.0, 0.0, 0.0, 1.0, 2.0, 2.0] },
        ];
        let Delta::LowRank { rank: 3, a, b, .. } = cat(&terms, 3) else { panic!("rank") };
        let product = |a: &[f32], b: &[f32], rank: usize, scale: f32| -> Vec<f32> {
            let at = |o: usize, i: usize| (0..rank).map(|r| b[o * rank + r] * a[r * 2 + i]).sum::<f32>() * scale;
            (0..3).flat_map(|o| [at(o, 0), at(o, 1)]).collect()
        };
        let want: Vec<f32> =
            terms.iter().map(|t| product(t.a, t.b, t.rank, t.scale)).reduce(|x, y| x.iter().zip(&y).map(|(x, y)| x + y).collect()).unwrap();
        assert_eq!(product(&a, &b, 3, 1.0), want);
    }

    #[test]
    fn methods_are_named_as_peft_names_them() {
        assert_eq!("dare_ties".parse(), Ok(Combination::DareTies));
        assert!("svd".parse::<Combination>().unwrap_err().contains("magnitude_prune"));
    }
}
