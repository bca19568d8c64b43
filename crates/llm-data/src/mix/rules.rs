//! Which documents a source takes: patterns over their fields.

use crate::document::Document;
use serde::{Deserialize, Serialize};

/// All that is set must fit; a rule that sets nothing takes every document. Patterns are globs: `*` any text, `?` any character,
/// `a|b` either.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// The reader and collection, e.g. `cargo/*`.
    pub source: Option<String>,
    /// The language, e.g. `de|es`; `unknown` where there is none.
    pub lang: Option<String>,
    /// `docs`, `code`, `web`, ...
    pub domain: Option<String>,
    /// The id, e.g. `books/*`.
    pub id: Option<String>,
    /// The licence; `unknown` where there is none.
    pub license: Option<String>,
    /// Learned quality of at least this; documents without a score do not fit.
    pub min_quality: Option<f32>,
}

impl Rule {
    /// True for documents of this source.
    pub fn fits(&self, document: &Document) -> bool {
        let fits = |pattern: &Option<String>, value: &str| pattern.as_deref().is_none_or(|p| glob(p, value));
        fits(&self.source, &document.source)
            && fits(&self.lang, document.lang.as_deref().unwrap_or("unknown"))
            && fits(&self.domain, &document.domain)
            && fits(&self.id, &document.id)
            && fits(&self.license, document.license.as_deref().unwrap_or("unknown"))
            && self.min_quality.is_none_or(|min| document.quality.is_some_and(|q| q >= min))
    }
}

/// True when `text` fits one of the patterns that `|` separates.
pub fn glob(pattern: &str, text: &str) -> bool {
    pattern.split('|').any(|p| one(p.as_bytes(), text.as_bytes()))
}

/// `*` is tried shortest first and widened when what follows does not fit.
fn one(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'?') => {
                // A character may be several bytes.
                t += 1;
                while t < text.len() && text[t] & 0xC0 == 0x80 {
                    t += 1;
                }
                p += 1;
            }
            Some(b) if *b == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("cargo/*", "cargo/serde", true),
            ("cargo/*", "paths/cargo/x", false),
            ("*.rs", "a.rs.rs", true),
            ("de|es", "es", true),
            ("de|es", "en", false),
            ("?", "ä", true),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "xxaxxbxx", false),
            ("", "", true),
            ("*", "", true),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn every_field_that_is_set_must_fit() {
        let document = Document { lang: Some("de".into()), domain: "web".into(), source: "paths/x".into(), ..Document::default() };
        let rule = |lang: &str, domain: &str| Rule { lang: Some(lang.into()), domain: Some(domain.into()), ..Rule::default() };
        assert!(rule("d*", "web").fits(&document) && !rule("de", "code").fits(&document) && Rule::default().fits(&document));
        assert!(!Rule { min_quality: Some(0.1), ..Rule::default() }.fits(&document));
    }
}
