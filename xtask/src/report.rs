//! `cargo xtask report`: one HTML file that shows a run. No network, no script; light and dark; made from the run folder
//! alone, however far the run came.

mod data;
mod evaluation;
mod experts;
mod heat;
mod html;
mod lineage;
mod pictures;
mod tokenizer;
mod training;

use crate::folder::{Progress, RunFolder};
use crate::term::{bytes, plural, thousands};
use anyhow::Result;
use html::{Html, join, page, tag, text, tile};
use llm_run::progress::human_seconds;
use std::path::{Path, PathBuf};

const STYLE: &str = concat!(include_str!("report/style.css"), include_str!("report/experts.css"));

/// Write the report of a run; the default place is `report.html` in its folder.
pub fn write(dir: &Path, out: Option<&Path>) -> Result<PathBuf> {
    let page = render(&RunFolder::open(dir)?);
    let path = out.map_or_else(|| dir.join("report.html"), Path::to_path_buf);
    llm_run::atomic::write(&path, page)?;
    Ok(path)
}

/// A part of the page: anchor, heading, content.
struct Section {
    id: &'static str,
    title: &'static str,
    body: Html,
}

fn render(run: &RunFolder) -> String {
    let sections = [
        Section { id: "data", title: "Data", body: data::section(run) },
        Section { id: "tokenizer", title: "Tokenizer", body: tokenizer::section(run) },
        Section { id: "pictures", title: "Pictures", body: pictures::section(run) },
        Section { id: "training", title: "Training", body: training::section(run) },
        Section { id: "experts", title: "Experts", body: experts::section(run) },
        Section { id: "evaluation", title: "Evaluation", body: evaluation::section(run) },
        Section { id: "samples", title: "Samples", body: evaluation::samples(run) },
        Section { id: "stages", title: "Stages", body: lineage::stages(run) },
        Section { id: "lineage", title: "Lineage", body: lineage::section(run) },
    ];
    let shown: Vec<&Section> = sections.iter().filter(|s| !s.body.is_empty()).collect();
    let links = join(shown.iter().map(|s| tag(&format!("a href=\"#{}\"", s.id), s.title)));
    let body = join(shown.iter().map(|s| tag(&format!("section id={}", s.id), [tag("h2", s.title), s.body.clone()])));
    let name = run.name();
    page(
        &format!("{name} - run report"),
        STYLE,
        join([opening(run, &name), tiles(run), tag("nav", links)]),
        body,
        "Made by cargo xtask report from this run folder alone.",
    )
}

fn opening(run: &RunFolder, name: &str) -> Html {
    let title = run.recipe.as_ref().map(|r| r.title.clone()).filter(|t| !t.is_empty()).unwrap_or_else(|| name.to_string());
    let done = run.stages.iter().filter(|s| s.progress == Progress::Finished).count();
    let open = run.stages.len() - done;
    let mut lede = format!("{done} stage{} finished", plural(done));
    if open > 0 {
        lede.push_str(&format!(", {open} still open: this report shows what is there so far"));
    }
    if let Some(recipe) = &run.recipe {
        lede.push_str(&format!(". Seed {}, device {}", recipe.seed, recipe.device));
    }
    if let Some(machine) = run.machine.as_ref().filter(|m| m.cpus > 0) {
        lede.push_str(&format!(", {} CPU{}", machine.cpus, plural(machine.cpus)));
    }
    lede.push('.');
    join([tag("p class=eyebrow", format!("Run report · {name}")), tag("h1", title), tag("p class=lede", lede)])
}

/// The headline numbers.
fn tiles(run: &RunFolder) -> Html {
    let mut tiles = Vec::new();
    if let Some((before, after)) = run.bits_per_byte() {
        let change = format!("{:+.0} %", (after / before - 1.0) * 100.0);
        let ngram = run.task("ngram3").map_or(String::new(), |n| format!(", 3-gram {n:.2}"));
        let class = if after < before { "span class=good" } else { "span" };
        tiles.push(tile("Held-out bits per byte", format!("{after:.3}"), [tag(class, change), text(format!(" from {before:.2}{ngram}"))]));
    }
    let models = run.evaluated();
    let scores: Vec<(&str, f64)> = models.iter().filter_map(|m| Some((m.label.as_str(), m.results.tasks.get("exercises")?.value?))).collect();
    if let Some((label, last)) = scores.last() {
        let others = scores[..scores.len() - 1].iter().map(|(label, value)| format!("{label} {value:.2}")).collect::<Vec<_>>().join(", ");
        tiles.push(tile(
            &format!("Exercises right ({label})"),
            format!("{:.1} %", last * 100.0),
            if others.is_empty() { String::new() } else { format!("before: {others}") },
        ));
    }
    if let Some((value, kinds)) = pictures::headline(run) {
        tiles.push(tile("Questions about pictures right", format!("{:.1} %", value * 100.0), kinds));
    }
    if let Some((first, last)) = data::ends(run).filter(|_| tiles.len() < 2) {
        tiles.push(tile("Documents kept", thousands(last), format!("of {}", thousands(first))));
    }
    let seconds = run.wall_seconds();
    if seconds > 0.0 {
        let slowest = run.stages.iter().max_by(|a, b| a.wall_seconds().unwrap_or(0.0).total_cmp(&b.wall_seconds().unwrap_or(0.0)));
        tiles.push(tile("Wall time", human_seconds(seconds), slowest.map_or(String::new(), |s| format!("most of it in {}", s.id))));
    }
    if let Some(peak) = run.peak_memory() {
        let stage = run.stages.iter().find(|s| s.peak_memory() == Some(peak));
        tiles.push(tile("Peak memory", bytes(peak as f64), stage.map_or(String::new(), |s| format!("in {}", s.id))));
    }
    if tiles.is_empty() { Html::default() } else { tag("div class=tiles", tiles) }
}

#[cfg(test)]
pub mod samples;
#[cfg(test)]
mod tests;
