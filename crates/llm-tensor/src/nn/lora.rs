//! Low-rank adapters of single rows: `y + scale * B (A x)` for the rows of a batch that ask for it (Hu et al. 2021, LoRA; several adapters in
//! one batch as in Chen et al. 2023, Punica).
//!
//! A model has one [`Rows`], which says before each pass which adapter each row uses, and a [`LoraBank`] at every projection that some adapter
//! changes. Rows of one adapter are computed together; the other rows keep the bits that they have without a bank.
//!
//! Legend: N rows, M rows of one adapter, I/O features, R rank.

#![allow(non_snake_case)] // shape suffixes

use crate::{host, ops};
use burn::tensor::{Device, Tensor};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Which adapter each row of the next passes uses. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Rows(Arc<RwLock<Arc<Selection>>>);

/// The rows of each adapter in use.
#[derive(Debug, Default)]
struct Selection {
    rows: usize,
    groups: BTreeMap<u32, ops::Indices>,
}

impl Rows {
    /// Choose for each of the rows. Until the next call every pass must have that many rows, unless no row uses an adapter.
    pub fn select(&self, adapters: &[Option<u32>]) {
        let mut groups: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (row, adapter) in (0..).zip(adapters) {
            if let Some(adapter) = adapter {
                groups.entry(*adapter).or_default().push(row);
            }
        }
        let groups = groups.into_iter().map(|(adapter, rows)| (adapter, rows.into())).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Selection { rows: adapters.len(), groups });
    }

    /// No row uses an adapter.
    pub fn clear(&self) {
        self.select(&[]);
    }

    /// Does a row of the next pass use an adapter?
    pub fn any(&self) -> bool {
        !self.selection().groups.is_empty()
    }

    fn selection(&self) -> Arc<Selection> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What an adapter does to one projection.
#[expect(clippy::large_enum_variant, reason = "one for each projection of an adapter")]
#[derive(Debug, Clone)]
pub enum Update {
    /// `y + scale * B (A x)`.
    LowRank(LowRank),
    /// Another matrix `[O, I]`.
    Whole(Tensor<2>),
}

/// A low-rank update.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `[R, I]`.
    pub a: Tensor<2>,
    /// `[O, R]`.
    pub b: Tensor<2>,
    /// Factor of the product.
    pub scale: f32,
    /// `[O]`: what each output is multiplied with at the end (Liu et al. 2024, DoRA: its magnitude over the norm of the changed row).
    pub magnitude: Option<Tensor<1>>,
}

impl Update {
    /// The outputs `[M, O]` of some rows from their inputs `x [M, I]` and the base's outputs `y [M, O]`, which carry no bias.
    fn apply(&self, x_MI: Tensor<2>, y_MO: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Whole(weight) => ops::linear(x_MI, weight.clone()),
            Self::LowRank(LowRank { a, b, scale, magnitude }) => {
                let y_MO = y_MO + ops::linear(ops::linear(x_MI, a.clone()), b.clone()).mul_scalar(*scale);
                match magnitude {
                    Some(magnitude) => y_MO * magnitude.clone().unsqueeze::<2>(),
                    None => y_MO,
                }
            }
        }
    }

    fn on(self, device: &Device) -> Self {
        match self {
            Self::Whole(weight) => Self::Whole(weight.to_device(device)),
            Self::LowRank(LowRank { a, b, scale, magnitude }) => {
                Self::LowRank(LowRank { a: a.to_device(device), b: b.to_device(device), scale, magnitude: magnitude.map(|m| m.to_device(device)) })
            }
        }
    }
}

/// The updates of one projection by adapter. Clones share them.
#[derive(Debug, Clone)]
pub struct LoraBank {
    rows: Rows,
    updates: Arc<RwLock<BTreeMap<u32, Update>>>,
}

impl LoraBank {
    /// None yet.
    pub fn new(rows: &Rows) -> Self {
        Self { rows: rows.clone(), updates: Arc::default() }
    }

    /// What an adapter does here, in the number format of the model.
    pub fn insert(&self, adapter: u32, update: Update) {
        self.updates.write().unwrap_or_else(PoisonError::into_inner).insert(adapter, update);
    }

    /// Forget an adapter; true when no other is left.
    pub fn remove(&self, adapter: u32) -> bool {
        let mut updates = self.updates.write().unwrap_or_else(PoisonError::into_inner);
        updates.remove(&adapter);
        updates.is_empty()
    }

    /// Does a row of the next pass use an adapter that changes this projection?
    pub fn active(&self) -> bool {
        let (selection, updates) = (self.rows.selection(), self.updates.read().unwrap_or_else(PoisonError::into_inner));
        selection.groups.keys().any(|adapter| updates.contains_key(adapter))
    }

    /// The same on another device.
    pub(super) fn on(&self, device: &Device) -> Self {
        let updates = self.updates.read().unwrap_or_else(PoisonError::into_inner);
        let moved = updates.iter().map(|(adapter, update)| (*adapter, update.clone().on(device))).collect();
        Self { rows: self.rows.clone(), updates: Arc::new(RwLock::new(moved)) }
    }

