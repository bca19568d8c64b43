//! The report for a terminal of 80 columns: a table, and a paragraph for each language.

use super::UNKNOWN;
use super::names::language;
use super::report::{Group, Report};
use std::fmt::Write;

const COLUMNS: usize = 80;
/// Room for the name of a group and of a tokenizer.
const GROUP: usize = 16;
const NAME: usize = 18;

/// The report as text, with an end of line.
pub fn table(report: &Report) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{:<GROUP$} {:<NAME$} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6}",
        "group", "tokenizer", "tok/wd", "byt/tk", "1-tok", "%unk", "window", "same"
    );
    rows(&mut out, report, "total", |t| Some(&t.total));
    for lang in report.langs() {
        let name = if lang == UNKNOWN { "no language".to_string() } else { language(lang) };
        rows(&mut out, report, &name, |t| t.by_lang.get(lang));
    }
    let domains = report.tokenizers.first().map(|t| &t.by_domain).filter(|domains| domains.len() > 1);
    for domain in domains.into_iter().flat_map(|domains| domains.keys()) {
        rows(&mut out, report, domain, |t| t.by_domain.get(domain));
    }
    out.push('\n');
    for lang in report.langs() {
        wrap(&mut out, &report.sentence(lang));
    }
    if !report.has_reference() {
        wrap(&mut out, &format!("There is no text of language `{}` to compare with.", report.reference));
    }
    out
}

fn rows<'a>(out: &mut String, report: &'a Report, name: &str, group: impl Fn(&'a super::Fertility) -> Option<&'a Group>) {
    let maybe = |value: Option<f64>| value.map_or("-".to_string(), |v| format!("{v:.2}"));
    let mut name = fit(name, GROUP);
    for tokenizer in &report.tokenizers {
        let Some(g) = group(tokenizer) else { continue };
        let _ = writeln!(
            out,
            "{name:<GROUP$} {:<NAME$} {:>6.2} {:>6.2} {:>4.0} % {:>6.2} {:>6} {:>6}",
            fit(&tokenizer.name, NAME),
            g.tokens_per_word,
            g.bytes_per_token,
            g.single_token_words * 100.0,
            g.unknown_share * 100.0,
            maybe(g.context_share),
            maybe(g.parity_parallel),
        );
        name.clear();
    }
}

/// What fits into `width`; of a path its end tells more.
fn fit(text: &str, width: usize) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    let count = text.chars().count();
    if count <= width { text } else { std::iter::once('…').chain(text.chars().skip(count + 1 - width)).collect() }
}

/// Words in lines that fit; a word that is longer than a line is broken.
fn wrap(out: &mut String, text: &str) {
    const INDENT: &str = "  ";
    let mut width = 0;
    for word in text.split_whitespace() {
        let word: Vec<char> = word.chars().filter(|c| !c.is_control()).collect();
        for (index, part) in word.chunks(COLUMNS - INDENT.len()).enumerate() {
            if width > 0 && (index > 0 || width + 1 + part.len() > COLUMNS) {
                out.push('\n');
                out.push_str(INDENT);
                width = INDENT.len();
            } else if width > 0 {
                out.push(' ');
                width += 1;
            }
            out.extend(part);
            width += part.len();
        }
    }
    out.push('\n');
}
