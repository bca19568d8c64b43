//! One pass and what follows from it.

use super::draft::{Rows, pick};
use super::schedule::Slot;
use super::sequence::{Sequence, Verdict};
use super::{Engine, Event};
use crate::{Result, vision};
use llm_tensor::burn::tensor::Tensor;
use llm_tensor::host;
use llm_tensor::kernels::RowInvariant;
use llm_tensor::rayon::prelude::*;
use std::ops::Range;
use std::time::Instant;

/// Logits in memory at once.
const LOGITS: usize = 1 << 25;
/// Fewer logits than this are looked through sooner than other threads are awake.
const TOGETHER: usize = 1 << 17;

impl Engine {
    /// One forward pass; returns what it produced. Does nothing when idle. After an error nothing that was running or waiting is left.
    pub fn step(&mut self) -> Result<Vec<Event>> {
        let outcome = self.advance();
        if outcome.is_err() {
            self.abandon();
        }
        outcome
    }

    fn abandon(&mut self) {
        for mut sequence in self.running.drain(..).chain(self.queue.waiting.drain(..)) {
            self.kv.release(&mut sequence.table);
            self.swapped_bytes -= sequence.swapped.take().map_or(0, |s| s.bytes);
        }
        self.queue = super::Queue::new(self.config.aging);
        self.finished.clear();
        // Pages may have been promised that were not written.
        self.kv.clear();
    }

    fn advance(&mut self) -> Result<Vec<Event>> {
        self.expire();
        self.make_room();
        self.admit()?;
        let slots = self.plan();
        let mut events = std::mem::take(&mut self.finished);
        if slots.is_empty() {
            return Ok(events);
        }
        self.look(&slots)?;
        let began = Instant::now();
        let _exact = self.config.exact.then(RowInvariant::begin);
        let (hidden_ND, ends) = self.forward(&slots);
        let rows = hidden_ND.dims()[0];
        self.kv.commit();
        let verdicts = self.choose(hidden_ND, &ends);
        self.adapters.select([]);
        self.pace.record(rows, began.elapsed().as_secs_f64());
        self.settle(&slots, verdicts, &mut events);
        events.append(&mut self.finished);
        Ok(events)
    }

    /// Features of the images that are due now; those further back wait, so that a step takes no longer than it must.
    fn look(&mut self, slots: &[Slot]) -> Result<()> {
        let Some(eyes) = &self.vision else { return Ok(()) };
        for &Slot { i, n } in slots {
            let Sequence { pictures, images, computed, .. } = &mut self.running[i];
            for (picture, shown) in pictures.iter().zip(images) {
                let due = picture.tokens.start < *computed + n && *computed < picture.tokens.end;
                if due && shown.features.is_none() {
                    shown.features = Some(self.features.features(eyes, &shown.image)?);
                }
            }
        }
        Ok(())
    }

    /// Hidden states `[N, D]`, and whose rows a token is chosen from: those of a sequence's last token and of its guesses.
    fn forward(&mut self, slots: &[Slot]) -> (Tensor<2>, Vec<(usize, Range<usize>)>) {
        let (mut rows, mut seen, mut ends) = (Rows::default(), Vec::new(), Vec::new());
        let mut adapters = Vec::new();
        for &Slot { i, n } in slots {
            let sequence = &self.running[i];
            let now = sequence.computed..sequence.computed + n;
            for (picture, shown) in sequence.pictures.iter().zip(&sequence.images) {
                let due = picture.tokens.start.max(now.start)..picture.tokens.end.min(now.end);
                if let Some(features) = shown.features.as_ref().filter(|_| !due.is_empty()) {
                    let part = features.clone().narrow(0, due.start - picture.tokens.start, due.len());
                    seen.push((rows.len() + due.start - now.start, part));
                }
            }
            let pages = sequence.table.pages();
            rows.add(now.start, &sequence.tokens[now.clone()], pages);
            if now.end == sequence.tokens.len() {
                let first = rows.len() - 1;
                rows.add(now.end, &sequence.guesses, pages);
                ends.push((i, first..rows.len()));
            }
            adapters.resize(rows.len(), sequence.adapter);
        }
        self.adapters.select(adapters);
        let batch = rows.batch();
        let hidden_ND = if seen.is_empty() {
            self.decoder.hidden_cached(&batch, &mut self.pool)
        } else {
            self.decoder.hidden_cached_from(vision::place(self.decoder.embed(batch.ids.clone()), seen), &batch, &mut self.pool)
        };
        (hidden_ND, ends)
    }

