//! A fit for people: a table at 80 columns, four pictures, a page.

use super::axis::Axis;
use super::fit::{Estimate, Fit, Prediction};
use super::isoflop::budgets;
use super::page::{page, table};
use super::picture::{Mark, Plot, Series, ordered, sheet};
use crate::quantity::{count, power, short, wrapped};
use llm_run::html::{Html, join, tag};
use std::fmt::Write;

/// Points of a drawn curve.
const STEPS: usize = 60;
/// More budgets than this are not named in a legend.
const MOST_NAMED: usize = 8;

fn interval(estimate: &Estimate, show: fn(f64) -> String) -> String {
    estimate.interval.map_or("-".into(), |[low, high]| format!("{} .. {}", show(low), show(high)))
}

/// Name, value and interval of everything that was estimated.
fn rows(fit: &Fit) -> Vec<(String, Vec<[String; 3]>)> {
    let row = |name: &str, e: &Estimate| [name.to_string(), short(e.value), interval(e, short)];
    let mut parts = Vec::new();
    if let Some(p) = &fit.parametric {
        let rows = vec![
            row("E", &p.e),
            row("A", &p.a),
            row("B", &p.b),
            row("alpha", &p.alpha),
            row("beta", &p.beta),
            row("N_opt ~ C^", &p.size_exponent),
            row("D_opt ~ C^", &p.data_exponent),
        ];
        parts.push(("Approach 3: L = E + A/N^alpha + B/D^beta".to_string(), rows));
    }
    if let Some(p) = &fit.parabolas {
        let curves = p.frontier.curves.len();
        parts.push((
            format!("Approach 2: parabolas of {curves} budgets"),
            vec![row("N_opt ~ C^", &p.size_exponent), row("D_opt ~ C^", &p.data_exponent)],
        ));
    }
    parts
}

/// Name, N, D and loss of a prediction by each approach.
fn predicted(p: &Prediction) -> Vec<[String; 4]> {
    let both = |e: &Estimate, show: fn(f64) -> String| match e.interval {
        Some(_) => format!("{} ({})", show(e.value), interval(e, show)),
        None => show(e.value),
    };
    let mut rows = Vec::new();
    if let Some([n, d, loss]) = &p.parametric {
        rows.push([format!("{}, approach 3", power(p.flops)), both(n, count), both(d, count), both(loss, short)]);
    }
    if let Some([n, d]) = &p.parabolas {
        rows.push([format!("{}, approach 2", power(p.flops)), both(n, count), both(d, count), "-".into()]);
    }
    rows
}

/// What has to be said beside the numbers.
pub fn remarks(fit: &Fit) -> Vec<String> {
    let mut out = Vec::new();
    for (approach, problem) in [("Approach 3", &fit.parametric_problem), ("Approach 2", &fit.parabolas_problem)] {
        out.extend(problem.iter().map(|reason| format!("{approach} is missing: {reason}.")));
    }
    if let Some(bias) = fit.parabolas.as_ref().and_then(|p| p.bias) {
        out.push(format!("Parabolas are biased: at these sizes and budgets, on the surface of approach 3 without noise, approach 2 finds a size exponent that is off by {bias:+.3}."));
    }
    if let Some(p) = fit.parametric.as_ref() {
        out.push(format!("Losses differ from the surface by {:.2} % (root mean square).", 100.0 * p.residual));
        if !p.replicas.is_empty() && p.sensible_replicas < 0.95 {
            let share = 100.0 * p.sensible_replicas;
            out.push(format!("Only {share:.0} % of the replicas fall with both size and data: the points do not determine the law."));
        }
    }
    if let Some(far) = fit.predictions.iter().filter(|p| p.beyond > 10.0 && !predicted(p).is_empty()).map(|p| p.beyond).reduce(f64::max) {
        out.push(format!(
            "The prediction goes {} times beyond the largest measured budget; intervals say nothing about a law that bends.",
            short(far.round())
        ));
    }
    out
}

/// The table.
pub fn text(fit: &Fit) -> String {
    let groups = budgets(&fit.points).len();
    let (low, high) = fit.points.iter().fold((f64::INFINITY, 0.0f64), |(a, b), p| (a.min(p.flops), b.max(p.flops)));
    let mut out = format!("{} points, {groups} budgets from {} to {} FLOPs\n", fit.points.len(), power(low), power(high));
    for (title, rows) in rows(fit) {
        let _ = writeln!(out, "\n{title:<44}95 % interval");
        for [name, value, interval] in rows {
            let _ = writeln!(out, "  {name:<14}{value:>14}              {interval}");
        }
    }
    for prediction in fit.predictions.iter().filter(|p| !predicted(p).is_empty()) {
        let _ = writeln!(out, "\nBest use of {} FLOPs", power(prediction.flops));
        for [name, n, d, loss] in predicted(prediction) {
            let approach = name.split(", ").last().unwrap_or_default();
            let _ = writeln!(out, "  {approach:<14}N {n}");
            let _ = writeln!(out, "  {:<14}D {d}", "");
            if loss != "-" {
                let _ = writeln!(out, "  {:<14}L {loss}", "");
            }
        }
    }
    out.push('\n');
    for remark in remarks(fit) {
        let _ = writeln!(out, "  {}", wrapped(&remark, 76, "  "));
    }
    out
}

