//! The output folder of one program run and its `manifest.json`: what went in, with which settings, what came out.

use crate::error::Result;
use crate::{atomic, hash};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The lineage record of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// Binary name, e.g. `llm-data`.
    pub program: String,
    /// Subcommand, e.g. `filter`.
    pub command: String,
    /// Workspace version.
    pub version: String,
    /// The full command line.
    pub command_line: Vec<String>,
    /// The configuration after `--set`.
    pub config: Value,
    /// Random seed, if the command uses one.
    pub seed: Option<u64>,
    /// Input path -> BLAKE3.
    pub inputs: BTreeMap<String, String>,
    /// BLAKE3 of the output folder (see [`crate::hash::path`]).
    pub output_hash: Option<String>,
    /// Results worth showing: counts, losses, rates.
    pub summary: Value,
    /// Unix seconds.
    pub started_at: u64,
    /// Wall time.
    pub wall_seconds: f64,
    /// Peak resident memory of the process, bytes.
    pub peak_memory_bytes: Option<u64>,
    /// Logical CPUs seen.
    pub cpus: usize,
    /// True once everything was written.
    pub finished: bool,
}

/// An output folder being filled.
#[derive(Debug)]
pub struct Run {
    dir: PathBuf,
    /// The manifest, written by [`Run::finish`].
    pub manifest: Manifest,
    started: Instant,
}

impl Run {
    /// Create the folder if needed and start the clock. `config` is recorded in the manifest.
    pub fn start<C: Serialize>(dir: impl AsRef<Path>, program: &str, command: &str, config: &C) -> Result<Self> {
        let dir = dir.as_ref().to_path_buf();
        std::fs::create_dir_all(&dir).map_err(crate::error::io(&dir, "cannot create output folder"))?;
        let manifest = Manifest {
            program: program.to_string(),
            command: command.to_string(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            command_line: std::env::args().collect(),
            config: serde_json::to_value(config).unwrap_or(Value::Null),
            started_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            ..Manifest::default()
        };
        Ok(Self { dir, manifest, started: Instant::now() })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path inside the folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// Record an input by content hash.
    pub fn input(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.manifest.inputs.insert(path.display().to_string(), hash::path(path)?);
        Ok(())
    }

    /// Hash the outputs and write the manifest. Without this call the run counts as unfinished.
    pub fn finish(mut self, summary: Value) -> Result<Manifest> {
        self.manifest.summary = summary;
        self.manifest.output_hash = Some(hash::path(&self.dir)?);
        self.manifest.wall_seconds = self.started.elapsed().as_secs_f64();
        self.manifest.peak_memory_bytes = peak_memory_bytes();
        self.manifest.finished = true;
        let text = serde_json::to_string_pretty(&self.manifest).unwrap_or_default();
        atomic::write(self.dir.join("manifest.json"), text)?;
        Ok(self.manifest)
    }
}

impl Manifest {
    /// Read `DIR/manifest.json`.
    pub fn read(dir: impl AsRef<Path>) -> Result<Self> {
        let path = dir.as_ref().join("manifest.json");
        let text = std::fs::read_to_string(&path).map_err(crate::error::io(&path, "cannot read"))?;
        serde_json::from_str(&text).map_err(|e| crate::Error::Json { path, line: e.line(), message: e.to_string() })
    }
}

/// Resident memory of this process now; `None` where the system does not tell.
pub fn memory_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    // Linux counts pages here; they are 4 KiB on every machine this runs on.
    Some(statm.split(' ').nth(1)?.parse::<u64>().ok()? * 4096)
}

/// High-water mark of this process's resident memory; `None` where the system does not tell.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
