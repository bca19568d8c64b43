//! The dashboard as a picture of characters: a function of what is known, so that tests can look at it.

use super::config::About;
use super::dashboard::State;
use super::forecast::Forecast;
use super::history::{Event, Kind, Samples};
use super::status::{Live, bytes, loss, short, time};
use super::{ENTROPY, KL};
use llm_run::html::number;
use llm_run::progress::thousands;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, GraphType, Paragraph, Wrap};

const SOFT: Style = Style::new().fg(Color::DarkGray);
const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
/// Held-out numbers shown.
const MOST_HELDOUT: usize = 6;

type Points = Vec<(f64, f64)>;

/// What is drawn.
#[derive(Debug, Default)]
pub struct Scene {
    about: About,
    live: Live,
    raw: Points,
    smooth: Points,
    validation: Points,
    lr: Points,
    grad_norm: Points,
    rate: Points,
    /// Of a training with rewards: their curves are drawn in place of those of the loss, the rate and the gradient.
    policy: Option<[Points; 3]>,
    heldout: Vec<(String, f64)>,
    forecast: Option<Forecast>,
    events: Vec<Event>,
    samples: Option<Samples>,
    /// Ctrl-C was pressed.
    pub stopping: bool,
}

impl Scene {
    /// A copy of what a picture with `most` points per curve needs.
    pub fn of(state: &State, about: &About, most: usize) -> Self {
        let history = &state.history;
        let thinned = |key: &str, most: usize| history.curves.get(key).map(|c| c.thinned(most)).unwrap_or_default();
        let order = |key: &str| (!key.starts_with("val_loss"), !key.starts_with("val_bits"), key.starts_with("val_moe"));
        let mut heldout: Vec<(String, f64)> = history.heldout.iter().filter_map(|(k, v)| Some((k.clone(), v.last()?.1))).collect();
        heldout.sort_by_key(|(key, _)| order(key));
        heldout.retain(|(key, _)| key != "val_perplexity");
        heldout.truncate(MOST_HELDOUT);
        let rewarded = history.curves.contains_key("reward");
        let headline = if rewarded { "reward" } else { "loss" };
        let validation = history.heldout.get(if rewarded { "val_reward" } else { "val_loss" });
        Self {
            about: About { config: serde_json::Value::Null, ..about.clone() },
            live: state.live.clone(),
            raw: thinned(headline, most),
            smooth: thinned(headline, (most / 8).max(12)),
            validation: validation.cloned().unwrap_or_default(),
            policy: rewarded.then(|| {
                [KL, &["completion_length"][..], ENTROPY].map(|keys| history.first_of(keys).map(|key| thinned(key, most)).unwrap_or_default())
            }),
            lr: thinned("lr", most),
            grad_norm: thinned("grad_norm", most),
            rate: thinned("tokens_per_second", most),
            heldout,
            forecast: history.forecasts.last().cloned(),
            events: history.events.iter().rev().take(20).cloned().collect(),
            samples: history.samples.last().cloned(),
            stopping: false,
        }
    }
}

/// Draw everything.
pub fn draw(frame: &mut Frame<'_>, scene: &Scene) {
    let area = frame.area();
    let low = (area.height / 4).clamp(4, 12);
    let [head, middle, bottom, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(8), Constraint::Length(low), Constraint::Length(1)]).areas(area);
    let [left, facts] = Layout::horizontal([Constraint::Min(30), Constraint::Length(30)]).areas(middle);
    let [loss_area, small] = Layout::vertical([Constraint::Percentage(62), Constraint::Min(6)]).areas(left);
    header(frame, head, scene);
    losses(frame, loss_area, scene);
    let [a, b, c] = Layout::horizontal([Constraint::Ratio(1, 3); 3]).areas(small);
    let max = scene.about.max_steps as f64;
    if let Some([kl, length, entropy]) = &scene.policy {
        curve(frame, a, "kl", kl, Color::Magenta, max, |v| number(three_digits(v)));
        curve(frame, b, "length", length, Color::Yellow, max, short);
        curve(frame, c, "entropy", entropy, Color::Green, max, |v| number(three_digits(v)));
    } else {
        curve(frame, a, "lr", &scene.lr, Color::Magenta, max, |v| if v == 0.0 { "0".into() } else { format!("{v:.0e}") });
        curve(frame, b, "grad norm", &scene.grad_norm, Color::Yellow, max, |v| number(three_digits(v)));
        curve(frame, c, "tok/s", &scene.rate, Color::Green, max, short);
    }
    frame.render_widget(Paragraph::new(facts_of(scene)).block(block("run")), facts);
    let [events, samples] = Layout::horizontal([Constraint::Ratio(1, 2); 2]).areas(bottom);
    frame.render_widget(Paragraph::new(events_of(scene, events.height)).block(block("events")), events);
    frame.render_widget(Paragraph::new(samples_of(scene)).wrap(Wrap { trim: true }).block(block("samples")), samples);
    let keys = match scene.stopping {
        true => Line::styled(" interrupted: finishing the current step (Ctrl-C again to stop at once)", Style::new().fg(Color::Red)),
        false => Line::styled(" q close this view, training goes on   s save a checkpoint   Ctrl-C stop", SOFT),
    };
    frame.render_widget(keys, foot);
}

