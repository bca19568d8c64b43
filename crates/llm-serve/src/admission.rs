//! Who may wait: a queue with a bound, and an honest answer for those who may not.
//!
//! The engine has `slots` for requests that generate; others wait in it. A request is turned away with 429 when more than `max_queue`
//! would wait, or when it would wait longer than `max_wait`. The wait is predicted from the measured time that a request spends in a
//! slot: with `s` slots of `t` seconds, a place becomes free every `t / s` seconds. `Retry-After` is the time after which the same
//! request would be let in if nobody else came.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Weight of the newest request in the mean service time.
const NEWEST: f64 = 0.1;
/// Nobody is sent away for longer.
const LONGEST: Duration = Duration::from_secs(600);

/// Bounds of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Requests that generate at the same time.
    pub slots: usize,
    /// Requests that may wait.
    pub max_queue: usize,
    /// How long they may expect to wait.
    pub max_wait: Option<Duration>,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { slots: 1, max_queue: 1024, max_wait: None }
    }
}

#[derive(Debug, Default)]
struct State {
    inside: usize,
    /// Mean seconds in a slot.
    service: Option<f64>,
}

/// The queue. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    limits: QueueLimits,
    state: Arc<Mutex<State>>,
}

/// Turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy {
    /// Requests that wait now.
    pub waiting: usize,
    /// How long a place in the queue would take, if that is known.
    pub wait: Option<Duration>,
    /// When to come back.
    pub again: Duration,
}

/// A place inside, given back when dropped.
#[derive(Debug)]
pub struct Ticket {
    admission: Admission,
    places: usize,
}

impl Ticket {
    /// A request of this call was served: how long it was in a slot.
    pub fn served(&self, time: Duration) {
        let mut state = self.admission.state.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = time.as_secs_f64();
        state.service = Some(state.service.map_or(seconds, |mean| mean + NEWEST * (seconds - mean)));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.admission.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.inside = state.inside.saturating_sub(self.places);
    }
}

impl Admission {
    /// An empty queue.
    pub fn new(limits: QueueLimits) -> Self {
        Self { limits: QueueLimits { slots: limits.slots.max(1), ..limits }, state: Arc::default() }
    }

    /// Let a call with this many requests in. Into an empty house everybody may come.
    pub fn enter(&self, places: usize) -> Result<Ticket, Busy> {
        let QueueLimits { slots, max_queue, max_wait } = self.limits;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = state.inside.saturating_sub(slots);
        let would_wait = (state.inside + places).saturating_sub(slots);
        let one_place = state.service.map(|t| t / slots as f64);
        let wait = one_place.map(|t| seconds(t * would_wait as f64));
        let too_many = would_wait.saturating_sub(max_queue);
        let too_long = match (max_wait, wait) {
            (Some(limit), Some(wait)) => wait.saturating_sub(limit),
            _ => Duration::ZERO,
        };
        if would_wait > 0 && state.inside > 0 && (too_many > 0 || !too_long.is_zero()) {
            let queue = seconds(one_place.unwrap_or(1.0) * too_many as f64);
            return Err(Busy { waiting, wait, again: queue.max(too_long).clamp(Duration::from_secs(1), LONGEST) });
        }
        state.inside += places;
        Ok(Ticket { admission: self.clone(), places })
    }

    /// Requests inside, running or waiting.
    pub fn inside(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).inside
    }

    /// Those of them that wait.
    pub fn waiting(&self) -> usize {
        self.inside().saturating_sub(self.limits.slots)
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_has_a_bound_and_places_come_back() {
        let admission = Admission::new(QueueLimits { slots: 2, max_queue: 3, max_wait: None });
        let mut tickets: Vec<Ticket> = (0..5).map(|_| admission.enter(1).unwrap()).collect();
        assert_eq!((admission.inside(), admission.waiting()), (5, 3));
        let busy = admission.enter(1).unwrap_err();
        assert_eq!((busy.waiting, busy.wait, busy.again), (3, None, Duration::from_secs(1)));
        tickets.pop();
        drop(admission.enter(1).unwrap());
        drop(tickets);
        assert_eq!(admission.inside(), 0);
        // More choices than there is room for, but nobody is there.
        let many = admission.enter(100).unwrap();
        assert!(admission.enter(1).is_err());
        drop(many);
    }

    /// If this fails, clients are told to come back too early or much too late.
    #[test]
    fn the_wait_follows_from_the_measured_service() {
        let admission = Admission::new(QueueLimits { slots: 2, max_queue: 100, max_wait: Some(Duration::from_secs(10)) });
        let mut tickets = vec![admission.enter(1).unwrap()];
        for _ in 0..200 {
            tickets[0].served(Duration::from_secs(4));
        }
        // Two run; a place is free every two seconds: five may wait for at most ten.
        tickets.extend((0..6).map(|_| admission.enter(1).unwrap()));
        let busy = admission.enter(1).unwrap_err();
        assert_eq!((busy.waiting, busy.wait), (5, Some(Duration::from_secs(12))));
        assert_eq!(busy.again, Duration::from_secs(2));
        // After that time one place is free, and then it passes.
        tickets.pop();
        assert!(admission.enter(1).is_ok());
    }
}