fn between(low: f64, high: f64) -> impl Iterator<Item = f64> {
    (0..=STEPS).map(move |i| low * (high / low).powf(i as f64 / STEPS as f64))
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, 0.0f64), |(a, b), x| (a.min(x), b.max(x)))
}

/// Loss over size, budget by budget.
fn curves(fit: &Fit) -> Plot {
    let groups = budgets(&fit.points);
    let mut series = Vec::new();
    for (i, group) in groups.iter().enumerate() {
        let colour = ordered(i, groups.len());
        let flops = (group.iter().map(|&p| fit.points[p].flops.ln()).sum::<f64>() / group.len() as f64).exp();
        let (low, high) = range(group.iter().map(|&p| fit.points[p].parameters));
        if let Some(p) = fit.parametric.as_ref().filter(|_| high > low && groups.len() <= MOST_NAMED) {
            let at = |n: f64| (n, p.surface.loss(n, flops / p.surface.flops_factor / n));
            series.push(Series::new("", &colour, Mark::Line(between(low / 1.15, high * 1.15).map(at).collect())));
        }
        let curve = fit.parabolas.as_ref().and_then(|p| p.frontier.curves.iter().find(|c| c.points == *group));
        if let Some(curve) = curve {
            series.push(Series::new("", &colour, Mark::Dashed(between(low, high).map(|n| (n, curve.loss(n))).collect())));
            let ring = |m: &super::isoflop::Minimum| (m.parameters, m.loss, format!("lowest near {}", count(m.parameters)));
            series.push(Series::new("", &colour, Mark::Rings(curve.minimum.iter().map(ring).collect())));
        }
        let dot = |&p: &usize| {
            let p = &fit.points[p];
            (p.parameters, p.loss, format!("{} parameters, {} tokens: {}", count(p.parameters), count(p.tokens), short(p.loss)))
        };
        let name = if groups.len() <= MOST_NAMED { power(flops) } else { String::new() };
        series.push(Series::new(&name, &colour, Mark::Dots(group.iter().map(dot).collect())));
    }
    Plot { title: "Loss over size for each budget (FLOPs)".into(), x: Axis::log("parameters N"), y: Axis::linear("loss"), series }
}

