//! What a model sees: right answers about held-out pictures by kind of question, the pictures themselves with questions and
//! answers, and how seeing was learned.

use super::evaluation::cut;
use super::html::{Html, join, tag, text};
use crate::folder::{RunFolder, Sample, StageView, Task};
use llm_run::chart::{Chart, Series};
use std::collections::BTreeSet;
use std::path::Path;

/// Name of the evaluation's task; its slices are `pictures/...`.
const TASK: &str = "pictures";
/// Larger images stay outside of the page.
const MOST_BYTES: u64 = 1 << 20;

/// Whether a task belongs here rather than to the general evaluation.
pub fn is_about_pictures(task: &str) -> bool {
    task == TASK || task.starts_with("pictures/")
}

/// The section; empty when no model was asked about pictures.
pub fn section(run: &RunFolder) -> Html {
    let mut page = Html::default();
    for stage in &run.stages {
        let Some(results) = stage.results.as_ref().filter(|r| r.tasks.contains_key(TASK)) else { continue };
        page.push(tag(
            "p class=soft",
            "Questions about held-out pictures, answered greedily and compared with the one right answer, with 95 % intervals. The mark is \
             what a model would reach that never looks and always gives the most frequent answer to that kind of question.",
        ));
        page.push(tag("div class=grid2", [accuracies(stage, "category", "By kind of question"), accuracies(stage, "language", "By language")]));
        let cards: Vec<Html> = results.samples.iter().filter(|s| s.task == TASK).map(|s| card(&run.dir.join(&stage.id), s)).collect();
        page.push(tag("h3", "Some of them"));
        page.push(tag("p class=soft", "What the model saw before it answered is set in italics."));
        page.push(tag("div class=pictures", cards));
    }
    let curves: Vec<Html> = run.stages.iter().flat_map(curves).collect();
    if !curves.is_empty() {
        page.push(tag("h3", "How it was learned"));
        page.push(tag("div class=grid2", curves));
    }
    page
}

/// The headline: share of right answers, and by kind.
pub fn headline(run: &RunFolder) -> Option<(f64, String)> {
    let tasks = &run.stages.iter().filter_map(|s| s.results.as_ref()).find(|r| r.tasks.contains_key(TASK))?.tasks;
    let kinds = tasks
        .iter()
        .filter(|(_, task)| task.group.as_deref() == Some("category"))
        .filter_map(|(name, task)| Some(format!("{} {:.2}", name.strip_prefix("pictures/")?, task.value?)));
    Some((tasks.get(TASK)?.value?, kinds.collect::<Vec<_>>().join(", ")))
}

fn accuracies(stage: &StageView, group: &str, title: &str) -> Html {
    let tasks = stage.results.iter().flat_map(|r| &r.tasks);
    let slices = tasks.filter(|(name, task)| *name == TASK || (is_about_pictures(name) && task.group.as_deref() == Some(group)));
    let rows = slices.filter_map(|(name, task)| Some(row(name.strip_prefix("pictures/").unwrap_or("all"), task, task.value?)));
    tag("div class=\"card seen\"", join([tag("b", title)].into_iter().chain(rows)))
}

fn row(name: &str, task: &Task, value: f64) -> Html {
    let interval = task.ci95.map_or(String::new(), |[low, high]| format!(" {:.0} to {:.0}", low.max(0.0) * 100.0, high * 100.0));
    let percent = |share: f64| format!("{:.1}%", share.clamp(0.0, 1.0) * 100.0);
    let guess = task.majority.map_or(String::new(), |m| format!("<span class=guess style=\"left:{0}\" title=\"guessing {0}\"></span>", percent(m)));
    let class = if name == "all" { "fill s2" } else { "fill" };
    let track = format!("<span class=track><span class=\"{class}\" style=\"width:{}\"></span>{guess}</span>", percent(value));
    let number = [tag("b", format!("{:.1} %", value * 100.0)), tag("span class=\"soft small\"", interval)];
    tag("div class=bar", [tag("span class=bar-name", name), Html::trusted(track), tag("span class=bar-number", number)])
}

fn card(stage: &Path, sample: &Sample) -> Html {
    let picture = sample.id.rsplit_once('#').map_or("", |(id, _)| id);
    let (class, mark) = if sample.correct == Some(true) { ("mark-good", " ✓") } else { ("mark-bad", " ✗") };
    let answer = sample.response.as_deref().map(str::trim).filter(|r| !r.is_empty()).unwrap_or("(no answer)");
    let mut words = tag("div class=question", sample.question());
    if let Some(reasoning) = sample.reasoning.as_deref().filter(|r| !r.trim().is_empty()) {
        words.push(tag("div class=think", cut(reasoning)));
    }
    words.push(tag("div", [text(answer), tag(&format!("b class={class}"), mark)]));
    if sample.correct != Some(true) {
        words.push(tag("div class=\"soft small\"", format!("expected: {}", sample.expected())));
    }
    words.push(tag("div class=\"soft small\"", format!("{}, {}", sample.category, sample.lang)));
    tag("div class=card", [image(&stage.join(TASK), picture), tag("div", words)])
}

