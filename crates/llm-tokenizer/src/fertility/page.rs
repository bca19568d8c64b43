//! `fertility.html`: the report as one page. No network, no script; light and dark.

use super::bars::{Bars, COLOURS};
use super::examples::{Cut, Example, Piece};
use super::names::language;
use super::report::{Fertility, Group, Report};
use llm_run::html::{Html, escape, join, tag, text};
use llm_run::progress::thousands;
use std::collections::BTreeMap;

const STYLE: &str = include_str!("style.css");
/// Colours of neighbouring tokens.
const TINTS: usize = 5;

/// One of the groupings of a report.
type Grouping = fn(&Fertility) -> &BTreeMap<String, Group>;

/// The page of a report.
pub fn page(report: &Report) -> String {
    let names: Vec<&str> = report.tokenizers.iter().map(|t| t.name.as_str()).collect();
    let title = names.join(", ");
    let sections = [
        ("pictures", "Languages side by side", pictures(report)),
        ("words", "What it means", in_words(report)),
        ("examples", "How a sentence is cut", examples(report)),
        ("table", "All numbers", tables(report)),
        ("terms", "What is measured", terms(report)),
    ];
    let shown: Vec<_> = sections.iter().filter(|(_, _, body)| !body.is_empty()).collect();
    let links = join(shown.iter().map(|(id, title, _)| tag(&format!("a href=\"#{id}\""), *title)));
    let body = join(shown.iter().map(|(id, title, body)| tag(&format!("section id={id}"), [tag("h2", *title), body.clone()])));
    let opening = [tag("p class=eyebrow", "Tokenizer fertility"), tag("h1", title.as_str()), tag("p class=lede", lede(report))];
    format!(
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n<meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{}\n{}\n{}\n</body>\n</html>\n",
        escape(&format!("Tokenizer fertility: {title}")),
        tag("header", tag("div", [join(opening), tiles(report), tag("nav", links)])).into_string(),
        tag("main", body).into_string(),
        tag("footer", "Made by llm-tokenizer fertility; the same numbers are in fertility.json.").into_string(),
    )
}

fn lede(report: &Report) -> String {
    let Some(total) = report.tokenizers.first().map(|t| t.total.counts) else {
        return String::new();
    };
    let count = report.tokenizers.len();
    let plural = |n: u64| if n == 1 { "" } else { "s" };
    let langs = report.langs().len() as u64;
    format!(
        "{count} tokenizer{} on the same {} text{} in {langs} language{}: {} words, {} bytes.",
        plural(count as u64),
        thousands(total.documents),
        plural(total.documents),
        plural(langs),
        thousands(total.words),
        thousands(total.bytes)
    )
}

/// For each tokenizer the language it serves worst.
fn tiles(report: &Report) -> Html {
    let tile = |(index, t): (usize, &Fertility)| {
        let others = t.by_lang.iter().filter(|(lang, _)| **lang != report.reference);
        let worst = others.filter_map(|(lang, g)| Some((lang, g.context_share?))).min_by(|a, b| a.1.total_cmp(&b.1));
        let (big, note) = match worst {
            Some((lang, share)) => (format!("{share:.2}"), format!("of {}'s window for {}, the least", language(&report.reference), language(lang))),
            None => (format!("{:.2}", t.total.tokens_per_word), "tokens per word".to_string()),
        };
        let name = tag("span class=name", [Html::trusted(format!("<i class=\"key s{}\"></i>", index % COLOURS)), text(&t.name)]);
        let size = format!("{} tokens in the vocabulary", thousands(t.vocab_size as u64));
        tag("div class=tile", [name, tag("b", big), tag("span class=note", note), tag("span class=note", size)])
    };
    tag("div class=tiles", join(report.tokenizers.iter().enumerate().map(tile)))
}

