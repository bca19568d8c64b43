//! Approach 2 of Hoffmann et al. 2022 (section 3.2): for each budget a parabola of the loss in ln N, and power laws of the budget through
//! the minima.
//!
//! A parabola is symmetric and the loss is not, so the minima are off even without noise, more so the wider the sizes are spread, and the
//! exponents with them (Czech et al. 2026). [`bias`] measures how far, on a surface of approach 3 at the same points.

use super::parametric::Surface;
use super::points::Point;
use serde::Serialize;

/// Points whose compute is this near to their neighbour's belong to one budget.
const SAME_BUDGET: f64 = 0.2;

/// The runs of one budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    /// Geometric mean of their compute.
    pub flops: f64,
    /// Which points.
    pub points: Vec<usize>,
    /// The loss as `c0 + c1 x + c2 x^2` with x = ln N - `centre`.
    pub coefficients: [f64; 3],
    /// Mean of ln N.
    pub centre: f64,
    /// Where the loss is lowest; none if the parabola has no minimum between the smallest and the largest model.
    pub minimum: Option<Minimum>,
}

/// The lowest point of a curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Minimum {
    /// N.
    pub parameters: f64,
    /// D.
    pub tokens: f64,
    /// Loss.
    pub loss: f64,
}

/// `N = n_factor C^n_exponent`, and the same for D.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Frontier {
    /// By budget.
    pub curves: Vec<Curve>,
    /// Exponent of C in the best N.
    pub size_exponent: f64,
    /// ln N at C = 1.
    pub size_offset: f64,
    /// Exponent of C in the best D.
    pub data_exponent: f64,
    /// ln D at C = 1.
    pub data_offset: f64,
}

impl Curve {
    /// The parabola.
    pub fn loss(&self, parameters: f64) -> f64 {
        let x = parameters.ln() - self.centre;
        self.coefficients[0] + x * (self.coefficients[1] + x * self.coefficients[2])
    }

    fn new(points: &[Point], members: Vec<usize>) -> Option<Self> {
        let mine: Vec<&Point> = members.iter().map(|&i| &points[i]).collect();
        let n = mine.len() as f64;
        let logs: Vec<f64> = mine.iter().map(|p| p.parameters.ln()).collect();
        let centre = logs.iter().sum::<f64>() / n;
        let rows: Vec<(f64, f64)> = logs.iter().zip(&mine).map(|(x, p)| (x - centre, p.loss)).collect();
        let coefficients = parabola(&rows)?;
        let flops = (mine.iter().map(|p| p.flops.ln()).sum::<f64>() / n).exp();
        let at = -coefficients[1] / (2.0 * coefficients[2]);
        let (low, high) = rows.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), r| (a.min(r.0), b.max(r.0)));
        // ln D at the minimum, on the line through the points: with attention, C is not quite 6 N D.
        let data: Vec<(f64, f64)> = rows.iter().zip(&mine).map(|(r, p)| (r.0, p.tokens.ln())).collect();
        let minimum = (coefficients[2] > 0.0 && (low..=high).contains(&at)).then(|| {
            let (slope, offset) = line(&data);
            let loss = coefficients[0] + at * (coefficients[1] + at * coefficients[2]);
            Minimum { parameters: (at + centre).exp(), tokens: (offset + slope * at).exp(), loss }
        });
        Some(Self { flops, points: members, coefficients, centre, minimum })
    }
}

/// Least squares of a parabola; none with fewer than three different places.
fn parabola(rows: &[(f64, f64)]) -> Option<[f64; 3]> {
    let spread = rows.iter().fold(0.0f64, |m, r| m.max(r.0.abs()));
    let mut places: Vec<f64> = rows.iter().map(|r| r.0).collect();
    places.sort_by(f64::total_cmp);
    places.dedup_by(|a, b| (*a - *b).abs() < 1e-6 * spread);
    if places.len() < 3 {
        return None;
    }
    // Normal equations in x over its spread, eliminated with the largest pivot.
    let mut m = [[0.0f64; 4]; 3];
    for (x, y) in rows {
        let powers = [1.0, x / spread, (x / spread).powi(2)];
        for i in 0..3 {
            (0..3).for_each(|j| m[i][j] += powers[i] * powers[j]);
            m[i][3] += powers[i] * y;
        }
    }
    for i in 0..3 {
        let pivot = (i..3).max_by(|a, b| m[*a][i].abs().total_cmp(&m[*b][i].abs()))?;
        m.swap(i, pivot);
        for k in 0..3 {
            if k != i {
                let factor = m[k][i] / m[i][i];
                (i..4).for_each(|j| m[k][j] -= factor * m[i][j]);
            }
        }
    }
    let c: [f64; 3] = std::array::from_fn(|i| m[i][3] / m[i][i] / spread.powi(i as i32));
    c.iter().all(|x| x.is_finite()).then_some(c)
}

/// Slope and offset of a line by least squares.
fn line(rows: &[(f64, f64)]) -> (f64, f64) {
    let n = rows.len() as f64;
    let (mx, my) = (rows.iter().map(|r| r.0).sum::<f64>() / n, rows.iter().map(|r| r.1).sum::<f64>() / n);
    let (mut xy, mut xx) = (0.0, 0.0);
    rows.iter().for_each(|(x, y)| (xy, xx) = (xy + (x - mx) * (y - my), xx + (x - mx).powi(2)));
    (xy / xx, my - xy / xx * mx)
}

