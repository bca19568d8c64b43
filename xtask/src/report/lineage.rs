//! How the run came to be: time and memory per stage, the exact commands, configurations, versions and hashes.

use super::html::{Html, bar, details, join, left, right, table, tag, text, value};
use crate::folder::{Progress, RunFolder, StageView};
use crate::term::{bytes, plural};
use llm_run::progress::human_seconds;

/// Wall time and peak memory, a bar each.
pub fn stages(run: &RunFolder) -> Html {
    if run.stages.is_empty() {
        return Html::default();
    }
    let longest = run.stages.iter().filter_map(StageView::wall_seconds).fold(1e-9, f64::max);
    let largest = run.peak_memory().unwrap_or(1).max(1) as f64;
    let mut time = vec![tag("b", format!("Wall time, {} in all", human_seconds(run.wall_seconds())))];
    let mut memory = vec![tag("b", "Peak memory")];
    for stage in &run.stages {
        let seconds = stage.wall_seconds().unwrap_or(0.0);
        let shown = match stage.progress {
            Progress::Finished => human_seconds(seconds),
            Progress::Started => format!("{} so far", human_seconds(seconds)),
            Progress::Waiting => "not yet".to_string(),
        };
        time.push(bar(stage.id.as_str(), seconds / longest, shown, ""));
        let peak = stage.peak_memory();
        memory.push(bar(stage.id.as_str(), peak.map_or(0.0, |p| p as f64 / largest), peak.map_or("-".to_string(), |p| bytes(p as f64)), "s2"));
    }
    let cards = [tag("div class=\"card narrow\"", time), tag("div class=\"card narrow\"", memory)];
    let calls = run.stages.iter().map(call).collect::<Vec<_>>();
    join([tag("div class=grid2", cards), tag("h3", "Every stage is a plain program call"), tag("div class=card", calls)])
}

fn call(stage: &StageView) -> Html {
    let state = match stage.progress {
        Progress::Finished => "finished",
        Progress::Started => "unfinished",
        Progress::Waiting => "waiting",
    };
    let mut part =
        tag("div style=\"margin-top:10px\"", [tag("b", stage.id.as_str()), text(format!("  {}  ", stage.title)), tag("span class=state", state)]);
    let line = stage.command_line();
    if !line.is_empty() {
        part.push(tag("pre", line.join(" ")));
    }
    let mut more = Html::default();
    if !stage.config.trim().is_empty() {
        more.push(details("configuration file", tag("pre", stage.config.trim_end())));
    }
    let manifest = stage.manifest.as_ref();
    if let Some(config) = manifest.map(|m| &m.config).filter(|c| c.as_object().is_some_and(|o| !o.is_empty())) {
        let pretty = serde_json::to_string_pretty(config).unwrap_or_default();
        more.push(details("all settings, defaults included", tag("pre", pretty)));
    }
    if let Some(summary) = manifest.and_then(|m| m.summary.as_object()).filter(|s| !s.is_empty()) {
        let rows = summary.iter().map(|(name, v)| vec![left(name.replace('_', " ")), right(value(v))]).collect();
        more.push(details("result in numbers", table(&["", ""], rows)));
    }
    if !stage.log.trim().is_empty() {
        let most: String = stage.log.chars().take(20_000).collect();
        more.push(details("what it printed", tag("pre", most.trim_end())));
    }
    part.push(tag("div class=more", more));
    part
}

fn short(hash: &str) -> Html {
    tag("span class=\"mono hash\"", hash.chars().take(16).collect::<String>())
}

/// Versions, seeds and hashes.
pub fn section(run: &RunFolder) -> Html {
    let mut rows: Vec<(String, Html)> = Vec::new();
    if let Some(recipe) = &run.recipe {
        rows.push(("recipe".into(), text(&recipe.name)));
        rows.push(("seed".into(), text(recipe.seed.to_string())));
        rows.push(("device".into(), text(&recipe.device)));
    }
    if let Some(machine) = &run.machine {
        let memory = if machine.memory_bytes > 0 { format!(", {} memory", bytes(machine.memory_bytes as f64)) } else { String::new() };
        rows.push(("machine".into(), text(format!("{}, {} CPU{}{memory}", machine.cpu, machine.cpus, plural(machine.cpus)))));
        for (name, field) in
            [("system", &machine.system), ("compiler", &machine.rustc), ("workspace", &machine.version), ("revision", &machine.revision)]
        {
            if !field.is_empty() {
                rows.push((name.into(), text(field)));
            }
        }
    }
    for model in run.evaluated() {
        if let Some(hash) = model.results.model.get("hash").and_then(serde_json::Value::as_str) {
            rows.push((format!("{} weights", model.label), tag("span class=\"mono hash\"", hash)));
        }
    }
    let mut page = Html::default();
    if !rows.is_empty() {
        page.push(tag("div class=card", table(&["", ""], rows.into_iter().map(|(name, v)| vec![left(name), left(v)]).collect())));
    }
    let known: Vec<&StageView> = run.stages.iter().filter(|s| s.manifest.is_some() || s.stamp.is_some()).collect();
    if known.is_empty() {
        return page;
    }
    let rows = known.iter().map(|stage| {
        let depends = stage.stamp.as_ref().map(|s| &s.depends_on);
        let mut inputs: Vec<Html> =
            depends.into_iter().flat_map(|d| &d.inputs).map(|(name, hash)| tag("div", [text(format!("{name} ")), short(hash)])).collect();
        if inputs.is_empty() {
            inputs = stage.manifest.iter().flat_map(|m| &m.inputs).map(|(name, hash)| tag("div", [text(format!("{name} ")), short(hash)])).collect();
        }
        let output = stage.manifest.as_ref().and_then(|m| m.output_hash.clone()).unwrap_or_default();
        let program = depends.map(|d| d.program.clone()).unwrap_or_default();
        let seed = stage.manifest.as_ref().and_then(|m| m.seed).map_or(String::new(), |s| s.to_string());
        vec![left(stage.id.as_str()), left(inputs), left(short(&output)), left(short(&program)), right(seed)]
    });
    page.push(tag("h3", "What came from what"));
    page.push(tag("p class=\"soft small\"", "BLAKE3 of contents, first 16 digits; the whole hashes are in each stage's manifest.json."));
    page.push(tag("div class=card", table(&["stage", "inputs", "output", "program", "seed"], rows.collect())));
    page
}