fn pictures(report: &Report) -> Html {
    let names: Vec<String> = report.tokenizers.iter().map(|t| t.name.clone()).collect();
    let bars = |title: &str, unit: String, line: Option<f64>, value: &dyn Fn(&Group) -> Option<f64>| {
        let groups = report.langs().into_iter().map(|lang| (language(lang), report.tokenizers.iter().map(|t| value(t.by_lang.get(lang)?)).collect()));
        Bars { title: title.to_string(), unit, names: names.clone(), groups: groups.collect(), line }.html()
    };
    let reference = language(&report.reference);
    let mut figures = Vec::new();
    if report.has_reference() {
        figures.push(bars("Share of the context window", format!("{reference} = 1; more is better"), Some(1.0), &|g| g.context_share));
    }
    figures.push(bars("Tokens per word", "fewer are better".to_string(), None, &|g| Some(g.tokens_per_word)));
    if report.has_parallel() {
        figures.push(bars("Tokens of the same text", format!("{reference} = 1; fewer are better"), Some(1.0), &|g| g.parity_parallel));
    }
    figures.push(bars("Words that are one token", "share; more is better".to_string(), None, &|g| Some(g.single_token_words)));
    tag("div class=grid2", figures.into_iter().filter(|f| !f.is_empty()).collect::<Vec<_>>())
}

fn in_words(report: &Report) -> Html {
    let mut items: Vec<Html> = report.langs().into_iter().map(|lang| tag("li", report.sentence(lang))).collect();
    if !report.has_reference() {
        items.push(tag("li class=soft", format!("There is no {} text to compare with.", language(&report.reference))));
    }
    tag("div class=card", tag("ul class=words", items))
}

fn examples(report: &Report) -> Html {
    let example = |example: &Example| {
        let mut head = vec![text(language(&example.lang))];
        if let Some(link) = &example.parallel {
            head.push(tag("span class=soft", format!(" · {link}")));
        }
        let cuts = example.cuts.iter().enumerate().map(|(index, cut)| {
            let unknown = report.tokenizers.iter().find(|t| t.name == cut.tokenizer).and_then(|t| t.unknown_id);
            let count = format!(" · {} tokens", cut.ids.len());
            let name = [Html::trusted(format!("<i class=\"key s{}\"></i>", index % COLOURS)), text(&cut.tokenizer), text(count)];
            let open = format!("p class=cut dir=auto lang=\"{}\"", escape(&example.lang));
            join([tag("div class=\"soft small\"", name), tag(&open, tokens(cut, unknown))])
        });
        tag("div class=card", [tag("h3", head), join(cuts)])
    };
    if report.examples.is_empty() {
        return Html::default();
    }
    let note = "Neighbouring tokens differ in colour. A dark box holds bytes that are a part of a character, in hexadecimal.";
    join([tag("p class=soft", note), join(report.examples.iter().map(example))])
}

fn tokens(cut: &Cut, unknown: Option<u32>) -> Html {
    join(cut.ids.iter().zip(&cut.pieces).enumerate().map(|(index, (id, piece))| {
        let (class, shown) = match piece {
            _ if unknown == Some(*id) => (" u", "unknown".to_string()),
            Piece::Bytes(bytes) => (" b", bytes.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(" ")),
            Piece::Text(text) => ("", text.replace('\n', "⏎").replace('\t', "⇥")),
        };
        tag(&format!("span class=\"t t{}{class}\" title=\"token {id}\"", index % TINTS), shown)
    }))
}

fn tables(report: &Report) -> Html {
    let langs: Vec<(String, String)> = report.langs().into_iter().map(|l| (l.to_string(), language(l))).collect();
    let same = |groups: Grouping| -> Vec<(String, String)> {
        report.tokenizers.first().map(|t| groups(t).keys().map(|k| (k.clone(), k.clone())).collect()).unwrap_or_default()
    };
    let mut parts = vec![tag("div class=card", table(report, "Language", &langs, |t| &t.by_lang))];
    let groupings: [(&str, Grouping); 2] = [("Domain", |t| &t.by_domain), ("Language and domain", |t| &t.by_lang_and_domain)];
    for (head, groups) in groupings {
        let body = tag("div class=card", table(report, head, &same(groups), groups));
        parts.push(tag("details", [tag("summary", format!("By {}", head.to_lowercase())), body]));
    }
    join(parts)
}

