//! Addresses: the six rules of datatrove's URL filter (which are RefinedWeb's; Penedo et al., 2023). Profile `url`.
//!
//! A document goes if its registered domain is listed, its full host name is listed, its address is listed, a banned word stands in the
//! address (cut at everything but letters and digits), at least two soft words do, or a banned part is in the address with everything but
//! letters and digits taken out. The lists are files of yours, one entry a line, `#` begins a comment; datatrove's (`assets/` of the
//! package, and the domains and addresses of the UT1 lists) can be given as they are. Without lists every document passes.

use crate::document::Document;
use crate::error::{Error, Result, io};
use crate::step::{Rule, Step, Trace, Verdict};
use aho_corasick::AhoCorasick;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Name of the profile.
pub const NAME: &str = "url";

/// Settings of `url`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UrlLimits {
    /// Registered domains and host names.
    pub domains: Vec<PathBuf>,
    /// Whole addresses.
    pub urls: Vec<PathBuf>,
    /// Words of which one is enough.
    pub banned_words: Vec<PathBuf>,
    /// Words of which `soft_word_threshold` different ones are needed.
    pub soft_banned_words: Vec<PathBuf>,
    /// Parts of words.
    pub banned_subwords: Vec<PathBuf>,
    /// Number of soft words that is too many.
    pub soft_word_threshold: usize,
    /// Keep documents without an address.
    pub keep_without_url: bool,
}

impl Default for UrlLimits {
    fn default() -> Self {
        Self {
            domains: Vec::new(),
            urls: Vec::new(),
            banned_words: Vec::new(),
            soft_banned_words: Vec::new(),
            banned_subwords: Vec::new(),
            soft_word_threshold: 2,
            keep_without_url: true,
        }
    }
}

/// The profile.
#[derive(Debug)]
pub struct UrlFilter {
    domains: HashSet<String>,
    urls: HashSet<String>,
    banned: HashSet<String>,
    soft: HashSet<String>,
    parts: Vec<String>,
    automaton: AhoCorasick,
    threshold: usize,
    keep_without_url: bool,
}

fn entries(files: &[PathBuf], normal: bool) -> Result<HashSet<String>> {
    let mut all = HashSet::new();
    for file in files {
        let text = read(file)?;
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let entry = if normal { normalise(line) } else { line.trim().to_string() };
            if !entry.is_empty() {
                all.insert(entry);
            }
        }
    }
    Ok(all)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(io(path, "cannot read the list"))
}

/// Small letters and digits, nothing else.
pub fn normalise(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// Host name of an address in small letters, without user, port and final full stop.
pub fn host(url: &str) -> String {
    let rest = url.split_once("//").map_or(url, |(scheme, rest)| {
        let scheme_like =
            scheme.is_empty() || scheme.strip_suffix(':').is_some_and(|s| s.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)));
        if scheme_like { rest } else { url }
    });
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host.starts_with('[') {
        return String::new();
    }
    host.split(':').next().unwrap_or("").trim().trim_end_matches('.').to_lowercase()
}

/// The registered domain of a host name by the public suffix list without its private part, as datatrove asks: `news.example.co.uk`
/// gives `example.co.uk`. `None` for addresses in numbers and names outside the list.
pub fn registered_domain(host: &str) -> Option<&str> {
    if host.parse::<std::net::Ipv4Addr>().is_ok() {
        return None;
    }
    let mut suffix = psl::suffix(host.as_bytes())?;
    while suffix.typ() == Some(psl::Type::Private) {
        let bytes = suffix.as_bytes();
        let dot = bytes.iter().position(|b| *b == b'.')?;
        suffix = psl::suffix(&bytes[dot + 1..])?;
    }
    suffix.typ()?;
    let before = host.len().checked_sub(suffix.as_bytes().len() + 1)?;
    let start = host[..before].rfind('.').map_or(0, |i| i + 1);
    (before > start).then(|| &host[start..])
}

impl UrlFilter {
    /// With the lists that the settings name.
    pub fn new(limits: &UrlLimits) -> Result<Self> {
        let mut parts: Vec<String> = entries(&limits.banned_subwords, true)?.into_iter().collect();
        parts.sort();
        let automaton = AhoCorasick::new(&parts).map_err(|e| Error::Config(format!("url.banned_subwords: {e}; use fewer entries")))?;
        Ok(Self {
            domains: entries(&limits.domains, false)?,
            urls: entries(&limits.urls, false)?,
            banned: entries(&limits.banned_words, true)?,
            soft: entries(&limits.soft_banned_words, true)?,
            parts,
            automaton,
            threshold: limits.soft_word_threshold,
            keep_without_url: limits.keep_without_url,
        })
    }

