//! `report.html`: a training in one file. No network, no script; light and dark; the same from memory while training and from the files of
//! the run folder afterwards.

use super::charts;
use super::config::About;
use super::history::{History, Kind, Samples};
use super::status::{loss, short, time};
use llm_run::answers::{Answers, before_and_after};
use llm_run::chart::Chart;
use llm_run::curves;
use llm_run::html::{Html, details, join, left, number, page, right, table, tag, text, tile};
use llm_run::progress::thousands;
use serde_json::Value;

const STYLE: &str = include_str!("report.css");
/// Rows of a table before the oldest are left out.
const MOST_ROWS: usize = 100;
/// Forecasts shown, evenly spread.
const MOST_FORECASTS: usize = 8;

/// The page.
pub fn render(history: &History, about: &About) -> String {
    let sections = [
        ("curves", "Curves", charts::all(history, about)),
        ("forecast", "Forecast", forecast(history, about)),
        ("calibration", "Calibration", calibration(history)),
        ("samples", "Samples", samples(history)),
        ("checkpoints", "Checkpoints", checkpoints(history)),
        ("events", "Events", events(history)),
        ("settings", "Settings", settings(about)),
    ];
    let shown = || sections.iter().filter(|(_, _, body)| !body.is_empty());
    let links = join(shown().map(|(id, title, _)| tag(&format!("a href=\"#{id}\""), *title)));
    let body = join(shown().map(|(id, title, body)| tag(&format!("section id={id}"), [tag("h2", *title), body.clone()])));
    let header = join([opening(history, about), tiles(history, about), tag("nav", links)]);
    page(&format!("{} - training", about.name), STYLE, header, body, "Made by llm-train from metrics.jsonl and events.jsonl of this run folder.")
}

fn opening(history: &History, about: &About) -> Html {
    let stopped = history.events.last().filter(|e| matches!(e.kind, Kind::Interrupted | Kind::Failed));
    let told = history.events.iter().rev().find(|e| matches!(e.kind, Kind::Halted | Kind::Resumed));
    let halted = told.filter(|e| e.kind == Kind::Halted);
    let state = match (halted, history.finished, stopped) {
        (Some(event), ..) => format!("Halted after {} of {} steps: {}", thousands(event.step), thousands(about.max_steps), event.text),
        (None, true, _) => format!("Finished after {} steps.", thousands(history.step)),
        (None, false, Some(event)) => {
            format!("{} after {} of {} steps: {}", event.kind.name(), thousands(event.step), thousands(about.max_steps), event.text)
        }
        (None, false, None) => format!("{} of {} steps so far.", thousands(history.step), thousands(about.max_steps)),
    };
    let mut facts = vec![state];
    if about.parameters > 0 {
        let active =
            if about.active_parameters == about.parameters { String::new() } else { format!(" ({} active)", short(about.active_parameters as f64)) };
        facts.push(format!("{} parameters{active}.", short(about.parameters as f64)));
    }
    if !about.device.is_empty() {
        facts.push(format!("Device {}.", about.device));
    }
    join([tag("p class=eyebrow", "Training"), tag("h1", about.name.as_str()), tag("p class=lede", facts.join(" "))])
}

fn tiles(history: &History, about: &About) -> Html {
    let mut tiles = Vec::new();
    let first = |key: &str| history.points(key).first().map(|p| p.1);
    if let Some(value) = history.loss.value() {
        tiles.push(tile("Loss, smoothed", loss(value), first("loss").map_or(String::new(), |l| format!("from {}", loss(l)))));
    }
    for (key, name) in [("val_loss", "Held-out loss"), ("val_bits_per_byte", "Held-out bits per byte")] {
        if let Some(points) = history.heldout.get(key).filter(|p| !p.is_empty()) {
            let (start, end) = (points[0].1, points[points.len() - 1].1);
            let change = format!("{:+.0} %", 100.0 * (end / start - 1.0));
            let note =
                if points.len() > 1 { join([tag("span class=good", change), text(format!(" from {}", loss(start)))]) } else { Html::default() };
            tiles.push(tile(name, loss(end), note));
        }
    }
    if let (Some(tokens), Some(seconds)) = (history.last("tokens"), history.last("elapsed_seconds").filter(|s| *s > 0.0)) {
        let rate = tokens / seconds;
        let mfu =
            about.flops_per_token.zip(about.peak_flops).map_or(String::new(), |(flops, peak)| format!(", MFU {:.1} %", 100.0 * rate * flops / peak));
        tiles.push(tile("Tokens per second", short(rate), format!("{} tokens{mfu}", short(tokens))));
        let left = history.forecasts.last().filter(|_| !history.finished).map_or(String::new(), |f| format!("about {} to go", time(f.seconds_left)));
        tiles.push(tile("Time", time(seconds), left));
    }
    tiles.truncate(4);
    if tiles.is_empty() { Html::default() } else { tag("div class=tiles", tiles) }
}

