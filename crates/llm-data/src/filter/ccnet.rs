//! CCNet's buckets (Wenzek et al., 2020): documents sorted by the perplexity that a language model of Wikipedia gives them into head,
//! middle and tail. Profile `ccnet`.
//!
//! The model is not part of this module: anything that is a [`Perplexity`] serves. CCNet cuts at the 30th and 60th percentile of each
//! language's own distribution; [`cutoffs`] finds them in a sample (or in stored signals), and they go into the settings.

use super::limits::{Bound, Judge, Limits, limits};
use crate::document::Document;
use crate::error::{Error, Result};
use crate::step::{Step, Trace, Verdict};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Name of the profile.
pub const NAME: &str = "ccnet";

/// A language model, as far as this profile sees it.
pub trait Perplexity: Send + Sync {
    /// Perplexity of `text` per token under the model of `lang` (ISO 639-1); `None` if there is no model of that language.
    fn perplexity(&self, text: &str, lang: &str) -> Option<f64>;
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

/// The third of the distribution a document lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bucket {
    /// Most like the model's training text.
    Head,
    /// In between.
    Middle,
    /// Least like it.
    Tail,
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
        /// Cut-offs per language.
        cutoffs: BTreeMap<String, Cutoffs> = BTreeMap::new(),
    }
}

/// Percentiles 30 and 60 of a sample of perplexities; `None` for an empty one.
pub fn cutoffs(sample: &[f64]) -> Option<Cutoffs> {
    let mut sorted: Vec<f64> = sample.iter().copied().filter(|p| p.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted.get(((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1))).copied();
    Some(Cutoffs { head: at(0.3)?, middle: at(0.6)? })
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
        let cut = cutoffs(&(1..=100).map(f64::from).collect::<Vec<_>>()).unwrap();
        assert_eq!(cut, Cutoffs { head: 31.0, middle: 61.0 });
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
        assert!(cutoffs(&[]).is_none());
    }
}
