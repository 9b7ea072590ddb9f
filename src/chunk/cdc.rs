//! Chunks whose ends depend on the content, so that an insertion shifts them along instead of changing all that follow.

use fastcdc::v2020::{AVERAGE_MAX, AVERAGE_MIN, FastCDC, MAXIMUM_MAX, MAXIMUM_MIN, MINIMUM_MAX, MINIMUM_MIN};
use std::io::{self, ErrorKind, Read};

/// How long chunks are, in bytes. Policy: other sizes make the same files be stored anew, and nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CdcSizes {
    min: usize,
    average: usize,
    max: usize,
}

impl CdcSizes {
    /// 16, 64 and 256 KiB.
    pub const DEFAULT: CdcSizes = CdcSizes { min: 16 << 10, average: 64 << 10, max: 256 << 10 };

    /// `None` unless the three ascend, are even and lie in the ranges for which FastCDC is defined.
    pub fn new(min: usize, average: usize, max: usize) -> Option<Self> {
        let fine = (MINIMUM_MIN..=MINIMUM_MAX).contains(&min)
            && (AVERAGE_MIN..=AVERAGE_MAX).contains(&average)
            && (MAXIMUM_MIN..=MAXIMUM_MAX).contains(&max)
            && min <= average
            && average <= max
            && [min, average, max].iter().all(|size| size % 2 == 0);
        fine.then_some(CdcSizes { min, average, max })
    }

    /// The longest chunk.
    pub fn max(self) -> usize {
        self.max
    }
}

impl Default for CdcSizes {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Cuts a stream, holding four of its longest chunks in memory.
///
/// Lends each chunk instead of giving it away: a chunk is hashed first, and most are known and go no further.
pub struct Cdc<R: Read> {
    source: R,
    sizes: CdcSizes,
    buffer: Vec<u8>,
    /// What of the buffer is read and not yet given out.
    start: usize,
    end: usize,
    source_is_at_end: bool,
    offset: u64,
}

impl<R: Read> Cdc<R> {
    /// Cuts what `source` gives.
    pub fn new(source: R, sizes: CdcSizes) -> Self {
        Cdc { source, sizes, buffer: vec![0; sizes.max * 4], start: 0, end: 0, source_is_at_end: false, offset: 0 }
    }

    /// The next chunk and where it starts in the stream; `None` at its end. After an error of the source the same call
    /// may be made again; nothing is lost.
    pub fn next_chunk(&mut self) -> io::Result<Option<(u64, &[u8])>> {
        self.fill()?;
        let window = self.buffer.get(self.start..self.end).unwrap_or_default();
        let window = window.get(..self.sizes.max).unwrap_or(window);
        if window.is_empty() {
            return Ok(None);
        }
        let (_, len) = FastCDC::new(window, self.sizes.min, self.sizes.average, self.sizes.max).cut(0, window.len());
        // FastCDC never gives an empty chunk; if it did, this loop would never end.
        let len = if (1..=window.len()).contains(&len) { len } else { window.len() };
        let (start, offset) = (self.start, self.offset);
        self.start += len;
        self.offset += len as u64;
        Ok(self.buffer.get(start..start + len).map(|chunk| (offset, chunk)))
    }

