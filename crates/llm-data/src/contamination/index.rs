//! The index: hashed n-grams of all benchmarks, each with the items it is from, small enough to ship.
//!
//! Texts of at least `n` words give all their n-grams; shorter ones of at least `min_words` words are looked for as a whole;
//! still shorter ones are counted and left out, since they are everyday phrases, and so are runs of numbers with fewer than
//! three words among them (the primes, tables). What occurs in more than `max_items` items
//! of the collection is a template ("which of these statements is true of the following ...") and left out too.

use super::benchmarks::{self, Item};
use super::normalise::{Normalisation, Rolling, Words, key, run_hash, words};
use crate::error::{Error, Result};
use llm_run::atomic::walk;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// How an index is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IndexConfig {
    /// Benchmark files and folders of them; also indexes (`.idx`) with the same settings, which are merged in.
    pub benchmarks: Vec<PathBuf>,
    /// Files whose path below the folder contains one of these are left out: training splits, prompts of judges, outputs.
    pub exclude: Vec<String>,
    /// Words per n-gram.
    pub n: usize,
    /// Shorter whole texts are not looked for.
    pub min_words: usize,
    /// N-grams of more items than this are templates.
    pub max_items: usize,
    /// What a word is.
    pub normalisation: Normalisation,
}

impl Default for IndexConfig {
    fn default() -> Self {
        let exclude = ["train", "judge_prompts", "example_", "answer_dict", "vlm/docs/", "LICENSE", "README"];
        Self {
            benchmarks: Vec::new(),
            exclude: exclude.map(String::from).to_vec(),
            n: 13,
            min_words: 8,
            max_items: 10,
            normalisation: Normalisation::Words,
        }
    }
}

/// What an index was made from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct IndexInfo {
    /// Words per n-gram.
    pub n: usize,
    /// Shortest whole text.
    pub min_words: usize,
    /// What a word is.
    pub normalisation: Normalisation,
    /// Names, in the order of the numbers in `files`.
    pub benchmarks: Vec<String>,
    /// Files in order.
    pub files: Vec<FileInfo>,
    /// N-grams and whole texts left out as templates.
    pub templates: u64,
}

/// One benchmark file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Path below the folder given.
    pub path: String,
    /// BLAKE3 of its bytes.
    pub blake3: String,
    /// Which of [`IndexInfo::benchmarks`].
    pub benchmark: usize,
    /// Items.
    pub items: u32,
    /// Items of which no text is long enough.
    pub too_short: u32,
}

/// Hashed n-grams with the items they are from.
#[derive(Debug, Clone, Default)]
pub struct Index {
    /// What it was made from.
    pub info: IndexInfo,
    /// Sorted.
    pub(super) keys: Vec<u64>,
    /// Item of each key, or [`SET`] plus an index into `sets`.
    pub(super) values: Vec<u32>,
    /// Items of the keys that have several.
    pub(super) sets: Vec<Vec<u32>>,
    /// Lengths of the whole texts in the index.
    pub(super) lengths: Vec<usize>,
    /// Keys of their first `min_words` words, sorted: only where one of these stands are the lengths tried.
    pub(super) anchors: Vec<u64>,
    anchor_filter: Vec<u64>,
    first_items: Vec<u32>,
    filter: Vec<u64>,
    slots: Vec<(u64, u32)>,
}

/// Words that are no numbers in an n-gram that counts.
const LEAST_WORDS: usize = 3;

/// Marks a value as an index of a set.
pub(super) const SET: u32 = 1 << 31;

fn is_index(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "idx")
}

fn files_of(config: &IndexConfig) -> Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for given in config.benchmarks.iter().filter(|p| !is_index(p)) {
        if given.is_file() {
            let name = given.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            files.push((given.clone(), name));
            continue;
        }
        if !given.is_dir() {
            return Err(Error::Format { path: given.clone(), message: "no such benchmark file or folder; correct `benchmarks`".into() });
        }
        for path in walk(given)? {
            let relative = path.strip_prefix(given).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            if benchmarks::is_readable(&path) && !config.exclude.iter().any(|e| relative.contains(e.as_str())) {
                files.push((path, relative));
            }
        }
    }
    if files.is_empty() && !config.benchmarks.iter().any(|p| is_index(p)) {
        return Err(Error::Empty("no benchmark file to index; name files or folders in `benchmarks` (csv, tsv, json, jsonl, txt)".into()));
    }
    Ok(files)
}

