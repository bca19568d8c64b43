//! [`Measure`]: counts of samples as they come, every group with every tokenizer.
//!
//! Held are counts a group and, for samples with a link to their translations, counts a text; never the text itself but for a
//! few candidates of example sentences.

use super::count::{Candidate, Counts};
use super::examples::Picker;
use super::parallel::Parallel;
use super::report::{Fertility, Group, Reference, Report, ratio};
use super::{ENGLISH, UNKNOWN};
use crate::sample::Sample;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Counts of groups, one for each tokenizer.
type Groups = BTreeMap<String, Vec<Counts>>;

/// Counts of samples as they come.
#[derive(Debug)]
pub struct Measure {
    candidates: Vec<Candidate>,
    reference: String,
    groups: BTreeMap<(String, String), Vec<Counts>>,
    parallel: Parallel,
    picker: Picker,
}

fn add(into: &mut Vec<Counts>, counts: &[Counts]) {
    into.resize(counts.len(), Counts::default());
    into.iter_mut().zip(counts).for_each(|(sum, counts)| sum.add(counts));
}

impl Measure {
    /// Nothing counted yet; languages are compared with English.
    pub fn new(candidates: Vec<Candidate>) -> Self {
        Self { candidates, reference: ENGLISH.to_string(), groups: BTreeMap::new(), parallel: Parallel::default(), picker: Picker::default() }
    }

    /// Compare with another language than English.
    pub fn reference(mut self, lang: &str) -> Self {
        self.reference = lang.to_string();
        self
    }

    /// Count some samples, on all threads.
    pub fn feed(&mut self, samples: &[Sample]) {
        let counts: Vec<Vec<Counts>> = samples.par_iter().map(|s| Counts::of(&self.candidates, &s.text)).collect();
        for (sample, counts) in samples.iter().zip(&counts) {
            let name = |field: &Option<String>| field.clone().filter(|f| !f.is_empty()).unwrap_or_else(|| UNKNOWN.to_string());
            let (lang, domain) = (name(&sample.lang), name(&sample.domain));
            let link = sample.link().filter(|_| lang != UNKNOWN);
            if let Some(link) = link {
                self.parallel.add(link, &lang, counts);
            }
            self.picker.see(&sample.text, &lang, link);
            add(self.groups.entry((lang, domain)).or_default(), counts);
        }
    }

    /// The report.
    pub fn finish(&self) -> Report {
        let mut total = vec![Counts::default(); self.candidates.len()];
        let (mut langs, mut domains, mut both) = (Groups::new(), Groups::new(), Groups::new());
        for ((lang, domain), counts) in &self.groups {
            add(&mut total, counts);
            add(langs.entry(lang.clone()).or_default(), counts);
            add(domains.entry(domain.clone()).or_default(), counts);
            both.insert(format!("{lang}/{domain}"), counts.clone());
        }
        let parity = self.parallel.parity(&self.reference);
        let tokenizers = self.candidates.iter().enumerate().map(|(index, candidate)| {
            let reference = langs.get(&self.reference).and_then(|c| Reference::of(&c[index]));
            let groups = |groups: &Groups| groups.iter().map(|(name, c)| (name.clone(), Group::of(&c[index], reference))).collect();
            let mut by_lang: BTreeMap<String, Group> = groups(&langs);
            for (lang, group) in &mut by_lang {
                if let Some(parity) = parity.get(lang) {
                    group.set_parallel(parity.texts, parity.ratios[index]);
                }
            }
            let versus = |counts: &[Counts]| ratio(counts[index].tokens, counts[0].tokens);
            Fertility {
                name: candidate.name.clone(),
                vocab_size: candidate.tokenizer.vocab_size(),
                unknown_id: candidate.unknown_id(),
                total: Group::of(&total[index], reference),
                by_lang,
                by_domain: groups(&domains),
                by_lang_and_domain: groups(&both),
                tokens_vs_first: langs.iter().map(|(name, c)| (name.clone(), versus(c))).collect(),
            }
        });
        Report {
            reference: self.reference.clone(),
            tokenizers: tokenizers.collect(),
            examples: self.picker.examples(&self.candidates, &self.reference),
        }
    }
}
