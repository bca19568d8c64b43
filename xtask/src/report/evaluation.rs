//! What the models can do: every measured number with its interval, the same as error bars, and answers side by side.

use super::html::{Cell, Html, details, join, left, number, right, table, tag, text};
use super::pictures::is_about_pictures;
use crate::folder::{Evaluated, RunFolder, Sample, Task};
use crate::term::thousands;
use std::collections::BTreeSet;

const MOST_SAMPLES: usize = 8;

/// The section; empty when nothing was evaluated.
pub fn section(run: &RunFolder) -> Html {
    let models = run.evaluated();
    if models.is_empty() {
        return Html::default();
    }
    let names: BTreeSet<&str> = models.iter().flat_map(|m| m.results.tasks.keys()).map(String::as_str).filter(|n| !is_about_pictures(n)).collect();
    if names.is_empty() {
        return Html::default();
    }
    let mut page = Html::default();
    let (main, slices): (Vec<&str>, Vec<&str>) = names.into_iter().partition(|n| !n.contains('/'));
    let languages: Vec<&str> = slices.iter().copied().filter(|n| is_language(&models, n)).collect();
    let bars: Vec<&str> = main.iter().copied().filter(|n| exact(&models, n)).chain(languages.iter().copied()).collect();
    if !bars.is_empty() {
        page.push(tag("p class=soft", "Share of held-out exercises answered exactly right. The lines are 95 % confidence intervals: where two do not overlap, the difference is unlikely to be chance."));
        page.push(tag("div class=card", error_bars(&models, &bars)));
    }
    page.push(tag("h3", "All numbers"));
    page.push(tag("div class=card", numbers(&models, &main.iter().chain(&languages).copied().collect::<Vec<_>>())));
    let rest: Vec<&str> = slices.iter().copied().filter(|n| !languages.contains(n)).collect();
    if !rest.is_empty() {
        page.push(details("By category", tag("div class=card", numbers(&models, &rest))));
    }
    let domains: Vec<(&str, &Task)> =
        models.iter().filter_map(|m| Some((m.label.as_str(), m.results.tasks.get("bits_per_byte").filter(|t| !t.by_domain.is_empty())?))).collect();
    if let Some((_, first)) = domains.first() {
        let mut head = vec!["domain"];
        head.extend(domains.iter().map(|d| d.0));
        let rows = first.by_domain.keys().map(|domain| {
            let mut row = vec![left(domain.as_str())];
            row.extend(
                domains
                    .iter()
                    .map(|(_, task)| right(task.by_domain.get(domain).and_then(domain_value).map_or("-".to_string(), |v| format!("{v:.3}")))),
            );
            row
        });
        page.push(tag("h3", "Bits per byte by domain"));
        page.push(tag("div class=card", table(&head, rows.collect())));
    }
    page
}

fn domain_value(value: &serde_json::Value) -> Option<f64> {
    value.as_f64().or_else(|| value.get("value")?.as_f64())
}

