//! HTML in pieces, for reports: tables, bars, tiles, the page around them. [`Html`] is finished markup; text becomes markup only through [`text`], which escapes it, so nothing from
//! a document, a model, a vocabulary or a configuration can end up as a tag.

use crate::progress::thousands;
use std::fmt::Write;

/// Finished markup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Html(String);

/// Escape for element content and for quoted attributes; control characters that HTML forbids are dropped.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// Text as markup.
pub fn text(text: impl AsRef<str>) -> Html {
    Html(escape(text.as_ref()))
}

/// An element; `open` is the tag name with attributes we wrote ourselves, e.g. `td class=n`.
pub fn tag(open: &str, inner: impl Into<Html>) -> Html {
    let name = open.split(' ').next().unwrap_or(open);
    Html(format!("<{open}>{}</{name}>", inner.into().0))
}

/// Pieces one after the other.
pub fn join(pieces: impl IntoIterator<Item = Html>) -> Html {
    Html(pieces.into_iter().map(|p| p.0).collect())
}

impl From<&str> for Html {
    fn from(value: &str) -> Self {
        text(value)
    }
}

impl From<String> for Html {
    fn from(value: String) -> Self {
        text(value)
    }
}

impl<const N: usize> From<[Html; N]> for Html {
    fn from(value: [Html; N]) -> Self {
        join(value)
    }
}

impl From<Vec<Html>> for Html {
    fn from(value: Vec<Html>) -> Self {
        join(value)
    }
}

impl Html {
    /// Markup that we wrote ourselves.
    pub fn trusted(markup: String) -> Self {
        Self(markup)
    }

    /// Append.
    pub fn push(&mut self, piece: impl Into<Html>) {
        self.0.push_str(&piece.into().0);
    }

    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The markup.
    pub fn into_string(self) -> String {
        self.0
    }
}

/// The looks of a report: light and dark, narrow and wide, nothing from a network.
pub const STYLE: &str = include_str!("page.css");

/// A whole page: `header` and `main` are its parts, `style` what the page needs besides [`STYLE`].
pub fn page(title: &str, style: &str, header: Html, main: Html, footer: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n<meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>\n{STYLE}{style}</style>\n</head>\n<body>\n{}\n{}\n{}\n</body>\n</html>\n",
        escape(title),
        tag("header", tag("div", header)).into_string(),
        tag("main", main).into_string(),
        tag("footer", footer).into_string(),
    )
}

/// A headline number with its name and a note.
pub fn tile(name: &str, big: impl Into<Html>, note: impl Into<Html>) -> Html {
    tag("div class=tile", [tag("span class=name", name), tag("b", big), tag("span class=note", note)])
}

/// A table cell: text on the left, or a number on the right.
#[derive(Debug, Clone)]
pub enum Cell {
    /// Any markup.
    Left(Html),
    /// Right-aligned, digits of equal width.
    Right(Html),
}

/// Left-aligned text.
pub fn left(value: impl Into<Html>) -> Cell {
    Cell::Left(value.into())
}

/// Right-aligned number.
pub fn right(value: impl Into<Html>) -> Cell {
    Cell::Right(value.into())
}

/// A table that scrolls sideways inside its own box on a narrow screen. The head takes the alignment of the first row.
pub fn table(head: &[&str], rows: Vec<Vec<Cell>>) -> Html {
    let aligned: Vec<bool> = rows.first().map(|r| r.iter().map(|c| matches!(c, Cell::Right(_))).collect()).unwrap_or_default();
    let mut markup = String::from("<div class=scroll><table><thead><tr>");
    for (index, name) in head.iter().enumerate() {
        let class = if aligned.get(index) == Some(&true) { " class=n" } else { "" };
        let _ = write!(markup, "<th{class}>{}</th>", escape(name));
    }
    markup.push_str("</tr></thead><tbody>");
    for row in rows {
        markup.push_str("<tr>");
        for cell in row {
            match cell {
                Cell::Left(html) => {
                    let _ = write!(markup, "<td>{}</td>", html.into_string());
                }
                Cell::Right(html) => {
                    let _ = write!(markup, "<td class=n>{}</td>", html.into_string());
                }
            }
        }
        markup.push_str("</tr>");
    }
    markup.push_str("</tbody></table></div>");
    Html::trusted(markup)
}

/// A horizontal bar in a row of bars: name, bar, number.
pub fn bar(name: impl Into<Html>, share: f64, number: impl Into<Html>, class: &str) -> Html {
    let width = (share.clamp(0.0, 1.0) * 100.0).max(if share > 0.0 { 0.4 } else { 0.0 });
    let track = Html::trusted(format!("<span class=track><span class=\"fill {class}\" style=\"width:{width:.2}%\"></span></span>"));
    tag("div class=bar", [tag("span class=bar-name", name), track, tag("span class=bar-number", number)])
}

/// A part that opens on a click, without any script.
pub fn details(summary: impl Into<Html>, inner: impl Into<Html>) -> Html {
    tag("details", [tag("summary", summary), inner.into()])
}

/// `0.0123`, `1.23`, `123.4`, `12,345`.
pub fn number(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if !value.is_finite() => "not a number".to_string(),
        _ if value == 0.0 => "0".to_string(),
        s if s >= 10_000.0 => format!("{}{}", if value < 0.0 { "-" } else { "" }, thousands(size.round() as u64)),
        s if s >= 100.0 => trim(format!("{value:.1}")),
        s if s >= 1.0 => trim(format!("{value:.3}")),
        s if s >= 0.001 => trim(format!("{value:.4}")),
        _ => format!("{value:.1e}"),
    }
}

fn trim(text: String) -> String {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_a_tag_or_leave_an_attribute() {
        assert_eq!(escape("<a href='x' \"y\">&\u{0}\u{1b}"), "&lt;a href=&#39;x&#39; &quot;y&quot;&gt;&amp;");
        assert_eq!(tag("b", "<i>").into_string(), "<b>&lt;i&gt;</b>");
    }

    #[test]
    fn text_in_a_table_cannot_become_a_tag() {
        assert_eq!(table(&["<x>"], vec![vec![right("<y>")]]).into_string().matches("<x>").count(), 0);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(number(0.650), "0.65");
        assert_eq!(number(1234.56), "1234.6");
        assert_eq!(number(-12345.6), "-12,346");
        assert_eq!(number(3e-4), "3.0e-4");
        assert_eq!(number(100.0), "100");
    }
}
