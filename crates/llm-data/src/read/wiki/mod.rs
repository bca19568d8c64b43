//! MediaWiki XML dumps (`pages-articles`): articles as text with their section headings.
//!
//! The stream is cut at `<page>` and `</page>` (text in a dump is escaped, so neither occurs in it), each page is parsed by
//! itself, and [`wikitext`] makes text of it. So a damaged page costs one page, and memory is bounded by [`MAX_PAGE`]. Read are
//! pages of namespace 0 that are no redirects; of several revisions the last one.

pub mod wikitext;

use super::codec::Bytes;
use super::format::{Batches, Input, Out};
use super::paths::PathsConfig;
use super::{Outcome, dates};
use crate::document::Document;
use crate::error::{Result, io};
use quick_xml::Reader;
use quick_xml::events::Event;
use std::io::Read;

/// A larger page is left out; histories of long pages come to this size, articles do not.
pub const MAX_PAGE: usize = 64 << 20;
const CHUNK: usize = 1 << 18;

/// One page as the dump has it.
#[derive(Debug, Default, PartialEq)]
struct Page {
    title: String,
    namespace: String,
    redirect: bool,
    model: String,
    timestamp: String,
    text: String,
}

/// What the head of the dump says.
#[derive(Debug, Default, Clone)]
struct Site {
    /// Base of page addresses, `https://de.wikipedia.org/wiki/`.
    base: Option<String>,
    lang: Option<String>,
}

/// Read one dump.
pub fn read(input: &mut Input<'_>, config: &PathsConfig, out: Out<'_>) -> Result<()> {
    let mut pages = Pages { reader: input.decoded()?, buffer: Vec::new(), at: 0, base: 0, eof: false };
    let site = site(&pages.head().map_err(io(&input.path, "cannot read"))?);
    let mut document = input.document(String::new(), config);
    document.domain = config.domain_or("web");
    document.lang.clone_from(&site.lang);
    if document.license.is_none() && site.base.as_deref().is_some_and(|b| b.contains(".wikipedia.org")) {
        document.license = Some("CC-BY-SA-4.0".into());
    }
    let id = input.id;
    let job = |(number, offset, page): (u64, u64, Result<Vec<u8>, String>)| {
        let damaged = |why: String| {
            vec![Outcome::skip("malformed page", format!("{id}#{number}"), format!("at byte {offset}: {why}"), "a readable <page>", "")]
        };
        let page = match page.and_then(|bytes| parse(&bytes)) {
            Ok(page) => page,
            Err(why) => return Ok(damaged(why)),
        };
        let base = Document { id: format!("{id}#{number}"), ..document.clone() };
        Ok(vec![article(page, base, &site)])
    };
    let mut batches = Batches::new(job, out);
    let mut number = 0;
    loop {
        match pages.next() {
            Ok(None) => break,
            Ok(Some((offset, page))) => {
                number += 1;
                let bytes = page.as_ref().map_or(0, Vec::len);
                batches.push((number, offset, page), bytes)?;
            }
            Err(e) => {
                batches.push((number + 1, pages.base + pages.at as u64, Err(format!("cannot read on ({e})"))), 0)?;
                break;
            }
        }
    }
    batches.flush()
}

fn article(page: Page, mut document: Document, site: &Site) -> Outcome {
    let title = page.title.as_str();
    let id = document.id.clone();
    if page.namespace != "0" {
        return Outcome::skip("namespace", id, format!("{title}: {}", page.namespace), 0, "");
    }
    if page.redirect || is_redirect(&page.text) {
        return Outcome::skip("redirect", id, title, "an article", "");
    }
    if !matches!(page.model.as_str(), "" | "wikitext") {
        return Outcome::skip("content model", id, page.model, "wikitext", "");
    }
    let body = wikitext::to_text(&page.text);
    if body.trim().is_empty() {
        return Outcome::skip("no text", id, title, "1 character", "");
    }
    document.text = format!("{title}\n\n{body}");
    document.url = site.base.as_ref().map(|base| format!("{base}{}", title.replace(' ', "_")));
    document.date = dates::iso(&page.timestamp);
    Outcome::Keep(document)
}

/// `#REDIRECT [[...]]` in the languages of dumps that predate the element.
fn is_redirect(text: &str) -> bool {
    let head: String = text.trim_start().chars().take(20).collect::<String>().to_uppercase();
    ["#REDIRECT", "#WEITERLEITUNG", "#REDIRECCIÓN", "#REDIRECCION"].iter().any(|w| head.starts_with(w))
}

/// Cuts a stream into pages.
struct Pages {
    reader: Bytes,
    buffer: Vec<u8>,
    at: usize,
    base: u64,
    eof: bool,
}

