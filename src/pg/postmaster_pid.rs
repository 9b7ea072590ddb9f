//! `postmaster.pid`, the lock file of a running server (utils/pidfile.h, `CreateLockFile` in miscinit.c).
//!
//! ```text
//! 1  process id, negative for a server in single-user mode
//! 2  data directory
//! 3  start time, seconds since 1970
//! 4  port                     5  socket folder              6  first address listened on
//! 7  key and id of the System V shared memory segment
//! 8  status
//! ```
//! A server that is killed leaves it behind; one that starts writes its first lines at once and the others later.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

/// The longest file that is read.
pub const MAX_LEN: u64 = 64 << 10;

/// A segment of System V shared memory. The server stays attached to one as long as any of its processes lives: that is
/// its own proof that nobody else runs on the data directory (`PGSharedMemoryIsInUse` in sysv_shmem.c).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedMemory {
    /// Its key.
    pub key: i32,
    /// Its id.
    pub id: i32,
}

/// What a server wrote into its lock file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PostmasterPid {
    /// The process, as its own machine or container numbers it.
    pub pid: i32,
    /// When it started, seconds since 1970 by its clock.
    pub started: Option<i64>,
    /// Its shared memory, once it had any.
    pub shared_memory: Option<SharedMemory>,
}

impl PostmasterPid {
    /// Reads the file; `None` if it doesn't begin with a process id: nothing is known of such a one.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.lines().map(str::trim);
        let pid = lines.next()?.parse::<i32>().ok()?.checked_abs().filter(|pid| *pid > 0)?;
        let started = lines.nth(1).and_then(|line| line.parse().ok());
        let shared_memory = lines.nth(3).and_then(shared_memory);
        Some(PostmasterPid { pid, started, shared_memory })
    }
}

/// Both are printed as unsigned longs; keys are signed.
fn shared_memory(line: &str) -> Option<SharedMemory> {
    let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().ok());
    let (key, id) = (numbers.next()??, numbers.next()??);
    Some(SharedMemory { key: key as u32 as i32, id: i32::try_from(id).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_servers_write_is_read() {
        let whole = b"4242\n/var/lib/postgresql/18/main\n1764000000\n5432\n/run/postgresql\nlocalhost\n 10487261    196609\nready   \n";
        let read =
            PostmasterPid { pid: 4242, started: Some(1_764_000_000), shared_memory: Some(SharedMemory { key: 10_487_261, id: 196_609 }) };
        assert_eq!(PostmasterPid::parse(whole), Some(read.clone()));
        // In single-user mode the number is negative; a key may be, too.
        let single = b"-7\n/d\n1\n0\n\n\n18446744073709551615 3\n";
        assert_eq!(
            PostmasterPid::parse(single),
            Some(PostmasterPid { pid: 7, started: Some(1), shared_memory: Some(SharedMemory { key: -1, id: 3 }) })
        );
        // One that has just started.
        assert_eq!(PostmasterPid::parse(b"4242\n/d\n1764000000\n5432\n\n"), Some(PostmasterPid { shared_memory: None, ..read }));
        for bad in [&b""[..], b"\n", b"x\n/d\n", b"0\n", b"99999999999999\n", b"-2147483648\n"] {
            assert_eq!(PostmasterPid::parse(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = PostmasterPid::parse(&bytes);
        }
    }
}
