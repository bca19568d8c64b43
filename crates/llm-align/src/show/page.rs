//! Rows as a page: trained tokens marked, everything escaped.

use super::text::{counts, weight};
use super::{Found, Shown, Side};
use llm_run::html::{self, Html, tag};
use std::path::Path;

const STYLE: &str = "
pre.tokens { white-space: pre-wrap; overflow-wrap: anywhere; opacity: .95; }
pre.tokens .up { background: rgba(46, 160, 67, .35); border-radius: 3px; }
pre.tokens .down { background: rgba(218, 54, 51, .35); border-radius: 3px; }
";

fn side(row: &Shown, side: &Side) -> Html {
    let class = if side.weight < 0 { "span class=down" } else { "span class=up" };
    let span = |span: &super::Span| if span.trained { tag(class, span.text.as_str()) } else { html::text(&span.text) };
    let id = if row.id == row.row.to_string() { String::new() } else { format!(" {}", row.id) };
    let name = format!("Row {}{id}: {}, {} tokens, {} trained{}", row.row, side.name, side.tokens, side.trained, weight(side));
    let spans: Vec<Html> = side.spans.iter().map(span).collect();
    html::join([tag("h3", name), tag("pre class=tokens", spans)])
}

/// The page of a file.
pub fn page(file: &Path, found: &Found) -> String {
    let title = format!("Trained tokens of {}", file.file_name().unwrap_or_default().to_string_lossy());
    let mut main = tag("p", counts(found));
    for row in &found.shown {
        for one in &row.sides {
            main.push(side(row, one));
        }
    }
    if !found.skipped.is_empty() {
        let rows = found.skipped.iter().take(200).map(|s| vec![html::right(s.row.to_string()), html::left(s.reason.as_str())]).collect();
        main.push(html::join([tag("h3", "Rows that cannot be used"), html::table(&["row", "why"], rows)]));
    }
    html::page(&title, STYLE, tag("h1", title.as_str()), main, "Green is made more probable, red less; what is not marked is not trained.")
}

#[cfg(test)]
mod tests {
    use super::super::Span;
    use super::*;

    #[test]
    fn a_row_cannot_write_tags() {
        let span = |trained: bool, text: &str| Span { trained, tokens: 1, text: text.into() };
        let spans = vec![span(false, "<script>"), span(true, "<b>")];
        let side = Side { name: "chosen", weight: 1, tokens: 2, trained: 1, spans, ids: vec![], loss_mask: vec![] };
        let shown = vec![Shown { row: 1, id: "<i>".into(), sides: vec![side] }];
        let found = Found { kind: "pairs", rows: 1, tokens: 2, trained: 1, skipped: vec![], shown };
        let page = page(Path::new("a.jsonl"), &found);
        assert!(page.contains("&lt;script&gt;<span class=up>&lt;b&gt;</span>") && !page.contains("<script>") && !page.contains("<i>"), "{page}");
    }
}
