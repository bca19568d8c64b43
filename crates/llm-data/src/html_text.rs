//! HTML to plain text that keeps what a language model should see: paragraphs, list items, and code with its line breaks.
//!
//! This renders a *cleaned* tree (what the main-text extractor returned, or a pruned page). It reads the serialised form
//! as a stream of tags, so it never fails and costs one pass. `pre` is copied verbatim; everything else is collapsed the
//! way a browser does it.

/// Elements whose content is never text.
const SKIPPED: &[&str] =
    &["script", "style", "head", "template", "noscript", "svg", "iframe", "button", "form", "select", "textarea", "math", "canvas", "object"];
/// Elements that end a line, and with it a paragraph.
const BLOCKS: &[&str] = &[
    "p",
    "div",
    "section",
    "article",
    "main",
    "body",
    "html",
    "header",
    "footer",
    "aside",
    "nav",
    "figure",
    "figcaption",
    "blockquote",
    "table",
    "ul",
    "ol",
    "dl",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "pre",
    "hr",
    "details",
    "summary",
    "address",
    "fieldset",
];
/// Elements that end a line but not a paragraph.
const LINES: &[&str] = &["br", "li", "tr", "dt", "dd"];

/// Render serialised HTML.
pub fn render(html: &str) -> String {
    let mut out = Renderer::default();
    let mut rest = html;
    while let Some(open) = rest.find('<') {
        out.text(&rest[..open]);
        rest = &rest[open..];
        let Some(tag) = Tag::parse(rest) else {
            out.text("<");
            rest = &rest[1..];
            continue;
        };
        rest = &rest[tag.length..];
        if tag.name.is_empty() {
            continue; // comment or doctype
        }
        if !tag.closing && (tag.name == "script" || tag.name == "style") {
            rest = after_raw_text(rest, &tag.name);
            continue;
        }
        out.tag(&tag);
    }
    out.text(rest);
    out.finish()
}

fn after_raw_text<'a>(rest: &'a str, name: &str) -> &'a str {
    let wanted = name.len() + 2;
    let is_end = |at: &usize| rest.as_bytes().get(*at + 2..*at + wanted).is_some_and(|n| n.eq_ignore_ascii_case(name.as_bytes()));
    rest.match_indices("</").map(|(at, _)| at).find(is_end).map_or("", |at| &rest[at..])
}

struct Tag {
    name: String,
    closing: bool,
    self_closing: bool,
    length: usize,
}

impl Tag {
    /// `text` starts with `<`. `None`: not a tag, the `<` is text.
    fn parse(text: &str) -> Option<Tag> {
        let bytes = text.as_bytes();
        let special = |length: usize| Some(Tag { name: String::new(), closing: false, self_closing: false, length });
        if text.starts_with("<!--") {
            return special(text.find("-->").map_or(text.len(), |at| at + 3));
        }
        let next = *bytes.get(1)?;
        if next == b'!' || next == b'?' {
            return special(text.find('>').map_or(text.len(), |at| at + 1));
        }
        let closing = next == b'/';
        let start = 1 + usize::from(closing);
        if !bytes.get(start)?.is_ascii_alphabetic() {
            return None;
        }
        let mut end = start;
        while bytes.get(end).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'-' || *b == b':') {
            end += 1;
        }
        let mut quote = None;
        let mut at = end;
        while let Some(&byte) = bytes.get(at) {
            match (quote, byte) {
                (Some(q), b) if b == q => quote = None,
                (None, b'"' | b'\'') => quote = Some(byte),
                (None, b'>') => break,
                _ => {}
            }
            at += 1;
        }
        let self_closing = at > end && bytes.get(at - 1) == Some(&b'/');
        Some(Tag { name: text[start..end].to_ascii_lowercase(), closing, self_closing, length: (at + 1).min(text.len()) })
    }
}

#[derive(Default)]
struct Renderer {
    out: String,
    pre: usize,
    skip: Option<(String, usize)>,
    space: bool,
    cell: bool,
}

impl Renderer {
    fn tag(&mut self, tag: &Tag) {
        let name = tag.name.as_str();
        if let Some((skipped, depth)) = &mut self.skip {
            if skipped == name && !tag.self_closing {
                if tag.closing {
                    *depth -= 1
                } else {
                    *depth += 1
                }
                if *depth == 0 {
                    self.skip = None;
                }
            }
            return;
        }
        if SKIPPED.contains(&name) {
            if !tag.closing && !tag.self_closing {
                self.skip = Some((name.to_string(), 1));
            }
            return;
        }
        match name {
            "pre" => {
                self.end_block();
                self.pre = if tag.closing { self.pre.saturating_sub(1) } else { self.pre + 1 };
            }
            "br" if self.pre > 0 => self.out.push('\n'),
            "li" if !tag.closing => {
                self.end_line();
                self.out.push_str("- ");
            }
            "td" | "th" if !tag.closing => {
                if self.cell {
                    self.out.push_str(" | ");
                    self.space = false;
                }
                self.cell = true;
            }
            _ if LINES.contains(&name) => {
                self.end_line();
                self.cell = false;
            }
            _ if BLOCKS.contains(&name) && self.pre == 0 => {
                // A paragraph inside a list item stays on the item's line.
                if !self.out.ends_with("- ") || tag.closing {
                    self.end_block();
                }
                self.cell = false;
            }
            _ => {}
        }
    }

