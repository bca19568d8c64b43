//! Curves of every stage that logged metrics: loss and validation, learning rate, throughput; of trainings with rewards and preferences also
//! those ([`llm_run::curves`]), with the alarms of the watch-dog, and answers to the same prompts at the start and at the end.

use super::html::{Html, details, left, number, right, table, tag};
use crate::folder::{RunFolder, StageView};
use crate::term::{bytes, thousands};
use llm_run::answers::{Answers, before_and_after};
use llm_run::chart::{Chart, Mark, Series};
use llm_run::curves;
use serde_json::Value;
use std::collections::BTreeSet;

/// The section; empty when no stage logged metrics.
pub fn section(run: &RunFolder) -> Html {
    let mut page = Html::default();
    for stage in run.stages.iter().filter(|s| !s.metrics.is_empty()) {
        let charts = charts(run, stage);
        if charts.is_empty() {
            continue;
        }
        let title = if stage.title.is_empty() { stage.id.clone() } else { format!("{} · {}", stage.id, stage.title) };
        page.push(tag("h3", title));
        page.push(tag("p class=\"soft small\"", facts(stage)));
        page.push(tag("div class=grid2", charts));
        page.push(told(stage));
        let answers: Vec<Answers> = stage.metrics.iter().filter_map(Answers::of).collect();
        let compared = before_and_after(&answers);
        if !compared.is_empty() {
            page.push(details("The same prompts at the start and at the end", compared));
        }
    }
    page
}

fn points(stage: &StageView, y: &str) -> Vec<(f64, f64)> {
    stage.metrics.iter().filter_map(|m| Some((m.get("step")?.as_f64()?, m.get(y)?.as_f64()?))).collect()
}

fn facts(stage: &StageView) -> String {
    let last = |key: &str| stage.metrics.iter().rev().find_map(|m| m.get(key)?.as_f64());
    let mut facts = Vec::new();
    if let Some(step) = last("step") {
        facts.push(format!("{} steps", thousands(step as u64)));
    }
    if let Some(tokens) = last("tokens") {
        facts.push(format!("{} tokens", thousands(tokens as u64)));
    }
    if let (Some(tokens), Some(seconds)) = (last("tokens"), last("elapsed_seconds").filter(|s| *s > 0.0)) {
        facts.push(format!("{} tokens per second on average", thousands((tokens / seconds) as u64)));
    }
    if let Some(peak) = stage.peak_memory() {
        facts.push(format!("{} peak memory", bytes(peak as f64)));
    }
    facts.join(" · ")
}

fn charts(run: &RunFolder, stage: &StageView) -> Vec<Html> {
    let curve =
        |name: &str, key: &str, colour: usize| Series { name: name.into(), colour, points: points(stage, key), smooth: true, ..Series::default() };
    let marked = |name: &str, key: &str, colour: usize| Series { smooth: false, dots: true, ..curve(name, key, colour) };
    let chart = |title: &str, y: &str, series: Vec<Series>| Chart { title: title.into(), x: "step".into(), y: y.into(), series, ..Chart::default() };
    let ngram = run.task("ngram3").map(|v| ("3-gram byte model".to_string(), v));
    let contrastive = stage.command == "contrastive";
    let keys: BTreeSet<&str> = stage.metrics.iter().flat_map(|m| m.keys()).map(String::as_str).collect();
    let objective = keys.iter().any(|key| curves::is_objective(key));
    let mut all = vec![
        chart(
            "Loss",
            match objective {
                _ if contrastive => "nats per picture",
                true => "objective",
                false => "nats per token",
            },
            vec![curve("training", "loss", 0), marked("held out", "val_loss", 1)],
        ),
        Chart {
            line: ngram.filter(|_| stage.command == "pretrain"),
            zero: true,
            ..chart("Held-out bits per byte", "bits per byte", vec![marked("this model", "val_bits_per_byte", 1)])
        },
    ];
    if contrastive {
        let series = vec![curve("accuracy", "accuracy", 2)];
        all.push(Chart { zero: true, ..chart("Own caption fits best of the batch", "share of pictures", series) });
    } else {
        let numbers: Vec<(&str, Vec<(f64, f64)>)> = keys.into_iter().map(|key| (key, points(stage, key))).collect();
        let keyed = |heldout: bool| -> Vec<curves::Keyed<'_>> {
            let asked = numbers.iter().filter(|(key, points)| (key.starts_with("val_") || key.starts_with("eval_")) == heldout && !points.is_empty());
            asked.map(|(key, points)| (*key, points.as_slice())).collect()
        };
        all.extend(curves::charts(&keyed(false), &keyed(true), &alarms(stage)));
    }
    all.extend([
        Chart { zero: true, ..chart("Learning rate", "", vec![Series { smooth: false, ..curve("learning rate", "lr", 2) }]) },
        chart("Gradient norm before clipping", "L2 norm", vec![curve("norm", "grad_norm", 3)]),
        Chart { zero: true, ..chart("Throughput", "tokens per second", vec![curve("throughput", "tokens_per_second", 0)]) },
    ]);
    all.extend(stage.calibration.as_ref().and_then(curves::reliability));
    all.into_iter().map(Chart::html).filter(|html| !html.is_empty()).collect()
}

/// What the watch-dog said, and that it ended the run.
fn alarms(stage: &StageView) -> Vec<Mark> {
    let mut marks = Vec::new();
    for record in &stage.metrics {
        let Some(x) = record.get("step").and_then(Value::as_f64) else { continue };
        let told = record.get("alarms").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        marks.extend(told.map(|text| Mark { x, text: format!("alarm: {text}"), colour: 1 }));
        let halted = record.get("halted").and_then(Value::as_str);
        marks.extend(halted.map(|text| Mark { x, text: format!("halted: {text}"), colour: 5 }));
    }
    marks
}

/// The alarms in words.
fn told(stage: &StageView) -> Html {
    let rows: Vec<_> = alarms(stage).into_iter().map(|mark| vec![right(number(mark.x)), left(mark.text)]).collect();
    if rows.is_empty() { Html::default() } else { tag("div class=card", table(&["step", "watch-dog"], rows)) }
}
