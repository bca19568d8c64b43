//! From the hidden vector to labels: softmax, one sigmoid a label, or a walk down a Huffman tree.

use super::Loss;
use super::matrix::Matrix;

const SIGMOID_STEPS: usize = 512;
const SIGMOID_LIMIT: f32 = 8.0;

#[derive(Debug, Clone)]
pub(super) enum Output {
    Softmax,
    /// The reference's table of the logistic function, one value more than steps.
    Sigmoids(Vec<f32>),
    /// `(left, right)` of the inner nodes; node `i` is `labels + i`, the last is the root.
    Tree(Vec<(u32, u32)>),
}

fn ln(p: f32) -> f32 {
    // The reference adds in double precision.
    (f64::from(p) + 1e-5).ln() as f32
}

impl Output {
    pub fn new(loss: Loss, label_counts: &[i64]) -> Result<Self, String> {
        Ok(match loss {
            Loss::Softmax => Self::Softmax,
            Loss::Ns | Loss::Ova => Self::Sigmoids(
                (0..=SIGMOID_STEPS)
                    .map(|i| {
                        let x = i as f32 * 2.0 * SIGMOID_LIMIT / SIGMOID_STEPS as f32 - SIGMOID_LIMIT;
                        (1.0 / (1.0 + f64::from((-x).exp()))) as f32
                    })
                    .collect(),
            ),
            Loss::Hs => Self::Tree(tree(label_counts)?),
        })
    }

    /// `(log probability, label)` of the best `k`, best first.
    pub fn best(&self, output: &Matrix, hidden: &[f32], k: usize, threshold: f32) -> Vec<(f32, usize)> {
        if k == 0 {
            return Vec::new();
        }
        let mut found: Vec<(f32, usize)> = match self {
            Self::Tree(tree) => walk(tree, output, hidden, k, threshold),
            Self::Softmax | Self::Sigmoids(_) => {
                let all = self.probabilities(output, hidden);
                all.into_iter().enumerate().filter(|(_, p)| *p >= threshold).map(|(i, p)| (ln(p), i)).collect()
            }
        };
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        found.truncate(k);
        found
    }

    fn probabilities(&self, output: &Matrix, hidden: &[f32]) -> Vec<f32> {
        let scores = (0..output.rows()).map(|row| output.dot_row(row, hidden));
        match self {
            Self::Sigmoids(table) => scores.map(|x| sigmoid(table, x)).collect(),
            _ => softmax(scores.collect()),
        }
    }
}

/// Probabilities of scores.
pub(super) fn softmax(mut scores: Vec<f32>) -> Vec<f32> {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|x| *x /= sum);
    scores
}

fn sigmoid(table: &[f32], x: f32) -> f32 {
    if x < -SIGMOID_LIMIT {
        0.0
    } else if x > SIGMOID_LIMIT {
        1.0
    } else {
        // A score that is no number takes the first place.
        table[((x + SIGMOID_LIMIT) * SIGMOID_STEPS as f32 / SIGMOID_LIMIT / 2.0) as usize]
    }
}

/// Huffman tree of labels that are sorted by falling count.
fn tree(counts: &[i64]) -> Result<Vec<(u32, u32)>, String> {
    const UNSET: i64 = 1_000_000_000_000_000;
    let n = counts.len();
    let mut all = counts.to_vec();
    all.resize(2 * n - 1, UNSET);
    let mut nodes = Vec::with_capacity(n - 1);
    let (mut leaf, mut node) = (n, n);
    for i in n..2 * n - 1 {
        let mut smallest = || {
            if leaf > 0 && all.get(node).is_none_or(|count| all[leaf - 1] < *count) {
                leaf -= 1;
                Ok(leaf)
            } else if node < i {
                node += 1;
                Ok(node - 1)
            } else {
                Err(format!("the labels' counts do not make a tree at node {i}; the file is damaged"))
            }
        };
        let (left, right) = (smallest()?, smallest()?);
        all[i] = all[left].saturating_add(all[right]);
        nodes.push((left as u32, right as u32));
    }
    Ok(nodes)
}

/// Depth first, left before right, cutting branches that cannot reach the best `k` any more.
fn walk(tree: &[(u32, u32)], output: &Matrix, hidden: &[f32], k: usize, threshold: f32) -> Vec<(f32, usize)> {
    let labels = tree.len() + 1;
    let least = ln(threshold);
    let mut found: Vec<(f32, usize)> = Vec::new();
    let mut stack = vec![(2 * labels - 2, 0f32)];
    while let Some((node, score)) = stack.pop() {
        if score < least || (found.len() >= k && score < found[k - 1].0) {
            continue;
        }
        if node < labels {
            let at = found.partition_point(|(s, _)| *s >= score);
            found.insert(at, (score, node));
            found.truncate(k);
            continue;
        }
        let (left, right) = tree[node - labels];
        let f = output.dot_row(node - labels, hidden);
        let f = (1.0 / (1.0 + f64::from((-f).exp()))) as f32;
        stack.push((right as usize, score + ln(f)));
        stack.push((left as usize, score + ln((1.0 - f64::from(f)) as f32)));
    }
    found
}
