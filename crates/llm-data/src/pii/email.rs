//! E-mail addresses, also written `name (at) host.tld` or `name [at] host (dot) tld`.

use super::{Found, Kind};

/// Add all addresses of `text`.
pub(super) fn find(text: &str, found: &mut Vec<Found>) {
    let bytes = text.as_bytes();
    for at in memchr::memchr_iter(b'@', bytes) {
        if let Some((start, end)) = around(text, at, at + 1) {
            found.push(Found { start, end, kind: Kind::Email });
        }
    }
    for open in memchr::memchr2_iter(b'(', b'[', bytes) {
        let close = if bytes[open] == b'(' { b')' } else { b']' };
        let spelled = bytes.len() > open + 3 && bytes[open + 1..open + 3].eq_ignore_ascii_case(b"at") && bytes[open + 3] == close;
        if !spelled {
            continue;
        }
        let before = text[..open].trim_end_matches(' ').len();
        let after = open + 4 + bytes[open + 4..].iter().take(2).take_while(|b| **b == b' ').count();
        if open - before <= 2
            && let Some((start, end)) = around(text, before, after)
        {
            found.push(Found { start, end, kind: Kind::Email });
        }
    }
}

fn is_local(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | '_' | '%' | '+' | '-' | '\'')
}

/// The address whose local part ends at `left` and whose host starts at `right`.
fn around(text: &str, left: usize, right: usize) -> Option<(usize, usize)> {
    let head = &text[..left];
    let mut start = left;
    for (i, c) in head.char_indices().rev().take(65) {
        if !is_local(c) {
            break;
        }
        start = i;
    }
    let local = text[start..left].trim_start_matches(['.', '-', '\'', '+', '%']);
    let start = left - local.len();
    if local.is_empty() || local.chars().count() > 64 || local.ends_with('.') {
        return None;
    }
    let end = right + host(&text[right..])?;
    let name = text[right..end].to_lowercase();
    let tld = name.rsplit(['.', ' ', ')', ']']).next().unwrap_or_default();
    // Files (`icon@2x.png`), places that cannot receive mail (RFC 2606), logins of version control, users in addresses of pages.
    let file = matches!(tld, "png" | "jpg" | "jpeg" | "gif" | "svg" | "webp" | "css" | "js" | "ts" | "rs" | "py" | "toml" | "json" | "html" | "md");
    let reserved = matches!(tld, "example" | "test" | "invalid" | "localhost" | "local")
        || ["example.com", "example.org", "example.net"].iter().any(|d| name == *d || name.ends_with(&format!(".{d}")));
    let before = &text[..start];
    let in_url = before.ends_with('/') || before.ends_with(':') && !before.to_ascii_lowercase().ends_with("mailto:") && !is_label(before);
    (!(file || reserved || local == "git" || in_url)).then_some((start, end))
}

/// `E-Mail:` right before an address, as opposed to `https://user:` or `git:`.
fn is_label(before: &str) -> bool {
    let word = before[..before.len() - 1].rsplit(|c: char| !(c.is_alphanumeric() || c == '-')).next().unwrap_or_default().to_lowercase();
    ["mail", "email", "e-mail", "correo", "kontakt", "contact", "contacto", "an", "to", "from", "von", "de", "cc", "bcc", "para"]
        .contains(&word.as_str())
}

/// Bytes of the host name at the head of `text`; at least two labels, the last of 2 to 24 letters.
fn host(text: &str) -> Option<usize> {
    let (mut at, mut labels, mut last_end) = (0, 0, 0);
    loop {
        let label: usize = text[at..].chars().take(64).take_while(|c| c.is_alphanumeric() || *c == '-').map(char::len_utf8).sum();
        let name = text[at..at + label].trim_end_matches('-');
        if name.is_empty() || name.starts_with('-') {
            break;
        }
        let letters = name.chars().all(char::is_alphabetic) || name.starts_with("xn--");
        labels += 1;
        at += name.len();
        if labels >= 2 && letters && (2..=24).contains(&name.chars().count()) {
            last_end = at;
        }
        if name.len() < label {
            break;
        }
        let dot = [".", " (dot) ", "(dot)", " [dot] ", "[dot]", " (punkt) ", "(punkt)", "[punkt]"];
        match dot.iter().find(|d| text[at..].get(..d.len()).is_some_and(|t| t.eq_ignore_ascii_case(d))) {
            Some(d) => at += d.len(),
            None => break,
        }
    }
    // A longer name whose last label is no letters (`a@b.org.2`) ends where a name could end.
    (last_end > 0 && last_end <= 253).then_some(last_end)
}