    /// The base's outputs `[N, O]` with those of the rows that use an adapter replaced.
    ///
    /// # Panics
    /// When the selection is for another number of rows.
    pub(super) fn apply(&self, x_NI: Tensor<2>, y_NO: Tensor<2>) -> Tensor<2> {
        let selection = self.rows.selection();
        let updates = self.updates.read().unwrap_or_else(PoisonError::into_inner);
        let used: Vec<(&ops::Indices, &Update)> = selection.groups.iter().filter_map(|(key, rows)| Some((rows, updates.get(key)?))).collect();
        if used.is_empty() {
            return y_NO;
        }
        let n = x_NI.dims()[0];
        assert_eq!(n, selection.rows, "adapters were chosen for another number of rows");
        if let [(rows, update)] = used.as_slice()
            && rows.len() == n
        {
            return update.apply(x_NI, y_NO);
        }
        // One table of all outputs, and for each row the one that counts.
        let mut place: Vec<u32> = (0..n as u32).collect();
        let mut table = vec![y_NO.clone()];
        let mut next = n as u32;
        for (rows, update) in used {
            table.push(update.apply(ops::embedding(x_NI.clone(), rows.clone()), ops::embedding(y_NO.clone(), rows.clone())));
            for &row in rows.iter() {
                place[row as usize] = next;
                next += 1;
            }
        }
        ops::embedding(Tensor::cat(table, 0), place.into())
    }
}

/// The norms of the rows of `W + scale * B A`, as DoRA divides by: `weight [O, I]`, `a [R, I]`, `b [O, R]`.
pub fn changed_row_norms(weight: Tensor<2>, a: Tensor<2>, b: Tensor<2>, scale: f32) -> Vec<f32> {
    let [outputs, inputs] = weight.dims();
    let (w, ba) = (host::to_vec(weight), host::to_vec(b.matmul(a)));
    let norm = |o: usize| {
        let row = w[o * inputs..(o + 1) * inputs].iter().zip(&ba[o * inputs..]);
        row.map(|(w, d)| (f64::from(*w) + f64::from(scale) * f64::from(*d)).powi(2)).sum::<f64>().sqrt() as f32
    };
    (0..outputs).map(norm).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Linear, Weight, parameter};
    use llm_run::Seed;

    fn matrix(name: &str, rows: usize, columns: usize) -> Tensor<2> {
        let mut rng = Seed(8).stream(name).rng();
        host::from_vec((0..rows * columns).map(|_| rng.normal() as f32).collect(), [rows, columns], &Device::flex())
    }

    fn update(name: &str, magnitude: bool) -> Update {
        let magnitude = magnitude.then(|| matrix("m", 1, 24).reshape([24]));
        Update::LowRank(LowRank { a: matrix(name, 3, 40), b: matrix(&format!("{name} b"), 24, 3), scale: 0.5, magnitude })
    }

    /// If this fails, a request pays for its neighbour's adapter.
    #[test]
    fn each_row_gets_its_own_update_and_no_other() {
        let mut linear = Linear::dense(parameter(matrix("w", 24, 40)), Some(parameter(matrix("bias", 1, 24).reshape([24]))));
        let (x, rows) = (matrix("x", 9, 40), Rows::default());
        let plain = host::to_vec(linear.forward(x.clone()));
        let bank = linear.weight.adapt(|| LoraBank::new(&rows));
        bank.insert(4, update("one", false));
        linear.weight.adapt(|| unreachable!("it has a bank")).insert(9, update("two", true));
        assert_eq!(host::to_vec(linear.forward(x.clone())), plain);
        // All rows with one adapter, then a mixture; 5 is one that changes another projection.
        let all = [4, 9].map(|key| {
            rows.select(&[Some(key); 9]);
            host::to_vec(linear.forward(x.clone()))
        });
        let choice = [None, Some(9), Some(4), Some(5), Some(9), None, Some(4), Some(4), None];
        rows.select(&choice);
        assert!(rows.any() && bank.active());
        let mixed = host::to_vec(linear.forward(x.clone()));
        for (row, key) in choice.iter().enumerate() {
            let at = row * 24..(row + 1) * 24;
            match key {
                Some(4 | 9) => {
                    let want = &all[usize::from(*key == Some(9))][at.clone()];
                    let off = mixed[at].iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(off < 1e-4, "row {row}: {off}");
                    assert_ne!(want, &plain[row * 24..(row + 1) * 24]);
                }
                _ => assert_eq!(mixed[at.clone()], plain[at], "row {row} uses no adapter of this projection"),
            }
        }
        rows.select(&[Some(5), None]);
        assert_eq!(host::to_vec(linear.forward(x.clone())), plain, "nobody uses an adapter of this projection");
        rows.clear();
        assert_eq!(host::to_vec(linear.forward(x.clone())), plain);
        assert!(!bank.remove(4) && bank.remove(9));
        linear.weight.unadapt();
        assert!(matches!(linear.weight, Weight::Dense(_)));
        assert_eq!(host::to_vec(linear.forward(x)), plain);
    }

    #[test]
    fn norms_are_those_of_the_changed_matrix() {
        let (w, a, b) = (matrix("w", 24, 40), matrix("a", 3, 40), matrix("b", 24, 3));
        let changed = host::to_vec(w.clone() + b.clone().matmul(a.clone()).mul_scalar(0.5));
        for (norm, row) in changed_row_norms(w, a, b, 0.5).iter().zip(changed.chunks(40)) {
            let want = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            assert!((norm - want).abs() < 1e-4 * want);
        }
    }
}
