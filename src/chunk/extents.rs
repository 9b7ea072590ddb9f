//! Extents: the fixed pieces of a relation's fork.

/// The length of an extent in bytes, 32 pages of 8 KiB; a whole number of pages of every size that PostgreSQL can have.
/// The last of a file may be shorter.
pub const EXTENT: u32 = 256 << 10;

/// A piece of a segment file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Its number from the file's start.
    pub index: u64,
    /// Where it starts, in bytes.
    pub offset: u64,
    /// How long it is: 1 to [`EXTENT`] bytes.
    pub len: u32,
}

/// The extents of a file of `file_len` bytes, in order. An empty file has none.
pub fn extents(file_len: u64) -> impl ExactSizeIterator<Item = Extent> {
    let count = usize::try_from(file_len.div_ceil(u64::from(EXTENT))).unwrap_or(usize::MAX);
    (0..count).map(move |index| {
        let index = index as u64;
        let offset = index * u64::from(EXTENT);
        Extent { index, offset, len: file_len.saturating_sub(offset).min(u64::from(EXTENT)) as u32 }
    })
}

/// Only zeros? Such an extent is a flag in the manifest and no chunk. An empty slice is zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks.iter().all(|block| block.iter().fold(0, |all, byte| all | byte) == 0) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn files_are_cut_at_multiples() {
        let e = u64::from(EXTENT);
        for (len, lens) in
            [(0, &[][..]), (1, &[1]), (e - 1, &[EXTENT - 1]), (e, &[EXTENT]), (e + 1, &[EXTENT, 1]), (2 * e, &[EXTENT, EXTENT])]
        {
            assert!(extents(len).map(|x| x.len).eq(lens.iter().copied()), "{len}");
        }
        assert_eq!(extents(1 << 30).len(), 4096);
        assert!(extents(u64::MAX).next().is_some_and(|x| x.len == EXTENT));
    }

    #[test]
    fn one_bit_is_not_zero() {
        for len in [0, 1, 63, 64, 65, 128, 8192, 8193] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in [0, len / 2, len.saturating_sub(1)].into_iter().filter(|at| *at < len) {
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes), "{at} of {len}");
                bytes[at] = 0;
            }
        }
    }

    proptest! {
        #[test]
        fn extents_cover_a_file_once(len in 0u64..1 << 33) {
            let mut end = 0;
            for (index, x) in (0..).zip(extents(len)) {
                prop_assert_eq!((x.index, x.offset), (index, end));
                prop_assert!((1..=EXTENT).contains(&x.len));
                end += u64::from(x.len);
            }
            prop_assert_eq!(end, len);
        }
    }
}
