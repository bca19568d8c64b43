//! Who gets pages, who has to give them back, and how many tokens of whom are in a step.
//!
//! Every sequence that decodes gets its token in every step, up to what the prompts are owed: an eighth of the step if they want it. Where
//! a step is too small for both, decoding sequences take turns. Of what is left for prompts half goes to the first by rank, the
//! rest to the shortest, so that a question of one line does not wait for a book. Guesses take what remains.

use super::queue::Rank;
use super::sequence::Sequence;
use super::{Engine, Event, Speculation, stretched};
use crate::Result;
use crate::speculative::{self, Controller};
use std::cmp::Reverse;
use std::time::Instant;

/// One part in so many of a step is for prompts.
const PROMPT_SHARE: usize = 8;

/// What a step computes of a running sequence, its guesses left out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    /// Place in `running`.
    pub i: usize,
    pub n: usize,
}

impl Engine {
    /// Tokens that a running sequence must have pages for.
    fn needed(&self, sequence: &Sequence) -> usize {
        match self.window {
            // Pages come and go as the window moves.
            Some(_) => sequence.computed + 1,
            None => sequence.tokens.len(),
        }
    }

    /// Give every running sequence room for its next token, the most urgent first. While pages are short, the least urgent gives its own back:
    /// that of the lowest priority, of these the youngest, where age counts as in the queue.
    pub(super) fn make_room(&mut self) {
        let mut order: Vec<Rank> = self.running.iter().map(|s| self.queue.rank(s)).collect();
        order.sort_unstable();
        for (_, id) in order {
            while let Some(i) = self.running.iter().position(|s| s.id == id) {
                let needed = self.needed(&self.running[i]);
                if self.kv.reserve(&mut self.running[i].table, needed) {
                    break;
                }
                let Some(victim) = (0..self.running.len()).max_by_key(|&i| self.queue.rank(&self.running[i])) else { break };
                self.preempt(victim);
            }
        }
    }

    /// Back to the queue, without pages.
    fn preempt(&mut self, i: usize) {
        let mut sequence = self.running.swap_remove(i);
        self.stats.preemptions += 1;
        self.swap_out(&mut sequence);
        self.kv.release(&mut sequence.table);
        sequence.computed = 0;
        sequence.drafted = 0;
        sequence.preempted = true;
        sequence.images.iter_mut().for_each(|shown| shown.features = None);
        self.queue.waiting.push(sequence);
    }

    /// Let waiting requests run while there is room, and in the place of less urgent ones.
    pub(super) fn admit(&mut self) -> Result<()> {
        while let Some((at, rank)) = self.queue.next() {
            let entered = self.running.len() < self.config.max_batch && self.enter(at)?;
            if !entered && !self.displace(at, rank) {
                break;
            }
        }
        Ok(())
    }

    fn enter(&mut self, at: usize) -> Result<bool> {
        let id = self.queue.waiting[at].id;
        if self.blocked.is_some_and(|(who, free)| who == id && self.kv.free_pages() <= free) {
            return Ok(false);
        }
        let mut sequence = self.queue.waiting.swap_remove(at);
        let gone = sequence.swapped.as_ref().map_or(0, |s| s.pages.iter().take_while(|p| p.is_none()).count());
        self.kv.skip(&mut sequence.table, gone);
        let found = self.kv.adopt(&mut sequence.table, &sequence.tokens, &sequence.pictures, 0);
        let start = sequence.swapped.as_ref().map_or(found, |s| s.computed);
        let length = sequence.tokens.len();
        let fits = match self.window {
            None => self.reserve_at_first(&mut sequence, length),
            Some(window) => {
                self.kv.slide(&mut sequence.table, (found + 1).saturating_sub(window));
                // Alone it can do with less.
                let alone = self.running.is_empty();
                self.reserve_at_first(&mut sequence, length.min(start + window)) || (alone && self.reserve_at_first(&mut sequence, start + 1))
            }
        };
        if !fits {
            self.kv.release(&mut sequence.table);
            self.blocked = Some((id, self.kv.free_pages()));
            self.queue.waiting.push(sequence);
            return Ok(false);
        }
        (sequence.computed, sequence.drafted) = (found, found);
        if self.swap_in(&mut sequence)? {
            // The draft model cannot read again what is behind the window.
            sequence.drafted = if gone > 0 { sequence.computed } else { found };
        } else if let Some((from, to, tokens)) = self.kv.fork(&sequence.table, &sequence.tokens, &sequence.pictures, found) {
            self.pool.copy_page(from, to);
            if let Some(draft) = &mut self.draft {
                draft.pool.copy_page(from, to);
            }
            sequence.computed += tokens;
            sequence.drafted = sequence.computed;
        }
        if !sequence.preempted {
            self.stats.prefix_cache_queries += sequence.prompt as u64;
            sequence.cached_tokens = sequence.computed.min(sequence.prompt);
            self.stats.prefix_cache_hits += sequence.cached_tokens as u64;
        }
        self.running.push(sequence);
        Ok(true)
    }

