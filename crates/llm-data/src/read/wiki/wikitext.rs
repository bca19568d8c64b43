//! Wikitext to text, in one pass and with a stack of bounded depth.
//!
//! Kept: paragraphs, headings (`== so ==`), lists, the words of links, verbatim code, formulas as LaTeX between dollar signs.
//! Left out: tables, references, files and galleries, categories, and templates except for the few that only dress up text
//! ([`expand`]). This is no MediaWiki: templates are not looked up, so what they would have said is missing, not wrong.

use crate::html_text::decode_entities;
use std::collections::BTreeSet;

/// Brackets nested deeper than this are text.
const MAX_DEPTH: usize = 48;
/// Marks a verbatim block, removed from the source first.
const BLOCK: char = '\u{f8fe}';

/// Elements that go with their content.
const DROPPED: &[&str] = &[
    "ref",
    "gallery",
    "timeline",
    "imagemap",
    "score",
    "graph",
    "mapframe",
    "maplink",
    "hiero",
    "noinclude",
    "includeonly",
    "references",
    "templatedata",
    "inputbox",
    "categorytree",
    "indicator",
    "style",
];
/// Elements whose content is copied with its line breaks.
const VERBATIM: &[&str] = &["syntaxhighlight", "source", "pre"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Template,
    Table,
    Link,
}

struct Frame {
    kind: Kind,
    /// Finished arguments, then the one being collected.
    arguments: Vec<String>,
    current: String,
}

struct Parser<'a> {
    source: &'a str,
    lower: String,
    at: usize,
    out: String,
    stack: Vec<Frame>,
    blocks: Vec<String>,
    /// Closing tags that do not occur any more.
    missing: BTreeSet<&'static str>,
}

/// Text of an article; empty when nothing but templates and tables is in it.
pub fn to_text(source: &str) -> String {
    let source = source.replace(BLOCK, "");
    let mut parser = Parser {
        lower: source.to_ascii_lowercase(),
        source: &source,
        at: 0,
        out: String::new(),
        stack: Vec::new(),
        blocks: Vec::new(),
        missing: BTreeSet::new(),
    };
    parser.run();
    let text = decode_entities(&parser.out);
    lines(&text, &parser.blocks)
}

