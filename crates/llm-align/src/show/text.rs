//! Rows for a terminal: trained tokens in colour, or in brackets where there is none. No line is wider than 80 columns.
//!
//! Control characters of the data are shown as escapes, so that a row cannot write to the terminal by itself.

use super::{Found, Shown, Side};
use std::fmt::Write;

const WIDTH: usize = 80;
const INDENT: &str = "  ";
/// Around trained tokens without colours.
const BRACKETS: (&str, &str) = ("⟦", "⟧");
const GREEN: &str = "\x1b[1;32m";
const RED: &str = "\x1b[1;31m";
const GREY: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// `8 conversations, 512 tokens, 200 of them trained (39.1 %), 2 rows skipped`.
pub fn counts(found: &Found) -> String {
    let Found { kind, rows, tokens, trained, skipped, .. } = found;
    let mut text = format!("{rows} {kind}, {tokens} tokens");
    if *trained > 0 {
        let _ = write!(text, ", {trained} of them trained ({:.1} %)", 100.0 * *trained as f64 / *tokens as f64);
    }
    if !skipped.is_empty() {
        let _ = write!(text, ", {} rows skipped", skipped.len());
    }
    text
}

/// All that was asked for, and the counts.
pub fn text(found: &Found, colours: bool) -> String {
    let mut out = String::new();
    for row in &found.shown {
        out += &one(row, colours);
    }
    for skipped in found.skipped.iter().take(5) {
        out += &wrapped(&format!("row {} skipped: {}", skipped.row, skipped.reason));
    }
    if found.skipped.len() > 5 {
        out += &format!("and {} more; --json lists all of them\n", found.skipped.len() - 5);
    }
    out += &wrapped(&counts(found));
    out
}

/// What a side's tokens weigh, in words.
pub fn weight(side: &Side) -> String {
    match side.weight {
        0 => String::new(),
        weight if side.trained == 0 => format!(", weight {weight:+}"),
        weight => format!(", weight {weight:+} each ({:+.4} by the mean)", f64::from(weight) / side.trained as f64),
    }
}

fn one(shown: &Shown, colours: bool) -> String {
    let id = if shown.id == shown.row.to_string() { String::new() } else { format!(" {}", escaped(&shown.id)) };
    let mut out = String::new();
    for side in &shown.sides {
        out += &wrapped(&format!("row {}{id}: {}, {} tokens, {} trained{}", shown.row, side.name, side.tokens, side.trained, weight(side)));
        out += &body(side, colours);
    }
    out.push('\n');
    out
}

fn body(side: &Side, colours: bool) -> String {
    let mut page = Page { out: String::new(), used: 0, style: "", open: "" };
    for span in &side.spans {
        let style = match (colours, span.trained) {
            (false, _) => "",
            (true, false) => GREY,
            (true, true) if side.weight < 0 => RED,
            (true, true) => GREEN,
        };
        page.style = style;
        let marked = span.trained && !colours;
        if marked {
            page.put(BRACKETS.0, 1);
        }
        for c in span.text.chars() {
            page.character(c);
        }
        if marked {
            page.put(BRACKETS.1, 1);
        }
    }
    page.end();
    page.out
}

/// Lines of text in one style at a time.
struct Page {
    out: String,
    /// Columns of the line that is being written; 0 is none begun.
    used: usize,
    style: &'static str,
    /// The style that the terminal is in.
    open: &'static str,
}

impl Page {
    fn put(&mut self, text: &str, width: usize) {
        if self.used + width > WIDTH {
            self.end();
        }
        if self.used == 0 {
            self.out += INDENT;
            self.used = INDENT.len();
        }
        self.switch(self.style);
        self.out += text;
        self.used += width;
    }

    fn switch(&mut self, style: &'static str) {
        if self.open != style {
            if !self.open.is_empty() {
                self.out += PLAIN;
            }
            self.out += style;
            self.open = style;
        }
    }