impl Pages {
    fn fill(&mut self) -> std::io::Result<()> {
        if self.at > CHUNK || self.at == self.buffer.len() {
            self.buffer.drain(..self.at);
            self.base += self.at as u64;
            self.at = 0;
        }
        let before = self.buffer.len();
        self.buffer.resize(before + CHUNK, 0);
        let read = loop {
            match self.reader.read(&mut self.buffer[before..]) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(before + *read.as_ref().unwrap_or(&0));
        self.eof = read? == 0;
        Ok(())
    }

    /// The first bytes, up to the first page.
    fn head(&mut self) -> std::io::Result<Vec<u8>> {
        // A failure comes again with the first page.
        while self.buffer.len() < CHUNK && !self.eof && memchr::memmem::find(&self.buffer, b"<page>").is_none() {
            if self.fill().is_err() {
                break;
            }
        }
        let end = memchr::memmem::find(&self.buffer, b"<page>").unwrap_or(self.buffer.len());
        Ok(self.buffer[..end].to_vec())
    }

    /// Index of `mark` at or after `from`, reading on as needed while less than `limit` bytes are held.
    fn find(&mut self, mark: &[u8], limit: usize) -> std::io::Result<Option<usize>> {
        let mut from = 0;
        loop {
            if let Some(found) = memchr::memmem::find(&self.buffer[self.at + from..], mark) {
                return Ok(Some(self.at + from + found));
            }
            from = (self.buffer.len() - self.at).saturating_sub(mark.len() - 1);
            if self.eof || self.buffer.len() - self.at > limit {
                return Ok(None);
            }
            self.fill()?;
        }
    }

    /// Place and bytes of the next page, `Err` inside for one that is cut or too large.
    #[allow(clippy::type_complexity)]
    fn next(&mut self) -> std::io::Result<Option<(u64, Result<Vec<u8>, String>)>> {
        loop {
            match self.find(b"<page>", CHUNK)? {
                Some(found) => {
                    self.at = found;
                    break;
                }
                None if self.eof => return Ok(None),
                None => self.at = self.buffer.len() - 8,
            }
        }
        let offset = self.base + self.at as u64;
        let end = self.find(b"</page>", MAX_PAGE)?;
        // A page whose end was lost must not take the next one with it.
        let next = memchr::memmem::find(&self.buffer[self.at + 6..end.unwrap_or(self.buffer.len())], b"<page>").map(|i| self.at + 6 + i);
        let page = match (next, end) {
            (Some(next), _) => {
                self.at = next;
                Err("another page begins before this one ends".to_string())
            }
            (None, Some(end)) => {
                let bytes = self.buffer[self.at..end + 7].to_vec();
                self.at = end + 7;
                Ok(bytes)
            }
            (None, None) => {
                let why = if self.eof { "the file ends within this page".to_string() } else { format!("larger than {} MiB", MAX_PAGE >> 20) };
                self.at = self.buffer.len();
                Err(why)
            }
        };
        Ok(Some((offset, page)))
    }
}

fn parse(bytes: &[u8]) -> Result<Page, String> {
    let text = String::from_utf8_lossy(bytes);
    let mut reader = Reader::from_str(&text);
    let mut page = Page::default();
    let mut path: Vec<String> = Vec::new();
    loop {
        match reader.read_event().map_err(|e| format!("{e} ({} bytes into the page)", reader.error_position()))? {
            Event::Eof => break,
            Event::Start(tag) => {
                let name = tag.name().as_ref().to_string();
                match name.as_str() {
                    "redirect" => page.redirect = true,
                    // Of several revisions the last one.
                    "revision" => (page.text, page.timestamp, page.model) = Default::default(),
                    _ => {}
                }
                if path.len() >= 16 {
                    return Err("elements nested deeper than a dump has them".into());
                }
                path.push(name);
            }
            Event::Empty(tag) if tag.name().as_ref() == "redirect" => page.redirect = true,
            Event::End(_) => {
                path.pop();
            }
            event @ (Event::Text(_) | Event::GeneralRef(_) | Event::CData(_)) => {
                let parents: Vec<&str> = path.iter().map(String::as_str).collect();
                let target = match parents.as_slice() {
                    ["page", "title"] => &mut page.title,
                    ["page", "ns"] => &mut page.namespace,
                    ["page", "revision", "timestamp"] => &mut page.timestamp,
                    ["page", "revision", "model"] => &mut page.model,
                    ["page", "revision", "text"] | ["page", "revision", "content", "text"] => &mut page.text,
                    _ => continue,
                };
                match &event {
                    Event::Text(text) => target.push_str(text),
                    Event::CData(text) => target.push_str(text),
                    Event::GeneralRef(name) => target.push_str(&crate::html_text::decode_entities(&format!("&{};", &**name))),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    if !path.is_empty() {
        return Err("elements that are not closed".into());
    }
    page.title = page.title.trim().to_string();
    page.namespace = page.namespace.trim().to_string();
    if page.namespace.is_empty() {
        return Err("no namespace".into());
    }
    Ok(page)
}

/// Site address and language from `<siteinfo>`.
fn site(head: &[u8]) -> Site {
    let head = String::from_utf8_lossy(head);
    let between = |from: &str, to: &str| head.split_once(from).and_then(|(_, rest)| rest.split_once(to)).map(|(value, _)| value.trim().to_string());
    let base = between("<base>", "</base>").and_then(|b| b.rfind('/').map(|at| b[..=at].to_string())).filter(|b| b.starts_with("http"));
    Site { base, lang: between("xml:lang=\"", "\"").filter(|l| (2..=3).contains(&l.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = r#"<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="de">
  <siteinfo><sitename>Wikipedia</sitename><dbname>dewiki</dbname><base>https://de.wikipedia.org/wiki/Wikipedia:Hauptseite</base></siteinfo>
  <page><title>Alan Smithee</title><ns>0</ns><id>1</id>
    <revision><id>7</id><timestamp>2023-01-01T00:00:00Z</timestamp><model>wikitext</model><text>old</text></revision>
    <revision><id>8</id><timestamp>2024-05-06T07:08:09Z</timestamp><model>wikitext</model><text bytes="9">'''Alan Smithee''' ist &lt;!-- c --&gt;ein &quot;[[Pseudonym|Deckname]]&quot; &amp;amp; mehr.

== Geschichte ==
Text.</text></revision></page>
  <page><title>Smithee</title><ns>0</ns><id>2</id><redirect title="Alan Smithee" /><revision><timestamp>2024-05-06T07:08:09Z</timestamp><text>#WEITERLEITUNG [[Alan Smithee]]</text></revision></page>
  <page><title>Diskussion:X</title><ns>1</ns><id>3</id><revision><text>talk</text></revision></page>
</mediawiki>"#;

    fn run(bytes: Vec<u8>, name: &str) -> (Vec<Document>, Vec<(String, String)>) {
        let (mut kept, mut skipped) = (Vec::new(), Vec::new());
        read(&mut Input::stream(name, std::io::Cursor::new(bytes)), &PathsConfig::default(), &mut |o| {
            match o {
                Outcome::Keep(d) => kept.push(d),
                Outcome::Skip(d, _) => skipped.push((d.step, d.value.to_string())),
                Outcome::Count(..) => {}
            }
            Ok(())
        })
        .unwrap();
        (kept, skipped)
    }

    #[test]
    fn articles_become_documents_and_the_rest_is_counted() {
        let (kept, skipped) = run(DUMP.as_bytes().to_vec(), "dewiki.xml");
        assert_eq!(kept.len(), 1);
        let d = &kept[0];
        assert_eq!(d.text, "Alan Smithee\n\nAlan Smithee ist ein \"Deckname\" & mehr.\n\n== Geschichte ==\n\nText.\n");
        assert_eq!(
            (d.url.as_deref(), d.date.as_deref(), d.lang.as_deref()),
            (Some("https://de.wikipedia.org/wiki/Alan_Smithee"), Some("2024-05-06T07:08:09Z"), Some("de"))
        );
        assert_eq!(d.license.as_deref(), Some("CC-BY-SA-4.0"));
        assert_eq!(skipped.iter().map(|s| s.0.as_str()).collect::<Vec<_>>(), ["redirect", "namespace"]);
    }

    #[test]
    fn multistream_bzip2_is_read_to_its_last_stream() {
        use std::io::Write;
        let mut bytes = Vec::new();
        for part in DUMP.split_inclusive("</page>") {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(part.as_bytes()).unwrap();
            bytes.extend(encoder.finish().unwrap());
        }
        assert_eq!(
            run(bytes, "dewiki-pages-articles-multistream.xml.bz2"),
            run(DUMP.as_bytes().to_vec(), "dewiki-pages-articles-multistream.xml.bz2")
        );
    }

    #[test]
    fn a_damaged_page_costs_that_page() {
        let pages: String =
            (0..5).map(|i| format!("<page><title>T{i}</title><ns>0</ns><revision><text>Text {i}.</text></revision></page>\n")).collect();
        let dump = format!("<mediawiki>{pages}</mediawiki>");
        for (from, to) in [
            ("Text 2.</text></revision></page>", "Text 2.</te"),
            ("<text>Text 2.", "<text>Text <2.<"),
            ("<ns>0</ns><revision><text>Text 2", "<revision><text>Text 2"),
        ] {
            let (kept, skipped) = run(dump.replacen(from, to, 1).into_bytes(), "w.xml");
            assert_eq!(kept.len(), 4, "{to}: {skipped:?}");
            assert!(skipped.len() == 1 && skipped[0].0 == "malformed page" && skipped[0].1.contains("at byte "), "{skipped:?}");
        }
        let cut = &dump.as_bytes()[..dump.len() - 40];
        let (kept, skipped) = run(cut.to_vec(), "w.xml");
        assert!(kept.len() == 4 && skipped[0].1.contains("the file ends"), "{skipped:?}");
    }
}
