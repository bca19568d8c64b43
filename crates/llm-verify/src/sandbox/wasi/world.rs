//! What a program in WebAssembly can reach: arguments, descriptors, a clock, numbers, and the bound on its memory.

use super::files::{Content, Files, Id, ROOT};
use super::guest::Errno;
use llm_run::{Rng, Seed};
use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use wasmtime::{Memory, ResourceLimiter};

/// Entries of a table of functions; CPython has some thousands.
const MOST_ENTRIES: usize = 1 << 20;

/// What a descriptor stands for.
#[derive(Debug)]
pub(super) enum Opened {
    /// Standard input, which is at its end.
    Input,
    /// Standard output.
    Output,
    /// Standard error.
    Errors,
    /// A file.
    File { node: Id, at: u64, append: bool, read: bool, write: bool },
    /// A folder; `name` is the path of one that is open from the beginning, `listing` what a reader of it sees.
    Folder { node: Id, name: Option<&'static str>, listing: Vec<(String, Id)> },
}

/// Everything of one program.
pub(super) struct World {
    pub(super) memory: Option<Memory>,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<String>,
    pub(super) files: Files,
    pub(super) opened: Vec<Option<Opened>>,
    pub(super) random: Rng,
    pub(super) start: Instant,
    most_opened: usize,
    most_memory: usize,
    /// It asked for more memory than it may have.
    pub(super) denied: bool,
}

impl World {
    /// `/tmp/program.py`, `/dev/null`, and nothing else.
    pub(super) fn new(program: &str, arguments: Vec<String>, limits: &super::Limits) -> Result<Self, String> {
        let now = now();
        let mut files = Files::new(limits.disk_bytes);
        let mut make = |base: Id, name: &str, content: Content| {
            let place = files.find(base, name)?;
            files.create(&place, content, now)
        };
        let tree = (|| {
            let tmp = make(ROOT, "tmp", Content::Folder(BTreeMap::new()))?;
            let dev = make(ROOT, "dev", Content::Folder(BTreeMap::new()))?;
            make(dev, "null", Content::Null)?;
            make(tmp, "program.py", Content::File(program.as_bytes().to_vec()))?;
            Ok::<_, Errno>((tmp, dev))
        })();
        let (tmp, dev) = tree.map_err(|_| "the program does not fit into the temporary folder; raise disk_bytes")?;
        let folder = |node, name| Some(Opened::Folder { node, name: Some(name), listing: Vec::new() });
        let opened = vec![Some(Opened::Input), Some(Opened::Output), Some(Opened::Errors), folder(tmp, "/tmp"), folder(dev, "/dev")];
        Ok(World {
            memory: None,
            arguments,
            environment: ["HOME=/tmp", "TMPDIR=/tmp"].map(String::from).to_vec(),
            files,
            opened,
            // The same for every program: a verdict does not depend on luck.
            random: Seed(0).stream("wasi").rng(),
            start: Instant::now(),
            most_opened: usize::try_from(limits.open_files).unwrap_or(usize::MAX),
            most_memory: usize::try_from(limits.memory_bytes).unwrap_or(usize::MAX),
            denied: false,
        })
    }

    /// What a descriptor stands for.
    pub(super) fn get(&mut self, fd: u32) -> Result<&mut Opened, Errno> {
        self.opened.get_mut(fd as usize).and_then(Option::as_mut).ok_or(Errno::BADF)
    }

    /// The node of a folder's descriptor.
    pub(super) fn folder(&self, fd: u32) -> Result<Id, Errno> {
        match self.opened.get(fd as usize).and_then(Option::as_ref) {
            Some(Opened::Folder { node, .. }) => Ok(*node),
            Some(_) => Err(Errno::NOTDIR),
            None => Err(Errno::BADF),
        }
    }

    /// The node of any descriptor that has one.
    pub(super) fn node(&self, fd: u32) -> Result<Option<Id>, Errno> {
        match self.opened.get(fd as usize).and_then(Option::as_ref) {
            Some(Opened::Folder { node, .. } | Opened::File { node, .. }) => Ok(Some(*node)),
            Some(_) => Ok(None),
            None => Err(Errno::BADF),
        }
    }

    /// The lowest free descriptor, for `what` with the node `node`.
    pub(super) fn open(&mut self, node: Id, what: Opened) -> Result<u32, Errno> {
        let free = self.opened.iter().position(Option::is_none).unwrap_or(self.opened.len());
        if free >= self.most_opened {
            return Err(Errno::MFILE);
        }
        self.files.hold(node)?;
        if free == self.opened.len() {
            self.opened.push(None);
        }
        self.opened[free] = Some(what);
        u32::try_from(free).map_err(|_| Errno::MFILE)
    }

    /// Close a descriptor.
    pub(super) fn close(&mut self, fd: u32) -> Result<(), Errno> {
        match self.opened.get_mut(fd as usize).and_then(Option::take) {
            Some(Opened::File { node, .. } | Opened::Folder { node, name: None, .. }) => self.files.let_go(node),
            Some(_) => {}
            None => return Err(Errno::BADF),
        }
        Ok(())
    }
}

/// Nanoseconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|d| u64::try_from(d.as_nanos()).ok()).unwrap_or(0)
}

impl ResourceLimiter for World {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = desired <= self.most_memory;
        self.denied |= !allowed;
        Ok(allowed)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= MOST_ENTRIES)
    }

    fn instances(&self) -> usize {
        1
    }

    fn memories(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        4
    }
}
