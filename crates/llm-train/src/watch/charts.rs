//! The curves of the report, with what happened marked on them.

use super::config::About;
use super::history::{Event, History, Kind};
use llm_run::chart::{Chart, Mark, Series};
use llm_run::curves;
use llm_run::html::{Html, join, tag, text};
use std::collections::BTreeMap;

/// Keys of a step with a chart of their own, and keys that are none.
const KNOWN: [&str; 7] = ["loss", "lr", "grad_norm", "tokens_per_second", "memory_bytes", "tokens", "elapsed_seconds"];
/// Beginnings of keys that are no curves: which rows a step could not score.
const NO_CURVES: &str = "unscored_rows";
/// Curves in one chart.
const MOST_CURVES: usize = 6;
const GIB: f64 = (1u64 << 30) as f64;

/// Mean loss of the last twentieth of the steps, which is what a forecast is about.
pub fn came(history: &History) -> Option<f64> {
    let points = history.points("loss");
    let last = &points[points.len() - (points.len() / 20).max(1).min(points.len())..];
    (!last.is_empty()).then(|| last.iter().map(|p| p.1).sum::<f64>() / last.len() as f64)
}

fn chart(title: &str, y: &str, series: Vec<Series>) -> Chart {
    Chart { title: title.into(), x: "step".into(), y: y.into(), series, ..Chart::default() }
}

fn dots(name: &str, points: &[(f64, f64)], colour: usize) -> Series {
    Series { name: name.into(), colour, points: points.to_vec(), dots: true, ..Series::default() }
}

/// All charts; nothing without steps.
pub fn all(history: &History, about: &About) -> Html {
    let mark = |e: &Event| Mark { x: e.step as f64, text: format!("{}: {}", e.kind.name(), e.text), colour: e.kind.colour() };
    let marks: Vec<Mark> = history.events.iter().map(mark).collect();
    let alarms: Vec<Mark> = history.events.iter().filter(|e| matches!(e.kind, Kind::Alarm | Kind::Halted)).map(mark).collect();
    let steps: Vec<curves::Keyed<'_>> = history.curves.iter().map(|(key, curve)| (key.as_str(), curve.points())).collect();
    let heldout_numbers: Vec<curves::Keyed<'_>> = history.heldout.iter().map(|(key, points)| (key.as_str(), points.as_slice())).collect();
    let known = curves::charts(&steps, &heldout_numbers, &alarms);
    let objective = steps.iter().any(|(key, _)| curves::is_objective(key));
    let curve = |key: &str, name: &str, colour: usize| Series {
        name: name.into(),
        colour,
        points: history.points(key).to_vec(),
        smooth: true,
        ..Series::default()
    };
    let mut loss = Chart { marks, robust: true, ..losses(history, curve("loss", "training", 0)) };
    // What is learned from rewards is seen in them; the loss of such a training says little.
    let mut charts = if objective {
        loss.y = "objective".into();
        known.into_iter().chain([loss]).collect()
    } else {
        std::iter::once(loss).chain(known).collect::<Vec<Chart>>()
    };
    charts.extend(heldout(history));
    charts.push(expected(history, about));
    charts.push(Chart { zero: true, ..chart("Learning rate", "", vec![Series { smooth: false, ..curve("lr", "learning rate", 2) }]) });
    charts.push(Chart { robust: true, ..chart("Gradient norm before clipping", "L2 norm", vec![curve("grad_norm", "norm", 3)]) });
    charts.push(Chart { zero: true, robust: true, ..chart("Throughput", "tokens per second", vec![curve("tokens_per_second", "throughput", 0)]) });
    let mut memory = Series { smooth: false, ..curve("memory_bytes", "memory", 4) };
    memory.points.iter_mut().for_each(|p| p.1 /= GIB);
    charts.push(Chart { zero: true, ..chart("Resident memory", "GiB", vec![memory]) });
    for (group, keys) in
        groups(history.curves.keys().filter(|key| !KNOWN.contains(&key.as_str()) && !curves::is_known(key) && !key.starts_with(NO_CURVES)))
    {
        let series = keys.iter().take(MOST_CURVES).enumerate().map(|(i, (key, name))| curve(key, name, i)).collect();
        charts.push(Chart { robust: true, ..chart(&group.replace('_', " "), "of a step", series) });
    }
    let charts: Vec<Html> = charts.into_iter().map(Chart::html).filter(|html| !html.is_empty()).collect();
    if charts.is_empty() {
        return Html::default();
    }
    join([legend(history), tag("div class=grid2", charts)])
}