    /// Pages for so many tokens, leaving one for each of the others, which will soon want it.
    fn reserve_at_first(&mut self, sequence: &mut Sequence, tokens: usize) -> bool {
        self.kv.reserve_leaving(&mut sequence.table, tokens, self.running.len())
    }

    /// Take the place of a running sequence of lower priority, if that is what it takes. An old one keeps its place: it has the better rank.
    fn displace(&mut self, at: usize, rank: Rank) -> bool {
        let head = &self.queue.waiting[at];
        let below = |s: &Sequence| s.priority > head.priority && self.queue.rank(s) > rank;
        let theirs: usize = self.running.iter().filter(|s| below(s)).map(|s| s.table.held()).sum();
        if (self.kv.free_pages() + theirs) * self.config.page_size < head.tokens.len() && self.window.is_none() {
            return false;
        }
        let victim = (0..self.running.len()).filter(|&i| below(&self.running[i])).max_by_key(|&i| self.queue.rank(&self.running[i]));
        match victim {
            Some(i) => self.preempt(i),
            None => return false,
        }
        true
    }

    /// Which sequences go on, and by how many tokens; their guesses are made here too.
    pub(super) fn plan(&mut self) -> Vec<Slot> {
        let total = self.config.max_step_tokens;
        let (mut decodes, mut prompts): (Vec<usize>, Vec<usize>) = (0..self.running.len()).partition(|&i| self.running[i].decodes());
        // Who waited in the last step is first, who waited lately is spared.
        decodes.sort_by_key(|&i| (self.running[i].last_step, Reverse(self.running[i].last_wait), self.queue.rank(&self.running[i])));
        prompts.sort_by_key(|&i| self.queue.rank(&self.running[i]));
        let wanted: usize = prompts.iter().map(|&i| self.running[i].missing()).sum();
        let turns = decodes.len().min(total - wanted.min(total.div_ceil(PROMPT_SHARE)));
        for i in decodes.split_off(turns) {
            self.running[i].last_wait = self.stats.steps;
        }
        let mut slots: Vec<Slot> = decodes.iter().map(|&i| Slot { i, n: 1 }).collect();
        let mut budget = total - decodes.len();
        for (i, n) in self.shares(&prompts, budget) {
            let n = self.cut(i, n);
            if n > 0 {
                budget -= n;
                slots.push(Slot { i, n });
            }
        }
        self.stats.steps += u64::from(!slots.is_empty());
        for &Slot { i, n } in &slots {
            self.begin(i, n);
        }
        self.guess(&slots, decodes.len(), budget);
        slots
    }

    /// How many tokens of the prompts, which are in the order of their ranks, a step computes.
    fn shares(&self, prompts: &[usize], mut budget: usize) -> Vec<(usize, usize)> {
        let missing = |i: usize| self.running[i].missing();
        let Some((&first, others)) = prompts.split_first() else { return Vec::new() };
        let mut own = missing(first).min(if others.is_empty() { budget } else { budget.div_ceil(2) });
        budget -= own;
        let mut shortest = others.to_vec();
        shortest.sort_by_key(|&i| missing(i));
        let mut shares = Vec::with_capacity(prompts.len());
        for i in shortest {
            let n = missing(i).min(budget);
            budget -= n;
            shares.push((i, n));
        }
        own += budget.min(missing(first) - own);
        // By rank again: who comes later may find what those before it compute in this very step.
        shares.sort_by_key(|&(i, _)| self.queue.rank(&self.running[i]));
        shares.insert(0, (first, own));
        shares
    }

