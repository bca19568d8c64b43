//! Main text of an HTML page.
//!
//! Two extractors. `trafilatura` (a port of go-trafilatura: rules, then readability and justext as its own fallbacks) is
//! for pages of unknown make. Its result has two defects on technical documentation: code loses its line breaks and is
//! partly doubled, and names broken with `wbr` lose their tail. So a page of mdBook or rustdoc, or any page that marks its
//! text with one `main` (else `article`) element and shows code in it, gets the second extractor: that element without navigation, headers, footers, forms and the furniture
//! of the two generators. The second extractor also answers for pages on which trafilatura finds nothing, or less than a
//! tenth of the page. Both are rendered by [`crate::html_text`].

use crate::html_text::render;
use trafilatura::dom::Document as Dom;

/// CSS selectors removed before anything looks at the page.
const FURNITURE: &str = "#mdbook-sidebar, #mdbook-menu-bar, #mdbook-search-wrapper, #mdbook-help-container, #sidebar, #menu-bar, \
    #search-wrapper, .nav-wrapper, .nav-wide-wrapper, .mobile-nav-chapters, span.boring, .buttons, .fa-svg, template, .sidebar, rustdoc-topbar, \
    rustdoc-toolbar, .rustdoc-breadcrumbs, #copy-path, a.anchor, a.doc-anchor, a.src, .src-link, .hideme, .tooltip, .scraped-example-list, #synthetic-implementations, \
    #synthetic-implementations-list, #blanket-implementations, #blanket-implementations-list, .footnote-backref, script, style, noscript";
/// Page furniture by element and common class, for pages of unknown make.
const NAVIGATION: &str = "nav, header, footer, aside, form, button, select, iframe, svg, dialog, [role=navigation], [role=banner], [role=contentinfo], \
    [role=search], [aria-hidden=true], [hidden], .nav, .navbar, .menu, .breadcrumb, .breadcrumbs, .cookie, .cookies, .share, .social, .advert, .ads, \
    .comments, #comments, .related";

/// Which extractor found the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Extractor {
    /// `trafilatura`.
    #[default]
    Trafilatura,
    /// The marked main element of a technical page.
    Main,
    /// The second extractor, because the first found nothing or next to nothing.
    Fallback,
    /// None: the page is beyond the limits of what is parsed.
    Rendered,
}

impl Extractor {
    /// The name under which the funnel counts it.
    pub fn name(self) -> &'static str {
        match self {
            Extractor::Trafilatura => "extracted by trafilatura",
            Extractor::Main => "extracted from the main element",
            Extractor::Fallback => "extracted by the fallback",
            Extractor::Rendered => "rendered without extraction",
        }
    }
}

/// What the page said about itself, and its text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// Main text; empty when there is none.
    pub text: String,
    /// Canonical address, if the page names one.
    pub url: Option<String>,
    /// When it was written, if the page says so.
    pub date: Option<String>,
    /// Who found the text.
    pub extractor: Extractor,
}

/// A larger page is rendered without looking for its main text.
const MAX_BYTES: usize = 8 << 20;
/// So is one with more tags,
const MAX_TAGS: usize = 150_000;
/// and one nested deeper: parser and extractors recurse, and what they do is quadratic in the depth.
const MAX_DEPTH: usize = 256;

/// Extract the main text. Never fails: a page without text has an empty [`Page::text`]; a page beyond the limits, or one that
/// an extractor panics on, is rendered as it is.
pub fn extract(html: &str) -> Page {
    if !is_within_limits(html) {
        return Page { text: render(html), extractor: Extractor::Rendered, ..Page::default() };
    }
    std::panic::catch_unwind(|| extract_within_limits(html)).unwrap_or_else(|_| Page {
        text: render(html),
        extractor: Extractor::Rendered,
        ..Page::default()
    })
}

