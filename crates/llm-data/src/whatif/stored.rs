//! The settings that stored signals were measured with, and the rules that follow from them and from other limits.

use crate::error::{Error, Result};
use crate::filter::ccnet::Perplexity;
use crate::filter::url::UrlLimits;
use crate::filter::url_dolma::UrlDolmaLimits;
use crate::filter::{FilterConfig, Models, PROFILES, profiles};
use crate::signals::{FILTER, STEPS, SignalsReader};
use crate::step::Rule;
use crate::steps;
use crate::work::signals::KINDS;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;
use toml::{Table, Value};

/// Who measured.
#[derive(Debug, Clone, Copy)]
enum By {
    /// `llm-data filter`: the file is its configuration.
    Filter,
    /// `llm-data process`: the file is a list of kinds, and a table for each.
    Steps,
}

/// The file beside the signals.
#[derive(Debug)]
pub(super) struct Stored {
    by: By,
    path: PathBuf,
}

/// A model that answers nothing: rules need a profile, not its model.
struct NoModel;
impl Perplexity for NoModel {
    fn perplexity(&self, _: &str, _: &str) -> Option<f64> {
        None
    }
}

/// The settings of a profile that change what is measured, with their names.
fn measuring(config: &FilterConfig) -> Vec<(&'static str, String)> {
    let (c, f) = (&config.c4, &config.fineweb);
    let show = |v: &dyn std::fmt::Debug| format!("{v:?}");
    vec![
        ("language", show(&config.language)),
        ("text.languages", show(&config.text.languages)),
        ("c4.terminal_punctuation", show(&c.terminal_punctuation)),
        ("c4.min_words_per_line", show(&c.min_words_per_line)),
        ("c4.max_word_chars", show(&c.max_word_chars)),
        ("c4.remove_citations", show(&c.remove_citations)),
        ("c4.drop_javascript", show(&c.drop_javascript)),
        ("c4.drop_policy", show(&c.drop_policy)),
        ("fineweb.short_line_chars", show(&f.short_line_chars)),
        ("ccnet.cutoffs", show(&config.ccnet.cutoffs)),
        ("url", show(&config.url)),
        ("url:dolma.domains", show(&config.url_dolma.domains)),
        ("url:dolma.urls", show(&config.url_dolma.urls)),
        ("url:dolma.links", show(&config.url_dolma.links)),
        ("gopher:datatrove.repetition", show(&config.gopher_datatrove.repetition)),
        ("gopher:datatrove.quality", show(&config.gopher_datatrove.quality)),
    ]
}

/// The settings of the other steps that are limits of what is stored.
fn limits(kind: &str) -> &'static [&'static str] {
    match kind {
        "language" => &["min_score", "min_share"],
        "classifier" => &["min", "max"],
        "words" => &["max_matches", "max_share"],
        _ => &[],
    }
}

fn refused(name: &str, command: &str) -> Error {
    Error::Config(format!("{name}: changing it changes what is measured, not only where the limits are; run `llm-data {command}` with it"))
}

impl Stored {
    pub fn open(signals: &SignalsReader) -> Result<Self> {
        for (by, name) in [(By::Filter, FILTER), (By::Steps, STEPS)] {
            let path = signals.dir.join(name);
            if path.is_file() {
                return Ok(Self { by, path });
            }
        }
        let message = format!("holds neither {FILTER} nor {STEPS}; let `llm-data process` end first, or run it with --finish");
        Err(Error::Format { path: signals.dir.clone(), message })
    }

    /// The rules of the settings with some of them changed; `names` are the signals that are stored.
    pub fn rules(&self, names: &[String], sets: &[String]) -> Result<Vec<Rule>> {
        match self.by {
            By::Filter => self.filter_rules(names, sets),
            By::Steps => self.step_rules(sets),
        }
    }