/// The image inside the page; nothing when it is not there.
fn image(folder: &Path, id: &str) -> Html {
    // Ids come from a data file: no way out of the folder.
    if id.is_empty() || id.starts_with('.') || !id.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        return Html::default();
    }
    let small = |path: &Path| path.metadata().is_ok_and(|m| m.is_file() && m.len() <= MOST_BYTES);
    let found = [("png", "png"), ("jpg", "jpeg"), ("webp", "webp")].into_iter().find_map(|(extension, kind)| {
        let path = folder.join(format!("{id}.{extension}"));
        Some((kind, std::fs::read(&path).ok().filter(|_| small(&path))?))
    });
    found.map_or_else(Html::default, |(kind, bytes)| {
        Html::trusted(format!("<img alt=\"the picture\" src=\"data:image/{kind};base64,{}\">", base64(&bytes)))
    })
}

/// RFC 4648 with padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0u32, |word, (i, b)| word | u32::from(*b) << (16 - 8 * i));
        for i in 0..4 {
            let letter = char::from(LETTERS[(word >> (18 - 6 * i) & 63) as usize]);
            text.push(if i <= chunk.len() { letter } else { '=' });
        }
    }
    text
}

/// Which captions are found, and which questions are answered, while training.
fn curves(stage: &StageView) -> Vec<Html> {
    let points =
        |key: &str| -> Vec<(f64, f64)> { stage.metrics.iter().filter_map(|m| Some((m.get("step")?.as_f64()?, m.get(key)?.as_f64()?))).collect() };
    let series = |name: &str, key: &str, colour: usize| Series { name: name.into(), colour, points: points(key), dots: true, ..Series::default() };
    let chart = |what: &str, series: Vec<Series>| Chart {
        title: format!("{}: {what}", stage.id),
        x: "step".into(),
        y: "share of held-out".into(),
        series,
        zero: true,
        ..Chart::default()
    };
    let kinds: BTreeSet<&str> = stage.metrics.iter().flat_map(|m| m.keys()).filter_map(|k| k.strip_prefix("val_exact_")).collect();
    let by_kind = kinds.iter().enumerate().map(|(i, kind)| series(kind, &format!("val_exact_{kind}"), i % 6)).collect();
    let found = vec![series("caption of a picture", "val_text_recall_at_1", 0), series("picture of a caption", "val_image_recall_at_1", 1)];
    [chart("the right one of all is found", found), chart("answers", by_kind)].into_iter().map(Chart::html).filter(|h| !h.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    const EVIL: &str = "<script>alert('x')</script>";

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("eval");
        fs::create_dir_all(at.join("pictures")).unwrap();
        fs::write(at.join("pictures/heldout-00001.png"), b"\x89PNG pixels").unwrap();
        fs::write(dir.path().join("secret.png"), b"secret").unwrap();
        let task = |value: f64, group: Option<&str>| json!({"metric": "exact_match", "value": value, "n": 50, "ci95": [value - 0.1, value + 0.1], "group": group, "majority": 0.25});
        let sample = |id: &str, answer: &str, correct: bool| json!({"task": "pictures", "id": id, "lang": "de", "category": EVIL, "prompt": EVIL, "response": answer, "reasoning": format!("gesehen {EVIL}"), "gold": "drei", "correct": correct});
        let results = json!({"model": {"path": "x", "hash": "y", "id": "z"},
            "tasks": {"pictures": task(0.75, None), "pictures/colour": task(0.91, Some("category")), "pictures/de": task(0.72, Some("language")),
                "exercises": task(0.6, None)},
            "samples": [sample("heldout-00001#0", "rot", true), sample("../../secret#1", EVIL, false)]});
        fs::write(at.join("results.json"), results.to_string()).unwrap();
        let learned = dir.path().join("instruct");
        fs::create_dir_all(&learned).unwrap();
        let line = |step: u32| json!({"step": step, "val_exact": 0.5, "val_exact_colour": 0.1 * f64::from(step), "val_exact_count": 0.4}).to_string();
        fs::write(learned.join("metrics.jsonl"), [line(1), line(2), line(3)].join("\n")).unwrap();
        dir
    }

    #[test]
    fn pictures_answers_and_curves_are_in_the_page_and_nothing_else() {
        let dir = folder();
        let run = RunFolder::open(dir.path()).unwrap();
        let page = section(&run).into_string();
        for part in [
            "75.0 %",
            "91.0 %",
            "guessing 25.0%",
            "colour",
            "rot",
            "gesehen",
            "expected: drei",
            "instruct: answers",
            "data:image/png;base64,iVBORyBwaXhlbHM=",
        ] {
            assert!(page.contains(part), "{part} is missing in {page}");
        }
        assert_eq!(page.matches("<img").count(), 1, "an id must not lead out of the folder of images");
        assert!(!page.contains("<script"));
        assert_eq!(headline(&run), Some((0.75, "colour 0.91".to_string())));
    }

    #[test]
    fn runs_without_pictures_have_no_such_section() {
        let dir = folder();
        fs::remove_dir_all(dir.path().join("eval")).unwrap();
        fs::remove_dir_all(dir.path().join("instruct")).unwrap();
        fs::create_dir_all(dir.path().join("sft")).unwrap();
        fs::write(dir.path().join("sft/metrics.jsonl"), "{\"step\": 1, \"loss\": 2.0}").unwrap();
        assert!(section(&RunFolder::open(dir.path()).unwrap()).is_empty());
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(text.as_bytes()), coded);
        }
    }
}