    /// A cut depends on the bytes up to the longest chunk: those must be there, or the end of the stream.
    fn fill(&mut self) -> io::Result<()> {
        if self.end - self.start >= self.sizes.max || self.source_is_at_end {
            return Ok(());
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        while let Some(room) = self.buffer.get_mut(self.end..).filter(|room| !room.is_empty()) {
            match self.source.read(room) {
                Ok(0) => {
                    self.source_is_at_end = true;
                    break;
                }
                Ok(n) => self.end = self.end.saturating_add(n).min(self.buffer.len()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }

    fn cut(source: impl Read, sizes: CdcSizes) -> Vec<Vec<u8>> {
        let mut cdc = Cdc::new(source, sizes);
        let (mut all, mut end) = (Vec::new(), 0);
        while let Some((offset, chunk)) = cdc.next_chunk().unwrap() {
            assert_eq!(offset, end);
            end += chunk.len() as u64;
            all.push(chunk.to_vec());
        }
        assert!(cdc.next_chunk().unwrap().is_none());
        all
    }

    /// Gives a few bytes at a time, and is interrupted in between.
    struct Halting<'a>(&'a [u8], usize, bool);

    impl Read for Halting<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.2 = !self.2;
            if self.2 {
                return Err(ErrorKind::Interrupted.into());
            }
            let n = self.1.min(buffer.len());
            self.0.read(&mut buffer[..n])
        }
    }

    #[test]
    fn sizes_are_checked() {
        assert_eq!(CdcSizes::new(16 << 10, 64 << 10, 256 << 10), Some(CdcSizes::DEFAULT));
        for (min, average, max) in [(0, 0, 0), (62, 256, 1024), (64, 257, 1024), (512, 256, 1024), (64, 2048, 1024), (64, 256, 1 << 25)] {
            assert_eq!(CdcSizes::new(min, average, max), None, "{min} {average} {max}");
        }
    }

    #[test]
    fn an_insertion_leaves_most_chunks_as_they_were() {
        let old = noise(1, 8 << 20);
        let new = [&old[..3 << 20], b"inserted", &old[3 << 20..]].concat();
        let before: HashSet<_> = cut(&old[..], CdcSizes::DEFAULT).into_iter().collect();
        let after = cut(&new[..], CdcSizes::DEFAULT);
        let fresh = after.iter().filter(|chunk| !before.contains(*chunk)).count();
        assert!(after.len() > 60 && (1..=4).contains(&fresh), "{fresh} of {}", after.len());
    }

    #[test]
    fn cuts_stay_where_they_are_from_version_to_version() {
        // Recorded with fastcdc 5.0.0. Where this changes, every long file is stored anew once.
        let ends: Vec<usize> = cut(&noise(2, 1 << 20)[..], CdcSizes::DEFAULT).iter().map(Vec::len).collect();
        assert_eq!(ends, RECORDED);
    }

    const RECORDED: [usize; 16] =
        [76618, 22777, 100970, 74712, 39617, 84525, 27126, 44770, 31048, 88793, 32267, 106273, 73723, 90622, 126469, 28266];

    #[test]
    fn an_error_of_the_source_is_given_and_loses_nothing() {
        struct Once<'a>(&'a [u8], bool);
        impl Read for Once<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if self.0.len() < 1000 && !std::mem::replace(&mut self.1, true) {
                    return Err(ErrorKind::TimedOut.into());
                }
                let n = buffer.len().min(600);
                self.0.read(&mut buffer[..n])
            }
        }
        let bytes = noise(3, 5000);
        let mut cdc = Cdc::new(Once(&bytes, false), CdcSizes::new(64, 256, 1024).unwrap());
        let (mut read, mut errors) = (Vec::new(), 0);
        loop {
            match cdc.next_chunk() {
                Ok(Some((_, chunk))) => read.extend_from_slice(chunk),
                Ok(None) => break,
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::TimedOut);
                    errors += 1;
                }
            }
        }
        assert_eq!((read, errors), (bytes, 1));
    }

    proptest! {
        #[test]
        fn chunks_are_the_stream_however_it_is_read(seed: u64, len in 0usize..20_000, at_once in 1usize..3000) {
            let bytes = noise(seed, len);
            let sizes = CdcSizes::new(64, 256, 1024).unwrap();
            let chunks = cut(Halting(&bytes, at_once, false), sizes);
            prop_assert_eq!(chunks.concat(), &bytes[..]);
            let (last, others) = chunks.split_last().map_or((0, &[][..]), |(last, others)| (last.len(), others));
            prop_assert!(last <= 1024 && others.iter().all(|chunk| (64..=1024).contains(&chunk.len())));
            // The same cuts as of the whole slice at once.
            let whole: Vec<usize> = FastCDC::new(&bytes, 64, 256, 1024).map(|chunk| chunk.length).collect();
            prop_assert_eq!(chunks.iter().map(Vec::len).collect::<Vec<_>>(), whole);
        }
    }
}
