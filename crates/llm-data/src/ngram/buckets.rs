//! Head, middle and tail: documents by the perplexity that a reference sample's quantiles make low, usual or high (CCNet).

use super::{Perplexity, Scorer};
use crate::document::Document;
use crate::error::{Error, Result};
use crate::step::{Rule, Step, Trace, Verdict};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where a document lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bucket {
    /// The most fluent.
    Head,
    /// Usual.
    Middle,
    /// The least fluent.
    Tail,
}

/// Settings of the step `perplexity`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PerplexityConfig {
    /// Output folder of `train-ngram`, or an ARPA or KenLM file.
    pub model: PathBuf,
    /// Documents of other languages pass unmeasured; empty: all are measured.
    pub languages: Vec<String>,
    /// Percentile of the reference sample up to which a document is head.
    pub head_percentile: f64,
    /// Percentile up to which it is middle.
    pub middle_percentile: f64,
    /// Perplexities that take the place of the percentiles: `[head, middle]`. A model without reference sample needs them.
    pub limits: Option<[f64; 2]>,
    /// Buckets to keep.
    pub keep: Vec<Bucket>,
}

impl Default for PerplexityConfig {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            languages: Vec::new(),
            head_percentile: 30.0,
            middle_percentile: 60.0,
            limits: None,
            keep: vec![Bucket::Head, Bucket::Middle],
        }
    }
}

/// The step.
#[derive(Debug)]
pub struct PerplexityStep {
    scorer: Scorer,
    limits: [f64; 2],
    config: PerplexityConfig,
}

/// Value at `percent` of sorted percentiles 0 to 100, interpolated.
pub(crate) fn percentile(percentiles: &[f64], percent: f64) -> f64 {
    let at = percent / 100.0 * (percentiles.len() - 1) as f64;
    let (low, high) = (percentiles[at.floor() as usize], percentiles[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// The 101 percentiles of perplexities; empty without any.
pub fn percentiles(mut values: Vec<f64>) -> Vec<f64> {
    values.retain(|v| v.is_finite());
    if values.is_empty() {
        return Vec::new();
    }
    values.sort_by(f64::total_cmp);
    (0..=100).map(|p| percentile(&values, f64::from(p))).collect()
}

impl PerplexityStep {
    /// Open the model and fix the limits.
    pub fn new(config: PerplexityConfig) -> Result<Self> {
        let scorer = Scorer::open(&config.model)?;
        let wrong = |what: String| Err(Error::Config(format!("perplexity: {what}")));
        let limits = match config.limits {
            Some(limits) => limits,
            None if scorer.percentiles.len() < 2 => {
                return wrong(format!("{} has no reference sample; set limits = [head, middle]", config.model.display()));
            }
            None => {
                let [head, middle] = [config.head_percentile, config.middle_percentile];
                if !(0.0..=100.0).contains(&head) || !(head..=100.0).contains(&middle) {
                    return wrong(format!("percentiles {head} and {middle}: expected 0 <= head <= middle <= 100"));
                }
                [percentile(&scorer.percentiles, head), percentile(&scorer.percentiles, middle)]
            }
        };
        if limits[0].is_nan() || limits[1].is_nan() || limits[0] > limits[1] {
            return wrong(format!("limits {limits:?}: expected [head, middle] in rising order"));
        }
        Ok(Self { scorer, limits, config })
    }

    /// Perplexity and bucket of a text.
    pub fn bucket(&self, text: &str) -> (f64, Bucket) {
        let perplexity = self.scorer.perplexity(text);
        let bucket = match self.limits {
            [head, _] if perplexity <= head => Bucket::Head,
            [_, middle] if perplexity <= middle => Bucket::Middle,
            _ => Bucket::Tail,
        };
        (perplexity, bucket)
    }

    /// The greatest perplexity of a bucket that is kept, when they are the lower ones.
    fn limit(&self) -> Option<f64> {
        match self.config.keep.iter().max() {
            Some(Bucket::Head) => Some(self.limits[0]),
            Some(Bucket::Middle) => Some(self.limits[1]),
            _ => None,
        }
    }
}

impl Step for PerplexityStep {
    fn name(&self) -> &str {
        "perplexity"
    }

    fn rules(&self) -> Vec<Rule> {
        vec![Rule::new("perplexity", "perplexity/perplexity", None, self.limit())]
    }

    fn apply(&self, document: &mut Document, trace: &mut Trace) -> Result<Verdict> {
        let lang = document.lang.as_deref().unwrap_or_default();
        if document.is_code() || !(self.config.languages.is_empty() || self.config.languages.iter().any(|l| l == lang)) {
            return Ok(Verdict::Keep);
        }
        let (perplexity, bucket) = self.bucket(&document.text);
        let limit = self.limit();
        trace.signal("perplexity/perplexity", perplexity, None, limit);
        let name = match bucket {
            Bucket::Head => "head",
            Bucket::Middle => "middle",
            Bucket::Tail => "tail",
        };
        trace.count(format!("perplexity {name}"), 1);
        if self.config.keep.contains(&bucket) {
            return Ok(Verdict::Keep);
        }
        Ok(Verdict::drop("perplexity", (perplexity * 100.0).round() / 100.0, limit.map_or(serde_json::Value::from(name), Into::into)))
    }
}
