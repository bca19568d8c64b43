//! The load of every expert over time: experts down, steps along, one map per layer. Colours are classes, so that dark mode reaches
//! them; a shade is one path, so that a map stays small.

use super::html::{Html, escape, join, tag, text};
use crate::experts::{Look, mean};
use crate::term::thousands;
use llm_run::chart::ticks;
use std::fmt::Write;

const WIDTH: f64 = 440.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 6.0;
const BOTTOM: f64 = 38.0;
/// A map of many experts has thinner rows rather than a higher picture.
const HIGHEST: f64 = 260.0;
const MOST_COLUMNS: usize = 72;

/// Shades from dead to overrun: the load from which each begins, its class, and what the legend says.
const SHADES: [(f64, &str, &str); 8] = [
    (0.0, "dead", "no token"),
    (f64::MIN_POSITIVE, "cold3", "under a quarter"),
    (0.25, "cold2", "under half"),
    (0.5, "cold1", "under three quarters"),
    (0.75, "even", "balanced"),
    (1.25, "hot1", "over 1.25 times"),
    (1.5, "hot2", "over 1.5"),
    (2.0, "hot3", "over twice"),
];

fn shade(load: f64) -> usize {
    SHADES.iter().rposition(|s| load >= s.0).unwrap_or(0)
}

/// What the shades mean.
pub fn legend() -> Html {
    let keys = SHADES.iter().map(|(_, class, words)| tag("span", [Html::trusted(format!("<i class=\"shade {class}\"></i>")), text(*words)]));
    tag("div class=\"legend shades\"", join(keys))
}

/// The map of one layer; nothing without steps.
pub fn map(looks: &[Look], layer: usize) -> Html {
    let (Some(first), Some(last)) = (looks.first(), looks.last()) else {
        return Html::default();
    };
    let Some(experts) = first.load.get(layer).map(Vec::len) else {
        return Html::default();
    };
    // Neighbouring steps share a column: every column is the mean of as many steps, but for rounding.
    let columns = looks.len().min(MOST_COLUMNS);
    let bins: Vec<Vec<f64>> = (0..columns)
        .filter_map(|c| mean(&looks[c * looks.len() / columns..(c + 1) * looks.len() / columns]))
        .filter_map(|load| load.into_iter().nth(layer))
        .collect();
    let row = (HIGHEST / experts as f64).min(20.0);
    let (floor, wide) = (TOP + row * experts as f64, (WIDTH - LEFT - RIGHT) / columns as f64);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=img aria-label=\"{}\">",
        floor + BOTTOM,
        escape(&format!("Load of the {experts} experts of layer {layer} over the steps"))
    );
    let gap = if row > 8.0 { 1.0 } else { 0.0 };
    for (index, (_, class, _)) in SHADES.iter().enumerate() {
        let mut path = String::new();
        for expert in 0..experts {
            // A run of columns with the same shade is one rectangle.
            let mut column = 0;
            while column < bins.len() {
                let start = column;
                while column < bins.len() && shade(bins[column][expert]) == index {
                    column += 1;
                }
                if column > start {
                    let (x, y, w) = (LEFT + start as f64 * wide, TOP + expert as f64 * row, (column - start) as f64 * wide);
                    let _ = write!(path, "M{x:.1} {y:.1}h{w:.1}v{:.1}h-{w:.1}z", row - gap);
                } else {
                    column += 1;
                }
            }
        }
        if !path.is_empty() {
            let _ = write!(svg, "<path class={class} d=\"{path}\" />");
        }
    }
    let every = (14.0 / row).ceil() as usize;
    for expert in (0..experts).step_by(every.max(1)) {
        let y = TOP + (expert as f64 + 0.5) * row + 4.0;
        let _ = write!(svg, "<text class=tick x={} y={y:.1} text-anchor=end>{expert}</text>", LEFT - 7.0);
    }
    let span = (last.step - first.step).max(1.0);
    for step in ticks(first.step, last.step, 6) {
        let x = LEFT + (step - first.step) / span * (WIDTH - LEFT - RIGHT);
        let _ = write!(svg, "<line class=axis x1={x:.1} x2={x:.1} y1={floor:.1} y2={:.1} />", floor + 4.0);
        let _ = write!(svg, "<text class=tick x={x:.1} y={:.1} text-anchor=middle>{}</text>", floor + 17.0, thousands(step as u64));
    }
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    let _ = write!(svg, "<text class=label x={middle} y={:.1} text-anchor=middle>step</text></svg>", floor + BOTTOM - 4.0);
    let caption = tag("figcaption", [tag("b", format!("Layer {layer}")), tag("span class=unit", "expert")]);
    tag("figure class=heat", [caption, Html::trusted(svg)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shades_begin_where_the_legend_says() {
        let of = |load| SHADES[shade(load)].1;
        assert_eq!([of(0.0), of(0.001), of(0.25), of(0.6)], ["dead", "cold3", "cold2", "cold1"]);
        assert_eq!([of(1.0), of(1.25), of(1.7), of(8.0)], ["even", "hot1", "hot2", "hot3"]);
        assert_eq!(of(f64::NAN), "dead");
    }

    #[test]
    fn a_column_is_a_mean_and_a_run_of_columns_one_rectangle() {
        let look = |step: usize, busy: f64| Look { step: step as f64, load: vec![vec![busy, 2.0 - busy]], router_entropy: vec![] };
        let looks: Vec<Look> = (0..4 * MOST_COLUMNS).map(|i| look(i, if i % 4 < 2 { 0.0 } else { 2.0 })).collect();
        let svg = map(&looks, 0).into_string();
        assert!(!svg.contains("class=dead") && !svg.contains("class=hot3"), "each column holds two idle and two busy steps: {svg}");
        assert_eq!(svg.matches("<path").count(), 1);
        assert_eq!(svg.matches('z').count(), 2, "a rectangle for each expert");
        let halves: Vec<Look> = (0..20).map(|i| look(i, if i < 10 { 0.0 } else { 1.0 })).collect();
        let svg = map(&halves, 0).into_string();
        assert!(svg.contains("class=dead") && svg.contains("class=hot3") && svg.contains("class=even"));
        assert_eq!(svg.matches('z').count(), 4);
    }

    #[test]
    fn odd_runs_draw_nothing_broken() {
        assert!(map(&[], 0).is_empty());
        let one = [Look { step: 1.0, load: vec![vec![1.0; 256]], router_entropy: vec![] }];
        let svg = map(&one, 0).into_string();
        assert!(svg.contains("<svg") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(map(&one, 3).is_empty());
    }
}
