//! Who is next.
//!
//! A request's rank is its arrival, moved back by one `aging` for every step of priority: a fixed number, so that the order of two requests
//! never turns, and an old request of low priority comes before a new one of high priority when it has waited long enough. Among requests of
//! equal priority the user who was served least is next, counted in tokens; a user who comes back starts no lower than the least
//! served one who is there (Sheng et al., Fairness in Serving Large Language Models, 2024). One user's requests keep their order.

use super::request::RequestId;
use super::sequence::Sequence;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Smaller is sooner.
pub(super) type Rank = (i128, RequestId);

#[derive(Debug)]
pub(super) struct Queue {
    pub waiting: Vec<Sequence>,
    users: HashMap<u64, User>,
    aging: Duration,
    epoch: Instant,
}

#[derive(Debug, Default)]
struct User {
    /// Requests in the engine.
    requests: usize,
    /// Tokens computed.
    served: u64,
}

impl Queue {
    pub fn new(aging: Duration) -> Self {
        Self { waiting: Vec::new(), users: HashMap::new(), aging, epoch: Instant::now() }
    }

    pub fn rank(&self, sequence: &Sequence) -> Rank {
        let priority = i128::from(sequence.priority);
        if self.aging.is_zero() {
            return (priority, sequence.id);
        }
        let arrival = sequence.clock.submitted.saturating_duration_since(self.epoch);
        (priority * self.aging.as_nanos() as i128 + arrival.as_nanos() as i128, sequence.id)
    }

    /// The place in `waiting` of the one that is next, and the rank it has by the oldest of its priority.
    pub fn next(&self) -> Option<(usize, Rank)> {
        // By priority: the rank of the oldest, and (service of its user, id, place) of the next one.
        let mut classes: BTreeMap<i32, (Rank, (u64, RequestId, usize))> = BTreeMap::new();
        for (place, sequence) in self.waiting.iter().enumerate() {
            let served = self.users.get(&sequence.user).map_or(0, |u| u.served);
            let (rank, candidate) = (self.rank(sequence), (served, sequence.id, place));
            let class = classes.entry(sequence.priority).or_insert((rank, candidate));
            *class = (class.0.min(rank), class.1.min(candidate));
        }
        classes.into_values().min().map(|(rank, (_, _, place))| (place, rank))
    }

    /// A request of this user is in the engine now.
    pub fn join(&mut self, user: u64) {
        if self.users.get(&user).is_none_or(|u| u.requests == 0) {
            let least = self.users.values().filter(|u| u.requests > 0).map(|u| u.served).min();
            let entry = self.users.entry(user).or_default();
            entry.served = entry.served.max(least.unwrap_or(0));
        }
        self.users.entry(user).or_default().requests += 1;
    }

    /// It is not any more. When nobody is left, everybody starts anew.
    pub fn leave(&mut self, user: u64) {
        if let Some(entry) = self.users.get_mut(&user) {
            entry.requests -= 1;
        }
        if self.users.values().all(|u| u.requests == 0) {
            self.users.clear();
        }
    }

    /// So many tokens were computed for a user.
    pub fn charge(&mut self, user: u64, tokens: usize) {
        if let Some(entry) = self.users.get_mut(&user) {
            entry.served += tokens as u64;
        }
    }
}