/// A row for each group and tokenizer.
fn table(report: &Report, head: &str, keys: &[(String, String)], groups: Grouping) -> Html {
    let two = |value: f64| format!("{value:.2}");
    let maybe = |value: Option<f64>| value.map_or("-".to_string(), two);
    let percent = |value: f64, digits: usize| format!("{:.digits$} %", value * 100.0);
    let translations = report.has_parallel() && head == "Language";
    let mut columns =
        vec!["Tokens", "Tokens / word", "Tokens / char.", "Bytes / token", "One-token words", "Unknown", "Window", "FLOPs / byte", "KV / 1000 char."];
    if translations {
        columns.push("Same text");
    }
    let names = [head, "Tokenizer"].into_iter().map(|name| tag("th", name)).chain(columns.iter().map(|name| tag("th class=n", *name)));
    let mut rows = Vec::new();
    for (key, name) in keys {
        for (index, tokenizer) in report.tokenizers.iter().enumerate() {
            let Some(g) = groups(tokenizer).get(key) else { continue };
            let mut cells = Vec::new();
            if index == 0 {
                let size = format!("{} words", thousands(g.counts.words));
                cells.push(tag(&format!("td rowspan={}", report.tokenizers.len()), [text(name), tag("div class=\"soft small\"", size)]));
            }
            cells.push(tag("td", tokenizer.name.as_str()));
            let mut numbers = vec![
                thousands(g.counts.tokens),
                two(g.tokens_per_word),
                format!("{:.3}", g.tokens_per_character),
                two(g.bytes_per_token),
                percent(g.single_token_words, 0),
                percent(g.unknown_share, 2),
                maybe(g.context_share),
                maybe(g.training_flops_per_byte),
                maybe(g.kv_cache_per_1000_characters),
            ];
            if translations {
                numbers.push(maybe(g.parity_parallel));
            }
            cells.extend(numbers.into_iter().map(|n| tag("td class=n", n)));
            rows.push(tag(if index == 0 { "tr class=first" } else { "tr" }, cells));
        }
    }
    tag("div class=scroll", tag("table", [tag("thead", tag("tr", names.collect::<Vec<_>>())), tag("tbody", rows)]))
}

fn terms(report: &Report) -> Html {
    let reference = language(&report.reference);
    let terms = [
        (
            "Tokens / word",
            "Fertility. Words are Unicode words (UAX 29) with a letter or digit; of scripts without blanks see the characters.".to_string(),
        ),
        ("One-token words", "Share of words that are a single token, taken with the blank before them.".to_string()),
        ("Unknown", "Share of tokens that stand for what the vocabulary cannot spell. Byte-level vocabularies have none.".to_string()),
        (
            "Window",
            format!(
                "Bytes per token relative to {reference}: 0.7 means that a context window holds 30 % less text. Scripts of several bytes a letter look better here than they are; the translations tell."
            ),
        ),
        (
            "FLOPs / byte",
            format!(
                "Work of training on a byte of text relative to {reference}: each token takes about 6 FLOPs a parameter, so it is the parity per byte, 1 / window."
            ),
        ),
        ("KV / 1000 char.", format!("Bytes in the cache of keys and values for 1000 characters relative to {reference}: each token takes the same.")),
        (
            "Same text",
            format!(
                "Tokens of texts that have a translation into {reference}, relative to the tokens of the translation (Petrov et al. 2023, arXiv 2305.15425)."
            ),
        ),
    ];
    let rows = terms.into_iter().map(|(term, meaning)| join([tag("dt", term), tag("dd", meaning)]));
    tag("div class=card", tag("dl", join(rows)))
}
