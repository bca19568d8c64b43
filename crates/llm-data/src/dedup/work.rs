//! The work folder: which unit of which phase is done, and what the inputs are.
//!
//! A unit's results are one folder `PHASE/00012` that appears whole; its being there is the record that the unit is done. A killed
//! run therefore loses the unit it was at and nothing else, and several processes that share the folder see each other's progress.
//! Everything lies below a folder named by the hash of the settings and the inputs, so results of other settings are never reused.

use super::config::DedupConfig;
use crate::document;
use crate::error::{Error, Result, check_interrupt, io};
use crate::ranks::Ranks;
use llm_run::atomic::AtomicDir;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes at the end of a Parquet file that identify it: they hold the footer with offsets and statistics of all columns.
const TAIL: u64 = 1 << 20;
/// Memory that makes it worth to do one more part of the input at the same time.
const UNIT_MEMORY: usize = 64 << 20;

/// A part of the input.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// The Parquet file; empty for documents that are not read from one.
    pub path: PathBuf,
    /// Number of its first document.
    pub first: u32,
    /// Number of documents.
    pub rows: u32,
}

/// What there is to do and how it is cut.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Parts of the input in their order.
    pub units: Vec<Unit>,
    /// All documents.
    pub documents: u32,
    /// Ranges of hash values that are sorted one at a time.
    pub ranges: usize,
    /// Bytes to work in.
    pub memory: usize,
    /// Hash of the settings and the inputs.
    pub fingerprint: String,
}

impl Plan {
    /// Look at the footers of the input.
    pub fn new(config: &DedupConfig) -> Result<Self> {
        let mut rows = Vec::new();
        let mut identity = Vec::new();
        for path in document::parts(&config.input)? {
            let count = document::count(&path)?;
            let (bytes, tail) = tail(&path)?;
            identity.push((path.file_name().map(|n| n.to_string_lossy().into_owned()), bytes, tail));
            rows.push((path, count));
        }
        let mut plan = Self::of(config, rows)?;
        plan.fingerprint = llm_run::hash::bytes(format!("{}{identity:?}", plan.fingerprint).as_bytes());
        Ok(plan)
    }

    /// Of parts with that many documents.
    pub fn of(config: &DedupConfig, rows: Vec<(PathBuf, u64)>) -> Result<Self> {
        let mut units = Vec::new();
        let mut first = 0u64;
        for (path, count) in rows {
            units.push((path, first, count));
            first += count;
        }
        if first >= u64::from(u32::MAX) {
            return Err(Error::Config(format!("dedup: {first} documents; at most {} in one run, split the input by source or date", u32::MAX - 1)));
        }
        let memory = config.memory_bytes()?;
        // A range of the largest set of records should be sorted in memory: one record of 16 bytes per band and document.
        let ranges = (first as usize * config.bands.max(10) * 16).div_ceil(memory / 4).clamp(1, 4096);
        let units = units.into_iter().map(|(path, first, rows)| Unit { path, first: first as u32, rows: rows as u32 }).collect();
        // What does not change the results does not make them new ones; the cut into ranges does change the files.
        let settings = DedupConfig {
            ranks: Ranks::default(),
            wait_seconds: 0,
            keep_work: false,
            work: None,
            memory: String::new(),
            input: PathBuf::new(),
            ..config.clone()
        };
        let text = format!("{} {ranges} {}", env!("CARGO_PKG_VERSION"), serde_json::to_string(&settings).unwrap_or_default());
        Ok(Self { units, documents: first as u32, ranges, memory, fingerprint: llm_run::hash::bytes(text.as_bytes()) })
    }

    /// How many parts of the input are worked on at the same time with that many threads, and the plan with the memory of each.
    pub fn shared(&self, ranks: Ranks, threads: usize) -> (usize, Self) {
        let mine = (0..self.units.len()).filter(|u| ranks.mine(*u)).count();
        let at_once = threads.min(self.memory / UNIT_MEMORY).min(mine).max(1);
        (at_once, Self { memory: self.memory / at_once, ..self.clone() })
    }

