//! A file of values.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | magic `pgcairnK` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | zero |
//! | 16 | … | values, one behind the other |
//! | | 44 each | index, ascending by key: key 16, offset u64, length u32, checksum of key and value 16 |
//! | −40 | 8 | number of values |
//! | −32 | 32 | checksum of what the file is about, header, index and number |
//!
//! Checksums are keyed BLAKE3, by a key of this host. The index is read when a file is opened (44 bytes for 8 MiB of a
//! relation, or for a part of a folder), values when they are asked for.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{About, KeptKey, SUFFIX, What};
use crate::host::files::create_private_folder;

const HEADER: [u8; 16] = *b"pgcairnK\x01\0\0\0\0\0\0\0";
const KEY: usize = 16;
const TAG: usize = 16;
const ROW: usize = KEY + 8 + 4 + TAG;
const FOOTER: usize = 8 + 32;
/// The longest value: a chunk of names can be no longer than a frame's plain form.
const MAX_VALUE: usize = 16 << 20;
/// The most values: 64 TiB of relations.
const MAX_VALUES: u64 = 1 << 23;
/// Room on the file system is looked at whenever so much has been written, …
const LOOK_EVERY: u64 = 32 << 20;
/// … and no more is written if less than this would be left: the server may live there.
const ROOM: u64 = 512 << 20;
/// What a file is called, behind its name, until it is complete.
pub(super) const UNFINISHED: &str = ".kept.new";

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    key: [u8; KEY],
    offset: u64,
    len: u32,
    tag: [u8; TAG],
}

impl Row {
    fn encode(&self) -> [u8; ROW] {
        let mut out = [0; ROW];
        let parts: [&[u8]; 4] = [&self.key, &self.offset.to_le_bytes(), &self.len.to_le_bytes(), &self.tag];
        out.iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, from)| *to = *from);
        out
    }

    fn decode(bytes: &[u8; ROW]) -> Option<Self> {
        let (key, rest) = bytes.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (offset, len) = (u64::from_le_bytes(*offset), u32::from_le_bytes(*len));
        Some(Row { key: *key, offset, len, tag: *rest.first_chunk()? })
    }
}

/// The key of a value.
fn key_of(what: What, name: &[u8], number: u32) -> [u8; KEY] {
    let mut hash = blake3::Hasher::new();
    hash.update(&[what as u8]).update(&number.to_le_bytes()).update(name);
    first(hash.finalize())
}

fn first<const N: usize>(hash: blake3::Hash) -> [u8; N] {
    hash.as_bytes().first_chunk().copied().unwrap_or([0; N])
}

fn tag_of(keyed: &KeptKey, key: &[u8; KEY], value: &[u8]) -> [u8; TAG] {
    let mut hash = blake3::Hasher::new_keyed(&keyed.0);
    first(hash.update(b"value").update(key).update(value).finalize())
}

/// Over everything but the values, which the index names by their checksums.
fn sum_of(keyed: &KeptKey, about: &About<'_>, index: &[u8], count: u64) -> [u8; 32] {
    let mut hash = blake3::Hasher::new_keyed(&keyed.0);
    hash.update(b"index").update(&HEADER).update(&about.repository.0);
    for text in [about.cluster, about.snapshot] {
        hash.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    hash.update(&about.digest.0).update(&about.page_size.to_le_bytes()).update(&count.to_le_bytes());
    *hash.update(index).finalize().as_bytes()
}

fn path_of(folder: &Path, snapshot: &str) -> PathBuf {
    folder.join(format!("{snapshot}{SUFFIX}"))
}

/// What came of looking for a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// It is as it was written.
    Found(Vec<u8>),
    /// There is none.
    None,
    /// It is not what was written.
    Damaged,
}

impl Lookup {
    /// The value, if it is there and as it was written.
    pub fn found(self) -> Option<Vec<u8>> {
        match self {
            Lookup::Found(value) => Some(value),
            Lookup::None | Lookup::Damaged => None,
        }
    }
}

/// An opened file: its index was verified.
pub struct KeptFile {
    file: File,
    keyed: KeptKey,
    rows: Vec<Row>,
    damaged: AtomicU64,
}

