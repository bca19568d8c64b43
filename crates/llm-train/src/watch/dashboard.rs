//! The dashboard's thread: draws what the training has told a few times a second, and listens to keys. The training never waits for it
//! longer than it takes to copy the thinned curves.

use super::history::History;
use super::status::Live;
use super::view::{self, Scene};
use super::{About, terminal};
use llm_run::program;
use ratatui::Terminal;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time between two pictures.
const EVERY: Duration = Duration::from_millis(400);

/// What the training writes and the dashboard reads.
#[derive(Debug, Default)]
pub struct State {
    /// Everything told so far.
    pub history: History,
    /// The newest numbers.
    pub live: Live,
}

/// Between the two threads.
#[derive(Debug, Default)]
pub struct Shared {
    state: Mutex<State>,
    /// The view is to end, or has ended.
    closed: AtomicBool,
    /// Somebody wants a checkpoint.
    save: AtomicBool,
}

impl Shared {
    /// With what is known at the start.
    pub fn new(history: History) -> Self {
        Self { state: Mutex::new(State { history, live: Live::default() }), ..Self::default() }
    }

    /// Look or change; a panic elsewhere is no reason to lose what was told.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True once after every press of the key.
    pub fn take_save(&self) -> bool {
        self.save.swap(false, Ordering::Relaxed)
    }
}

/// A view on the terminal; dropping it gives the terminal back.
#[derive(Debug)]
pub struct Dashboard {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Dashboard {
    /// Take the terminal; the error says why that is not possible.
    pub fn start(shared: Arc<Shared>, about: About) -> Result<Self, String> {
        terminal::enter()?;
        let mut screen = Terminal::new(terminal::Ansi::new(std::io::stderr())).map_err(|e| {
            terminal::leave();
            e.to_string()
        })?;
        let (keys, pressed) = channel();
        // It stays blocked in its read when the view ends, and ends with the process; nothing else here reads stdin.
        std::thread::spawn(move || {
            let mut key = [0];
            while matches!(std::io::stdin().read(&mut key), Ok(1)) && keys.send(key[0]).is_ok() {}
        });
        let here = shared.clone();
        let thread = std::thread::spawn(move || {
            // Ends on an error too: a terminal that went away is no reason to stop the training.
            while !here.closed.load(Ordering::Relaxed) && draw(&mut screen, &here, &about).is_ok() && listen(&pressed, &here) {
                // `listen` waits for a key or the next picture.
                std::thread::yield_now();
            }
            here.closed.store(true, Ordering::Relaxed);
            terminal::leave();
        });
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The view has ended, by its key or because the terminal is gone.
    pub fn closed(&self) -> bool {
        self.shared.closed.load(Ordering::Relaxed)
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic in it has been shown.
            let _ = thread.join();
        }
        terminal::leave();
    }
}

fn draw(screen: &mut Terminal<terminal::Ansi<std::io::Stderr>>, shared: &Shared, about: &About) -> std::io::Result<()> {
    let (width, _) = terminal::size();
    let mut scene = Scene::of(&shared.lock(), about, usize::from(width) * 2);
    scene.stopping = program::interrupted();
    screen.draw(|frame| view::draw(frame, &scene)).map(|_| ())
}

/// Wait for a key or the time of the next picture; false when the view is to end.
fn listen(pressed: &Receiver<u8>, shared: &Shared) -> bool {
    match pressed.recv_timeout(EVERY) {
        Ok(b'q' | b'Q') => return false,
        Ok(b's' | b'S') => shared.save.store(true, Ordering::Relaxed),
        Err(RecvTimeoutError::Disconnected) => std::thread::park_timeout(EVERY),
        Ok(_) | Err(RecvTimeoutError::Timeout) => {}
    }
    true
}
