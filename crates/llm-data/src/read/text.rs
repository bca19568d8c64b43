//! Plain text, Markdown and web pages: one file, one document (a long text: one per chapter).

use super::format::{Input, Out};
use super::paths::PathsConfig;
use super::{Outcome, books, encoding, gutenberg};
use crate::document::Document;
use crate::error::Result;
use crate::extract::extract;
use regex::Regex;
use std::sync::LazyLock;

/// The text of the input, or why there is none.
pub(super) fn decoded(input: &mut Input<'_>, config: &PathsConfig, html: bool, out: Out<'_>) -> Result<Option<String>> {
    let bytes = match input.content(config)? {
        Ok(bytes) => bytes,
        Err(skip) => return out(skip).map(|()| None),
    };
    let declared = if html { encoding::html_charset(&bytes) } else { None };
    let Some(decoded) = encoding::decode(&bytes, declared.as_deref()) else {
        return out(Outcome::skip("binary", input.id, "NUL bytes", "text", "")).map(|()| None);
    };
    if decoded.text.trim().is_empty() {
        return out(Outcome::skip("empty file", input.id, 0, 1, "")).map(|()| None);
    }
    if decoded.encoding != "UTF-8" {
        out(Outcome::Count("files not in UTF-8, decoded", 1))?;
    }
    Ok(Some(decoded.text))
}

/// A text file: Project Gutenberg's frame off, cut at chapters.
pub(super) fn plain(input: &mut Input<'_>, config: &PathsConfig, out: Out<'_>) -> Result<()> {
    let Some(text) = decoded(input, config, false, out)? else { return Ok(()) };
    let book = gutenberg::parse(&text);
    let body = book.as_ref().map_or(text.as_str(), |b| b.text);
    let mut base = input.document(String::new(), config);
    base.domain = config.domain_or("docs");
    if let Some(book) = &book {
        out(Outcome::Count("Project Gutenberg frames removed", 1))?;
        base.license = base.license.or_else(|| Some("Public domain (Project Gutenberg)".to_string()));
        base.date.clone_from(&book.date);
        base.lang.clone_from(&book.lang);
        base.url.clone_from(&book.url);
    }
    let pieces = books::chapters(body);
    if pieces.len() > 1 {
        out(Outcome::Count("texts cut into chapters", 1))?;
    }
    let whole = pieces.len() == 1;
    for (i, piece) in pieces.into_iter().enumerate().filter(|(_, p)| !p.trim().is_empty()) {
        let id = if whole { input.id.to_string() } else { format!("{}#{:03}", input.id, i + 1) };
        let text = format!("{}\n", piece.trim_matches('\n'));
        out(Outcome::Keep(Document { id, text, ..base.clone() }))?;
    }
    Ok(())
}

/// A web page.
pub(super) fn html(input: &mut Input<'_>, config: &PathsConfig, out: Out<'_>) -> Result<()> {
    let Some(text) = decoded(input, config, true, out)? else { return Ok(()) };
    let page = extract(&text);
    if page.text.trim().is_empty() {
        return out(Outcome::skip("no main text", input.id, 0, 1, ""));
    }
    out(Outcome::Count(page.extractor.name(), 1))?;
    let base = input.document(input.id.to_string(), config);
    out(Outcome::Keep(Document { text: page.text, url: page.url, date: page.date, domain: config.domain_or("web"), ..base }))
}

/// A Markdown file: front matter off, and on request only the text of links.
pub(super) fn markdown(input: &mut Input<'_>, config: &PathsConfig, out: Out<'_>) -> Result<()> {
    let Some(text) = decoded(input, config, false, out)? else { return Ok(()) };
    let (front, body) = front_matter(&text);
    if !front.is_empty() {
        out(Outcome::Count("front matter removed", 1))?;
    }
    let text = if config.strip_links { without_links(body) } else { body.to_string() };
    if text.trim().is_empty() {
        return out(Outcome::skip("empty file", input.id, 0, 1, ""));
    }
    let name = input.id.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let domain = config.domain_or(if name.starts_with("readme") { "readme" } else { "docs" });
    let mut document = Document { text, domain, ..input.document(input.id.to_string(), config) };
    for (key, value) in front {
        match key.as_str() {
            "date" if document.date.is_none() => document.date = super::dates::iso(value),
            "lang" | "language" if value.len() == 2 => document.lang = Some(value.to_string()),
            "license" | "licence" => document.license = Some(value.to_string()),
            "url" | "canonical_url" | "permalink" if value.starts_with("http") => document.url = Some(value.to_string()),
            _ => {}
        }
    }
    out(Outcome::Keep(document))
}