/// Counts tags without building anything.
fn is_within_limits(html: &str) -> bool {
    /// Elements without an end tag, or whose end is implied by the next of their kind.
    const NOT_NESTED: &[&str] = &[
        "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr", "p", "li", "dt", "dd",
        "option", "optgroup", "tr", "td", "th", "thead", "tbody", "tfoot", "colgroup", "rp", "rt", "html", "head", "body",
    ];
    if html.len() > MAX_BYTES {
        return false;
    }
    let (mut tags, mut depth, mut deepest) = (0usize, 0usize, 0usize);
    let bytes = html.as_bytes();
    for at in memchr::memchr_iter(b'<', bytes) {
        let rest = &bytes[at + 1..];
        let closing = rest.first() == Some(&b'/');
        let name = &rest[usize::from(closing)..];
        let length = name.iter().take(24).take_while(|b| b.is_ascii_alphanumeric() || **b == b'-').count();
        if length == 0 {
            continue;
        }
        tags += 1;
        let name = &name[..length];
        if NOT_NESTED.iter().any(|n| name.eq_ignore_ascii_case(n.as_bytes())) {
            continue;
        }
        if closing {
            depth = depth.saturating_sub(1);
        } else {
            depth += 1;
            deepest = deepest.max(depth);
        }
    }
    tags <= MAX_TAGS && deepest <= MAX_DEPTH
}

fn extract_within_limits(html: &str) -> Page {
    let mut dom = Dom::parse(html);
    prune(&mut dom, FURNITURE);
    let outline = main_text(&dom);
    if outline.is_technical {
        return Page { text: outline.text, extractor: Extractor::Main, ..Page::default() };
    }
    let options = trafilatura::Options::default().with_fallback(true).with_exclude_comments(true);
    let (text, url, date) = match trafilatura::extract_document(dom, &options) {
        Ok(found) => (
            render(&found.content_html),
            Some(found.metadata.url).filter(|u| u.starts_with("http")),
            found.metadata.date.map(|d| d.format("%Y-%m-%d").to_string()),
        ),
        Err(_) => (String::new(), None, None),
    };
    let kept = letters(&text);
    if kept == 0 || kept < 250 && kept * 10 < letters(&outline.text) {
        return Page { text: outline.text, url, date, extractor: Extractor::Fallback };
    }
    Page { text, url, date, extractor: Extractor::Trafilatura }
}

struct Outline {
    text: String,
    /// The page marks its main text and shows code in it.
    is_technical: bool,
}

/// The second extractor.
fn main_text(dom: &Dom) -> Outline {
    let mut dom = dom.clone_document();
    prune(&mut dom, NAVIGATION);
    let root = dom.root();
    let marked = ["main", "[role=main]", "article"].iter().find_map(|s| {
        let found = dom.query_selector_all(root, s);
        // Several articles are a list of teasers, not a main text.
        (found.len() == 1).then(|| found[0])
    });
    let node = marked.or_else(|| dom.body()).unwrap_or(root);
    let generated = dom.query_selector(root, "meta[name=generator][content=rustdoc], #mdbook-content, #content.content > main").is_some();
    let is_technical = marked.is_some_and(|node| generated || dom.query_selector(node, "pre").is_some());
    Outline { text: render(&dom.outer_html(node)), is_technical }
}

fn prune(dom: &mut Dom, selectors: &str) {
    for node in dom.query_selector_all(dom.root(), selectors).into_iter().rev() {
        dom.remove(node, true);
    }
}

