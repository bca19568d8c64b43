//! From a description to runs: names, seeds, whole configurations, all checked before anything starts.

use super::spec::{Program, Settings, Spec};
use crate::dial::{Dial, choice};
use crate::pretrain::Pretrain;
use crate::vision::{ContrastiveConfig, InstructConfig};
use crate::{Error, Result};
use llm_run::config;
use serde::Deserialize;
use std::collections::HashSet;
use toml::{Table, Value};

/// Longest readable part of a folder's name.
const LONGEST_NAME: usize = 60;

/// A run that is to be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Folder below `runs/`.
    pub name: String,
    /// Which point of the sweep; runs of one point differ in their seed.
    pub point: usize,
    /// What makes it differ.
    pub settings: Settings,
    /// Its seed.
    pub seed: u64,
    /// Everything.
    pub table: Table,
}

/// All runs of a sweep. Every configuration is read as its program will read it.
pub fn plan(spec: &Spec) -> Result<Vec<Planned>> {
    let base = spec.base()?;
    let points = spec.points()?;
    let seeds = spec.seeds.max(1);
    if points.len() as u64 * seeds > spec.max_runs as u64 {
        let message = format!("{} settings with {seeds} seeds are {} runs; max_runs = {}", points.len(), points.len() as u64 * seeds, spec.max_runs);
        return Err(Error::Config(message));
    }
    let first_seed = match base.get("seed") {
        None => 0,
        Some(Value::Integer(seed)) if *seed >= 0 => *seed as u64,
        Some(other) => return Err(Error::Config(format!("seed = {other}: expected a whole number of at least 0"))),
    };
    let mut runs = Vec::new();
    let mut names = HashSet::new();
    for (index, (name, settings)) in points.into_iter().enumerate() {
        if spec.seeds > 1 && settings.iter().any(|(key, _)| key == "seed") {
            return Err(Error::Config("`seed` is varied although `seeds` repeats every setting; leave one of them out".into()));
        }
        let mut table = base.clone();
        for (key, value) in &settings {
            config::override_with(&mut table, &format!("{key}={value}"))?;
        }
        for offset in 0..seeds {
            let mut table = table.clone();
            if spec.seeds > 1 {
                table.insert("seed".into(), Value::Integer((first_seed + offset) as i64));
            }
            let seed = table.get("seed").and_then(Value::as_integer).unwrap_or(0) as u64;
            let readable = name.clone().unwrap_or_else(|| describe(&settings));
            let readable = if spec.seeds > 1 { format!("{readable}_seed-{seed}") } else { readable };
            let name = folder(&readable, spec.program, &table);
            check(spec.program, &table, &name)?;
            if !names.insert(name.clone()) {
                return Err(Error::Config(format!("run {name} is there twice: two points of the sweep have the same configuration")));
            }
            runs.push(Planned { name, point: index, settings: settings.clone(), seed, table });
        }
    }
    Ok(runs)
}

/// `lr-0.003_depth-4`.
fn describe(settings: &Settings) -> String {
    let short = |key: &str| key.rsplit('.').next().unwrap_or(key).to_string();
    let shown = |value: &Value| match value {
        Value::Float(x) => crate::quantity::short(*x),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    settings.iter().map(|(key, value)| format!("{}-{}", short(key), shown(value))).collect::<Vec<_>>().join("_")
}

/// A folder name that differs when anything in the configuration does.
fn folder(readable: &str, program: Program, table: &Table) -> String {
    let clean = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '-' };
    let readable: String = readable.chars().take(LONGEST_NAME).map(clean).collect();
    let hash = llm_run::hash::bytes(format!("{}\n{}", program.command(), sorted(table)).as_bytes());
    format!("{}-{}", readable.trim_start_matches('.'), hash.chars().take(8).collect::<String>())
}

/// The table as text, whatever the order of its keys.
fn sorted(table: &Table) -> String {
    let mut pairs: Vec<String> = table
        .iter()
        .map(|(key, value)| match value {
            Value::Table(inner) => format!("{key}={{{}}}", sorted(inner)),
            value => format!("{key}={value}"),
        })
        .collect();
    pairs.sort();
    pairs.join(",")
}

/// Read a configuration as the program will, so that a wrong key is found now and not in the seventh run.
fn check(program: Program, table: &Table, name: &str) -> Result<()> {
    fn typed<T: for<'a> Deserialize<'a>>(table: &Table, name: &str) -> Result<T> {
        let message = |e: toml::de::Error| config::suggest(e.to_string().trim());
        T::deserialize(Value::Table(table.clone())).map_err(|e| llm_run::Error::Config { origin: format!("run {name}"), message: message(e) }.into())
    }
    match program {
        Program::Pretrain => {
            let (mut config, _) = choice::configure(table.clone(), &format!("run {name}"), Dial::default(), None)?;
            Pretrain::open(&mut config).map(drop)
        }
        Program::Contrastive => typed::<ContrastiveConfig>(table, name).map(drop),
        Program::Vision => typed::<InstructConfig>(table, name).map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_wrong_key_is_found_before_the_first_run() {
        let message = plan(&spec("[grid]\n\"trainer.optimizer.lrr\" = [1, 2]")).unwrap_err().to_string();
        assert!(message.contains("did you mean `lr`") && message.contains("lrr-1"), "{message}");
        let message = plan(&spec("program = \"contrastive\"\n[grid]\nbatch_sise = [1]")).unwrap_err().to_string();
        assert!(message.contains("batch_size"), "{message}");
    }

    /// If this fails, a sweep that is started again repeats finished runs, or keeps runs of another configuration.
    #[test]
    fn names_follow_the_configuration() {
        let names = |text: &str| plan(&spec(text)).unwrap().into_iter().map(|r| r.name).collect::<Vec<_>>();
        let grid = "program = \"contrastive\"\nseeds = 2\n[base]\nseed = 5\n[grid]\nbatch_size = [4, 8]";
        let first = names(grid);
        assert_eq!(first.len(), 4);
        assert!(first[0].starts_with("batch_size-4_seed-5-") && first[1].starts_with("batch_size-4_seed-6-"), "{first:?}");
        assert_eq!(first, names(grid), "names repeat");
        assert_eq!(names(&grid.replace("[4, 8]", "[8, 4]"))[0], first[2], "and do not depend on the order");
        let other = names(&grid.replace("seed = 5", "seed = 5\ntrainer.eval_every = 3"));
        assert!(other.iter().all(|name| !first.contains(name)), "another base, another run: {other:?}");
    }

    #[test]
    fn contradictions_and_floods_are_refused() {
        for (text, word) in [
            ("max_runs = 3\n[grid]\nbatch_size = [1, 2, 3, 4]", "max_runs"),
            ("program = \"contrastive\"\nseeds = 2\n[grid]\nseed = [1, 2]", "leave one of them out"),
            ("program = \"contrastive\"\n[grid]\nbatch_size = [1, 1]", "twice"),
        ] {
            let message = plan(&spec(text)).unwrap_err().to_string();
            assert!(message.contains(word), "{text}: {message}");
        }
    }
}
