//! Starting the ranks of `llm-data process`: here, under Slurm, or on Kubernetes.
//!
//! A launcher only starts processes and starts them again when they fail; what is complete is known from the completion records
//! (see [`crate::work`]), so there is no server, and a rank that is started once too often does no harm.

pub mod kubernetes;
pub mod local;
pub mod slurm;

use crate::error::{Error, Result};

/// The `llm-data process` call that every rank makes, without its rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The program; a path or a name to be found.
    pub program: String,
    /// `--config FILE`, if there is one.
    pub config: Option<String>,
    /// `--set KEY=VALUE`.
    pub sets: Vec<String>,
    /// `--out`.
    pub out: String,
    /// Number of ranks.
    pub world_size: usize,
}

impl Call {
    /// What no type can refuse.
    pub fn check(&self) -> Result<()> {
        if self.world_size == 0 {
            return Err(Error::Config("world size 0: at least one process has to do the work".into()));
        }
        Ok(())
    }

    /// Program and arguments, without `--rank`.
    pub fn arguments(&self) -> Vec<String> {
        let mut all = vec![self.program.clone(), "process".into()];
        if let Some(config) = &self.config {
            all.extend(["--config".into(), config.clone()]);
        }
        for set in &self.sets {
            all.extend(["--set".into(), set.clone()]);
        }
        all.extend(["--out".into(), self.out.clone(), "--world-size".into(), self.world_size.to_string()]);
        all
    }
}

/// A word of a shell script, whatever is in it.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.to_string() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
