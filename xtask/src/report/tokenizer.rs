//! Tokenizer fertility: how many tokens a language or a kind of text costs.

use super::html::{Cell, Html, bar, escape, left, right, table, tag, text};
use crate::folder::RunFolder;
use crate::term::thousands;
use serde_json::{Map, Value};

/// The section; empty without a `fertility.json`. Of tokenizers that were measured side by side each has its part.
pub fn section(run: &RunFolder) -> Html {
    let Some((stage, fertility)) = run.stages.iter().find_map(|s| Some((s, s.fertility.as_ref()?))) else {
        return Html::default();
    };
    let mut page = Html::default();
    page.push(tag("p class=soft", "Fertility is the number of tokens per word; fewer mean cheaper text. Bytes per token is the compression."));
    if run.dir.join(&stage.id).join("fertility.html").is_file() {
        let link = tag(&format!("a href=\"{}/fertility.html\"", escape(&stage.id)), "fertility.html");
        page.push(tag("p class=\"soft small\"", [text("More of it, and sentences cut into tokens: "), link]));
    }
    match fertility.get("tokenizers").and_then(Value::as_array).filter(|all| all.len() > 1) {
        Some(all) => {
            for one in all {
                page.push(tag("h3", one.get("name").and_then(Value::as_str).unwrap_or("tokenizer")));
                page.push(part(one));
            }
        }
        None => page.push(part(fertility)),
    }
    page
}

/// What one tokenizer makes of languages and domains.
fn part(fertility: &Value) -> Html {
    let mut page = Html::default();
    for (title, key) in [("By language", "by_lang"), ("By domain", "by_domain")] {
        let rows = rows(fertility, key);
        if rows.is_empty() {
            continue;
        }
        page.push(tag("h3", title));
        page.push(tag("div class=card", numbers(&rows)));
        let bars = |metric: &str, class: &str| -> Vec<Html> {
            let values: Vec<(&str, f64)> = rows.iter().filter_map(|(name, row)| Some((name.as_str(), row.get(metric)?.as_f64()?))).collect();
            let most = values.iter().map(|v| v.1).fold(1e-9, f64::max);
            values.iter().map(|(name, v)| bar(*name, v / most, format!("{v:.2}"), class)).collect()
        };
        let cards: Vec<Html> = [("Tokens per word", "tokens_per_word", ""), ("Bytes per token", "bytes_per_token", "s2")]
            .into_iter()
            .filter_map(|(name, metric, class)| {
                let bars = bars(metric, class);
                (!bars.is_empty()).then(|| tag("div class=\"card narrow\"", [vec![tag("b", name)], bars].concat()))
            })
            .collect();
        page.push(tag("div class=grid2", cards));
    }
    page
}

/// `{"by_lang": {"de": {..}}}` or `{"by_lang": [{"lang": "de", ..}]}`.
fn rows(fertility: &Value, key: &str) -> Vec<(String, Map<String, Value>)> {
    match fertility.get(key) {
        Some(Value::Object(map)) => map.iter().filter_map(|(name, row)| Some((name.clone(), row.as_object()?.clone()))).collect(),
        Some(Value::Array(items)) => {
            let field = key.trim_start_matches("by_");
            items.iter().filter_map(|row| Some((row.get(field)?.as_str()?.to_string(), row.as_object()?.clone()))).collect()
        }
        _ => Vec::new(),
    }
}

/// Columns shown, where the file has them: key, heading, and whether it is a share.
const COLUMNS: [(&str, &str, bool); 9] = [
    ("documents", "texts", false),
    ("words", "words", false),
    ("tokens", "tokens", false),
    ("tokens_per_word", "tokens per word", false),
    ("bytes_per_token", "bytes per token", false),
    ("characters_per_token", "characters per token", false),
    ("single_token_words", "words of one token", true),
    ("context_share", "context, English = 100 %", true),
    ("parity_parallel", "tokens of the same text", false),
];

fn numbers(rows: &[(String, Map<String, Value>)]) -> Html {
    let columns: Vec<_> = COLUMNS.iter().filter(|(key, ..)| rows.iter().any(|(_, row)| row.get(*key).is_some_and(Value::is_number))).collect();
    let names: Vec<&str> = std::iter::once("").chain(columns.iter().map(|c| c.1)).collect();
    let body = rows.iter().map(|(name, row)| {
        let mut cells: Vec<Cell> = vec![left(name.as_str())];
        cells.extend(columns.iter().map(|(key, _, share)| {
            right(match row.get(*key) {
                Some(v) if v.is_u64() => v.as_u64().map_or(String::new(), thousands),
                Some(v) if *share => v.as_f64().map_or("-".to_string(), |v| format!("{:.0} %", v * 100.0)),
                Some(v) => v.as_f64().map_or("-".to_string(), |v| format!("{v:.2}")),
                None => "-".to_string(),
            })
        }));
        cells
    });
    table(&names, body.collect())
}