impl KeptFile {
    /// Opens what `folder` has about a snapshot. `None` if there is nothing.
    ///
    /// # Errors
    /// `InvalidData` if it is damaged, of another snapshot, or of another host; else what kept it from being read.
    pub fn open(folder: &Path, secret: &[u8; 32], about: &About<'_>) -> io::Result<Option<Self>> {
        let file = match File::open(path_of(folder, about.snapshot)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        Self::read(file, KeptKey::derive(secret), about).map(Some)
    }

    fn read(file: File, keyed: KeptKey, about: &About<'_>) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let mut header = [0; HEADER.len()];
        let mut footer = [0; FOOTER];
        let footer_at =
            length.checked_sub(FOOTER as u64).filter(|at| *at >= HEADER.len() as u64).ok_or_else(|| invalid("it is too short"))?;
        file.read_exact_at(&mut header, 0)?;
        file.read_exact_at(&mut footer, footer_at)?;
        let (count, sum) = footer.split_first_chunk::<8>().ok_or_else(|| invalid("it is too short"))?;
        let count = u64::from_le_bytes(*count);
        let index_len = count.checked_mul(ROW as u64).filter(|_| count <= MAX_VALUES).ok_or_else(|| invalid("it has too many values"))?;
        let index_at = footer_at.checked_sub(index_len).filter(|at| *at >= HEADER.len() as u64);
        let index_at = index_at.ok_or_else(|| invalid("its length does not fit its index"))?;
        let mut index = vec![0; index_len as usize];
        file.read_exact_at(&mut index, index_at)?;
        if header != HEADER || sum != sum_of(&keyed, about, &index, count) {
            return Err(invalid("it is damaged, of another snapshot, or another host's"));
        }
        let rows: Vec<Row> = index.as_chunks::<ROW>().0.iter().filter_map(Row::decode).collect();
        let inside = |row: &Row| row.offset.checked_add(row.len.into()).is_some_and(|end| end <= index_at) && row.len as usize <= MAX_VALUE;
        if !rows.is_sorted_by(|a, b| a.key < b.key) || !rows.iter().all(inside) {
            return Err(invalid("its index is out of order"));
        }
        Ok(KeptFile { file, keyed, rows, damaged: AtomicU64::new(0) })
    }

    /// The value of this name and number.
    pub fn get(&self, what: What, name: &[u8], number: u32) -> Lookup {
        let key = key_of(what, name, number);
        let row = self.rows.binary_search_by(|row| row.key.cmp(&key)).ok().and_then(|at| self.rows.get(at));
        let Some(row) = row else { return Lookup::None };
        let mut value = vec![0; row.len as usize];
        let read = self.file.read_exact_at(&mut value, row.offset);
        if read.is_err() || tag_of(&self.keyed, &key, &value) != row.tag {
            self.damaged.fetch_add(1, Ordering::Relaxed);
            return Lookup::Damaged;
        }
        Lookup::Found(value)
    }

    /// How many values were asked for and damaged.
    pub fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }
}

/// Writes a file; many threads may put values.
pub struct KeptWriter {
    folder: PathBuf,
    temporary: PathBuf,
    keyed: KeptKey,
    inner: Mutex<io::Result<Values>>,
}

struct Values {
    out: BufWriter<File>,
    at: u64,
    rows: Vec<Row>,
}

