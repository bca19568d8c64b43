//! Steps by name: from `[[step]] kind = "..."` of a configuration to what runs.
//!
//! | kind | does |
//! |---|---|
//! | `tutorial` | the five checks of `llm-data filter` but for the learned score |
//! | `language` | sets `lang` and `lang_score`; drops other languages than those wanted |
//! | `redact` | e-mail addresses, telephone numbers and IP addresses |

use crate::document::Document;
use crate::error::{Error, Result};
use crate::filter::{self, CodeLimits, TextLimits};
use crate::langid;
use crate::redact::{RedactConfig, redact};
use crate::step::{Step, Trace, Verdict};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use toml::{Table, Value};

/// The kinds that [`build`] knows.
pub const KINDS: &[&str] = &["tutorial", "language", "redact"];

/// Make the steps that a configuration lists.
pub fn build(tables: &[Table]) -> Result<Vec<Box<dyn Step>>> {
    tables.iter().enumerate().map(|(i, table)| one(i, table)).collect()
}

fn one(index: usize, table: &Table) -> Result<Box<dyn Step>> {
    let Some(Value::String(kind)) = table.get("kind") else {
        return Err(Error::Config(format!("step {} has no `kind`; known are {}", index + 1, KINDS.join(", "))));
    };
    Ok(match kind.as_str() {
        "tutorial" => Box::new(settings::<Tutorial>(index, kind, table)?),
        "language" => Box::new(settings::<Language>(index, kind, table)?),
        "redact" => Box::new(Redact(settings(index, kind, table)?)),
        other => {
            let message = format!("unknown variant `{other}`, expected one of `{}`", KINDS.join("`, `"));
            return Err(Error::Config(format!("step {}: {}", index + 1, llm_run::config::suggest(&message))));
        }
    })
}

/// The settings of a step from its table.
fn settings<T: DeserializeOwned>(index: usize, kind: &str, table: &Table) -> Result<T> {
    let mut table = table.clone();
    table.remove("kind");
    T::deserialize(Value::Table(table))
        .map_err(|e| Error::Config(format!("step {} (`{kind}`): {}", index + 1, llm_run::config::suggest(e.to_string().trim()))))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Tutorial {
    text: TextLimits,
    code: CodeLimits,
}

impl Step for Tutorial {
    fn name(&self) -> &str {
        "tutorial"
    }

    fn checks(&self) -> Vec<String> {
        filter::STEPS.iter().filter(|s| **s != "quality").map(|s| (*s).to_string()).collect()
    }

    fn apply(&self, document: &mut Document, trace: &mut Trace) -> Result<Verdict> {
        if trace.everything {
            let (share, lines) = (filter::non_alphabetic(&document.text), filter::duplicate_lines(&document.text));
            trace.signal("tutorial/non-alphabetic", share, None, Some(self.text.max_non_alphabetic));
            trace.signal("tutorial/duplicate lines", lines, None, Some(self.text.max_duplicate_lines));
        }
        let finding = if document.is_code() { filter::check_code(document, &self.code) } else { filter::check_text(document, &self.text) };
        Ok(finding.map_or(Verdict::Keep, |(step, value, threshold)| Verdict::drop(step, value, threshold)))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Language {
    /// Empty: all.
    languages: Vec<String>,
    min_score: f32,
}

impl Default for Language {
    fn default() -> Self {
        Self { languages: Vec::new(), min_score: 0.65 }
    }
}

impl Step for Language {
    fn name(&self) -> &str {
        "language"
    }

    fn apply(&self, document: &mut Document, trace: &mut Trace) -> Result<Verdict> {
        if document.is_code() {
            return Ok(Verdict::Keep);
        }
        let found = langid::identify(&document.text);
        let (code, score) = found.map_or(("unknown", 0.0), |l| (l.code, l.score));
        document.lang = Some(code.to_string());
        document.lang_score = Some(score);
        trace.signal("language/score", f64::from(score), Some(f64::from(self.min_score)), None);
        let wanted = self.languages.is_empty() || self.languages.iter().any(|l| l == code);
        if wanted && score >= self.min_score {
            return Ok(Verdict::Keep);
        }
        let threshold = format!("one of {} with {}", self.languages.join(" "), self.min_score);
        Ok(Verdict::drop("language", format!("{code} {score:.2}"), threshold))
    }
}

struct Redact(RedactConfig);

impl Step for Redact {
    fn name(&self) -> &str {
        "redact"
    }

    fn checks(&self) -> Vec<String> {
        Vec::new()
    }

    fn apply(&self, document: &mut Document, trace: &mut Trace) -> Result<Verdict> {
        let (text, counts) = redact(&document.text, &self.0);
        trace.count("redacted e-mail addresses", counts.emails);
        trace.count("redacted telephone numbers", counts.phones);
        trace.count("redacted IP addresses", counts.ips);
        if let Cow::Owned(text) = text {
            document.text = text;
        }
        Ok(Verdict::Keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(toml: &str) -> Result<Vec<Box<dyn Step>>> {
        let table: Table = toml.parse().unwrap();
        let tables: Vec<Table> = table["step"].as_array().unwrap().iter().map(|t| t.as_table().unwrap().clone()).collect();
        build(&tables)
    }

    #[test]
    fn steps_are_made_in_order_and_typos_are_answered() {
        let made = steps("[[step]]\nkind = \"redact\"\nphone = false\n[[step]]\nkind = \"tutorial\"\n[step.text]\nmin_words = 5\n").unwrap();
        assert_eq!(made.iter().map(|s| s.name().to_string()).collect::<Vec<_>>(), ["redact", "tutorial"]);
        for (toml, expected) in [
            ("[[step]]\nkind = \"tutorail\"\n", "did you mean `tutorial`"),
            ("[[step]]\nkind = \"redact\"\n[[step]]\nkind = \"tutorial\"\ntxt = 1\n", "step 2 (`tutorial`)"),
            ("[[step]]\nx = 1\n", "no `kind`"),
        ] {
            let message = steps(toml).err().unwrap().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_step_changes_counts_and_drops() {
        let made = steps("[[step]]\nkind = \"redact\"\n[[step]]\nkind = \"language\"\nlanguages = [\"de\"]\n").unwrap();
        let mut document =
            Document { text: "When the winter came they would often walk and write to jane@uni-ulm.de about it.".into(), ..Default::default() };
        let mut trace = Trace::default();
        assert_eq!(made[0].apply(&mut document, &mut trace).unwrap(), Verdict::Keep);
        assert!(document.text.contains("[EMAIL]") && trace.counts == [("redacted e-mail addresses".to_string(), 1)]);
        assert!(matches!(made[1].apply(&mut document, &mut trace).unwrap(), Verdict::Drop(r) if r.check == "language"));
    }
}
