//! An array of numbers by document: in memory while small, else a mapped file that the system may page out.

use crate::error::{Result, io};
use memmap2::MmapMut;
use std::fs::File;
use std::path::Path;

/// `u32` per document.
#[derive(Debug)]
pub enum Array {
    /// Small enough.
    Memory(Vec<u32>),
    /// On file.
    Mapped(MmapMut),
}

impl Array {
    /// `len` numbers `f(index)`; beyond `memory` bytes they live in the new file `path`.
    pub fn new(path: &Path, len: usize, memory: usize, f: impl Fn(u32) -> u32) -> Result<Self> {
        if len * 4 <= memory {
            return Ok(Self::Memory((0..len as u32).map(f).collect()));
        }
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path).map_err(io(path, "cannot create"))?;
        file.set_len(len as u64 * 4).map_err(io(path, "cannot grow"))?;
        // SAFETY: the file was just created in this process's own work folder, which is locked against other processes of the same
        // rank; nothing else writes to or truncates it while it is mapped.
        let map = unsafe { MmapMut::map_mut(&file) }.map_err(io(path, "cannot map"))?;
        let mut array = Self::Mapped(map);
        for index in 0..len as u32 {
            array.set(index, f(index));
        }
        Ok(array)
    }

    /// Number `index`.
    pub fn get(&self, index: u32) -> u32 {
        let index = index as usize;
        match self {
            Self::Memory(v) => v[index],
            Self::Mapped(m) => u32::from_le_bytes([m[4 * index], m[4 * index + 1], m[4 * index + 2], m[4 * index + 3]]),
        }
    }

    /// Change number `index`.
    pub fn set(&mut self, index: u32, value: u32) {
        let index = index as usize;
        match self {
            Self::Memory(v) => v[index] = value,
            Self::Mapped(m) => m[4 * index..4 * index + 4].copy_from_slice(&value.to_le_bytes()),
        }
    }
}

/// Disjoint sets; the root of a set is always its smallest member, so the sets do not depend on the order of the edges.
#[derive(Debug)]
pub struct Sets(Array);

impl Sets {
    /// `len` sets of one.
    pub fn new(path: &Path, len: usize, memory: usize) -> Result<Self> {
        Ok(Self(Array::new(path, len, memory, |i| i)?))
    }

    /// The root; halves the path on the way.
    pub fn find(&mut self, mut i: u32) -> u32 {
        loop {
            let parent = self.0.get(i);
            if parent == i {
                return i;
            }
            let grandparent = self.0.get(parent);
            self.0.set(i, grandparent);
            i = grandparent;
        }
    }

    /// Join two sets.
    pub fn unite(&mut self, a: u32, b: u32) {
        let (a, b) = (self.find(a), self.find(b));
        self.0.set(a.max(b), a.min(b));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn on_file_and_in_memory_and_in_any_order_the_sets_are_the_same(edges in proptest::collection::vec((0u32..60, 0u32..60), 0..80)) {
            let dir = tempfile::tempdir().unwrap();
            let mut memory = Sets::new(&dir.path().join("a"), 60, 1 << 20).unwrap();
            let mut file = Sets::new(&dir.path().join("b"), 60, 0).unwrap();
            prop_assert!(matches!(file.0, Array::Mapped(_)));
            for (a, b) in &edges {
                memory.unite(*a, *b);
            }
            for (a, b) in edges.iter().rev() {
                file.unite(*b, *a);
            }
            for i in 0..60 {
                let root = memory.find(i);
                prop_assert_eq!(root, file.find(i));
                prop_assert!(root <= i);
            }
        }
    }
}
