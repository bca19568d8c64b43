//! Pictures of measurements as SVG that stands alone or in a page: lines, dots and bands over linear or logarithmic axes.
//!
//! Colours are classes: `s0`, `s1`, ... for things of different kinds, `q0` to `q7` for an ordered quantity such as compute. Dark mode
//! reaches both.

use super::axis::Axis;
use super::page::STYLE;
use llm_run::html::escape;
use std::fmt::Write;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 330.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 42.0;
/// Height of a line of the legend, and width of a letter in it.
const LEGEND: f64 = 16.0;
const LETTER: f64 = 6.8;
const GAP: f64 = 14.0;
/// Colours of an ordered quantity.
const ORDERED: usize = 8;

/// What is drawn.
#[derive(Debug, Clone, PartialEq)]
pub enum Mark {
    /// Points joined.
    Line(Vec<(f64, f64)>),
    /// The same, thinner and interrupted.
    Dashed(Vec<(f64, f64)>),
    /// Points with a text that appears under the pointer.
    Dots(Vec<(f64, f64, String)>),
    /// The same, hollow and larger.
    Rings(Vec<(f64, f64, String)>),
    /// From the second to the third number along the first.
    Band(Vec<(f64, f64, f64)>),
}

impl Mark {
    fn points(&self) -> Vec<(f64, f64)> {
        match self {
            Self::Line(points) | Self::Dashed(points) => points.clone(),
            Self::Dots(points) | Self::Rings(points) => points.iter().map(|p| (p.0, p.1)).collect(),
            Self::Band(points) => points.iter().flat_map(|p| [(p.0, p.1), (p.0, p.2)]).collect(),
        }
    }
}

/// A mark with its colour and name.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// In the legend, unless empty.
    pub name: String,
    /// `s0` or `q3`.
    pub colour: String,
    /// What is drawn.
    pub mark: Mark,
}

impl Series {
    /// A series.
    pub fn new(name: &str, colour: &str, mark: Mark) -> Self {
        Self { name: name.to_string(), colour: colour.to_string(), mark }
    }
}

/// The colour of item `i` of `n` ordered ones.
pub fn ordered(i: usize, n: usize) -> String {
    format!("q{}", if n <= 1 { 2 } else { i * (ORDERED - 1) / (n - 1) })
}

/// Axes and what is on them.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// Above.
    pub title: String,
    /// Horizontal.
    pub x: Axis,
    /// Vertical.
    pub y: Axis,
    /// Drawn in this order.
    pub series: Vec<Series>,
}

struct Frame {
    x: (f64, f64),
    y: (f64, f64),
    top: f64,
}