/// Points by budget: those with nearly the same compute.
pub fn budgets(points: &[Point]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|a, b| points[*a].flops.total_cmp(&points[*b].flops));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for index in order {
        match groups.last_mut() {
            Some(group) if (points[index].flops / points[group[group.len() - 1]].flops).ln() < SAME_BUDGET => group.push(index),
            _ => groups.push(vec![index]),
        }
    }
    groups
}

impl Frontier {
    /// Fit; the reason in words where that is not possible.
    pub fn of(points: &[Point]) -> Result<Self, String> {
        let groups = budgets(points);
        let wide =
            |g: &Vec<usize>| g.iter().map(|&i| points[i].flops.ln()).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
        let curves: Vec<Curve> = groups
            .into_iter()
            .filter(|g| {
                let (low, high) = wide(g);
                high - low < 2.0 * SAME_BUDGET
            })
            .filter_map(|g| Curve::new(points, g))
            .collect();
        if curves.len() < 2 {
            return Err("the points are not isoFLOP curves: at least two budgets with three sizes each are needed (`llm-train scaling plan`)".into());
        }
        let minima: Vec<(f64, Minimum)> = curves.iter().filter_map(|c| Some((c.flops.ln(), c.minimum?))).collect();
        if minima.len() < 2 {
            let (found, all) = (minima.len(), curves.len());
            return Err(format!(
                "only {found} of {all} curves have their minimum between the smallest and the largest model; add sizes on the falling side"
            ));
        }
        let fit = |of: &dyn Fn(&Minimum) -> f64| line(&minima.iter().map(|(c, m)| (*c, of(m).ln())).collect::<Vec<_>>());
        let (size_exponent, size_offset) = fit(&|m| m.parameters);
        let (data_exponent, data_offset) = fit(&|m| m.tokens);
        Ok(Self { curves, size_exponent, size_offset, data_exponent, data_offset })
    }

    /// The best N and D of a budget.
    pub fn optimum(&self, flops: f64) -> (f64, f64) {
        let at = |exponent: f64, offset: f64| (offset + exponent * flops.ln()).exp();
        (at(self.size_exponent, self.size_offset), at(self.data_exponent, self.data_offset))
    }
}

/// The size exponent that this approach finds on a surface without noise at the same N and D, minus the true one.
pub fn bias(points: &[Point], surface: &Surface) -> Option<f64> {
    let exact: Vec<Point> = points.iter().map(|p| Point { loss: surface.loss(p.parameters, p.tokens), ..p.clone() }).collect();
    Some(Frontier::of(&exact).ok()?.size_exponent - surface.size_exponent())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs of `sizes` models around the optimum of each budget, from a `1 / spread` to `spread` times its size.
    pub(crate) fn design(surface: &Surface, budgets: &[f64], sizes: usize, spread: f64) -> Vec<Point> {
        let one = |&flops: &f64| {
            let best = surface.optimum(flops).parameters;
            (0..sizes).map(move |i| {
                let n = best * spread.powf(2.0 * i as f64 / (sizes - 1) as f64 - 1.0);
                let d = flops / 6.0 / n;
                Point::new(n, d, surface.loss(n, d))
            })
        };
        budgets.iter().flat_map(one).collect()
    }

    const SYMMETRIC: Surface = Surface { e: 1.8, a: 400.0, b: 400.0, alpha: 0.34, beta: 0.34, flops_factor: 6.0 };

    #[test]
    fn a_symmetric_surface_is_found_exactly_and_an_asymmetric_one_with_a_bias() {
        let budgets = [1e18, 1e19, 1e20];
        let points = design(&SYMMETRIC, &budgets, 7, 4.0);
        let frontier = Frontier::of(&points).unwrap();
        assert_eq!(frontier.curves.len(), 3);
        assert!((frontier.size_exponent - 0.5).abs() < 1e-9 && (frontier.data_exponent - 0.5).abs() < 1e-9, "{frontier:?}");
        let (n, d) = frontier.optimum(1e21);
        assert!((6.0 * n * d / 1e21 - 1.0).abs() < 1e-6);

        // Off-centre sampling of curves that are not symmetric: with the centre drifting, the exponent is off without any noise.
        let skewed = Surface { alpha: 0.5, beta: 0.25, ..SYMMETRIC };
        let mut points = Vec::new();
        for (i, flops) in budgets.into_iter().enumerate() {
            let centre = skewed.optimum(flops).parameters * 3f64.powi(i as i32 - 1);
            points.extend((-3..=3).map(|k| {
                let n = centre * 1.8f64.powi(k);
                Point::new(n, flops / 6.0 / n, skewed.loss(n, flops / 6.0 / n))
            }));
        }
        assert!(bias(&points, &skewed).unwrap().abs() > 0.002, "{:?}", bias(&points, &skewed));
        assert!(bias(&design(&SYMMETRIC, &budgets, 7, 4.0), &SYMMETRIC).unwrap().abs() < 1e-9);
    }

    #[test]
    fn points_that_are_no_isoflop_curves_are_refused_in_words() {
        let scattered: Vec<Point> = (1..40).map(|i| Point::new(1e6 * f64::from(i), 1e8, 3.0)).collect();
        assert!(Frontier::of(&scattered).unwrap_err().contains("isoFLOP"));
        let falling: Vec<Point> =
            design(&SYMMETRIC, &[1e18, 1e19], 5, 4.0).into_iter().map(|p| Point { loss: 5.0 - p.parameters.ln() / 10.0, ..p }).collect();
        assert!(Frontier::of(&falling).unwrap_err().contains("0 of 2 curves"), "{:?}", Frontier::of(&falling));
    }
}
