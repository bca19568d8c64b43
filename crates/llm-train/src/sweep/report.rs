//! A sweep for people: a ranked table at 80 columns, and a page with a picture for each setting that was varied.

use super::results::{PointResult, Results, Status};
use crate::quantity::{short, wrapped};
use crate::scaling::axis::Axis;
use crate::scaling::page::{page, table};
use crate::scaling::picture::{Mark, Plot, Series, sheet};
use llm_run::html::{Html, join, tag};
use serde_json::Value;
use std::fmt::Write;

const WIDTH: usize = 80;
/// More settings than this are not columns of a table; the names of the runs tell them.
const MOST_COLUMNS: usize = 5;

/// `0.003`, `adamw`.
fn value_text(value: Option<&Value>) -> String {
    match value {
        None => "-".into(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(n)) => n.as_f64().map_or(n.to_string(), short),
        Some(other) => other.to_string(),
    }
}

/// The last part of a key, or more of it where that is not unique.
fn titles(keys: &[String]) -> Vec<String> {
    let last = |key: &String| key.rsplit('.').next().unwrap_or(key).to_string();
    keys.iter().map(|key| if keys.iter().filter(|other| last(other) == last(key)).count() > 1 { key.clone() } else { last(key) }).collect()
}

/// What tells the settings of a sweep apart: titles, and the cells of a point.
fn columns(results: &Results) -> (Vec<String>, impl Fn(&PointResult) -> Vec<String>) {
    let by_name = results.varied.len() > MOST_COLUMNS;
    let head = if by_name { vec!["run".to_string()] } else { titles(&results.varied) };
    let cells = move |point: &PointResult| {
        if by_name { vec![point.name.clone()] } else { results.varied.iter().map(|key| value_text(point.settings.get(key))).collect() }
    };
    (head, cells)
}

/// `2.345 +- 0.012`.
fn spread(point: &PointResult) -> (String, String) {
    (point.mean.map_or("-".into(), |m| format!("{m:.4}")), point.std.map_or(String::new(), |s| format!("{s:.4}")))
}

/// The ranking.
pub fn text(results: &Results) -> String {
    let (titles, cells) = columns(results);
    let fixed = 4 + 11 + 9 + 7;
    let room = (WIDTH - fixed) / titles.len().max(1);
    let clip = |text: &str, n: usize| text.chars().take(n.max(1)).collect::<String>();
    let mut widths: Vec<usize> = titles.iter().map(|title| title.chars().count()).collect();
    for point in &results.ranking {
        widths.iter_mut().zip(cells(point)).for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
    }
    widths.iter_mut().for_each(|width| *width = (*width + 2).min(room));
    let mut out = String::new();
    let mut line = |rank: &str, cells: Vec<String>, mean: &str, std: &str, runs: &str| {
        let cells: String = cells.iter().zip(&widths).map(|(cell, width)| format!("{:>width$}", clip(cell, width - 1))).collect();
        let _ = writeln!(out, "{}", format!("{rank:>3} {cells}{:>11}{std:>9}{runs:>7}", clip(mean, 10)).trim_end());
    };
    line("", titles, &results.metric, "+-", "runs");
    for (rank, point) in results.ranking.iter().enumerate() {
        let (mean, std) = spread(point);
        let all = point.finished + point.failed + point.open;
        line(&(rank + 1).to_string(), cells(point), &mean, &std, &format!("{}/{all}", point.finished));
    }
    for run in results.runs.iter().filter(|r| matches!(r.status, Status::Failed | Status::Diverged)) {
        let word = if run.status == Status::Diverged { "diverged" } else { "failed" };
        let reason = wrapped(run.reason.as_deref().unwrap_or("no reason known"), WIDTH - 2, "  ");
        let _ = writeln!(out, "{word}: {}\n  {reason}", run.name);
    }
    out
}

/// Where a value stands: its number, or its place among the words.
enum Scale {
    Numbers { log: bool },
    Words(Vec<String>),
}

impl Scale {
    fn of(results: &Results, key: &str) -> Self {
        let values: Vec<&Value> = results.ranking.iter().filter_map(|p| p.settings.get(key)).collect();
        let numbers: Option<Vec<f64>> = values.iter().map(|v| v.as_f64()).collect();
        match numbers {
            Some(mut numbers) => {
                numbers.sort_by(f64::total_cmp);
                numbers.dedup();
                let ends = numbers.first().zip(numbers.last());
                Self::Numbers { log: ends.is_some_and(|(a, b)| *a > 0.0 && b / a >= 8.0) }
            }
            None => {
                let mut words: Vec<String> = Vec::new();
                values.iter().map(|v| value_text(Some(v))).for_each(|w| {
                    if !words.contains(&w) {
                        words.push(w)
                    }
                });
                Self::Words(words)
            }
        }
    }

    fn at(&self, value: &Value) -> Option<f64> {
        match self {
            Self::Numbers { .. } => value.as_f64(),
            Self::Words(words) => words.iter().position(|w| *w == value_text(Some(value))).map(|i| i as f64),
        }
    }
}

