//! Charts as inline SVG: curves, points with the lines fitted to them, bands, and marks of what happened. Colours are CSS classes (`s0`,
//! `s1`, ...) of [`crate::html::STYLE`], so that dark mode reaches them.
//!
//! A curve of many steps is drawn twice: the raw values faintly, and a moving mean over them. The raw values keep the least and the most of
//! every stretch, so that a spike of one step is seen among a million.

mod axis;

pub use axis::{Axis, ticks};

use crate::html::{Html, escape, join, number, tag, text};
use std::fmt::Write;

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 38.0;
const MOST_POINTS: usize = 400;
const MOST_MARKS: usize = 60;
/// A raw curve of so many points may lose its wildest values at either end ([`Chart::robust`]).
const ENOUGH_FOR_ROBUST: usize = 40;

/// One curve, or one cloud of points.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// Shown in the legend.
    pub name: String,
    /// Colour class `s{colour}`.
    pub colour: usize,
    /// Values of x and y.
    pub points: Vec<(f64, f64)>,
    /// Draw the raw values faintly and a moving mean over them.
    pub smooth: bool,
    /// Mark every point; for curves of few points.
    pub dots: bool,
    /// Points that no line connects.
    pub scatter: bool,
    /// A broken line: a fit, a plan.
    pub dashed: bool,
    /// A shaded range around the curve: x, lower end, upper end.
    pub band: Vec<(f64, f64, f64)>,
}

/// Something that happened at a place on the x axis.
#[derive(Debug, Clone)]
pub struct Mark {
    /// Where.
    pub x: f64,
    /// What, for whoever points at it.
    pub text: String,
    /// Colour class `s{colour}`.
    pub colour: usize,
}

/// A chart of one or more series over the same axes.
#[derive(Debug, Clone, Default)]
pub struct Chart {
    /// Above the chart.
    pub title: String,
    /// Below the x axis.
    pub x: String,
    /// What y is.
    pub y: String,
    /// What is drawn.
    pub series: Vec<Series>,
    /// A horizontal line to compare with.
    pub line: Option<(String, f64)>,
    /// Vertical lines.
    pub marks: Vec<Mark>,
    /// The y axis starts at 0.
    pub zero: bool,
    /// Equal ratios of x take equal room; what is not positive is left out.
    pub log_x: bool,
    /// The same for y.
    pub log_y: bool,
    /// The y axis may leave out the outermost half percent of a long raw curve at either end; they are drawn at the edge.
    pub robust: bool,
}

/// Mean over a window around each of at most [`MOST_POINTS`] points, narrower towards the ends so that the curve neither lags nor bends there.
fn average(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let most = (points.len() / 25).clamp(2, 25.max(points.len() / 100));
    let mean = |i: usize| {
        let half = most.min(i).min(points.len() - 1 - i);
        let window = &points[i - half..=i + half];
        (points[i].0, window.iter().map(|p| p.1).sum::<f64>() / window.len() as f64)
    };
    evenly(points.len()).map(mean).collect()
}

/// First, last and evenly between.
fn evenly(length: usize) -> impl Iterator<Item = usize> {
    let shown = length.min(MOST_POINTS);
    (0..shown).map(move |i| if shown < length { i * (length - 1) / (shown - 1) } else { i })
}

/// Least and most of every stretch, in their order; at most [`MOST_POINTS`].
fn envelope(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let stretches = MOST_POINTS / 2;
    let mut out = Vec::with_capacity(MOST_POINTS);
    for i in 0..stretches {
        let stretch = &points[i * points.len() / stretches..(i + 1) * points.len() / stretches];
        let by_y = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        if let (Some(least), Some(most)) = (stretch.iter().min_by(by_y), stretch.iter().max_by(by_y)) {
            out.extend(if least.0 <= most.0 { [*least, *most] } else { [*most, *least] });
        }
    }
    out
}

