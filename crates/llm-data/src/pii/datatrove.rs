//! What datatrove's `PIIFormatter` (0.10) finds and writes: e-mail addresses and public IPv4 addresses by its two patterns,
//! replaced by fixed addresses in rotation.
//!
//! One difference on purpose: there the rotation goes on from document to document, so the result depends on which worker
//! saw what before; here it starts anew in each document. Its patterns look at ASCII word boundaries as Python's do at
//! Unicode ones; `\b` of this crate's engine is Unicode too.

use super::{Found, Kind, PiiConfig, ip};
use regex::Regex;
use std::sync::LazyLock;

const EMAILS: [&str; 2] = ["email@example.com", "firstname.lastname@example.org"];
const IPS: [&str; 6] = ["22.214.171.124", "126.96.36.199", "188.8.131.52", "184.108.40.206", "220.127.116.11", "18.104.22.168"];
const OCTET: &str = "(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)";

static EMAIL: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let local = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+";
    let label = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?";
    Regex::new(&format!(r"\b{local}(?:\.{local})*@(?:(?:{label}\.)+{label}|\[(?:{OCTET}\.){{3}}(?:{OCTET}|[A-Za-z0-9-]*[A-Za-z0-9]:)\])")).ok()
});
static IP: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(&format!(r"(?:{OCTET}\.){{3}}{OCTET}")).ok());

/// Add what the two patterns match. The second is applied to what the first has left, as there.
pub(super) fn find(text: &str, config: &PiiConfig, found: &mut Vec<Found>) {
    if config.email && memchr::memchr(b'@', text.as_bytes()).is_some() {
        let matches = EMAIL.iter().flat_map(|p| p.find_iter(text));
        found.extend(matches.map(|m| Found { start: m.start(), end: m.end(), kind: Kind::Email }));
    }
    if config.ip {
        let emails: Vec<(usize, usize)> = found.iter().map(|f| (f.start, f.end)).chain([(text.len(), text.len())]).collect();
        let mut from = 0;
        for (start, end) in emails {
            let matches = IP.iter().flat_map(|p| p.find_iter(&text[from..start]));
            let public = matches.filter(|m| m.as_str().parse().is_ok_and(ip::is_global_v4));
            found.extend(public.map(|m| Found { start: from + m.start(), end: from + m.end(), kind: Kind::Ip }));
            from = end;
        }
    }
}

/// Which of the fixed addresses is next.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    emails: usize,
    ips: usize,
}

impl Rotation {
    pub(super) fn next(&mut self, kind: Kind) -> &'static str {
        let (list, at): (&[&str], _) = if kind == Kind::Email { (&EMAILS, &mut self.emails) } else { (&IPS, &mut self.ips) };
        *at += 1;
        list[(*at - 1) % list.len()]
    }
}
