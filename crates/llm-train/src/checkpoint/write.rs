//! Writing checkpoints beside the training.
//!
//! Tensors are immutable once shared, so a snapshot costs no copy: the thread holds on to the weights and moments of its step, and the
//! next update of the loop makes new buffers for what is still being written. At most one is being written; the next waits for it.
//! An error of the thread comes out at the next look.

use super::{OPTIMIZER, Retention, State, files, folder};
use crate::optimizer::Optimizer;
use crate::trainable::Trainable;
use crate::{Error, Result};
use llm_run::atomic::AtomicDir;
use llm_tensor::weights::SaveOptions;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// All that a checkpoint holds.
#[derive(Debug)]
pub struct Snapshot<M> {
    /// The model, without autodiff.
    pub model: M,
    /// Moments.
    pub optimizer: Optimizer,
    /// The rest.
    pub state: State,
}

/// Write one checkpoint: files, checksums, flushes to the disk, then the rename.
pub fn save<M: Trainable>(dir: &Path, snapshot: Snapshot<M>) -> Result<()> {
    let Snapshot { model, optimizer, mut state } = snapshot;
    let new = AtomicDir::create(folder(dir, state.step))?;
    model.save(new.path(), SaveOptions::default())?;
    optimizer.save(&new.path().join(OPTIMIZER))?;
    for file in files(&model) {
        state.checksums.insert(file.to_string(), llm_run::hash::path(new.path().join(file))?);
    }
    let text = serde_json::to_string_pretty(&state).unwrap_or_default();
    llm_run::atomic::write(new.path().join("trainer.json"), text)?;
    Ok(new.commit()?)
}

/// The thread that writes, if there is something to write.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    retention: Retention,
    beside: bool,
    running: Option<(u64, JoinHandle<Result<()>>)>,
}

impl Writer {
    /// Into `dir`; `beside` the training or in its way.
    pub fn new(dir: PathBuf, retention: Retention, beside: bool) -> Self {
        Self { dir, retention, beside, running: None }
    }

    /// Start writing, after what is being written.
    pub fn submit<M: Trainable + 'static>(&mut self, snapshot: Snapshot<M>) -> Result<()> {
        self.wait()?;
        let (dir, retention, step) = (self.dir.clone(), self.retention, snapshot.state.step);
        let work = move || {
            save(&dir, snapshot)?;
            retention.apply(&dir);
            Ok(())
        };
        if !self.beside {
            return work();
        }
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(work);
        self.running = Some((step, thread.map_err(|e| Error::Config(format!("cannot start the checkpoint thread: {e}")))?));
        Ok(())
    }

    /// Wait for what is being written.
    pub fn wait(&mut self) -> Result<()> {
        let Some((step, thread)) = self.running.take() else { return Ok(()) };
        let ended = || Err(Error::Config(format!("the thread that writes the checkpoint of step {step} ended by itself")));
        thread.join().unwrap_or_else(|_| ended())
    }

    /// The error of what has been written meanwhile, if there was one; without waiting.
    pub fn look(&mut self) -> Result<()> {
        if self.running.as_ref().is_some_and(|(_, thread)| thread.is_finished()) { self.wait() } else { Ok(()) }
    }
}

/// A run that stops for another reason still finishes what it began to write.
impl Drop for Writer {
    fn drop(&mut self) {
        if let Some((_, thread)) = self.running.take() {
            let _ = thread.join();
        }
    }
}
