//! What a run must reach, as a check with an exit status: `cargo xtask quickstart --check`, and `pipeline run FILE --check` for
//! recipes that promise something.
//!
//! The bars of a whole run are those the project promises: time, memory, learning and alignment. A `--quick` run is far too
//! small for the last two, so there it is only asked that every stage did its work and that the loss went down.

mod alignment;
mod experts;
mod vision;

use crate::folder::{Evaluated, Progress, RunFolder, Task};
use crate::quickstart::Asked;
use crate::term::{Paint, bytes};
use anyhow::{Result, bail};
use llm_run::progress::human_seconds;

const MOST_SECONDS: f64 = 600.0;
const MOST_MEMORY: u64 = 4 << 30;
const LEAST_EXERCISES: u64 = 200;

/// One promise.
#[derive(Debug, PartialEq)]
pub struct Bar {
    what: &'static str,
    measured: String,
    bar: String,
    met: bool,
}

/// How the runs of a recipe are measured.
pub fn of(recipe: &str) -> Result<fn(&RunFolder) -> Vec<Bar>> {
    match recipe {
        "grpo" => Ok(alignment::grpo),
        "moe" => Ok(experts::measure),
        "quickstart" => Ok(|run| measure(run, None, false)),
        "quickstart-ci" => Ok(|run| measure(run, None, true)),
        "rlhf" => Ok(alignment::rlhf),
        "rlhf-ci" => Ok(alignment::small),
        "vision" => Ok(vision::measure),
        other => bail!("--check: the recipe `{other}` promises nothing that could be checked; quickstart, moe, rlhf, grpo and vision do"),
    }
}

/// Compare a quickstart with its bars.
pub fn measure(run: &RunFolder, asked: Option<&Asked>, quick: bool) -> Vec<Bar> {
    let mut bars = Vec::new();
    let mut bar = |what, measured: String, bar: &str, met| bars.push(Bar { what, measured, bar: bar.to_string(), met });
    let done = run.stages.iter().filter(|s| s.progress == Progress::Finished).count();
    bar("stages finished", done.to_string(), &run.stages.len().to_string(), done == run.stages.len());
    let seconds = run.wall_seconds();
    bar("wall time", human_seconds(seconds), "at most 10 min", seconds <= MOST_SECONDS);
    let peak = run.peak_memory().unwrap_or(0);
    bar("peak memory", bytes(peak as f64), "at most 4 GiB", peak > 0 && peak <= MOST_MEMORY);
    if let Some(asked) = asked {
        let said = !asked.answer.content.trim().is_empty() || !asked.answer.reasoning.trim().is_empty();
        bar("served answer", if said { "given" } else { "empty" }.to_string(), "given", said);
    }

    let learnt = run.bits_per_byte();
    let fall = learnt.map_or(f64::NAN, |(before, after)| 1.0 - after / before);
    let least = if quick { 0.10 } else { 0.40 };
    bar("fall of bits per byte", share(fall), &format!("at least {}", share(least)), fall >= least);
    let models = run.evaluated();
    let score = |label: &str| models.iter().find(|m| m.label == label).and_then(exercises);
    let (sft, grpo) = (score("SFT"), score("GRPO"));
    let asked_for = [&sft, &grpo].iter().filter_map(|t| t.as_ref()?.n).min().unwrap_or(0);
    if quick {
        bar("exercises graded", asked_for.to_string(), "at least 1", asked_for >= 1);
        return bars;
    }
    let (model, ngram) = (run.task("bits_per_byte").unwrap_or(f64::NAN), run.task("ngram3").unwrap_or(f64::NAN));
    bar("bits per byte", format!("{model:.3}"), &format!("below 3-gram {ngram:.3}"), model < ngram);
    bar("exercises graded", asked_for.to_string(), "at least 200", asked_for >= LEAST_EXERCISES);
    let value = |task: &Option<Task>| task.as_ref().and_then(|t| t.value).unwrap_or(f64::NAN);
    bar("exact match after SFT", format!("{:.3}", value(&sft)), "at least 0.400", value(&sft) >= 0.40);
    let gain = value(&grpo) - value(&sft);
    bar("gain of GRPO", format!("{gain:+.3}"), "at least +0.100", gain >= 0.10);
    let ends = sft.and_then(|t| t.ci95).zip(grpo.and_then(|t| t.ci95));
    let gap = ends.map_or("no intervals".to_string(), |(s, g)| format!("{:.3} and {:.3}", s[1], g[0]));
    bar("95 % intervals apart", gap, "SFT ends below GRPO", ends.is_some_and(|(s, g)| s[1] < g[0]));
    bars
}

