//! Language as a step: sets `lang` and `lang_score`, keeps the wanted languages, and of mixed documents the wanted paragraphs.

use super::{Backend, paragraphs, shares};
use crate::document::Document;
use crate::error::Result;
use crate::step::{Rule, Step, Trace, Verdict};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What is done about paragraphs in other languages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Paragraphs {
    /// One label for the document.
    #[default]
    Whole,
    /// The document has the language of most of its letters, and must reach `min_share` of it.
    Share,
    /// Paragraphs in unwanted languages are removed; the document has the language of most of the rest.
    Remove,
}

/// Settings of the step `language`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LanguageConfig {
    /// A fastText model such as `lid.176.bin`; without it the built-in detector.
    pub model: Option<PathBuf>,
    /// Languages to keep, ISO 639-1; empty: all.
    pub languages: Vec<String>,
    /// Least score.
    pub min_score: f32,
    /// What is done about paragraphs.
    pub paragraphs: Paragraphs,
    /// Least share of the letters in the document's language, with `share`.
    pub min_share: f64,
    /// Paragraphs with fewer letters follow their neighbours.
    pub min_letters: usize,
    /// Paragraphs told with a lower score follow their neighbours.
    pub min_paragraph_score: f32,
}

impl Default for LanguageConfig {
    fn default() -> Self {
        Self {
            model: None,
            languages: Vec::new(),
            min_score: 0.65,
            paragraphs: Paragraphs::Whole,
            min_share: 0.5,
            min_letters: 50,
            min_paragraph_score: 0.3,
        }
    }
}

/// The step.
#[derive(Debug)]
pub struct LanguageStep {
    backend: Backend,
    config: LanguageConfig,
}

impl LanguageStep {
    /// Open the model, if there is one.
    pub fn new(config: LanguageConfig) -> Result<Self> {
        Ok(Self { backend: Backend::open(config.model.as_deref())?, config })
    }

    fn wanted(&self, lang: &str) -> bool {
        self.config.languages.is_empty() || self.config.languages.iter().any(|l| l == lang)
    }

    /// Language, score and share of the letters; removes what is to be removed.
    fn label(&self, document: &mut Document, trace: &mut Trace) -> Option<(String, f32, f64)> {
        if self.config.paragraphs == Paragraphs::Whole {
            return self.backend.identify(&document.text).map(|f| (f.code, f.score, 1.0));
        }
        let mut spans = paragraphs(&self.backend, &document.text, self.config.min_letters, self.config.min_paragraph_score);
        if spans.iter().all(|s| s.lang.is_empty()) {
            // Only short paragraphs: they say more together.
            return self.backend.identify(&document.text).map(|f| (f.code, f.score, 1.0));
        }
        trace.count("documents in several languages", u64::from(spans.len() > 1));
        if self.config.paragraphs == Paragraphs::Remove && spans.iter().any(|s| self.wanted(&s.lang)) && spans.iter().any(|s| !self.wanted(&s.lang)) {
            let removed = spans.iter().filter(|s| !self.wanted(&s.lang));
            trace.count("bytes in unwanted languages removed", removed.map(|s| s.range.len() as u64).sum());
            spans.retain(|s| self.wanted(&s.lang));
            document.text = spans.iter().map(|s| &document.text[s.range.clone()]).collect::<String>().trim_end().to_string();
        }
        let shares = shares(&spans);
        let (lang, share) = shares.into_iter().max_by(|a, b| a.1.total_cmp(&b.1).then_with(|| b.0.cmp(&a.0)))?;
        let own = || spans.iter().filter(|s| s.lang == lang);
        let letters = own().map(|s| s.letters).sum::<usize>().max(1) as f32;
        let score = own().map(|s| s.score * s.letters as f32 / letters).sum::<f32>();
        Some((lang, score, share))
    }

    /// The least share of the letters, where it is asked for.
    fn min_share(&self) -> Option<f64> {
        (self.config.paragraphs == Paragraphs::Share).then_some(self.config.min_share)
    }
}

