//! Curves of every stage that logged metrics: loss and validation, learning rate, throughput; for GRPO also reward,
//! accuracy, divergence and answer length.

use super::html::{Html, tag};
use crate::folder::{RunFolder, StageView};
use crate::term::{bytes, thousands};
use llm_run::chart::{Chart, Series};

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
    let all = vec![
        chart(
            "Loss",
            match stage.command.as_str() {
                "grpo" => "objective",
                "contrastive" => "nats per picture",
                _ => "nats per token",
            },
            vec![curve("training", "loss", 0), marked("held out", "val_loss", 1)],
        ),
        Chart {
            line: ngram.filter(|_| stage.command == "pretrain"),
            zero: true,
            ..chart("Held-out bits per byte", "bits per byte", vec![marked("this model", "val_bits_per_byte", 1)])
        },
        chart("Reward", "mean per step", vec![curve("reward", "reward", 0)]),
        match stage.command.as_str() {
            "contrastive" => {
                Chart { zero: true, ..chart("Own caption fits best of the batch", "share of pictures", vec![curve("accuracy", "accuracy", 2)]) }
            }
            _ => Chart { zero: true, ..chart("Right answers while training", "share of rollouts", vec![curve("accuracy", "accuracy", 2)]) },
        },
        Chart { zero: true, ..chart("Divergence from the starting model", "KL, nats per token", vec![curve("KL", "kl", 3)]) },
        Chart { zero: true, ..chart("Answer length", "tokens", vec![curve("length", "completion_length", 1)]) },
        Chart { zero: true, ..chart("Learning rate", "", vec![Series { smooth: false, ..curve("learning rate", "lr", 2) }]) },
        chart("Gradient norm before clipping", "L2 norm", vec![curve("norm", "grad_norm", 3)]),
        Chart { zero: true, ..chart("Throughput", "tokens per second", vec![curve("throughput", "tokens_per_second", 0)]) },
    ];
    all.into_iter().map(Chart::html).filter(|html| !html.is_empty()).collect()
}