fn forecast(history: &History, about: &About) -> Html {
    let made = &history.forecasts;
    if made.is_empty() {
        return Html::default();
    }
    let count = made.len().min(MOST_FORECASTS);
    let shown = (0..count).map(|i| &made[if count > 1 { i * (made.len() - 1) / (count - 1) } else { 0 }]);
    let mut rows: Vec<_> = shown
        .map(|f| {
            let (value, range) = f.loss.map_or(("-".into(), "-".into()), |l| (loss(l.value), format!("{} to {}", loss(l.low), loss(l.high))));
            let cost = f.cost.map_or("-".to_string(), number);
            let energy = f.energy_kwh.map_or("-".to_string(), |e| format!("{} kWh", number(e)));
            let place = format!("{} ({:.0} %)", thousands(f.step), 100.0 * f.step as f64 / about.max_steps.max(1) as f64);
            vec![right(place), right(value), right(range), right(time(f.seconds)), right(cost), right(energy)]
        })
        .collect();
    if let Some(value) = charts::came(history).filter(|_| history.finished) {
        let seconds = history.last("elapsed_seconds").map_or("-".to_string(), time);
        rows.push(vec![right(tag("b", "it came")), right(tag("b", loss(value))), right(""), right(tag("b", seconds)), right(""), right("")]);
    }
    let what = "What the last twentieth of the steps was expected to lose on average, and the whole run to take, when so many steps were done. \
                The range is meant to hold eight times in ten. It follows a power law with a gain from the falling learning rate, and is rough: \
                a run that suddenly learns something goes below it.";
    let head = ["after step", "final loss", "8 in 10", "time", "cost", "energy"];
    join([tag("p class=\"soft small\"", what), tag("div class=card", table(&head, rows))])
}

fn samples(history: &History) -> Html {
    let one =
        |(prompt, text): &(String, String)| tag("div class=\"card sample\"", [tag("span class=soft", prompt.as_str()), tag("span", text.as_str())]);
    let answers = |samples: &Samples| Answers {
        step: samples.step,
        texts: samples.texts.iter().enumerate().map(|(i, (p, t))| (p.clone(), t.clone(), samples.rewards.get(i).copied().flatten())).collect(),
    };
    let compared = before_and_after(&history.samples.iter().map(answers).collect::<Vec<_>>());
    if !compared.is_empty() {
        return compared;
    }
    let all = history.samples.iter().rev().enumerate().map(|(i, samples)| {
        let texts = join(samples.texts.iter().map(one));
        let title = format!("After step {}", thousands(samples.step));
        if i == 0 { join([tag("h3", title), texts]) } else { details(title, texts) }
    });
    join(all)
}

/// How often a reward model is right against how often it says so.
fn calibration(history: &History) -> Html {
    let chart = history.calibration.as_ref().and_then(curves::reliability).map(Chart::html).unwrap_or_default();
    if chart.is_empty() { chart } else { tag("div class=grid2", [chart]) }
}

