//! The stage `filter`: documents through the profiles, in parallel, in their order.

use super::tutorial::{self, references};
use super::{FilterConfig, Models, apply, profiles};
use crate::document::{Ahead, Document, DocumentWriter, ahead};
use crate::error::{Error, Result, check_interrupt};
use crate::funnel::{Drop, Funnel, FunnelWriter, excerpt};
use crate::quality::QualityModel;
use crate::signals::SignalsWriter;
use crate::step::{Reason, Trace};
use llm_run::Progress;
use rayon::prelude::*;
use std::path::Path;

/// Run the stage.
pub fn filter(config: &FilterConfig, out: &Path) -> Result<Funnel> {
    filter_with(config, Models::default(), out)
}

/// A document after all steps: its size and beginning before, what became of it.
struct Judged {
    document: Document,
    bytes: usize,
    excerpt: Option<String>,
    dropped: Option<Reason>,
    trace: Trace,
}

/// Run the stage with models for the profiles that need one.
pub fn filter_with(config: &FilterConfig, mut models: Models, out: &Path) -> Result<Funnel> {
    let train = config.quality.enabled && models.quality.is_none() && config.profiles.iter().any(|p| p == tutorial::NAME);
    // Unknown names and unreadable lists are reported before anything is created.
    let checks: Vec<String> = profiles(config, &models)?.iter().flat_map(|p| p.checks()).collect();
    let names: Vec<&str> = checks.iter().map(String::as_str).collect();
    let mut funnel = FunnelWriter::create(out, "filter", &names)?;
    let total = crate::document::count(&config.input)?;
    let mut progress = Progress::new("filter", total, "documents");
    if train {
        let references = references(config)?;
        models.quality = QualityModel::train(&references, &config.quality, config.seed);
        if models.quality.is_none() {
            funnel.notice(format!("no quality score: {} reference documents, {} needed", references.len(), config.quality.min_references));
        }
    }
    let steps = profiles(config, &models)?;
    let rules = steps.iter().flat_map(|p| p.rules()).collect::<Vec<_>>();
    let mut signals = if config.signals { Some(SignalsWriter::create(&out.join("signals"), &rules)?) } else { None };
    let mut writer = DocumentWriter::create(&out.join("documents"))?;
    let judge = |mut document: Document| {
        let bytes = document.text.len();
        // Profiles may change the text; the record shows it as it came.
        let before = config.signals.then(|| excerpt(&document.text));
        let (dropped, trace) = apply(&steps, &mut document, config.signals)?;
        let excerpt = dropped.as_ref().map(|_| before.unwrap_or_else(|| excerpt(&document.text)));
        Ok(Judged { document, bytes, excerpt, dropped, trace })
    };
    let judge = |_: u64, batch: Vec<Document>| Ok(batch.into_par_iter().map(judge).collect::<Vec<Result<Judged>>>());
    for batch in Ahead::open(&config.input, ahead::MEMORY, judge)? {
        check_interrupt()?;
        let batch = batch?;
        let n = batch.len() as u64;
        for judged in batch {
            let Judged { document, bytes, excerpt, dropped, trace } = judged?;
            funnel.input(bytes);
            if let Some(signals) = &mut signals {
                signals.push(&document.id, dropped.as_ref().map(|d| d.check.as_str()), bytes, &trace.signals)?;
            }
            match dropped {
                None => {
                    for (what, n) in &trace.counts {
                        funnel.count(what, *n);
                    }
                    funnel.output(&document);
                    writer.push(document)?;
                }
                Some(Reason { check, value, threshold }) => {
                    let drop = Drop { step: check, value, threshold, text: excerpt.unwrap_or_default(), id: document.id };
                    funnel.drop(drop, bytes)?;
                }
            }
        }
        progress.inc(n);
    }
    if writer.documents == 0 {
        let worst =
            funnel.funnel.steps.iter().max_by_key(|s| s.dropped).map_or_else(String::new, |s| format!("; `{}` dropped most ({})", s.name, s.dropped));
        return Err(Error::Empty(format!("{}: no document of {total} passed the filters{worst}; loosen the limits", config.input.display())));
    }
    if let Some(model) = &models.quality {
        model.save(&out.join("quality.json"))?;
    }
    if let Some(signals) = signals {
        signals.finish(config)?;
    }
    writer.finish()?;
    let funnel = funnel.finish(out)?;
    progress.finish(funnel.summary());
    Ok(funnel)
}