    /// The next tokens of the sequences that are through with what they have.
    fn choose(&mut self, hidden_ND: Tensor<2>, ends: &[(usize, Range<usize>)]) -> Vec<(usize, Verdict)> {
        let vocab = self.decoder.config().vocab_size;
        let rows: Vec<u32> = ends.iter().flat_map(|(_, rows)| rows.clone()).map(|row| row as u32).collect();
        if rows.is_empty() {
            return Vec::new();
        }
        let mut left = pick(hidden_ND, rows);
        let (mut verdicts, mut ends) = (Vec::with_capacity(ends.len()), ends);
        while !ends.is_empty() {
            // As many sequences as there is memory for, at least one.
            let mut count = 0;
            let taken = ends.iter().take_while(|(_, rows)| {
                let fits = count == 0 || (count + rows.len()) * vocab <= LOGITS;
                count += if fits { rows.len() } else { 0 };
                fits
            });
            let (now, later) = ends.split_at(taken.count());
            let n = left.dims()[0];
            let hidden = left.clone().narrow(0, 0, count);
            if count < n {
                left = left.narrow(0, count, n - count);
            }
            self.adapters.select(now.iter().flat_map(|(i, rows)| std::iter::repeat_n(self.running[*i].adapter, rows.len())));
            let logits = host::to_vec(self.decoder.logits(hidden));
            let mut parts: Vec<Option<&[f32]>> = vec![None; self.running.len()];
            let mut rest = logits.as_slice();
            for (i, rows) in now {
                let (part, after) = rest.split_at(rows.len() * vocab);
                (parts[*i], rest) = (Some(part), after);
            }
            let end_ids = &self.eos;
            let choose = |(i, (sequence, logits)): (usize, (&mut Sequence, Option<&[f32]>))| Some((i, sequence.choose(logits?, vocab, end_ids)));
            if count * vocab < TOGETHER {
                verdicts.extend(self.running.iter_mut().zip(parts).enumerate().filter_map(choose));
            } else {
                verdicts.par_extend(self.running.par_iter_mut().zip(parts).enumerate().filter_map(choose));
            }
            ends = later;
        }
        verdicts
    }

    /// Book what was computed and chosen.
    fn settle(&mut self, slots: &[Slot], verdicts: Vec<(usize, Verdict)>, events: &mut Vec<Event>) {
        let mut ended = Vec::new();
        let mut accepted = vec![0; self.running.len()];
        for (i, verdict) in verdicts {
            let sequence = &mut self.running[i];
            let id = sequence.id;
            accepted[i] = verdict.accepted;
            self.stats.generation_tokens += verdict.choices.len() as u64;
            self.stats.drafted_tokens += sequence.guesses.len() as u64;
            self.stats.accepted_tokens += verdict.accepted as u64;
            self.queue.charge(sequence.user, verdict.accepted);
            if let Some(guessing) = &mut sequence.guessing {
                guessing.record(sequence.guesses.len(), verdict.accepted);
            }
            events.extend(verdict.choices.into_iter().map(|c| Event::Token { id, token: c.token, logprob: c.logprob, top: c.top }));
            ended.extend(verdict.reason.map(|reason| (i, reason)));
        }
        for &Slot { i, n } in slots {
            let sequence = &mut self.running[i];
            sequence.guesses.clear();
            sequence.computed += n + accepted[i];
            sequence.drafted = sequence.drafted.min(sequence.computed);
            for (picture, shown) in sequence.pictures.iter().zip(&mut sequence.images) {
                shown.features.take_if(|_| picture.tokens.end <= sequence.computed);
            }
            let Sequence { tokens, pictures, table, computed, drafted, .. } = sequence;
            self.kv.publish(table, tokens, pictures, *computed, true);
            if let Some(window) = self.window {
                if self.draft.is_none() || *computed - *drafted > self.config.page_size {
                    // What the draft model did not read by now it never will.
                    *drafted = *computed;
                }
                self.kv.slide(table, (*drafted + 1).saturating_sub(window));
            }
        }
        ended.sort_unstable_by_key(|e| std::cmp::Reverse(e.0));
        for (i, reason) in ended {
            let sequence = self.running.swap_remove(i);
            self.finish(sequence, reason);
        }
    }
}
