//! What `recipes/vision.toml` must reach: a model that answers about held-out pictures, in a quarter of an hour, and has not unlearned its
//! exercises.

use super::Bar;
use crate::folder::{Progress, RunFolder};
use llm_run::progress::human_seconds;

const MOST_SECONDS: f64 = 900.0;
/// Least share of right answers, by what has to be seen.
const LEAST: [(&str, &str, f64); 3] =
    [("colour", "pictures/colour", 0.9), ("shape", "pictures/shape", 0.9), ("count, one to four", "pictures/count", 0.7)];
const MOST_UNLEARNED: f64 = 0.05;

/// Compare a run with its bars.
pub fn measure(run: &RunFolder) -> Vec<Bar> {
    let mut bars = Vec::new();
    let mut bar = |what, measured: String, bar: String, met| bars.push(Bar { what, measured, bar, met });
    let done = run.stages.iter().filter(|s| s.progress == Progress::Finished).count();
    bar("stages finished", done.to_string(), run.stages.len().to_string(), done == run.stages.len());
    let seconds = run.wall_seconds();
    bar("wall time", human_seconds(seconds), format!("at most {}", human_seconds(MOST_SECONDS)), done > 0 && seconds <= MOST_SECONDS);
    for (what, task, least) in LEAST {
        let right = run.task(task).unwrap_or(f64::NAN);
        bar(what, format!("{right:.3}"), format!("at least {least}"), right >= least);
    }
    // Of the text model first, then of the model that sees.
    let exercises: Vec<f64> = run.stages.iter().filter_map(|s| s.results.as_ref()).filter_map(|r| r.tasks.get("exercises")?.value).collect();
    let (before, after) = match exercises[..] {
        [before, .., after] => (before, after),
        _ => (f64::NAN, f64::NAN),
    };
    bar("exercises", format!("{after:.3}"), format!("at least {before:.3} - {MOST_UNLEARNED}"), after >= before - MOST_UNLEARNED);
    bars
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_numbers_meets_nothing_by_accident() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("recipe.toml"), include_str!("../../recipes/vision.toml")).unwrap();
        let bars = measure(&RunFolder::open(dir.path()).unwrap());
        assert_eq!(bars.len(), 6);
        assert!(bars.iter().all(|b| !b.met), "{bars:?}");
    }
}
