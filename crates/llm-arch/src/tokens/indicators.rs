//! Numbers about the rows of a table: lengths, and how far they point away from rows that were never trained
//! (Land & Bartolo 2024, arXiv 2405.05417, section 3.2).

use llm_run::Seed;

/// Power iterations at most; they stop when the direction stands still.
const ITERATIONS: usize = 100;
/// Squared change below which it does.
const STILL: f64 = 1e-10;

/// Rows of equal width.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    pub values: &'a [f32],
    pub width: usize,
}

impl Rows<'_> {
    fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width.max(1))
    }

    /// Euclidean length of each row.
    pub fn norms(&self) -> Vec<f64> {
        self.iter().map(|row| row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()).collect()
    }

    /// The direction in which rows differ most: the first principal component, of length 1. All zeros where rows do not differ.
    pub fn principal(&self) -> Vec<f64> {
        let count = self.iter().count().max(1) as f64;
        let mut mean = vec![0f64; self.width];
        self.iter().for_each(|row| add(&mut mean, row, 1.0 / count));
        let mut rng = Seed(0).stream("principal").rng();
        let mut direction: Vec<f64> = (0..self.width).map(|_| rng.normal()).collect();
        scale(&mut direction);
        for _ in 0..ITERATIONS {
            // Covariance times direction, without the covariance.
            let (mut next, mut total) = (vec![0f64; self.width], 0.0);
            let offset: f64 = mean.iter().zip(&direction).map(|(m, d)| m * d).sum();
            for row in self.iter() {
                let along = dot(row, &direction) - offset;
                total += along;
                add(&mut next, row, along);
            }
            next.iter_mut().zip(&mean).for_each(|(n, m)| *n -= total * m);
            if !scale(&mut next) {
                return vec![0.0; self.width];
            }
            let change: f64 = next.iter().zip(&direction).map(|(n, d)| (n - d) * (n - d)).sum();
            direction = next;
            if change < STILL {
                break;
            }
        }
        direction
    }

    /// Cosine distance of each row to the mean of the `unused` rows, all of them without their part along `direction`: 0 points the same
    /// way, 1 is at right angles, 2 is opposite. A row without length is at distance 0: it was never trained.
    pub fn distances(&self, unused: &[u32], direction: &[f64]) -> Vec<f64> {
        let without = |row: &[f32]| {
            let along = dot(row, direction);
            row.iter().zip(direction).map(|(&v, d)| f64::from(v) - along * d).collect::<Vec<f64>>()
        };
        let mut centre = vec![0f64; self.width];
        for &id in unused {
            if let Some(row) = self.values.get(id as usize * self.width..(id as usize + 1) * self.width) {
                without(row).iter().zip(&mut centre).for_each(|(v, c)| *c += v);
            }
        }
        scale(&mut centre);
        let distance = |row: &[f32]| {
            let rest = without(row);
            let norm = rest.iter().map(|v| v * v).sum::<f64>().sqrt();
            let cosine = rest.iter().zip(&centre).map(|(v, c)| v * c).sum::<f64>() / norm;
            if norm > 0.0 { 1.0 - cosine } else { 0.0 }
        };
        self.iter().map(distance).collect()
    }
}

fn dot(row: &[f32], direction: &[f64]) -> f64 {
    row.iter().zip(direction).map(|(&v, d)| f64::from(v) * d).sum()
}

fn add(sum: &mut [f64], row: &[f32], factor: f64) {
    sum.iter_mut().zip(row).for_each(|(s, &v)| *s += factor * f64::from(v));
}

/// To length 1; false where there is no length.
fn scale(vector: &mut [f64]) -> bool {
    let norm = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|v| *v /= norm);
    }
    norm > 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_principal_component_is_the_direction_of_most_difference() {
        let mut rng = Seed(3).rng();
        let values: Vec<f32> = (0..400).flat_map(|_| [10.0 + rng.normal(), 5.0 * rng.normal(), 0.3 * rng.normal()]).map(|v| v as f32).collect();
        let direction = Rows { values: &values, width: 3 }.principal();
        assert!(direction[1].abs() > 0.99, "{direction:?}: the mean must not count");
        let flat = [1.0f32, 2.0, 1.0, 2.0];
        assert_eq!(Rows { values: &flat, width: 2 }.principal(), [0.0, 0.0]);
    }

    #[test]
    fn distances_are_those_of_the_angle() {
        let values = [1.0f32, 0.0, 3.0, 0.0, 0.0, 2.0, -1.0, 0.0, 0.0, 0.0];
        let rows = Rows { values: &values, width: 2 };
        assert_eq!(rows.distances(&[0], &[0.0, 0.0]), [0.0, 0.0, 1.0, 2.0, 0.0]);
        // Without the first axis nothing is left of the first rows.
        assert_eq!(rows.distances(&[2], &[1.0, 0.0])[2], 0.0);
        assert_eq!(rows.norms(), [1.0, 3.0, 2.0, 1.0, 0.0]);
    }
}