/// Training and held-out loss, by domain where there are several.
fn losses(history: &History, training: Series) -> Chart {
    let mut series = vec![training];
    for (i, (key, points)) in
        history.heldout.iter().filter(|(key, _)| *key == "val_loss" || key.starts_with("val_loss/")).take(MOST_CURVES - 1).enumerate()
    {
        let name = key.strip_prefix("val_loss/").map_or("held out".to_string(), |domain| format!("held out: {domain}"));
        series.push(dots(&name, points, i + 1));
    }
    chart("Loss", "nats per token", series)
}

/// Keys before their first `/`, with what each is called in the chart of its group.
fn groups<'a>(keys: impl Iterator<Item = &'a String>) -> BTreeMap<&'a str, Vec<(&'a str, &'a str)>> {
    let mut groups: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for key in keys {
        let (group, name) = key.split_once('/').unwrap_or((key, key));
        groups.entry(group).or_default().push((key, name));
    }
    groups
}

/// Every other held-out number, those of one name in one chart.
fn heldout(history: &History) -> Vec<Chart> {
    let elsewhere = |key: &str| key == "val_perplexity" || key.split('/').next() == Some("val_loss") || curves::is_known(key);
    let shown = history.heldout.keys().filter(|key| !elsewhere(key.as_str()));
    let make = |(group, keys): (&str, Vec<(&str, &str)>)| {
        let named = |name: &str| if name == group { "all".to_string() } else { name.to_string() };
        let points = |key: &str| history.heldout.get(key).map_or(&[][..], Vec::as_slice);
        let series = keys.iter().take(MOST_CURVES).enumerate().map(|(i, (key, name))| dots(&named(name), points(key), (i + 1) % 6)).collect();
        match group {
            "val_bits_per_byte" => Chart { zero: true, ..chart("Held-out bits per byte", "bits per byte", series) },
            "eval" => chart("Benchmarks", "held out", series),
            other => chart(&other.strip_prefix("val_").unwrap_or(other).replace('_', " "), "held out", series),
        }
    };
    groups(shown).into_iter().map(make).collect()
}

/// The forecasts of the final loss over the steps at which they were made, against what came.
fn expected(history: &History, about: &About) -> Chart {
    let made = || history.forecasts.iter().filter_map(|f| Some((f.step as f64, f.loss?)));
    let points = made().map(|(step, l)| (step, l.value)).collect();
    let band = made().map(|(step, l)| (step, l.low, l.high)).collect();
    let series = Series { name: "final loss".into(), colour: 2, points, band, dots: true, ..Series::default() };
    let mut drawn = chart("Final loss as forecast", "nats per token", vec![series]);
    if history.finished {
        drawn.line = came(history).map(|value| ("it came".to_string(), value));
    } else if let Some((_, end)) = made().next_back() {
        // To the end of the run, so that the way to go is seen.
        drawn.series.push(Series {
            name: "expected".into(),
            colour: 4,
            points: vec![(history.step as f64, end.value), (about.max_steps as f64, end.value)],
            dashed: true,
            ..Series::default()
        });
    }
    drawn
}

/// What the marks mean.
fn legend(history: &History) -> Html {
    let mut kinds: Vec<Kind> = Vec::new();
    for event in &history.events {
        if !kinds.contains(&event.kind) {
            kinds.push(event.kind);
        }
    }
    if kinds.is_empty() {
        return Html::default();
    }
    let keys = kinds.iter().map(|kind| tag("span", [Html::trusted(format!("<i class=\"key s{}\"></i>", kind.colour())), text(kind.name())]));
    tag("div class=legend style=\"margin-bottom:8px\"", [text("Marks: "), join(keys)])
}
