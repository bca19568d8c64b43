//! The report and the summary of synthetic run folders: whole, partial, and with hostile text everywhere.

use super::*;
use crate::client::Answer;
use crate::quickstart::Asked;
use crate::summary;
use crate::term::{Paint, columns};
use serde_json::{Value, json};
use std::fs;

const EVIL: &str = "<script>alert('x')</script>\"><img src=x onerror=y>&\u{1b}[31m";

fn put(path: PathBuf, text: impl AsRef<str>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text.as_ref()).unwrap();
}

fn manifest(dir: &Path, command: &str, config: Value) {
    let text = json!({"program": "p", "command": command, "version": "0.1.0", "command_line": ["p", command], "config": config, "seed": 42,
        "inputs": {EVIL: "abc"}, "output_hash": "0123456789abcdef0123", "summary": {"documents": 3, EVIL: EVIL}, "started_at": 100,
        "wall_seconds": 75.0, "peak_memory_bytes": 1_500_000_000u64, "cpus": 2, "finished": true});
    put(dir.join("manifest.json"), text.to_string());
}

fn results(model: &str, value: f64) -> Value {
    let task = |group: Value, n: u64| json!({"metric": "exact_match", "value": value, "n": n, "ci95": [value - 0.05, value + 0.05], "group": group});
    json!({"model": {"path": model, "hash": "ff00", "id": "m"},
        "tasks": {"exercises": task(Value::Null, 480), "exercises/en": task(json!("language"), 160), "exercises/addition": task(json!("category"), 80),
            "bits_per_byte": {"metric": "bits_per_byte", "value": 2.1, "n": 3, "by_domain": {"docs": {"value": 2.0}, EVIL: 2.2}},
            "ngram3": {"metric": "bits_per_byte", "value": 2.6, "n": 3}},
        "samples": [{"task": "exercises", "prompt": EVIL, "response": format!("{value} {EVIL}"), "reasoning": EVIL, "gold": EVIL, "correct": value > 0.5}]})
}

/// A run of every kind of stage, with text that wants to be markup in each place that shows text.
fn whole() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let funnel = json!({"stage": "filter", "documents_in": 1000, "documents_out": 900, "bytes_in": 1_000_000, "bytes_out": 900_000,
        "steps": [{"name": "alphabetic", "dropped": 100, "dropped_bytes": 100_000, "examples": [{"id": EVIL, "value": 0.213, "threshold": 0.2, "text": EVIL}]}],
        "by_source": {EVIL: 900}, "by_lang": {"en": 900}, "by_license": {"MIT": 900}, "counts": {"e-mail": 3}, "notices": [EVIL]});
    put(at("filter/funnel.json"), funnel.to_string());
    manifest(&at("filter"), "filter", json!({"documents": EVIL}));
    put(at("configs/filter.toml"), format!("a = '''{EVIL}'''"));
    put(
        at("fertility/fertility.json"),
        json!({"by_lang": {"en": {"tokens_per_word": 1.5, "bytes_per_token": 3.6}, EVIL: {"tokens_per_word": 2.0}}}).to_string(),
    );
    manifest(&at("fertility"), "fertility", json!({}));
    let lines: Vec<String> = (0..50)
        .map(|i| match i % 10 {
            0 => json!({"step": i, "val_loss": 8.0 / f64::from(i + 1), "val_bits_per_byte": 8.0 / f64::from(i + 1)}).to_string(),
            _ => json!({"step": i, "loss": 8.0 / f64::from(i), "lr": 1e-3, "grad_norm": 1.0, "tokens": i * 4096, "tokens_per_second": 9000.0, "elapsed_seconds": i}).to_string(),
        })
        .collect();
    put(at("pretrain/metrics.jsonl"), lines.join("\n") + "\n{\"step\": 50, \"lo");
    manifest(&at("pretrain"), "pretrain", json!({}));
    for (index, (stage, command, value)) in [("sft", "sft", 0.45), ("grpo", "grpo", 0.71)].into_iter().enumerate() {
        manifest(&at(stage), command, json!({}));
        let eval = format!("eval-{stage}");
        let model = format!("runs/x/{stage}/model");
        put(at(&eval).join("results.json"), results(&model, value).to_string());
        manifest(&at(&eval), "run", json!({"model": model, "order": index}));
    }
    let answered = |step: u32, text: &str| json!({"step": step, "val_reward": 0.2, "samples": [{"prompt": EVIL, "text": text, "reward": 0.5}]});
    let lines = [
        answered(0, "before all"),
        json!({"step": 1, "reward": 0.1, "accuracy": 0.2, "kl": 0.01, "completion_length": 40}),
        json!({"step": 2, "reward": 0.3, "accuracy": 0.4, "kl": 0.02, "completion_length": 44, "alarms": [format!("entropy collapse {EVIL}")]}),
        answered(2, EVIL),
        json!({"step": 2, "halted": format!("reward hacking {EVIL}")}),
    ];
    put(at("grpo/metrics.jsonl"), lines.map(|line| line.to_string()).join("\n"));
    dir
}

