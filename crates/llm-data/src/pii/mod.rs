//! Personal data: found, replaced by typed placeholders, and restorable from a report that is kept apart.
//!
//! One pass over the bytes looks for `@` and digits; almost all text holds few of either, so what follows only looks at the
//! neighbourhood of such a byte. Numbers are accepted because a checksum holds (IBAN, cards, tax numbers), because they are
//! addresses of the public internet, or because they are written as telephone numbers are written in Germany, Spain, the
//! United States or internationally; words before a number ("Tel.", "order no.") decide the doubtful ones. Names come from
//! a list that the user gives, or from any [`NameFinder`].
//!
//! The profile `typed` writes `<EMAIL>`, `<PHONE>`, ...; the profile `datatrove` finds and replaces what that program's
//! formatter does (e-mail and IPv4 only, fixed addresses in rotation).

mod card;
mod context;
mod datatrove;
mod email;
mod iban;
pub mod ip;
mod names;
mod number;
mod phone;
pub(crate) mod report;
mod stage;
mod tax;

pub use names::{Gazetteer, NameFinder};
pub use report::{Entry, ReportReader, ReportWriter, unredact};
pub use stage::{PiiStageConfig, UnredactConfig, redact_documents, unredact_documents};

use crate::document::Document;
use crate::error::{Error, Result};
use crate::step::{Rule, Step, Trace, Verdict};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An e-mail address.
    Email,
    /// A telephone number.
    Phone,
    /// An international bank account number.
    Iban,
    /// A payment card number.
    Card,
    /// A public IP address.
    Ip,
    /// A German tax identification number.
    TaxId,
    /// A person's name.
    Name,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 7] = [Kind::Email, Kind::Phone, Kind::Iban, Kind::Card, Kind::Ip, Kind::TaxId, Kind::Name];

    /// As in configurations and reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Email => "email",
            Kind::Phone => "phone",
            Kind::Iban => "iban",
            Kind::Card => "card",
            Kind::Ip => "ip",
            Kind::TaxId => "tax_id",
            Kind::Name => "name",
        }
    }

    fn placeholder(self) -> &'static str {
        match self {
            Kind::Email => "<EMAIL>",
            Kind::Phone => "<PHONE>",
            Kind::Iban => "<IBAN>",
            Kind::Card => "<CARD>",
            Kind::Ip => "<IP>",
            Kind::TaxId => "<TAX_ID>",
            Kind::Name => "<NAME>",
        }
    }
}

/// Which rules find and replace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// All kinds, typed placeholders.
    #[default]
    Typed,
    /// E-mail and IPv4 as datatrove's `PIIFormatter` does.
    Datatrove,
}

/// Settings of the step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PiiConfig {
    /// `typed` or `datatrove`.
    pub profile: Profile,
    /// E-mail addresses.
    pub email: bool,
    /// Telephone numbers.
    pub phone: bool,
    /// IBANs.
    pub iban: bool,
    /// Payment cards.
    pub card: bool,
    /// IPv4 and IPv6 addresses.
    pub ip: bool,
    /// German tax identification numbers.
    pub tax_id: bool,
    /// A file with a section `[given]` and a section `[surnames]`, one name a line; none: names stay.
    pub names: Option<PathBuf>,
    /// Other texts than `<EMAIL>` and so on, by kind.
    pub placeholders: BTreeMap<Kind, String>,
}

impl Default for PiiConfig {
    fn default() -> Self {
        Self {
            profile: Profile::Typed,
            email: true,
            phone: true,
            iban: true,
            card: true,
            ip: true,
            tax_id: false,
            names: None,
            placeholders: BTreeMap::new(),
        }
    }
}

/// A place in a text, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// First byte.
    pub start: usize,
    /// After the last byte.
    pub end: usize,
    /// What it is.
    pub kind: Kind,
}

/// What was replaced where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    /// In the original text.
    pub found: Found,
    /// Where the replacement starts in the new text.
    pub redacted_start: usize,
    /// What stands there now.
    pub replacement: String,
}

/// Finds and replaces personal data.
pub struct Pii {
    config: PiiConfig,
    names: Option<Box<dyn NameFinder>>,
}

impl std::fmt::Debug for Pii {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pii").field("config", &self.config).field("names", &self.names.is_some()).finish()
    }
}

impl Pii {
    /// Reads the list of names, if one is configured.
    pub fn new(config: &PiiConfig) -> Result<Self> {
        for (kind, text) in &config.placeholders {
            if text.is_empty() || text.contains('@') || text.bytes().any(|b| b.is_ascii_digit()) {
                return Err(Error::Config(format!(
                    "pii.placeholders.{} is {text:?}; it must not be empty nor contain digits or `@`, which would be found again",
                    kind.name()
                )));
            }
        }
        let names = match &config.names {
            Some(path) => Some(Box::new(Gazetteer::open(path)?) as Box<dyn NameFinder>),
            None => None,
        };
        Ok(Self { config: config.clone(), names })
    }

