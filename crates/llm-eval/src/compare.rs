//! Is B better than A? Paired statistics over two result folders that measured the same items.
//!
//! Pairing removes the difficulty of the items from the difference, so far smaller improvements show than two separate
//! intervals can tell apart. Per task: the difference of the two values with a bootstrap interval over items, and for
//! right-or-wrong tasks McNemar's exact p-value. Folders with different items are refused, never silently intersected.

use crate::error::{Error, Result};
use crate::results::{Metric, Results};
use crate::samples::{Graded, read_graded};
use crate::stats::{Item, bootstrap, mcnemar_exact, ratio};
use llm_run::Seed;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// The comparison of one task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskComparison {
    /// Task name.
    pub task: String,
    /// What the values are.
    pub metric: Metric,
    /// Items, the same in both.
    pub n: usize,
    /// Value of the first folder.
    pub a: f64,
    /// Value of the second folder.
    pub b: f64,
    /// `b - a`.
    pub difference: f64,
    /// 95 % bootstrap interval of the difference.
    pub ci95: [f64; 2],
    /// Bootstrap standard error of the difference.
    pub stderr: f64,
    /// Items only the first got right, for graded tasks.
    pub only_a: Option<u64>,
    /// Items only the second got right, for graded tasks.
    pub only_b: Option<u64>,
    /// McNemar's exact two-sided p-value, for graded tasks.
    pub mcnemar_p: Option<f64>,
    /// `a`, `b`, or nothing when the interval of the difference holds zero.
    pub better: Option<&'static str>,
}

/// The comparison of two folders.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Model id of the first folder.
    pub a: String,
    /// Model id of the second folder.
    pub b: String,
    /// Tasks that both measured.
    pub tasks: Vec<TaskComparison>,
    /// Tasks that only one of them measured.
    pub skipped: Vec<String>,
}

/// Compare two folders written by `llm-eval run`.
pub fn compare(a: &Path, b: &Path, resamples: usize, seed: Seed) -> Result<Comparison> {
    let (results_a, results_b) = (Results::read(a)?, Results::read(b)?);
    let (mut rows_a, mut rows_b) = (by_task(read_graded(a)?), by_task(read_graded(b)?));
    let incomparable = |message: String| Error::Incomparable { a: a.to_path_buf(), b: b.to_path_buf(), message };
    let mut tasks = Vec::new();
    let mut skipped: Vec<String> = rows_b.keys().filter(|task| !rows_a.contains_key(*task)).cloned().collect();
    for (task, left) in &mut rows_a {
        let Some(right) = rows_b.get_mut(task) else {
            skipped.push(task.clone());
            continue;
        };
        let metric = match (results_a.tasks.get(task), results_b.tasks.get(task)) {
            (Some(x), Some(y)) if x.metric == y.metric => x.metric,
            _ => return Err(incomparable(format!("task `{task}` is not measured by the same metric in both results.json"))),
        };
        if let Some(message) = first_difference(left, right) {
            return Err(incomparable(format!("task `{task}`: {message}; run both with the same inputs, seed and limits")));
        }
        tasks.push(compare_task(task, metric, left, right, resamples, seed).ok_or_else(|| incomparable(format!("task `{task}` has no items")))?);
    }
    if tasks.is_empty() {
        return Err(incomparable("they have no task in common".to_string()));
    }
    skipped.sort();
    Ok(Comparison { a: results_a.model.id, b: results_b.model.id, tasks, skipped })
}

fn by_task(rows: Vec<Graded>) -> BTreeMap<String, Vec<Graded>> {
    let mut tasks: BTreeMap<String, Vec<Graded>> = BTreeMap::new();
    for row in rows {
        tasks.entry(row.task.clone()).or_default().push(row);
    }
    for rows in tasks.values_mut() {
        rows.sort_by(|x, y| (&x.id, &x.item_hash).cmp(&(&y.id, &y.item_hash)));
    }
    tasks
}

fn first_difference(a: &[Graded], b: &[Graded]) -> Option<String> {
    for (x, y) in a.iter().zip(b) {
        if x.id != y.id {
            let (only, side) = if x.id < y.id { (&x.id, "first") } else { (&y.id, "second") };
            return Some(format!("item `{only}` is only in the {side} ({} items against {})", a.len(), b.len()));
        }
        if x.item_hash != y.item_hash || x.item.weight != y.item.weight {
            return Some(format!("item `{}` has a different question, answer or text", x.id));
        }
    }
    (a.len() != b.len()).then(|| format!("{} items against {}", a.len(), b.len()))
}

