//! What the runs of a sweep came to, and the ranking of its settings.

use super::runs::Planned;
use super::spec::{Goal, Settings, Spec};
use llm_run::run::Manifest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::Path;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// With a metric.
    Finished,
    /// Its loss stopped being a number. Repeating it would give the same.
    Diverged,
    /// Any other error; it is tried again when the sweep is started again.
    Failed,
    /// Not yet.
    Open,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunResult {
    /// Folder below `runs/`.
    pub name: String,
    /// Which setting.
    pub point: usize,
    /// Seed.
    pub seed: u64,
    /// How it ended.
    pub status: Status,
    /// The metric.
    pub value: Option<f64>,
    /// Why it did not finish.
    pub reason: Option<String>,
    /// Wall time.
    pub seconds: Option<f64>,
    /// The manifest's summary.
    pub summary: Value,
}

/// The runs of one setting together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PointResult {
    /// Folder of its first run.
    pub name: String,
    /// What makes it differ.
    pub settings: Map<String, Value>,
    /// Mean of the metric over finished runs.
    pub mean: Option<f64>,
    /// Sample standard deviation; none with fewer than two.
    pub std: Option<f64>,
    /// Runs that finished.
    pub finished: usize,
    /// Runs that diverged or failed.
    pub failed: usize,
    /// Runs that are still to be done.
    pub open: usize,
}

/// A sweep so far.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Results {
    /// What is compared.
    pub metric: String,
    /// Which end is good.
    pub goal: Goal,
    /// Keys that differ between settings.
    pub varied: Vec<String>,
    /// Best first; settings without a finished run last.
    pub ranking: Vec<PointResult>,
    /// Every run in the order of the plan.
    pub runs: Vec<RunResult>,
}

/// What a run that did not finish leaves beside its log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// `diverged` or `failed`.
    pub status: Status,
    /// The error it ended with.
    pub reason: String,
}

/// A number of a run: of its last validation, or anywhere in its summary (`a.b`).
pub fn metric(summary: &Value, name: &str) -> Option<f64> {
    let within = |value: &Value| name.split('.').try_fold(value, |here, key| here.get(key)).and_then(Value::as_f64);
    summary.get("validation_last").and_then(|v| v.get(name)).and_then(Value::as_f64).or_else(|| within(summary))
}

/// Where the failure of a run is written.
pub fn failure_file(out: &Path, name: &str) -> std::path::PathBuf {
    out.join("failures").join(format!("{name}.json"))
}

/// The end of one run, read from its folder.
pub fn read(out: &Path, run: &Planned, name: &str) -> RunResult {
    let open = RunResult {
        name: run.name.clone(),
        point: run.point,
        seed: run.seed,
        status: Status::Open,
        value: None,
        reason: None,
        seconds: None,
        summary: Value::Null,
    };
    if let Some(manifest) = Manifest::read(out.join("runs").join(&run.name)).ok().filter(|m| m.finished) {
        let seconds = Some(manifest.wall_seconds);
        return match metric(&manifest.summary, name) {
            Some(value) if value.is_finite() => {
                RunResult { status: Status::Finished, value: Some(value), seconds, summary: manifest.summary, ..open }
            }
            Some(value) => RunResult { status: Status::Diverged, reason: Some(format!("{name} is {value}")), seconds, ..open },
            None => {
                let known: Vec<String> =
                    manifest.summary.get("validation_last").and_then(Value::as_object).map_or(Vec::new(), |m| m.keys().cloned().collect());
                let reason = format!("its manifest has no number `{name}`; the last validation has: {}", known.join(", "));
                RunResult { status: Status::Failed, reason: Some(reason), seconds, summary: manifest.summary, ..open }
            }
        };
    }
    let failure = std::fs::read_to_string(failure_file(out, &run.name)).ok().and_then(|text| serde_json::from_str::<Failure>(&text).ok());
    match failure {
        Some(failure) => RunResult { status: failure.status, reason: Some(failure.reason), ..open },
        None => open,
    }
}

