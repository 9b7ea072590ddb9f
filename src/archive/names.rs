//! Names of archived files as the store lists them: the server's name, or that and `.n` for an object that stands behind
//! void ones.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use crate::pg::wal::WalFileName;
use crate::store::ObjectName;

/// An object of the archive by its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ArchivedName {
    /// The server's name of the file.
    pub file: WalFileName,
    /// 0 for the first object of that name.
    pub variant: u32,
}

/// Reads the last part of an object's name; `None` if no file of the server is stored under such a name.
pub fn parse_listed(name: &ObjectName) -> Option<ArchivedName> {
    let last = name.last();
    if let Ok(file) = last.parse() {
        return Some(ArchivedName { file, variant: 0 });
    }
    let (file, number) = last.rsplit_once('.')?;
    let variant: u32 = number.parse().ok()?;
    let plain = variant > 0 && variant.to_string() == number;
    plain.then(|| file.parse().ok()).flatten().map(|file| ArchivedName { file, variant })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_are_told_from_the_servers_names() {
        let read = |last: &str| parse_listed(&ObjectName::new(format!("wal/ab/1/x/{last}")).unwrap());
        for file in
            ["000000010000000000000003", "000000010000000000000003.partial", "0000000A.history", "000000010000000000000016.00000028.backup"]
        {
            let found = |variant| Some(ArchivedName { file: file.parse().unwrap(), variant });
            assert_eq!(read(file), found(0));
            assert_eq!(read(&format!("{file}.1")), found(1));
            assert_eq!(read(&format!("{file}.42")), found(42));
            for bad in ["0", "01", "x", "1.1", "4294967296"] {
                assert_eq!(read(&format!("{file}.{bad}")), None, "{bad}");
            }
        }
        assert_eq!(read("RECOVERYXLOG"), None);
    }
}
