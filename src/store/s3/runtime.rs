//! The thread on which requests run.

use std::future::Future;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::store::StoreError;

/// So often somebody who waits looks whether to stop.
const LOOK: Duration = Duration::from_millis(100);

/// One thread with tokio's current-thread runtime; ends when dropped.
pub(super) struct Runtime {
    handle: Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Runtime {
    pub(super) fn start() -> Result<Self, StoreError> {
        let failed = |source| StoreError::Io { what: "starting the thread for requests".to_owned(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let run = move || {
            // Ends with an error when the sender is dropped, which is as good.
            let _ = runtime.block_on(ended);
        };
        let thread = std::thread::Builder::new().name("s3".to_owned()).spawn(run).map_err(failed)?;
        Ok(Runtime { handle, end: Some(end), thread: Some(thread) })
    }

    /// As [`Runtime::run`], until it is asked to stop: then the future is dropped, and `None` is the answer.
    ///
    /// # Errors
    /// As there.
    pub(super) fn run_unless<F>(&self, stopped: impl Fn() -> bool, future: F) -> Result<Option<F::Output>, io::Error>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (sender, receiver) = sync_channel(1);
        let task = self.handle.spawn(async move {
            let _ = sender.send(future.await);
        });
        loop {
            match receiver.recv_timeout(LOOK) {
                Ok(output) => return Ok(Some(output)),
                Err(RecvTimeoutError::Disconnected) => return Err(given_up()),
                Err(RecvTimeoutError::Timeout) if stopped() => {
                    task.abort();
                    return Ok(None);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Runs a future on the thread, and waits for it.
    ///
    /// # Errors
    /// If it was given up there: it panicked.
    pub(super) fn run<F>(&self, future: F) -> Result<F::Output, io::Error>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (sender, receiver) = sync_channel(1);
        self.handle.spawn(async move {
            let _ = sender.send(future.await);
        });
        receiver.recv().map_err(|_| given_up())
    }
}

fn given_up() -> io::Error {
    io::Error::other("the request was given up by its thread")
}

impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Cancel;

    #[test]
    fn who_waits_can_be_stopped() {
        let runtime = Runtime::start().unwrap();
        let cancel = Cancel::new();
        assert_eq!(runtime.run_unless(|| cancel.is_cancelled(), async { 7 }).unwrap(), Some(7));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| runtime.run_unless(|| cancel.is_cancelled(), std::future::pending::<()>()));
            cancel.cancel();
            assert_eq!(waits.join().unwrap().unwrap(), None);
        });
        assert!(runtime.run_unless(|| false, async { panic!("on purpose") }).is_err());
    }

    #[test]
    fn many_threads_wait_for_one_another_s_requests_at_once() {
        let runtime = Runtime::start().unwrap();
        // One after the other, they would wait for ever.
        let all = std::sync::Arc::new(tokio::sync::Barrier::new(50));
        std::thread::scope(|scope| {
            for _ in 0..50 {
                let all = std::sync::Arc::clone(&all);
                scope.spawn(|| runtime.run(async move { all.wait().await.is_leader() }).unwrap());
            }
        });
        assert!(runtime.run(async { panic!("on purpose") }).is_err());
        assert_eq!(runtime.run(async { 7 }).unwrap(), 7, "one that panics ends no other");
    }
}
