//! This host: room on disks, folders that only their user may enter, clocks.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Line;
use crate::units::{ByteSize, Timestamp};

/// Less than this share of a file system, or …
const SHARE: u64 = 10;
/// … less than this many bytes is little.
const LITTLE: u64 = 1 << 30;
/// Less is next to nothing: a few segments.
const NOTHING: u64 = 64 << 20;
/// Clocks that differ by less are the same, µs.
const CLOCK: i64 = 60_000_000;

/// Room on the file system of a folder.
pub fn room(name: &'static str, what: &str, folder: &Path) -> Line {
    match nix::sys::statvfs::statvfs(folder) {
        Ok(s) => {
            // What these are called differs in width between systems.
            #[allow(clippy::useless_conversion)]
            let (free, all, block) = (u64::from(s.blocks_available()), u64::from(s.blocks()), u64::from(s.fragment_size()));
            room_line(name, what, free.saturating_mul(block), all.saturating_mul(block))
        }
        Err(e) => Line::warning(
            name,
            format!("how much room there is for {what} is not known: {}: {e}", folder.display()),
            "run check on the server's machine, as the server's user",
        ),
    }
}

fn room_line(name: &'static str, what: &str, free: u64, all: u64) -> Line {
    let text = format!("{} of {} are free for {what}", ByteSize(free), ByteSize(all));
    match free {
        ..NOTHING => Line::error(name, text, "make room: a full disk stops the server, or its archiving"),
        _ if free < LITTLE || free < all / SHARE => Line::warning(name, text, "make room, or let less be kept (forget, prune)"),
        _ => Line::ok(name, text),
    }
}

/// A folder or file that holds secrets: this user's, and closed to others.
pub fn private(name: &'static str, what: &str, path: &Path) -> Line {
    let shown = path.display();
    match path.metadata() {
        Ok(m) if m.mode() & 0o077 != 0 => Line::error(
            name,
            format!("{what} {shown} is open to other users (mode {:04o})", m.mode() & 0o7777),
            format!("chmod go-rwx {shown}; if others may have read it, see key rotate"),
        ),
        Ok(m) if m.uid() != nix::unistd::geteuid().as_raw() && !nix::unistd::geteuid().is_root() => {
            Line::error(name, format!("{what} {shown} belongs to user {}", m.uid()), "run pgcairn as the server's user, always")
        }
        Ok(_) => Line::ok(name, format!("{what} {shown} is closed to other users")),
        Err(e) => Line::error(name, format!("{what} {shown} can't be seen: {e}"), "run check as the user who runs the backups"),
    }
}

/// This host's clock beside the server's and that of whoever wrote the newest entry of the log.
pub fn clocks(here: Timestamp, server: Option<Timestamp>, newest_entry: Timestamp) -> Line {
    let apart = |other: Timestamp| here.0.saturating_sub(other.0);
    if let Some(server) = server.filter(|server| apart(*server).abs() > CLOCK) {
        return Line::warning(
            "clock",
            format!("this host's clock and the server's differ by {} s", apart(server).abs() / 1_000_000),
            "keep clocks in step (NTP): --target-time goes by the server's",
        );
    }
    if apart(newest_entry) < -CLOCK {
        return Line::warning(
            "clock",
            format!("the repository's newest entry was written at {}, which is in the future here", newest_entry.for_people()),
            "keep clocks in step (NTP): policies of retention go by them",
        );
    }
    Line::ok("clock", "clocks agree")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::State;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn room_is_measured_in_bytes_and_in_shares() {
        for (free, all, expected) in [
            (1 << 20, 1 << 40, State::Error),
            (512 << 20, 1 << 30, State::Warning),
            (20 << 30, 1 << 40, State::Warning),
            (200 << 30, 1 << 40, State::Ok),
            (0, 0, State::Error),
        ] {
            assert_eq!(room_line("x", "x", free, all).state, expected, "{free} of {all}");
        }
        assert!(room("x", "x", Path::new("/")).text.contains("are free"));
        assert_eq!(room("x", "x", Path::new("/nowhere")).state, State::Warning);
    }

    #[test]
    fn secrets_are_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let set = |mode| std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        set(0o700);
        assert_eq!(private("x", "x", folder.path()).state, State::Ok);
        set(0o750);
        assert!(private("x", "x", folder.path()).text.contains("mode 0750"));
        assert_eq!(private("x", "x", Path::new("/nowhere")).state, State::Error);
    }

    #[test]
    fn clocks_are_compared() {
        let minute = |m: i64| Timestamp(m * 60_000_000);
        assert_eq!(clocks(minute(9), Some(minute(10)), minute(3)).state, State::Ok);
        assert!(clocks(minute(9), Some(minute(12)), minute(3)).text.contains("180 s"));
        assert!(clocks(minute(9), None, minute(12)).text.contains("in the future"));
    }
}