impl Parser<'_> {
    fn emit(&mut self, text: &str) {
        self.stack.last_mut().map_or(&mut self.out, |f| &mut f.current).push_str(text);
    }

    fn top(&self) -> Option<Kind> {
        self.stack.last().map(|f| f.kind)
    }

    fn line_start(&self) -> bool {
        self.source[..self.at].bytes().rev().take(64).find(|b| !matches!(b, b' ' | b'\t' | b':' | b'*')).is_none_or(|b| b == b'\n')
    }

    fn run(&mut self) {
        while self.at < self.source.len() {
            let rest = &self.source[self.at..];
            let Some(next) = rest.find(['<', '{', '}', '[', ']', '|', '\'', '_', '\n']) else {
                self.at = self.source.len();
                let rest = rest.to_string();
                self.emit(&rest);
                break;
            };
            if next > 0 {
                let plain = rest[..next].to_string();
                self.emit(&plain);
                self.at += next;
            }
            self.mark();
        }
        // What was never closed is text.
        while let Some(frame) = self.stack.pop() {
            let text = [&frame.arguments[..], &[frame.current]].concat().join("|");
            self.emit(&text);
        }
    }

    fn open(&mut self, kind: Kind, length: usize) {
        self.at += length;
        self.stack.push(Frame { kind, arguments: Vec::new(), current: String::new() });
    }

    fn mark(&mut self) {
        let rest = &self.source[self.at..];
        let deep = self.stack.len() >= MAX_DEPTH;
        match rest.as_bytes() {
            [b'<', ..] => self.tag(),
            [b'{', b'{', ..] if !deep => self.open(Kind::Template, 2),
            [b'{', b'|', ..] if !deep && self.line_start() => self.open(Kind::Table, 2),
            [b'[', b'[', ..] if !deep => self.open(Kind::Link, 2),
            [b'}', b'}', ..] if self.top() == Some(Kind::Template) => {
                self.at += 2;
                if let Some(frame) = self.stack.pop() {
                    let text = expand(&frame.arguments, &frame.current);
                    self.emit(&text);
                }
            }
            [b'|', b'}', ..] if self.top() == Some(Kind::Table) && rest.as_bytes().get(2) != Some(&b'}') && self.line_start() => {
                self.at += 2;
                self.stack.pop();
            }
            [b']', b']', ..] if self.top() == Some(Kind::Link) => {
                self.at += 2;
                if let Some(frame) = self.stack.pop() {
                    let text = link(&frame.arguments, &frame.current);
                    self.emit(&text);
                }
            }
            [b'|', ..] if matches!(self.top(), Some(Kind::Template | Kind::Link)) => {
                self.at += 1;
                if let Some(frame) = self.stack.last_mut() {
                    // Only the first arguments and the last one are ever used.
                    let argument = std::mem::take(&mut frame.current);
                    if frame.arguments.len() < 16 {
                        frame.arguments.push(argument);
                    }
                }
            }
            [b'[', ..] if external(rest).is_some() => {
                let (length, words) = external(rest).unwrap_or((1, ""));
                // The words may hold markup of their own, so only the address and the brackets are passed over.
                let words = words.to_string();
                self.at += length;
                let inner = if words.contains(['[', '{', '<', '\'']) { inline(&words) } else { words };
                self.emit(&inner);
            }
            [b'\'', b'\'', ..] => self.at += rest.bytes().take(5).take_while(|b| *b == b'\'').count(),
            [b'_', b'_', ..] => {
                let word = rest[2..].bytes().take_while(u8::is_ascii_uppercase).count();
                if word > 2 && rest[2 + word..].starts_with("__") { self.at += word + 4 } else { self.literal("__") }
            }
            _ => {
                let first = &rest[..rest.chars().next().map_or(1, char::len_utf8)];
                self.literal(first);
            }
        }
    }

    fn literal(&mut self, text: &str) {
        let text = text.to_string();
        self.emit(&text);
        self.at += text.len();
    }

    /// Index just before the closing tag, if there is one.
    fn closing(&mut self, name: &'static str, from: usize) -> Option<usize> {
        if self.missing.contains(name) {
            return None;
        }
        let found = self.lower[from..].find(&format!("</{name}")).map(|i| from + i);
        if found.is_none() {
            self.missing.insert(name);
        }
        found
    }

    fn tag(&mut self) {
        let rest = &self.source[self.at..];
        if rest.starts_with("<!--") {
            let end = if self.missing.contains("!--") { None } else { rest.find("-->") };
            if end.is_none() {
                self.missing.insert("!--");
            }
            self.at += end.map_or(4, |e| e + 3);
            return;
        }
        let name_end = rest[1..].find(|c: char| !(c.is_ascii_alphanumeric() || c == '/')).map_or(rest.len(), |e| e + 1);
        let name = self.lower[self.at + 1..self.at + name_end].trim_end_matches('/').to_string();
        let Some(tag_end) = rest.bytes().take(2000).position(|b| b == b'>').filter(|_| !name.is_empty()) else {
            self.literal("<");
            return;
        };
        let self_closing = rest[..tag_end].ends_with('/');
        let content = self.at + tag_end + 1;
        let block = [DROPPED, VERBATIM, &["math", "chem", "ce", "nowiki"]].concat().into_iter().find(|n| *n == name);
        if let Some(block) = block.filter(|_| !self_closing)
            && let Some(end) = self.closing(block, content)
        {
            let inside = self.source[content..end].to_string();
            let display = rest[..tag_end].contains("block");
            self.at = self.source[end..].find('>').map_or(self.source.len(), |i| end + i + 1);
            if VERBATIM.contains(&block) {
                self.verbatim(inside.trim_matches('\n').to_string(), true);
            } else if block == "nowiki" {
                self.verbatim(inside, false);
            } else if !DROPPED.contains(&block) {
                let formula = decode_entities(inside.trim());
                self.verbatim(if display { format!("$${formula}$$") } else { format!("${formula}$") }, false);
            }
            return;
        }
        self.at = content;
        match name.as_str() {
            "br" | "/p" | "p" | "/div" | "/blockquote" | "/poem" | "poem" | "hr" => self.emit("\n"),
            _ => {}
        }
    }

    /// Text that later steps leave alone.
    fn verbatim(&mut self, text: String, own_line: bool) {
        let mark = format!("{BLOCK}{}{BLOCK}", self.blocks.len());
        self.blocks.push(text);
        self.emit(&if own_line { format!("\n{mark}\n") } else { mark });
    }
}

/// Markup inside the words of an external link.
fn inline(words: &str) -> String {
    let mut text = words.replace("'''", "").replace("''", "");
    for mark in ["[[", "]]", "{{", "}}"] {
        text = text.replace(mark, "");
    }
    text
}

