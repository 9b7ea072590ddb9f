//! Ranges of packs that a backup of a cluster reads each time: nodes, names and attributes of its newest snapshot, tables of
//! packs. They are kept as they lie in the store, sealed, and opened and verified like what was read there.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `PGCNRNG\x01` |
//! | then, each | 16 | key: BLAKE3 of the object's name, a zero byte, the offset, cut |
//! | | 4 | length *n* of the range, little-endian |
//! | | 16 | BLAKE3 of key and range, cut |
//! | | *n* | the range |
//!
//! A file is replaced whole, at the end of a run, by what that run used: what nobody asks for any more falls out.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::host::files;
use crate::repo::pack::KeptRanges;

const MAGIC: &[u8; 8] = b"PGCNRNG\x01";
const HEAD: usize = 36;
/// The most that is kept, in bytes.
const MOST: u64 = 64 << 20;
/// The longest range that is kept.
const LONGEST: usize = 4 << 20;

type Key = [u8; 16];
/// In the file: where, and how long; was it asked for?
type There = HashMap<Key, (u64, u32, bool)>;

/// What is kept for one cluster.
pub struct RangeFile {
    path: PathBuf,
    file: Option<File>,
    ranges: Mutex<Ranges>,
}

#[derive(Default)]
struct Ranges {
    there: There,
    more: HashMap<Key, Vec<u8>>,
    bytes: u64,
}

impl RangeFile {
    /// What is kept in this file. One that is damaged, or isn't there, is empty.
    pub fn open(path: PathBuf) -> Self {
        let (file, there) = match index(&path) {
            Ok((file, there)) => (Some(file), there),
            Err(_) => (None, HashMap::new()),
        };
        RangeFile { path, file, ranges: Mutex::new(Ranges { there, ..Ranges::default() }) }
    }

    /// Keeps what was used, and only that. That it can't be kept costs requests and nothing else.
    pub fn finish(&self) {
        let ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let used = ranges.there.iter().filter(|(_, (_, _, used))| *used);
        if ranges.more.is_empty() && used.count() == ranges.there.len() {
            return;
        }
        let mut out = MAGIC.to_vec();
        for (key, (at, len, _)) in ranges.there.iter().filter(|(key, (_, _, used))| *used && !ranges.more.contains_key(*key)) {
            if let Some(bytes) = self.read(key, *at, *len) {
                put(&mut out, key, &bytes);
            }
        }
        for (key, bytes) in &ranges.more {
            put(&mut out, key, bytes);
        }
        if let Some(folder) = self.path.parent()
            && files::create_private_folder(folder, None).is_ok()
        {
            let _ = files::replace(&self.path, &out, None);
        }
    }

    fn read(&self, key: &Key, at: u64, len: u32) -> Option<Vec<u8>> {
        let mut bytes = vec![0; HEAD.checked_add(len as usize)?];
        self.file.as_ref()?.read_exact_at(&mut bytes, at).ok()?;
        let range = bytes.split_off(HEAD);
        (bytes == head(key, &range)).then_some(range)
    }
}

impl KeptRanges for RangeFile {
    fn get(&self, object: &str, offset: u64, len: u32) -> Option<Vec<u8>> {
        let key = key_of(object, offset);
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = ranges.more.get(&key) {
            return (bytes.len() == len as usize).then(|| bytes.clone());
        }
        let Ranges { there, bytes, .. } = &mut *ranges;
        let (at, _, used) = there.get_mut(&key).filter(|(_, kept, _)| *kept == len)?;
        // What there is no room for is read, and falls out.
        let sum = bytes.saturating_add(len.into());
        if !*used && sum <= MOST {
            (*used, *bytes) = (true, sum);
        }
        let at = *at;
        drop(ranges);
        self.read(&key, at, len)
    }

    fn put(&self, object: &str, offset: u64, bytes: &[u8]) {
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = ranges.bytes.saturating_add(bytes.len() as u64);
        if bytes.len() <= LONGEST && sum <= MOST {
            ranges.bytes = sum;
            ranges.more.insert(key_of(object, offset), bytes.to_vec());
        }
    }
}

fn key_of(object: &str, offset: u64) -> Key {
    let mut hash = blake3::Hasher::new();
    hash.update(object.as_bytes()).update(&[0]).update(&offset.to_le_bytes());
    cut(&hash)
}

fn cut(hash: &blake3::Hasher) -> Key {
    let mut out = [0; 16];
    hash.finalize_xof().fill(&mut out);
    out
}