    /// The unit that holds document `doc`.
    pub fn unit_of(&self, doc: u32) -> usize {
        self.units.partition_point(|u| u.first <= doc).saturating_sub(1)
    }
}

fn tail(path: &Path) -> Result<(u64, String)> {
    let mut file = File::open(path).map_err(io(path, "cannot open"))?;
    let bytes = file.metadata().map_err(io(path, "cannot read"))?.len();
    file.seek(SeekFrom::Start(bytes.saturating_sub(TAIL))).map_err(io(path, "cannot read"))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end).map_err(io(path, "cannot read"))?;
    Ok((bytes, llm_run::hash::bytes(&end)))
}

/// The folder of the intermediate results.
#[derive(Debug)]
pub struct Work {
    root: PathBuf,
    ranks: Ranks,
    wait: Duration,
    _lock: File,
}

impl Work {
    /// Open or create it. A second process of the same rank is refused.
    pub fn open(dir: &Path, fingerprint: &str, ranks: Ranks, wait: Duration) -> Result<Self> {
        let root = dir.join(&fingerprint[..fingerprint.len().min(16)]);
        std::fs::create_dir_all(&root).map_err(io(&root, "cannot create folder"))?;
        let path = root.join(format!("rank-{:05}.lock", ranks.rank));
        let lock = File::create(&path).map_err(io(&path, "cannot create"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root, ranks, wait, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::Config(format!(
                "{}: another process works as rank {} in this folder; give each its own ranks.rank",
                path.display(),
                ranks.rank
            ))),
            Err(TryLockError::Error(e)) => Err(io(&path, "cannot lock")(e)),
        }
    }

    /// Where everything is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Folder of one unit's results.
    pub fn dir(&self, phase: &str, unit: usize) -> PathBuf {
        self.root.join(phase).join(format!("{unit:05}"))
    }

