//! Translations of one text: what the same text costs in each language.
//!
//! Petrov et al. 2023 (arXiv 2305.15425) call the ratio of tokens of a text and of its English translation the premium. Here it is
//! the tokens of all texts that both languages have over those of the translations, so that long texts count more. A text
//! that one language has several times counts with the mean of its versions.

use super::count::Counts;
use std::collections::BTreeMap;

/// Tokens of texts that may be translations of each other.
#[derive(Debug, Default)]
pub(super) struct Parallel(BTreeMap<String, BTreeMap<String, Versions>>);

/// The versions of a text in one language.
#[derive(Debug, Default)]
struct Versions {
    texts: u64,
    /// With each tokenizer.
    tokens: Vec<u64>,
}

/// Texts of a language that the reference has too, and for each tokenizer its tokens and those of the reference.
type Sums = (u64, Vec<(f64, f64)>);

/// What translations say of one language.
#[derive(Debug, Default)]
pub(super) struct Parity {
    /// Texts that this language and the reference have.
    pub texts: u64,
    /// Tokens relative to the reference, with each tokenizer.
    pub ratios: Vec<f64>,
}

impl Parallel {
    /// A text that `link` ties to its translations.
    pub fn add(&mut self, link: &str, lang: &str, counts: &[Counts]) {
        if !self.0.contains_key(link) {
            self.0.insert(link.to_string(), BTreeMap::new());
        }
        let Some(versions) = self.0.get_mut(link).map(|langs| langs.entry(lang.to_string()).or_default()) else { return };
        versions.texts += 1;
        versions.tokens.resize(counts.len(), 0);
        versions.tokens.iter_mut().zip(counts).for_each(|(sum, counts)| *sum += counts.tokens);
    }

    /// Languages that share texts with the reference.
    pub fn parity(&self, reference: &str) -> BTreeMap<String, Parity> {
        let mut sums: BTreeMap<&str, Sums> = BTreeMap::new();
        for langs in self.0.values().filter(|langs| langs.len() > 1) {
            let Some(base) = langs.get(reference) else { continue };
            for (lang, versions) in langs {
                let (texts, sum) = sums.entry(lang).or_default();
                *texts += 1;
                sum.resize(versions.tokens.len(), (0.0, 0.0));
                for ((sum, ours), theirs) in sum.iter_mut().zip(&versions.tokens).zip(&base.tokens) {
                    sum.0 += *ours as f64 / versions.texts as f64;
                    sum.1 += *theirs as f64 / base.texts as f64;
                }
            }
        }
        let parity = |(lang, (texts, sum)): (&str, Sums)| {
            let ratios = sum.iter().map(|&(ours, theirs)| if theirs > 0.0 { ours / theirs } else { 0.0 }).collect();
            (lang.to_string(), Parity { texts, ratios })
        };
        sums.into_iter().map(parity).collect()
    }
}