fn exercises(model: &Evaluated<'_>) -> Option<Task> {
    model.results.tasks.get("exercises").cloned()
}

fn share(value: f64) -> String {
    format!("{:.0} %", value * 100.0)
}

/// Print the bars; an unmet one is an error.
pub fn report(bars: &[Bar], paint: Paint) -> Result<()> {
    for bar in bars {
        let mark = if bar.met { paint.green("met   ") } else { paint.yellow("missed") };
        println!("  {mark} {:<22} {:>20}   {}", bar.what, bar.measured, paint.dim(&bar.bar));
    }
    let missed: Vec<&str> = bars.iter().filter(|b| !b.met).map(|b| b.what).collect();
    if missed.is_empty() { Ok(()) } else { bail!("missed: {}", missed.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    fn put(dir: &Path, name: &str, text: String) {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn run(sft: f64, grpo: f64, after: f64) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let manifest = |command: &str, config: serde_json::Value| {
            json!({"program": "p", "command": command, "version": "0", "command_line": [], "config": config, "seed": 1, "inputs": {}, "output_hash": "",
                "summary": null, "started_at": 1, "wall_seconds": 60.0, "peak_memory_bytes": 1u64 << 30, "cpus": 2, "finished": true})
            .to_string()
        };
        let metrics = format!("{{\"step\":0,\"val_bits_per_byte\":8.0}}\n{{\"step\":9,\"val_bits_per_byte\":{after}}}\n");
        put(dir.path(), "pretrain/metrics.jsonl", metrics);
        put(dir.path(), "pretrain/manifest.json", manifest("pretrain", json!({})));
        for (stage, value) in [("sft", sft), ("grpo", grpo)] {
            put(dir.path(), &format!("{stage}/manifest.json"), manifest(stage, json!({})));
            let eval = format!("eval-{stage}");
            put(dir.path(), &format!("{eval}/manifest.json"), manifest("run", json!({"model": format!("x/{stage}/model")})));
            let tasks = json!({"exercises": {"metric": "exact_match", "value": value, "n": 300, "ci95": [value - 0.05, value + 0.05]},
                "bits_per_byte": {"metric": "bits_per_byte", "value": after}, "ngram3": {"metric": "bits_per_byte", "value": 2.6}});
            put(dir.path(), &format!("{eval}/results.json"), json!({"model": {}, "tasks": tasks}).to_string());
        }
        dir
    }

    fn missed(sft: f64, grpo: f64, after: f64, quick: bool) -> Vec<&'static str> {
        let dir = run(sft, grpo, after);
        measure(&RunFolder::open(dir.path()).unwrap(), None, quick).into_iter().filter(|b| !b.met).map(|b| b.what).collect()
    }

    #[test]
    fn each_bar_is_held_and_missed_where_it_should_be() {
        assert_eq!(missed(0.45, 0.70, 2.0, false), Vec::<&str>::new());
        assert_eq!(missed(0.45, 0.54, 2.0, false), ["gain of GRPO", "95 % intervals apart"]);
        assert_eq!(missed(0.45, 0.549, 3.0, false), ["bits per byte", "gain of GRPO", "95 % intervals apart"]);
        assert_eq!(missed(0.30, 0.60, 6.0, false), ["fall of bits per byte", "bits per byte", "exact match after SFT"]);
        assert_eq!(missed(0.0, 0.0, 6.0, true), Vec::<&str>::new());
        assert_eq!(missed(0.0, 0.0, 7.9, true), ["fall of bits per byte"]);
    }

    #[test]
    fn a_run_without_numbers_meets_nothing_by_accident() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "pretrain/metrics.jsonl", String::new());
        let bars = measure(&RunFolder::open(dir.path()).unwrap(), None, false);
        let met: Vec<&str> = bars.iter().filter(|b| b.met).map(|b| b.what).collect();
        assert_eq!(met, ["wall time"]);
        assert!(report(&bars, Paint::plain()).unwrap_err().to_string().contains("peak memory"));
    }
}
