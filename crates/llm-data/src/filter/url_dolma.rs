//! Addresses as Dolma's URL taggers look them up (`taggers/url.py` of Dolma 1.2): profile `url:dolma`.
//!
//! Three kinds of lists, each like one kind of tagger. `domains` (`domain_blocklist_*`, `blocklist_*`): hosts, found exactly, with and
//! without `www.`; a listed domain does not catch the hosts under it, as it does in the profile `url`. `urls`: host, port and path. `links`
//! (`link_blocklist_phishing_v1`): the same, with a list that is taken as it is. Lists are the ones that Dolma takes: a host or an address
//! a line, the lines of a hosts file, or `||host^` of an ad blocker; `#`, `;` and `!` begin comments; other lines are passed over. Filter
//! rules of ad blockers as such (`*_abp_v1`) and the allow list of Wikidata are not here.
//!
//! The odd parts are Dolma's: the address before a host (`127.0.0.1 host`) is listed too; a rule for a part of a page (`host##.ad`) lists the
//! host; a comment behind a host makes the line find nothing. Where Dolma stops with an error (an address that its parser refuses), a
//! document here passes, unless `keep_unreadable = false`; a line of a list is an error in both.

use super::lines::strip;
use super::urllib3::{address_keys, domain_keys};
use crate::document::Document;
use crate::error::{Error, Result, io};
use crate::step::{Rule, Step, Trace, Verdict};
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Name of the profile.
pub const NAME: &str = "url:dolma";

/// Settings of `url:dolma`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UrlDolmaLimits {
    /// Lists of hosts.
    pub domains: Vec<PathBuf>,
    /// Lists of addresses.
    pub urls: Vec<PathBuf>,
    /// Lists of addresses that are compared as they stand.
    pub links: Vec<PathBuf>,
    /// Keep documents without an address.
    pub keep_without_url: bool,
    /// Keep documents whose address Dolma's parser refuses.
    pub keep_unreadable: bool,
}

impl Default for UrlDolmaLimits {
    fn default() -> Self {
        Self { domains: Vec::new(), urls: Vec::new(), links: Vec::new(), keep_without_url: true, keep_unreadable: true }
    }
}

/// Kinds of lists, in the order of the checks.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Domains,
    Addresses,
    Links,
}

impl Kind {
    fn keys(self, url: &str) -> Option<Vec<String>> {
        match self {
            Self::Domains => domain_keys(url),
            Self::Addresses | Self::Links => address_keys(url),
        }
    }
}

const KINDS: [(Kind, &str); 3] = [(Kind::Domains, "domain"), (Kind::Addresses, "url"), (Kind::Links, "link")];

/// The forms of a line in small letters.
struct Forms {
    /// An address in numbers and a host.
    hosts: Regex,
    /// A host at the beginning.
    plain: Regex,
    /// `||host^`.
    blocker: Regex,
}

impl Forms {
    fn new() -> Result<Self> {
        const HOST: &str = r"((?:[a-z0-9_-]+\.?){2,}|localhost|localdomain)";
        let make = |pattern: String| Regex::new(&pattern).map_err(|e| Error::Config(format!("{NAME}: {e}")));
        Ok(Self {
            hosts: make(format!(r"^([0-9a-f.:]+)[\s\x1c-\x1f]+{HOST}"))?,
            plain: make(format!("^{HOST}"))?,
            blocker: make(format!(r"^\|+{HOST}\^"))?,
        })
    }

    /// What a line lists. `None`: Dolma's parser refuses it.
    fn line(&self, kind: Kind, line: &str) -> Option<Vec<String>> {
        let line = strip(line).to_lowercase();
        if matches!(kind, Kind::Links) {
            return Some(if line.starts_with('#') { Vec::new() } else { vec![line] });
        }
        if line.is_empty() || line.starts_with(['#', ';', '!']) {
            return Some(Vec::new());
        }
        if let Some((_, [number, host])) = self.hosts.captures(&line).map(|c| c.extract()) {
            if number.parse::<IpAddr>().is_err() {
                return Some(Vec::new());
            }
            let mut keys = vec![number.to_string()];
            if !matches!(host, "localhost" | "localdomain") {
                keys.extend(kind.keys(host)?);
            }
            return Some(keys);
        }
        if self.plain.is_match(&line) {
            return kind.keys(&line);
        }
        Some(self.blocker.captures(&line).map(|c| c.extract()).map_or_else(Vec::new, |(_, [host])| vec![host.to_string()]))
    }

