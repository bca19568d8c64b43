//! Weights of the loss by domain and language.
//!
//! The loss of a step is the mean over its targets, each with the weight of its document: the sum of weight times loss over the sum of
//! weights, over all micro-batches of the step together.

use super::rows::segments;
use crate::{Error, Result};
use llm_data::shards::{Label, Labels, Row};
use std::collections::BTreeMap;

/// The prefix of a domain's name.
pub const DOMAIN: &str = "domain=";
/// The prefix of a language's name.
pub const LANGUAGE: &str = "lang=";
/// What documents without a name are called.
pub const UNNAMED: &str = "none";

/// Names of domains or languages as people see them.
pub fn shown(names: &[String]) -> impl Iterator<Item = &str> {
    names.iter().map(|name| if name.is_empty() { UNNAMED } else { name.as_str() })
}

/// Weights for the labels of a folder.
#[derive(Debug, Clone, PartialEq)]
pub struct LossWeights {
    domains: Vec<f32>,
    languages: Vec<f32>,
}

impl LossWeights {
    /// One for each folder, none without weights. A name that no folder has is an error that lists those there are.
    pub fn resolve(weights: &BTreeMap<String, f64>, folders: &[&Labels]) -> Result<Option<Vec<Self>>> {
        if weights.is_empty() {
            return Ok(None);
        }
        let all = |prefix: &'static str, get: fn(&Labels) -> &Vec<String>| {
            folders.iter().flat_map(move |labels| shown(get(labels))).map(move |name| format!("{prefix}{name}"))
        };
        let mut known: Vec<String> = all(DOMAIN, |l| &l.domains).chain(all(LANGUAGE, |l| &l.languages)).collect();
        known.sort();
        known.dedup();
        if let Some(wrong) = weights.keys().find(|key| !known.contains(key)) {
            return Err(Error::Config(format!(
                "loss_weights.\"{wrong}\": the training shards have no such documents; they have {}",
                known.join(", ")
            )));
        }
        let of = |prefix: &str, names: &[String]| -> Vec<f32> {
            shown(names).map(|name| weights.get(&format!("{prefix}{name}")).map_or(1.0, |&weight| weight as f32)).collect()
        };
        Ok(Some(folders.iter().map(|labels| Self { domains: of(DOMAIN, &labels.domains), languages: of(LANGUAGE, &labels.languages) }).collect()))
    }

    /// The weight of a document.
    pub fn of(&self, label: Label) -> f32 {
        let get = |list: &[f32], i: u16| list.get(usize::from(i)).copied().unwrap_or(1.0);
        get(&self.domains, label.domain) * get(&self.languages, label.language)
    }

    /// The weight of each target of a row; 0 where nothing is asked.
    pub fn targets(&self, row: &Row) -> Vec<f32> {
        let mut out = vec![0.0; row.tokens.len() - 1];
        for segment in segments(row) {
            out[segment.targets()].fill(self.of(segment.label));
        }
        out
    }
}
