//! Pages as a server writes them.

use crate::pg::checksum::page_checksum;
use crate::units::Lsn;

/// Page size of the clusters here, in bytes.
pub const PAGE: usize = 8192;
/// Pages that were last changed long before any backup.
pub const OLD: Lsn = Lsn(0x1000_0000);

/// Bytes that no codec makes smaller, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A page full of noise with a right checksum for this block.
pub fn page(block: u32, lsn: Lsn, seed: u64) -> Vec<u8> {
    let mut page = noise(seed, PAGE);
    page[0..4].copy_from_slice(&((lsn.0 >> 32) as u32).to_le_bytes());
    page[4..8].copy_from_slice(&(lsn.0 as u32).to_le_bytes());
    for (at, value) in [(10, 0u16), (12, 400), (14, 800), (16, 8192), (18, 0x2004)] {
        page[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    let sum = page_checksum(&page, block).unwrap();
    page[8..10].copy_from_slice(&sum.to_le_bytes());
    page
}

/// So many old pages, from block 0.
pub fn relation(blocks: u32, seed: u64) -> Vec<u8> {
    (0..blocks).flat_map(|block| page(block, OLD, seed << 32 | u64::from(block))).collect()
}

/// Puts a page in its place.
pub fn put_page(bytes: &mut [u8], block: u32, page: &[u8]) {
    let at = block as usize * PAGE;
    bytes[at..at + page.len()].copy_from_slice(page);
}