impl KeptWriter {
    /// Begins a file in `folder`, which is made, under a name of its own.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(folder: &Path, secret: &[u8; 32]) -> io::Result<Self> {
        create_private_folder(folder, None)?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let temporary = folder.join(format!("{}{UNFINISHED}", crate::units::ids::hex(&random)));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let mut values = Values { out: BufWriter::with_capacity(1 << 18, file), at: HEADER.len() as u64, rows: Vec::new() };
        // Held until the COMMIT is there, or the process is gone: others don't clear it away.
        values.out.get_ref().try_lock()?;
        let begun = values.out.write_all(&HEADER).map(|()| values);
        Ok(KeptWriter { folder: folder.to_owned(), temporary, keyed: KeptKey::derive(secret), inner: Mutex::new(begun) })
    }

    /// Keeps a value. What goes wrong is told at the end: it costs the file, not the backup.
    pub fn put(&self, what: What, name: &[u8], number: u32, value: &[u8]) {
        let key = key_of(what, name, number);
        let tag = tag_of(&self.keyed, &key, value);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(values) = inner.as_mut() else { return };
        let put = if value.len() > MAX_VALUE || values.rows.len() as u64 >= MAX_VALUES {
            Err(invalid("there is more to be kept than a file may hold"))
        } else {
            room(&self.folder, values.at, value.len()).and_then(|()| values.out.write_all(value))
        };
        match put {
            Ok(()) => {
                values.rows.push(Row { key, offset: values.at, len: value.len() as u32, tag });
                values.at = values.at.saturating_add(value.len() as u64);
            }
            Err(e) => *inner = Err(e),
        }
    }

    /// Completes the file, durable, under the name of the snapshot that it is about. As long as what is returned lives,
    /// [`super::remove_others`] leaves the file alone.
    ///
    /// # Errors
    /// Those of the file system, those of earlier values included. Then there is no file.
    pub fn finish(self, about: &About<'_>) -> io::Result<File> {
        let inner = std::mem::replace(&mut *self.inner.lock().unwrap_or_else(PoisonError::into_inner), Err(io::ErrorKind::Other.into()));
        let Values { mut out, mut rows, .. } = inner?;
        rows.sort_unstable();
        // A chunk of names that several parts have lies there as often: the same bytes.
        rows.dedup_by_key(|row| row.key);
        let index: Vec<u8> = rows.iter().flat_map(Row::encode).collect();
        let count = rows.len() as u64;
        out.write_all(&index)?;
        out.write_all(&count.to_le_bytes())?;
        out.write_all(&sum_of(&self.keyed, about, &index, count))?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        std::fs::rename(&self.temporary, path_of(&self.folder, about.snapshot))?;
        File::open(&self.folder)?.sync_all()?;
        Ok(file)
    }
}

impl Drop for KeptWriter {
    fn drop(&mut self) {
        // Completed, it has another name.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// Now and then: is there room for more?
fn room(folder: &Path, at: u64, more: usize) -> io::Result<()> {
    if at / LOOK_EVERY == at.saturating_add(more as u64) / LOOK_EVERY {
        return Ok(());
    }
    let s = nix::sys::statvfs::statvfs(folder)?;
    // What these are called differs in width between systems.
    #[allow(clippy::useless_conversion)]
    let free = u64::from(s.blocks_available()).saturating_mul(u64::from(s.fragment_size()));
    if free < ROOM { Err(io::Error::other("its file system is almost full")) } else { Ok(()) }
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

/// Arbitrary bytes as a file, and as the values and index of one whose checksums fit (`crate::fuzzing`).
#[cfg(any(test, feature = "fuzzing"))]
pub fn probe(data: &[u8]) {
    let about = About {
        repository: crate::units::RepositoryId([1; 16]),
        cluster: "c",
        snapshot: "s",
        digest: crate::units::Digest16([2; 16]),
        page_size: 8192,
    };
    let rows = data.len() / ROW;
    let index = data.get(data.len() - rows * ROW..).unwrap_or_default();
    let mut fitting = HEADER.to_vec();
    fitting.extend_from_slice(data);
    fitting.extend_from_slice(&(rows as u64).to_le_bytes());
    fitting.extend_from_slice(&sum_of(&KeptKey::derive(&[3; 32]), &about, index, rows as u64));
    for bytes in [data, &fitting] {
        let Ok(memory) = nix::sys::memfd::memfd_create(c"kept", nix::sys::memfd::MFdFlags::empty()) else { return };
        let mut file = File::from(memory);
        if file.write_all(bytes).is_err() {
            return;
        }
        if let Ok(kept) = KeptFile::read(file, KeptKey::derive(&[3; 32]), &about) {
            let _ = (kept.get(What::Leaf, b"base/1/1", 0), kept.damaged());
            for row in &kept.rows {
                let mut value = vec![0; row.len as usize];
                let _ = kept.file.read_exact_at(&mut value, row.offset);
            }
        }
    }
}