fn checkpoints(history: &History) -> Html {
    let saved: Vec<_> = history.events.iter().filter(|e| e.kind == Kind::Checkpoint).rev().take(MOST_ROWS).collect();
    if saved.is_empty() {
        return Html::default();
    }
    let at = |key: &str, step: u64| {
        let found = history.heldout.get(key).and_then(|points| points.iter().find(|p| p.0 == step as f64));
        found.map_or("-".to_string(), |p| loss(p.1))
    };
    let train = |step: u64| {
        let points = history.points("loss");
        let end = points.partition_point(|p| p.0 <= step as f64);
        let near = &points[end.saturating_sub(10)..end];
        if near.is_empty() { "-".to_string() } else { loss(near.iter().map(|p| p.1).sum::<f64>() / near.len() as f64) }
    };
    let row = |e: &&super::history::Event| {
        vec![
            right(thousands(e.step)),
            right(train(e.step)),
            right(at("val_loss", e.step)),
            right(at("val_bits_per_byte", e.step)),
            left(e.text.as_str()),
        ]
    };
    let head = ["step", "loss around it", "held-out loss", "bits per byte", "what"];
    tag("div class=card", table(&head, saved.iter().map(row).collect()))
}

fn events(history: &History) -> Html {
    let other: Vec<_> = history.events.iter().filter(|e| e.kind != Kind::Checkpoint).rev().take(MOST_ROWS).collect();
    if other.is_empty() {
        return Html::default();
    }
    let row = |e: &&super::history::Event| {
        let kind = Html::trusted(format!("<i class=\"key s{}\"></i>", e.kind.colour()));
        vec![right(thousands(e.step)), left([kind, text(e.kind.name())]), left(e.text.as_str())]
    };
    tag("div class=card", table(&["step", "what", ""], other.iter().map(row).collect()))
}

/// Settings as `key.sub  value`, nested ones flattened.
fn flat(prefix: &str, value: &Value, out: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                flat(&if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") }, value, out);
            }
        }
        Value::Null => {}
        Value::String(text) => out.push((prefix.to_string(), text.clone())),
        other => out.push((prefix.to_string(), other.to_string())),
    }
}

