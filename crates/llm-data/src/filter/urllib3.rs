//! Addresses as Dolma's URL taggers see them: cut by urllib3 1.26 (`urllib3.util.parse_url`, the line that Dolma 1.2 can be installed
//! with), cleaned by `taggers/url.py`.
//!
//! Kept are host, port and path; scheme, user, query and fragment go. What looks odd is the reference's: an address without a host has the
//! host `none`; port 0 is no port; `localhost:80/x` is a path of the scheme `localhost`; `www.` is taken off as a set of letters, so that
//! `web.de` becomes `eb.de`; and a name without a full stop is lost when a port follows it.

use super::host_label::to_ascii;
use super::lines::strip;
use std::net::Ipv6Addr;

/// Host, port and path of an address.
#[derive(Debug, Clone, Default, PartialEq)]
struct Parts {
    host: Option<String>,
    port: Option<u16>,
    path: String,
}

/// Where the scheme ends (at its colon): a letter, then letters, digits, `+` and `-`.
fn scheme(url: &str) -> Option<usize> {
    let colon = url.find(|c: char| !(c.is_ascii_alphanumeric() || c == '+' || c == '-'))?;
    (url.as_bytes()[colon] == b':' && url.as_bytes()[0].is_ascii_alphabetic()).then_some(colon)
}

/// `None`: the reference raises an error.
fn parse(url: &str) -> Option<Parts> {
    let (scheme, rest) = match scheme(url) {
        Some(colon) => (Some(&url[..colon]), &url[colon + 1..]),
        None => (None, url),
    };
    // Without a scheme the address begins with the host, unless it begins with a slash.
    let after = if scheme.is_none() && !url.starts_with('/') { Some(rest) } else { rest.strip_prefix("//") };
    let (authority, rest) = match after {
        Some(after) => after.split_at(after.find(['\\', '/', '?', '#']).unwrap_or(after.len())),
        None => ("", rest),
    };
    let path = rest.split(['?', '#']).next().unwrap_or("");
    let normal = scheme.is_none_or(|s| s.eq_ignore_ascii_case("http") || s.eq_ignore_ascii_case("https"));
    let (host, port) = if authority.is_empty() {
        (None, None)
    } else {
        let (host, port) = host_and_port(authority.rsplit_once('@').map_or(authority, |(_, host)| host))?;
        (Some(if normal { normal_host(host)? } else { host.to_string() }), port)
    };
    let mut path = if normal { percent_encoded(&without_dots(path), PATH) } else { path.to_string() };
    if !path.is_empty() && !path.starts_with('/') {
        path.insert(0, '/');
    }
    Some(Parts { host, port, path })
}

/// `name:80` or `[::1]:80`; a final line feed is overlooked after brackets and numbers.
fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, rest) = if text.starts_with('[') {
        let (host, rest) = text.split_at(text.find(']')? + 1);
        bracketed(host).then_some((host, rest))?
    } else {
        let (host, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
        (!host.contains(['[', ']']) && escapes(host) == host.matches('%').count()).then_some((host, rest))?
    };
    let rest = rest.strip_suffix('\n').unwrap_or(rest);
    let Some(digits) = rest.strip_prefix(':') else { return rest.is_empty().then_some((host, None)) };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = digits.trim_start_matches('0');
    Some((
        host,
        if digits.is_empty() {
            None
        } else if number.is_empty() {
            Some(0)
        } else {
            Some(number.parse().ok()?)
        },
    ))
}

/// Address of version 6 in brackets, perhaps with a zone.
fn bracketed(host: &str) -> bool {
    let inner = host.trim_start_matches('[').trim_end_matches(']');
    let (address, zone) = inner.split_once('%').map_or((inner, None), |(address, zone)| (address, Some(zone)));
    let plain = |z: &str| !z.is_empty() && z.bytes().all(|b| UNRESERVED.contains(&b) || b == b'%') && escapes(z) == z.matches('%').count();
    address.parse::<Ipv6Addr>().is_ok() && zone.is_none_or(plain)
}

fn normal_host(host: &str) -> Option<String> {
    if host.starts_with('[') {
        let Some((address, zone)) = host.trim_end_matches(']').split_once('%') else { return Some(host.to_lowercase()) };
        let zone = if zone == "25" { zone } else { zone.strip_prefix("25").unwrap_or(zone) };
        return Some(format!("{}%{}]", address.to_lowercase(), percent_encoded(zone, UNRESERVED)));
    }
    let label = |label: &str| if label.is_ascii() { Some(label.to_ascii_lowercase()) } else { to_ascii(&label.to_lowercase()) };
    Some(host.split('.').map(label).collect::<Option<Vec<String>>>()?.join("."))
}

const UNRESERVED: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-~";
const PATH: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-~!$&'()*+,;=:@/";

/// Number of `%` with two hexadecimal digits after them.
fn escapes(text: &str) -> usize {
    text.split('%').skip(1).filter(|after| after.len() >= 2 && after.bytes().take(2).all(|b| b.is_ascii_hexdigit())).count()
}