impl Index {
    /// Read the benchmarks and index them.
    pub fn build(config: &IndexConfig) -> Result<Self> {
        if !(2..=64).contains(&config.n) || !(1..=config.n).contains(&config.min_words) || config.max_items == 0 {
            return Err(Error::Config(format!(
                "contamination index: n = {} must lie between 2 and 64, min_words = {} between 1 and n, max_items = {} above 0",
                config.n, config.min_words, config.max_items
            )));
        }
        let mut info = IndexInfo { n: config.n, min_words: config.min_words, normalisation: config.normalisation, ..IndexInfo::default() };
        let (mut postings, mut seen, mut anchors) = (Vec::new(), HashSet::new(), Vec::new());
        let mut first = 0u32;
        for (path, relative) in files_of(config)? {
            let items = benchmarks::read(&path)?;
            let name = benchmarks::benchmark_name(Path::new(&relative));
            let benchmark = info.benchmarks.iter().position(|b| *b == name).unwrap_or_else(|| {
                info.benchmarks.push(name);
                info.benchmarks.len() - 1
            });
            let mut too_short = 0;
            for (i, item) in items.iter().enumerate() {
                too_short += u32::from(!add(item, first + i as u32, benchmark, config, &mut seen, &mut postings, &mut anchors));
            }
            let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
            first = first.checked_add(count).filter(|n| *n < SET).ok_or_else(|| Error::Config("more than 2^31 benchmark items".into()))?;
            info.files.push(FileInfo { path: relative, blake3: llm_run::hash::path(&path)?, benchmark, items: count, too_short });
        }
        let mut lengths: Vec<usize> = Vec::new();
        for path in config.benchmarks.iter().filter(|p| is_index(p)) {
            let other = Self::open(path)?;
            let theirs = (other.info.n, other.info.min_words, other.info.normalisation);
            if theirs != (info.n, info.min_words, info.normalisation) {
                let message = format!(
                    "made with (n, min_words, normalisation) = {theirs:?}, but this one with {:?}; they cannot be merged",
                    (info.n, info.min_words, info.normalisation)
                );
                return Err(Error::Format { path: path.clone(), message });
            }
            for (key, value) in other.keys.iter().zip(&other.values) {
                let items = if value & SET == 0 { std::slice::from_ref(value) } else { &other.sets[(value & !SET) as usize] };
                postings.extend(items.iter().map(|item| (*key, first + item, config.n as u8)));
            }
            anchors.extend_from_slice(&other.anchors);
            lengths.extend_from_slice(&other.lengths);
            info.templates += other.info.templates;
            for file in other.info.files {
                let name = &other.info.benchmarks[file.benchmark];
                let benchmark = info.benchmarks.iter().position(|b| b == name).unwrap_or_else(|| {
                    info.benchmarks.push(name.clone());
                    info.benchmarks.len() - 1
                });
                first = first.checked_add(file.items).filter(|n| *n < SET).ok_or_else(|| Error::Config("more than 2^31 benchmark items".into()))?;
                info.files.push(FileInfo { benchmark, ..file });
            }
        }
        lengths.extend(postings.iter().map(|p: &(u64, u32, u8)| usize::from(p.2)).filter(|m| *m < config.n));
        lengths.sort_unstable();
        lengths.dedup();
        postings.sort_unstable();
        postings.dedup();
        let (mut keys, mut values, mut sets) = (Vec::new(), Vec::new(), Vec::new());
        for group in postings.chunk_by(|a, b| a.0 == b.0) {
            let mut items: Vec<u32> = group.iter().map(|p| p.1).collect();
            items.dedup();
            match items.len() {
                1 => values.push(items[0]),
                n if n > config.max_items => {
                    info.templates += 1;
                    continue;
                }
                _ => {
                    values.push(SET | sets.len() as u32);
                    sets.push(items);
                }
            }
            keys.push(group[0].0);
        }
        anchors.sort_unstable();
        anchors.dedup();
        Ok(Self::assemble(info, keys, values, sets, lengths, anchors))
    }

