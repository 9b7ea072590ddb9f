//! How a store is asked best, and asking for several things at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

/// How a store is asked best. A disk answers at once: whoever needs bytes reads them. A service answers after a while,
/// however little is asked: then much is asked at once, and more than is needed where that saves a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// So many reads at once are of use, at least 1.
    pub reads: usize,
    /// So many large objects are stored at once, at least 1; each is in memory meanwhile.
    pub writes: usize,
    /// So many bytes between two that are wanted are read along: that costs less than another request.
    pub gap: u64,
    /// The most bytes of one read, at least 1: more reads, not longer ones, where reads run at once.
    pub stretch: u64,
    /// Small objects within a large one are read with their surroundings, in blocks of so many bytes, which are kept for
    /// a while; 0: by themselves.
    pub block: u64,
}

impl Pace {
    /// Of a disk.
    pub const OF_A_DISK: Pace = Pace { reads: 1, writes: 1, gap: 64 << 10, stretch: 8 << 20, block: 0 };

    /// Of a service in the network that lets so many requests run at once. A request takes as long as reading some
    /// hundred KiB. At 1 MiB a read, 64 of them bring 1 GB/s over a line whose answers take 60 ms.
    pub fn of_a_service(most_requests: usize) -> Pace {
        Pace { reads: most_requests.clamp(1, 64), writes: most_requests.clamp(1, 4), gap: 256 << 10, stretch: 1 << 20, block: 128 << 10 }
    }
}

/// Does `work` for each item, on at most `threads` threads, and hands what comes of it to `each` in this thread, in any
/// order, with the item's number. What `each` has not taken yet waits: no more than one result a thread is held. With one
/// thread all is done in this one, in order.
///
/// # Errors
/// What `each` returned; no further work is begun then.
pub fn at_once<T: Sync, R: Send, E>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> R + Sync,
    each: &mut dyn FnMut(usize, R) -> Result<(), E>,
) -> Result<(), E> {
    let threads = threads.min(items.len());
    if threads <= 1 {
        return items.iter().enumerate().try_for_each(|(at, item)| each(at, work(item)));
    }
    let next = AtomicUsize::new(0);
    let done = std::thread::scope(|scope| {
        let (sender, results) = sync_channel(0);
        let mut started = 0;
        for _ in 0..threads {
            let (sender, next, work) = (sender.clone(), &next, &work);
            let run = move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { return };
                    if sender.send((at, work(item))).is_err() {
                        return;
                    }
                }
            };
            // As many as the system allows.
            started += usize::from(std::thread::Builder::new().name("request".into()).spawn_scoped(scope, run).is_ok());
        }
        drop(sender);
        if started == 0 {
            return None;
        }
        // When it is dropped, those that still work find nobody to take what they bring.
        Some(results.into_iter().try_for_each(|(at, result)| each(at, result)))
    });
    match done {
        Some(done) => done,
        None => items.iter().enumerate().try_for_each(|(at, item)| each(at, work(item))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Condvar, Mutex};

    #[test]
    fn all_is_done_once_whatever_the_number_of_threads() {
        let items: Vec<u64> = (0..100).collect();
        for threads in [0, 1, 2, 7, 100, 1000] {
            let mut found = Vec::new();
            let done: Result<(), ()> = at_once(&items, threads, |item| item * 2, &mut |at, twice| {
                found.push((at, twice));
                Ok(())
            });
            assert_eq!(done, Ok(()));
            found.sort_unstable();
            assert_eq!(found, (0..100).map(|i| (i, 2 * i as u64)).collect::<Vec<_>>(), "{threads}");
        }
        assert_eq!(at_once::<u8, (), ()>(&[], 5, |_| (), &mut |_, ()| Err(())), Ok(()));
    }

    #[test]
    fn they_run_at_once() {
        // Each waits until all have come: with fewer threads this would never end.
        let (here, all) = (Mutex::new(0), Condvar::new());
        let wait = |_: &u8| {
            let mut count = here.lock().unwrap();
            *count += 1;
            all.notify_all();
            let _unused = all.wait_while(count, |count| *count < 20).unwrap();
        };
        let done: Result<(), ()> = at_once(&[0; 20], 20, wait, &mut |_, ()| Ok(()));
        assert_eq!(done, Ok(()));
    }

    #[test]
    fn an_error_ends_it_and_no_more_is_held_than_one_a_thread() {
        for threads in [1, 4] {
            let begun = AtomicUsize::new(0);
            let mut taken = 0;
            let work = |_: &u8| begun.fetch_add(1, Ordering::SeqCst);
            let done = at_once(&[0; 1000], threads, work, &mut |_, _| {
                taken += 1;
                if taken == 10 { Err("enough") } else { Ok(()) }
            });
            assert_eq!(done, Err("enough"));
            assert!(begun.load(Ordering::SeqCst) <= 10 + threads, "{threads}: {begun:?}");
        }
    }
}
