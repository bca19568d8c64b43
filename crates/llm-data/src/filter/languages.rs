//! What the checks know about a language: stop words and the phrases of web pages.
//!
//! English has the lists of Gopher (Rae et al., 2021) and of C4 (Raffel et al., 2020); German and Spanish have lists of our own, the
//! same in kind: eight function words that no running text does without, and what pages say about cookies and conditions.

use crate::document::Document;
use serde::{Deserialize, Serialize};

/// A language with word lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Language {
    /// English.
    #[default]
    #[serde(rename = "en")]
    English,
    /// German.
    #[serde(rename = "de")]
    German,
    /// Spanish.
    #[serde(rename = "es")]
    Spanish,
}

impl Language {
    /// Words of which a running text has at least two.
    pub fn stop_words(self) -> &'static [&'static str] {
        match self {
            Self::English => &["the", "be", "to", "of", "and", "that", "have", "with"],
            Self::German => &["der", "die", "und", "das", "nicht", "mit", "zu", "ist"],
            Self::Spanish => &["de", "la", "que", "el", "en", "los", "por", "con"],
        }
    }

    /// Small-letter phrases of lines about cookies and conditions.
    pub fn policy_phrases(self) -> &'static [&'static str] {
        match self {
            Self::English => &["terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"],
            Self::German => &[
                "nutzungsbedingungen",
                "datenschutzerklärung",
                "datenschutzbestimmungen",
                "cookie-richtlinie",
                "verwendet cookies",
                "verwendung von cookies",
                "verwenden cookies",
                "nutzt cookies",
                "cookies zu",
            ],
            Self::Spanish => &[
                "términos de uso",
                "condiciones de uso",
                "política de privacidad",
                "aviso de privacidad",
                "política de cookies",
                "utiliza cookies",
                "uso de cookies",
                "usa cookies",
                "utilizamos cookies",
            ],
        }
    }
}

/// Setting `language` of `filter`: whose word lists to use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LanguageSetting {
    /// English for all documents.
    #[default]
    En,
    /// German for all documents.
    De,
    /// Spanish for all documents.
    Es,
    /// What the document's `lang` says; English where it says nothing or something else.
    Document,
}

impl LanguageSetting {
    /// The language of one document.
    pub fn of(self, document: &Document) -> Language {
        match self {
            Self::En => Language::English,
            Self::De => Language::German,
            Self::Es => Language::Spanish,
            Self::Document => match document.lang.as_deref() {
                Some("de") => Language::German,
                Some("es") => Language::Spanish,
                _ => Language::English,
            },
        }
    }
}