fn three_digits(value: f64) -> f64 {
    let scale = 10f64.powi(2 - value.abs().max(1e-12).log10().floor() as i32);
    (value * scale).round() / scale
}

fn block(title: &str) -> Block<'_> {
    Block::bordered().border_style(SOFT).title(Span::styled(format!(" {title} "), STRONG))
}

fn header(frame: &mut Frame<'_>, area: Rect, scene: &Scene) {
    let live = &scene.live;
    let share = if live.max_steps > 0 { 100.0 * live.step as f64 / live.max_steps as f64 } else { 0.0 };
    let left = format!(" {}  {}/{}  {share:.0}%", scene.about.name, thousands(live.step), thousands(live.max_steps));
    let mut right = live.left.map(|left| format!("ETA {}", time(left))).into_iter().collect::<Vec<_>>();
    right.extend(live.tokens_per_second.map(|rate| format!("{} tok/s", short(rate))));
    right.extend(live.mfu.map(|mfu| format!("MFU {:.1}%", 100.0 * mfu)));
    let right = right.join("  ");
    let done = Rect { width: (f64::from(area.width) * share / 100.0) as u16, ..area };
    let gap = usize::from(area.width).saturating_sub(left.chars().count() + right.chars().count() + 1);
    frame.render_widget(Paragraph::new(format!("{left}{}{right} ", " ".repeat(gap))).style(STRONG), area);
    frame.buffer_mut().set_style(done.intersection(area), Style::new().fg(Color::Black).bg(Color::Cyan));
}

/// Ends of an axis around values, and room above and below.
fn bounds(values: impl Iterator<Item = f64> + Clone) -> Option<[f64; 2]> {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let most = values.fold(f64::NEG_INFINITY, f64::max);
    if !(least.is_finite() && most.is_finite()) {
        return None;
    }
    let room = if most > least { (most - least) * 0.05 } else { most.abs().max(1e-9) * 0.1 };
    Some([if least >= 0.0 { (least - room).max(0.0) } else { least - room }, most + room])
}

fn line<'a>(points: &'a [(f64, f64)], style: Style) -> Dataset<'a> {
    Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line).style(style).data(points)
}

fn x_axis<'a>(max: f64, points: &[(f64, f64)]) -> Axis<'a> {
    let end = max.max(points.last().map_or(1.0, |p| p.0)).max(1.0);
    let label = |v: f64| Span::styled(if v < 1e4 { format!("{v:.0}") } else { short(v) }, SOFT);
    Axis::default().style(SOFT).bounds([0.0, end]).labels([label(0.0), label(end / 2.0), label(end)])
}

fn losses(frame: &mut Frame<'_>, area: Rect, scene: &Scene) {
    // The first steps are high above all others: from a tenth of the way on they may leave the picture.
    let late = scene.smooth.len() / 10;
    let seen = scene.raw.len() / 10;
    let values = scene.raw[seen..].iter().chain(&scene.smooth[late..]).map(|p| p.1);
    let Some([low, high]) = bounds(values) else {
        return frame.render_widget(Paragraph::new(Line::styled(" waiting for the first step", SOFT)).block(block("loss")), area);
    };
    let (name, now) = if scene.policy.is_some() { (" reward ", scene.live.reward) } else { (" loss ", scene.live.loss) };
    let mut title = vec![Span::styled(name, STRONG)];
    title.extend(now.map(|value| Span::styled(format!("{} ", loss(value)), Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD))));
    title.extend(scene.validation.last().map(|p| Span::styled(format!("held out {} ", loss(p.1)), Style::new().fg(Color::LightRed))));
    let held = Style::new().fg(Color::LightRed);
    let validation = Dataset::default().marker(Marker::Dot).graph_type(GraphType::Scatter).style(held).data(&scene.validation);
    let labels = [low, (low + high) / 2.0, high].map(|v| Span::styled(loss(v), SOFT));
    let chart = Chart::new(vec![line(&scene.raw, SOFT), line(&scene.smooth, Style::new().fg(Color::Cyan)), validation])
        .block(Block::bordered().border_style(SOFT).title(Line::from(title)))
        .x_axis(x_axis(scene.about.max_steps as f64, &scene.raw))
        .y_axis(Axis::default().style(SOFT).bounds([low, high]).labels(labels));
    frame.render_widget(chart, area);
}

