//! Small files of the cache: replaced whole, read with a bound, and never missed.

use std::path::Path;

use super::files;

/// The longest that is read.
const LIMIT: usize = 256 << 20;

/// The bytes, if they are there.
pub fn read(path: &Path) -> Option<Vec<u8>> {
    files::read_bounded(path, LIMIT).ok().flatten().map(|bytes| bytes.to_vec())
}

/// Keeps the bytes, if that is possible.
pub fn write(path: &Path, bytes: &[u8]) {
    let Some(folder) = path.parent() else { return };
    // A cache that can't be written is done without.
    if files::create_private_folder(folder, None).is_ok() {
        let _ = files::replace(path, bytes, None);
    }
}
