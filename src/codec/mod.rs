//! Frames: how the bytes of chunks are written smaller, and read back.
//!
//! In come the plain bytes of one or more chunks, concatenated, and for a patch those of its reference; out comes a
//! [`Frame`], and from it the plain bytes again. A frame says nothing about itself: kind and plain length lie beside it,
//! authenticated, in the pack's table.
//!
//! **Format** (format-spec.md, "Frames") is what [`Codec::decode`] reads: the numbers of [`FrameKind`], the patch's header,
//! [`MAX_PLAIN`]. **Policy**, free to change at any time, is what the encoders choose: levels, when a patch is worth it and
//! how long one may be ([`patch::MAX_PATCHED`]), stored or zstd. Two encodings of the same bytes may differ, and nothing
//! compares them.
//!
//! - `mod.rs`: kinds, [`Codec`] (one a thread: it keeps zstd's contexts), `decode`
//! - `whole.rs`: stored and zstd; which level
//! - `patch.rs`: changed pages against an older form, and what a patch says without its reference
//! - `pages.rs`: the list of pages in a patch's header
//! - `failure.rs`: [`CodecError`]

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod failure;
mod pages;
pub mod patch;
mod thread;
mod whole;

pub use failure::CodecError;
pub use patch::{PatchOutline, Patching, StoredPage, Way};
pub use thread::{choose_level, decode, encode_pages, encode_patch, encode_whole, stored_pages};
pub use whole::{DENSE, FAST};
use zstd::zstd_safe::{CCtx, DCtx};

/// The longest plain form of a frame, in bytes.
pub const MAX_PLAIN: usize = 16 << 20;

/// How a frame is written. The numbers are the format's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// The plain bytes.
    Stored = 0,
    /// One zstd frame.
    Zstd = 1,
    /// The changed pages of an older form that is stored whole.
    Patch = 2,
    /// Streams of PostgreSQL pages. Reserved.
    Pages = 3,
    /// Changed tuples of an older form that is stored whole. Reserved.
    TuplePatch = 4,
    /// WAL. Reserved.
    Wal = 5,
}

impl FrameKind {
    /// Does reading it need the plain bytes of another chunk?
    pub fn needs_reference(self) -> bool {
        matches!(self, FrameKind::Patch | FrameKind::TuplePatch)
    }
}

impl From<FrameKind> for u8 {
    fn from(kind: FrameKind) -> u8 {
        kind as u8
    }
}

impl TryFrom<u8> for FrameKind {
    type Error = CodecError;

    fn try_from(number: u8) -> Result<Self, CodecError> {
        use FrameKind as K;
        [K::Stored, K::Zstd, K::Patch, K::Pages, K::TuplePatch, K::Wal]
            .into_iter()
            .find(|kind| u8::from(*kind) == number)
            .ok_or(CodecError::UnknownKind(number))
    }
}

/// A frame: what is sealed and stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// How it is written.
    pub kind: FrameKind,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Writes and reads frames. Keeps zstd's tables from one frame to the next: make one for each thread.
pub struct Codec {
    compressor: CCtx<'static>,
    decompressor: DCtx<'static>,
    /// Compressed bytes are made here, at the size that they could have, and copied out at the size that they have.
    scratch: Vec<u8>,
}

impl Codec {
    /// Fails only without memory.
    pub fn new() -> Result<Self, CodecError> {
        let compressor = CCtx::try_create().ok_or(CodecError::NoMemory)?;
        let decompressor = DCtx::try_create().ok_or(CodecError::NoMemory)?;
        Ok(Codec { compressor, decompressor, scratch: Vec::new() })
    }

