//! Dense and product-quantised matrices. Rows are added to or multiplied with a hidden vector, one at a time.

/// Centroids of a sub-vector: one byte chooses.
pub(super) const CENTROIDS: usize = 256;

/// A matrix of a model.
#[derive(Debug, Clone)]
pub(super) enum Matrix {
    Dense(Dense),
    Quantised(Quantised),
}

#[derive(Debug, Clone)]
pub(super) struct Dense {
    pub rows: usize,
    pub columns: usize,
    pub data: Vec<f32>,
}

/// `rows` vectors, each of `codes.len() / rows` bytes that choose sub-vectors, and perhaps one that chooses its length.
#[derive(Debug, Clone)]
pub(super) struct Quantised {
    pub rows: usize,
    pub columns: usize,
    pub codes: Vec<u8>,
    pub quantiser: Quantiser,
    /// Codes and centroids of the rows' norms (`qnorm`).
    pub norms: Option<(Vec<u8>, Quantiser)>,
}

/// A product quantiser: `parts` sub-vectors of `width` numbers, the last of `last_width`.
#[derive(Debug, Clone)]
pub(super) struct Quantiser {
    pub dim: usize,
    pub parts: usize,
    pub width: usize,
    pub last_width: usize,
    pub centroids: Vec<f32>,
}

impl Quantiser {
    pub fn new(dim: usize, width: usize) -> Self {
        let parts = dim.div_ceil(width);
        let last_width = if dim.is_multiple_of(width) { width } else { dim % width };
        Self { dim, parts, width, last_width, centroids: vec![0.0; dim * CENTROIDS] }
    }

    /// Where centroid `code` of sub-vector `part` lies.
    pub fn range(&self, part: usize, code: usize) -> std::ops::Range<usize> {
        let (start, width) = if part + 1 == self.parts {
            (part * CENTROIDS * self.width + code * self.last_width, self.last_width)
        } else {
            ((part * CENTROIDS + code) * self.width, self.width)
        };
        start..start + width
    }

    fn centroid(&self, part: usize, code: u8) -> &[f32] {
        &self.centroids[self.range(part, usize::from(code))]
    }
}

impl Quantised {
    fn norm(&self, row: usize) -> f32 {
        self.norms.as_ref().map_or(1.0, |(codes, quantiser)| quantiser.centroid(0, codes[row])[0])
    }

    fn parts(&self, row: usize) -> impl Iterator<Item = (usize, &[f32])> {
        let parts = self.quantiser.parts;
        let codes = &self.codes[row * parts..(row + 1) * parts];
        codes.iter().enumerate().map(|(part, code)| (part * self.quantiser.width, self.quantiser.centroid(part, *code)))
    }
}

impl Matrix {
    pub fn rows(&self) -> usize {
        match self {
            Self::Dense(m) => m.rows,
            Self::Quantised(m) => m.rows,
        }
    }

    pub fn columns(&self) -> usize {
        match self {
            Self::Dense(m) => m.columns,
            Self::Quantised(m) => m.columns,
        }
    }

    /// `x += self[row]`.
    pub fn add_row_to(&self, row: usize, x: &mut [f32]) {
        match self {
            Self::Dense(m) => {
                let from = &m.data[row * m.columns..(row + 1) * m.columns];
                x.iter_mut().zip(from).for_each(|(x, w)| *x += w);
            }
            Self::Quantised(m) => {
                let norm = m.norm(row);
                for (start, centroid) in m.parts(row) {
                    x[start..start + centroid.len()].iter_mut().zip(centroid).for_each(|(x, c)| *x += norm * c);
                }
            }
        }
    }

    /// `self[row] · x`.
    pub fn dot_row(&self, row: usize, x: &[f32]) -> f32 {
        match self {
            Self::Dense(m) => m.data[row * m.columns..(row + 1) * m.columns].iter().zip(x).map(|(w, x)| w * x).sum(),
            Self::Quantised(m) => {
                let sum: f32 = m.parts(row).map(|(start, c)| c.iter().zip(&x[start..]).map(|(c, x)| c * x).sum::<f32>()).sum();
                sum * m.norm(row)
            }
        }
    }
}