fn curve(frame: &mut Frame<'_>, area: Rect, title: &str, points: &[(f64, f64)], colour: Color, max: f64, label: impl Fn(f64) -> String) {
    let Some([low, high]) = bounds(points.iter().map(|p| p.1)) else {
        return frame.render_widget(block(title), area);
    };
    let labels = [low, high].map(|v| Span::styled(label(v), SOFT));
    let end = max.max(points.last().map_or(1.0, |p| p.0)).max(1.0);
    let chart = Chart::new(vec![line(points, Style::new().fg(colour))])
        .block(block(title))
        .x_axis(Axis::default().style(SOFT).bounds([0.0, end]))
        .y_axis(Axis::default().style(SOFT).bounds([low, high]).labels(labels));
    frame.render_widget(chart, area);
}

fn facts_of(scene: &Scene) -> Vec<Line<'static>> {
    let (live, about) = (&scene.live, &scene.about);
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_string(), value));
    let total = live.left.map(|left| live.elapsed + left);
    row("time", format!("{}{}", time(live.elapsed), total.map_or(String::new(), |t| format!(" of {}", time(t)))));
    let planned = about.tokens_per_step.map_or(String::new(), |t| format!(" of {}", short(t * about.max_steps as f64)));
    row("tokens", format!("{}{planned}", short(live.tokens)));
    if let Some(interval) = scene.forecast.as_ref().and_then(|f| f.loss) {
        row("final loss", format!("~{}", loss(interval.value)));
        row("  8 in 10", format!("{} to {}", loss(interval.low), loss(interval.high)));
    }
    if let Some(forecast) = &scene.forecast {
        forecast.cost.into_iter().for_each(|cost| row("cost", number(cost)));
        forecast.energy_kwh.into_iter().for_each(|energy| row("energy", format!("{} kWh", number(energy))));
    }
    live.memory.into_iter().for_each(|memory| row("memory", bytes(memory)));
    row("parameters", short(about.parameters as f64));
    if about.active_parameters != about.parameters && about.active_parameters > 0 {
        row("active", short(about.active_parameters as f64));
    }
    row("device", about.device.clone());
    let mut lines: Vec<Line<'static>> = rows.into_iter().map(|(name, value)| fact(&name, value)).collect();
    if !scene.heldout.is_empty() {
        lines.push(Line::styled("held out", STRONG));
        lines.extend(scene.heldout.iter().map(|(key, value)| fact(key.strip_prefix("val_").unwrap_or(key), number(*value))));
    }
    lines
}

/// Name on the left, value on the right, in the 28 columns of the box.
fn fact(name: &str, value: String) -> Line<'static> {
    const WIDTH: usize = 28;
    let room = WIDTH.saturating_sub(value.chars().count() + 1);
    let name: String = match name.chars().count() > room {
        true => name.chars().take(room.saturating_sub(1)).chain(['…']).collect(),
        false => name.to_string(),
    };
    let gap = WIDTH.saturating_sub(name.chars().count() + value.chars().count());
    Line::from(vec![Span::styled(name, SOFT), Span::raw(" ".repeat(gap)), Span::raw(value)])
}

fn events_of(scene: &Scene, height: u16) -> Vec<Line<'static>> {
    if scene.events.is_empty() {
        return vec![Line::styled("none yet", SOFT)];
    }
    let style = |kind: Kind| match kind {
        Kind::Spike | Kind::Rewind | Kind::Failed | Kind::Interrupted | Kind::Halted => Style::new().fg(Color::LightRed),
        Kind::Skipped | Kind::LossScale | Kind::Alarm => Style::new().fg(Color::Yellow),
        Kind::Checkpoint | Kind::Resumed | Kind::Note => Style::new().fg(Color::Green),
    };
    let line = |event: &Event| {
        let (step, kind) = (Span::styled(format!("{:>7} ", thousands(event.step)), SOFT), Span::styled(event.kind.name(), style(event.kind)));
        Line::from(vec![step, kind, Span::raw(format!(" {}", event.text))])
    };
    scene.events.iter().take(usize::from(height.saturating_sub(2))).map(line).collect()
}

