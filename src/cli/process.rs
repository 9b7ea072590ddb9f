//! What holds for the whole process: private files, no core dumps, short panics, signals that ask to stop.

use std::io::Write;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use nix::sys::stat::{Mode, umask};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use super::output::error::Described;
use super::output::one_line;
use crate::host::cache::catalog::panic_is_contained;
use crate::units::{Cancel, Class};

const CURE: &str = "this is a bug of pgcairn: please report it, with what was asked for and this message";

/// What the last panic said.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Files are ours alone; memory with keys in it is not dumped, nor read by other processes of this user.
pub(super) fn harden() {
    umask(Mode::from_bits_truncate(0o077));
    // Refused by no kernel that we know; a debugger's wish to see more is not worth an error.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_dumpable(false);
}

/// A panic is one line, without a backtrace; one that is caught inside the catalog is none of the user's business.
pub(super) fn catch_panics() {
    std::panic::set_hook(Box::new(|info| {
        if panic_is_contained() {
            return;
        }
        let said = info.payload_as_str().unwrap_or("a panic");
        let place = info.location().map(|l| format!(" ({}:{})", l.file(), l.line())).unwrap_or_default();
        let text = format!("internal error: {}{place}", one_line(said));
        drop(writeln!(std::io::stderr(), "pgcairn: {text}\n    do:  {CURE}"));
        if let Ok(mut last) = PANIC.lock() {
            *last = Some(text);
        }
    }));
}

/// The panic that ended the command.
pub(super) fn panic_described() -> Described {
    let what = PANIC.lock().ok().and_then(|mut last| last.take()).unwrap_or_else(|| "internal error".into());
    Described { class: Class::Failed, what, why: Vec::new(), cure: Some(CURE.into()), exit: 1 }
}

/// The flag that SIGINT, SIGTERM and SIGHUP set. The second signal of a kind kills: nobody has to wait for us. A signal
/// that is ignored (nohup, a shell's background job, PostgreSQL's archiver) stays so.
pub(super) fn watch_signals() -> Cancel {
    let cancel = Cancel::new();
    let ignored = ignored_signals();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        if ignored & (1 << (signal - 1)) != 0 {
            continue;
        }
        let again = Arc::new(AtomicBool::new(false));
        // In this order: the first asks whether it is the second time before the flag is set.
        let registered = flag::register_conditional_default(signal, Arc::clone(&again))
            .and_then(|_| flag::register(signal, again))
            .and_then(|_| flag::register(signal, cancel.flag()));
        // Without a handler the signal kills, which every repository survives.
        drop(registered);
    }
    cancel
}

/// The signals that this process was told to ignore, as a set of bits.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}
