//! How a folder is mounted.
//!
//! An NFS client remembers by default that a name was absent. A writer would then go on as if nobody had appended to the
//! log, and `archive-get` would report a segment as absent that another host has just archived.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The mount point that holds `folder`, if it is NFS that remembers absent names. `mounts` is the text of `/proc/mounts`.
pub(super) fn remembers_absence(mounts: &[u8], folder: &Path) -> Option<PathBuf> {
    let mut holder: Option<(PathBuf, bool)> = None;
    for line in mounts.split(|b| *b == b'\n') {
        let mut fields = line.split(|b| *b == b' ');
        let (Some(_device), Some(point), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let point = PathBuf::from(OsString::from_vec(unescape(point)));
        let nearer = holder.as_ref().is_none_or(|(held, _)| point.components().count() >= held.components().count());
        // The trigger of an automount lies under what it mounts, and both are listed.
        if nearer && folder.starts_with(&point) && kind != b"autofs" {
            holder = Some((point, matches!(kind, b"nfs" | b"nfs4") && !forgets_absence(options)));
        }
    }
    holder.filter(|(_, remembers)| *remembers).map(|(point, _)| point)
}

/// `lookupcache` is not shown where it has its default, `all`.
fn forgets_absence(options: &[u8]) -> bool {
    options
        .split(|b| *b == b',')
        .filter_map(|option| option.strip_prefix(b"lookupcache="))
        .next_back()
        .is_some_and(|value| matches!(value, b"none" | b"pos" | b"positive"))
}

/// Blanks, tabs, line ends and backslashes are written as three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) = (first, tail) {
            out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = tail;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nfs_that_remembers_absence_is_found() {
        let mounts = b"/dev/sda / ext4 rw,relatime 0 0\n\
            h:/a /mnt/a nfs4 rw,vers=4.2,hard 0 0\n\
            h:/b /mnt/b nfs4 rw,lookupcache=pos,hard 0 0\n\
            h:/c /mnt/c nfs rw,lookupcache=none 0 0\n\
            h:/d /mnt/with\\040space nfs rw 0 0\n\
            /dev/sdb /mnt/a/disk xfs rw 0 0\n\
            systemd-1 /mnt/e autofs rw 0 0\n\
            h:/e /mnt/e nfs4 rw 0 0\n\
            h:/f /mnt/f nfs rw 0 0\n\
            tmpfs /mnt/f tmpfs rw 0 0\n\
            odd line\n";
        for (folder, point) in [
            ("/srv/repo", None),
            ("/mnt/a", Some("/mnt/a")),
            ("/mnt/a/repo", Some("/mnt/a")),
            ("/mnt/ab/repo", None),
            ("/mnt/b/repo", None),
            ("/mnt/c/repo", None),
            ("/mnt/with space/repo", Some("/mnt/with space")),
            ("/mnt/a/disk/repo", None),
            ("/mnt/e/repo", Some("/mnt/e")),
            ("/mnt/f/repo", None),
        ] {
            assert_eq!(remembers_absence(mounts, Path::new(folder)), point.map(PathBuf::from), "{folder}");
        }
        assert_eq!(remembers_absence(b"", Path::new("/")), None);
    }
}