/// What is not in `plain` as `%` and two digits. Escapes stay if every `%` belongs to one; otherwise all are escaped again.
fn percent_encoded(text: &str, plain: &[u8]) -> String {
    let encoded = escapes(text) == text.matches('%').count();
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if plain.contains(&byte) || (encoded && byte == b'%') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A path without `.` and `..` (RFC 3986, section 5.2.4).
fn without_dots(path: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "." => {}
            ".." => {
                out.pop();
            }
            _ => out.push(segment),
        }
    }
    if path.starts_with('/') && out.first().is_none_or(|first| !first.is_empty()) {
        out.insert(0, "");
    }
    if path.ends_with("/.") || path.ends_with("/..") {
        out.push("");
    }
    out.join("/")
}

/// What the tagger of addresses looks up: nothing for a blank address, else one string. `None`: Dolma stops with an error.
pub fn address_keys(url: &str) -> Option<Vec<String>> {
    if strip(url).is_empty() {
        return Some(Vec::new());
    }
    let Parts { host, port, path } = parse(url)?;
    let port = port.filter(|p| *p != 0).map_or(String::new(), |p| format!(":{p}"));
    let whole = format!("{}{port}{path}", host.as_deref().unwrap_or("None"));
    Some(vec![whole.trim_end_matches('/').to_lowercase()])
}

/// What the taggers of domains look up: the host without letters of `www.` before it, and the same after `www.`. `None`: Dolma stops with
/// an error.
pub fn domain_keys(url: &str) -> Option<Vec<String>> {
    let mut keys = Vec::new();
    for address in address_keys(url)? {
        // The cleaned address is cut once more, now without its scheme.
        let Some(host) = parse(&address)?.host.filter(|host| !host.is_empty() && !address.is_empty()) else { continue };
        let host = host.trim_start_matches(['w', '.']);
        keys.push(host.to_string());
        keys.push(format!("www.{host}"));
    }
    Some(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// If this fails, an address is looked up under another name than Dolma's; the expected values are what Dolma 1.2.1 yields.
    #[test]
    fn addresses_are_cut_as_in_dolma() {
        for (url, address, host) in [
            ("https://User:pass@News.Example.co.uk:8080/a/../B%2f?b#c", Some("news.example.co.uk:8080/b%2f"), Some("news.example.co.uk")),
            ("http://www.wow.com/", Some("www.wow.com"), Some("ow.com")),
            ("http://web.de", Some("web.de"), Some("eb.de")),
            ("http://a.com:0/", Some("a.com"), Some("a.com")),
            ("http://a.com:00080", Some("a.com:80"), Some("a.com")),
            ("http://a.com:/x//", Some("a.com/x"), Some("a.com")),
            ("http://a.com:65536/", None, None),
            ("http://a.com:x/", None, None),
            ("http://a.com./x", Some("a.com./x"), Some("a.com.")),
            ("http:///x", Some("none/x"), Some("none")),
            ("mailto:a@b.c", Some("none/a@b.c"), Some("none")),
            ("localhost:80/x", Some("none/80/x"), Some("none")),
            ("http://localhost:80/x", Some("localhost:80/x"), Some("")),
            ("http://localhost/x", Some("localhost/x"), Some("localhost")),
            ("http://user@/x", Some("/x"), Some("")),
            ("/only/a/path", Some("none/only/a/path"), Some("none")),
            ("//cdn.example.org/x", Some("cdn.example.org/x"), Some("cdn.example.org")),
            ("example.com:80/x", Some("example.com:80/x"), Some("example.com")),
            ("http://a.com\\b", Some("a.com/%5cb"), Some("a.com")),
            ("http://a.com/100%/%41", Some("a.com/100%25/%2541"), Some("a.com")),
            ("http://Bücher.de/ü", Some("xn--bcher-kva.de/%c3%bc"), Some("xn--bcher-kva.de")),
            ("http://a。b/", None, None),
            ("http://i❤.ws/", None, None),
            ("ftp://A.com/X/../y", Some("a.com/x/../y"), Some("a.com")),
            ("http://[FE80::1%25eth0]:8080/", Some("[fe80::1%eth0]:8080"), Some("[fe80::1%eth0]")),
            ("http://[::g]/", None, None),
            ("http://a%zz.com/", None, None),
            ("http://a b.com/x y", Some("a b.com/x%20y"), Some("a b.com")),
        ] {
            assert_eq!(address_keys(url), address.map(|a| vec![a.to_string()]), "{url}");
            let domain = host.map(|h| if h.is_empty() { Vec::new() } else { vec![h.to_string(), format!("www.{h}")] });
            assert_eq!(domain_keys(url), domain, "{url}");
        }
        assert_eq!((address_keys(" \u{1c}"), domain_keys("")), (Some(Vec::new()), Some(Vec::new())));
    }

    proptest! {
        /// If this fails, a list that is cleaned and cleaned again, or an address of a stranger, gives a panic or another key.
        #[test]
        fn hosts_are_the_same_when_cut_again(host in "[a-zA-Z0-9üé.-]{1,20}", port in 0u32..70_000, path in "[/a-z.%?# é]{0,20}", any in any::<String>()) {
            let _ = (domain_keys(&any), address_keys(&any), domain_keys(&format!("http://{any}")));
            let url = format!("HTTP://u:p@{host}:{port}{path}");
            if let Some(keys) = address_keys(&url) {
                prop_assert!(port <= 65_535 || path.starts_with(|c| c != '/' && c != '?' && c != '#'));
                prop_assert_eq!(keys.len(), 1);
                prop_assert!(keys[0].chars().all(|c| c.is_ascii() && !c.is_ascii_uppercase()));
            }
        }
    }
}
