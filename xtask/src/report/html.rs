//! Tables, bars and numbers of the report, out of `llm_run::html`.

use serde_json::Value;
use std::fmt::Write;

pub use llm_run::html::{Html, escape, join, tag, text};

/// A table cell: text on the left, or a number on the right.
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

/// A number with as many digits as its size deserves; other JSON as short text.
pub fn value(value: &Value) -> String {
    match value {
        Value::Null => "-".to_string(),
        Value::Number(n) if n.is_u64() || n.is_i64() => n.to_string(),
        Value::Number(n) => number(n.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => crate::term::clip(text, 80),
        other => crate::term::clip(&other.to_string(), 80),
    }
}

/// `0.0123`, `1.23`, `123.4`, `12,345`.
pub fn number(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if !value.is_finite() => "not a number".to_string(),
        _ if value == 0.0 => "0".to_string(),
        s if s >= 10_000.0 => format!("{}{}", if value < 0.0 { "-" } else { "" }, crate::term::thousands(size.round() as u64)),
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