    /// The piece of a prompt that fits, at most `n` tokens, after what others have computed meanwhile.
    fn cut(&mut self, i: usize, n: usize) -> usize {
        let Sequence { tokens, pictures, table, computed, .. } = &mut self.running[i];
        let found = self.kv.adopt(table, tokens, pictures, *computed) - *computed;
        *computed += found;
        let mut n = n.min(tokens.len() - *computed);
        if !self.kv.reserve(table, *computed + n) {
            n = n.min(self.kv.reach(table).saturating_sub(*computed));
            self.kv.reserve(table, *computed + n);
        }
        // A twin that is scheduled after it may already point to what is computed in this step.
        self.kv.publish(table, tokens, pictures, *computed + n, false);
        let sequence = &mut self.running[i];
        sequence.drafted = sequence.drafted.max(if found > 0 { sequence.computed } else { 0 });
        if !sequence.preempted {
            let found = found.min(sequence.prompt.saturating_sub(sequence.computed - found));
            sequence.cached_tokens += found;
            self.stats.prefix_cache_hits += found as u64;
        }
        n
    }

    /// A sequence is in this step.
    fn begin(&mut self, i: usize, n: usize) {
        let sequence = &mut self.running[i];
        sequence.last_step = self.stats.steps;
        self.queue.charge(sequence.user, n);
        if sequence.clock.started.is_none() {
            sequence.clock.started = Some(Instant::now());
            self.stats.prompt_tokens += sequence.prompt as u64;
            let (cached_tokens, queued) = (sequence.cached_tokens, sequence.clock.queued());
            self.finished.push(Event::Started { id: sequence.id, cached_tokens, queued });
        }
    }

    /// The guess counter of a new sequence. Where angles depend on the length, a token beyond the end would turn those before it.
    pub(super) fn guessing(&self) -> Option<Controller> {
        let most = match self.config.speculation {
            Speculation::Lookup { tokens, .. } | Speculation::Draft { tokens } => tokens,
            Speculation::None => return None,
        };
        (!stretched(self.decoder.config())).then(|| Controller::new(most, self.config.guess_cost.unwrap_or_else(|| self.pace.cost(1))))
    }

    /// Guess what follows the sequences that decode, the first `decodes` of the slots, at most `budget` tokens together. Never at the cost of
    /// somebody's pages.
    fn guess(&mut self, slots: &[Slot], decodes: usize, mut budget: usize) {
        let cost = self.config.guess_cost.unwrap_or_else(|| self.pace.cost(decodes));
        let mut wanted = Vec::new();
        for &Slot { i, .. } in &slots[..decodes] {
            let rest = self.running[i].rest();
            let Some(guessing) = &mut self.running[i].guessing else { continue };
            guessing.set_cost(cost);
            let mut k = guessing.propose().min(rest - 1).min(budget);
            let Sequence { tokens, table, guesses, .. } = &mut self.running[i];
            if let Speculation::Lookup { max_ngram, .. } = self.config.speculation {
                *guesses = speculative::lookup(tokens, 2.min(max_ngram)..=max_ngram, k);
                k = guesses.len();
            }
            if k > 0 && !self.kv.reserve_leaving(table, tokens.len() + k, decodes) {
                k = k.min(table.pages().len() * self.config.page_size - tokens.len());
                guesses.truncate(k);
            }
            budget -= k;
            wanted.push((i, k));
        }
        if let Some(draft) = &mut self.draft {
            let began = Instant::now();
            let guessed = draft.guess(&mut self.running, &slots[decodes..], &wanted, self.config.max_step_tokens, &self.eos);
            if guessed > 0 {
                self.pace.record_guesses(guessed, began.elapsed().as_secs_f64());
            }
        }
        for &(i, _) in &wanted {
            let Sequence { guesses, grammar, .. } = &mut self.running[i];
            if let Some(grammar) = grammar.as_mut().filter(|_| !guesses.is_empty()) {
                guesses.truncate(grammar.validate(guesses));
            }
        }
    }
}
