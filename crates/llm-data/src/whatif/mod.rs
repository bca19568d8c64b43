//! What-if: the funnel under other limits, from stored signals, without the text; and the distributions of the signals.
//!
//! A document falls at the first rule that one of its signals breaks, as in the stage itself. Values are stored in single precision and
//! compared in it; a value exactly at a limit passes there as here. A document that fell for something else than a stored value (an
//! unwanted language) falls there again, unless a rule before is broken. What cannot be tried out this way is refused by name: settings that
//! change the text (C4's rules for lines), the language, lists of addresses, and profiles that were not measured.

mod stored;

use crate::error::Result;
use crate::signals::SignalsReader;
use crate::step::Rule;
use serde::Serialize;
use std::path::Path;
use stored::Stored;

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

/// The rules that the stored signals were held against.
pub fn stored_rules(signals: &SignalsReader) -> Result<Vec<Rule>> {
    Stored::open(signals)?.rules(&signals.names, &[])
}

/// Rules with the columns of their signals; those of signals that are not stored are left out.
fn in_columns(rules: Vec<Rule>, names: &[String]) -> Vec<(Rule, usize)> {
    rules.into_iter().filter_map(|r| names.iter().position(|n| *n == r.signal).map(|i| (r, i))).collect()
}

/// Compare the stored funnel with that of the settings `sets` (`gopher:datatrove.max_dup_line_frac=0.2`).
pub fn what_if(path: &Path, sets: &[String]) -> Result<WhatIf> {
    let signals = SignalsReader::open(path)?;
    let stored = Stored::open(&signals)?;
    let old_rules = in_columns(stored.rules(&signals.names, &[])?, &signals.names);
    let rules = in_columns(stored.rules(&signals.names, sets)?, &signals.names);
    let mut result = WhatIf::default();
    for (rule, _) in old_rules.iter().chain(&rules) {
        result.check(&rule.check);
    }
    signals.for_each(|rows| {
        for (i, id) in rows.ids.iter().enumerate() {
            let bytes = rows.bytes[i] as u64;
            let breaks = |(rule, column): &(Rule, usize)| rule.is_broken(rows.values[*column][i]);
            let was = rows.dropped[i].as_deref();
            let broken = rules.iter().position(breaks);
            // The place of a check that dropped the document for a reason that is not stored.
            let other = was.filter(|was| !old_rules.iter().any(|rule| rule.0.check == *was && breaks(rule)));
            let place = other.map(|was| rules.iter().position(|(rule, _)| rule.check == was).unwrap_or(rules.len()));
            let now = match (broken, other, place) {
                (Some(at), Some(was), Some(place)) if place <= at => Some(was),
                (Some(at), ..) => Some(rules[at].0.check.as_str()),
                (None, other, _) => other,
            };
            result.documents += 1;
            result.bytes += bytes;
            match was {
                Some(check) => result.check(check).dropped_before += 1,
                None => {
                    result.kept_before += 1;
                    result.kept_bytes_before += bytes;
                }
            }
            match now {
                Some(check) => result.check(check).dropped_now += 1,
                None => {
                    result.kept_now += 1;
                    result.kept_bytes_now += bytes;
                }
            }
            let sign = match (was.is_some(), now.is_some()) {
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

impl WhatIf {
    /// The counts of a check, new ones at the end.
    fn check(&mut self, name: &str) -> &mut Check {
        let at = self.checks.iter().position(|c| c.check == name).unwrap_or_else(|| {
            self.checks.push(Check { check: name.to_string(), ..Check::default() });
            self.checks.len() - 1
        });
        &mut self.checks[at]
    }
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
    let rules = in_columns(stored_rules(&signals)?, &signals.names);
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
    let outside = rule.map_or(0, |r| values.iter().filter(|v| r.is_broken(**v)).count());
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