    fn list(&self, kind: Kind, name: &str, files: &[PathBuf]) -> Result<HashSet<String>> {
        let mut all = HashSet::new();
        for path in files {
            for (i, line) in read(path)?.split_terminator('\n').enumerate() {
                let keys = self.line(kind, line).ok_or_else(|| Error::Record {
                    path: path.clone(),
                    place: format!("line {}", i + 1),
                    message: format!("`{}` is no host or address that can be cut (port, label or bracket); correct or remove it", strip(line)),
                })?;
                all.extend(keys);
            }
        }
        match files.first() {
            Some(path) if all.is_empty() => {
                let message = format!("no host or address in this list; give another one or leave {NAME}.{name} out");
                Err(Error::Format { path: path.clone(), message })
            }
            _ => Ok(all),
        }
    }
}

/// A list's text, decompressed, with line feeds only.
fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    crate::read::jsonl::open(path)?.read_to_string(&mut text).map_err(io(path, "cannot read the list"))?;
    Ok(text.replace("\r\n", "\n").replace('\r', "\n"))
}

/// The profile.
#[derive(Debug)]
pub struct UrlDolma {
    lists: [HashSet<String>; 3],
    keep_without_url: bool,
    keep_unreadable: bool,
}

impl UrlDolma {
    /// With the lists that the settings name.
    pub fn new(limits: &UrlDolmaLimits) -> Result<Self> {
        let forms = Forms::new()?;
        Ok(Self {
            lists: [
                forms.list(Kind::Domains, "domains", &limits.domains)?,
                forms.list(Kind::Addresses, "urls", &limits.urls)?,
                forms.list(Kind::Links, "links", &limits.links)?,
            ],
            keep_without_url: limits.keep_without_url,
            keep_unreadable: limits.keep_unreadable,
        })
    }

    /// What each list has of an address, and whether it could not be cut for one of them.
    fn found(&self, url: &str) -> ([Option<String>; 3], bool) {
        let (mut found, mut unreadable) = ([const { None }; 3], false);
        for (((kind, _), list), found) in KINDS.iter().zip(&self.lists).zip(&mut found).filter(|((_, list), _)| !list.is_empty()) {
            match kind.keys(url) {
                None => unreadable = true,
                Some(keys) => *found = keys.into_iter().find(|key| list.contains(key)),
            }
        }
        (found, unreadable)
    }
}

impl Step for UrlDolma {
    fn name(&self) -> &str {
        NAME
    }

    fn checks(&self) -> Vec<String> {
        self.rules().into_iter().map(|rule| rule.check).collect()
    }

    fn rules(&self) -> Vec<Rule> {
        let rule = |signal: &str, keep: bool| {
            let name = format!("{NAME}/{signal}");
            Rule { check: name.clone(), signal: name, min: f64::NEG_INFINITY, max: if keep { f64::INFINITY } else { 0.0 } }
        };
        let first = [rule("missing", self.keep_without_url), rule("unreadable", self.keep_unreadable)];
        first.into_iter().chain(KINDS.iter().map(|(_, name)| rule(name, false))).collect()
    }

