//! Ctrl-C and SIGTERM, told apart.
//!
//! A person who presses Ctrl-C wants the program to end; a scheduler that sends SIGTERM wants the machine back and will start the same
//! command again. Both are heard on a thread of their own, where printing and locking is allowed, unlike in a signal handler.

use std::io::Result;
use tokio::runtime::Builder;

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C, or the terminal went away.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

#[cfg(unix)]
struct Signals([(Signal, tokio::signal::unix::Signal); 3]);

#[cfg(unix)]
impl Signals {
    fn new() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |meaning, kind| Ok::<_, std::io::Error>((meaning, signal(kind)?));
        Ok(Self([
            listen(Signal::Interrupt, SignalKind::interrupt())?,
            listen(Signal::Interrupt, SignalKind::hangup())?,
            listen(Signal::Terminate, SignalKind::terminate())?,
        ]))
    }

    async fn next(&mut self) -> Signal {
        let [(a, first), (b, second), (c, third)] = &mut self.0;
        tokio::select! {
            _ = first.recv() => *a,
            _ = second.recv() => *b,
            _ = third.recv() => *c,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> Signal {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Signal::Interrupt
    }
}

/// Call `heard` for every signal from now on. They no longer end the process by themselves.
pub fn listen(heard: impl Fn(Signal) + Send + 'static) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        // Registered before this returns, so that none is missed.
        let _inside = runtime.enter();
        Signals::new()?
    };
    let listening = move || {
        runtime.block_on(async {
            loop {
                heard(signals.next().await);
            }
        })
    };
    std::thread::Builder::new().name("signals".into()).spawn(listening)?;
    Ok(())
}