impl Chart {
    /// Drop what cannot be drawn.
    fn clean(&mut self) {
        let shown = |v: f64, log: bool| v.is_finite() && (!log || v > 0.0);
        for series in &mut self.series {
            series.points.retain(|(x, y)| shown(*x, self.log_x) && shown(*y, self.log_y));
            series.band.retain(|(x, low, high)| shown(*x, self.log_x) && shown(*low, self.log_y) && high.is_finite());
        }
        self.series.retain(|s| !s.points.is_empty());
        if self.line.as_ref().is_some_and(|(_, y)| !shown(*y, self.log_y)) {
            self.line = None;
        }
    }

    /// Both axes; none without points.
    fn axes(&self) -> Option<(Axis, Axis)> {
        let (mut x0, mut x1, mut y0, mut y1) = (f64::INFINITY, f64::NEG_INFINITY, f64::INFINITY, f64::NEG_INFINITY);
        for series in &self.series {
            let mut ys: Vec<f64> = series.points.iter().map(|p| p.1).collect();
            if self.robust && series.smooth && ys.len() >= ENOUGH_FOR_ROBUST {
                ys.sort_by(f64::total_cmp);
                let cut = (ys.len() / 200).max(1);
                ys = ys[cut..ys.len() - cut].to_vec();
            }
            for y in ys.into_iter().chain(series.band.iter().flat_map(|b| [b.1, b.2])) {
                (y0, y1) = (y0.min(y), y1.max(y));
            }
            for x in series.points.iter().map(|p| p.0).chain(series.band.iter().map(|b| b.0)) {
                (x0, x1) = (x0.min(x), x1.max(x));
            }
        }
        if let Some((_, value)) = &self.line {
            (y0, y1) = (y0.min(*value), y1.max(*value));
        }
        if !(x0.is_finite() && y0.is_finite()) {
            return None;
        }
        let x = match self.log_x {
            true if x1 > x0 => Axis { low: x0, high: x1, log: true },
            true => Axis { low: x0 / 2.0, high: x0 * 2.0, log: true },
            false if x1 > x0 => Axis { low: x0, high: x1, log: false },
            false => Axis { low: x0 - 0.5, high: x0 + 0.5, log: false },
        };
        if self.log_y {
            let pad = (y1 / y0).powf(0.06).max(1.05);
            return Some((x, Axis { low: y0 / pad, high: y1 * pad, log: true }));
        }
        if self.zero {
            y0 = y0.min(0.0);
        }
        let pad = if y1 > y0 { (y1 - y0) * 0.06 } else { y1.abs().max(1.0) * 0.1 };
        let low = if y0 >= 0.0 && y0 - pad < 0.0 || (self.zero && y0 == 0.0) { 0.0 } else { y0 - pad };
        Some((x, Axis { low, high: y1 + pad, log: false }))
    }

    /// The chart with its title and legend; nothing when there is no point to draw.
    pub fn html(mut self) -> Html {
        self.clean();
        let Some((x, y)) = self.axes() else {
            return Html::default();
        };
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"{}\">",
            escape(&format!("{}: {} over {}", self.title, self.y, self.x))
        );
        let frame = Frame { x, y };
        frame.grid(&mut svg, &self.x);
        if let Some((_, value)) = &self.line {
            let (at, right) = (frame.py(*value), WIDTH - RIGHT);
            let _ = write!(svg, "<line class=compare x1={LEFT} x2={right} y1={at:.1} y2={at:.1} />");
        }
        for mark in self.marks.iter().filter(|m| (x.low..=x.high).contains(&m.x)).take(MOST_MARKS) {
            frame.mark(&mut svg, mark);
        }
        for series in &self.series {
            frame.series(&mut svg, series);
        }
        svg.push_str("</svg>");
        let caption = tag("figcaption", [tag("b", self.title.as_str()), tag("span class=unit", self.y.as_str())]);
        tag("figure", [caption, self.legend(), Html::trusted(svg)])
    }

    fn legend(&self) -> Html {
        let mut legend: Vec<Html> = Vec::new();
        if self.series.len() > 1 || self.line.is_some() {
            legend.extend(self.series.iter().map(|s| {
                let dash = if s.dashed { " dash" } else { "" };
                tag("span", [Html::trusted(format!("<i class=\"key{dash} s{}\"></i>", s.colour)), text(&s.name)])
            }));
        }
        if let Some((name, value)) = &self.line {
            legend.push(tag("span", [Html::trusted("<i class=\"key dashed\"></i>".to_string()), text(format!("{name} ({})", number(*value)))]));
        }
        if legend.is_empty() { Html::default() } else { tag("div class=legend", join(legend)) }
    }
}