    pub(super) fn assemble(info: IndexInfo, keys: Vec<u64>, values: Vec<u32>, sets: Vec<Vec<u32>>, lengths: Vec<usize>, anchors: Vec<u64>) -> Self {
        let first_items = info.files.iter().scan(0u32, |n, f| Some(std::mem::replace(n, *n + f.items))).collect();
        let mut anchor_filter = vec![0u64; (anchors.len().max(64) * 16).next_power_of_two() / 64];
        for key in &anchors {
            let bit = *key as usize & (anchor_filter.len() * 64 - 1);
            anchor_filter[bit / 64] |= 1 << (bit % 64);
        }
        // Sixteen bits a key for the filter, twice the keys for the table.
        let bits = (keys.len().max(64) * 16).next_power_of_two();
        let mut filter = vec![0u64; bits / 64];
        let size = (keys.len().max(8) * 2).next_power_of_two();
        let mut slots = vec![(0u64, u32::MAX); size];
        for (key, value) in keys.iter().zip(&values) {
            let bit = *key as usize & (bits - 1);
            filter[bit / 64] |= 1 << (bit % 64);
            let mut at = (*key >> 32) as usize & (size - 1);
            while slots[at].1 != u32::MAX {
                at = (at + 1) & (size - 1);
            }
            slots[at] = (*key, *value);
        }
        Self { info, keys, values, sets, lengths, anchors, anchor_filter, first_items, filter, slots }
    }

    /// Number of hashed n-grams and whole texts.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True when nothing is indexed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// True when a whole text may start with these words.
    #[inline]
    pub(super) fn starts_text(&self, key: u64) -> bool {
        let bit = key as usize & (self.anchor_filter.len() * 64 - 1);
        self.anchor_filter[bit / 64] >> (bit % 64) & 1 == 1 && self.anchors.binary_search(&key).is_ok()
    }

    /// The items of a key.
    #[inline]
    pub(super) fn get(&self, key: u64) -> Option<&[u32]> {
        let bit = key as usize & (self.filter.len() * 64 - 1);
        if self.filter[bit / 64] >> (bit % 64) & 1 == 0 {
            return None;
        }
        let mut at = (key >> 32) as usize & (self.slots.len() - 1);
        loop {
            let (found, value) = &self.slots[at];
            match value {
                &u32::MAX => return None,
                value if *found == key => {
                    return Some(if value & SET == 0 { std::slice::from_ref(value) } else { &self.sets[(value & !SET) as usize] });
                }
                _ => at = (at + 1) & (self.slots.len() - 1),
            }
        }
    }

    /// The benchmark's number of an item, and the item's name: file and number in it.
    pub fn item(&self, item: u32) -> (usize, String) {
        let file = self.first_items.partition_point(|first| *first <= item).saturating_sub(1);
        self.info.files.get(file).map_or((0, String::new()), |f| (f.benchmark, format!("{}#{}", f.path, item - self.first_items[file])))
    }

    /// The benchmark's number of an item.
    pub fn benchmark_of(&self, item: u32) -> usize {
        let file = self.first_items.partition_point(|first| *first <= item).saturating_sub(1);
        self.info.files.get(file).map_or(0, |f| f.benchmark)
    }
}

/// Post the n-grams of an item; false when it has none.
fn add(
    item: &Item,
    number: u32,
    benchmark: usize,
    config: &IndexConfig,
    seen: &mut HashSet<(usize, u64)>,
    postings: &mut Vec<(u64, u32, u8)>,
    anchors: &mut Vec<u64>,
) -> bool {
    let (mut out, mut any) = (Words::default(), false);
    for (i, text) in item.texts.iter().enumerate() {
        words(text, config.normalisation, &mut out);
        let n = out.hashes.len();
        if n < config.min_words || n < config.n && i > 0 && !text.starts_with(item.texts[0].as_str()) {
            // Short answers are everyday phrases; only what is asked is looked for as a whole.
            continue;
        }
        any = true;
        // The same text in another file of the benchmark (compressed copies, canaries) is no second item.
        if !seen.insert((benchmark, key(run_hash(&out.hashes), 0))) {
            continue;
        }
        let is_word = |span: &(u32, u32)| !text.as_bytes()[span.0 as usize].is_ascii_digit();
        let telling = |spans: &[(u32, u32)]| spans.iter().filter(|s| is_word(s)).take(LEAST_WORDS).count() == LEAST_WORDS;
        if n >= config.n {
            let runs = Rolling::new(&out.hashes, config.n).zip(out.spans.windows(config.n));
            postings.extend(runs.filter(|(_, spans)| telling(spans)).map(|(h, _)| (key(h, config.n), number, config.n as u8)));
        } else if telling(&out.spans) {
            postings.push((key(run_hash(&out.hashes), n), number, n as u8));
            anchors.push(key(run_hash(&out.hashes[..config.min_words]), config.min_words));
        }
    }
    any
}
