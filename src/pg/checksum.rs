//! The checksum of a data page (storage/checksum_impl.h): a parallel FNV-1a over 32 columns of 32-bit words.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

/// How many sums run beside each other, `N_SUMS`.
const SUMS: usize = 32;
/// One row of words, in bytes.
const ROW: usize = SUMS * 4;
/// `FNV_PRIME`
const PRIME: u32 = 16_777_619;

/// Where the sums start, `checksumBaseOffsets`.
const BASES: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// One step of all sums. Written as a loop over arrays of fixed length, so that the compiler makes vectors of it.
#[inline(always)]
fn mix(sums: &mut [u32; SUMS], words: &[u32; SUMS]) {
    for (sum, word) in sums.iter_mut().zip(words) {
        let t = *sum ^ *word;
        *sum = t.wrapping_mul(PRIME) ^ (t >> 17);
    }
}

#[inline(always)]
fn words(row: &[u8; ROW]) -> [u32; SUMS] {
    let mut words = [0; SUMS];
    let (chunks, _) = row.as_chunks::<4>();
    for (word, bytes) in words.iter_mut().zip(chunks) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

/// The checksum of `page` as block `block` of its fork (counted over all segments): 1 to 65535, never 0. The page's
/// own checksum field counts as zero.
///
/// `None` if the page's length is no multiple of 128 bytes, or zero: no page of PostgreSQL's is.
pub fn page_checksum(page: &[u8], block: u32) -> Option<u16> {
    let (rows, rest) = page.as_chunks::<ROW>();
    let (first, others) = rows.split_first()?;
    if !rest.is_empty() {
        return None;
    }
    let mut sums = BASES;
    let mut head = words(first);
    // pd_checksum is the low half of the third word (bytes 8 and 9).
    if let Some(word) = head.get_mut(2) {
        *word &= 0xFFFF_0000;
    }
    mix(&mut sums, &head);
    for row in others {
        mix(&mut sums, &words(row));
    }
    mix(&mut sums, &[0; SUMS]);
    mix(&mut sums, &[0; SUMS]);
    let all = sums.iter().fold(0, |all, sum| all ^ sum) ^ block;
    // Modulo 65535, not 65536: copies of the algorithm with the wrong one circulate.
    u16::try_from(all % 65_535 + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The algorithm as written down: word by word, with the field taken as zero in a copy.
    fn slowly(page: &[u8], block: u32) -> u16 {
        let mut copy = page.to_vec();
        copy[8..10].fill(0);
        let mut sums = BASES;
        for (i, word) in copy.chunks(4).chain([&[0; 4][..]; 64]).enumerate() {
            let t = sums[i % 32] ^ u32::from_le_bytes(word.try_into().unwrap());
            sums[i % 32] = t.wrapping_mul(PRIME) ^ (t >> 17);
        }
        (sums.iter().fold(block, |all, sum| all ^ sum) % 65_535 + 1) as u16
    }

    proptest! {
        #[test]
        fn the_fast_way_is_the_slow_way(seed in proptest::collection::vec(any::<u8>(), 128), rows in 1usize..65, block: u32) {
            let page: Vec<u8> = (0..rows).flat_map(|r| seed.iter().map(move |b| b.wrapping_mul(r as u8 | 1))).collect();
            prop_assert_eq!(page_checksum(&page, block), Some(slowly(&page, block)));
        }
    }

    #[test]
    fn the_field_itself_does_not_count_and_odd_lengths_have_none() {
        let mut page = vec![7; 8192];
        let sum = page_checksum(&page, 1);
        page[8] = 1;
        page[9] = 2;
        assert_eq!(page_checksum(&page, 1), sum);
        page[10] = 3;
        assert_ne!(page_checksum(&page, 1), sum);
        assert_eq!(page_checksum(&page[..8191], 1), None);
        assert_eq!(page_checksum(&[], 1), None);
    }
}