/// From values to places in the picture.
struct Frame {
    x: Axis,
    y: Axis,
}

impl Frame {
    fn px(&self, x: f64) -> f64 {
        LEFT + self.x.place(x) * (WIDTH - LEFT - RIGHT)
    }

    fn py(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.place(y) * (HEIGHT - TOP - BOTTOM)
    }

    fn places(&self, points: impl IntoIterator<Item = (f64, f64)>) -> String {
        points.into_iter().map(|(x, y)| format!("{:.1},{:.1}", self.px(x), self.py(y))).collect::<Vec<_>>().join(" ")
    }

    /// Grid, axes and their names.
    fn grid(&self, svg: &mut String, x_name: &str) {
        let (floor, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for (y, label) in self.y.ticks(5) {
            let at = self.py(y);
            let _ = write!(svg, "<line class=grid x1={LEFT} x2={right} y1={at:.1} y2={at:.1} />");
            let _ = write!(svg, "<text class=tick x={} y={:.1} text-anchor=end>{label}</text>", LEFT - 7.0, at + 4.0);
        }
        for (x, label) in self.x.ticks(6) {
            let at = self.px(x);
            let _ = write!(svg, "<line class=axis x1={at:.1} x2={at:.1} y1={floor} y2={} />", floor + 4.0);
            let _ = write!(svg, "<text class=tick x={at:.1} y={} text-anchor=middle>{label}</text>", floor + 17.0);
        }
        let _ = write!(svg, "<line class=axis x1={LEFT} x2={right} y1={floor} y2={floor} />");
        let _ = write!(svg, "<text class=label x={} y={} text-anchor=middle>{}</text>", (LEFT + right) / 2.0, HEIGHT - 4.0, escape(x_name));
    }

    /// A dotted line with a flag on top that says what happened.
    fn mark(&self, svg: &mut String, mark: &Mark) {
        let (at, floor) = (self.px(mark.x), HEIGHT - BOTTOM);
        let hint = escape(&format!("{} at {}", mark.text, number(mark.x)));
        let _ = write!(svg, "<line class=\"event s{}\" x1={at:.1} x2={at:.1} y1={TOP} y2={floor} />", mark.colour);
        let flag = format!("{:.1},{TOP} {:.1},{TOP} {at:.1},{:.1}", at - 4.0, at + 4.0, TOP + 6.0);
        let _ = write!(svg, "<polygon class=\"flag s{}\" points=\"{flag}\"><title>{hint}</title></polygon>", mark.colour);
    }

    fn series(&self, svg: &mut String, series: &Series) {
        let colour = series.colour;
        if series.band.len() > 1 {
            let there = series.band.iter().map(|b| (b.0, b.1));
            let back = series.band.iter().rev().map(|b| (b.0, b.2));
            let _ = write!(svg, "<polygon class=\"band s{colour}\" points=\"{}\" />", self.places(there.chain(back)));
        }
        let smooth = series.smooth && series.points.len() >= 20;
        if !series.scatter {
            let dashed = if series.dashed { " dashed" } else { "" };
            let class = if smooth { "raw" } else { "curve" };
            let _ = write!(svg, "<polyline class=\"{class} s{colour}{dashed}\" points=\"{}\" />", self.places(envelope(&series.points)));
        }
        if smooth {
            let _ = write!(svg, "<polyline class=\"curve s{colour}\" points=\"{}\" />", self.places(average(&series.points)));
        }
        if series.dots || series.scatter || series.points.len() == 1 {
            for (x, y) in evenly(series.points.len()).map(|i| series.points[i]) {
                let hint = escape(&format!("{}: {} at {}", series.name, number(y), number(x)));
                let (cx, cy) = (self.px(x), self.py(y));
                let _ = write!(svg, "<circle class=\"dot s{colour}\" cx={cx:.1} cy={cy:.1} r=3><title>{hint}</title></circle>");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Chart {
        let series = Series { name: "<loss>".into(), points, smooth: true, dots: true, ..Series::default() };
        Chart { title: "t & u".into(), x: "step".into(), y: "nats".into(), series: vec![series], ..Chart::default() }
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

    /// If this fails, a long curve hides the one step that matters.
    #[test]
    fn a_spike_of_one_step_is_seen() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|i| (f64::from(i), 2.0)).collect();
        points[77_777].1 = 9.0;
        let shown = envelope(&points);
        assert!(shown.len() <= MOST_POINTS && shown.contains(&(77_777.0, 9.0)));
        assert!(shown.windows(2).all(|w| w[0].0 <= w[1].0));
    }

    /// If this fails, measured points and the line fitted to them do not lie on the same axes, or a power law is no straight line.
    #[test]
    fn a_power_law_on_log_axes_is_straight() {
        let law: Vec<(f64, f64)> = (0..=4).map(|e| (10f64.powi(e), 3.0 * 10f64.powf(-0.5 * f64::from(e)))).collect();
        let fit = Series { name: "fit".into(), points: law.clone(), dashed: true, ..Series::default() };
        let mut measured = law.clone();
        measured.push((0.0, -1.0));
        let points = Series { name: "runs".into(), colour: 1, points: measured, scatter: true, ..Series::default() };
        let html = Chart { series: vec![fit, points], log_x: true, log_y: true, ..Chart::default() }.html().into_string();
        assert_eq!((html.matches("<circle").count(), html.matches("<polyline").count()), (5, 1), "what is not positive has no place");
        let places = html.split("dashed\" points=\"").nth(1).unwrap().split('"').next().unwrap();
        let places: Vec<(f64, f64)> =
            places.split(' ').map(|p| p.split_once(',').unwrap()).map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).collect();
        let slope = |a: (f64, f64), b: (f64, f64)| (b.1 - a.1) / (b.0 - a.0);
        assert!(places.windows(3).all(|w| (slope(w[0], w[1]) - slope(w[1], w[2])).abs() < 0.01), "{places:?}");
        for (x, y) in places {
            assert!(html.contains(&format!("cx={x:.1} cy={y:.1}")), "a point beside its line");
        }
    }

    #[test]
    fn marks_and_bands_are_drawn_and_escaped() {
        let mut chart = chart((0..50).map(|i| (f64::from(i), 1.0)).collect());
        chart.marks = vec![Mark { x: 20.0, text: "<b>spike".into(), colour: 5 }, Mark { x: 99.0, text: "outside".into(), colour: 5 }];
        chart.series[0].band = vec![(0.0, 0.5, 1.5), (49.0, 0.9, 1.1)];
        let html = chart.html().into_string();
        assert!(html.contains("&lt;b&gt;spike at 20") && !html.contains("outside") && html.contains("class=\"band s0\""));
    }

    #[test]
    fn one_wild_step_does_not_flatten_a_robust_chart() {
        let mut points: Vec<(f64, f64)> = (0..400).map(|i| (f64::from(i), 1.0 + 0.001 * f64::from(i))).collect();
        points[200].1 = 1e6;
        let (_, y) = Chart { robust: true, ..chart(points.clone()) }.axes().unwrap();
        assert!(y.high < 2.0, "{y:?}");
        assert!(chart(points).axes().unwrap().1.high > 1e5);
    }

    #[test]
    fn degenerate_data_draws_nothing_broken() {
        assert!(chart(vec![]).html().is_empty());
        assert!(chart(vec![(1.0, f64::NAN)]).html().is_empty());
        for points in [vec![(3.0, 2.0)], vec![(1.0, 0.0), (2.0, 0.0)], vec![(0.0, -1.0), (1.0, f64::INFINITY)], vec![(2.0, 2.0), (2.0, 2.0)]] {
            for (log_x, log_y) in [(false, false), (true, false), (false, true), (true, true)] {
                let html = Chart { log_x, log_y, ..chart(points.clone()) }.html().into_string();
                assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
                assert!(log_x || log_y || html.contains("<svg"));
            }
        }
    }
}
