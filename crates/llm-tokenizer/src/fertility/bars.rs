//! Grouped bars as inline SVG: a group for each language, in it a bar for each tokenizer. Bars lie, so that any number of
//! languages is readable on a narrow screen. Colours are CSS classes (`s0`, `s1`, ...), so that dark mode reaches them.

use llm_run::html::{Html, escape, join, tag, text};
use std::fmt::Write;

const WIDTH: f64 = 520.0;
const LEFT: f64 = 112.0;
const RIGHT: f64 = 44.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 26.0;
const BAR: f64 = 13.0;
const BETWEEN_BARS: f64 = 3.0;
const BETWEEN_GROUPS: f64 = 13.0;
/// Colour classes there are.
pub(super) const COLOURS: usize = 6;

/// A chart of bars.
#[derive(Debug, Clone)]
pub(super) struct Bars {
    /// Above the chart.
    pub title: String,
    /// What is measured.
    pub unit: String,
    /// What the bars of a group are.
    pub names: Vec<String>,
    /// Name of each group and its values.
    pub groups: Vec<(String, Vec<Option<f64>>)>,
    /// A line to compare with.
    pub line: Option<f64>,
}

/// The first step of 1, 2 or 5 times a power of ten that covers `most` in at most five.
fn step(most: f64) -> f64 {
    let raw = most.max(f64::MIN_POSITIVE) / 5.0;
    let power = 10f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= raw * 0.999).unwrap_or(power * 10.0)
}

/// The beginning of a name too long for its place.
fn short(name: &str) -> String {
    const MOST: usize = 16;
    if name.chars().count() <= MOST { name.to_string() } else { name.chars().take(MOST - 1).chain(['…']).collect() }
}

impl Bars {
    /// The chart with its title and legend; nothing where there is no value.
    pub fn html(&self) -> Html {
        let values = self.groups.iter().flat_map(|(_, values)| values.iter().flatten()).copied().filter(|v| v.is_finite());
        let most = values.fold(0.0, f64::max).max(self.line.unwrap_or(0.0));
        if most <= 0.0 {
            return Html::default();
        }
        let step = step(most);
        let end = (most / step - 1e-9).ceil() * step;
        let x = |value: f64| LEFT + value / end * (WIDTH - LEFT - RIGHT);
        let group = self.names.len() as f64 * (BAR + BETWEEN_BARS) - BETWEEN_BARS;
        let floor = TOP + self.groups.len() as f64 * (group + BETWEEN_GROUPS);
        let digits = if step >= 1.0 { 0 } else { (-step.log10()).ceil().max(0.0) as usize };
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=img aria-label=\"{}\">",
            floor + BOTTOM,
            escape(&format!("{}: {} by language and tokenizer", self.title, self.unit))
        );
        for i in 0..=(end / step).round() as usize {
            let value = i as f64 * step;
            let at = x(value);
            let class = if i == 0 { "axis" } else { "grid" };
            let _ = write!(svg, "<line class={class} x1={at:.1} x2={at:.1} y1={TOP} y2={floor:.1} />");
            let _ = write!(svg, "<text class=tick x={at:.1} y={:.1} text-anchor=middle>{value:.digits$}</text>", floor + 17.0);
        }
        if let Some(line) = self.line {
            let at = x(line);
            let _ = write!(svg, "<line class=compare x1={at:.1} x2={at:.1} y1={TOP} y2={floor:.1} />");
        }
        for (index, (name, values)) in self.groups.iter().enumerate() {
            let top = TOP + BETWEEN_GROUPS / 2.0 + index as f64 * (group + BETWEEN_GROUPS);
            let middle = top + group / 2.0 + 4.0;
            let _ = write!(svg, "<text class=name x={:.1} y={middle:.1} text-anchor=end>{}</text>", LEFT - 9.0, escape(&short(name)));
            for (bar, value) in values.iter().enumerate() {
                let y = top + bar as f64 * (BAR + BETWEEN_BARS);
                let Some(value) = value.filter(|v| v.is_finite()) else {
                    let _ = write!(svg, "<text class=tick x={:.1} y={:.1}>no value</text>", LEFT + 5.0, y + BAR - 2.5);
                    continue;
                };
                let hint = format!("{name}, {}: {value:.3}", self.names.get(bar).map_or("", String::as_str));
                let width = (x(value) - LEFT).max(0.5);
                let _ = write!(
                    svg,
                    "<rect class=s{} x={LEFT} y={y:.1} width={width:.1} height={BAR} rx=2><title>{}</title></rect>",
                    bar % COLOURS,
                    escape(&hint)
                );
                let _ = write!(svg, "<text class=value x={:.1} y={:.1}>{value:.2}</text>", x(value) + 5.0, y + BAR - 2.5);
            }
        }
        svg.push_str("</svg>");
        let key = |(i, name): (usize, &String)| tag("span", [Html::trusted(format!("<i class=\"key s{}\"></i>", i % COLOURS)), text(name)]);
        let legend = tag("div class=legend", join(self.names.iter().enumerate().map(key)));
        let caption = tag("figcaption", [tag("b", self.title.as_str()), tag("span class=unit", self.unit.as_str())]);
        tag("figure", [caption, legend, Html::trusted(svg)])
    }
}