/// The metric over one setting: every run, and the best mean at each value.
fn plot(results: &Results, key: &str, title: &str) -> Plot {
    let scale = Scale::of(results, key);
    let (mut runs, mut points) = (Vec::new(), Vec::new());
    for point in &results.ranking {
        let Some(x) = point.settings.get(key).and_then(|v| scale.at(v)) else { continue };
        let hint: Vec<String> = results.varied.iter().map(|k| format!("{k} = {}", value_text(point.settings.get(k)))).collect();
        if let Some(mean) = point.mean {
            points.push((x, mean, hint.join(", ")));
            let mut best = true;
            runs.iter().for_each(|(at, _): &(f64, f64)| best &= *at != x);
            if best {
                runs.push((x, mean));
            }
        }
    }
    runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let ticks = match &scale {
        Scale::Words(words) => Some(words.iter().enumerate().map(|(i, w)| (i as f64, w.clone())).collect()),
        Scale::Numbers { .. } => None,
    };
    Plot {
        title: format!("{} over {title}", results.metric),
        x: Axis { log: matches!(scale, Scale::Numbers { log: true }), ticks, ..Axis::linear(key) },
        y: Axis::linear(&results.metric),
        series: vec![Series::new("best at each value", "s0", Mark::Line(runs)), Series::new("mean of a setting", "s1", Mark::Dots(points))],
    }
}

/// `sweep.html`.
pub fn html(results: &Results, title: &str) -> String {
    let titles = titles(&results.varied);
    let plots: Vec<Plot> = results.varied.iter().zip(&titles).map(|(key, title)| plot(results, key, title)).collect();
    let (named, cells) = columns(results);
    let mut head: Vec<String> = vec![String::new()];
    head.extend(named);
    head.extend([results.metric.clone(), "+-".into(), "finished".into(), "failed".into(), "open".into()]);
    let rows = results.ranking.iter().enumerate().map(|(rank, point)| {
        let mut row = vec![(rank + 1).to_string()];
        row.extend(cells(point));
        let (mean, std) = spread(point);
        row.extend([mean, std, point.finished.to_string(), point.failed.to_string(), point.open.to_string()]);
        row
    });
    let failures: Vec<Html> = results
        .runs
        .iter()
        .filter(|r| matches!(r.status, Status::Failed | Status::Diverged))
        .map(|r| tag("li", format!("{}: {}", r.name, r.reason.as_deref().unwrap_or("no reason known"))))
        .collect();
    let failures = if failures.is_empty() { Html::default() } else { join([tag("h2", "Did not finish"), tag("ul", failures)]) };
    let lede =
        format!("{} of {} runs finished. Means and sample standard deviations are over seeds.", results.count(Status::Finished), results.runs.len());
    let picture = if plots.is_empty() { Html::default() } else { Html::trusted(sheet(&plots, 2)) };
    page(title, &lede, join([tag("h2", "Ranking"), table(&head, rows.collect()), tag("h2", "Settings"), picture, failures]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::results::RunResult;
    use crate::sweep::spec::Goal;
    use serde_json::json;

    fn results() -> Results {
        let point = |lr: f64, name: &str, mean: Option<f64>| PointResult {
            name: name.into(),
            settings: [("trainer.optimizer.lr".to_string(), json!(lr)), ("kind".to_string(), json!(name))].into_iter().collect(),
            mean,
            std: mean.map(|_| 0.01),
            finished: usize::from(mean.is_some()),
            failed: usize::from(mean.is_none()),
            open: 0,
        };
        let run = RunResult {
            name: "lr-1<x>".into(),
            point: 0,
            seed: 0,
            status: Status::Diverged,
            value: None,
            reason: Some("the loss is NaN".into()),
            seconds: None,
            summary: Value::Null,
        };
        Results {
            metric: "val_loss".into(),
            goal: Goal::Min,
            varied: vec!["trainer.optimizer.lr".into(), "kind".into()],
            ranking: vec![
                point(1e-3, "cosine", Some(2.5)),
                point(1e-2, "a-very-long-name-of-a-schedule-that-nobody-has", Some(2.75)),
                point(1.0, "wsd", None),
            ],
            runs: vec![run],
        }
    }

    #[test]
    fn the_table_fits_a_terminal_and_counts_failures() {
        let text = text(&results());
        assert!(text.lines().all(|l| l.chars().count() <= WIDTH), "{text}");
        assert!(text.contains("2.5000") && text.contains("0.0100") && text.contains("diverged: lr-1<x>"), "{text}");
    }

    #[test]
    fn the_page_has_a_picture_for_each_setting_and_escapes() {
        let page = html(&results(), "sweep");
        assert_eq!(page.matches("class=\"card\"").count(), 2);
        assert!(page.contains("lr-1&lt;x&gt;") && !page.contains("NaN\""), "{page}");
    }
}
