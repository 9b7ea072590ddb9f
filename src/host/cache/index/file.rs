//! One index file.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | magic `pgcairnX` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | zero |
//! | 16 | 64 each | rows, ascending, none twice |
//! | | 16 each | ids of the packs that are covered, ascending |
//! | | 256 × 8 | fan-out: rows whose id starts with this byte or a lower one |
//! | −48 | 8 | number of rows |
//! | −40 | 8 | number of packs |
//! | −32 | 32 | BLAKE3 of all before |

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::SUFFIX;
use super::row::{ROW_LEN, Row};
use crate::units::{ChunkId, PackId, ids::hex};

const MAGIC: &[u8; 8] = b"pgcairnX";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 16;
const PACK_LEN: usize = 16;
const FAN_OUT_LEN: usize = 256 * 8;
const COUNTS_LEN: usize = 16;
const HASH_LEN: usize = 32;
/// What a file without rows and packs has.
const FIXED_LEN: usize = HEADER_LEN + FAN_OUT_LEN + COUNTS_LEN + HASH_LEN;

fn header() -> [u8; HEADER_LEN] {
    let mut out = [0; HEADER_LEN];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out
}

/// The index files of a folder, oldest first.
pub(super) fn list(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| number_of(p).is_some()).collect();
    paths.sort();
    paths
}

/// The number in a file's name; `None` if it is no index file.
fn number_of(path: &Path) -> Option<u64> {
    let stem = path.file_name().and_then(OsStr::to_str)?.strip_suffix(SUFFIX)?;
    let (number, random) = stem.split_once('-')?;
    let fine = number.len() == 16 && random.len() == 16 && random.bytes().all(|b| b.is_ascii_hexdigit());
    fine.then(|| u64::from_str_radix(number, 16).ok()).flatten()
}

/// Writes a file from rows and packs that come in order, each once; `None` if there are neither.
pub(super) fn write(folder: &Path, rows: impl Iterator<Item = Row>, packs: impl Iterator<Item = PackId>) -> io::Result<Option<PathBuf>> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let newest = list(folder).iter().filter_map(|p| number_of(p)).max().unwrap_or(0);
    let path = folder.join(format!("{:016x}-{}{SUFFIX}", newest.saturating_add(1), hex(&random)));
    let temporary = folder.join(format!("{}.new", hex(&random)));
    let result = write_parts(&temporary, rows, packs).and_then(|filled| {
        if filled {
            std::fs::rename(&temporary, &path)?;
            File::open(folder)?.sync_all()?;
        } else {
            std::fs::remove_file(&temporary)?;
        }
        Ok(filled.then_some(path))
    });
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

/// Was anything written?
fn write_parts(path: &Path, rows: impl Iterator<Item = Row>, packs: impl Iterator<Item = PackId>) -> io::Result<bool> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut out = Hashed { file: BufWriter::with_capacity(1 << 18, file), hash: blake3::Hasher::new() };
    out.put(&header())?;
    let mut starting_with = [0u64; 256];
    let mut last = None;
    for row in rows {
        debug_assert!(last.is_none_or(|last| last < row), "rows come in order");
        last = Some(row);
        if let Some(count) = starting_with.get_mut(usize::from(row.id.0[0])) {
            *count += 1;
        }
        out.put(&row.encode())?;
    }
    let mut pack_count = 0u64;
    for pack in packs {
        pack_count += 1;
        out.put(&pack.0)?;
    }
    let mut sum = 0;
    for count in starting_with {
        sum += count;
        out.put(&sum.to_le_bytes())?;
    }
    out.put(&sum.to_le_bytes())?;
    out.put(&pack_count.to_le_bytes())?;
    let hash = out.hash.finalize();
    out.file.write_all(hash.as_bytes())?;
    out.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(sum > 0 || pack_count > 0)
}

struct Hashed {
    file: BufWriter<File>,
    hash: blake3::Hasher,
}

impl Hashed {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.file.write_all(bytes)
    }
}

/// An opened, verified, mapped file.
#[derive(Debug)]
pub(super) struct IndexFile {
    path: PathBuf,
    map: Mmap,
    rows: usize,
    packs: usize,
}

impl IndexFile {
    /// `InvalidData` if it isn't what was written.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let (rows, packs) = verify(&mut file)?;
        let map = map_own_file(&file)?;
        let index = IndexFile { path: path.to_path_buf(), map, rows, packs };
        // What was verified is what is mapped.
        if index.map.len() != file_len(rows, packs).ok_or_else(|| invalid("its counts are too large"))? {
            return Err(invalid("its length changed while it was opened"));
        }
        Ok(index)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many rows.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    fn row_bytes(&self) -> &[[u8; ROW_LEN]] {
        let bytes = self.map.get(HEADER_LEN..HEADER_LEN + self.rows * ROW_LEN).unwrap_or_default();
        bytes.as_chunks().0
    }

