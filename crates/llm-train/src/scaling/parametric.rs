//! Approach 3 of Hoffmann et al. 2022 (section 3.3, appendix D.2): `L(N, D) = E + A/N^alpha + B/D^beta`.
//!
//! Minimised is the sum of Huber's loss with delta 1e-3 of `logsumexp(a - alpha ln N, b - beta ln D, e) - ln L`, with A, B, E = exp(a, b, e).
//! Starts are the paper's grid of 4,500; the 300 nearest to the data descend a little, the 20 best of those to the end. The sum, not the
//! mean, and descent to the end: with the mean, the published fit had stopped early (Besiroglu et al. 2024, section 3).
//!
//! Inside, ln N and ln D are counted from their means. `a` and alpha are otherwise so correlated that descent crawls.

use super::minimize::minimize;
use super::points::Point;
use llm_tensor::rayon::prelude::*;
use serde::Serialize;

/// Of Huber's loss, in the logarithm of the loss.
pub const DELTA: f64 = 1e-3;

/// The law.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Surface {
    /// Loss that neither size nor data takes away.
    pub e: f64,
    /// Weight of the size.
    pub a: f64,
    /// Weight of the data.
    pub b: f64,
    /// Exponent of the size.
    pub alpha: f64,
    /// Exponent of the data.
    pub beta: f64,
    /// FLOPs for each parameter and token; 6, more with attention.
    pub flops_factor: f64,
}

/// The best division of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Optimum {
    /// C.
    pub flops: f64,
    /// N.
    pub parameters: f64,
    /// D.
    pub tokens: f64,
    /// Loss there.
    pub loss: f64,
}

impl Surface {
    /// L(N, D).
    pub fn loss(&self, parameters: f64, tokens: f64) -> f64 {
        self.e + self.a / parameters.powf(self.alpha) + self.b / tokens.powf(self.beta)
    }

    /// The exponent of C in the best N.
    pub fn size_exponent(&self) -> f64 {
        self.beta / (self.alpha + self.beta)
    }

    /// The exponent of C in the best D.
    pub fn data_exponent(&self) -> f64 {
        self.alpha / (self.alpha + self.beta)
    }

    /// The lowest loss of a budget (equation 4 of the paper).
    pub fn optimum(&self, flops: f64) -> Optimum {
        let product = flops / self.flops_factor;
        let g = (self.alpha * self.a / (self.beta * self.b)).powf(1.0 / (self.alpha + self.beta));
        let parameters = g * product.powf(self.size_exponent());
        let tokens = product / parameters;
        Optimum { flops, parameters, tokens, loss: self.loss(parameters, tokens) }
    }

    /// Losses fall with size and with data.
    pub fn is_sensible(&self) -> bool {
        [self.e, self.a, self.b, self.alpha, self.beta].iter().all(|x| x.is_finite())
            && self.alpha > 0.0
            && self.beta > 0.0
            && self.a > 0.0
            && self.b > 0.0
    }
}

/// Centred logarithms of the points.
struct Problem {
    /// ln N, ln D from their means; ln L.
    rows: Vec<[f64; 3]>,
    mean: [f64; 2],
    flops_factor: f64,
}

impl Problem {
    fn new(points: &[Point]) -> Self {
        let n = points.len().max(1) as f64;
        let mean = [points.iter().map(|p| p.parameters.ln()).sum::<f64>() / n, points.iter().map(|p| p.tokens.ln()).sum::<f64>() / n];
        let factor = points.iter().map(|p| (p.flops / p.parameters / p.tokens).ln()).sum::<f64>() / n;
        let rows = points.iter().map(|p| [p.parameters.ln() - mean[0], p.tokens.ln() - mean[1], p.loss.ln()]).collect();
        Self { rows, mean, flops_factor: factor.exp() }
    }

    /// Variables: a and b at the mean, e, alpha, beta.
    fn value(&self, [a, b, e, alpha, beta]: &[f64; 5]) -> (f64, [f64; 5]) {
        let (mut sum, mut gradient) = (0.0, [0.0; 5]);
        for [x, y, target] in &self.rows {
            let terms = [a - alpha * x, b - beta * y, *e];
            let most = terms[0].max(terms[1]).max(terms[2]);
            let parts = terms.map(|t| (t - most).exp());
            let total: f64 = parts.iter().sum();
            let r = most + total.ln() - target;
            let slope = r.clamp(-DELTA, DELTA);
            sum += if r.abs() <= DELTA { 0.5 * r * r } else { DELTA * (r.abs() - 0.5 * DELTA) };
            let [p, q, s] = parts.map(|part| slope * part / total);
            for (g, d) in gradient.iter_mut().zip([p, q, s, -p * x, -q * y]) {
                *g += d;
            }
        }
        // In units in which a step of the descent is of the size of the variables.
        let scale = 1.0 / (DELTA * self.rows.len().max(1) as f64);
        (sum * scale, gradient.map(|g| g * scale))
    }

