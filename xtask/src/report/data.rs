//! The data funnel: how many documents each step of each stage left, what it dropped and why, and what remained.

use super::html::{Cell, Html, bar, details, join, left, right, table, tag, text, value};
use crate::folder::{RunFolder, StageView};
use crate::term::{bytes, clip, plural, thousands};
use serde_json::Value;

const MOST_GROUPS: usize = 10;

/// The section; empty when no stage has a funnel.
pub fn section(run: &RunFolder) -> Html {
    let stages: Vec<(&StageView, &Value)> = run.stages.iter().filter_map(|s| Some((s, s.funnel.as_ref()?))).collect();
    let (Some((_, first)), Some((_, last))) = (stages.first(), stages.last()) else {
        return Html::default();
    };
    let start = count(first, "documents_in").max(1);
    let mut page = Html::default();
    page.push(tag(
        "p class=soft",
        format!(
            "{} documents ({}) came in, {} ({}) are left. Each bar is what remains after the step, as a share of the start.",
            thousands(count(first, "documents_in")),
            bytes(count(first, "bytes_in") as f64),
            thousands(count(last, "documents_out")),
            bytes(count(last, "bytes_out") as f64)
        ),
    ));
    let mut card = Html::default();
    for (stage, funnel) in &stages {
        card.push(one(stage, funnel, start));
    }
    page.push(tag("div class=card", card));
    let groups: Vec<Html> = [("By language", "by_lang"), ("By domain", "by_domain"), ("By licence", "by_license"), ("By source", "by_source")]
        .into_iter()
        .filter_map(|(title, key)| {
            // The last stage that still knows: a split may no longer count by source.
            let map = stages.iter().rev().find_map(|(_, f)| f.get(key)?.as_object().filter(|m| !m.is_empty()))?;
            let mut counts: Vec<(String, u64)> = map.iter().map(|(name, v)| (name.clone(), v.as_u64().unwrap_or(0))).collect();
            counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            Some(tag("div class=\"card narrow\"", [tag("b", title), grouped(&counts)]))
        })
        .collect();
    if !groups.is_empty() {
        page.push(tag("h3", "What is left"));
        page.push(tag("div class=grid2", groups));
    }
    page
}

/// Documents that came in and documents that are left.
pub fn ends(run: &RunFolder) -> Option<(u64, u64)> {
    let mut funnels = run.stages.iter().filter_map(|s| s.funnel.as_ref());
    let first = funnels.next()?;
    let last = funnels.next_back().unwrap_or(first);
    Some((count(first, "documents_in"), count(last, "documents_out")))
}

fn count(funnel: &Value, key: &str) -> u64 {
    funnel.get(key).and_then(Value::as_u64).unwrap_or(0)
}

fn grouped(counts: &[(String, u64)]) -> Html {
    let most = counts.first().map_or(1, |c| c.1.max(1)) as f64;
    let mut rows: Vec<Html> = counts.iter().take(MOST_GROUPS).map(|(name, n)| bar(clip(name, 60), *n as f64 / most, thousands(*n), "")).collect();
    if counts.len() > MOST_GROUPS {
        let rest: u64 = counts[MOST_GROUPS..].iter().map(|c| c.1).sum();
        let others = counts.len() - MOST_GROUPS;
        rows.push(bar(format!("{others} other{}", plural(others)), rest as f64 / most, thousands(rest), "s4"));
    }
    join(rows)
}

fn one(stage: &StageView, funnel: &Value, start: u64) -> Html {
    let mut remaining = count(funnel, "documents_in");
    let share = |n: u64| n as f64 / start as f64;
    let mut rows = vec![bar("in", share(remaining), thousands(remaining), "s4")];
    let mut examples = Vec::new();
    for step in funnel.get("steps").and_then(Value::as_array).into_iter().flatten() {
        let name = step.get("name").and_then(Value::as_str).unwrap_or("?");
        let dropped = count(step, "dropped");
        remaining = remaining.saturating_sub(dropped);
        let number =
            [tag("span class=lost", if dropped > 0 { format!("-{}  ", thousands(dropped)) } else { String::new() }), text(thousands(remaining))];
        rows.push(bar(clip(name, 60), share(remaining), join(number), ""));
        let shown = step.get("examples").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if !shown.is_empty() {
            let lost = format!("{name}: {} dropped ({})", thousands(dropped), bytes(count(step, "dropped_bytes") as f64));
            examples.push(details(lost, tag("div class=stack", table(&["document", "value", "limit", "text"], shown.iter().map(example).collect()))));
        }
    }
    let out = count(funnel, "documents_out");
    if out != remaining || rows.len() == 1 {
        rows.push(bar("out", share(out), thousands(out), ""));
    }
    let title = if stage.title.is_empty() { stage.id.clone() } else { format!("{} · {}", stage.id, stage.title) };
    let mut part = join([tag("h3", title), tag("div class=funnel", rows)]);
    for notice in funnel.get("notices").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        part.push(tag("p class=\"soft small\"", notice));
    }
    let counts = funnel.get("counts").and_then(Value::as_object).filter(|c| !c.is_empty());
    if let Some(counts) = counts {
        let list = counts.iter().map(|(name, n)| format!("{name} {}", n.as_u64().map_or_else(|| value(n), thousands))).collect::<Vec<_>>().join(", ");
        part.push(tag("p class=\"soft small\"", format!("Also counted: {list}.")));
    }
    if !examples.is_empty() {
        part.push(details("Examples of what was dropped", tag("div style=\"padding-left:14px\"", examples)));
    }
    part
}

fn example(example: &Value) -> Vec<Cell> {
    let field = |name: &str| example.get(name).map_or("-".to_string(), value);
    let words = example.get("text").and_then(Value::as_str).unwrap_or_default();
    vec![
        left(tag("span class=mono", clip(&field("id"), 90))),
        right(field("value")),
        right(field("threshold")),
        left(tag("span class=small", clip(words, 240))),
    ]
}
