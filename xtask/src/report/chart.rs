//! Line charts as inline SVG. Colours are CSS classes (`s0`, `s1`, ...), so that dark mode reaches them.
//!
//! A curve of many steps is drawn twice: the raw values faintly, and a moving mean over them.

use super::html::{Html, escape, join, number, tag, text};
use std::fmt::Write;

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 38.0;
const MOST_POINTS: usize = 400;

/// One curve.
#[derive(Debug, Clone)]
pub struct Series {
    /// Shown in the legend.
    pub name: String,
    /// Colour class `s{colour}`.
    pub colour: usize,
    /// Steps and values.
    pub points: Vec<(f64, f64)>,
    /// Draw the raw values faintly and a moving mean over them.
    pub smooth: bool,
    /// Mark every point; for curves of few points.
    pub dots: bool,
}

/// A chart of one or more curves over the same axis.
#[derive(Debug, Clone)]
pub struct Chart {
    /// Above the chart.
    pub title: String,
    /// Below the x axis.
    pub x: String,
    /// What y is.
    pub y: String,
    /// The curves.
    pub series: Vec<Series>,
    /// A horizontal line to compare with.
    pub line: Option<(String, f64)>,
    /// The y axis starts at 0.
    pub zero: bool,
}

/// Round numbers that cover `low..=high` in about `count` steps of 1, 2 or 5 times a power of ten.
pub fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let span = (high - low).max(f64::MIN_POSITIVE);
    let raw = span / count.max(1) as f64;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= raw * 0.999).unwrap_or(power * 10.0);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// `2,000` and `0.05`, with the digits the distance of the ticks asks for.
fn tick_label(value: f64, step: f64) -> String {
    if value.abs() >= 10_000.0 {
        return if value.abs() >= 1e6 { format!("{}M", number(value / 1e6)) } else { format!("{}k", number(value / 1e3)) };
    }
    if step != 0.0 && step < 1e-3 {
        return if value == 0.0 { "0".to_string() } else { format!("{value:.0e}") };
    }
    let digits = if step >= 1.0 { 0 } else { (-step.log10()).ceil().max(0.0) as usize };
    format!("{value:.digits$}")
}

/// Mean over a window around each point, narrower towards the ends so that the curve neither lags nor bends there.
fn average(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let most = (points.len() / 25).clamp(2, 25);
    (0..points.len())
        .map(|i| {
            let half = most.min(i).min(points.len() - 1 - i);
            let window = &points[i - half..=i + half];
            (points[i].0, window.iter().map(|p| p.1).sum::<f64>() / window.len() as f64)
        })
        .collect()
}

/// At most [`MOST_POINTS`] points: first, last and evenly between.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    (0..MOST_POINTS).map(|i| points[i * (points.len() - 1) / (MOST_POINTS - 1)]).collect()
}

impl Chart {
    fn range(&self) -> Option<(f64, f64, f64, f64)> {
        let points = || self.series.iter().flat_map(|s| s.points.iter().copied());
        let (mut x0, mut x1, mut y0, mut y1) = (f64::INFINITY, f64::NEG_INFINITY, f64::INFINITY, f64::NEG_INFINITY);
        for (x, y) in points() {
            (x0, x1, y0, y1) = (x0.min(x), x1.max(x), y0.min(y), y1.max(y));
        }
        if let Some((_, value)) = &self.line {
            (y0, y1) = (y0.min(*value), y1.max(*value));
        }
        if !(x0.is_finite() && y0.is_finite()) {
            return None;
        }
        if self.zero {
            y0 = y0.min(0.0);
        }
        let pad = if y1 > y0 { (y1 - y0) * 0.06 } else { y1.abs().max(1.0) * 0.1 };
        let low = if y0 >= 0.0 && y0 - pad < 0.0 || (self.zero && y0 == 0.0) { 0.0 } else { y0 - pad };
        if x1 <= x0 {
            (x0, x1) = (x0 - 0.5, x1 + 0.5);
        }
        Some((x0, x1, low, y1 + pad))
    }