impl Frame {
    fn px(&self, x: f64) -> f64 {
        LEFT + (x - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }
    fn py(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - (y - self.y.0) / (self.y.1 - self.y.0) * (HEIGHT - self.top - BOTTOM)
    }
}

impl Plot {
    /// Scaled ranges of all points, with some room around. Bands may be wider than everything else and are cut.
    fn frame(&self, top: f64) -> Option<Frame> {
        let shown = |p: &(f64, f64)| self.x.shows(p.0) && self.y.shows(p.1);
        let points: Vec<(f64, f64)> =
            self.series.iter().filter(|s| !matches!(s.mark, Mark::Band(_))).flat_map(|s| s.mark.points()).filter(shown).collect();
        let range = |values: Vec<f64>| {
            let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(*v), b.max(*v)));
            let pad = if high > low { 0.05 * (high - low) } else { 0.5 * low.abs().max(0.2) };
            low.is_finite().then_some((low - pad, high + pad))
        };
        let x = range(points.iter().map(|p| self.x.scale(p.0)).collect())?;
        let y = range(points.iter().map(|p| self.y.scale(p.1)).collect())?;
        Some(Frame { x, y, top })
    }

    /// The legend: its lines of (place, series).
    fn legend(&self) -> Vec<Vec<(f64, &Series)>> {
        let mut lines: Vec<Vec<(f64, &Series)>> = Vec::new();
        let mut at = f64::INFINITY;
        for series in self.series.iter().filter(|s| !s.name.is_empty()) {
            let width = 24.0 + LETTER * series.name.chars().count() as f64;
            if at + width > WIDTH - RIGHT {
                lines.push(Vec::new());
                at = LEFT;
            }
            if let Some(line) = lines.last_mut() {
                line.push((at, series));
            }
            at += width + 10.0;
        }
        lines
    }

    /// A group of [`WIDTH`] x [`HEIGHT`] at a place.
    fn group(&self, x: f64, y: f64) -> String {
        let legend = self.legend();
        let top = TOP + LEGEND * legend.len() as f64 + 8.0;
        let mut svg = format!(
            "<g transform=\"translate({x},{y})\"><rect class=\"card\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"10\"/>",
            WIDTH - 1.0,
            HEIGHT - 1.0
        );
        let _ = write!(svg, "<text class=\"title\" x=\"{LEFT}\" y=\"22\">{}</text>", escape(&self.title));
        for (line, items) in legend.iter().enumerate() {
            let base = TOP + LEGEND * (line as f64 + 0.7);
            for (at, series) in items {
                let (colour, y, middle) = (&series.colour, base - 4.0, at + 8.0);
                let shape = match &series.mark {
                    Mark::Line(_) => format!("<path class=\"line {colour}\" d=\"M{at} {y}h16\"/>"),
                    Mark::Dashed(_) => format!("<path class=\"line dashed {colour}\" d=\"M{at} {y}h16\"/>"),
                    Mark::Dots(_) => format!("<circle class=\"dot {colour}\" cx=\"{middle}\" cy=\"{y}\" r=\"3.5\"/>"),
                    Mark::Rings(_) => format!("<circle class=\"ring {colour}\" cx=\"{middle}\" cy=\"{y}\" r=\"4.5\"/>"),
                    Mark::Band(_) => format!("<rect class=\"band {colour}\" x=\"{at}\" y=\"{}\" width=\"16\" height=\"10\"/>", y - 5.0),
                };
                let _ = write!(svg, "{shape}<text class=\"key\" x=\"{}\" y=\"{base}\">{}</text>", at + 21.0, escape(&series.name));
            }
        }
        let Some(frame) = self.frame(top) else {
            let _ = write!(svg, "<text class=\"label\" x=\"{LEFT}\" y=\"{}\">nothing measured yet</text></g>", HEIGHT / 2.0);
            return svg;
        };
        let (floor, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for (at, label) in self.y.marks(frame.y, 5) {
            let y = frame.py(at);
            let _ = write!(svg, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>");
            let _ = write!(svg, "<text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", LEFT - 7.0, y + 4.0, escape(&label));
        }
        for (at, label) in self.x.marks(frame.x, 6) {
            let x = frame.px(at);
            let _ = write!(svg, "<path class=\"axis\" d=\"M{x:.1} {floor}v4\"/>");
            let _ = write!(svg, "<text class=\"tick\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>", floor + 17.0, escape(&label));
        }
        let middle = (LEFT + right) / 2.0;
        let _ = write!(svg, "<path class=\"axis\" d=\"M{LEFT} {floor}H{right}\"/>");
        let _ = write!(svg, "<text class=\"label\" x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>", HEIGHT - 9.0, escape(&self.x.label));
        let centre = (top + floor) / 2.0;
        let _ = write!(
            svg,
            "<text class=\"label\" transform=\"translate(14,{centre}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            escape(&self.y.label)
        );
        for series in &self.series {
            self.draw(&mut svg, &frame, series);
        }
        svg + "</g>"
    }

    fn draw(&self, svg: &mut String, frame: &Frame, series: &Series) {
        let place = |x: f64, y: f64| (frame.px(self.x.scale(x)), frame.py(self.y.scale(y).clamp(frame.y.0, frame.y.1)));
        let shown = |x: f64, y: f64| self.x.shows(x) && self.y.shows(y);
        let path = |points: &[(f64, f64)]| {
            let points = points.iter().filter(|p| shown(p.0, p.1)).map(|p| place(p.0, p.1));
            points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ")
        };
        let colour = &series.colour;
        match &series.mark {
            Mark::Line(points) => drop(write!(svg, "<polyline class=\"line {colour}\" points=\"{}\"/>", path(points))),
            Mark::Dashed(points) => drop(write!(svg, "<polyline class=\"line dashed {colour}\" points=\"{}\"/>", path(points))),
            Mark::Band(points) => {
                let around: Vec<(f64, f64)> = points.iter().map(|p| (p.0, p.1)).chain(points.iter().rev().map(|p| (p.0, p.2))).collect();
                let _ = write!(svg, "<polygon class=\"band {colour}\" points=\"{}\"/>", path(&around));
            }
            Mark::Dots(points) | Mark::Rings(points) => {
                let (class, radius) = if matches!(series.mark, Mark::Dots(_)) { ("dot", 3.5) } else { ("ring", 4.5) };
                for (x, y, hint) in points.iter().filter(|p| shown(p.0, p.1)) {
                    let (x, y) = place(*x, *y);
                    let _ = write!(
                        svg,
                        "<circle class=\"{class} {colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"><title>{}</title></circle>",
                        escape(hint)
                    );
                }
            }
        }
    }
}

/// Plots beside and below each other as one SVG that needs nothing else.
pub fn sheet(plots: &[Plot], columns: usize) -> String {
    let columns = columns.clamp(1, plots.len().max(1));
    let rows = plots.len().div_ceil(columns);
    let size = |n: usize, one: f64| n as f64 * one + n.saturating_sub(1) as f64 * GAP;
    let (width, height) = (size(columns, WIDTH), size(rows, HEIGHT));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"sheet plot\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\"><style>{STYLE}</style>"
    );
    for (i, plot) in plots.iter().enumerate() {
        svg.push_str(&plot.group((i % columns) as f64 * (WIDTH + GAP), (i / columns) as f64 * (HEIGHT + GAP)));
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>) -> Plot {
        let dots = points.iter().map(|p| (p.0, p.1, "<a>".to_string())).collect();
        let series = vec![Series::new("line & dots", "s0", Mark::Line(points)), Series::new("", "q3", Mark::Dots(dots))];
        Plot { title: "t".into(), x: Axis::log("N"), y: Axis::linear("loss"), series }
    }

    #[test]
    fn every_point_is_drawn_inside_and_text_is_escaped() {
        let svg = sheet(&[plot((0..9).map(|i| (10f64.powi(i), f64::from(i))).collect())], 3);
        assert_eq!(svg.matches("<circle").count(), 9);
        assert!(svg.contains("line &amp; dots") && svg.contains("&lt;a&gt;") && !svg.contains("<a>"));
        for part in svg.split("cx=\"").skip(1) {
            let x: f64 = part.split('"').next().unwrap().parse().unwrap();
            assert!((LEFT..=WIDTH - RIGHT).contains(&x), "{x}");
        }
    }

    #[test]
    fn degenerate_data_draws_nothing_broken() {
        for points in [vec![], vec![(0.0, 1.0)], vec![(1.0, f64::NAN)], vec![(3.0, 2.0)], vec![(1.0, 0.0), (2.0, 0.0)]] {
            let svg = sheet(&[plot(points)], 1);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn ordered_colours_reach_from_end_to_end() {
        assert_eq!((ordered(0, 3), ordered(2, 3), ordered(0, 1)), ("q0".into(), "q7".into(), "q2".into()));
    }
}
