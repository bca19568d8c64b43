//! A preempted sequence's keys and values outside the pool. What does not fit is computed again.

use super::sequence::{Sequence, Swapped};
use super::{Engine, Preemption};
use crate::Result;
use crate::pages::GONE;
use llm_arch::KvPool;

impl Engine {
    /// Copy the pages of a sequence out, if that is wanted and there is room.
    pub(super) fn swap_out(&mut self, sequence: &mut Sequence) {
        if self.config.preemption != Preemption::Swap || sequence.computed == 0 {
            return;
        }
        let pages = &sequence.table.pages()[..sequence.computed.div_ceil(self.config.page_size)];
        let each = KvPool::page_bytes(self.decoder.config(), self.config.page_size, self.config.kv_dtype);
        let bytes = each * pages.iter().filter(|&&page| page != GONE).count();
        if self.swapped_bytes + bytes > self.config.swap_bytes {
            return;
        }
        let pages = pages.iter().map(|&page| (page != GONE).then(|| self.pool.read_page(page))).collect();
        self.swapped_bytes += bytes;
        sequence.swapped = Some(Swapped { pages, computed: sequence.computed, bytes });
    }

    /// Copy them back behind the tokens that were found in the pool; false when there is nothing to copy. The draft
    /// model's are not kept: it reads what is missing again.
    pub(super) fn swap_in(&mut self, sequence: &mut Sequence) -> Result<bool> {
        let Some(Swapped { pages, computed, bytes }) = sequence.swapped.take() else { return Ok(false) };
        self.swapped_bytes -= bytes;
        let found = sequence.computed / self.config.page_size;
        for (place, bytes) in pages.iter().enumerate().skip(found) {
            if let Some(bytes) = bytes {
                self.pool.write_page(sequence.table.pages()[place], bytes)?;
            }
        }
        sequence.computed = computed.max(sequence.computed);
        Ok(true)
    }
}