    /// Do this process's units of a phase that are not done yet, up to `at_once` of them at the same time. `work` writes into the
    /// folder that it is given.
    pub fn units(&self, phase: &str, count: usize, at_once: usize, work: impl Fn(usize, &Path) -> Result<()> + Sync) -> Result<()> {
        let one = |unit: usize| -> Result<()> {
            check_interrupt()?;
            let dir = self.dir(phase, unit);
            if !dir.is_dir() {
                let new = AtomicDir::create(&dir)?;
                work(unit, new.path())?;
                new.commit()?;
            }
            Ok(())
        };
        let mine: Vec<usize> = (0..count).filter(|u| self.ranks.mine(*u)).collect();
        if at_once <= 1 {
            return mine.into_iter().try_for_each(one);
        }
        let (next, failure) = (AtomicUsize::new(0), Mutex::new(None::<(usize, Error)>));
        let failure_lock = || failure.lock().unwrap_or_else(PoisonError::into_inner);
        // Each task takes unit after unit. A thread that waits for others within a unit may begin another task, never more than there are.
        rayon::scope(|scope| {
            for _ in 0..at_once.min(mine.len()) {
                scope.spawn(|_| {
                    while let Some(&unit) = mine.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if failure_lock().is_some() {
                            return;
                        }
                        if let Err(error) = one(unit) {
                            let mut first = failure_lock();
                            if first.as_ref().is_none_or(|(u, _)| *u > unit) {
                                *first = Some((unit, error));
                            }
                        }
                    }
                });
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// Wait until every process has done its units of a phase.
    pub fn barrier(&self, phase: &str, count: usize) -> Result<()> {
        let started = Instant::now();
        for unit in 0..count {
            while !self.dir(phase, unit).is_dir() {
                check_interrupt()?;
                if started.elapsed() >= self.wait {
                    return Err(Error::Config(format!(
                        "dedup: unit {unit} of phase `{phase}` is not done after {} s; start rank {} of {} (ranks.rank), or raise wait_seconds",
                        self.wait.as_secs(),
                        unit % self.ranks.world_size,
                        self.ranks.world_size
                    )));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// Remove what a finished phase needs no more: files of `phase` whose name starts with one of `prefixes`.
    pub fn forget(&self, phase: &str, count: usize, prefixes: &[&str]) -> Result<()> {
        for unit in 0..count {
            let dir = self.dir(phase, unit);
            for entry in std::fs::read_dir(&dir).map_err(io(&dir, "cannot list"))? {
                let entry = entry.map_err(io(&dir, "cannot list"))?;
                if prefixes.iter().any(|p| entry.file_name().to_string_lossy().starts_with(p)) {
                    std::fs::remove_file(entry.path()).map_err(io(&entry.path(), "cannot remove"))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_done_once_and_a_failed_one_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let open = |rank, world_size| Work::open(dir.path(), "0123456789abcdef", Ranks { rank, world_size }, Duration::ZERO);
        let work = open(0, 2).unwrap();
        assert!(open(0, 2).unwrap_err().to_string().contains("another process"));
        let done = Mutex::new(Vec::new());
        let failed = work.units("a", 5, 1, |u, path| {
            done.lock().unwrap().push(u);
            std::fs::write(path.join("x"), "1").unwrap();
            if u == 2 { Err(Error::Interrupted) } else { Ok(()) }
        });
        assert!(failed.is_err() && *done.lock().unwrap() == [0, 2] && work.dir("a", 0).is_dir() && !work.dir("a", 2).exists());
        work.units("a", 5, 1, |u, _| {
            done.lock().unwrap().push(u);
            Ok(())
        })
        .unwrap();
        assert_eq!(*done.lock().unwrap(), [0, 2, 2, 4]);
        let message = work.barrier("a", 5).unwrap_err().to_string();
        assert!(message.contains("unit 1") && message.contains("rank 1 of 2"), "{message}");
        open(1, 2).unwrap().units("a", 5, 1, |_, _| Ok(())).unwrap();
        work.barrier("a", 5).unwrap();
        // The same with several at a time, of which one fails.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        let most = AtomicUsize::new(0);
        let open_now = AtomicUsize::new(0);
        let count = |fails: usize| {
            let done = Mutex::new(Vec::new());
            let result = pool.install(|| {
                work.units("b", 40, 3, |u, _| {
                    most.fetch_max(open_now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(2));
                    open_now.fetch_sub(1, Ordering::SeqCst);
                    if u == fails {
                        return Err(Error::Config(format!("unit {u}")));
                    }
                    done.lock().unwrap().push(u);
                    Ok(())
                })
            });
            (result, done.into_inner().unwrap())
        };
        let (result, before) = count(8);
        assert_eq!(result.unwrap_err().to_string(), "configuration: unit 8");
        assert!(before.len() < 12 && before.iter().all(|u| work.dir("b", *u).is_dir()) && !work.dir("b", 8).exists(), "{before:?}");
        let (result, after) = count(usize::MAX);
        result.unwrap();
        let mut all = [before, after].concat();
        all.sort_unstable();
        assert_eq!(all, (0..40).step_by(2).collect::<Vec<_>>(), "each once");
        assert!(most.into_inner() <= 3);
    }

    #[test]
    fn a_document_is_found_in_its_unit() {
        let plan = Plan::of(&DedupConfig::default(), vec![("a".into(), 3), ("b".into(), 0), ("c".into(), 2)]).unwrap();
        assert_eq!((0..5).map(|d| plan.unit_of(d)).collect::<Vec<_>>(), [0, 0, 0, 2, 2]);
        let other = Plan::of(&DedupConfig { rows: 7, ..DedupConfig::default() }, vec![("a".into(), 5)]).unwrap();
        assert_ne!(plan.fingerprint, other.fingerprint);
        let memory = |memory: &str, threads| {
            let plan = Plan::of(&DedupConfig { memory: memory.into(), ..DedupConfig::default() }, vec![("a".into(), 1); 5]).unwrap();
            let (at_once, share) = plan.shared(Ranks::default(), threads);
            assert!(at_once * share.memory <= plan.memory);
            at_once
        };
        assert_eq!([memory("1GiB", 3), memory("1GiB", 64), memory("200MiB", 64), memory("64KiB", 64)], [3, 5, 3, 1]);
        let message = Plan::of(&DedupConfig::default(), vec![("a".into(), 1 << 33)]).unwrap_err().to_string();
        assert!(message.contains("split the input"), "{message}");
    }
}
