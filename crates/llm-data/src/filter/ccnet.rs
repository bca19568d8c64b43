//! CCNet's buckets (Wenzek et al., 2020): documents sorted by the perplexity that a language model of Wikipedia gives them into head,
//! middle and tail. Profile `ccnet`.
//!
//! `models` names an n-gram model for each language ([`crate::ngram`]; CCNet's own are KenLM files). CCNet cuts at the 30th and 60th
//! percentile of each language's own distribution: those of the model's reference sample, or `cutoffs` of your own.

use super::limits::{Bound, Judge, Limits, limits};
use crate::document::Document;
use crate::error::{Error, Result};
use crate::ngram::buckets::{Bucket, percentile};
use crate::ngram::{Perplexity as _, Scorer};
use crate::step::{Rule, Step, Trace, Verdict};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Name of the profile.
pub const NAME: &str = "ccnet";

/// Language models, as far as this profile sees them.
pub trait Perplexity: Send + Sync {
    /// Perplexity of `text` per token under the model of `lang` (ISO 639-1); `None` if there is no model of that language.
    fn perplexity(&self, text: &str, lang: &str) -> Option<f64>;
}

/// An n-gram model for each language.
impl Perplexity for BTreeMap<String, Scorer> {
    fn perplexity(&self, text: &str, lang: &str) -> Option<f64> {
        self.get(lang).map(|model| model.perplexity(text))
    }
}

/// The models of the settings, and the settings with cut-offs for each of them.
pub fn open(limits: &CcNetLimits) -> Result<(CcNetLimits, Arc<dyn Perplexity>)> {
    if limits.models.is_empty() {
        return Err(Error::Config(
            "profiles: `ccnet` needs a language model: set ccnet.models.en to the output of `train-ngram`, or an ARPA or KenLM file".into(),
        ));
    }
    let (mut limits, mut models) = (limits.clone(), BTreeMap::new());
    for (lang, path) in &limits.models.clone() {
        let model = Scorer::open(path)?;
        if !limits.cutoffs.contains_key(lang) {
            if model.percentiles.len() < 2 {
                return Err(Error::Config(format!(
                    "ccnet: {} has no reference sample; set ccnet.cutoffs.{lang} = {{ head, middle }}",
                    path.display()
                )));
            }
            limits.cutoffs.insert(lang.clone(), Cutoffs { head: percentile(&model.percentiles, 30.0), middle: percentile(&model.percentiles, 60.0) });
        }
        models.insert(lang.clone(), model);
    }
    Ok((limits, Arc::new(models)))
}

/// Where head and middle end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cutoffs {
    /// Greatest perplexity of the head.
    pub head: f64,
    /// Greatest perplexity of the middle.
    pub middle: f64,
}

limits! {
    /// Settings of `ccnet`.
    pub struct CcNetLimits {
        /// 1 for a language without model or cut-offs.
        max_unknown = 0.0,
        /// Perplexity in any language; mostly left to the buckets.
        max_perplexity = f64::INFINITY,
        /// 0 head, 1 middle, 2 tail.
        max_bucket = 1.0,
    } also {
        /// Folder of `train-ngram`, ARPA or KenLM file of each language.
        models: BTreeMap<String, PathBuf> = BTreeMap::new(),
        /// Cut-offs per language; without them those of the model's reference sample.
        cutoffs: BTreeMap<String, Cutoffs> = BTreeMap::new(),
    }
}

/// The profile.
pub struct CcNet {
    limits: CcNetLimits,
    pub(super) bounds: Vec<Bound>,
    model: Arc<dyn Perplexity>,
}

impl CcNet {
    /// With these settings and a model.
    pub fn new(limits: CcNetLimits, model: Arc<dyn Perplexity>) -> Result<Self> {
        if let Some((lang, c)) = limits.cutoffs.iter().find(|(_, c)| c.head > c.middle) {
            return Err(Error::Config(format!("ccnet.cutoffs.{lang}: head = {} is greater than middle = {}; exchange them", c.head, c.middle)));
        }
        Ok(Self { bounds: limits.bounds(), limits, model })
    }

    /// Bucket of a perplexity in a language, if that has cut-offs.
    pub fn bucket(&self, perplexity: f64, lang: &str) -> Option<Bucket> {
        let cutoffs = self.limits.cutoffs.get(lang)?;
        Some(if perplexity <= cutoffs.head {
            Bucket::Head
        } else if perplexity <= cutoffs.middle {
            Bucket::Middle
        } else {
            Bucket::Tail
        })
    }
}

impl Step for CcNet {
    fn name(&self) -> &str {
        NAME
    }

    fn checks(&self) -> Vec<String> {
        super::check_names(NAME, &self.bounds)
    }

    fn rules(&self) -> Vec<Rule> {
        super::rules_of(NAME, &self.bounds)
    }

    fn apply(&self, document: &mut Document, trace: &mut Trace) -> Result<Verdict> {
        let lang = document.lang.as_deref().unwrap_or("en");
        let found = self.model.perplexity(&document.text, lang).and_then(|p| Some((p, self.bucket(p, lang)?)));
        let mut judge = Judge::new(NAME, &self.bounds, trace);
        let known = judge.check("unknown", f64::from(u8::from(found.is_none())));
        let (true, Some((perplexity, bucket))) = (known, found) else { return Ok(judge.verdict()) };
        let name = match bucket {
            Bucket::Head => "head",
            Bucket::Middle => "middle",
            Bucket::Tail => "tail",
        };
        judge.count(name, 1);
        let _ = judge.check("perplexity", perplexity) && judge.check("bucket", bucket as u8 as f64);
        Ok(judge.verdict())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Perplexity is the number in the text.
    struct Told;
    impl Perplexity for Told {
        fn perplexity(&self, text: &str, lang: &str) -> Option<f64> {
            if lang == "fr" { None } else { text.parse().ok() }
        }
    }

    fn verdict(text: &str, lang: &str, limits: CcNetLimits) -> (Verdict, Trace) {
        let mut trace = Trace::default();
        let mut document = Document { text: text.into(), lang: Some(lang.into()), ..Document::default() };
        (CcNet::new(limits, Arc::new(Told)).unwrap().apply(&mut document, &mut trace).unwrap(), trace)
    }

    #[test]
    fn the_tail_goes_and_the_buckets_are_counted() {
        let cut = Cutoffs { head: 31.0, middle: 61.0 };
        let limits = CcNetLimits { cutoffs: [("en".to_string(), cut)].into(), ..CcNetLimits::default() };
        for (text, bucket, kept) in [("31", "ccnet/head", true), ("61", "ccnet/middle", true), ("61.5", "ccnet/tail", false)] {
            let (verdict, trace) = verdict(text, "en", limits.clone());
            assert_eq!((verdict == Verdict::Keep, trace.counts), (kept, vec![(bucket.to_string(), 1)]));
        }
        assert!(matches!(verdict("5", "fr", limits.clone()).0, Verdict::Drop(r) if r.check == "ccnet/unknown"));
        assert_eq!(verdict("5", "fr", CcNetLimits { max_unknown: 1.0, ..limits }).0, Verdict::Keep);
    }

    #[test]
    fn cutoffs_in_the_wrong_order_are_refused() {
        let limits = CcNetLimits { cutoffs: [("en".to_string(), Cutoffs { head: 2.0, middle: 1.0 })].into(), ..CcNetLimits::default() };
        assert!(CcNet::new(limits, Arc::new(Told)).err().unwrap().to_string().contains("exchange"));
    }
}