    /// The plain bytes of a frame: exactly `plain_len` of them, or an error. `reference` is the whole plain form of the
    /// chunks that a patch refers to.
    ///
    /// Whatever the frame says, no more than `plain_len`, at most [`MAX_PLAIN`], and the frame's own length are
    /// allocated.
    pub fn decode(&mut self, kind: FrameKind, frame: &[u8], plain_len: usize, reference: Option<&[u8]>) -> Result<Vec<u8>, CodecError> {
        if plain_len > MAX_PLAIN {
            return Err(CodecError::TooLong { len: plain_len, max: MAX_PLAIN });
        }
        match kind {
            FrameKind::Stored if frame.len() == plain_len => Ok(frame.to_vec()),
            FrameKind::Stored => Err(CodecError::Damaged { kind, what: "its length is not that of its plain form" }),
            FrameKind::Zstd => self.decompress(kind, frame, plain_len, None),
            FrameKind::Patch => self.decode_patch(frame, plain_len, reference.ok_or(CodecError::NoReference)?),
            FrameKind::Pages | FrameKind::TuplePatch | FrameKind::Wal => Err(CodecError::UnknownKind(kind.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::ids::unhex;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[test]
    fn kinds_have_the_numbers_of_the_format() {
        for number in 0..=5 {
            assert_eq!(u8::from(FrameKind::try_from(number).unwrap()), number);
        }
        for number in 6..=255 {
            assert!(matches!(FrameKind::try_from(number), Err(CodecError::UnknownKind(n)) if n == number));
        }
        let mut codec = Codec::new().unwrap();
        for kind in [FrameKind::Pages, FrameKind::TuplePatch, FrameKind::Wal] {
            assert!(matches!(codec.decode(kind, b"", 0, Some(b"")), Err(CodecError::UnknownKind(_))));
        }
        assert!(matches!(codec.decode(FrameKind::Stored, b"", MAX_PLAIN + 1, None), Err(CodecError::TooLong { .. })));
        assert!(matches!(codec.decode(FrameKind::Patch, b"\0\x0d", 0, None), Err(CodecError::NoReference)));
    }

    #[test]
    fn a_codec_can_go_to_another_thread() {
        let mut codec = Codec::new().unwrap();
        let frame = std::thread::spawn(move || codec.encode_whole(b"moved", FAST).unwrap()).join().unwrap();
        assert_eq!(frame.bytes, b"moved");
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Vector {
        name: String,
        kind: u8,
        frame: String,
        reference: Option<String>,
        plain: String,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Refused {
        name: String,
        kind: u8,
        frame: String,
        reference: Option<String>,
        plain_len: usize,
    }

    fn fixture(name: &str) -> String {
        let path = format!("{}/tests/fixtures/codec/{name}.json", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    #[test]
    fn vectors_decode_to_what_they_say() {
        let vectors: Vec<Vector> = serde_json::from_str(&fixture("frames")).unwrap();
        assert!(vectors.len() >= 10);
        let mut codec = Codec::new().unwrap();
        for v in vectors {
            let plain = unhex(&v.plain).unwrap();
            let reference = v.reference.map(|r| unhex(&r).unwrap());
            let kind = FrameKind::try_from(v.kind).unwrap();
            let decoded = codec.decode(kind, &unhex(&v.frame).unwrap(), plain.len(), reference.as_deref());
            assert_eq!(decoded.unwrap_or_else(|e| panic!("{}: {e}", v.name)), plain, "{}", v.name);
        }
    }

    #[test]
    fn refused_vectors_are_refused() {
        let vectors: Vec<Refused> = serde_json::from_str(&fixture("refused")).unwrap();
        assert!(vectors.len() >= 10);
        let mut codec = Codec::new().unwrap();
        for v in vectors {
            let reference = v.reference.map(|r| unhex(&r).unwrap());
            let outcome = FrameKind::try_from(v.kind)
                .and_then(|kind| codec.decode(kind, &unhex(&v.frame).unwrap(), v.plain_len, reference.as_deref()));
            assert!(outcome.is_err(), "{}", v.name);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_have_the_length(kind in 0u8..=2, frame: Vec<u8>, len in 0usize..5000, reference: Option<Vec<u8>>) {
            let mut codec = Codec::new().unwrap();
            if let Ok(plain) = codec.decode(FrameKind::try_from(kind).unwrap(), &frame, len, reference.as_deref()) {
                prop_assert_eq!(plain.len(), len);
            }
        }
    }
}
