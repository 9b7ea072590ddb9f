//! The thread on which requests run.

use std::future::Future;
use std::io;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::store::StoreError;

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
        receiver.recv().map_err(|_| io::Error::other("the request was given up by its thread"))
    }
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

    #[test]
    fn many_threads_wait_for_one_another_s_requests_at_once() {
        let runtime = Runtime::start().unwrap();
        let pause = std::time::Duration::from_millis(50);
        let begun = std::time::Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..50 {
                scope.spawn(|| runtime.run(async move { tokio::time::sleep(pause).await }).unwrap());
            }
        });
        assert!(begun.elapsed() < pause * 40, "one after the other: {:?}", begun.elapsed());
        assert!(runtime.run(async { panic!("on purpose") }).is_err());
        assert_eq!(runtime.run(async { 7 }).unwrap(), 7, "one that panics ends no other");
    }
}
