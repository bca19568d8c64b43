//! The plan of a stage: sources cut into units of about equal size, the same for every rank.
//!
//! Only lists are read for it, no object. A unit owns what *begins* in its range of bytes, so where exactly lines, records and row
//! groups lie is found out by whoever works on it:
//!
//! | format | owns |
//! |---|---|
//! | JSON lines, uncompressed | the lines that begin in the range |
//! | Parquet | the row groups that begin in the range |
//! | `.warc.gz` | the records (gzip members) that begin in the range |
//! | anything else | is never split |
//!
//! Small objects that follow each other share a unit, up to [`MOST_PARTS`] of them.

use super::ProcessConfig;
use crate::error::{Error, Result};
use crate::store::{self, Location, Object};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Objects of one unit at most.
pub const MOST_PARTS: usize = 4096;

/// How an object may be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// At lines.
    Lines,
    /// At row groups.
    RowGroups,
    /// At gzip members.
    Members,
    /// Not at all.
    Never,
}

impl Split {
    /// By name.
    pub fn of(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        if name.ends_with(".jsonl") || name.ends_with(".ndjson") {
            Self::Lines
        } else if name.ends_with(".parquet") {
            Self::RowGroups
        } else if name.ends_with(".warc.gz") || name.ends_with(".wet.gz") {
            Self::Members
        } else {
            Self::Never
        }
    }
}

/// An object, or the part of it that begins in `start..end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The object.
    pub object: Object,
    /// Beginning of the ids of its documents: the name of the source and the path below it.
    pub label: String,
    /// First byte.
    pub start: u64,
    /// Byte after the last.
    pub end: u64,
}

impl Part {
    /// True when this is the whole object.
    pub fn is_whole(&self) -> bool {
        self.start == 0 && self.end == self.object.size
    }

    /// The label, with the offset where an object is split: rows and records are numbered from there.
    pub fn id(&self) -> String {
        if self.start == 0 { self.label.clone() } else { format!("{}@{}", self.label, self.start) }
    }

    /// What makes two parts the same.
    pub fn identity(&self) -> Value {
        json!([self.object.location, self.label, self.object.size, self.object.version, self.start, self.end])
    }
}

/// What one process does at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// 0, 1, 2, ... in the order of the plan.
    pub number: usize,
    /// Objects or one range of an object.
    pub parts: Vec<Part>,
}

impl Unit {
    /// Bytes to read.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|p| p.end - p.start).sum()
    }
}

/// Cut the sources into units.
pub fn plan(config: &ProcessConfig) -> Result<Vec<Unit>> {
    config.check()?;
    let mut units: Vec<Unit> = Vec::new();
    let mut labels = BTreeSet::new();
    for address in &config.input {
        let location = Location::parse(address)?;
        let objects = store::list(&location)?;
        if objects.is_empty() {
            let message = "nothing there; correct `input`, or wait until what it names is written".into();
            return Err(Error::Format { path: location.display_path(), message });
        }
        let name = location.name();
        let label = (1..).map(|n| if n == 1 { name.clone() } else { format!("{name}~{n}") }).find(|l| !labels.contains(l)).unwrap_or(name);
        labels.insert(label.clone());
        for object in objects {
            let itself = object.location == location;
            let id = if itself { label.clone() } else { format!("{label}/{}", object.relative) };
            if !config.paths.exclude.iter().any(|e| id.contains(e.as_str())) {
                cut(object, id, config.unit_bytes, &mut units);
            }
        }
    }
    if units.is_empty() {
        return Err(Error::Empty(format!("{}: everything is excluded by paths.exclude; nothing to read", config.input.join(", "))));
    }
    Ok(units)
}

fn cut(object: Object, label: String, unit_bytes: u64, units: &mut Vec<Unit>) {
    let size = object.size;
    if size > unit_bytes + unit_bytes / 2 && Split::of(&label) != Split::Never {
        let pieces = size.div_ceil(unit_bytes);
        for i in 0..pieces {
            // Equal pieces, so that the last is not a sliver.
            let at = |i: u64| (u128::from(size) * u128::from(i) / u128::from(pieces)) as u64;
            let part = Part { object: object.clone(), label: label.clone(), start: at(i), end: at(i + 1) };
            units.push(Unit { number: units.len(), parts: vec![part] });
        }
        return;
    }
    let part = Part { object, label, start: 0, end: size };
    match units.last_mut() {
        Some(unit) if unit.bytes() + size <= unit_bytes && unit.parts.len() < MOST_PARTS && unit.parts.iter().all(Part::is_whole) => {
            unit.parts.push(part);
        }
        _ => units.push(Unit { number: units.len(), parts: vec![part] }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, size: u64) -> Object {
        Object { location: Location::local(name), relative: name.to_string(), size, version: "v".into() }
    }

    fn cut_all(objects: &[(&str, u64)]) -> Vec<Vec<(u64, u64)>> {
        let mut units = Vec::new();
        for (name, size) in objects {
            cut(object(name, *size), (*name).to_string(), 1000, &mut units);
        }
        assert!(units.iter().enumerate().all(|(i, u)| u.number == i));
        units.iter().map(|u| u.parts.iter().map(|p| (p.start, p.end)).collect()).collect()
    }

    #[test]
    fn large_objects_are_split_where_the_format_allows_and_small_ones_share() {
        assert_eq!(cut_all(&[("a.jsonl", 3500)]), [[(0, 875)], [(875, 1750)], [(1750, 2625)], [(2625, 3500)]]);
        assert_eq!(cut_all(&[("a.jsonl.gz", 3500)]), [[(0, 3500)]]);
        assert_eq!(cut_all(&[("a.jsonl", 1500)]), [[(0, 1500)]], "one and a half units stay one");
        assert_eq!(cut_all(&[("a.txt", 300), ("b.txt", 300), ("c.txt", 300), ("d.txt", 300)]), [vec![(0, 300); 3], vec![(0, 300)]]);
        // What follows a split object does not join its last piece.
        assert_eq!(cut_all(&[("a.warc.gz", 2000), ("b.txt", 1)]), [[(0, 1000)], [(1000, 2000)], [(0, 1)]]);
    }
}