impl Results {
    /// Read the folders of all runs.
    pub fn of(spec: &Spec, runs: &[Planned], out: &Path) -> Self {
        let results: Vec<RunResult> = runs.iter().map(|run| read(out, run, &spec.metric)).collect();
        let mut points: Vec<Settings> = vec![Vec::new(); runs.iter().map(|run| run.point + 1).max().unwrap_or(0)];
        runs.iter().for_each(|run| points[run.point].clone_from(&run.settings));
        let varied = Spec::varied(&points);
        let mut ranking: Vec<PointResult> = points
            .iter()
            .enumerate()
            .map(|(index, settings)| {
                let mine: Vec<&RunResult> = results.iter().filter(|r| r.point == index).collect();
                let values: Vec<f64> = mine.iter().filter_map(|r| r.value).collect();
                let count = |status| mine.iter().filter(|r| r.status == status).count();
                PointResult {
                    name: mine.first().map_or(String::new(), |r| r.name.clone()),
                    settings: settings.iter().map(|(key, value)| (key.clone(), json!(value))).collect(),
                    mean: (!values.is_empty()).then(|| mean(&values)),
                    std: (values.len() > 1).then(|| deviation(&values)),
                    finished: values.len(),
                    failed: count(Status::Failed) + count(Status::Diverged),
                    open: count(Status::Open),
                }
            })
            .collect();
        let sign = if spec.goal == Goal::Min { 1.0 } else { -1.0 };
        let worth = |p: &PointResult| p.mean.map_or(f64::INFINITY, |mean| sign * mean);
        ranking.sort_by(|a, b| worth(a).total_cmp(&worth(b)));
        Self { metric: spec.metric.clone(), goal: spec.goal, varied, ranking, runs: results }
    }

    /// Runs that ended like this.
    pub fn count(&self, status: Status) -> usize {
        self.runs.iter().filter(|r| r.status == status).count()
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn deviation(values: &[f64]) -> f64 {
    let middle = mean(values);
    (values.iter().map(|x| (x - middle).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_found_in_the_validation_first() {
        let summary = json!({"loss": 3.0, "val_loss": 9.0, "validation_last": {"val_loss": 2.0, "eval/arc": 0.5}, "a": {"b": 7}});
        for (name, value) in [("val_loss", Some(2.0)), ("loss", Some(3.0)), ("eval/arc", Some(0.5)), ("a.b", Some(7.0)), ("none", None)] {
            assert_eq!(metric(&summary, name), value, "{name}");
        }
    }

    /// If this fails, a sweep recommends the wrong setting.
    #[test]
    fn settings_are_ranked_by_the_mean_over_their_seeds() {
        let dir = tempfile::tempdir().unwrap();
        let spec = Spec { seeds: 2, ..Spec::default() };
        let mut runs = Vec::new();
        for (i, (point, values)) in [(0, [2.0, 4.0]), (1, [1.0, 2.0]), (2, [f64::NAN, 0.5])].into_iter().enumerate() {
            for (seed, value) in values.into_iter().enumerate() {
                let name = format!("r{i}-{seed}");
                let folder = dir.path().join("runs").join(&name);
                let settings = vec![("lr".to_string(), toml::Value::Float(point as f64))];
                runs.push(Planned { name: name.clone(), point, settings, seed: seed as u64, table: toml::Table::new() });
                if value.is_nan() {
                    let failure = Failure { status: Status::Diverged, reason: "the loss is NaN".into() };
                    llm_run::atomic::write(failure_file(dir.path(), &name), serde_json::to_string(&failure).unwrap()).unwrap();
                } else {
                    let manifest = Manifest { finished: true, summary: json!({"validation_last": {"val_loss": value}}), ..Manifest::default() };
                    llm_run::atomic::write(folder.join("manifest.json"), serde_json::to_string(&manifest).unwrap()).unwrap();
                }
            }
        }
        let results = Results::of(&spec, &runs, dir.path());
        let order: Vec<(f64, Option<f64>, usize)> = results.ranking.iter().map(|p| (p.settings["lr"].as_f64().unwrap(), p.mean, p.failed)).collect();
        assert_eq!(order, [(2.0, Some(0.5), 1), (1.0, Some(1.5), 0), (0.0, Some(3.0), 0)]);
        assert_eq!((results.ranking[2].std, results.ranking[0].std), (Some(2f64.sqrt()), None));
        assert_eq!((results.count(Status::Finished), results.count(Status::Diverged)), (5, 1));
        let best = Results::of(&Spec { goal: Goal::Max, ..spec }, &runs, dir.path());
        assert_eq!(best.ranking[0].mean, Some(3.0));
    }
}