impl Step for LanguageStep {
    fn name(&self) -> &str {
        "language"
    }

    fn checks(&self) -> Vec<String> {
        ["language", "language score", "language share"].map(String::from).to_vec()
    }

    fn rules(&self) -> Vec<Rule> {
        vec![
            Rule::new("language", "language/wanted", Some(1.0), None),
            Rule::new("language score", "language/score", Some(self.config.min_score.into()), None),
            Rule::new("language share", "language/share", self.min_share(), None),
        ]
    }

    fn apply(&self, document: &mut Document, trace: &mut Trace) -> Result<Verdict> {
        if document.is_code() {
            return Ok(Verdict::Keep);
        }
        let wanted = || self.config.languages.join(",");
        let Some((lang, score, share)) = self.label(document, trace) else {
            document.lang = None;
            document.lang_score = None;
            let keep = self.config.languages.is_empty() && self.config.min_score <= 0.0;
            trace.signal("language/wanted", f64::from(u8::from(keep)), Some(1.0), None);
            return Ok(if keep { Verdict::Keep } else { Verdict::drop("language", "unknown", wanted()) });
        };
        document.lang = Some(lang.clone());
        document.lang_score = Some(score);
        let min_share = self.min_share();
        trace.signal("language/wanted", f64::from(u8::from(self.wanted(&lang))), Some(1.0), None);
        trace.signal("language/score", score.into(), Some(self.config.min_score.into()), None);
        trace.signal("language/share", share, min_share, None);
        let rounded = |x: f64| (x * 1e4).round() / 1e4;
        if !self.wanted(&lang) {
            return Ok(Verdict::drop("language", lang, wanted()));
        }
        if score < self.config.min_score {
            return Ok(Verdict::drop("language score", rounded(score.into()), rounded(self.config.min_score.into())));
        }
        if let Some(min) = min_share.filter(|min| share < *min) {
            return Ok(Verdict::drop("language share", rounded(share), min));
        }
        Ok(Verdict::Keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DE: &str = "Der Übersetzer prüft zur Übersetzungszeit, ob alle Verweise gültig sind, und lehnt das Programm sonst ab. ";
    const EN: &str = "The compiler checks that all references are valid, and refuses to build the program when they are not. ";

    fn apply(text: String, paragraphs: Paragraphs) -> (Verdict, Document) {
        let config = LanguageConfig { languages: vec!["de".into()], min_score: 0.3, min_share: 0.6, paragraphs, ..LanguageConfig::default() };
        let mut document = Document { text, ..Document::default() };
        let verdict = LanguageStep::new(config).unwrap().apply(&mut document, &mut Trace::default()).unwrap();
        (verdict, document)
    }

    #[test]
    fn unwanted_paragraphs_are_removed() {
        let text = format!("{EN}\n\n{}\n\n{EN}\n", DE.repeat(3));
        let (verdict, document) = apply(text, Paragraphs::Remove);
        assert_eq!(verdict, Verdict::Keep);
        assert_eq!(document.text, DE.repeat(3).trim_end());
        assert_eq!(document.lang.as_deref(), Some("de"));
    }

    #[test]
    fn languages_and_shares_are_checked() {
        assert_eq!(apply(EN.into(), Paragraphs::Whole).0, Verdict::drop("language", "en", "de"));
        assert_eq!(apply("1234\n".into(), Paragraphs::Whole).0, Verdict::drop("language", "unknown", "de"));
        let text = format!("{DE}\n\n{EN}\n");
        let (verdict, _) = apply(format!("{text}\n\n{DE}\n\n{DE}"), Paragraphs::Share);
        assert_eq!(verdict, Verdict::Keep);
        let (verdict, document) = apply(format!("{DE} {DE}\n\n{EN}"), Paragraphs::Share);
        assert_eq!(verdict, Verdict::Keep, "{document:?}");
        let Verdict::Drop(reason) = apply(format!("{DE} Ja, ja. So ist es wohl.\n\n{EN}"), Paragraphs::Share).0 else { panic!("kept") };
        assert_eq!(reason.check, "language share");
    }
}
