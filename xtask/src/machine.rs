//! What a run was made on: processor, memory, operating system, compiler, source revision. Goes to `machine.json`.

use crate::programs;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The machine and the tools.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Machine {
    /// Model name.
    pub cpu: String,
    /// Logical CPUs.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Operating system and architecture.
    pub system: String,
    /// `rustc --version`.
    pub rustc: String,
    /// Workspace version.
    pub version: String,
    /// Revision of the sources, `+` when they were changed since; empty outside a repository.
    pub revision: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            text.lines()
                .find_map(|l| l.strip_prefix(name).map(|rest| rest.trim_start_matches([' ', '\t', ':']).trim().to_string()))
                .unwrap_or_default()
        };
        let kib: u64 = field("/proc/meminfo", "MemTotal").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let revision = output("git", &["rev-parse", "--short=12", "HEAD"]);
        let changed = !revision.is_empty() && !output("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
        Self {
            cpu: field("/proc/cpuinfo", "model name"),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kib * 1024,
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            rustc: output("rustc", &["--version"]),
            version: env!("CARGO_PKG_VERSION").to_string(),
            revision: format!("{revision}{}", if changed { "+" } else { "" }),
        }
    }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).current_dir(programs::root()).output();
    out.ok().filter(|o| o.status.success()).map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string()).unwrap_or_default()
}

/// Write `machine.json`.
pub fn record(run: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(&Machine::here())?;
    Ok(llm_run::atomic::write(run.join("machine.json"), text)?)
}