fn head(key: &Key, range: &[u8]) -> Vec<u8> {
    let mut hash = blake3::Hasher::new();
    hash.update(key).update(range);
    [key.as_slice(), &(range.len() as u32).to_le_bytes(), &cut(&hash)].concat()
}

fn put(out: &mut Vec<u8>, key: &Key, range: &[u8]) {
    out.extend_from_slice(&head(key, range));
    out.extend_from_slice(range);
}

/// What is where in a file.
fn index(path: &Path) -> io::Result<(File, There)> {
    let damaged = || io::Error::from(io::ErrorKind::InvalidData);
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    if size > 2 * MOST {
        return Err(damaged());
    }
    let mut from = BufReader::new(file.try_clone()?);
    let mut magic = [0; 8];
    from.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(damaged());
    }
    let (mut at, mut there) = (MAGIC.len() as u64, HashMap::new());
    while at < size {
        let (mut key, mut len, mut sum) = ([0; 16], [0; 4], [0; 16]);
        from.read_exact(&mut key)?;
        from.read_exact(&mut len)?;
        from.read_exact(&mut sum)?;
        let len = u32::from_le_bytes(len);
        there.insert(key, (at, len, false));
        at = at.saturating_add(HEAD as u64).saturating_add(len.into());
        if at > size {
            return Err(damaged());
        }
        from.seek_relative(len.into()).or_else(|_| from.seek(SeekFrom::Start(at)).map(drop))?;
    }
    Ok((file, there))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn what_was_used_is_kept_and_nothing_else() {
        let folder = folder();
        let path = folder.path().join("new/ranges");
        let first = RangeFile::open(path.clone());
        assert_eq!(first.get("pack/a", 0, 3), None);
        first.put("pack/a", 0, b"abc");
        first.put("pack/a", 7, &[7; 5000]);
        first.put("pack/b", 0, b"");
        assert_eq!(first.get("pack/a", 0, 3).as_deref(), Some(&b"abc"[..]));
        first.finish();
        let second = RangeFile::open(path.clone());
        assert_eq!(second.get("pack/a", 7, 5000), Some(vec![7; 5000]));
        assert_eq!(second.get("pack/a", 7, 4999), None, "another length is another range");
        assert_eq!(second.get("pack/b", 0, 0), Some(Vec::new()));
        second.put("pack/c", 1, b"c");
        second.finish();
        let third = RangeFile::open(path);
        assert_eq!(third.get("pack/a", 0, 3), None, "nobody asked for it");
        assert_eq!(third.get("pack/a", 7, 5000), Some(vec![7; 5000]));
        assert_eq!(third.get("pack/c", 1, 1).as_deref(), Some(&b"c"[..]));
    }

    #[test]
    fn what_is_damaged_is_not_there() {
        let folder = folder();
        let path = folder.path().join("ranges");
        let file = RangeFile::open(path.clone());
        file.put("pack/a", 0, &[1; 100]);
        file.finish();
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, bad).unwrap();
            assert_eq!(RangeFile::open(path.clone()).get("pack/a", 0, 100), None, "{at}");
        }
        for len in 0..good.len() {
            std::fs::write(&path, &good[..len]).unwrap();
            assert_eq!(RangeFile::open(path.clone()).get("pack/a", 0, 100), None, "{len}");
        }
        std::fs::write(&path, good).unwrap();
        assert_eq!(RangeFile::open(path).get("pack/a", 0, 100), Some(vec![1; 100]));
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        let folder = folder();
        let file = RangeFile::open(folder.path().join("ranges"));
        file.put("pack/a", 0, &vec![0; LONGEST + 1]);
        assert_eq!(file.get("pack/a", 0, LONGEST as u32 + 1), None);
        for n in 0..20 {
            file.put("pack/a", n, &vec![0; LONGEST]);
        }
        assert!(file.ranges.lock().unwrap().bytes <= MOST);
        file.finish();
        let size = || std::fs::metadata(folder.path().join("ranges")).unwrap().len();
        assert!(size() <= MOST + 10_000);
        // New ones first, and then all the old ones are used.
        let file = RangeFile::open(folder.path().join("ranges"));
        (0..10).for_each(|n| file.put("pack/b", n, &vec![1; LONGEST]));
        let had = (0..20).filter(|n| file.get("pack/a", *n, LONGEST as u32).is_some()).count();
        file.finish();
        assert!(had >= 15 && size() <= MOST + 10_000, "{had} {}", size());
    }
}
