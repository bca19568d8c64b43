//! Which keys a query sees, and what is derived from that once for all layers of a step.

use super::Indices;
use super::composed::ints;
use burn::tensor::{Bool, Device, Int, Tensor};
use std::sync::{Arc, Mutex, PoisonError};

/// Who may look at whom: query `t` of a row sees keys `first_key[t] ..= t` of the same row. `first_key` is `[B * T]`.
#[derive(Debug, Clone)]
pub struct AttentionSpan {
    /// First visible key of each query, as an index into its own row.
    pub first_key: Indices,
    /// Rows.
    pub batch: usize,
    /// Tokens per row.
    pub length: usize,
    derived: Arc<Mutex<Derived>>,
}

/// Made on first use; clones of a span share it, so that the layers of a step do not each make their own.
#[derive(Debug, Default)]
struct Derived {
    mask: Option<(Device, Tensor<4, Bool>)>,
    windows: Vec<(usize, AttentionSpan)>,
}

impl AttentionSpan {
    fn new(first_key: Vec<u32>, batch: usize, length: usize) -> Self {
        Self { first_key: first_key.into(), batch, length, derived: Arc::default() }
    }

    /// Plain causal attention.
    pub fn causal(batch: usize, length: usize) -> Self {
        Self::new(vec![0; batch * length], batch, length)
    }

    /// Causal inside documents: `starts[b]` are the offsets in row `b` at which documents begin (ascending).
    pub fn documents(starts: &[&[u32]], length: usize) -> Self {
        let mut first_key = Vec::with_capacity(starts.len() * length);
        for row in starts {
            let mut starts = row.iter().peekable();
            let mut current = 0;
            for t in 0..length as u32 {
                while starts.next_if(|&&s| s <= t).map(|&s| current = s).is_some() {}
                first_key.push(current);
            }
        }
        Self::new(first_key, starts.len(), length)
    }

    /// Positions that restart at every first key: what RoPE needs when documents are packed.
    pub fn positions(&self) -> Indices {
        self.first_key.iter().enumerate().map(|(i, &first)| (i % self.length) as u32 - first).collect()
    }

    /// Limited to the last `window` keys, itself included (Mistral, section 2 of its report).
    pub fn sliding(&self, window: usize) -> Self {
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, span)) = derived.windows.iter().find(|(w, _)| *w == window) {
            return span.clone();
        }
        let limit = |(i, &first): (usize, &u32)| first.max((i % self.length + 1).saturating_sub(window) as u32);
        let span = Self::new(self.first_key.iter().enumerate().map(limit).collect(), self.batch, self.length);
        derived.windows.push((window, span.clone()));
        span
    }

    /// `[B, 1, T, T]` on a device, true where the query of the third dimension must not see the key of the fourth. Only the
    /// `[B * T]` first keys travel there.
    pub fn mask(&self, device: &Device) -> Tensor<4, Bool> {
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, mask)) = &derived.mask
            && known == device
            && known.is_autodiff() == device.is_autodiff()
        {
            return mask.clone();
        }
        let (b, t) = (self.batch, self.length);
        let first = ints(&self.first_key, device).reshape([b, 1, t, 1]).expand([b, 1, t, t]);
        let place = Tensor::<1, Int>::arange(0..t as i64, device);
        let query = place.clone().reshape([1, 1, t, 1]).expand([b, 1, t, t]);
        let key = place.reshape([1, 1, 1, t]).expand([b, 1, t, t]);
        let mask = key.clone().lower(first).bool_or(key.greater(query));
        derived.mask = Some((device.clone(), mask.clone()));
        mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, training on a GPU lets a token see the future or another document.
    #[test]
    fn the_mask_is_the_spans_definition_and_is_made_once() {
        let device = Device::flex();
        let span = AttentionSpan::documents(&[&[0, 3], &[0, 1, 4]], 6);
        for span in [span.clone(), span.sliding(2), span.sliding(2)] {
            let mask: Vec<bool> = span.mask(&device).into_data().iter::<bool>().collect();
            let want = (0..12).flat_map(|i| (0..6).map(move |s| (i, s))).map(|(i, s)| s > i % 6 || s < span.first_key[i] as usize);
            assert_eq!(mask, want.collect::<Vec<_>>());
        }
        let derived = span.derived.lock().unwrap();
        assert!(derived.mask.is_some() && derived.windows.len() == 1 && derived.windows[0].1.derived.lock().unwrap().mask.is_some());
    }
}
