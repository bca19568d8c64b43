//! Measured points: files that other tools can write, run folders, sweeps.

use crate::dial::shape::Count;
use crate::sweep::results::metric;
use crate::{Error, Result};
use llm_arch::budget::Flops;
use llm_arch::hf;
use llm_run::run::Manifest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// One trained model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// N.
    pub parameters: f64,
    /// D.
    pub tokens: f64,
    /// Held-out loss in nats per token.
    pub loss: f64,
    /// C; `6 N D` where nothing else is known.
    pub flops: f64,
    /// Where it is from.
    pub source: String,
}

/// How runs are read.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The number that is the loss.
    pub metric: String,
    /// What N counts.
    pub count: Count,
}

fn bad(path: &Path, message: impl Into<String>) -> Error {
    Error::Points { path: path.to_path_buf(), message: message.into() }
}

impl Point {
    /// A point whose compute is `6 N D`.
    pub fn new(parameters: f64, tokens: f64, loss: f64) -> Self {
        Self { parameters, tokens, loss, flops: 6.0 * parameters * tokens, source: String::new() }
    }

    fn checked(self, path: &Path) -> Result<Self> {
        for (name, value) in [("parameters", self.parameters), ("tokens", self.tokens), ("loss", self.loss), ("flops", self.flops)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(bad(path, format!("{}: {name} = {value}: expected a positive number", self.source)));
            }
        }
        Ok(self)
    }
}

/// Everything that the paths name: `.csv`, `.jsonl`, a run folder, or a folder of runs (a sweep).
pub fn read(paths: &[impl AsRef<Path>], reading: &Reading) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    for path in paths {
        let path = path.as_ref();
        if path.is_dir() {
            points.extend(folder(path, reading)?);
        } else {
            let text = std::fs::read_to_string(path).map_err(|e| bad(path, format!("cannot read: {e}")))?;
            let lines = path.extension().is_some_and(|e| e == "jsonl" || e == "json" || e == "ndjson");
            points.extend(if lines { json_lines(path, &text)? } else { csv(path, &text)? });
        }
    }
    Ok(points)
}

fn json_lines(path: &Path, text: &str) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let source = format!("line {}", i + 1);
        let value: Value = serde_json::from_str(line).map_err(|e| bad(path, format!("{source}: {e}")))?;
        let number = |name: &str| value.get(name).and_then(Value::as_f64);
        let need = |name: &str| {
            number(name).ok_or_else(|| bad(path, format!("{source}: no number `{name}`; expected parameters, tokens, loss and optionally flops")))
        };
        let (parameters, tokens, loss) = (need("parameters")?, need("tokens")?, need("loss")?);
        let flops = number("flops").unwrap_or(6.0 * parameters * tokens);
        points.push(Point { parameters, tokens, loss, flops, source }.checked(path)?);
    }
    Ok(points)
}

fn csv(path: &Path, text: &str) -> Result<Vec<Point>> {
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let cells = |line: &str| line.split(',').map(|cell| cell.trim().trim_matches('"').to_string()).collect::<Vec<_>>();
    let head = cells(lines.next().ok_or_else(|| bad(path, "is empty"))?.1);
    let column = |name: &str| head.iter().position(|cell| cell.eq_ignore_ascii_case(name));
    let need = |name: &str| {
        column(name).ok_or_else(|| bad(path, format!("no column `{name}` in `{}`; expected parameters,tokens,loss[,flops]", head.join(","))))
    };
    let columns = [need("parameters")?, need("tokens")?, need("loss")?];
    let flops_column = column("flops");
    let mut points = Vec::new();
    for (i, line) in lines {
        let row = cells(line);
        let source = format!("line {}", i + 1);
        let number = |column: usize| -> Result<f64> {
            let cell = row.get(column).ok_or_else(|| bad(path, format!("{source}: {} columns, expected {}", row.len(), head.len())))?;
            cell.parse().map_err(|_| bad(path, format!("{source}: `{cell}` in column `{}` is no number", head[column])))
        };
        let (parameters, tokens, loss) = (number(columns[0])?, number(columns[1])?, number(columns[2])?);
        let flops = match flops_column {
            Some(column) if row.get(column).is_some_and(|cell| !cell.is_empty()) => number(column)?,
            _ => 6.0 * parameters * tokens,
        };
        points.push(Point { parameters, tokens, loss, flops, source }.checked(path)?);
    }
    Ok(points)
}

