//! Reading the small files that a connection needs: passwords, services, certificates, keys.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroizing;

/// More than anybody's passwords, and than a system's certificates.
const LARGEST: u64 = 4 << 20;

/// A plain file's bytes, and what the system says of it. Opened without waiting: a fifo must not hang us before it is
/// seen to be one.
pub(in crate::pg) fn read(path: &Path) -> io::Result<(Zeroizing<Vec<u8>>, Metadata)> {
    let file = File::options().read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a plain file"));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    if file.take(LARGEST + 1).read_to_end(&mut bytes)? as u64 > LARGEST {
        return Err(io::Error::other(format!("it is larger than {LARGEST} bytes")));
    }
    Ok((bytes, meta))
}

/// Is the file plainly not there?
pub(in crate::pg) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