/// `[https://x words]`: its length and its words.
fn external(text: &str) -> Option<(usize, &str)> {
    let inside = &text[1..];
    if !["http://", "https://", "//", "ftp://", "mailto:"].iter().any(|p| inside.starts_with(p)) {
        return None;
    }
    let end = inside.bytes().take(4000).position(|b| b == b']' || b == b'\n').filter(|e| inside.as_bytes()[*e] == b']')?;
    let words = inside[..end].split_once([' ', '\u{a0}']).map_or("", |(_, words)| words.trim());
    Some((end + 2, words))
}

/// The words of an internal link; none for files, categories and other languages.
fn link(arguments: &[String], last: &str) -> String {
    const MEDIA: &[&str] =
        &["file", "image", "media", "category", "datei", "bild", "kategorie", "archivo", "imagen", "categoría", "fichier", "catégorie"];
    let target = arguments.first().map_or(last, String::as_str).trim();
    if let Some((prefix, _)) = target.split_once(':') {
        let lower = prefix.trim().to_lowercase();
        let language = (2..=3).contains(&lower.len()) && prefix.bytes().all(|b| b.is_ascii_lowercase());
        if MEDIA.contains(&lower.as_str()) || language && arguments.is_empty() {
            return String::new();
        }
    }
    if arguments.is_empty() {
        return target.trim_start_matches(':').to_string();
    }
    if last.trim().is_empty() {
        // The pipe trick: without the namespace and the parenthesis.
        let name = target.trim_start_matches(':').split_once(':').map_or(target, |(_, name)| name);
        return name.split(" (").next().unwrap_or(name).to_string();
    }
    last.to_string()
}

/// What a template says about its arguments; most say nothing.
pub fn expand(arguments: &[String], last: &str) -> String {
    let Some(name) = arguments.first() else {
        return match last.trim().to_lowercase().as_str() {
            "nbsp" | "spaces" | "space" => " ",
            "ndash" | "snd" | "spnd" | "endash" => " – ",
            "mdash" | "emdash" => "—",
            "'" | "`" | "ʼ" => "'",
            "!" => "|",
            "=" => "=",
            _ => "",
        }
        .to_string();
    };
    let value = |index: usize| -> &str {
        let text = if index < arguments.len() {
            &arguments[index]
        } else if index == arguments.len() {
            last
        } else {
            ""
        };
        let text = text.trim();
        // `1=x` is the first argument by number.
        text.split_once('=').filter(|(k, _)| k.trim().parse::<u8>().is_ok()).map_or(text, |(_, v)| v.trim())
    };
    match name.trim().to_lowercase().replace('_', " ").as_str() {
        "lang" => value(2).to_string(),
        "langx" | "transl" | "transliteration" => value(2).to_string(),
        "nowrap" | "nobr" | "small" | "big" | "em" | "strong" | "kbd" | "var" | "mvar" | "math" | "abbr" | "tooltip" | "sic" | "quote"
        | "blockquote" | "cquote" | "zitat" | "cita" | "unicode" | "script" | "smallcaps" | "lc" | "uc" | "num" | "val" | "formatnum" | "du" => {
            value(1).to_string()
        }
        "sup" => format!("^{}", value(1)),
        "sub" => format!("_{}", value(1)),
        "frac" | "sfrac" | "bruch" => format!("{}/{}", value(1), value(2)),
        "convert" | "cvt" => format!("{} {}", value(1), value(2)),
        "ill" | "interlanguage link" => value(1).to_string(),
        lang if lang.starts_with("lang-") => value(1).to_string(),
        name if ["dts", "start date", "birth date", "death date"].contains(&name) => format!("{}-{:0>2}-{:0>2}", value(1), value(2), value(3)),
        _ => String::new(),
    }
}

/// Headings, lists and empty lines; verbatim blocks come back.
fn lines(text: &str, blocks: &[String]) -> String {
    let mut out: Vec<String> = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with("----") {
            continue;
        }
        if let Some((level, title)) = heading(line) {
            out.extend([String::new(), format!("{0} {title} {0}", "=".repeat(level)), String::new()]);
            continue;
        }
        let markers = line.bytes().take_while(|b| matches!(b, b'*' | b'#' | b':' | b';')).count();
        let (marks, words) = line.split_at(markers);
        let words = words.trim();
        if words.is_empty() {
            out.push(String::new());
        } else if let Some(last) = marks.bytes().rev().find(|b| matches!(b, b'*' | b'#')) {
            let depth = marks.bytes().filter(|b| *b == last).count();
            out.push(format!("{}- {words}", "  ".repeat(depth - 1)));
        } else {
            out.push(words.to_string());
        }
    }
    // A heading over nothing goes.
    let mut kept: Vec<String> = Vec::new();
    let mut next_level = Some(0);
    for line in out.into_iter().rev() {
        match heading(&line) {
            Some((level, _)) if next_level.is_some_and(|next| next <= level) => continue,
            Some((level, _)) => next_level = Some(level),
            None if !line.is_empty() => next_level = None,
            None => {}
        }
        kept.push(line);
    }
    let mut result = String::new();
    for line in kept.iter().rev() {
        if line.is_empty() && (result.is_empty() || result.ends_with("\n\n")) {
            continue;
        }
        restore(line, blocks, &mut result);
        result.push('\n');
    }
    result.truncate(result.trim_end().len());
    if !result.is_empty() {
        result.push('\n');
    }
    result
}