    pub(super) fn packs(&self) -> impl Iterator<Item = PackId> + '_ {
        let start = HEADER_LEN + self.rows * ROW_LEN;
        let bytes = self.map.get(start..start + self.packs * PACK_LEN).unwrap_or_default();
        bytes.as_chunks::<PACK_LEN>().0.iter().map(|id| PackId(*id))
    }

    /// All rows, in order; damaged ones are left out.
    pub(super) fn iter(&self) -> impl Iterator<Item = Row> + '_ {
        self.row_bytes().iter().filter_map(Row::decode)
    }

    /// Gives the rows of `id` to `take`; returns how many were damaged.
    pub(super) fn lookup(&self, id: &ChunkId, mut take: impl FnMut(Row)) -> usize {
        let first = usize::from(id.0[0]);
        let from = first.checked_sub(1).map_or(Some(0), |before| self.fan_out(before));
        let bucket = match (from, self.fan_out(first)) {
            (Some(from), Some(to)) => self.row_bytes().get(from..to).unwrap_or_default(),
            _ => &[],
        };
        let start = bucket.partition_point(|row| row[..32] < id.0[..]);
        let mut damaged = 0;
        for bytes in bucket.iter().skip(start).take_while(|row| row[..32] == id.0[..]) {
            match Row::decode(bytes) {
                Some(row) => take(row),
                None => damaged += 1,
            }
        }
        damaged
    }

    /// Rows whose id starts with `byte` or a lower one.
    fn fan_out(&self, byte: usize) -> Option<usize> {
        let at = HEADER_LEN + self.rows * ROW_LEN + self.packs * PACK_LEN + byte * 8;
        let bytes = self.map.get(at..at + 8)?.first_chunk::<8>()?;
        usize::try_from(u64::from_le_bytes(*bytes)).ok()
    }
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

/// The length of a file with so many rows and packs.
fn file_len(rows: usize, packs: usize) -> Option<usize> {
    rows.checked_mul(ROW_LEN)?.checked_add(packs.checked_mul(PACK_LEN)?)?.checked_add(FIXED_LEN)
}

/// Reads a file whole and verifies length, header and checksum; returns its counts of rows and packs.
fn verify(file: &mut File) -> io::Result<(usize, usize)> {
    let length = file.metadata()?.len();
    let body = length.checked_sub(HASH_LEN as u64).filter(|_| length >= FIXED_LEN as u64).ok_or_else(|| invalid("it is too short"))?;
    let mut hash = blake3::Hasher::new();
    hash.update_reader(file.take(body))?;
    let mut expected = [0; HASH_LEN];
    file.read_exact(&mut expected)?;
    if hash.finalize() != blake3::Hash::from_bytes(expected) {
        return Err(invalid("its checksum does not match"));
    }
    file.rewind()?;
    let mut start = [0; HEADER_LEN];
    file.read_exact(&mut start)?;
    if start != header() {
        return Err(invalid("it has another format"));
    }
    file.seek(io::SeekFrom::End(-((COUNTS_LEN + HASH_LEN) as i64)))?;
    let mut count = || -> io::Result<usize> {
        let mut bytes = [0; 8];
        file.read_exact(&mut bytes)?;
        usize::try_from(u64::from_le_bytes(bytes)).map_err(|_| invalid("its counts are too large"))
    };
    let (rows, packs) = (count()?, count()?);
    if file_len(rows, packs).map(|expected| expected as u64) != Some(length) {
        return Err(invalid("its length does not fit its counts"));
    }
    Ok((rows, packs))
}

/// Maps an index file.
#[allow(unsafe_code)]
fn map_own_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: a mapping is sound as long as nobody changes or shortens the file behind it. Index files are ours alone:
    // their folder is 0700 and this user's, and `write` makes each under a temporary name, syncs it, and gives it its
    // name when it is complete; no code opens a named one for writing, merging and discarding only unlink, which leaves
    // the mapped bytes as they are. Length and checksum were verified through this same descriptor. Whoever edits the
    // files of a running process with this user's rights could as well edit its memory; and the bytes are read as plain
    // integers only, bounds-checked, each row against its own checksum.
    unsafe { Mmap::map(file) }
}

/// Arbitrary bytes as an index file, in memory; its checksum is made to fit (`crate::fuzzing`).
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn probe(data: &[u8]) {
    use std::os::fd::AsRawFd;
    let Ok(memory) = nix::sys::memfd::memfd_create(c"index", nix::sys::memfd::MFdFlags::empty()) else { return };
    let mut file = File::from(memory);
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let counted = |rows: usize, packs: usize| {
        let mut bytes = header().to_vec();
        bytes.extend_from_slice(data);
        bytes.resize(file_len(rows, packs).unwrap_or(FIXED_LEN) - COUNTS_LEN - HASH_LEN, 0);
        bytes.extend_from_slice(&(rows as u64).to_le_bytes());
        bytes.extend_from_slice(&(packs as u64).to_le_bytes());
        bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
        bytes
    };
    for bytes in [data.to_vec(), counted(data.len() / ROW_LEN, data.len() % 4)] {
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&bytes));
        if written.is_err() {
            return;
        }
        if let Ok(index) = IndexFile::open(&path) {
            let _ = (index.packs().count(), index.rows());
            for row in index.iter().take(100).collect::<Vec<_>>() {
                let _ = index.lookup(&row.id, drop);
            }
            for byte in [0, 1, 0x7f, 0xff] {
                let _ = index.lookup(&ChunkId([byte; 32]), drop);
            }
        }
    }
}
