//! A page around pictures and tables, and the colours of both, in one file that needs nothing else.

use llm_run::html::{Html, escape, join, tag};

/// Style of a picture; it goes into the SVG itself, so that the picture also stands alone.
pub(super) const STYLE: &str = "
.plot { --ink: #1f2328; --soft: #5c636b; --line: #e4e1da; --card: #ffffff; font: 12px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif;
  --s0: #0b7a6f; --s1: #d97706; --s2: #4f5bd5; --s3: #c0397b; --s4: #6b7280;
  --q0: #440154; --q1: #46327e; --q2: #365c8d; --q3: #277f8e; --q4: #1fa187; --q5: #4ac16d; --q6: #8bbf2a; --q7: #c9a800; }
@media (prefers-color-scheme: dark) { .plot { --ink: #e6e4df; --soft: #9aa1a9; --line: #2c3037; --card: #1b1e23;
  --s0: #45c4b0; --s1: #f0a83c; --s2: #8f9bff; --s3: #f07ab2; --s4: #9aa1a9;
  --q0: #a67bd6; --q1: #8f8fe0; --q2: #6ea8dc; --q3: #4fbccb; --q4: #45d0b0; --q5: #72e08d; --q6: #b5e655; --q7: #f3e04a; } }
.plot .card { fill: var(--card); stroke: var(--line); }
.plot .title { fill: var(--ink); font-weight: 600; font-size: 14px; }
.plot .tick, .plot .label, .plot .key { fill: var(--soft); }
.plot .grid { stroke: var(--line); } .plot .axis { stroke: var(--soft); }
.plot .line { fill: none; stroke: var(--c); stroke-width: 2; } .plot .dashed { stroke-dasharray: 5 4; stroke-width: 1.5; }
.plot .dot { fill: var(--c); } .plot .ring { fill: var(--card); stroke: var(--c); stroke-width: 2; } .plot .band { fill: var(--c); opacity: .16; }
.s0 { --c: var(--s0); } .s1 { --c: var(--s1); } .s2 { --c: var(--s2); } .s3 { --c: var(--s3); } .s4 { --c: var(--s4); }
.q0 { --c: var(--q0); } .q1 { --c: var(--q1); } .q2 { --c: var(--q2); } .q3 { --c: var(--q3); } .q4 { --c: var(--q4); } .q5 { --c: var(--q5); }
.q6 { --c: var(--q6); } .q7 { --c: var(--q7); }
";

const PAGE: &str = "
:root { color-scheme: light dark; --bg: #faf9f6; --text: #1f2328; --quiet: #5c636b; --rule: #e4e1da; }
@media (prefers-color-scheme: dark) { :root { --bg: #14161a; --text: #e6e4df; --quiet: #9aa1a9; --rule: #2c3037; } }
body { margin: 0 auto; padding: 24px 20px; max-width: 1080px; background: var(--bg); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; }
h1 { margin: 0 0 4px; } h2 { margin: 30px 0 8px; font-size: 20px; } .soft { color: var(--quiet); max-width: 75ch; }
svg.plot { width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 14.5px; } td, th { border-bottom: 1px solid var(--rule);
  padding: 6px 18px 6px 0; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th { color: var(--quiet); font-weight: 600; } td:first-child, th:first-child { text-align: left; } li { overflow-wrap: anywhere; }
";

/// A table; the first column is text, the others numbers.
pub fn table(head: &[String], rows: Vec<Vec<String>>) -> Html {
    let line = |cells: &[String], kind: &str| tag("tr", cells.iter().map(|cell| tag(kind, cell.as_str())).collect::<Vec<_>>());
    let body: Vec<Html> = rows.iter().map(|row| line(row, "td")).collect();
    tag("div class=scroll", tag("table", [tag("thead", line(head, "th")), tag("tbody", body)]))
}

/// A page that needs nothing else.
pub fn page(title: &str, lede: &str, body: Html) -> String {
    let head = format!(
        "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>{}</title>",
        escape(title)
    );
    let body = join([tag("h1", title), tag("p class=soft", lede), body]);
    format!("{head}<style>{PAGE}</style><body>{}</body></html>\n", body.into_string())
}