    fn descend(&self, start: [f64; 5], iterations: usize) -> ([f64; 5], f64) {
        minimize(|x| self.value(x), start, iterations)
    }

    fn surface(&self, [a, b, e, alpha, beta]: [f64; 5]) -> Surface {
        let (a, b) = ((a + alpha * self.mean[0]).exp(), (b + beta * self.mean[1]).exp());
        Surface { e: e.exp(), a, b, alpha, beta, flops_factor: self.flops_factor }
    }

    fn variables(&self, s: &Surface) -> [f64; 5] {
        [s.a.ln() - s.alpha * self.mean[0], s.b.ln() - s.beta * self.mean[1], s.e.max(1e-12).ln(), s.alpha, s.beta]
    }
}

/// The best fit from all starts; none without points.
pub fn fit(points: &[Point]) -> Option<Surface> {
    let problem = Problem::new(points);
    let exponents = [0.0, 0.5, 1.0, 1.5, 2.0];
    let weights = [0.0, 5.0, 10.0, 15.0, 20.0, 25.0];
    let mut starts = Vec::new();
    for alpha in exponents {
        for beta in exponents {
            for e in [-1.0, -0.5, 0.0, 0.5, 1.0] {
                for a in weights {
                    starts.extend(weights.map(|b| [a - alpha * problem.mean[0], b - beta * problem.mean[1], e, alpha, beta]));
                }
            }
        }
    }
    let mut all: Vec<([f64; 5], f64)> = starts.into_iter().map(|x| (x, problem.value(&x).0)).collect();
    for (keep, iterations) in [(300, 60), (20, 2000)] {
        all.retain(|(_, value)| value.is_finite());
        all.sort_by(|a, b| a.1.total_cmp(&b.1));
        all.truncate(keep);
        all = all.into_par_iter().map(|(x, _)| problem.descend(x, iterations)).collect();
    }
    all.into_iter().min_by(|a, b| a.1.total_cmp(&b.1)).map(|(x, _)| problem.surface(x))
}

/// The fit to similar points, from a fit already known.
pub fn refit(points: &[Point], from: &Surface) -> Surface {
    let problem = Problem::new(points);
    problem.surface(problem.descend(problem.variables(from), 1000).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The objective's gradient by differences. If this fails, the fit stops anywhere.
    #[test]
    fn the_gradient_is_the_slope() {
        let points: Vec<Point> = (0..20).map(|i| Point::new(1e6 * 1.5f64.powi(i), 1e8 * 1.3f64.powi(20 - i), 4.0 - 0.1 * f64::from(i))).collect();
        let problem = Problem::new(&points);
        let x = [0.1, -0.2, 0.6, 0.3, 0.4];
        let (_, gradient) = problem.value(&x);
        for i in 0..5 {
            let at = |h: f64| {
                let mut x = x;
                x[i] += h;
                problem.value(&x).0
            };
            let slope = (at(1e-6) - at(-1e-6)) / 2e-6;
            assert!((slope - gradient[i]).abs() < 1e-5 * (1.0 + slope.abs()), "{i}: {slope} {}", gradient[i]);
        }
    }

    #[test]
    fn the_optimum_is_the_lowest_point_of_a_budget() {
        let surface = Surface { e: 1.8172, a: 482.01, b: 2085.43, alpha: 0.3478, beta: 0.3658, flops_factor: 6.0 };
        for flops in [1e18, 5.76e23] {
            let best = surface.optimum(flops);
            assert!((6.0 * best.parameters * best.tokens / flops - 1.0).abs() < 1e-9);
            for factor in [0.9, 1.1] {
                let n = best.parameters * factor;
                assert!(surface.loss(n, flops / 6.0 / n) > best.loss);
            }
        }
        assert!((surface.size_exponent() - 0.5126).abs() < 1e-3, "Besiroglu et al. 2024, table 1");
    }
}
