//! How the library says what it is doing, and how it is asked to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How much a message wants to be seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Shown with `-v` only.
    Detail,
    /// Shown unless `-q`.
    Info,
    /// Always shown.
    Warning,
}

/// Something that the library wants a user to know.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A new phase of long work begins; `total` bytes are expected where that is known.
    Phase {
        /// What is done, in a word or two: `copying`, `waiting for WAL`.
        name: &'a str,
        /// Bytes expected in this phase.
        total: Option<u64>,
    },
    /// So many more bytes of the phase are done.
    Advance(u64),
    /// A message.
    Message(Level, &'a str),
}

/// Where events go. The command line draws them, tests collect them.
pub trait Progress: Sync {
    /// Takes one event; must not block for long.
    fn event(&self, event: Event<'_>);

    /// A new phase.
    fn phase(&self, name: &str, total: Option<u64>) {
        self.event(Event::Phase { name, total });
    }

    /// So many bytes more.
    fn advance(&self, bytes: u64) {
        self.event(Event::Advance(bytes));
    }

    /// A message for those who asked for details.
    fn detail(&self, text: &str) {
        self.event(Event::Message(Level::Detail, text));
    }

    /// A message.
    fn info(&self, text: &str) {
        self.event(Event::Message(Level::Info, text));
    }

    /// A message that is always shown.
    fn warn(&self, text: &str) {
        self.event(Event::Message(Level::Warning, text));
    }
}

impl<P: Progress + Send + ?Sized> Progress for Arc<P> {
    fn event(&self, event: Event<'_>) {
        (**self).event(event);
    }
}

/// Takes events and shows none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn event(&self, _: Event<'_>) {}
}

/// The work was asked to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Cancelled;

/// A flag that a signal sets and long work looks at.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// The flag itself, for a signal handler.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Asks the work to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Was it asked to stop?
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// An error once it was asked to stop.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }
}