#[test]
fn everything_is_shown_and_nothing_can_become_markup() {
    let dir = whole();
    let page = render(&RunFolder::open(dir.path()).unwrap());
    for part in ["id=data", "id=tokenizer", "id=training", "id=evaluation", "id=samples", "id=stages", "id=lineage"] {
        assert!(page.contains(part), "{part}");
    }
    for part in [
        "Held-out bits per byte",
        "Reward",
        "Answer length",
        "alarm: entropy collapse",
        "halted: reward hacking",
        "before all",
        "reward, held out",
        "SFT",
        "GRPO",
        "71.0 %",
        "66.0 to 76.0",
        "0.213",
        "MIT",
        "3-gram byte model",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(page.contains("&lt;script&gt;alert"));
    assert!(!page.contains("<script") && !page.contains("<img") && !page.contains('\u{1b}'));
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("url("), "the page must not need a network");
    assert!(!page.contains("NaN"));
}

#[test]
fn markup_is_balanced() {
    let dir = whole();
    let page = render(&RunFolder::open(dir.path()).unwrap());
    for name in ["div", "section", "table", "tr", "td", "figure", "svg", "span", "details", "pre", "text"] {
        let open = page.matches(&format!("<{name} ")).count() + page.matches(&format!("<{name}>")).count();
        assert_eq!(open, page.matches(&format!("</{name}>")).count(), "{name}");
    }
}

#[test]
fn a_mixture_is_shown_beside_the_dense_model() {
    let dir = samples::mixture_run(1.6, 0.0, 3.5);
    let page = render(&RunFolder::open(dir.path()).unwrap());
    let section = page.split("<section id=experts>").nth(1).unwrap().split("</section>").next().unwrap();
    for part in ["3,000,000", "1,980,000", "8,765", "1.60", "0.00", "Layer 0", "Layer 1", "Max/mean load of a step", "Entropy of the router"] {
        assert!(section.contains(part), "{part}");
    }
    // The balancing loss of 0.5 is not part of what is compared; both losses are in one chart.
    assert!(section.contains(">3.0000<") && section.contains(">3.5000<") && !section.contains(">3.50000<"));
    let losses = section.split("<figure").nth(1).unwrap();
    assert!(losses.contains("curve s0") && losses.contains("curve s1") && losses.contains("mixture") && losses.contains("dense"));
    assert_eq!(section.matches("class=dead").count(), 1, "the second expert of layer 1, and no other");
    assert!(page.contains(">1.750<") || page.contains(">1.75<"), "bits per byte under the names of the stages");
    let models: Vec<String> = RunFolder::open(dir.path()).unwrap().evaluated().into_iter().map(|m| m.label).collect();
    assert_eq!(models, ["dense", "mixture"], "two models of the same kind have their own names");
    for name in ["div", "figure", "svg", "span", "td", "text"] {
        let open = page.matches(&format!("<{name} ")).count() + page.matches(&format!("<{name}>")).count();
        assert_eq!(open, page.matches(&format!("</{name}>")).count(), "{name}");
    }
    assert!(!page.contains("NaN"));
    fs::write(dir.path().join("mixture/metrics.jsonl"), "{\"step\": 1, \"loss\": 2.0, \"moe_load\": \"gone\"}\n").unwrap();
    assert!(!render(&RunFolder::open(dir.path()).unwrap()).contains("id=experts"));
}

#[test]
fn partial_and_damaged_runs_still_have_a_report() {
    let dir = whole();
    let row = json!({"by_lang": {"en": {"tokens_per_word": 1.5}}, "name": "one"});
    put(dir.path().join("fertility/fertility.json"), json!({"by_lang": {}, "tokenizers": [row, {"name": EVIL, "by_lang": "gone"}]}).to_string());
    put(dir.path().join("fertility/fertility.html"), "");
    let page = render(&RunFolder::open(dir.path()).unwrap());
    assert!(page.contains("<h3>one</h3>") && page.contains("href=\"fertility/fertility.html\"") && !page.contains("<script"), "two tokenizers");
    for name in ["fertility", "eval-sft", "eval-grpo"] {
        fs::remove_dir_all(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("filter/funnel.json"), "{ broken").unwrap();
    let page = render(&RunFolder::open(dir.path()).unwrap());
    assert!(page.contains("id=training") && !page.contains("id=data") && !page.contains("id=evaluation") && !page.contains("id=tokenizer"));

    let bare = tempfile::tempdir().unwrap();
    assert!(RunFolder::open(bare.path()).unwrap_err().to_string().contains("no stage"));
    put(bare.path().join("recipe.toml"), crate::quickstart::RECIPES[0].1);
    let page = render(&RunFolder::open(bare.path()).unwrap());
    assert!(page.contains("not yet") && page.contains("waiting"));
}

#[test]
fn the_summary_fits_the_terminal_and_holds_the_numbers() {
    let dir = whole();
    let run = RunFolder::open(dir.path()).unwrap();
    let answer = Answer { reasoning: "7 + 5 = 12 ".repeat(30), content: EVIL.to_string(), finish_reason: "stop".into(), tokens: None };
    let asked = Asked { question: "How much is 7 + 5? ".repeat(12), answer };
    let text = summary::render(&run, Some(&asked), Path::new("runs/x/report.html"), false, Paint::plain());
    let wide: Vec<&str> = text.lines().filter(|l| columns(l) > 80).collect();
    assert!(wide.is_empty(), "{wide:?}");
    for part in ["8.000", "2.600", "0.450  0.40 - 0.50", "0.710  0.66 - 0.76", "en", "cargo xtask chat", "runs/x/report.html", "1m15s"] {
        assert!(text.contains(part), "{part} not in\n{text}");
    }
    assert!(!text.contains("addition"), "categories are for the report\n{text}");
    assert!(!text.contains('\u{1b}'));
}
