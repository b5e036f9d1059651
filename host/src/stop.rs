//! The signals that ask the process to stop, heard from its first moment on.
//!
//! They come to a thread of their own, for the start keeps the main thread busy: reading a store, compiling. As long as the
//! start isn't done there is nothing to drain, so the first signal ends the process right there, after what is to be
//! finished by then. Afterwards signals are only counted. As the first process of a container, a host without handlers would
//! not even be killed by them.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::exit;

/// What is to be finished before a start is given up. Returns the exit code.
type Finish = Box<dyn FnOnce() -> u8 + Send>;

/// The signals of this process.
pub(crate) struct Stop {
    counted: watch::Receiver<u32>,
    /// None when the start is done. Held by whoever ends the process, so that a start that is given up gets no further.
    starting: Arc<Mutex<Option<Finish>>>,
}

impl Stop {
    /// Hears signals from now on. There is nothing to be finished yet.
    pub(crate) fn listen() -> io::Result<Self> {
        let (count, counted) = watch::channel(0);
        let starting = Arc::new(Mutex::new(Some(Box::new(|| exit::OK) as Finish)));
        let ears = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let entered = ears.enter();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        drop(entered);
        let hear = {
            let starting = starting.clone();
            async move {
                loop {
                    tokio::select! {
                        _ = terminate.recv() => {}
                        _ = interrupt.recv() => {}
                    }
                    let mut starting = starting.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(finish) = starting.take() {
                        std::process::exit(finish().into());
                    }
                    count.send_modify(|count| *count += 1);
                }
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || ears.block_on(hear))?;
        Ok(Self { counted, starting })
    }

    /// From now on, this is to be finished before a signal ends the start.
    pub(crate) fn finish_first(&self, finish: impl FnOnce() -> u8 + Send + 'static) {
        *self.starting.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(finish));
    }

    /// From now on, signals are only counted. Doesn't return if one came before.
    pub(crate) fn started(&self) {
        *self.starting.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How many came since the start was done.
    pub(crate) fn counted(&self) -> watch::Receiver<u32> {
        self.counted.clone()
    }
}
