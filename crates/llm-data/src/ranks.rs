//! Which part of the work is whose: process `rank` of `world_size` equal ones takes every `world_size`-th unit.
//!
//! Output files are named by unit, never by rank, so any number of processes writes the same bytes.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// One of several processes that share a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranks {
    /// 0 to `world_size - 1`.
    pub rank: usize,
    /// Number of processes.
    pub world_size: usize,
}

impl Default for Ranks {
    fn default() -> Self {
        Self { rank: 0, world_size: 1 }
    }
}

impl Ranks {
    /// Checked.
    pub fn new(rank: usize, world_size: usize) -> Result<Self> {
        if rank >= world_size {
            return Err(Error::Config(format!("rank {rank} of world_size {world_size}: rank counts from 0 and must be below world_size")));
        }
        Ok(Self { rank, world_size })
    }

    /// True when unit `index` belongs to this process.
    pub fn mine(&self, index: usize) -> bool {
        index % self.world_size == self.rank
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_has_one_owner() {
        for world_size in 1..5 {
            for unit in 0..20 {
                assert_eq!((0..world_size).filter(|&rank| Ranks::new(rank, world_size).unwrap().mine(unit)).count(), 1);
            }
        }
        assert!(Ranks::new(2, 2).unwrap_err().to_string().contains("below world_size"));
    }
}
