//! Steps by name: from `[[step]] kind = "..."` of a configuration to what runs.
//!
//! | kind | does | settings |
//! |---|---|---|
//! | `tutorial`, `url`, `url:dolma`, `gopher:datatrove`, `gopher:dolma`, `c4`, `fineweb`, `code:stack`, `math` | a filter profile | those of the profile, and `language` ([`filter`]) |
//! | `language` | sets the language, drops others than those wanted | [`LanguageConfig`] |
//! | `classifier` | a learned score | [`ClassifierConfig`] |
//! | `perplexity` | buckets by an n-gram model | [`PerplexityConfig`] |
//! | `words` | lists of unwanted words | [`WordListConfig`] |
//! | `decontaminate` | text of benchmarks goes | [`DecontaminateConfig`] |
//! | `pii` | personal data become placeholders | [`PiiConfig`] |
//! | `redact` | the three kinds of `llm-data split` | [`RedactConfig`] |
//!
//! A step here sees one document at a time, so the learned score of `llm-data filter`, which is trained on the documents that come
//! in, is not part of `tutorial`; train a classifier on a sample instead.

use crate::classifier::{ClassifierConfig, ClassifierStep};
use crate::contamination::{Decontaminate, DecontaminateConfig};
use crate::document::Document;
use crate::error::{Error, Result};
use crate::filter::{self, FilterConfig, Models};
use crate::langid::{LanguageConfig, LanguageStep};
use crate::ngram::buckets::{PerplexityConfig, PerplexityStep};
use crate::pii::{Pii, PiiConfig};
use crate::redact::{RedactConfig, redact};
use crate::step::{Step, Trace, Verdict};
use crate::toxicity::{WordListConfig, WordListStep};
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use toml::{Table, Value};

/// Filter profiles.
const PROFILES: &[&str] = filter::PROFILES;
/// The other kinds.
const OTHERS: &[&str] = &["language", "classifier", "perplexity", "words", "decontaminate", "pii", "redact"];

/// Make the steps that a configuration lists.
pub fn build(tables: &[Table]) -> Result<Vec<Box<dyn Step>>> {
    tables.iter().enumerate().map(|(i, table)| one(i, table)).collect()
}

fn one(index: usize, table: &Table) -> Result<Box<dyn Step>> {
    let known = || [PROFILES, OTHERS].concat().join("`, `");
    let Some(Value::String(kind)) = table.get("kind") else {
        return Err(Error::Config(format!("step {} has no `kind`; known are `{}`", index + 1, known())));
    };
    let mut table = table.clone();
    table.remove("kind");
    let place = format!("step {} (`{kind}`)", index + 1);
    Ok(match kind.as_str() {
        profile if PROFILES.contains(&profile) => return self::profile(profile, table, &place),
        "language" => Box::new(LanguageStep::new(settings::<LanguageConfig>(table, &place)?)?),
        "classifier" => Box::new(ClassifierStep::new(settings::<ClassifierConfig>(table, &place)?)?),
        "perplexity" => Box::new(PerplexityStep::new(settings::<PerplexityConfig>(table, &place)?)?),
        "words" => Box::new(WordListStep::new(settings::<WordListConfig>(table, &place)?)?),
        "pii" => Box::new(Pii::new(&settings::<PiiConfig>(table, &place)?)?),
        "redact" => Box::new(Redact(settings(table, &place)?)),
        "decontaminate" => match Decontaminate::from_config(&settings::<DecontaminateConfig>(table, &place)?)? {
            Some(step) => Box::new(step),
            None => return Err(Error::Config(format!("{place}: neither `index` nor `build.benchmarks` is set, so it would look for nothing"))),
        },
        other => {
            let message = format!("unknown variant `{other}`, expected one of `{}`", known());
            return Err(Error::Config(format!("step {}: {}", index + 1, llm_run::config::suggest(&message))));
        }
    })
}

/// The settings of a step from its table.
fn settings<T: DeserializeOwned>(table: Table, place: &str) -> Result<T> {
    T::deserialize(Value::Table(table)).map_err(|e| Error::Config(format!("{place}: {}", llm_run::config::suggest(e.to_string().trim()))))
}

/// A filter profile, whose settings are a table of the filter's configuration.
fn profile(kind: &str, table: Table, place: &str) -> Result<Box<dyn Step>> {
    let config = profile_settings(kind, table, place)?;
    let mut made = filter::profiles(&config, &Models::default())?;
    made.pop().ok_or_else(|| Error::Config(format!("{place}: no such profile")))
}

/// The filter's configuration with the settings of one profile.
pub(crate) fn profile_config(kind: &str, table: Table) -> Result<FilterConfig> {
    profile_settings(kind, table, &format!("step `{kind}`"))
}

fn profile_settings(kind: &str, mut table: Table, place: &str) -> Result<FilterConfig> {
    let mut config = Table::new();
    config.insert("profiles".into(), Value::Array(vec![Value::String(kind.into())]));
    if let Some(language) = table.remove("language") {
        config.insert("language".into(), language);
    }
    if kind == "tutorial" {
        if let Some(key) = table.keys().find(|k| !matches!(k.as_str(), "text" | "code")) {
            return Err(Error::Config(format!("{place}: unknown field `{key}`, expected `text`, `code` or `language`")));
        }
        config.extend(table);
    } else if !table.is_empty() {
        config.insert(kind.into(), Value::Table(table));
    }
    settings(config, place)
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
            ("[[step]]\nkind = \"language\"\nlanguage = [\"de\"]\n", "did you mean `languages`"),
            ("[[step]]\nkind = \"decontaminate\"\n", "would look for nothing"),
            ("[[step]]\nx = 1\n", "no `kind`"),
        ] {
            let message = steps(toml).err().unwrap().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn every_profile_is_made_and_its_limits_are_its_own() {
        for profile in PROFILES.iter().filter(|p| **p != "url") {
            let arpa = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/data/ngram/alice.arpa");
            let model = format!("models = {{ en = \"{arpa}\" }}\ncutoffs = {{ en = {{ head = 100, middle = 200 }} }}\n");
            let settings = if *profile == "ccnet" { model.as_str() } else { "" };
            let made = steps(&format!("[[step]]\nkind = \"{profile}\"\n{settings}")).unwrap();
            assert_eq!(made[0].name(), *profile);
            assert!(!made[0].checks().is_empty(), "{profile}");
        }
        let text = "one two three. ".repeat(40);
        let words = |settings: &str| {
            let made = steps(&format!("[[step]]\nkind = \"tutorial\"\n[step.text]\n{settings}\n")).unwrap();
            let mut document = Document { text: text.clone(), domain: "docs".into(), ..Default::default() };
            matches!(made[0].apply(&mut document, &mut Trace::default()).unwrap(), Verdict::Drop(r) if r.check == "length")
        };
        assert!(words("min_words = 121") && !words("min_words = 120"));
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