    /// Take names from elsewhere, e.g. a recogniser of named entities.
    pub fn with_names(mut self, names: Box<dyn NameFinder>) -> Self {
        self.names = Some(names);
        self
    }

    /// Everything found, in order, without overlaps. `lang` is the document's language if known, `code` says that it is
    /// program source.
    pub fn find(&self, text: &str, lang: Option<&str>, code: bool) -> Vec<Found> {
        let mut found = Vec::new();
        if self.config.profile == Profile::Datatrove {
            datatrove::find(text, &self.config, &mut found);
        } else {
            if self.config.email {
                email::find(text, &mut found);
            }
            if self.config.phone || self.config.iban || self.config.card || self.config.ip || self.config.tax_id {
                number::find(text, &self.config, lang, code, &mut found);
            }
            if let Some(names) = self.names.as_deref().filter(|_| !code) {
                found.extend(names.find(text, lang).into_iter().map(|r| Found { start: r.start, end: r.end, kind: Kind::Name }));
            }
        }
        // Of what overlaps the first and longest stays; a name inside an address is part of the address.
        found.sort_by_key(|f| (f.start, std::cmp::Reverse(f.end)));
        let mut end = 0;
        found.retain(|f| {
            let free = f.start >= end;
            if free {
                end = f.end;
            }
            free
        });
        found
    }

    /// The text with placeholders, and what was replaced.
    pub fn redact<'a>(&self, text: &'a str, lang: Option<&str>, code: bool) -> (Cow<'a, str>, Vec<Replacement>) {
        let found = self.find(text, lang, code);
        if found.is_empty() {
            return (Cow::Borrowed(text), Vec::new());
        }
        let (mut out, mut at) = (String::with_capacity(text.len()), 0);
        let mut rotation = datatrove::Rotation::default();
        let mut replacements = Vec::with_capacity(found.len());
        for f in found {
            out.push_str(&text[at..f.start]);
            let replacement = match (self.config.placeholders.get(&f.kind), self.config.profile) {
                (Some(own), _) => own.clone(),
                (None, Profile::Datatrove) => rotation.next(f.kind).to_string(),
                (None, Profile::Typed) => f.kind.placeholder().to_string(),
            };
            let redacted_start = out.len();
            out.push_str(&replacement);
            at = f.end;
            replacements.push(Replacement { found: f, redacted_start, replacement });
        }
        out.push_str(&text[at..]);
        (Cow::Owned(out), replacements)
    }

    /// Replace in a document; the replacements with what stood there.
    pub fn redact_document(&self, document: &mut Document) -> Vec<Entry> {
        let code = document.is_code();
        let (text, replacements) = self.redact(&document.text, document.lang.as_deref(), code);
        let Cow::Owned(new) = text else { return Vec::new() };
        let entry = |r: Replacement| Entry {
            document_id: document.id.clone(),
            start: r.found.start as u64,
            end: r.found.end as u64,
            redacted_start: r.redacted_start as u64,
            kind: r.found.kind,
            original: document.text[r.found.start..r.found.end].to_string(),
            replacement: r.replacement,
        };
        let entries = replacements.into_iter().map(entry).collect();
        document.text = new;
        entries
    }
}

/// `redacted email` and so on, as counted in a funnel.
pub fn count_name(kind: Kind) -> String {
    format!("redacted {}", kind.name())
}

impl Step for Pii {
    fn name(&self) -> &str {
        match self.config.profile {
            Profile::Typed => "pii",
            Profile::Datatrove => "pii:datatrove",
        }
    }

    fn checks(&self) -> Vec<String> {
        Vec::new()
    }

    fn rules(&self) -> Vec<Rule> {
        Kind::ALL.iter().map(|kind| Rule::new("pii", format!("pii/{}", kind.name()), None, None)).collect()
    }

    fn apply(&self, document: &mut Document, trace: &mut Trace) -> Result<Verdict> {
        let entries = self.redact_document(document);
        for kind in Kind::ALL {
            let n = entries.iter().filter(|e| e.kind == kind).count() as u64;
            trace.count(count_name(kind), n);
            if trace.everything {
                trace.signal(format!("pii/{}", kind.name()), n as f64, None, None);
            }
        }
        trace.replaced.extend(entries);
        Ok(Verdict::Keep)
    }
}

#[cfg(test)]
mod tests;
