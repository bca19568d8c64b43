//! The filters: named profiles of checks, each a [`Step`], because the field does not agree on what "Gopher" or "C4" mean.
//!
//! | profile | after | changes text |
//! |---|---|---|
//! | [`tutorial`] | five checks for prose, their counterparts for code, a learned score | no |
//! | [`gopher`] `gopher:datatrove` | Gopher's repetition and quality rules as datatrove reads them | no |
//! | [`gopher_dolma`] `gopher:dolma` | the same rules as Dolma reads them | no |
//! | [`c4`] | C4's rules for lines and documents | yes |
//! | [`fineweb`] | FineWeb's own filter | no |
//! | [`ccnet`] | perplexity buckets; needs a model | no |
//! | [`code`] `code:stack` | The Stack, StarCoder | no |
//! | [`math`] | OpenWebMath: keeps mathematics | no |
//! | [`url`] | address lists as datatrove looks them up | no |
//! | [`url_dolma`] `url:dolma` | address lists as Dolma looks them up | no |
//!
//! A profile measures signals and holds each against limits ([`limits`]); the settings of a profile are a table under its name. With
//! `signals = true` every signal of every document is stored ([`crate::signals`]), so that limits can be tried out without the text
//! ([`crate::whatif`]).

pub mod c4;
pub mod ccnet;
mod classes;
pub mod code;
pub mod fineweb;
pub mod gopher;
pub mod gopher_dolma;
mod hash;
mod host_label;
pub mod languages;
pub mod limits;
mod lines;
pub mod math;
mod scratch;
mod stage;
pub mod tutorial;
pub mod url;
pub mod url_dolma;
mod urllib3;
mod word_rules;
pub mod words;

use crate::document::Document;
use crate::error::{Error, Result};
use crate::quality::{QualityConfig, QualityModel};
use crate::step::{Reason, Rule, Step, Trace, Verdict};
use languages::LanguageSetting;
use limits::Bound;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

pub use stage::{filter, filter_with};
pub use tutorial::{CodeLimits, STEPS, TextLimits, check_code, check_text, duplicate_lines, generated_marker, non_alphabetic};

/// Configuration of `llm-data filter`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilterConfig {
    /// Output folder of `read`.
    pub input: PathBuf,
    /// Seed of the quality model.
    pub seed: u64,
    /// Profiles, applied in this order.
    pub profiles: Vec<String>,
    /// Whose word lists the profiles use: `en`, `de`, `es`, or `document` for each document's own language.
    pub language: LanguageSetting,
    /// Measure everything and store it in `signals/`.
    pub signals: bool,
    /// `tutorial`: limits of natural language.
    pub text: TextLimits,
    /// `tutorial`: limits of code.
    pub code: CodeLimits,
    /// `tutorial`: the learned score.
    pub quality: QualityConfig,
    /// Limits of `gopher:datatrove`.
    #[serde(rename = "gopher:datatrove")]
    pub gopher_datatrove: gopher::GopherDatatroveLimits,
    /// Limits of `gopher:dolma`.
    #[serde(rename = "gopher:dolma")]
    pub gopher_dolma: gopher_dolma::GopherDolmaLimits,
    /// Limits of `c4`.
    pub c4: c4::C4Limits,
    /// Limits of `fineweb`.
    pub fineweb: fineweb::FineWebLimits,
    /// Settings of `ccnet`.
    pub ccnet: ccnet::CcNetLimits,
    /// Limits of `code:stack`.
    #[serde(rename = "code:stack")]
    pub code_stack: code::CodeStackLimits,
    /// Limits of `math`.
    pub math: math::MathLimits,
    /// Lists of `url`.
    pub url: url::UrlLimits,
    /// Lists of `url:dolma`.
    #[serde(rename = "url:dolma")]
    pub url_dolma: url_dolma::UrlDolmaLimits,
}

