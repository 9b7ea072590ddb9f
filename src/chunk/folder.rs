//! Small files of one folder, joined into few chunks.
//!
//! | offset | length | content |
//! |---|---|---|
//! | 0 | 16 | BLAKE3, keyed by the host's secret, of all that follows: its first 16 bytes |
//! | 16 | … | files, one behind the other |
//!
//! A chunk's id confirms its content to whoever can compute ids, and many hosts of a domain can. A configuration file
//! with a short password would be found by trying. The first bytes are as good as random to all but this host, so that the
//! id confirms nothing; and the same files give the same chunk on the same host, so that they are still stored once.

use crate::units::{Class, Explain};
use zeroize::Zeroizing;

/// Files below this length, and no forks of relations, are joined. Policy.
pub const SMALL_FILE: u64 = 64 << 10;
/// The longest chunk, in bytes.
pub const MAX_CHUNK: usize = 1 << 20;
/// What a chunk begins with, in bytes.
pub const LEAD: usize = 16;

/// Where a file lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FilePlace {
    /// Which of the folder's chunks, counted from 0.
    pub chunk: u32,
    /// Where it starts, from the chunk's start: [`LEAD`] or more.
    pub offset: u32,
    /// How long it is.
    pub len: u32,
}

impl FilePlace {
    /// The file's bytes in the plain form of its chunk; `None` if they are not there.
    pub fn of(self, chunk: &[u8]) -> Option<&[u8]> {
        let start = self.offset as usize;
        (start >= LEAD).then(|| chunk.get(start..start.checked_add(self.len as usize)?)).flatten()
    }
}

/// A file that doesn't fit into a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a file of {len} bytes is too long to lie with others in a chunk")]
pub struct TooLong {
    /// Its length.
    pub len: usize,
}

impl Explain for TooLong {
    fn class(&self) -> Class {
        Class::Failed
    }
}

/// Joins the files of one folder. They should come in the order of their names, so that the same files give the same
/// chunks.
pub struct FolderChunks {
    secret: Zeroizing<[u8; 32]>,
    /// The chunk that grows: empty, or its lead (still zeros) and files.
    growing: Vec<u8>,
    finished: u32,
}

impl FolderChunks {
    /// For a folder, with the host's secret.
    pub fn new(secret: &[u8; 32]) -> Self {
        FolderChunks { secret: Zeroizing::new(*secret), growing: Vec::new(), finished: 0 }
    }

    /// Takes a file: where it lies (an empty one nowhere), and the chunk before, if that has no room for it.
    pub fn add(&mut self, file: &[u8]) -> Result<(Option<FilePlace>, Option<Vec<u8>>), TooLong> {
        if file.len() > MAX_CHUNK - LEAD {
            return Err(TooLong { len: file.len() });
        }
        if file.is_empty() {
            return Ok((None, None));
        }
        let full = if self.growing.len() + file.len() > MAX_CHUNK { self.close() } else { None };
        if self.growing.is_empty() {
            self.growing.resize(LEAD, 0);
        }
        let place = FilePlace { chunk: self.finished, offset: self.growing.len() as u32, len: file.len() as u32 };
        self.growing.extend_from_slice(file);
        Ok((Some(place), full))
    }

    /// The last chunk, if there is one.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        self.close()
    }

    fn close(&mut self) -> Option<Vec<u8>> {
        let mut chunk = std::mem::take(&mut self.growing);
        let (lead, files) = chunk.split_first_chunk_mut::<LEAD>()?;
        let hash = blake3::keyed_hash(&self.secret, files);
        lead.copy_from_slice(hash.as_bytes().first_chunk::<LEAD>()?);
        self.finished += 1;
        Some(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn join(secret: u8, files: &[Vec<u8>]) -> (Vec<Option<FilePlace>>, Vec<Vec<u8>>) {
        let mut folder = FolderChunks::new(&[secret; 32]);
        let (mut places, mut chunks) = (Vec::new(), Vec::new());
        for file in files {
            let (place, full) = folder.add(file).unwrap();
            places.push(place);
            chunks.extend(full);
        }
        chunks.extend(folder.finish());
        (places, chunks)
    }

    #[test]
    fn a_lead_is_the_keyed_hash_of_the_files() {
        let (places, chunks) = join(7, &[b"one".to_vec(), vec![], b"two".to_vec()]);
        assert_eq!(places, [Some(FilePlace { chunk: 0, offset: 16, len: 3 }), None, Some(FilePlace { chunk: 0, offset: 19, len: 3 })]);
        let expected = blake3::keyed_hash(&[7; 32], b"onetwo");
        assert_eq!(chunks, [[&expected.as_bytes()[..16], b"onetwo"].concat()]);
    }

    #[test]
    fn chunks_are_full_to_the_last_byte_and_no_further() {
        let room = MAX_CHUNK - LEAD;
        let (places, chunks) = join(1, &[vec![1; room], vec![2]]);
        assert_eq!((places[0].unwrap().chunk, places[1].unwrap().chunk), (0, 1));
        assert_eq!(chunks.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_CHUNK, LEAD + 1]);
        assert_eq!(join(1, &[vec![1; room - 1], vec![2]]).1.len(), 1);
        assert_eq!(FolderChunks::new(&[0; 32]).add(&vec![0; room + 1]), Err(TooLong { len: room + 1 }));
        assert_eq!(join(1, &[]).1.len() + join(1, &[vec![]]).1.len(), 0);
    }

    #[test]
    fn places_outside_of_a_chunk_give_nothing() {
        let chunk = vec![0; 100];
        for (offset, len) in [(0, 1), (15, 1), (16, 85), (100, 1), (101, 0), (u32::MAX, u32::MAX)] {
            assert_eq!(FilePlace { chunk: 0, offset, len }.of(&chunk), None, "{offset} {len}");
        }
        assert_eq!(FilePlace { chunk: 0, offset: 16, len: 84 }.of(&chunk).map(<[u8]>::len), Some(84));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn every_file_is_found_again(shape in prop::collection::vec((any::<u8>(), 0usize..SMALL_FILE as usize), 0..60)) {
            let files: Vec<Vec<u8>> = shape.into_iter().map(|(byte, len)| vec![byte; len]).collect();
            let (places, chunks) = join(1, &files);
            prop_assert!(chunks.iter().all(|chunk| (LEAD + 1..=MAX_CHUNK).contains(&chunk.len())));
            for (file, place) in files.iter().zip(&places) {
                let found = place.map_or(Some(&[][..]), |place| place.of(&chunks[place.chunk as usize]));
                prop_assert_eq!(found, Some(&file[..]));
            }
            // The same on the same host, another chunk on another.
            prop_assert_eq!(&join(1, &files).1, &chunks);
            prop_assert!(join(2, &files).1.iter().zip(&chunks).all(|(a, b)| a[..LEAD] != b[..LEAD] && a[LEAD..] == b[LEAD..]));
        }
    }
}
