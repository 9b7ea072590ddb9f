//! How many requests run at once.
//!
//! As TCP does with a window: for each answer one more until the service says for the first time that it is asked too
//! much; then half of it, and for each full window of answers one more, up to what is configured.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Lets only so many through.
pub(super) struct Gate {
    state: Mutex<State>,
    freed: Condvar,
    most: usize,
}

struct State {
    running: usize,
    /// In hundredths, so that it can grow by a part of one.
    window: usize,
    /// The round in which the window was halved last: of many requests that are refused at once only the first counts.
    halved_in: u64,
    round: u64,
    /// It was never said to be too much.
    opening: bool,
}

const ONE: usize = 100;

impl Gate {
    pub(super) fn new(most: usize) -> Self {
        let most = most.max(1);
        let state = State { running: 0, window: most.min(32) * ONE, halved_in: 0, round: 1, opening: true };
        Gate { state: Mutex::new(state), freed: Condvar::new(), most }
    }

    /// Waits for a place.
    pub(super) fn enter(&self) -> Place<'_> {
        let mut state = self.state();
        while state.running * ONE >= state.window {
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.running += 1;
        Place { gate: self, round: state.round }
    }

    /// How many may run now.
    #[cfg(test)]
    pub(super) fn window(&self) -> usize {
        self.state().window / ONE
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of those that run; gives its place back when dropped.
pub(super) struct Place<'a> {
    gate: &'a Gate,
    round: u64,
}

impl Place<'_> {
    /// It was answered.
    pub(super) fn answered(&self) {
        let mut state = self.gate.state();
        let more = if state.opening { ONE } else { ONE * ONE / state.window.max(ONE) };
        state.window = (state.window + more).min(self.gate.most * ONE);
        self.gate.freed.notify_all();
    }

    /// The service said that it is asked too much.
    pub(super) fn refused(&self) {
        let mut state = self.gate.state();
        state.opening = false;
        if state.halved_in < self.round {
            state.window = (state.window / 2).max(ONE);
            state.halved_in = state.round;
            state.round += 1;
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.gate.state().running -= 1;
        self.gate.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_refusal_halves_the_window_once_and_answers_open_it_again() {
        let gate = Gate::new(64);
        assert_eq!(gate.window(), 32);
        let places: Vec<Place<'_>> = (0..32).map(|_| gate.enter()).collect();
        for place in &places {
            place.refused();
        }
        assert_eq!(gate.window(), 16, "all of one round count once");
        drop(places);
        for _ in 0..10 {
            gate.enter().refused();
        }
        assert_eq!(gate.window(), 1, "never none");
        for _ in 0..100 {
            gate.enter().answered();
        }
        let grown = gate.window();
        assert!((8..32).contains(&grown), "{grown}");
        for _ in 0..10_000 {
            gate.enter().answered();
        }
        assert_eq!(gate.window(), 64, "never more than configured");
    }

    #[test]
    fn it_opens_with_each_answer_until_the_service_has_had_enough() {
        let gate = Gate::new(96);
        for _ in 0..32 {
            gate.enter().answered();
        }
        assert_eq!(gate.window(), 64);
        gate.enter().refused();
        for _ in 0..32 {
            gate.enter().answered();
        }
        assert!((32..34).contains(&gate.window()), "{}", gate.window());
    }

    #[test]
    fn no_more_run_than_may() {
        let gate = Gate::new(3);
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let place = gate.enter();
                        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        running.fetch_sub(1, Ordering::SeqCst);
                        place.answered();
                    }
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 3);
    }
}