fn restore(line: &str, blocks: &[String], out: &mut String) {
    let mut parts = line.split(BLOCK);
    out.push_str(parts.next().unwrap_or_default());
    while let Some(number) = parts.next() {
        match number.parse::<usize>().ok().and_then(|n| blocks.get(n)) {
            Some(block) => out.push_str(block),
            None => out.push_str(number),
        }
        out.push_str(parts.next().unwrap_or_default());
    }
}

fn heading(line: &str) -> Option<(usize, &str)> {
    let level = line.bytes().take_while(|b| *b == b'=').count();
    let title = line.get(level..line.len().checked_sub(level)?)?;
    ((2..=6).contains(&level) && line.len() > 2 * level && line.ends_with(&"=".repeat(level)))
        .then(|| (level, title.trim()))
        .filter(|(_, t)| !t.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_articles_are_made_of() {
        let source = "{{Infobox person\n| name = [[X]]\n| birth = {{birth date|1950|1|2}}\n}}\n'''Ada''' was a [[mathematician|''mathematical'' writer]] of [[London]].<ref name=\"a\">Book, {{ISBN|1}}</ref><ref name=b/> See [https://x.org the site].\n\n== Work ==\n* one\n** two\n# three\n:indented\n\n{| class=\"wikitable\"\n! a\n|-\n| b {{!}} c\n|}\n[[File:A.jpg|thumb|The [[engine]]]]\nThe sum <math>\\sum_{i=1}^n i</math> is {{frac|1|2}}&nbsp;n.\n<syntaxhighlight lang=\"c\">\nint x = 1;\n  * y\n</syntaxhighlight>\n== Empty ==\n=== Also empty ===\n== References ==\n{{reflist}}\n[[Category:People]]\n[[de:Ada]]";
        let expected = "Ada was a mathematical writer of London. See the site.\n\n== Work ==\n\n- one\n  - two\n- three\nindented\n\nThe sum $\\sum_{i=1}^n i$ is 1/2\u{a0}n.\n\nint x = 1;\n  * y\n";
        assert_eq!(to_text(source), expected);
    }

    #[test]
    fn templates_that_dress_up_text_keep_it() {
        for (source, expected) in [
            ("{{lang|de|Haus}} {{lang-es|casa}}", "Haus casa"),
            ("{{convert|100|km|mi}} {{nowrap|a b}}{{unknown|x}}", "100 km a b"),
            ("a{{nbsp}}b {{nowrap|1=c=d}}", "a b c=d"),
            ("[[Mars (planet)|]] [[:Category:X]] [[a|b|c]]", "Mars Category:X c"),
            ("x <nowiki>[[raw]] ''y''</nowiki>", "x [[raw]] ''y''"),
        ] {
            assert_eq!(to_text(source).trim_end(), expected, "{source}");
        }
    }

    #[test]
    fn what_is_not_closed_is_text_and_depth_is_bounded() {
        assert_eq!(to_text("a {{unclosed|b and [[c"), "a unclosed|b and c\n");
        assert_eq!(to_text("a <ref>never closed. b"), "a never closed. b\n");
        assert_eq!(to_text("a <!-- never closed"), "a  never closed\n");
        let deep = "{{a|".repeat(100_000);
        assert!(to_text(&deep).len() <= deep.len());
        let many = "<ref>".repeat(50_000) + "<!--".repeat(50_000).as_str();
        assert_eq!(to_text(&many), "");
    }

    proptest! {
        #[test]
        fn any_source_is_text(source in "(\\{\\{|\\}\\}|\\[\\[|\\]\\]|\\{\\||\\|\\}|\\||''|==|\n|<ref>|</ref>|<math>|</math>|<pre>|<!--|-->|__TOC__|\\[http://x |\\]|\\*|ä|[a-z :=]{1,5}){0,60}") {
            let text = to_text(&source);
            prop_assert!(!text.contains("\n\n\n\n") || source.contains("<pre>"));
        }

        #[test]
        fn any_string_is_accepted(source in any::<String>()) {
            let _ = to_text(&source);
        }
    }
}