    fn text(&mut self, raw: &str) {
        if self.skip.is_some() || raw.is_empty() {
            return;
        }
        let text = decode_entities(raw);
        if self.pre > 0 {
            self.out.push_str(&text.replace('\u{a0}', " "));
            return;
        }
        for c in text.chars() {
            if c.is_whitespace() {
                self.space = true;
                continue;
            }
            if self.space && !self.out.is_empty() && !self.out.ends_with(['\n', ' ']) {
                self.out.push(' ');
            }
            self.space = false;
            self.out.push(c);
        }
    }

    fn end_line(&mut self) {
        self.space = false;
        self.trim_end();
        if !self.out.is_empty() && !self.out.ends_with('\n') {
            self.out.push('\n');
        }
    }

    fn end_block(&mut self) {
        self.end_line();
        if !self.out.is_empty() && !self.out.ends_with("\n\n") {
            self.out.push('\n');
        }
    }

    fn trim_end(&mut self) {
        let kept = self.out.trim_end_matches([' ', '\t']).len();
        self.out.truncate(kept);
        // An item without content leaves no bullet.
        if self.out.ends_with("\n-") || self.out == "-" {
            self.out.truncate(self.out.len() - 1);
        }
    }

    fn finish(mut self) -> String {
        self.end_line();
        let mut text = String::with_capacity(self.out.len());
        let mut blank = 0;
        for line in self.out.lines() {
            let line = line.trim_end();
            blank = if line.is_empty() { blank + 1 } else { 0 };
            if blank <= 1 {
                text.push_str(line);
                text.push('\n');
            }
        }
        let start = text.len() - text.trim_start_matches('\n').len();
        text.drain(..start);
        text.truncate(text.trim_end().len());
        if !text.is_empty() {
            text.push('\n');
        }
        text
    }
}

/// Decode the character references that occur in text; an unknown one stays as it is.
pub fn decode_entities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.bytes().take(32).position(|b| b == b';');
        match end.and_then(|end| entity(&rest[1..end]).map(|c| (c, end))) {
            Some((c, end)) => {
                out.push(c);
                rest = &rest[end + 1..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn entity(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        };
        return char::from_u32(code).filter(|c| *c != '\0');
    }
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => '\u{a0}',
        "ndash" => '–',
        "mdash" => '—',
        "hellip" => '…',
        "lsquo" => '‘',
        "rsquo" => '’',
        "ldquo" => '“',
        "rdquo" => '”',
        "bdquo" => '„',
        "laquo" => '«',
        "raquo" => '»',
        "copy" => '©',
        "reg" => '®',
        "deg" => '°',
        "euro" => '€',
        "sect" => '§',
        "middot" => '·',
        "bull" => '•',
        "times" => '×',
        "auml" => 'ä',
        "ouml" => 'ö',
        "uuml" => 'ü',
        "Auml" => 'Ä',
        "Ouml" => 'Ö',
        "Uuml" => 'Ü',
        "szlig" => 'ß',
        "ntilde" => 'ñ',
        "aacute" => 'á',
        "eacute" => 'é',
        "iacute" => 'í',
        "oacute" => 'ó',
        "uacute" => 'ú',
        "iquest" => '¿',
        "iexcl" => '¡',
        "shy" => '\u{ad}',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn code_keeps_its_lines_and_prose_does_not() {
        let text = render("<p>One\n  two</p><pre><code>fn main() {\n    x &lt; y;\n}</code></pre><p>Three</p>");
        assert_eq!(text, "One two\n\nfn main() {\n    x < y;\n}\n\nThree\n");
    }

    #[test]
    fn lists_and_tables_have_one_line_per_item() {
        assert_eq!(render("<ul><li><p>a</p></li><li>b<br>c</li><li></li></ul>"), "- a\n\n- b\nc\n");
        assert_eq!(render("<table><tr><th>x</th><th>y</th></tr><tr><td>1</td><td>2</td></tr></table>"), "x | y\n1 | 2\n");
    }

    #[test]
    fn scripts_comments_and_attributes_never_leak() {
        let html = "<!-- no --><script>if (a < b) {}</script><p title=\"a > b\">yes &amp; &unknown; &#228;</p><style>p{}</style>";
        assert_eq!(render(html), "yes & &unknown; ä\n");
    }

    proptest! {
        #[test]
        fn never_panics_and_never_emits_triple_blank_lines(html in "(<[/a-z!\"' -]{0,8}>?|[a-zäß&;# \n]{0,9}|<pre>|</pre>|<li>|<script>){0,40}") {
            let text = render(&html);
            prop_assert!(!text.contains("\n\n\n"));
        }

        #[test]
        fn any_string_is_accepted(html in any::<String>()) {
            let _ = render(&html);
        }
    }
}
