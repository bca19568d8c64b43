//! Public IP addresses, in text full of version and section numbers.

use std::net::{Ipv4Addr, Ipv6Addr};

/// End of the public address that starts with the digit at `start`.
pub(super) fn at(text: &str, start: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let run = bytes[start..].iter().take(5).take_while(|b| b.is_ascii_digit()).count();
    if run <= 3 && bytes.get(start + run) == Some(&b'.') {
        let end = start + v4(&bytes[start..])?;
        // 1.1.1.20 is a version far more often than an address.
        let counted = text[start..end].split('.').take(3).all(|part| part.len() == 1);
        (!counted && is_public_v4(&text[start..end], &text[..start], &text[end..])).then_some(end)
    } else if matches!(bytes[start], b'2' | b'3') && bytes.get(start + 4) == Some(&b':') {
        let mut end = start + bytes[start..].iter().take(39).take_while(|b| b.is_ascii_hexdigit() || **b == b':').count();
        // A colon that ends a clause is none of the address; two are its zeros.
        if text[..end].ends_with(':') && !text[..end].ends_with("::") {
            end -= 1;
        }
        is_public_v6(&text[start..end], &text[..start], &text[end..]).then_some(end)
    } else {
        None
    }
}

/// Bytes of `d.d.d.d` at the head.
fn v4(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    for part in 0..4 {
        let n = bytes[at..].iter().take(4).take_while(|b| b.is_ascii_digit()).count();
        if !(1..=3).contains(&n) {
            return None;
        }
        at += n;
        if part < 3 {
            if bytes.get(at) != Some(&b'.') {
                return None;
            }
            at += 1;
        }
    }
    Some(at)
}

/// True for an address of the public internet that is no version or section number by what stands around it.
pub(crate) fn is_public_v4(found: &str, before: &str, after: &str) -> bool {
    let Ok(ip) = found.parse::<Ipv4Addr>() else { return false };
    let number = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    let last = before.chars().next_back();
    if last.is_some_and(|c| number(c) || c == '/')
        || after.chars().next().is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-'))
        || after.starts_with('.') && after[1..].starts_with(|c: char| c.is_ascii_digit())
    {
        return false;
    }
    let word = before.trim_end_matches([' ', ':', '=', '"', '\'', '(']).rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    if ["version", "versión", "ver", "release", "build", "section", "kapitel"].iter().any(|w| word.eq_ignore_ascii_case(w)) {
        return false;
    }
    // 1.2.3.4 and its like are the x of examples, and section numbers.
    let counted = ip.octets().iter().all(|o| *o < 10);
    is_global_v4(ip) && !ip.is_multicast() && !counted
}

/// True for an address outside the special ranges (RFC 6890).
pub(crate) fn is_global_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = ip.is_private() || ip.is_loopback() || ip.is_unspecified() || ip.is_link_local() || ip.is_broadcast() || ip.is_documentation();
    let shared = a == 0 || a >= 240 || (a == 100 && (64..128).contains(&b)) || (a == 198 && (b == 18 || b == 19)) || (a == 192 && b == 0 && c == 0);
    !(special || shared)
}

/// The same for IPv6 (`2000::/3` but for documentation).
pub(crate) fn is_public_v6(found: &str, before: &str, after: &str) -> bool {
    let Ok(ip) = found.parse::<Ipv6Addr>() else { return false };
    let part = |c: char| c.is_alphanumeric() || matches!(c, ':' | '_' | '.');
    if before.chars().next_back().is_some_and(part) || after.chars().next().is_some_and(|c| c.is_alphanumeric() || matches!(c, ':' | '_')) {
        return false;
    }
    let segments = ip.segments();
    let documentation = segments[0] == 0x2001 && segments[1] == 0x0db8 || segments[0] == 0x3fff;
    !documentation
}
