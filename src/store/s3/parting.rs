//! After a signal: what a session has to say at its end is still sent, but for so long only.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::units::Cancel;

/// Until when requests go on although the process was asked to stop.
#[derive(Default)]
pub(super) struct Parting(Mutex<Option<Instant>>);

impl Parting {
    /// For so long from now on a signal ends no request. Once there was one, this begins anew for nobody.
    pub(super) fn begin(&self, time: Duration, cancel: &Cancel) {
        let mut until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if until.is_none() || !cancel.is_cancelled() {
            *until = Some(Instant::now() + time);
        }
    }

    /// It was asked to stop, and there is no time left.
    pub(super) fn is_over(&self, cancel: &Cancel) -> bool {
        let until = || *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cancel.is_cancelled() && until().is_none_or(|until| Instant::now() >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_given_once_after_a_signal() {
        let (parting, cancel) = (Parting::default(), Cancel::new());
        assert!(!parting.is_over(&cancel));
        // A session that ended before it.
        parting.begin(Duration::ZERO, &cancel);
        assert!(!parting.is_over(&cancel));
        parting.begin(Duration::from_secs(3600), &cancel);
        cancel.cancel();
        assert!(!parting.is_over(&cancel));

        let parting = Parting::default();
        assert!(parting.is_over(&cancel), "nothing is to be said");
        parting.begin(Duration::ZERO, &cancel);
        parting.begin(Duration::from_secs(3600), &cancel);
        assert!(parting.is_over(&cancel));
    }
}