fn is_language(models: &[Evaluated<'_>], name: &str) -> bool {
    let task = models.iter().find_map(|m| m.results.tasks.get(name));
    match task.and_then(|t| t.group.as_deref()) {
        Some("language") => true,
        None => name.rsplit('/').next().is_some_and(|n| n.len() == 2),
        Some(_) => false,
    }
}

fn exact(models: &[Evaluated<'_>], name: &str) -> bool {
    models.iter().filter_map(|m| m.results.tasks.get(name)).any(|t| t.metric == "exact_match")
}

fn shown(task: &Task) -> String {
    match (task.value, task.metric.as_str()) {
        (None, _) => "-".to_string(),
        (Some(v), "exact_match") => format!("{:.1} %", v * 100.0),
        (Some(v), _) => number(v),
    }
}

fn interval(task: &Task) -> String {
    match (task.ci95, task.metric.as_str()) {
        (None, _) => String::new(),
        (Some([low, high]), "exact_match") => {
            format!("{:.1} to {:.1}", low.max(0.0) * 100.0, high * 100.0)
        }
        (Some([low, high]), _) => format!("{} to {}", number(low), number(high)),
    }
}

fn numbers(models: &[Evaluated<'_>], names: &[&str]) -> Html {
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for name in names {
        for model in models {
            let Some(task) = model.results.tasks.get(*name) else {
                continue;
            };
            let n = task.n.map_or(String::new(), thousands);
            let what = [tag("div", *name), tag("div class=\"soft small\"", task.metric.replace('_', " "))];
            rows.push(vec![left(what), left(model.label.as_str()), right(tag("b", shown(task))), right(interval(task)), right(n)]);
        }
    }
    table(&["task", "model", "value", "95 % interval", "n"], rows)
}

/// Rows of a dot with its interval on a scale of 0 to 100 %.
fn error_bars(models: &[Evaluated<'_>], names: &[&str]) -> Html {
    let mut rows = Vec::new();
    for name in names {
        let heading = name.rsplit_once('/').map_or_else(|| format!("{name}, all languages"), |(_, lang)| language(lang));
        rows.push(tag("div style=\"margin-top:10px\"", tag("b", heading)));
        for (index, model) in models.iter().enumerate() {
            let Some((task, value)) = model.results.tasks.get(*name).and_then(|t| Some((t, t.value?))) else {
                continue;
            };
            let [low, high] = task.ci95.unwrap_or([value, value]).map(|v| v.clamp(0.0, 1.0) * 100.0);
            let colour = [4, 1, 0, 2, 3][index % 5];
            let track = format!(
                "<span class=\"track c{colour}\"><span class=ci style=\"left:{low:.2}%;width:{:.2}%\"></span><span class=point style=\"left:{:.2}%\"></span></span>",
                high - low,
                value.clamp(0.0, 1.0) * 100.0
            );
            let label = tag(&format!("span class=c{colour}"), tag("b", model.label.as_str()));
            rows.push(tag(
                "div class=eb",
                [
                    label,
                    Html::trusted(track),
                    tag("span class=n", [tag("b", shown(task)), tag("span class=\"soft small\"", format!("  {}", interval(task)))]),
                ],
            ));
        }
    }
    let scale = tag(
        "div class=eb-scale",
        join(["0", "25", "50", "75", "100 %"].iter().enumerate().map(|(i, s)| tag(&format!("span style=\"left:{}%\"", i * 25), *s))),
    );
    rows.push(tag("div class=eb", [tag("span", ""), scale, tag("span", "")]));
    tag("div class=errorbars", rows)
}

fn language(code: &str) -> String {
    match code {
        "en" => "English".to_string(),
        "de" => "German".to_string(),
        "es" => "Spanish".to_string(),
        other => other.to_string(),
    }
}

/// The same prompts answered by every model.
pub fn samples(run: &RunFolder) -> Html {
    let models = run.evaluated();
    let mut questions: Vec<(String, usize)> = Vec::new();
    for sample in models.iter().flat_map(|m| &m.results.samples).filter(|s| !is_about_pictures(&s.task)) {
        let question = sample.question();
        match questions.iter_mut().find(|q| q.0 == question) {
            Some(found) => found.1 += 1,
            None => questions.push((question, 1)),
        }
    }
    // Prompts that every model answered come first: they are the ones to compare.
    questions.sort_by_key(|q| std::cmp::Reverse(q.1));
    let cards: Vec<Html> = questions.iter().take(MOST_SAMPLES).map(|(question, _)| card(&models, question)).collect();
    if cards.is_empty() {
        return Html::default();
    }
    join([tag("p class=soft", "Held-out prompts, greedy decoding. What a model thought before it answered is set in italics."), join(cards)])
}

fn card(models: &[Evaluated<'_>], question: &str) -> Html {
    let mut card = tag("div class=question", question);
    let answers: Vec<(&str, &Sample)> =
        models.iter().flat_map(|m| m.results.samples.iter().filter(|s| s.question() == question).map(|s| (m.label.as_str(), s))).collect();
    if let Some(gold) = answers.iter().map(|(_, s)| s.expected()).find(|g| !g.is_empty()) {
        card.push(tag("span class=\"soft small\"", format!("expected: {gold}")));
    }
    for (label, sample) in answers {
        let (class, mark) = match sample.correct {
            Some(true) => ("mark-good", " ✓ right"),
            Some(false) => ("mark-bad", " ✗ wrong"),
            None => ("soft", ""),
        };
        let mut answer = tag("span class=who", [text(label), tag(&format!("span class={class}"), mark)]);
        if let Some(reasoning) = sample.reasoning.as_deref().filter(|r| !r.trim().is_empty()) {
            answer.push(tag("span class=think", cut(reasoning)));
        }
        let response = sample.response.as_deref().unwrap_or_default().trim();
        answer.push(if response.is_empty() { tag("span class=soft", "(no answer)") } else { text(cut(response)) });
        card.push(tag("div class=answer", answer));
    }
    tag("div class=card", card)
}

pub(super) fn cut(words: &str) -> String {
    let words = words.trim();
    if words.chars().count() <= 700 {
        return words.to_string();
    }
    words.chars().take(700).chain(['…']).collect()
}