/// A run, or the finished runs in the folder or in its `runs`.
fn folder(path: &Path, reading: &Reading) -> Result<Vec<Point>> {
    if path.join("model/config.json").exists() {
        return Ok(vec![run(path, reading)?]);
    }
    let runs = if path.join("runs").is_dir() { path.join("runs") } else { path.to_path_buf() };
    let entries = std::fs::read_dir(&runs).map_err(|e| bad(&runs, format!("cannot list: {e}")))?;
    let mut folders: Vec<_> = entries.flatten().map(|e| e.path()).filter(|p| Manifest::read(p).is_ok_and(|m| m.finished)).collect();
    folders.sort();
    if folders.is_empty() {
        return Err(bad(path, "holds no finished run; expected a run of `llm-train pretrain`, a sweep, or a file parameters,tokens,loss[,flops]"));
    }
    folders.iter().map(|folder| run(folder, reading)).collect()
}

fn run(path: &Path, reading: &Reading) -> Result<Point> {
    let manifest = Manifest::read(path)?;
    let loss = metric(&manifest.summary, &reading.metric).ok_or_else(|| {
        bad(path, format!("its manifest has no number `{}`; runs need `heldout` shards and trainer.eval_every above 0", reading.metric))
    })?;
    let tokens =
        manifest.summary.get("tokens").and_then(Value::as_f64).ok_or_else(|| bad(path, "its manifest does not say how many tokens were read"))?;
    let model = hf::load_config(path.join("model"))?;
    // Only scores of visible keys count, so it matters how long rows are; the shards know, their metadata is enough.
    let train = manifest.config.get("train").and_then(Value::as_str).unwrap_or_default();
    let length = llm_data::shards::Shards::open(train).map_or(model.max_position_embeddings, |shards| shards.sequence_length());
    let flops = Flops::of(&model, length).training * tokens;
    Point { parameters: reading.count.of(&model), tokens, loss, flops, source: path.display().to_string() }.checked(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(name: &str, text: &str) -> Result<Vec<Point>> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        read(&[file], &Reading { metric: "val_loss".into(), count: Count::Matmul })
    }

    #[test]
    fn both_kinds_of_files_say_the_same() {
        let csv = read_text("p.csv", "Loss, parameters, flops, tokens\n2.5,1e6,,2e7\n2.25,2e6,3e14,2e7\n").unwrap();
        let lines = "{\"parameters\": 1e6, \"tokens\": 2e7, \"loss\": 2.5}\n{\"parameters\": 2e6, \"tokens\": 2e7, \"loss\": 2.25, \"flops\": 3e14}";
        let json = read_text("p.jsonl", lines).unwrap();
        let numbers = |points: &[Point]| points.iter().map(|p| [p.parameters, p.tokens, p.loss, p.flops]).collect::<Vec<_>>();
        assert_eq!(numbers(&csv), [[1e6, 2e7, 2.5, 1.2e14], [2e6, 2e7, 2.25, 3e14]]);
        assert_eq!(numbers(&csv), numbers(&json));
    }

    #[test]
    fn errors_name_line_and_column() {
        for (name, text, words) in [
            ("p.csv", "parameters,loss\n1,2", "`tokens`"),
            ("p.csv", "parameters,tokens,loss\n1,2,x", "line 2: `x` in column `loss`"),
            ("p.csv", "parameters,tokens,loss\n1,2,-3", "line 2: loss = -3"),
            ("p.csv", "parameters,tokens,loss\n1,2", "line 2: 2 columns"),
            ("p.csv", "", "empty"),
            ("p.jsonl", "{\"parameters\": 1, \"tokens\": 2}", "line 1: no number `loss`"),
        ] {
            let message = read_text(name, text).unwrap_err().to_string();
            assert!(message.contains(words), "{text}: {message}");
        }
        let dir = tempfile::tempdir().unwrap();
        let reading = Reading { metric: "val_loss".into(), count: Count::All };
        assert!(read(&[dir.path()], &reading).unwrap_err().to_string().contains("no finished run"));
    }
}
