//! `llm-data launch`: all ranks of `llm-data process`, here, as a Slurm script, or as a Kubernetes manifest.

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use llm_data::launch::kubernetes::Kubernetes;
use llm_data::launch::slurm::Slurm;
use llm_data::launch::{Call, local};
use llm_data::store::Location;
use llm_data::work::{self, Finished, ProcessConfig};
use std::path::PathBuf;

/// Where the ranks run.
#[derive(Debug, Subcommand)]
pub enum LaunchCommand {
    /// Run all ranks on this machine
    Local(LocalArgs),
    /// Write an array script for sbatch
    Slurm(SlurmArgs),
    /// Write a manifest with an Indexed Job for kubectl
    Kubernetes(KubernetesArgs),
}

#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    run: llm_run::Args,
    /// Number of ranks.
    #[arg(long, value_name = "N")]
    world_size: usize,
    /// Attempts at a rank that fails.
    #[arg(long, value_name = "N", default_value_t = 3)]
    attempts: usize,
}

impl Common {
    fn call(&self, program: String) -> Call {
        let text = |p: &PathBuf| p.to_string_lossy().into_owned();
        Call {
            program,
            config: self.run.config.as_ref().map(text),
            sets: self.run.sets.clone(),
            out: text(&self.run.out),
            world_size: self.world_size,
        }
    }
}

/// Flags of `launch local`.
#[derive(Debug, Args)]
pub struct LocalArgs {
    #[command(flatten)]
    common: Common,
}

/// Flags of `launch slurm`.
#[derive(Debug, Args)]
pub struct SlurmArgs {
    #[command(flatten)]
    common: Common,
    /// The script to write.
    #[arg(long, value_name = "FILE")]
    script: PathBuf,
    /// Name of the job.
    #[arg(long, default_value = "llm-data")]
    job_name: String,
    /// Partition; without it the default one.
    #[arg(long, default_value = "")]
    partition: String,
    /// Processors of a task.
    #[arg(long, default_value_t = 4)]
    cpus: usize,
    /// Memory of a task.
    #[arg(long, default_value = "8G")]
    memory: String,
    /// Time limit of a task.
    #[arg(long, default_value = "04:00:00")]
    time: String,
    /// Tasks at once; 0: no limit.
    #[arg(long, default_value_t = 0)]
    at_once: usize,
    /// Folder of the logs; must exist.
    #[arg(long, default_value = "logs")]
    logs: String,
    /// The program on the nodes.
    #[arg(long, default_value = "llm-data")]
    program: String,
}

/// Flags of `launch kubernetes`.
#[derive(Debug, Args)]
pub struct KubernetesArgs {
    #[command(flatten)]
    common: Common,
    /// The manifest to write.
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
    /// Name of the job.
    #[arg(long, default_value = "llm-data")]
    name: String,
    /// Namespace; without it the current one.
    #[arg(long, default_value = "")]
    namespace: String,
    /// Image that holds the program.
    #[arg(long)]
    image: String,
    /// Processors of a pod.
    #[arg(long, default_value = "4")]
    cpus: String,
    /// Memory of a pod.
    #[arg(long, default_value = "8Gi")]
    memory: String,
    /// Pods at once; 0: all.
    #[arg(long, default_value_t = 0)]
    at_once: usize,
    /// Secret with the credentials of the buckets as variables.
    #[arg(long, default_value = "")]
    secret: String,
    /// A variable that is no secret (repeatable).
    #[arg(long = "env", value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Persistent volume claim, mounted at /data.
    #[arg(long, default_value = "")]
    claim: String,
    /// The program in the image.
    #[arg(long, default_value = "llm-data")]
    program: String,
}

/// Run the command.
pub fn run(command: &LaunchCommand) -> Result<()> {
    match command {
        LaunchCommand::Local(args) => local_ranks(args),
        LaunchCommand::Slurm(args) => slurm(args),
        LaunchCommand::Kubernetes(args) => kubernetes(args),
    }
}

fn local_ranks(args: &LocalArgs) -> Result<()> {
    llm_run::program::catch_interrupts();
    let config: ProcessConfig = args.common.run.load()?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let call = args.common.call(program.to_string_lossy().into_owned());
    let threads = std::thread::available_parallelism().map_or(1, usize::from) / call.world_size.max(1);
    local::launch(&call, args.common.attempts, threads)?;
    match work::finish(&config, &Location::parse(&call.out)?)? {
        Finished::Whole(funnel) => println!("{}", funnel.summary()),
        Finished::Missing { units, first } => anyhow::bail!("{units} units are not complete (the first is {first}); run the same command again"),
    }
    Ok(())
}

fn slurm(args: &SlurmArgs) -> Result<()> {
    // A configuration that cannot be read is better found now than by a thousand tasks.
    args.common.run.load::<ProcessConfig>()?.check()?;
    let slurm = Slurm {
        job_name: args.job_name.clone(),
        partition: args.partition.clone(),
        cpus: args.cpus,
        memory: args.memory.clone(),
        time: args.time.clone(),
        at_once: args.at_once,
        attempts: args.common.attempts,
        logs: args.logs.clone(),
    };
    llm_run::atomic::write(&args.script, slurm.script(&args.common.call(args.program.clone()))?)?;
    println!("sbatch {}", args.script.display());
    Ok(())
}

fn kubernetes(args: &KubernetesArgs) -> Result<()> {
    args.common.run.load::<ProcessConfig>()?.check()?;
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').with_context(|| format!("--env {text}: expected NAME=VALUE"))?;
        anyhow::Ok((name.to_string(), value.to_string()))
    };
    let kubernetes = Kubernetes {
        name: args.name.clone(),
        namespace: args.namespace.clone(),
        image: args.image.clone(),
        cpus: args.cpus.clone(),
        memory: args.memory.clone(),
        at_once: args.at_once,
        attempts: args.common.attempts,
        secret: args.secret.clone(),
        env: args.env.iter().map(pair).collect::<Result<_>>()?,
        claim: args.claim.clone(),
    };
    let config = match &args.common.run.config {
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()))?),
        None => None,
    };
    llm_run::atomic::write(&args.manifest, kubernetes.manifest(&args.common.call(args.program.clone()), config.as_deref())?)?;
    println!("kubectl apply -f {}", args.manifest.display());
    Ok(())
}
