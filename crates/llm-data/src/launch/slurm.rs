//! A Slurm array script: one task a rank.
//!
//! A task that fails starts again a few times within its own time limit; one that Slurm takes away (preemption, a lost node) is put
//! back into the queue. The last task to end puts the results together.

use super::{Call, shell_word};
use crate::error::{Error, Result};
use std::fmt::Write;

/// What a task gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slurm {
    /// Name of the job.
    pub job_name: String,
    /// Partition; the default one when empty.
    pub partition: String,
    /// Processors of a task.
    pub cpus: usize,
    /// Memory of a task, as Slurm writes it.
    pub memory: String,
    /// Time limit of a task, as Slurm writes it.
    pub time: String,
    /// Tasks at once; 0: as many as Slurm allows.
    pub at_once: usize,
    /// Attempts of a task at its own failures.
    pub attempts: usize,
    /// Folder of the logs.
    pub logs: String,
}

/// One `#SBATCH` line cannot hold line breaks, and Slurm cuts at blanks.
fn directive(name: &str, value: &str) -> Result<String> {
    if value.chars().any(|c| c.is_whitespace() || c.is_control() || "\"'\\#".contains(c)) {
        return Err(Error::Config(format!("--{name} `{value}`: Slurm's directives take no blanks, quotes or number signs; choose another value")));
    }
    Ok(format!("#SBATCH --{name}={value}\n"))
}

impl Slurm {
    /// The script for `sbatch`.
    pub fn script(&self, call: &Call) -> Result<String> {
        call.check()?;
        let limit = if self.at_once > 0 { format!("%{}", self.at_once) } else { String::new() };
        let mut text = String::from("#!/bin/bash\n");
        for (name, value) in [
            ("job-name", self.job_name.clone()),
            ("partition", self.partition.clone()),
            ("array", format!("0-{}{limit}", call.world_size - 1)),
            ("nodes", "1".into()),
            ("ntasks", "1".into()),
            ("cpus-per-task", self.cpus.to_string()),
            ("mem", self.memory.clone()),
            ("time", self.time.clone()),
            ("output", format!("{}/%x-%A-%a.log", self.logs.trim_end_matches('/'))),
            ("open-mode", "append".into()),
        ] {
            if !value.is_empty() {
                text += &directive(name, &value)?;
            }
        }
        text += "#SBATCH --requeue\n\nset -euo pipefail\n\n";
        text += "# Slurm writes no log where the folder is missing: make it before sbatch.\n";
        let words: Vec<String> = call.arguments().iter().map(|a| shell_word(a)).collect();
        let _ = write!(
            text,
            "export RAYON_NUM_THREADS=\"${{SLURM_CPUS_PER_TASK:-{cpus}}}\"\n\n\
             # Units that are complete are skipped, so another attempt goes on where the last one ended.\n\
             attempts={attempts}\n\
             # shellcheck disable=SC2016 # what is quoted is to arrive as it is\n\
             for ((attempt = 1; attempt <= attempts; attempt++)); do\n\
             \x20   status=0\n\
             \x20   {call} --rank \"${{SLURM_ARRAY_TASK_ID}}\" || status=$?\n\
             \x20   if ((status == 0 || status == 130)); then\n\
             \x20       exit \"${{status}}\"\n\
             \x20   fi\n\
             \x20   echo \"attempt ${{attempt}} of ${{attempts}} ended with status ${{status}}\" >&2\n\
             \x20   sleep $((attempt * 10))\n\
             done\n\
             exit \"${{status}}\"\n",
            cpus = self.cpus,
            attempts = self.attempts.max(1),
            call = words.join(" "),
        );
        Ok(text)
    }
}
