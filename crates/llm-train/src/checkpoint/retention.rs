//! Which checkpoints stay on the disk: the last ones, the best one by held-out loss, and every n-th step for good.

use super::{folder, steps};
use crate::Result;
use llm_run::atomic;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The newest so many.
    pub last: usize,
    /// The best so many.
    pub best: usize,
    /// Those of steps that this divides; 0 is none.
    pub every: u64,
}

/// `best.json` beside the checkpoints: what validation said of saved steps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Steps and their values, best first.
    pub steps: Vec<(u64, f64)>,
}

impl Best {
    fn path(dir: &Path) -> PathBuf {
        dir.join("best.json")
    }

    /// What is known so far; a file that cannot be read is as none, since it only steers what is deleted.
    pub fn read(dir: &Path) -> Self {
        std::fs::read_to_string(Self::path(dir)).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// Note the value of a step, lower is better; steps without a checkpoint are forgotten.
    pub fn note(dir: &Path, step: u64, value: f64) -> Result<Self> {
        let mut best = Self::read(dir);
        let saved = steps(dir);
        best.steps.retain(|(s, _)| *s != step && saved.contains(s));
        if value.is_finite() && saved.contains(&step) {
            best.steps.push((step, value));
        }
        best.steps.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        atomic::write(Self::path(dir), serde_json::to_vec(&best).unwrap_or_default())?;
        Ok(best)
    }

    /// The best step that has a checkpoint.
    pub fn step(dir: &Path) -> Option<u64> {
        let saved = steps(dir);
        Self::read(dir).steps.iter().map(|(s, _)| *s).find(|s| saved.contains(s))
    }
}

impl Retention {
    /// The steps that stay.
    fn kept(&self, saved: &[u64], best: &Best) -> Vec<u64> {
        let newest = &saved[saved.len().saturating_sub(self.last.max(1))..];
        let best: Vec<u64> = best.steps.iter().map(|(s, _)| *s).filter(|s| saved.contains(s)).take(self.best).collect();
        let every = |s: &u64| self.every > 0 && s.is_multiple_of(self.every);
        saved.iter().copied().filter(|s| newest.contains(s) || best.contains(s) || every(s)).collect()
    }

    /// Delete the others.
    pub fn apply(&self, dir: &Path) {
        let saved = steps(dir);
        let kept = self.kept(&saved, &Best::read(dir));
        for step in saved.into_iter().filter(|s| !kept.contains(s)) {
            // A leftover only costs disk space.
            let _ = atomic::remove_dir(&folder(dir, step));
        }
    }

    /// Anything kept for good?
    pub fn outlives_the_run(&self) -> bool {
        self.best > 0 || self.every > 0
    }

    /// After the run only what is kept for good stays.
    pub fn apply_at_end(&self, dir: &Path) {
        if !self.outlives_the_run() {
            let _ = atomic::remove_dir(dir);
            return;
        }
        let (saved, best) = (steps(dir), Best::read(dir));
        let best: Vec<u64> = best.steps.iter().map(|(s, _)| *s).filter(|s| saved.contains(s)).take(self.best).collect();
        for step in saved.into_iter().filter(|s| !(best.contains(s) || self.every > 0 && s.is_multiple_of(self.every))) {
            let _ = atomic::remove_dir(&folder(dir, step));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, the checkpoint a run would be continued from, or the best one, is deleted.
    #[test]
    fn last_best_and_every() {
        let best = Best { steps: vec![(30, 1.0), (10, 1.5), (50, 2.0)] };
        let saved = [10, 20, 30, 40, 50, 60, 70];
        let kept = |last, best_n, every| Retention { last, best: best_n, every }.kept(&saved, &best);
        assert_eq!(kept(1, 0, 0), [70]);
        assert_eq!(kept(0, 0, 0), [70], "the newest always stays");
        assert_eq!(kept(2, 1, 0), [30, 60, 70]);
        assert_eq!(kept(1, 2, 20), [10, 20, 30, 40, 60, 70]);
    }

    #[test]
    fn the_best_is_remembered_in_a_file_and_only_while_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        for step in [10, 20, 30] {
            std::fs::create_dir(folder(dir.path(), step)).unwrap();
        }
        for (step, value) in [(10, 3.0), (20, 2.0), (30, 2.5), (40, 1.0), (30, f64::NAN)] {
            Best::note(dir.path(), step, value).unwrap();
        }
        assert_eq!(Best::read(dir.path()).steps, [(20, 2.0), (10, 3.0)]);
        Retention { last: 1, best: 1, every: 0 }.apply(dir.path());
        assert_eq!(steps(dir.path()), [20, 30]);
        assert_eq!(Best::step(dir.path()), Some(20));
        Retention { last: 1, best: 1, every: 0 }.apply_at_end(dir.path());
        assert_eq!(steps(dir.path()), [20]);
    }
}
