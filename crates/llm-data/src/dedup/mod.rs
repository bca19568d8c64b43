//! Duplicate removal in bounded memory: documents, near documents, lines, paragraphs, stretches of bytes.
//!
//! Everything that must be compared across the corpus becomes small records under a hash, cut into ranges of hash values, and each
//! range is sorted by itself, on disk where memory does not suffice. Memory therefore follows from the setting `memory` and not from
//! the corpus; about 9 bytes per document stay in arrays, and these move to files as well when they are too large.
//!
//! | phase | unit of work | reads | writes |
//! |---|---|---|---|
//! | [`signatures`] | part of the input | documents | records by range, signatures |
//! | [`ranges`] | range of hash values | records of all parts | pairs of documents |
//! | [`cluster`] | one | pairs, signatures | which document goes, in favour of which |
//! | [`spans`] | range of hash values | records of lines and places | which stretches go |
//! | [`remove`] | part of the input | documents, decisions | documents, audit |
//! | [`assemble`] | one | parts | the stage's folder |
//!
//! Units are shared among processes ([`crate::ranks`]) and each is done once ([`work`]); results depend neither on their number nor on
//! the memory nor on threads.

pub mod array;
pub mod assemble;
pub mod audit;
pub mod cluster;
pub mod config;
pub mod datatrove;
pub mod exact;
pub mod hashes;
pub mod minhash;
pub mod ranges;
pub mod records;
pub mod remove;
pub mod signatures;
pub mod simhash;
pub mod sorter;
pub mod spans;
pub mod substring;
pub mod work;

pub use config::{DedupConfig, Keep, Method, Profile};
pub use exact::normalised_hash;

use crate::error::{Error, Result, io};
use crate::funnel::Funnel;
use llm_run::Progress;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use work::{Plan, Work};

/// Run the stage. Process 0 returns the funnel of everything, another one that of its own parts.
pub fn dedup(config: &DedupConfig, out: &Path) -> Result<Funnel> {
    config.validate()?;
    let plan = Plan::new(config)?;
    if plan.documents == 0 {
        return Err(Error::Empty(format!("{}: holds no document; run the stage before this one", config.input.display())));
    }
    let folder = config.work.clone().unwrap_or_else(|| out.join("work"));
    let work = Work::open(&folder, &plan.fingerprint, config.ranks, Duration::from_secs(config.wait_seconds))?;
    let progress = Mutex::new(Progress::new("dedup", 2 * u64::from(plan.documents), "documents"));
    let shown = |documents: u64| progress.lock().unwrap_or_else(PoisonError::into_inner).inc(documents);

    let signer = signatures::Signer::new(config);
    let units = plan.units.len();
    // Parts of the input are done several at a time, and each of them on all threads, for the last ones and for large ones.
    let (at_once, share) = plan.shared(config.ranks, rayon::current_num_threads());
    work.units("signatures", units, at_once, |unit, dir| signatures::unit(&plan.units[unit], dir, &share, config, &signer, &shown))?;
    work.barrier("signatures", units)?;
    decide(&work, &plan, config)?;
    if [Method::Line, Method::Paragraph, Method::Substring].into_iter().any(|m| config.has(m)) {
        work.units("spans", plan.ranges, 1, |range, dir| spans::range(&work, &plan, config, range, dir))?;
        work.barrier("spans", plan.ranges)?;
    }
    let funnels = Mutex::new(BTreeMap::new());
    work.units("remove", units, at_once, |unit, dir| {
        let funnel = remove::unit(&work, &share, config, unit, dir, &shown)?;
        funnels.lock().unwrap_or_else(PoisonError::into_inner).insert(unit, funnel);
        Ok(())
    })?;
    if config.ranks.rank > 0 {
        let mut funnel = Funnel { stage: "dedup".into(), ..Funnel::default() };
        funnels.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().for_each(|f| assemble::add(&mut funnel, f));
        progress.into_inner().unwrap_or_else(PoisonError::into_inner).finish("parts of this process done");
        return Ok(funnel);
    }
    work.barrier("remove", units)?;
    let funnel = assemble::assemble(&work, &plan, &config.input, out)?;
    let root = work.root().to_path_buf();
    drop(work);
    if !config.keep_work {
        // Under another name first: killed while it removes, a run must not leave units that are there in part.
        let gone = folder.join("removed");
        if gone.exists() {
            std::fs::remove_dir_all(&gone).map_err(io(&gone, "cannot remove"))?;
        }
        std::fs::rename(&root, &gone).map_err(io(&root, "cannot rename"))?;
        std::fs::remove_dir_all(&folder).map_err(io(&folder, "cannot remove"))?;
    }
    progress.into_inner().unwrap_or_else(PoisonError::into_inner).finish(funnel.summary());
    Ok(funnel)
}

/// The phases between signatures and removal: which documents go.
pub fn decide(work: &Work, plan: &Plan, config: &DedupConfig) -> Result<()> {
    work.units("ranges", plan.ranges, 1, |range, dir| ranges::range(work, plan, config, range, dir))?;
    work.barrier("ranges", plan.ranges)?;
    if config.ranks.rank == 0 {
        work.forget("signatures", plan.units.len(), &["exact-", "near-", "sim-"])?;
    }
    work.units("cluster", 1, 1, |_, dir| cluster::cluster(work, plan, config, dir))?;
    work.barrier("cluster", 1)
}
