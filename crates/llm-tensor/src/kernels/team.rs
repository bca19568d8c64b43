//! Threads that stay awake between the products of a decoding step.
//!
//! A step of a small model is a hundred products of 10 to 100 microseconds with short gaps between them. Rayon's threads sleep in gaps of
//! that size, and waking one, or handing work over from a thread outside its pool, costs about as much as such a product. The helpers here
//! watch for the next job for a while before they sleep, the caller starts at once and works along, and both take the next piece when
//! they are done with one. Which thread computes a piece changes no result.
//!
//! One job runs at a time. Whoever comes while the helpers are busy, or from a pool of one thread, is told so and goes elsewhere.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, TryLockError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How long a helper watches before it sleeps.
const WATCH: Duration = Duration::from_micros(200);
/// Looks between two looks at the clock.
const LOOKS: u32 = 64;
/// Most pieces of a job: they are counted in 16 bits.
const MOST: usize = 1 << 15;

/// A call of piece `i` of the job at an address.
type Call = unsafe fn(*const (), usize);

struct Team {
    /// Number of the job in the upper 32 bits, its pieces in the next 16, and the first one nobody has taken in the last.
    state: AtomicU64,
    job: AtomicPtr<()>,
    call: AtomicPtr<()>,
    /// Finished pieces of the job.
    done: AtomicUsize,
    failed: AtomicBool,
    asleep: AtomicUsize,
    helpers: OnceLock<Vec<Thread>>,
    busy: Mutex<u32>,
}

static TEAM: Team = Team {
    state: AtomicU64::new(0),
    job: AtomicPtr::new(std::ptr::null_mut()),
    call: AtomicPtr::new(std::ptr::null_mut()),
    done: AtomicUsize::new(0),
    failed: AtomicBool::new(false),
    asleep: AtomicUsize::new(0),
    helpers: OnceLock::new(),
    busy: Mutex::new(0),
};

impl Team {
    /// A piece for this thread, if one is left.
    fn claim(&self) -> Option<usize> {
        let mut state = self.state.load(Ordering::Acquire);
        loop {
            let (pieces, next) = ((state >> 16) & 0xffff, state & 0xffff);
            if next >= pieces {
                return None;
            }
            match self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(next as usize),
                Err(now) => state = now,
            }
        }
    }

    fn run(&self, piece: usize) {
        let (call, job) = (self.call.load(Ordering::Relaxed), self.job.load(Ordering::Relaxed));
        let run = || {
            // SAFETY: `call` was stored from a `Call` and `job` is what it expects. Both belong to the job whose piece was claimed: the claim
            // saw the state that was published after them, and `for_each` neither returns nor publishes anything else until
            // every claimed piece is counted as done.
            unsafe { std::mem::transmute::<*mut (), Call>(call)(job, piece) }
        };
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        self.done.fetch_add(1, Ordering::Release);
    }

    fn help(&self) {
        loop {
            let mut since = Instant::now();
            let mut looks = 0u32;
            loop {
                if let Some(piece) = self.claim() {
                    self.run(piece);
                    (since, looks) = (Instant::now(), 0);
                    continue;
                }
                std::hint::spin_loop();
                looks += 1;
                if looks.is_multiple_of(LOOKS) && since.elapsed() > WATCH {
                    break;
                }
            }
            // Either this thread sees the job that was just published, or its publisher sees it asleep: both sides write before they read.
            self.asleep.fetch_add(1, Ordering::SeqCst);
            let state = self.state.load(Ordering::SeqCst);
            if state & 0xffff >= (state >> 16) & 0xffff {
                thread::park();
            }
            self.asleep.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn helpers(&'static self) -> &'static [Thread] {
        self.helpers.get_or_init(|| {
            let spawn = |i: usize| {
                let started = thread::Builder::new().name(format!("kernels-{i}")).spawn(|| TEAM.help());
                started.ok().map(|handle| handle.thread().clone())
            };
            let processors = thread::available_parallelism().map_or(1, |n| n.get());
            (1..rayon::current_num_threads().min(processors)).filter_map(spawn).collect()
        })
    }
}

unsafe fn call<F: Fn(usize) + Sync>(job: *const (), piece: usize) {
    // SAFETY: `for_each` passes the address of its `F`, which lives until all pieces are done.
    unsafe { (*job.cast::<F>())(piece) }
}

/// Call `piece(i)` for every `i` below `pieces`, on this thread and the helpers; false, with nothing done, when they are busy or there are none.
///
/// # Panics
/// When a piece does.
pub(super) fn for_each<F: Fn(usize) + Sync>(pieces: usize, piece: &F) -> bool {
    if pieces > MOST || rayon::current_num_threads() < 2 {
        return false;
    }
    let mut number = match TEAM.busy.try_lock() {
        Ok(number) => number,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return false,
    };
    let helpers = TEAM.helpers();
    if helpers.is_empty() {
        return false;
    }
    *number = number.wrapping_add(1);
    TEAM.job.store(std::ptr::from_ref(piece).cast::<()>().cast_mut(), Ordering::Relaxed);
    TEAM.call.store(call::<F> as Call as *mut (), Ordering::Relaxed);
    TEAM.done.store(0, Ordering::Relaxed);
    TEAM.failed.store(false, Ordering::Relaxed);
    TEAM.state.store(u64::from(*number) << 32 | (pieces as u64) << 16, Ordering::SeqCst);
    if TEAM.asleep.load(Ordering::SeqCst) > 0 {
        helpers.iter().for_each(Thread::unpark);
    }
    while let Some(i) = TEAM.claim() {
        TEAM.run(i);
    }
    let mut looks = 0u32;
    while TEAM.done.load(Ordering::Acquire) < pieces {
        looks = looks.saturating_add(1);
        // A helper that lost its processor needs this one.
        if looks > 1 << 12 { thread::yield_now() } else { std::hint::spin_loop() }
    }
    let failed = TEAM.failed.load(Ordering::Relaxed);
    drop(number);
    assert!(!failed, "a piece of a parallel product panicked");
    true
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_piece_is_done_once_from_any_thread() {
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for n in (0..3000).map(|i| i % 70) {
                        let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                        super::super::split(n, 1, usize::MAX, |range| {
                            counts[range].iter().for_each(|c| {
                                c.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{n} pieces");
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let fails = || super::super::split(40, 1, usize::MAX, |range| assert!(range.start != 33, "on purpose"));
        assert!(std::panic::catch_unwind(fails).is_err());
        let sum = AtomicUsize::new(0);
        super::super::split(40, 1, usize::MAX, |range| {
            sum.fetch_add(range.start, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 40 * 39 / 2);
    }
}