fn letters(text: &str) -> usize {
    text.chars().filter(|c| c.is_alphanumeric()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MDBOOK: &str = r#"<html><head><title>Loops - The Book</title></head><body>
      <nav id="mdbook-sidebar" class="sidebar">Chapter list</nav>
      <div id="mdbook-help-container"><h2>Keyboard shortcuts</h2><p>Press ← or → to navigate between chapters</p></div>
      <div id="mdbook-content" class="content"><main><h1>Loops</h1>
      <p>A loop runs a block of code again and again until you tell it to stop, which is often what a program needs to do.</p>
      <pre><code class="language-rust"><span class="boring">fn main() {
</span>loop {
    break;
}
<span class="boring">}</span></code></pre>
      <p>Short.</p><p>The value after <code>break</code> is the value of the loop expression, and you can bind it with a let statement.</p></main>
      <nav class="nav-wrapper">Previous chapter</nav></div></body></html>"#;

    #[test]
    fn a_book_page_keeps_code_and_loses_its_furniture() {
        let page = extract(MDBOOK);
        assert!(page.text.contains("loop {\n    break;\n}"), "{}", page.text);
        for furniture in ["Keyboard shortcuts", "Previous chapter", "Chapter list", "fn main"] {
            assert!(!page.text.contains(furniture), "{furniture} in {}", page.text);
        }
        assert!(page.text.contains("Short.") && page.text.matches("break").count() == 2, "nothing lost, nothing doubled: {}", page.text);
        assert_eq!(page.extractor, Extractor::Main);
    }

    #[test]
    fn a_rustdoc_page_keeps_long_names_and_loses_its_links() {
        let html = r##"<html><head><meta name="generator" content="rustdoc"><title>net</title></head><body><nav class="sidebar">All items</nav>
          <main><section id="main-content"><h1>Module net</h1><a class="src" href="x">Source</a><h2>Structs<a href="#s" class="anchor">§</a></h2>
          <dl><dt><a href="a">Addr<wbr>Parse<wbr>Error</a></dt><dd>An error.</dd></dl><h2><a class="doc-anchor" href="#x">§</a>Notes</h2></section></main></body></html>"##;
        assert_eq!(extract(html).text, "Module net\n\nStructs\n\nAddrParseError\nAn error.\n\nNotes\n");
    }

    #[test]
    fn an_article_goes_through_trafilatura() {
        let paragraph =
            "<p>The harbour was quiet that morning, and the ships that had come in overnight lay still at their moorings while the town woke up.</p>";
        let html = format!(
            "<html><body><nav><a href='/'>Home</a><a href='/about'>About</a></nav><article>{}</article><footer>Imprint and cookies</footer></body></html>",
            paragraph.to_string() + &paragraph.replace("harbour", "market")
        );
        let page = extract(&html);
        assert_eq!(page.extractor, Extractor::Trafilatura);
        assert!(page.text.contains("harbour") && page.text.contains("market") && !page.text.contains("Imprint"), "{}", page.text);
    }

    #[test]
    fn a_page_without_text_is_empty() {
        assert_eq!(extract("").text, "");
        assert_eq!(extract("<html><body><script>var a = 1;</script></body></html>").text.trim(), "");
    }

    #[test]
    fn pathological_nesting_is_rendered_in_time() {
        let start = std::time::Instant::now();
        for (piece, n) in [
            ("<div>", 200_000),
            ("<b><p>", 50_000),
            ("<table><tr><td>", 30_000),
            ("<font color=red>x", 60_000),
            ("<p>x", 140_000),
            ("<a><b><i>", 20_000),
        ] {
            let page = extract(&format!("<html><body>{}text", piece.repeat(n)));
            assert!(page.text.contains("text"), "{piece}");
        }
        let deep = |n: usize| format!("<html><body>{}<p>The text at the bottom of it all is here.</p>", "<div>".repeat(n));
        assert_eq!(extract(&deep(300)).extractor, Extractor::Rendered);
        assert_ne!(extract(&deep(100)).extractor, Extractor::Rendered);
        assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
    }

    #[test]
    fn any_bytes_as_html_do_not_panic() {
        for text in ["<", "<<<>>>", "<main><main></main>", "<table><tr><td>", "&#0;&#xD800;", "<p>\u{0}\u{1}</p>"] {
            let _ = extract(text);
        }
    }
}