impl Default for FilterConfig {
    fn default() -> Self {
        Self {
            input: PathBuf::new(),
            seed: 42,
            profiles: vec![tutorial::NAME.to_string()],
            language: LanguageSetting::default(),
            signals: false,
            text: TextLimits::default(),
            code: CodeLimits::default(),
            quality: QualityConfig::default(),
            gopher_datatrove: gopher::GopherDatatroveLimits::default(),
            gopher_dolma: gopher_dolma::GopherDolmaLimits::default(),
            c4: c4::C4Limits::default(),
            fineweb: fineweb::FineWebLimits::default(),
            ccnet: ccnet::CcNetLimits::default(),
            code_stack: code::CodeStackLimits::default(),
            math: math::MathLimits::default(),
            url: url::UrlLimits::default(),
            url_dolma: url_dolma::UrlDolmaLimits::default(),
        }
    }
}

/// The names of all profiles.
pub const PROFILES: &[&str] =
    &[tutorial::NAME, url::NAME, url_dolma::NAME, gopher::NAME, gopher_dolma::NAME, c4::NAME, fineweb::NAME, ccnet::NAME, code::NAME, math::NAME];

/// Models that some profiles need.
#[derive(Clone, Default)]
pub struct Models {
    /// For `ccnet`.
    pub perplexity: Option<Arc<dyn ccnet::Perplexity>>,
    /// For `tutorial`, trained by the stage.
    pub quality: Option<QualityModel>,
}

fn check_names(profile: &str, bounds: &[Bound]) -> Vec<String> {
    bounds.iter().map(|b| format!("{profile}/{}", b.signal)).collect()
}

fn rules_of(profile: &str, bounds: &[Bound]) -> Vec<Rule> {
    let name = |b: &Bound| format!("{profile}/{}", b.signal);
    bounds.iter().map(|b| Rule { check: name(b), signal: name(b), min: b.min, max: b.max }).collect()
}

/// The profiles of a configuration in their order.
pub fn profiles(config: &FilterConfig, models: &Models) -> Result<Vec<Box<dyn Step>>> {
    if config.profiles.is_empty() {
        return Err(Error::Config(format!("profiles: none given; choose from {}", PROFILES.join(", "))));
    }
    config.profiles.iter().map(|name| profile(name, config, models)).collect()
}

fn profile(name: &str, config: &FilterConfig, models: &Models) -> Result<Box<dyn Step>> {
    let language = config.language;
    Ok(match name {
        tutorial::NAME => Box::new(tutorial::Tutorial::new(config, models.quality.clone())),
        gopher::NAME => Box::new(gopher::GopherDatatrove::new(config.gopher_datatrove.clone(), language)),
        gopher_dolma::NAME => Box::new(gopher_dolma::GopherDolma::new(&config.gopher_dolma, language)),
        c4::NAME => Box::new(c4::C4::new(config.c4.clone(), language)?),
        fineweb::NAME => Box::new(fineweb::FineWeb::new(config.fineweb.clone(), language)),
        code::NAME => Box::new(code::CodeStack::new(&config.code_stack)?),
        math::NAME => Box::new(math::Math::new(&config.math)?),
        url::NAME => Box::new(url::UrlFilter::new(&config.url)?),
        url_dolma::NAME => Box::new(url_dolma::UrlDolma::new(&config.url_dolma)?),
        ccnet::NAME => {
            let (limits, model) = match &models.perplexity {
                Some(model) => (config.ccnet.clone(), Arc::clone(model)),
                None => ccnet::open(&config.ccnet)?,
            };
            Box::new(ccnet::CcNet::new(limits, model)?)
        }
        _ => return Err(Error::Config(format!("profiles: no profile `{name}`; there are {}", PROFILES.join(", ")))),
    })
}

/// Apply `steps` to a document in turn. Without `everything` the first that drops it is the last that sees it.
pub fn apply<S: Step + ?Sized>(steps: &[Box<S>], document: &mut Document, everything: bool) -> Result<(Option<Reason>, Trace)> {
    let mut trace = Trace { everything, ..Trace::default() };
    let mut dropped = None;
    for step in steps {
        if let (Verdict::Drop(reason), None) = (step.apply(document, &mut trace)?, &dropped) {
            dropped = Some(reason);
            if !everything {
                break;
            }
        }
    }
    Ok((dropped, trace))
}
