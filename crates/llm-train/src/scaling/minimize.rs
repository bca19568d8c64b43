//! L-BFGS (Nocedal & Wright 2006, algorithm 7.4) for a handful of variables, with the line search of Lewis & Overton 2013 (algorithm 2.6):
//! bisection until the weak Wolfe conditions hold. It wants no second derivatives to exist, which Huber's loss does not have everywhere.

const MEMORY: usize = 10;
const ARMIJO: f64 = 1e-4;
const WOLFE: f64 = 0.9;
/// Bisections of one line search.
const HALVINGS: usize = 50;

/// The best point found and its value. `f` returns value and gradient.
pub fn minimize<const N: usize>(mut f: impl FnMut(&[f64; N]) -> (f64, [f64; N]), start: [f64; N], iterations: usize) -> ([f64; N], f64) {
    let (mut x, (mut value, mut gradient)) = (start, f(&start));
    let mut pairs: Vec<([f64; N], [f64; N], f64)> = Vec::new();
    for _ in 0..iterations {
        let size = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        if !value.is_finite() || size < 1e-12 {
            break;
        }
        let mut direction = two_loops(&gradient, &pairs);
        if dot(&direction, &gradient) >= 0.0 {
            pairs.clear();
            direction = gradient.map(|g| -g);
        }
        // Without curvature known, a first step of length at most one.
        let first = if pairs.is_empty() { (1.0 / dot(&direction, &direction).sqrt()).min(1.0) } else { 1.0 };
        let Some((next, next_value, next_gradient)) = line_search(&mut f, &x, value, &gradient, &direction, first) else {
            if pairs.is_empty() {
                break;
            }
            pairs.clear();
            continue;
        };
        let s: [f64; N] = std::array::from_fn(|i| next[i] - x[i]);
        let y: [f64; N] = std::array::from_fn(|i| next_gradient[i] - gradient[i]);
        let curvature = dot(&s, &y);
        if curvature > 1e-300 {
            if pairs.len() == MEMORY {
                pairs.remove(0);
            }
            pairs.push((s, y, curvature));
        }
        let gained = value - next_value;
        (x, value, gradient) = (next, next_value, next_gradient);
        if gained <= 1e-15 * value.abs() {
            break;
        }
    }
    (x, value)
}

fn dot<const N: usize>(a: &[f64; N], b: &[f64; N]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The direction of descent: minus the inverse Hessian, as the pairs know it, times the gradient.
fn two_loops<const N: usize>(gradient: &[f64; N], pairs: &[([f64; N], [f64; N], f64)]) -> [f64; N] {
    let mut q = *gradient;
    let mut weights = Vec::with_capacity(pairs.len());
    for (s, y, curvature) in pairs.iter().rev() {
        let weight = dot(s, &q) / curvature;
        (0..N).for_each(|i| q[i] -= weight * y[i]);
        weights.push(weight);
    }
    if let Some((_, y, curvature)) = pairs.last() {
        let scale = curvature / dot(y, y);
        q.iter_mut().for_each(|x| *x *= scale);
    }
    for ((s, y, curvature), weight) in pairs.iter().zip(weights.into_iter().rev()) {
        let other = dot(y, &q) / curvature;
        (0..N).for_each(|i| q[i] += (weight - other) * s[i]);
    }
    q.map(|x| -x)
}

/// A step that goes down enough and is not too short; the best that only goes down if there is none.
fn line_search<const N: usize>(
    f: &mut impl FnMut(&[f64; N]) -> (f64, [f64; N]),
    x: &[f64; N],
    value: f64,
    gradient: &[f64; N],
    direction: &[f64; N],
    first: f64,
) -> Option<([f64; N], f64, [f64; N])> {
    let slope = dot(gradient, direction);
    let (mut low, mut high, mut step) = (0.0, f64::INFINITY, first);
    let mut best: Option<([f64; N], f64, [f64; N])> = None;
    for _ in 0..HALVINGS {
        let next: [f64; N] = std::array::from_fn(|i| x[i] + step * direction[i]);
        let (next_value, next_gradient) = f(&next);
        // No number is too high as well.
        if next_value.is_nan() || next_value > value + ARMIJO * step * slope {
            high = step;
        } else {
            if next_value < value {
                best = Some((next, next_value, next_gradient));
            }
            if dot(&next_gradient, direction) >= WOLFE * slope {
                return best.or(Some((next, next_value, next_gradient)));
            }
            low = step;
        }
        step = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * low };
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, every fit is wrong.
    #[test]
    fn rosenbrock_in_four_dimensions() {
        let f = |x: &[f64; 4]| {
            let (mut value, mut gradient) = (0.0, [0.0; 4]);
            for i in 0..3 {
                let (a, b) = (x[i + 1] - x[i] * x[i], 1.0 - x[i]);
                value += 100.0 * a * a + b * b;
                gradient[i] += -400.0 * a * x[i] - 2.0 * b;
                gradient[i + 1] += 200.0 * a;
            }
            (value, gradient)
        };
        let (x, value) = minimize(f, [-1.2, 1.0, -0.5, 2.0], 500);
        assert!(value < 1e-12 && x.iter().all(|x| (x - 1.0).abs() < 1e-5), "{x:?} {value}");
    }

    /// Huber's loss of a median: no curvature where it matters.
    #[test]
    fn a_nearly_absolute_loss_finds_the_median() {
        let data = [0.0, 1.0, 2.0, 10.0, 100.0];
        let f = |x: &[f64; 1]| {
            data.iter().fold((0.0, [0.0]), |(value, [slope]), d| {
                let r: f64 = x[0] - d;
                if r.abs() <= 1e-3 { (value + 0.5 * r * r, [slope + r]) } else { (value + 1e-3 * (r.abs() - 5e-4), [slope + 1e-3 * r.signum()]) }
            })
        };
        let (x, _) = minimize(f, [50.0], 200);
        assert!((x[0] - 2.0).abs() < 1e-3, "{x:?}");
    }
}