fn samples_of(scene: &Scene) -> Vec<Line<'static>> {
    let Some(samples) = &scene.samples else {
        return vec![Line::styled("none yet", SOFT)];
    };
    let clean = |text: &str| text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(600).collect::<String>();
    let line = |(prompt, text): &(String, String)| Line::from(vec![Span::styled(clean(prompt), SOFT), Span::raw(clean(text))]);
    let head = Line::styled(format!("after step {}", thousands(samples.step)), SOFT);
    std::iter::once(head).chain(samples.texts.iter().map(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::fit::Interval;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    fn scene() -> Scene {
        let mut state = State::default();
        for step in 1..=400u32 {
            let loss = 3.0 + 5.0 / f64::from(step).sqrt() + 0.1 * f64::from(step % 7);
            let record = json!({"step": step, "loss": loss, "lr": 1e-3 * f64::from(step) / 400.0, "grad_norm": 1.0, "tokens_per_second": 9e3});
            state.history.step(record.as_object().unwrap());
            if step % 100 == 0 {
                state
                    .history
                    .validation(json!({"step": step, "val_loss": loss, "val_loss/de": loss + 1.0, "val_bits_per_byte": 1.5}).as_object().unwrap());
            }
        }
        let loss = Some(Interval { value: 2.9, low: 2.75, high: 3.12 });
        state.history.forecasts.push(Forecast { step: 400, loss, seconds: 100.0, seconds_left: 60.0, cost: Some(1.25), energy_kwh: None });
        state.history.events.push(Event { step: 200, kind: Kind::Checkpoint, text: "saved".into() });
        state.history.events.push(Event { step: 333, kind: Kind::Spike, text: "loss 7.1".into() });
        state.history.samples.push(Samples {
            step: 400,
            texts: vec![("Once upon a time".into(), " there was\n\u{1b}[31ma mouse".into())],
            rewards: Vec::new(),
        });
        state.live =
            Live { step: 400, max_steps: 1000, loss: Some(3.25), left: Some(61.0), elapsed: 40.0, tokens: 8e5, mfu: Some(0.42), ..Live::default() };
        let about = About {
            name: "pretrain".into(),
            max_steps: 1000,
            tokens_per_step: Some(2048.0),
            parameters: 5_310_720,
            device: "cpu".into(),
            ..About::default()
        };
        Scene::of(&state, &about, 200)
    }

    fn picture(scene: &Scene, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, scene)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(row).collect::<Vec<_>>().join("\n")
    }

    /// If this fails, a number that people look for is not on the screen, or does not fit.
    #[test]
    fn everything_is_on_the_screen_of_any_usual_size() {
        for (width, height) in [(80, 24), (120, 40)] {
            let text = picture(&scene(), width, height);
            for part in [
                "pretrain  400/1,000  40%",
                "ETA 1m01s",
                "MFU 42.0%",
                "loss 3.250",
                "held out",
                "grad norm",
                "tok/s",
                "lr",
                "final loss",
                "~2.900",
                "2.750 to 3.120",
                "cost",
                "1.25",
                "5.31M",
                "spike loss 7.1",
                "checkpoint saved",
                "Once upon a time",
                "q close",
            ] {
                assert!(text.contains(part), "{width}x{height}: no `{part}` in\n{text}");
            }
            assert!(text.chars().any(|c| ('\u{2801}'..='\u{28ff}').contains(&c)), "no curve in\n{text}");
            assert!(!text.contains('\u{1b}'));
            println!("{text}\n");
        }
    }

    #[test]
    fn a_training_with_rewards_shows_what_it_is_about() {
        let mut state = State::default();
        for step in 1..=100u32 {
            let record = json!({"step": step, "loss": 0.01, "reward": 0.01 * f64::from(step), "kl": 0.5, "completion_length": 40, "entropy": 1.0});
            state.history.step(record.as_object().unwrap());
        }
        state.live = Live { step: 100, max_steps: 200, reward: Some(0.987), ..Live::default() };
        state.history.events.push(Event { step: 90, kind: Kind::Alarm, text: "entropy collapse".into() });
        let text = picture(&Scene::of(&state, &About { name: "grpo".into(), max_steps: 200, ..About::default() }, 200), 100, 30);
        for part in ["reward 0.987", "kl", "length", "entropy", "alarm entropy collapse"] {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
        assert!(!text.contains("grad norm"));
    }

    #[test]
    fn nothing_known_and_no_room_are_no_reason_to_fail() {
        for (width, height) in [(1, 1), (10, 3), (40, 10), (300, 90)] {
            picture(&Scene::default(), width, height);
            picture(&scene(), width, height);
        }
        assert!(picture(&Scene::default(), 80, 24).contains("waiting for the first step"));
        assert!(picture(&Scene { stopping: true, ..scene() }, 80, 24).contains("interrupted"));
    }
}
