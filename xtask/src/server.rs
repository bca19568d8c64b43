//! An `llm-serve` process for as long as we need one: started on a free port, waited for, ended with us.

use crate::client::Client;
use crate::programs;
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);

/// A running server; dropping it ends the process.
#[derive(Debug)]
pub struct Server {
    child: Child,
    url: String,
    log: PathBuf,
}

impl Server {
    /// Serve `model` on a free port of this machine and wait until it answers, or until `stop` says so.
    pub fn start(model: &Path, device: &str, stop: &dyn Fn() -> bool) -> Result<Self> {
        if !model.join("config.json").exists() {
            bail!("{}: no model here (expected a folder with config.json and model.safetensors)", model.display());
        }
        programs::build(["llm-serve"], &[device])?;
        let program = programs::locate("llm-serve")?;
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).context("cannot find a free port")?.port();
        let log = std::env::temp_dir().join(format!("llm-serve-{port}.log"));
        let file = File::create(&log).with_context(|| format!("{}: cannot create", log.display()))?;
        let mut command = Command::new(&program);
        command.arg("serve").arg("--model").arg(model).args(["--host", "127.0.0.1", "--port", &port.to_string(), "--device", device]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        // Ctrl-C in a terminal is for us: it stops an answer, not the server.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let mut server = Self { child, url: format!("http://127.0.0.1:{port}"), log };
        server.wait(stop)?;
        Ok(server)
    }

    /// Its base address.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn wait(&mut self, stop: &dyn Fn() -> bool) -> Result<()> {
        let client = Client::new(&self.url)?;
        let started = Instant::now();
        while client.ready().is_err() {
            if let Some(status) = self.child.try_wait().context("cannot wait for llm-serve")? {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let last = log.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("it said nothing").to_string();
                bail!("llm-serve ended with {}: {last}", crate::process::describe(status));
            }
            if stop() {
                bail!("interrupted while the model was loading");
            }
            if started.elapsed() > PATIENCE {
                bail!("llm-serve does not answer on {} after {} s; its log: {}", self.url, PATIENCE.as_secs(), self.log.display());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.log);
    }
}
