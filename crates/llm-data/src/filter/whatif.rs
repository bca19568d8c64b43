//! What-if: the funnel under other limits, from stored signals, without the text; and the distributions of the signals.
//!
//! A document falls at the first rule that one of its signals breaks, as in the stage itself. Values are stored in single precision and
//! compared in it; a value exactly at a limit passes there as here. What cannot be tried out this way is refused by name: settings that
//! change the text (C4's rules for lines), the language, lists of addresses, and profiles that were not measured.

use super::signals::SignalsReader;
use super::{FilterConfig, Models, PROFILES, Rule, profiles};
use crate::error::{Error, Result};
use serde::Serialize;
use std::path::Path;

/// One check in two funnels.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Check {
    /// Its name.
    pub check: String,
    /// Documents it dropped when the signals were measured.
    pub dropped_before: u64,
    /// Documents it drops under the new limits.
    pub dropped_now: u64,
}

/// Two funnels side by side.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct WhatIf {
    /// All documents.
    pub documents: u64,
    /// All bytes.
    pub bytes: u64,
    /// Kept then.
    pub kept_before: u64,
    /// Their bytes.
    pub kept_bytes_before: u64,
    /// Kept now.
    pub kept_now: u64,
    /// Their bytes.
    pub kept_bytes_now: u64,
    /// Kept then, dropped now.
    pub lost: u64,
    /// Dropped then, kept now.
    pub gained: u64,
    /// Some ids of those that change sides, with `+` (gained) or `-` (lost).
    pub examples: Vec<String>,
    /// The checks in their order.
    pub checks: Vec<Check>,
}

const EXAMPLES: usize = 10;

/// The settings of `config` that change what is measured, with their names.
fn fixed(config: &FilterConfig) -> Vec<(&'static str, String)> {
    let (c, f) = (&config.c4, &config.fineweb);
    let show = |v: &dyn std::fmt::Debug| format!("{v:?}");
    vec![
        ("language", show(&config.language)),
        ("text.languages", show(&config.text.languages)),
        ("c4.terminal_punctuation", show(&c.terminal_punctuation)),
        ("c4.min_words_per_line", show(&c.min_words_per_line)),
        ("c4.max_word_chars", show(&c.max_word_chars)),
        ("c4.remove_citations", show(&c.remove_citations)),
        ("c4.drop_javascript", show(&c.drop_javascript)),
        ("c4.drop_policy", show(&c.drop_policy)),
        ("fineweb.short_line_chars", show(&f.short_line_chars)),
        ("ccnet.cutoffs", show(&config.ccnet.cutoffs)),
        ("url", show(&config.url)),
        ("gopher:datatrove.repetition", show(&config.gopher_datatrove.repetition)),
        ("gopher:datatrove.quality", show(&config.gopher_datatrove.quality)),
    ]
}

/// A model that answers nothing: rules need a profile, not its model.
struct NoModel;
impl super::ccnet::Perplexity for NoModel {
    fn perplexity(&self, _: &str, _: &str) -> Option<f64> {
        None
    }
}

/// The rules of a configuration whose signals are stored.
fn rules(config: &FilterConfig, names: &[String]) -> Result<Vec<(Rule, usize)>> {
    // Lists of addresses were read when the signals were measured and may be gone.
    let url = super::url::UrlLimits { keep_without_url: config.url.keep_without_url, ..super::url::UrlLimits::default() };
    let config = FilterConfig { url, ..config.clone() };
    let models = Models { perplexity: Some(std::sync::Arc::new(NoModel)), quality: None };
    let mut rules: Vec<Rule> = profiles(&config, &models)?.iter().flat_map(|p| p.rules()).collect();
    for rule in &mut rules {
        // The quality model is not here, its scores are.
        if rule.signal == "tutorial/quality" && config.quality.enabled {
            rule.min = f64::from(config.quality.threshold);
        }
    }
    Ok(rules.into_iter().filter_map(|r| names.iter().position(|n| *n == r.signal).map(|i| (r, i))).collect())
}

/// The rules that the stored signals were held against.
pub fn stored_rules(signals: &SignalsReader) -> Result<Vec<Rule>> {
    let config: FilterConfig = llm_run::config::load(Some(&signals.config_path()), &[])?;
    Ok(rules(&config, &signals.names)?.into_iter().map(|(rule, _)| rule).collect())
}

