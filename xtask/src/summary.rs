//! The end of a quickstart: what it took, what was learnt, one question and its answer, and what to do next.

use crate::folder::{Evaluated, Progress, RunFolder};
use crate::quickstart::Asked;
use crate::term::{Paint, WIDTH, bytes, clip, plural, wrap};
use llm_run::progress::human_seconds;
use std::path::Path;

const BAR: usize = 26;

/// The summary as text of at most 80 columns.
pub fn render(run: &RunFolder, asked: Option<&Asked>, report: &Path, own_folder: bool, paint: Paint) -> String {
    let mut text = headline(run, paint);
    stages(run, paint, &mut text);
    language_model(run, paint, &mut text);
    exercises(&run.evaluated(), paint, &mut text);
    if let Some(asked) = asked {
        question(asked, paint, &mut text);
    }
    heading("What now", paint, &mut text);
    let chat = if own_folder { format!("cargo xtask chat --model {}", final_model(run)) } else { "cargo xtask chat".to_string() };
    // Commands and paths are never cut, however long: they are there to be copied.
    for (what, how) in [("Look at it", report.display().to_string()), ("Talk to it", chat)] {
        text.push_str(&format!("  {what:<12} {}\n", paint.cyan(&how)));
    }
    text.push('\n');
    text
}

fn final_model(run: &RunFolder) -> String {
    let id = ["grpo", "sft", "pretrain"].into_iter().find(|c| run.dir.join(c).join("model").exists()).unwrap_or("grpo");
    run.dir.join(id).join("model").display().to_string()
}

fn headline(run: &RunFolder, paint: Paint) -> String {
    let open = run.stages.iter().filter(|s| s.progress != Progress::Finished).count();
    if open > 0 {
        return format!("  {}\n", paint.yellow(&format!("{open} stage{} still open.", plural(open))));
    }
    let labels: Vec<String> = run.evaluated().into_iter().map(|m| m.label).collect();
    let aligned = if labels.iter().any(|l| l == "GRPO") { "trained, aligned and evaluated" } else { "trained and evaluated" };
    format!("  {} Your own language model, {aligned} here.\n", paint.green("Done."))
}

fn heading(name: &str, paint: Paint, text: &mut String) {
    let rule = "─".repeat(WIDTH - 5 - name.chars().count());
    text.push_str(&format!("\n  {} {}\n", paint.bold(name), paint.dim(&rule)));
}

/// A bar of `share` in 0..=1, in eighths of a column.
fn bar(share: f64, width: usize) -> String {
    let eighths = (share.clamp(0.0, 1.0) * width as f64 * 8.0).ceil() as usize;
    let mut bar = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        bar.push(['▏', '▎', '▍', '▌', '▋', '▊', '▉'][eighths % 8 - 1]);
    }
    let used = bar.chars().count();
    bar + &" ".repeat(width.saturating_sub(used))
}

fn stages(run: &RunFolder, paint: Paint, text: &mut String) {
    heading("Stages", paint, text);
    let longest = run.stages.iter().filter_map(|s| s.wall_seconds()).fold(1e-9, f64::max);
    for stage in &run.stages {
        let seconds = stage.wall_seconds().unwrap_or(0.0);
        let memory = stage.peak_memory().map_or(String::new(), |b| bytes(b as f64));
        let time = if stage.progress == Progress::Finished { human_seconds(seconds) } else { "-".to_string() };
        text.push_str(&format!("  {:<14} {:>8}  {} {:>9}\n", clip(&stage.id, 14), time, paint.cyan(&bar(seconds / longest, BAR)), memory));
    }
    let peak = run.peak_memory().map_or(String::new(), |b| format!("peak {}", bytes(b as f64)));
    text.push_str(&format!("  {:<14} {:>8}  {:<BAR$} {}\n", paint.bold(&format!("{:<14}", "total")), human_seconds(run.wall_seconds()), "", peak));
}

fn language_model(run: &RunFolder, paint: Paint, text: &mut String) {
    let Some((before, after)) = run.bits_per_byte() else {
        return;
    };
    heading("Held-out documents, bits per byte (lower is better)", paint, text);
    let ngram = run.task("ngram3");
    let scale = [Some(before), Some(after), ngram].into_iter().flatten().fold(1e-9, f64::max);
    let mut row = |name: &str, value: f64, note: String| {
        text.push_str(&format!("  {name:<22} {value:>6.3}  {} {note}\n", paint.cyan(&bar(value / scale, BAR))));
    };
    row("untrained", before, String::new());
    if let Some(ngram) = ngram {
        row("3-gram byte model", ngram, String::new());
    }
    row("after pre-training", after, paint.green(&format!("{:+.0} %", (after / before - 1.0) * 100.0)));
}

fn exercises(models: &[Evaluated<'_>], paint: Paint, text: &mut String) {
    let mut names: Vec<&str> =
        models.iter().flat_map(|m| m.results.tasks.keys()).filter(|n| n.starts_with("exercises")).map(String::as_str).collect();
    names.retain(|name| !models.iter().filter_map(|m| m.results.tasks.get(*name)).any(|t| t.group.as_deref() == Some("category")));
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return;
    }
    heading("Held-out exercises, exact match with 95 % interval", paint, text);
    text.push_str(&format!("  {:<9}", ""));
    for model in models.iter().take(3) {
        text.push_str(&format!(" {:>20}", clip(&model.label, 20)));
    }
    text.push('\n');
    for name in names {
        let shown = name.strip_prefix("exercises/").unwrap_or("all");
        text.push_str(&format!("  {:<9}", clip(shown, 9)));
        for model in models.iter().take(3) {
            let task = model.results.tasks.get(name);
            let cell = match task.and_then(|t| Some((t.value?, t.ci95))) {
                Some((value, Some([low, high]))) => format!("{value:.3}  {:.2} - {high:.2}", low.max(0.0)),
                Some((value, None)) => format!("{value:.3}{:13}", ""),
                None => "-".to_string(),
            };
            let cell = format!("{cell:>20}");
            text.push_str(&format!(" {}", if name == "exercises" { paint.bold(&cell) } else { cell }));
        }
        text.push('\n');
    }
}

fn question(asked: &Asked, paint: Paint, text: &mut String) {
    heading("Asked through the server", paint, text);
    let rows = [("asked", &asked.question, false), ("thinks", &asked.answer.reasoning, true), ("answers", &asked.answer.content, false)];
    for (who, said, dim) in rows {
        let lines = wrap(said.trim(), WIDTH - 12);
        for (index, line) in lines.iter().take(8).enumerate() {
            let who = if index == 0 { who } else { "" };
            let line = clip(line, WIDTH - 12);
            let line = if dim { paint.dim(&line) } else { line };
            text.push_str(&format!("  {} {line}\n", paint.cyan(&format!("{who:<8}"))));
        }
    }
}