fn compare_task(task: &str, metric: Metric, a: &[Graded], b: &[Graded], resamples: usize, seed: Seed) -> Option<TaskComparison> {
    let value = |rows: &[Graded]| ratio(&rows.iter().map(|r| r.item).collect::<Vec<_>>());
    let paired: Vec<Item> = a.iter().zip(b).map(|(x, y)| Item { score: y.item.score - x.item.score, weight: x.item.weight }).collect();
    let (value_a, value_b, boot) = (value(a)?, value(b)?, bootstrap(&paired, resamples, seed.stream(task))?);
    let graded = a.iter().chain(b).all(|row| row.correct.is_some());
    let only = |x: &[Graded], y: &[Graded]| x.iter().zip(y).filter(|(x, y)| x.correct == Some(true) && y.correct == Some(false)).count() as u64;
    let (only_a, only_b) = (only(a, b), only(b, a));
    let [low, high] = boot.ci95;
    let better = if low <= 0.0 && high >= 0.0 {
        None
    } else if (low > 0.0) == metric.higher_is_better() {
        Some("b")
    } else {
        Some("a")
    };
    Some(TaskComparison {
        task: task.to_string(),
        metric,
        n: a.len(),
        a: value_a,
        b: value_b,
        difference: value_b - value_a,
        ci95: boot.ci95,
        stderr: boot.stderr,
        only_a: graded.then_some(only_a),
        only_b: graded.then_some(only_b),
        mcnemar_p: graded.then(|| mcnemar_exact(only_a, only_b)),
        better,
    })
}

impl Comparison {
    /// A table for the terminal.
    pub fn table(&self) -> String {
        let mut text = format!("A = {}\nB = {}\n\n", self.a, self.b);
        let _ = writeln!(
            text,
            "{:<16} {:>6} {:>8} {:>8} {:>8}  {:<20} {:>11} {:>10}  verdict",
            "task", "n", "A", "B", "B - A", "95 % interval", "only A/B", "McNemar p"
        );
        for t in &self.tasks {
            let interval = format!("[{:+.4}, {:+.4}]", t.ci95[0], t.ci95[1]);
            let split = t.only_a.zip(t.only_b).map_or_else(|| "-".to_string(), |(a, b)| format!("{a}/{b}"));
            let p = t.mcnemar_p.map_or_else(|| "-".to_string(), |p| if p < 1e-4 { format!("{p:.1e}") } else { format!("{p:.4}") });
            let verdict = t.better.map_or_else(|| "no difference shown".to_string(), |side| format!("{} is better", side.to_uppercase()));
            let _ = writeln!(
                text,
                "{:<16} {:>6} {:>8.4} {:>8.4} {:>+8.4}  {interval:<20} {split:>11} {p:>10}  {verdict}",
                t.task, t.n, t.a, t.b, t.difference
            );
        }
        for task in &self.skipped {
            let _ = writeln!(text, "{task}: measured by only one of the two, not compared");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{ModelInfo, TaskResult};
    use crate::samples::{self, Sample};
    use std::path::PathBuf;

    fn folder(dir: &Path, name: &str, rows: impl Iterator<Item = (usize, bool)>) -> PathBuf {
        let path = dir.join(name);
        let samples: Vec<Sample> = rows
            .map(|(i, correct)| Sample {
                task: "exercises".into(),
                id: format!("e{i:04}"),
                item_hash: format!("hash {i}"),
                correct: Some(correct),
                score: f64::from(u8::from(correct)),
                weight: 1.0,
                ..Sample::default()
            })
            .collect();
        samples::write(&path.join(samples::FILE), &samples).unwrap();
        let task =
            TaskResult { metric: Metric::ExactMatch, value: 0.0, n: samples.len() as u64, ci95: None, group: None, details: Default::default() };
        let model = ModelInfo { path: name.into(), hash: String::new(), id: name.into() };
        Results { model, tasks: [("exercises".to_string(), task)].into(), samples: Vec::new() }.write(&path).unwrap();
        path
    }

    #[test]
    fn a_clear_improvement_is_seen_and_an_equal_pair_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let a = folder(dir.path(), "a", (0..200).map(|i| (i, i % 4 == 0)));
        let b = folder(dir.path(), "b", (0..200).rev().map(|i| (i, i % 2 == 0)));
        let got = compare(&a, &b, 2000, Seed(0)).unwrap();
        let task = &got.tasks[0];
        assert_eq!((task.n, task.only_a, task.only_b, task.better), (200, Some(0), Some(50), Some("b")));
        assert!((task.difference - 0.25).abs() < 1e-12 && task.ci95[0] > 0.15 && task.ci95[1] < 0.35, "{task:?}");
        assert!(task.mcnemar_p.unwrap() < 1e-10);
        assert!(got.table().contains("B is better"), "{}", got.table());
        assert_eq!(compare(&b, &a, 2000, Seed(0)).unwrap().tasks[0].better, Some("a"));
        let same = &compare(&a, &a, 2000, Seed(0)).unwrap().tasks[0];
        assert_eq!((same.difference, same.better, same.mcnemar_p), (0.0, None, Some(1.0)));
        assert_eq!(got, compare(&a, &b, 2000, Seed(0)).unwrap());
    }

    #[test]
    fn different_items_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let a = folder(dir.path(), "a", (0..20).map(|i| (i, true)));
        let shifted = folder(dir.path(), "shifted", (1..21).map(|i| (i, true)));
        let shorter = folder(dir.path(), "shorter", (0..19).map(|i| (i, true)));
        let message = |b: &Path| compare(&a, b, 100, Seed(0)).unwrap_err().to_string();
        assert!(message(&shifted).contains("`e0000` is only in the first"), "{}", message(&shifted));
        assert!(message(&shorter).contains("20 items against 19"), "{}", message(&shorter));
        assert!(message(&dir.path().join("none")).contains("results.json"));
    }
}