/// Compare the stored funnel with that of the settings `sets` (`gopher:datatrove.max_dup_line_frac=0.2`).
pub fn what_if(path: &Path, sets: &[String]) -> Result<WhatIf> {
    let signals = SignalsReader::open(path)?;
    let file = signals.config_path();
    let before: FilterConfig = llm_run::config::load(Some(&file), &[])?;
    let now: FilterConfig = llm_run::config::load(Some(&file), sets)?;
    for ((name, old), (_, new)) in fixed(&before).into_iter().zip(fixed(&now)) {
        if old != new {
            return Err(Error::Config(format!(
                "{name}: changing it changes what is measured, not only where the limits are; run `llm-data filter` with it"
            )));
        }
    }
    let measured = |profile: &str| signals.names.iter().any(|n| n.split_once('/').is_some_and(|(p, _)| p == profile));
    if let Some(missing) = now.profiles.iter().find(|p| PROFILES.contains(&p.as_str()) && !measured(p)) {
        return Err(Error::Config(format!("profiles: `{missing}` was not measured; run `llm-data filter --set signals=true` with it")));
    }
    let (old_rules, rules) = (rules(&before, &signals.names)?, rules(&now, &signals.names)?);
    let mut result = WhatIf::default();
    for (rule, _) in old_rules.iter().chain(&rules) {
        if result.checks.iter().all(|c| c.check != rule.check) {
            result.checks.push(Check { check: rule.check.clone(), ..Check::default() });
        }
    }
    signals.for_each(|rows| {
        for (i, id) in rows.ids.iter().enumerate() {
            let bytes = rows.bytes[i] as u64;
            let broken = rules.iter().find(|(rule, column)| {
                let value = rows.values[*column][i];
                value < rule.min as f32 || value > rule.max as f32
            });
            result.documents += 1;
            result.bytes += bytes;
            let was = rows.dropped[i].as_deref();
            if let Some(check) = was {
                match result.checks.iter().position(|c| c.check == check) {
                    Some(at) => result.checks[at].dropped_before += 1,
                    None => result.checks.push(Check { check: check.to_string(), dropped_before: 1, dropped_now: 0 }),
                }
            } else {
                result.kept_before += 1;
                result.kept_bytes_before += bytes;
            }
            match broken {
                Some((rule, _)) => {
                    if let Some(check) = result.checks.iter_mut().find(|c| c.check == rule.check) {
                        check.dropped_now += 1;
                    }
                }
                None => {
                    result.kept_now += 1;
                    result.kept_bytes_now += bytes;
                }
            }
            let sign = match (was.is_some(), broken.is_some()) {
                (false, true) => {
                    result.lost += 1;
                    '-'
                }
                (true, false) => {
                    result.gained += 1;
                    '+'
                }
                _ => continue,
            };
            if result.examples.len() < EXAMPLES {
                result.examples.push(format!("{sign} {id}"));
            }
        }
        Ok(())
    })?;
    Ok(result)
}

/// Distribution of one signal.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Distribution {
    /// Name.
    pub signal: String,
    /// Documents with a value.
    pub documents: u64,
    /// Mean.
    pub mean: f64,
    /// Quantiles 0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.
    pub quantiles: [f64; 9],
    /// Least value that passes, if any.
    pub min: Option<f64>,
    /// Greatest value that passes, if any.
    pub max: Option<f64>,
    /// Share of documents outside the limits, whatever else they break.
    pub outside: f64,
    /// Documents in twenty equal bins from the 1st to the 99th percentile; what lies beyond is in the first and last.
    pub histogram: Vec<u64>,
}

/// Which quantiles [`Distribution::quantiles`] holds.
pub const QUANTILES: [f64; 9] = [0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0];
const BINS: usize = 20;

/// Distributions of all signals, and the funnel as it was.
pub fn distributions(path: &Path) -> Result<(Vec<Distribution>, WhatIf)> {
    let funnel = what_if(path, &[])?;
    let signals = SignalsReader::open(path)?;
    let config: FilterConfig = llm_run::config::load(Some(&signals.config_path()), &[])?;
    let rules = rules(&config, &signals.names)?;
    let mut columns: Vec<Vec<f32>> = vec![Vec::new(); signals.names.len()];
    signals.for_each(|rows| {
        for (all, part) in columns.iter_mut().zip(rows.values) {
            all.extend(part.into_iter().filter(|v| v.is_finite()));
        }
        Ok(())
    })?;
    let found = signals.names.iter().zip(columns).enumerate().map(|(i, (name, mut values))| {
        let rule = rules.iter().find(|(_, column)| *column == i).map(|(r, _)| r);
        distribution(name, &mut values, rule)
    });
    Ok((found.collect(), funnel))
}

fn distribution(name: &str, values: &mut [f32], rule: Option<&Rule>) -> Distribution {
    values.sort_by(f32::total_cmp);
    let n = values.len();
    let at = |q: f64| values.get(((n as f64 - 1.0).max(0.0) * q).round() as usize).map_or(f64::NAN, |v| f64::from(*v));
    let (low, high) = (at(0.01), at(0.99));
    let mut histogram = vec![0; BINS];
    for value in values.iter() {
        let place = if high > low { (f64::from(*value) - low) / (high - low) * BINS as f64 } else { 0.0 };
        histogram[(place.max(0.0) as usize).min(BINS - 1)] += 1;
    }
    let outside = rule.map_or(0, |r| values.iter().filter(|v| **v < r.min as f32 || **v > r.max as f32).count());
    let limit = |l: f64| l.is_finite().then_some(l);
    Distribution {
        signal: name.to_string(),
        documents: n as u64,
        mean: values.iter().map(|v| f64::from(*v)).sum::<f64>() / n.max(1) as f64,
        quantiles: QUANTILES.map(at),
        min: rule.and_then(|r| limit(r.min)),
        max: rule.and_then(|r| limit(r.max)),
        outside: outside as f64 / n.max(1) as f64,
        histogram,
    }
}