    fn filter_rules(&self, names: &[String], sets: &[String]) -> Result<Vec<Rule>> {
        let before: FilterConfig = llm_run::config::load(Some(&self.path), &[])?;
        let now: FilterConfig = llm_run::config::load(Some(&self.path), sets)?;
        same_measures(&before, &now, "filter")?;
        let measured = |profile: &str| names.iter().any(|n| n.split_once('/').is_some_and(|(p, _)| p == profile));
        if let Some(missing) = now.profiles.iter().find(|p| PROFILES.contains(&p.as_str()) && !measured(p)) {
            return Err(Error::Config(format!("profiles: `{missing}` was not measured; run `llm-data filter --set signals=true` with it")));
        }
        let mut rules = profile_rules(&now)?;
        for rule in &mut rules {
            // The quality model is not here, its scores are.
            if rule.signal == "tutorial/quality" && now.quality.enabled {
                rule.min = f64::from(now.quality.threshold);
            }
        }
        Ok(rules)
    }

    fn step_rules(&self, sets: &[String]) -> Result<Vec<Rule>> {
        let damaged = |message: String| Error::Format { path: self.path.clone(), message };
        let before = llm_run::config::table(Some(&self.path), &[])?;
        let mut now = llm_run::config::table(Some(&self.path), sets)?;
        let kinds = Vec::<String>::deserialize(before.get(KINDS).cloned().unwrap_or(Value::Array(Vec::new())));
        let kinds = kinds.map_err(|e| damaged(format!("{KINDS}: {e}")))?;
        if let Some(twice) = kinds.iter().enumerate().find(|(i, kind)| kinds[..*i].contains(kind)).map(|(_, kind)| kind) {
            return Err(damaged(format!("the step `{twice}` stands twice, so its signals are those of the last; leave one of them out")));
        }
        now.remove(KINDS);
        if let Some(other) = now.keys().find(|key| !kinds.contains(key)) {
            let message = format!("unknown field `{other}`, expected one of `{}`", kinds.join("`, `"));
            return Err(Error::Config(format!("--set: {}", llm_run::config::suggest(&message))));
        }
        let mut rules = Vec::new();
        for kind in &kinds {
            let of = |all: &Table| all.get(kind).and_then(Value::as_table).cloned().unwrap_or_default();
            let (old, mut new) = (of(&before), of(&now));
            if PROFILES.contains(&kind.as_str()) {
                same_measures(&steps::profile_config(kind, old)?, &steps::profile_config(kind, new.clone())?, "process")?;
                rules.extend(profile_rules(&steps::profile_config(kind, new)?)?);
                continue;
            }
            let changed = old.keys().chain(new.keys()).find(|key| old.get(*key) != new.get(*key) && !limits(kind).contains(&key.as_str()));
            if let Some(key) = changed {
                return Err(refused(&format!("{kind}.{key}"), "process"));
            }
            new.insert("kind".into(), Value::String(kind.clone()));
            rules.extend(steps::build(&[new])?.iter().flat_map(|step| step.rules()));
        }
        Ok(rules)
    }
}

fn same_measures(before: &FilterConfig, now: &FilterConfig, command: &str) -> Result<()> {
    match measuring(before).into_iter().zip(measuring(now)).find(|((_, old), (_, new))| old != new) {
        Some(((name, _), _)) => Err(refused(name, command)),
        None => Ok(()),
    }
}

/// The rules of a configuration's profiles, without the models and lists that they measured with, which may be gone.
fn profile_rules(config: &FilterConfig) -> Result<Vec<Rule>> {
    let url = UrlLimits { keep_without_url: config.url.keep_without_url, ..UrlLimits::default() };
    let (keep_without_url, keep_unreadable) = (config.url_dolma.keep_without_url, config.url_dolma.keep_unreadable);
    let url_dolma = UrlDolmaLimits { keep_without_url, keep_unreadable, ..UrlDolmaLimits::default() };
    let config = FilterConfig { url, url_dolma, ..config.clone() };
    let models = Models { perplexity: Some(Arc::new(NoModel)), quality: None };
    Ok(profiles(&config, &models)?.iter().flat_map(|p| p.rules()).collect())
}
