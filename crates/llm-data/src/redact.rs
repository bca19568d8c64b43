//! Redaction of e-mail addresses, telephone numbers and IP addresses: the rules of the tutorial's `split`.
//!
//! [`crate::pii`] finds more kinds, more forms and faster; this one stays as it is so that the tutorial's documents do too.
//!
//! Conservative on purpose: source code is full of things that look alike. Kept are reserved example domains and
//! addresses (RFC 2606, RFC 5737), loopback, unspecified and private addresses, `git@host`, file names such as
//! `icon@2x.png`, version numbers (`v1.2.3.4`, `Chrome/1.2.3.4`), and Rust paths that happen to parse as IPv6.

use crate::pii::ip;
use regex::{Captures, Regex};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::LazyLock;

/// What replaces what was found.
pub const EMAIL: &str = "[EMAIL]";
/// See [`EMAIL`].
pub const PHONE: &str = "[PHONE]";
/// See [`EMAIL`].
pub const IP: &str = "[IP]";

/// Which kinds are redacted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedactConfig {
    /// E-mail addresses.
    pub email: bool,
    /// Telephone numbers: international form, North American form, or after a word such as `Tel.`.
    pub phone: bool,
    /// Public IPv4 and IPv6 addresses.
    pub ip: bool,
}

impl Default for RedactConfig {
    fn default() -> Self {
        Self { email: true, phone: true, ip: true }
    }
}

/// How many of each kind were replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// E-mail addresses.
    pub emails: u64,
    /// Telephone numbers.
    pub phones: u64,
    /// IP addresses.
    pub ips: u64,
}

type Pattern = LazyLock<Option<Regex>>;

static EMAILS: Pattern = LazyLock::new(|| {
    Regex::new(r"[A-Za-z0-9][A-Za-z0-9._%+-]*@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)*\.([A-Za-z]{2,24})\b").ok()
});
static PHONES: Pattern = LazyLock::new(|| {
    let international = r"\+[1-9]\d{0,2}[ .\-/]?(?:\(\d{1,4}\)[ .\-/]?)?\d{1,5}(?:[ .\-/]\d{2,6}){1,5}";
    let american = r"(?:\(\d{3}\) ?|\d{3}-)\d{3}-\d{4}";
    let named = r"(?i:\b(?:tel|telefon|telephone|phone|fon|fax|mobil|mobile|tlf|tel[eé]fono)\.?:? {1,2})(?:\+?\(?\d[\d ()/.\-]{5,20}\d)";
    Regex::new(&format!(r"{international}|{american}|{named}")).ok()
});
static IPV4: Pattern = LazyLock::new(|| Regex::new(r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}").ok());
static IPV6: Pattern = LazyLock::new(|| Regex::new(r"[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}").ok());

/// Redact a text.
pub fn redact<'a>(text: &'a str, config: &RedactConfig) -> (Cow<'a, str>, Counts) {
    let mut counts = Counts::default();
    let mut out = Cow::Borrowed(text);
    if config.email && text.contains('@') {
        out = replace(out, &EMAILS, EMAIL, &mut counts.emails, is_address);
    }
    if config.ip {
        out = replace(out, &IPV4, IP, &mut counts.ips, is_public_v4);
        out = replace(out, &IPV6, IP, &mut counts.ips, is_public_v6);
    }
    if config.phone {
        out = replace(out, &PHONES, PHONE, &mut counts.phones, is_phone);
    }
    (out, counts)
}

/// Replace the matches that `keep` says are what they look like; it sees the match and what stands before and after.
/// The part of a match that stays (`Tel. `) is given by its byte length.
fn replace<'a>(text: Cow<'a, str>, pattern: &Pattern, with: &str, count: &mut u64, judge: fn(&str, &str, &str) -> Option<usize>) -> Cow<'a, str> {
    let Some(pattern) = pattern.as_ref() else { return text };
    let replaced = pattern.replace_all(&text, |captures: &Captures<'_>| {
        let found = captures.get_match();
        match judge(found.as_str(), &text[..found.start()], &text[found.end()..]) {
            Some(kept) => {
                *count += 1;
                format!("{}{with}", &found.as_str()[..kept])
            }
            None => found.as_str().to_string(),
        }
    });
    match replaced {
        Cow::Borrowed(_) => text,
        Cow::Owned(new) => Cow::Owned(new),
    }
}

