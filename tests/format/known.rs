//! What the vectors and repositories are made of: fixed keys, files and their bytes.

use std::path::PathBuf;

use pgcairn::crypt::sign::SigningKey;
use pgcairn::crypt::{ContentSecret, Root, Secret};
use pgcairn::units::{DomainId, RepositoryId};

/// The folder of this test's files.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/format")
}

/// The root of all vectors.
pub fn root() -> Root {
    Root {
        repository: RepositoryId([0x11; 16]),
        domain: DomainId([0x22; 16]),
        owner: SigningKey::from_seed(&[0x33; 32]),
        content: ContentSecret::new(Secret::new([0x44; 32])).unwrap(),
        former: Vec::new(),
        id_key: Secret::new([0x55; 32]),
        table_key: Secret::new([0x66; 32]),
    }
}

/// A host's signing key.
pub fn host() -> SigningKey {
    SigningKey::from_seed(&[0x77; 32])
}

/// A segment of 1 MiB that a server of 18 wrote.
pub const SEGMENT: &str = "000000010000000000000018";

/// Its bytes.
pub fn segment() -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/pg/18/{SEGMENT}.zst"));
    zstd::decode_all(&std::fs::read(path).unwrap()[..]).unwrap()
}

/// Bytes that look random: BLAKE3 of `name` as an extendable output.
pub fn noise(name: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A page of 8192 bytes that compresses well, and a little.
pub fn page(number: u32, generation: u32) -> Vec<u8> {
    let mut page: Vec<u8> = (0..8192u32).map(|at| if at % 64 < 60 { (number % 251) as u8 } else { (at / 64) as u8 }).collect();
    page[100..116].copy_from_slice(&noise(&format!("page {number} of generation {generation}"), 16));
    page
}

/// `count` pages of a file; those in `changed` are of generation 1.
pub fn pages(count: u32, changed: &[u32]) -> Vec<u8> {
    (0..count).flat_map(|n| page(n, u32::from(changed.contains(&n)))).collect()
}