    fn apply(&self, document: &mut Document, trace: &mut Trace) -> Result<Verdict> {
        let url = document.url.as_deref().filter(|url| !strip(url).is_empty());
        let (found, unreadable) = url.map_or(([const { None }; 3], false), |url| self.found(url));
        if trace.everything {
            let mut signal = |name: &str, on: bool, keep: bool| {
                trace.signal(format!("{NAME}/{name}"), f64::from(u8::from(on)), None, if keep { None } else { Some(0.0) });
            };
            signal("missing", url.is_none(), self.keep_without_url);
            signal("unreadable", unreadable, self.keep_unreadable);
            for ((_, name), found) in KINDS.iter().zip(&found) {
                signal(name, found.is_some(), false);
            }
        }
        if url.is_none() && !self.keep_without_url {
            return Ok(Verdict::drop(format!("{NAME}/missing"), "no address", "an address"));
        }
        if unreadable && !self.keep_unreadable {
            return Ok(Verdict::drop(format!("{NAME}/unreadable"), url.unwrap_or_default(), "an address that can be cut"));
        }
        let listed = KINDS.iter().zip(found).find_map(|((_, name), found)| Some((name, found?)));
        Ok(listed.map_or(Verdict::Keep, |(name, key)| Verdict::drop(format!("{NAME}/{name}"), key, "not in the list")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(dir: &Path, kind: &str, list: &str) -> Result<UrlDolma> {
        let path = dir.join(kind);
        std::fs::write(&path, list).unwrap();
        let mut limits = UrlDolmaLimits::default();
        match kind {
            "domains" => limits.domains.push(path),
            "urls" => limits.urls.push(path),
            _ => limits.links.push(path),
        }
        UrlDolma::new(&limits)
    }

    fn check(step: &UrlDolma, url: &str) -> Option<String> {
        let mut document = Document { url: Some(url.into()), ..Document::default() };
        match step.apply(&mut document, &mut Trace::default()).unwrap() {
            Verdict::Drop(reason) => Some(reason.check),
            Verdict::Keep => None,
        }
    }

    const LIST: &str = "# comment\n; c\r\n! c\n\n127.0.0.1 bad.com\n0.0.0.0\tevil.org # c\n999.1.1.1 no.com\n::1 localhost\nweb.de\n||adp.com^$x\n\
        ||www.ads.com^\nStraße.de\nbad2.com##.ad\nsite.net # c\nhttp://www.Foo.org/Path/\n*.x\n@@||ok.com^\nportal.net:8080\nbücher.de\n";

    /// If this fails, a list of Dolma's means something else here; the keys are those of its `blocklist`.
    #[test]
    fn lists_are_read_as_dolma_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let sorted = |kind| {
            let step = profile(dir.path(), kind, LIST).unwrap();
            let mut all: Vec<String> = step.lists.into_iter().flatten().collect();
            all.sort();
            all
        };
        let addresses = [
            "0.0.0.0",
            "127.0.0.1",
            "::1",
            "adp.com",
            "bad.com",
            "bad2.com",
            "evil.org",
            "portal.net:8080",
            "site.net ",
            "web.de",
            "www.ads.com",
            "www.foo.org/path",
            "xn--strae-oqa.de",
        ];
        assert_eq!(sorted("urls"), addresses);
        let hosts = ["bad.com", "bad2.com", "evil.org", "eb.de", "site.net ", "foo.org", "portal.net", "xn--strae-oqa.de"];
        let mut domains: Vec<String> = hosts.iter().flat_map(|h| [(*h).to_string(), format!("www.{h}")]).collect();
        domains.extend(["0.0.0.0", "127.0.0.1", "::1", "adp.com", "www.ads.com"].map(str::to_string));
        domains.sort();
        assert_eq!(sorted("domains"), domains);
    }

    #[test]
    fn hosts_are_found_exactly_and_addresses_without_query() {
        let dir = tempfile::tempdir().unwrap();
        let domains = profile(dir.path(), "domains", LIST).unwrap();
        for (url, found) in [
            ("http://user@WWW.bad.com:8080/x?y", true),
            ("http://sub.bad.com/", false),
            ("http://bad.com./", false),
            ("http://eb.de/", true),
            ("http://wwww.web.de/", true),
            ("http://127.0.0.1/", true),
            ("http://straße.de/", true),
            ("http://site.net/", false),
            ("http://bad.com:99999/", false),
        ] {
            assert_eq!(check(&domains, url).is_some(), found, "{url}");
        }
        let urls = profile(dir.path(), "urls", LIST).unwrap();
        assert_eq!(check(&urls, "https://www.foo.org/path/?q#f").as_deref(), Some("url:dolma/url"));
        assert_eq!((check(&urls, "https://foo.org/path"), check(&urls, "http://bad.com/page")), (None, None));
        let links = profile(dir.path(), "links", "Bad.com/X\n\n").unwrap();
        assert_eq!(check(&links, "ftp://bad.com/x/").as_deref(), Some("url:dolma/link"));
        // The empty line lists the address of which nothing is left.
        assert_eq!(check(&links, "http://user@/").as_deref(), Some("url:dolma/link"));
    }

    #[test]
    fn lists_that_dolma_refuses_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let message = |list: &str| profile(dir.path(), "domains", list).unwrap_err().to_string();
        assert!(message("good.com\nbad.com:99999\n").contains("line 2: `bad.com:99999`"));
        assert!(message("# nothing\n").contains("no host"));
        let strict = UrlDolma { keep_unreadable: false, ..profile(dir.path(), "domains", "bad.com\n").unwrap() };
        assert_eq!(check(&strict, "http://a.com:x/").as_deref(), Some("url:dolma/unreadable"));
        assert_eq!(check(&UrlDolma::new(&UrlDolmaLimits::default()).unwrap(), "http://a.com:x/"), None);
    }
}