/// The `key: value` (YAML, between `---`) or `key = "value"` (TOML, between `+++`) pairs at the start, and the text after them.
pub fn front_matter(text: &str) -> (Vec<(String, &str)>, &str) {
    let text = text.trim_start_matches('\u{feff}');
    let Some((fence, separator)) = [("---", ':'), ("+++", '=')].into_iter().find(|(f, _)| text.lines().next().is_some_and(|l| l.trim_end() == *f))
    else {
        return (Vec::new(), text);
    };
    let mut at = text.find('\n').map_or(text.len(), |n| n + 1);
    let mut pairs = Vec::new();
    for line in text[at..].split_inclusive('\n') {
        at += line.len();
        if line.trim_end() == fence || fence == "---" && line.trim_end() == "..." {
            // A horizontal rule with prose after it is no front matter.
            return if pairs.is_empty() { (Vec::new(), text) } else { (pairs, text[at..].trim_start_matches('\n')) };
        }
        if let Some((key, value)) = line.split_once(separator)
            && !key.starts_with([' ', '#', '-'])
        {
            pairs.push((key.trim().to_ascii_lowercase(), value.trim().trim_matches(['"', '\''])));
        }
    }
    (Vec::new(), text)
}

/// Links and pictures reduced to their words; code, fenced or in backticks, stays as it is.
pub fn without_links(text: &str) -> String {
    static LINK: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(
            r#"(?x) (?P<code> `[^`\n]+` )
            | !?\[ (?P<text> [^\[\]\n]* ) \] (?: \( [^()\s]* (?: \([^()\s]*\) [^()\s]* )? (?: \s+ "[^"\n]*" )? \) | \[ [^\[\]\n]* \] )
            | < (?P<auto> (?:https?|mailto): [^<>\s]+ ) >"#,
        )
        .ok()
    });
    static REFERENCE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\s{0,3}\[[^\]^]+\]:\s+\S+").ok());
    let mut out = String::with_capacity(text.len());
    let mut fence: Option<&str> = None;
    for line in text.split_inclusive('\n') {
        let start = line.trim_start();
        let mark = ["```", "~~~"].into_iter().find(|m| start.starts_with(m));
        match (fence, mark) {
            (None, Some(mark)) => fence = Some(mark),
            (Some(open), Some(mark)) if open == mark => fence = None,
            (None, None) => {
                if REFERENCE.as_ref().is_some_and(|r| r.is_match(line)) {
                    continue;
                }
                if let Some(link) = LINK.as_ref() {
                    // A link around a picture is two levels.
                    let replace = |l: &str| {
                        let keep = |c: &regex::Captures<'_>| c.iter().skip(1).flatten().next().map_or(String::new(), |m| m.as_str().to_string());
                        link.replace_all(l, keep).into_owned()
                    };
                    out.push_str(&replace(&replace(line)));
                    continue;
                }
            }
            _ => {}
        }
        out.push_str(line);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn front_matter_goes_and_rules_stay() {
        let (pairs, body) = front_matter("---\ntitle: A page\ndate: 2024-05-06\ntags:\n  - x\n---\n\n# Text\n");
        assert_eq!((pairs[1].clone(), body), (("date".to_string(), "2024-05-06"), "# Text\n"));
        assert_eq!(front_matter("+++\ndate = \"2024-01-02\"\n+++\nText").0, [("date".to_string(), "2024-01-02")]);
        for no in ["---\nA rule, then prose\n---\nmore", "# Title\n---\nx: y\n---\n", "---\nkey: never closed\n", ""] {
            assert_eq!(front_matter(no), (Vec::new(), no), "{no}");
        }
    }

    #[test]
    fn links_become_their_words_and_code_is_left_alone() {
        let text = "See [the book](https://x.org/a_(b) \"title\") and ![alt](p.png), [ref][1], <https://y.org>, `[a](b)`.\n```\n[a](b)\n```\n[1]: https://z.org\n[![CI](badge.svg)](https://ci)\n";
        assert_eq!(without_links(text), "See the book and alt, ref, https://y.org, `[a](b)`.\n```\n[a](b)\n```\nCI\n");
    }

    proptest! {
        #[test]
        fn any_text_is_accepted(text in "(---\n|\\+\\+\\+\n|[a-z]+: ?|\\[|\\]|\\(|\\)|!|`{1,3}|<|>|\n|ä| ){0,60}") {
            let (_, body) = front_matter(&text);
            let _ = without_links(body);
        }
    }
}
