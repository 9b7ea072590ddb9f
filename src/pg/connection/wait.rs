//! Waiting for something that may take for ever, so that it can be ended.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::units::Cancel;

/// How often a waiting caller looks at the cancel flag.
const GLANCE: Duration = Duration::from_millis(50);

/// How a wait ended.
pub(super) enum Waited<T> {
    Done(T),
    /// The flag was set; the work goes on, and its result, a client that closes when dropped, comes by this channel.
    Cancelled(Receiver<T>),
    TooLong,
    /// No thread could be started, or it died.
    NoThread(String),
}

/// Does `work` on a thread of its own, until it is done, `cancel` is set or `limit` has passed. What is left behind
/// ends by itself, and its result is dropped.
pub(super) fn wait_for<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
    cancel: &Cancel,
    limit: Option<Duration>,
) -> Waited<T> {
    let (send, receive) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("pg-session".to_owned()).spawn(move || {
        // The receiver may be gone: then the result is dropped here.
        let _ = send.send(work());
    });
    if let Err(error) = thread {
        return Waited::NoThread(error.to_string());
    }
    let begun = Instant::now();
    loop {
        match receive.recv_timeout(GLANCE) {
            Ok(result) => return Waited::Done(result),
            Err(RecvTimeoutError::Disconnected) => return Waited::NoThread("the session's thread ended".to_owned()),
            Err(RecvTimeoutError::Timeout) if cancel.is_cancelled() => return Waited::Cancelled(receive),
            Err(RecvTimeoutError::Timeout) if limit.is_some_and(|limit| begun.elapsed() >= limit) => return Waited::TooLong,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}