    /// The rule that an address breaks, with what broke it.
    pub fn broken(&self, url: &str) -> Option<(&'static str, String)> {
        let host = host(url);
        if let Some(domain) = registered_domain(&host) {
            if self.domains.contains(domain) {
                return Some(("domain", domain.to_string()));
            }
            if self.domains.contains(&host) {
                return Some(("subdomain", host));
            }
        }
        if self.urls.contains(url) {
            return Some(("url", url.to_string()));
        }
        let words: HashSet<&str> = url.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        if let Some(word) = words.iter().filter(|w| self.banned.contains(**w)).min() {
            return Some(("hard_word", (*word).to_string()));
        }
        let mut soft: Vec<&str> = words.iter().filter(|w| self.soft.contains(**w)).copied().collect();
        if soft.len() >= self.threshold {
            soft.sort_unstable();
            return Some(("soft_words", soft.join(" ")));
        }
        let found = if self.parts.is_empty() { None } else { self.automaton.find(&normalise(url)) };
        found.and_then(|m| self.parts.get(m.pattern().as_usize())).map(|part| ("subword", part.clone()))
    }
}

const RULES: [&str; 6] = ["domain", "subdomain", "url", "hard_word", "soft_words", "subword"];

impl Step for UrlFilter {
    fn name(&self) -> &str {
        NAME
    }

    fn checks(&self) -> Vec<String> {
        std::iter::once("missing").chain(RULES).map(|r| format!("{NAME}/{r}")).collect()
    }

    fn rules(&self) -> Vec<Rule> {
        let rule = |signal: &str, max: f64| {
            let name = format!("{NAME}/{signal}");
            Rule { check: name.clone(), signal: name, min: f64::NEG_INFINITY, max }
        };
        let missing = rule("missing", if self.keep_without_url { f64::INFINITY } else { 0.0 });
        std::iter::once(missing).chain(RULES.iter().map(|r| rule(r, 0.0))).collect()
    }

    fn apply(&self, document: &mut Document, trace: &mut Trace) -> Result<Verdict> {
        let url = document.url.as_deref().filter(|u| !u.is_empty());
        if trace.everything {
            let max = if self.keep_without_url { None } else { Some(0.0) };
            trace.signal(format!("{NAME}/missing"), f64::from(u8::from(url.is_none())), None, max);
        }
        let Some(url) = url else {
            let keep = self.keep_without_url;
            return Ok(if keep { Verdict::Keep } else { Verdict::drop(format!("{NAME}/missing"), "no address", "an address") });
        };
        let broken = self.broken(url);
        if trace.everything {
            for rule in RULES {
                let breaks = broken.as_ref().is_some_and(|(broken, _)| *broken == rule);
                trace.signal(format!("{NAME}/{rule}"), f64::from(u8::from(breaks)), None, Some(0.0));
            }
        }
        Ok(match broken {
            None => Verdict::Keep,
            Some((rule, what)) => Verdict::drop(format!("{NAME}/{rule}"), what, "not in the list"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_registered_domains() {
        for (url, name, domain) in [
            ("https://user:pass@News.Example.co.uk:8080/a?b#c", "news.example.co.uk", Some("example.co.uk")),
            ("http://foo.blogspot.com/x", "foo.blogspot.com", Some("blogspot.com")),
            ("https://a.b.github.io", "a.b.github.io", Some("github.io")),
            ("//cdn.example.org./x", "cdn.example.org", Some("example.org")),
            ("example.de/pfad", "example.de", Some("example.de")),
            ("http://192.168.1.1/x", "192.168.1.1", None),
            ("http://localhost/x", "localhost", None),
            ("http://co.uk/", "co.uk", None),
            ("http://[::1]/", "", None),
            ("", "", None),
        ] {
            assert_eq!((host(url).as_str(), registered_domain(&host(url))), (name, domain), "{url}");
        }
    }

    #[test]
    fn the_six_rules_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            vec![path]
        };
        let limits = UrlLimits {
            domains: file("domains", "bad.com\nsub.good.org\n"),
            urls: file("urls", "http://good.org/page\n"),
            banned_words: file("words", "# comment\nCasino\n"),
            soft_banned_words: file("soft", "poker\nbonus\nslots\n"),
            banned_subwords: file("parts", "xx-bet\n"),
            ..UrlLimits::default()
        };
        let filter = UrlFilter::new(&limits).unwrap();
        let rule = |url: &str| filter.broken(url).map(|b| b.0);
        assert_eq!(rule("http://www.bad.com/x"), Some("domain"));
        assert_eq!(rule("http://sub.good.org/x"), Some("subdomain"));
        assert_eq!(rule("http://deep.sub.good.org/x"), None);
        assert_eq!(rule("http://good.org/page"), Some("url"));
        assert_eq!(rule("http://good.org/the-casino-page"), Some("hard_word"));
        assert_eq!(rule("http://good.org/casinos"), None);
        assert_eq!(rule("http://good.org/poker"), None);
        assert_eq!(rule("http://good.org/poker/bonus"), Some("soft_words"));
        assert_eq!(rule("http://good.org/x-x/BET"), Some("subword"));
        let missing = UrlLimits { urls: vec![dir.path().join("absent")], ..UrlLimits::default() };
        assert!(UrlFilter::new(&missing).unwrap_err().to_string().contains("absent"));
    }
}