/// Bounds of a number over the replicas.
fn band<T>(replicas: &[T], at: &[f64], f: impl Fn(&T, f64) -> f64) -> Vec<(f64, f64, f64)> {
    let one = |&c: &f64| {
        let mut values: Vec<f64> = replicas.iter().map(|r| f(r, c)).filter(|x| x.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let pick = |q: f64| values[((values.len() - 1) as f64 * q).round() as usize];
        (!values.is_empty()).then(|| (c, pick(0.025), pick(0.975)))
    };
    at.iter().filter_map(one).collect()
}

/// Budgets to draw over: the measured ones, the asked ones, and a little beyond.
fn compute(fit: &Fit) -> Vec<f64> {
    let (low, high) = range(fit.points.iter().map(|p| p.flops).chain(fit.predictions.iter().map(|p| p.flops)));
    between(low / 1.5, high * 1.5).collect()
}

/// The best N and D over compute.
fn frontier(fit: &Fit) -> Plot {
    let at = compute(fit);
    let mut series = Vec::new();
    if let Some(p) = &fit.parametric {
        series.push(Series::new("", "s0", Mark::Band(band(&p.replicas, &at, |s, c| s.optimum(c).parameters))));
        series.push(Series::new("N, approach 3", "s0", Mark::Line(at.iter().map(|&c| (c, p.surface.optimum(c).parameters)).collect())));
        series.push(Series::new("", "s2", Mark::Band(band(&p.replicas, &at, |s, c| s.optimum(c).tokens))));
        series.push(Series::new("D, approach 3", "s2", Mark::Line(at.iter().map(|&c| (c, p.surface.optimum(c).tokens)).collect())));
    }
    if let Some(p) = &fit.parabolas {
        let minima = |f: fn(&super::isoflop::Minimum) -> f64| {
            let ring = |c: &super::isoflop::Curve| c.minimum.as_ref().map(|m| (c.flops, f(m), format!("{} at {}", count(f(m)), power(c.flops))));
            Mark::Rings(p.frontier.curves.iter().filter_map(ring).collect())
        };
        series.push(Series::new("approach 2", "s1", Mark::Dashed(at.iter().map(|&c| (c, p.frontier.optimum(c).0)).collect())));
        series.push(Series::new("", "s1", Mark::Dashed(at.iter().map(|&c| (c, p.frontier.optimum(c).1)).collect())));
        series.push(Series::new("", "s1", minima(|m| m.parameters)));
        series.push(Series::new("", "s1", minima(|m| m.tokens)));
    }
    Plot { title: "Best parameters N and tokens D".into(), x: Axis::compute("compute C, FLOPs"), y: Axis::log("N, D"), series }
}

/// The loss over compute.
fn losses(fit: &Fit) -> Plot {
    let at = compute(fit);
    let dots = fit.points.iter().map(|p| (p.flops, p.loss, format!("{} parameters: {}", count(p.parameters), short(p.loss)))).collect();
    let mut series = vec![Series::new("measured", "s4", Mark::Dots(dots))];
    if let Some(p) = &fit.parametric {
        series.push(Series::new("", "s0", Mark::Band(band(&p.replicas, &at, |s, c| s.optimum(c).loss))));
        series.push(Series::new("best for the budget, approach 3", "s0", Mark::Line(at.iter().map(|&c| (c, p.surface.optimum(c).loss)).collect())));
    }
    Plot { title: "Loss over compute".into(), x: Axis::compute("compute C, FLOPs"), y: Axis::linear("loss"), series }
}

/// Measured against fitted.
fn agreement(fit: &Fit) -> Option<Plot> {
    let surface = &fit.parametric.as_ref()?.surface;
    let dots: Vec<_> = fit
        .points
        .iter()
        .map(|p| (surface.loss(p.parameters, p.tokens), p.loss, format!("{} parameters, {} tokens", count(p.parameters), count(p.tokens))))
        .collect();
    let (low, high) = range(dots.iter().flat_map(|d| [d.0, d.1]));
    let series = vec![Series::new("equal", "s4", Mark::Dashed(vec![(low, low), (high, high)])), Series::new("runs", "s0", Mark::Dots(dots))];
    Some(Plot { title: "Fit against measurement".into(), x: Axis::linear("loss by approach 3"), y: Axis::linear("measured loss"), series })
}

/// All pictures in one SVG that stands alone.
pub fn svg(fit: &Fit) -> String {
    let plots: Vec<Plot> = [curves(fit), frontier(fit), losses(fit)].into_iter().chain(agreement(fit)).collect();
    sheet(&plots, 2)
}

/// The page.
pub fn html(fit: &Fit) -> String {
    let mut body: Vec<Html> = vec![Html::trusted(svg(fit))];
    let words = |cells: &[&str]| cells.iter().map(|c| c.to_string()).collect::<Vec<_>>();
    for (title, rows) in rows(fit) {
        body.extend([tag("h2", title), table(&words(&["", "value", "95 % interval"]), rows.iter().map(|r| r.to_vec()).collect())]);
    }
    let predictions: Vec<Vec<String>> = fit.predictions.iter().flat_map(predicted).map(|r| r.to_vec()).collect();
    if !predictions.is_empty() {
        body.extend([tag("h2", "Best use of a budget"), table(&words(&["FLOPs", "N", "D", "loss"]), predictions)]);
    }
    body.push(tag("ul", remarks(fit).into_iter().map(|r| tag("li", r)).collect::<Vec<_>>()));
    let lede = "Solid lines are approach 3 (one law for all points), dashed lines approach 2 (a parabola for each budget), rings its minima. Bands and \
                intervals hold 95 % of the bootstrap replicas.";
    page("Scaling laws", lede, join(body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaling::{FitOptions, Point, Surface};

    #[test]
    fn the_report_fits_a_terminal_and_pictures_are_whole() {
        let surface = Surface { e: 1.8, a: 400.0, b: 1000.0, alpha: 0.34, beta: 0.36, flops_factor: 6.0 };
        let mut points = Vec::new();
        for flops in [1e16, 1e17, 1e18] {
            points.extend((-2..=2).map(|k| {
                let n = surface.optimum(flops).parameters * 2f64.powi(k);
                Point::new(n, flops / 6.0 / n, surface.loss(n, flops / 6.0 / n) * (1.0 + 0.002 * f64::from(k % 2)))
            }));
        }
        let fit = Fit::of(points, &FitOptions { bootstrap: 40, targets: vec![1e20], ..FitOptions::default() });
        let text = text(&fit);
        assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
        assert!(text.contains("Parabolas are biased") && text.contains("100 times beyond"), "{text}");
        let svg = svg(&fit);
        assert_eq!(svg.matches("class=\"card\"").count(), 4);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        assert!(html(&fit).contains("Best use of a budget"));
        let few = Fit::of(fit.points[..4].to_vec(), &FitOptions::default());
        assert!(self::text(&few).contains("is missing") && self::svg(&few).contains("<svg"));
    }
}
