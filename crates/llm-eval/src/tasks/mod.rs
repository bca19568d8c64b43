//! The benchmarks, one file per family, and how they are found by name.
//!
//! To add one: a file with a type that is a [`Task`] and a `pub fn tasks() -> Vec<Box<dyn Task>>`, and a line in [`all`].

pub mod arc;
pub mod bbh;
pub mod chartqa;
pub mod gsm8k;
pub mod hellaswag;
pub mod humaneval;
pub mod lambada;
pub mod math;
pub mod mbpp;
pub mod mgsm;
pub mod mmlu;
pub mod piqa;
mod programs;
pub mod truthfulqa;
pub mod xcopa;

use crate::error::{Error, Result};
use crate::task::Task;
use std::path::Path;

/// Every task there is, in the order of the table.
pub fn all() -> Vec<Box<dyn Task>> {
    let families = [hellaswag::tasks, arc::tasks, piqa::tasks, truthfulqa::tasks, lambada::tasks, xcopa::tasks, mmlu::tasks];
    let generated = [gsm8k::tasks, math::tasks, bbh::tasks, mgsm::tasks, humaneval::tasks, mbpp::tasks, chartqa::tasks];
    families.into_iter().chain(generated).flat_map(|family| family()).collect()
}

/// The tasks of a list of names: `hellaswag`, `hellaswag@lm-eval`, `hellaswag@lm-eval@1`, or a group or tag such as `mmlu`, of which
/// those tasks are taken whose files lie under `data`. A name nobody has is answered with the nearest.
pub fn find(names: &[String], data: &Path) -> Result<Vec<Box<dyn Task>>> {
    let mut chosen: Vec<Box<dyn Task>> = Vec::new();
    for name in names {
        let (exact, grouped): (Vec<_>, Vec<_>) = all()
            .into_iter()
            .filter(|t| t.spec().name.is(name) || t.spec().tag == Some(name) || t.spec().group.as_ref().is_some_and(|g| g.is(name)))
            .partition(|t| t.spec().name.is(name));
        if exact.is_empty() && grouped.is_empty() {
            return Err(Error::Config(format!("there is no task `{name}`{}; `llm-eval tasks` lists them", nearest(name))));
        }
        let missing = |task: &dyn Task| {
            let files = task.spec().files.iter().map(|any| any.join(" or ")).collect::<Vec<_>>().join(", ");
            Error::Config(format!("{}: needs {files} under `data` ({}), and they are not there", task.spec().name, data.display()))
        };
        let before = chosen.len();
        let mut skipped = None;
        for task in exact.into_iter().map(|t| (t, true)).chain(grouped.into_iter().map(|t| (t, false))) {
            match (task.0.spec().found(data), task.1) {
                (None, true) => return Err(missing(task.0.as_ref())),
                (None, false) => skipped = Some(missing(task.0.as_ref())),
                (Some(_), _) if chosen.iter().any(|c| c.spec().name == task.0.spec().name) => {}
                (Some(_), _) => chosen.push(task.0),
            }
        }
        if chosen.len() == before
            && let Some(error) = skipped
        {
            return Err(error);
        }
    }
    Ok(chosen)
}

/// `; did you mean` the most alike name, if one is alike.
fn nearest(name: &str) -> String {
    let asked = name.split('@').next().unwrap_or(name).to_lowercase();
    let mut known: Vec<String> = Vec::new();
    for task in all() {
        known.push(task.spec().name.task.clone());
        known.extend(task.spec().group.as_ref().map(|g| g.task.clone()));
        known.extend(task.spec().tag.map(str::to_string));
    }
    known.sort();
    known.dedup();
    let best = known.into_iter().map(|k| (strsim::damerau_levenshtein(&asked, &k), k)).min();
    match best {
        Some((distance, known)) if distance <= 1 + asked.len() / 3 => format!("; did you mean `{known}`?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str, data: &Path) -> String {
        find(&[name.to_string()], data).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn names_are_unique_and_mistakes_are_answered() {
        let mut names: Vec<String> = all().iter().map(|t| t.spec().name.to_string()).collect();
        let before = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), before);
        let nowhere = Path::new("/nowhere");
        assert!(message("helaswag", nowhere).contains("did you mean `hellaswag`?"), "{}", message("helaswag", nowhere));
        assert!(message("mmlu_astronmy@lm-eval@1", nowhere).contains("did you mean `mmlu_astronomy`?"));
        assert!(!message("completely different", nowhere).contains("did you mean"));
        assert!(message("hellaswag@lm-eval@7", nowhere).contains("there is no task"), "another version is another task");
        assert!(message("hellaswag", nowhere).contains("hellaswag_val.jsonl or"));
        assert!(message("mmlu", nowhere).contains("mmlu/test/"));
    }

    #[test]
    fn a_group_is_what_is_there_and_nothing_is_taken_twice() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("mmlu/test")).unwrap();
        for subject in ["anatomy", "virology"] {
            std::fs::write(dir.path().join(format!("mmlu/test/{subject}_test.csv")), "q,1,2,3,4,B\n").unwrap();
        }
        let found = find(&["mmlu_virology".into(), "mmlu@lm-eval@2".into()], dir.path()).unwrap();
        let names: Vec<&str> = found.iter().map(|t| t.spec().name.task.as_str()).collect();
        assert_eq!(names, ["mmlu_virology", "mmlu_anatomy"]);
        assert!(find(&["mmlu_astronomy".into()], dir.path()).is_err());
    }
}