    /// The chart with its title and legend; nothing when there is no finite point.
    pub fn html(mut self) -> Html {
        for series in &mut self.series {
            series.points.retain(|(x, y)| x.is_finite() && y.is_finite());
        }
        self.series.retain(|s| !s.points.is_empty());
        let Some((x0, x1, y0, y1)) = self.range() else {
            return Html::default();
        };
        let px = |x: f64| LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
        let py = |y: f64| HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"{}\">",
            escape(&format!("{}: {} over {}", self.title, self.y, self.x))
        );
        let (floor, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let across = ticks(y0, y1, 5);
        let step = across.get(1).zip(across.first()).map_or(1.0, |(b, a)| b - a);
        for y in &across {
            let at = py(*y);
            let _ = write!(svg, "<line class=grid x1={LEFT} x2={right} y1={at:.1} y2={at:.1} />");
            let _ = write!(svg, "<text class=tick x={} y={:.1} text-anchor=end>{}</text>", LEFT - 7.0, at + 4.0, tick_label(*y, step));
        }
        let along = ticks(x0, x1, 6);
        let step = along.get(1).zip(along.first()).map_or(1.0, |(b, a)| b - a);
        for x in along {
            let at = px(x);
            let _ = write!(svg, "<line class=axis x1={at:.1} x2={at:.1} y1={floor} y2={} />", floor + 4.0);
            let _ = write!(svg, "<text class=tick x={at:.1} y={} text-anchor=middle>{}</text>", floor + 17.0, tick_label(x, step));
        }
        let _ = write!(svg, "<line class=axis x1={LEFT} x2={right} y1={floor} y2={floor} />");
        let _ = write!(svg, "<text class=label x={} y={} text-anchor=middle>{}</text>", (LEFT + right) / 2.0, HEIGHT - 4.0, escape(&self.x));
        if let Some((_, value)) = &self.line {
            let at = py(*value);
            let _ = write!(svg, "<line class=compare x1={LEFT} x2={right} y1={at:.1} y2={at:.1} />");
        }
        for series in &self.series {
            let curve =
                |points: &[(f64, f64)]| thin(points).iter().map(|(x, y)| format!("{:.1},{:.1}", px(*x), py(*y))).collect::<Vec<_>>().join(" ");
            let smooth = series.smooth && series.points.len() >= 20;
            let class = if smooth { "raw" } else { "curve" };
            let _ = write!(svg, "<polyline class=\"{class} s{}\" points=\"{}\" />", series.colour, curve(&series.points));
            if smooth {
                let _ = write!(svg, "<polyline class=\"curve s{}\" points=\"{}\" />", series.colour, curve(&average(&series.points)));
            }
            if series.dots || series.points.len() == 1 {
                for (x, y) in thin(&series.points) {
                    let hint = format!("{}: {} at {}", series.name, number(y), number(x));
                    let _ = write!(
                        svg,
                        "<circle class=\"dot s{}\" cx={:.1} cy={:.1} r=3><title>{}</title></circle>",
                        series.colour,
                        px(x),
                        py(y),
                        escape(&hint)
                    );
                }
            }
        }
        svg.push_str("</svg>");
        let mut legend: Vec<Html> = Vec::new();
        if self.series.len() > 1 || self.line.is_some() {
            legend.extend(self.series.iter().map(|s| tag("span", [Html::trusted(format!("<i class=\"key s{}\"></i>", s.colour)), text(&s.name)])));
        }
        if let Some((name, value)) = &self.line {
            legend.push(tag("span", [Html::trusted("<i class=\"key dashed\"></i>".to_string()), text(format!("{name} ({})", number(*value)))]));
        }
        let caption = tag("figcaption", [tag("b", self.title.as_str()), tag("span class=unit", self.y.as_str())]);
        let legend = if legend.is_empty() { Html::default() } else { tag("div class=legend", join(legend)) };
        tag("figure", [caption, legend, Html::trusted(svg)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Chart {
        let series = Series { name: "<loss>".into(), colour: 0, points, smooth: true, dots: true };
        Chart { title: "t & u".into(), x: "step".into(), y: "nats".into(), series: vec![series], line: None, zero: false }
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        let t = ticks(3.1, 7.9, 5);
        assert_eq!(t, [4.0, 5.0, 6.0, 7.0]);
        assert!(ticks(1.0, 1.0, 5).len() <= 2);
    }

    #[test]
    fn a_chart_holds_every_curve_and_escapes_names() {
        let html = chart((0..1000).map(|i| (f64::from(i), 1.0 / f64::from(i + 1))).collect()).html().into_string();
        assert_eq!(html.matches("<polyline").count(), 2);
        assert!(html.contains("t &amp; u") && !html.contains("<loss>") && !html.contains("NaN"));
        let points = html.split("class=\"raw s0\" points=\"").nth(1).unwrap().split('"').next().unwrap().split(' ').count();
        assert_eq!(points, MOST_POINTS);
    }

    #[test]
    fn the_moving_mean_follows_a_line_exactly() {
        let line: Vec<(f64, f64)> = (0..100).map(|i| (f64::from(i), 3.0 * f64::from(i))).collect();
        assert!(average(&line).iter().zip(&line).all(|(a, b)| (a.1 - b.1).abs() < 1e-9));
    }

    #[test]
    fn degenerate_data_draws_nothing_broken() {
        assert!(chart(vec![]).html().is_empty());
        assert!(chart(vec![(1.0, f64::NAN)]).html().is_empty());
        for points in [vec![(3.0, 2.0)], vec![(1.0, 0.0), (2.0, 0.0)], vec![(0.0, -1.0), (1.0, f64::INFINITY)]] {
            let html = chart(points).html().into_string();
            assert!(html.contains("<svg") && !html.contains("NaN") && !html.contains("inf"), "{html}");
        }
    }
}