fn is_address(found: &str, before: &str, _after: &str) -> Option<usize> {
    let (local, host) = found.split_once('@')?;
    let host = host.to_ascii_lowercase();
    let tld = host.rsplit('.').next().unwrap_or_default();
    let file = matches!(tld, "png" | "jpg" | "jpeg" | "gif" | "svg" | "webp" | "css" | "js" | "rs" | "toml" | "json" | "html");
    let reserved = matches!(tld, "example" | "test" | "invalid" | "localhost")
        || ["example.com", "example.org", "example.net"].iter().any(|d| host == *d || host.ends_with(&format!(".{d}")));
    // `https://user@host/` is an address of a page.
    let in_url = before.ends_with('/') || before.ends_with(':') && !before.ends_with("mailto:");
    (!(file || reserved || local == "git" || in_url)).then_some(0)
}

fn is_public_v4(found: &str, before: &str, after: &str) -> Option<usize> {
    ip::is_public_v4(found, before, after).then_some(0)
}

fn is_public_v6(found: &str, before: &str, after: &str) -> Option<usize> {
    ip::is_public_v6(found, before, after).then_some(0)
}

fn is_phone(found: &str, before: &str, after: &str) -> Option<usize> {
    let number = found.find(|c: char| c.is_ascii_digit() || c == '+' || c == '(')?;
    let digits = found.bytes().filter(u8::is_ascii_digit).count();
    let glued_before =
        number == 0 && before.chars().next_back().is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '+' | ')' | ']' | '/'));
    let glued_after = after.chars().next().is_some_and(|c| c.is_alphanumeric() || c == '_')
        || after.starts_with('-') && after[1..].starts_with(|c: char| c.is_ascii_digit());
    ((7..=15).contains(&digits) && !glued_before && !glued_after).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(text: &str) -> String {
        redact(text, &RedactConfig::default()).0.into_owned()
    }

    #[test]
    fn addresses_and_numbers_are_replaced_and_counted() {
        let text = "Write to jane.doe+x@mail.uni-ulm.de or call +49 731 50-22033 (Tel.: 0731/5022033), (555) 123-4567; host 93.184.216.34 or 2606:2800:220:1:248:1893:25c8:1946.";
        let (redacted, counts) = redact(text, &RedactConfig::default());
        assert_eq!(redacted, "Write to [EMAIL] or call [PHONE] (Tel.: [PHONE]), [PHONE]; host [IP] or [IP].");
        assert_eq!(counts, Counts { emails: 1, phones: 3, ips: 2 });
    }

    #[test]
    fn code_is_left_alone() {
        for text in [
            "bind(\"0.0.0.0:8080\")",
            "127.0.0.1",
            "192.168.1.1",
            "let v = \"v1.20.33.44\";",
            "Chrome/91.0.4472.124",
            "version 10.15.7.21",
            "1.2.3.4",
            "::1",
            "std::fs::File",
            "2001:db8::1",
            "fade::beef",
            "git@github.com:rust-lang/rust.git",
            "user@example.com",
            "icon@2x.png",
            "x+12-34-56",
            "0x1234-5678-9012",
            "2024-11-24 10:00:00",
            "const A: u64 = 1234567890123;",
            "1.2.3-4.5.6",
            "a-555-123-4567",
            "https://user@host.org/path",
            "crate@1.0.0",
            "#[cfg(test)]",
            "978-3-16-148410-0",
            "d41d8cd9-8f00-b204",
        ] {
            assert_eq!(all(text), text);
        }
    }

    #[test]
    fn kinds_can_be_turned_off() {
        let text = "a@b.org 93.184.216.34";
        assert_eq!(redact(text, &RedactConfig { email: false, phone: true, ip: false }).0, text);
    }

    proptest! {
        #[test]
        fn redaction_is_idempotent_and_never_panics(text in "([a-z]{0,4}|@|\\.|[0-9]{1,4}|\\+|-| |:|/|\\(|\\)|ä|[a-z]{1,3}@[a-z]{1,4}\\.de|Tel){0,40}") {
            let once = all(&text);
            prop_assert_eq!(all(&once), once.clone());
        }

        #[test]
        fn any_string_is_accepted(text in any::<String>()) {
            let _ = all(&text);
        }
    }
}