    fn character(&mut self, c: char) {
        match c {
            '\n' if self.used > 0 => self.end(),
            '\n' => self.out.push('\n'),
            c if c.is_control() || is_invisible(c) => {
                let escape = c.escape_default().to_string();
                self.put(&escape, escape.len());
            }
            c => self.put(c.encode_utf8(&mut [0; 4]), columns(c)),
        }
    }

    fn end(&mut self) {
        self.switch("");
        if self.used > 0 {
            self.out.push('\n');
            self.used = 0;
        }
    }
}

/// Marks that turn the direction of text around or have no width.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Most characters beyond Latin may take two columns.
fn columns(c: char) -> usize {
    if c < '\u{1100}' || matches!(c, '…' | '⟦' | '⟧' | '–' | '—' | '‘' | '’' | '“' | '”') { 1 } else { 2 }
}

fn escaped(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || is_invisible(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// A sentence in lines of at most 80 columns, broken at blanks.
fn wrapped(text: &str) -> String {
    let (mut out, mut used) = (String::new(), 0);
    for word in escaped(text).split(' ') {
        let width: usize = word.chars().map(columns).sum();
        if used > 0 && used + 1 + width > WIDTH {
            out.push('\n');
            out += INDENT;
            used = INDENT.len();
        } else if used > 0 {
            out.push(' ');
            used += 1;
        }
        for c in word.chars() {
            if used + columns(c) > WIDTH {
                out.push('\n');
                out += INDENT;
                used = INDENT.len();
            }
            out.push(c);
            used += columns(c);
        }
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::super::Span;
    use super::*;
    use proptest::prelude::*;

    fn side(name: &'static str, weight: i32, spans: &[(bool, &str)]) -> Side {
        let span = |(trained, text): &(bool, &str)| Span { trained: *trained, tokens: 1, text: text.to_string() };
        let trained = spans.iter().filter(|s| s.0).count();
        Side { name, weight, tokens: spans.len(), trained, spans: spans.iter().map(span).collect(), ids: vec![], loss_mask: vec![] }
    }

    fn found(sides: Vec<Side>) -> Found {
        let shown = vec![Shown { row: 3, id: "3".into(), sides }];
        Found { kind: "pairs", rows: 1, tokens: 4, trained: 1, skipped: Vec::new(), shown }
    }

    #[test]
    fn brackets_enclose_what_is_trained() {
        let text = text(&found(vec![side("chosen", 1, &[(false, "Q\nA "), (true, "yes.")])]), false);
        let expected = "row 3: chosen, 2 tokens, 1 trained, weight +1 each (+1.0000 by the mean)\n  Q\n  A ⟦yes.⟧\n\n";
        assert_eq!(text, format!("{expected}1 pairs, 4 tokens, 1 of them trained (25.0 %)\n"));
    }

    #[test]
    fn colours_say_up_and_down_and_nothing_of_the_data_reaches_the_terminal() {
        let sides = vec![side("chosen", 1, &[(true, "good")]), side("rejected", -1, &[(false, "x"), (true, "bad\x1b[2J")])];
        let text = text(&found(sides), true);
        assert!(text.contains("\x1b[1;32mgood\x1b[0m") && text.contains("\x1b[2mx\x1b[0m\x1b[1;31mbad\\u{1b}[2J\x1b[0m"), "{text:?}");
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_80_columns_and_no_text_is_lost(texts in prop::collection::vec((any::<bool>(), "[a-z é漢\n<>|]{0,120}"), 1..5)) {
            let spans: Vec<(bool, &str)> = texts.iter().map(|(trained, text)| (*trained, text.as_str())).collect();
            let shown = body(&side("chosen", 1, &spans), false);
            for line in shown.lines() {
                prop_assert!(line.chars().map(columns).sum::<usize>() <= WIDTH, "{line}");
            }
            let bare = |text: &str| text.replace([' ', '\n', '⟦', '⟧'], "");
            prop_assert_eq!(bare(&shown), bare(&texts.iter().map(|(_, text)| text.as_str()).collect::<String>()));
        }
    }
}