fn settings(about: &About) -> Html {
    let mut rows = Vec::new();
    flat("", &about.config, &mut rows);
    let known = [
        ("tokens per step", about.tokens_per_step.map(short)),
        ("arithmetic per token", about.flops_per_token.map(|f| format!("{}FLOP", short(f)))),
        ("peak", about.peak_flops.map(|p| format!("{} TFLOP/s", number(p / 1e12)))),
    ];
    rows.extend(known.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?))));
    if rows.is_empty() {
        return Html::default();
    }
    let cells =
        |rows: &[(String, String)]| rows.iter().map(|(key, value)| vec![left(tag("span class=mono", key.as_str())), left(value.as_str())]).collect();
    let (a, b) = rows.split_at(rows.len().div_ceil(2));
    let tables = [a, b].into_iter().filter(|rows| !rows.is_empty()).map(|rows| tag("div class=card", table(&["", ""], cells(rows))));
    tag("div class=\"grid2 settings\"", tables.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::fit::Interval;
    use crate::watch::forecast::Forecast;
    use crate::watch::history::{Entry, Event};
    use serde_json::json;

    const EVIL: &str = "<script>alert('x')</script>\"&";

    fn history() -> History {
        let mut history = History::default();
        for step in 0..=200u32 {
            if step > 0 {
                let record = json!({"step": step, "loss": 8.0 / f64::from(step + 1) + 2.0, "lr": 1e-3, "grad_norm": 1.0, "tokens": step * 2048,
                    "tokens_per_second": 9e3, "elapsed_seconds": step, "memory_bytes": 1e9, "moe_load": [[0.5, 1.5]], EVIL: 1.0});
                history.step(record.as_object().unwrap());
            }
            if step % 50 == 0 {
                let record = json!({"step": step, "val_loss": 3.0, "val_loss/de": 3.5, "val_bits_per_byte": 1.5, "eval/arc/acc": 0.25});
                history.validation(record.as_object().unwrap());
            }
        }
        for (kind, text) in [(Kind::Checkpoint, "saved"), (Kind::Spike, EVIL), (Kind::LossScale, "2^15")] {
            history.events.push(Event { step: 100, kind, text: text.into() });
        }
        let loss = Some(Interval { value: 2.1, low: 2.0, high: 2.3 });
        history.forecasts = vec![Forecast { step: 50, loss, seconds: 200.0, seconds_left: 150.0, cost: Some(2.5), energy_kwh: None }];
        history.samples.push(Samples { step: 200, texts: vec![(EVIL.into(), EVIL.into())], rewards: Vec::new() });
        history
    }

    #[test]
    fn everything_is_shown_and_nothing_can_become_markup() {
        let mut history = history();
        let about = About { name: EVIL.into(), max_steps: 400, parameters: 5_310_720, config: json!({"a": {"b": EVIL}}), ..About::default() };
        for finished in [false, true] {
            history.finished = finished;
            let page = render(&history, &about);
            for part in [
                "id=curves",
                "id=forecast",
                "id=samples",
                "id=checkpoints",
                "id=events",
                "id=settings",
                "5.31M",
                "a.b",
                "2.000 to 2.300",
                "arc/acc",
                "de",
            ] {
                assert!(page.contains(part), "{part}");
            }
            assert_eq!(page.contains("it came"), finished);
            assert!(!page.contains("<script") && !page.contains("http://") && !page.contains("https://") && !page.contains("NaN"));
            for name in ["div", "section", "table", "tr", "td", "figure", "svg", "span", "details", "text"] {
                let open = page.matches(&format!("<{name} ")).count() + page.matches(&format!("<{name}>")).count();
                assert_eq!(open, page.matches(&format!("</{name}>")).count(), "{name}");
            }
        }
    }

    /// If this fails, the report of a training with rewards does not show what it is about: rewards, the alarm, answers before and after.
    #[test]
    fn a_training_with_rewards_shows_them_first_and_what_went_wrong() {
        let mut history = History::default();
        for step in 1..=100u32 {
            let x = f64::from(step) / 100.0;
            let record = json!({"step": step, "loss": 0.01 * x, "reward": x, "rewards/format": 1.0, "kl": 9.0 * x, "completion_length": 40.0 + x,
                "cut_off": 0.1, "entropy": 1.0 - x, "something_new": x, "tokens": step * 2048, "elapsed_seconds": step});
            history.step(record.as_object().unwrap());
            if step % 50 == 0 {
                history.validation(json!({"step": step, "val_reward": x, "val_general_loss": 2.0 + x}).as_object().unwrap());
            }
        }
        for (step, answer) in [(0, "no idea"), (50, "perhaps 3"), (100, EVIL)] {
            let reward = Some(f64::from(step) / 100.0);
            history.entry(Entry::Samples(Samples { step: step as u64, texts: vec![("1+2?".into(), answer.into())], rewards: vec![reward] }));
        }
        history.events.push(Event { step: 90, kind: Kind::Alarm, text: format!("repetition {EVIL}") });
        history.events.push(Event { step: 100, kind: Kind::Halted, text: "reward hacking".into() });
        history.calibration = Some(json!({"pairs": 8, "bins": [{"count": 8, "confidence": 0.75, "accuracy": 0.5}]}));
        history.finished = true;
        let page = render(&history, &About { name: "grpo".into(), max_steps: 400, ..About::default() });
        for part in [
            "Halted after 100 of 400 steps: reward hacking",
            "Parts of the reward",
            "KL",
            "Answer length",
            "Entropy",
            "General text",
            "something new",
            "reward, held out",
            "objective",
            "at the start · reward 0",
            "after step 100 · reward 1",
            "in between",
            "How sure it may be",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert!(page.find("<b>Reward</b>").unwrap() < page.find("<b>Loss</b>").unwrap());
        assert!(page.matches("class=\"flag s1\"").count() > 3, "the alarm is marked on the curves it may be about");
        assert!(!page.contains("<script") && !page.contains("NaN"));
    }

    #[test]
    fn a_run_without_a_step_has_a_page() {
        let page = render(&History::default(), &About { name: "x".into(), max_steps: 10, ..About::default() });
        assert!(page.contains("0 of 10 steps so far"));
    }
}
