//! Chunks written for themselves: stored as they are, or one zstd frame.

use super::{Codec, CodecError, Frame, FrameKind, MAX_PLAIN};
use zstd::zstd_safe;

/// The level that is tried first.
pub const FAST: i32 = 1;
/// The level that is taken where it makes a sample smaller by more than 1 %.
pub const DENSE: i32 = 3;

/// What a zstd frame begins with (RFC 8878, 3.1.1). Skippable frames and older formats begin otherwise.
const MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

impl Codec {
    /// Writes `plain`, at most [`MAX_PLAIN`] bytes, with zstd, or stores it where zstd doesn't make it smaller.
    pub fn encode_whole(&mut self, plain: &[u8], level: i32) -> Result<Frame, CodecError> {
        if plain.len() > MAX_PLAIN {
            return Err(CodecError::TooLong { len: plain.len(), max: MAX_PLAIN });
        }
        let compressed = self.compress(plain, None, level)?;
        if compressed.len() < plain.len() {
            Ok(Frame { kind: FrameKind::Zstd, bytes: compressed.to_vec() })
        } else {
            Ok(Frame { kind: FrameKind::Stored, bytes: plain.to_vec() })
        }
    }

    /// The level for data of which this is a sample: [`DENSE`] if that is smaller by more than 1 %, else [`FAST`]. Of
    /// hex digits, for one, level 1 makes less than level 3 (277 and 315 MB of the same cluster).
    pub fn choose_level(&mut self, sample: &[u8]) -> Result<i32, CodecError> {
        let fast = self.compress(sample, None, FAST)?.len();
        let dense = self.compress(sample, None, DENSE)?.len();
        Ok(if dense.saturating_mul(100) < fast.saturating_mul(99) { DENSE } else { FAST })
    }

    /// One zstd frame, in the scratch buffer.
    pub(super) fn compress(&mut self, plain: &[u8], prefix: Option<&[u8]>, level: i32) -> Result<&[u8], CodecError> {
        self.scratch.clear();
        self.scratch.reserve(zstd_safe::compress_bound(plain.len()));
        match prefix {
            None => self.compressor.compress(&mut self.scratch, plain, level),
            Some(prefix) => self.compressor.compress_using_dict(&mut self.scratch, plain, prefix, level),
        }
        .map_err(|code| CodecError::Compress(zstd_safe::get_error_name(code)))?;
        Ok(&self.scratch)
    }

    /// The plain form of exactly one zstd frame that states its length, which must be `len`.
    pub(super) fn decompress(&mut self, kind: FrameKind, frame: &[u8], len: usize, prefix: Option<&[u8]>) -> Result<Vec<u8>, CodecError> {
        let damaged = |what| CodecError::Damaged { kind, what };
        if !frame.starts_with(&MAGIC) {
            return Err(damaged("it is no zstd frame"));
        }
        match zstd_safe::get_frame_content_size(frame) {
            Ok(Some(stated)) if stated == len as u64 => {}
            _ => return Err(damaged("zstd states another length than its plain form has")),
        }
        if zstd_safe::find_frame_compressed_size(frame) != Ok(frame.len()) {
            return Err(damaged("something follows the zstd frame, or its end is missing"));
        }
        let mut plain = Vec::with_capacity(len);
        match prefix {
            None => self.decompressor.decompress(&mut plain, frame),
            Some(prefix) => self.decompressor.decompress_using_dict(&mut plain, frame, prefix),
        }
        .map_err(|code| damaged(zstd_safe::get_error_name(code)))?;
        if plain.len() == len { Ok(plain) } else { Err(damaged("its plain form has another length than it should")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes that nothing makes smaller.
    fn noise(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    #[test]
    fn what_zstd_does_not_shrink_is_stored() {
        let mut codec = Codec::new().unwrap();
        for (plain, kind) in
            [(noise(8192), FrameKind::Stored), (vec![], FrameKind::Stored), (vec![7], FrameKind::Stored), (vec![7; 8192], FrameKind::Zstd)]
        {
            let frame = codec.encode_whole(&plain, DENSE).unwrap();
            assert_eq!(frame.kind, kind);
            assert!(frame.bytes.len() <= plain.len());
            assert_eq!(codec.decode(frame.kind, &frame.bytes, plain.len(), None).unwrap(), plain);
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let mut codec = Codec::new().unwrap();
        let most = vec![0; MAX_PLAIN];
        let frame = codec.encode_whole(&most, FAST).unwrap();
        assert!(codec.decode(frame.kind, &frame.bytes, MAX_PLAIN, None).unwrap() == most);
        for wrong in [0, 1, MAX_PLAIN - 1] {
            assert!(matches!(codec.decode(frame.kind, &frame.bytes, wrong, None), Err(CodecError::Damaged { .. })));
        }
        assert!(matches!(codec.encode_whole(&vec![0; MAX_PLAIN + 1], FAST), Err(CodecError::TooLong { .. })));
    }

    #[test]
    fn one_frame_and_nothing_else_is_read() {
        let mut codec = Codec::new().unwrap();
        let frame = codec.encode_whole(&[9; 500], FAST).unwrap().bytes;
        let skippable = [&[0x50, 0x2A, 0x4D, 0x18, 0, 0, 0, 0][..], &frame].concat();
        for bad in [[&frame[..], &frame].concat(), skippable, frame[..frame.len() - 1].to_vec(), [&frame[..], b"x"].concat()] {
            assert!(codec.decode(FrameKind::Zstd, &bad, 500, None).is_err());
            assert!(codec.decode(FrameKind::Zstd, &bad, 1000, None).is_err());
        }
        assert!(codec.decode(FrameKind::Zstd, &[0x50, 0x2A, 0x4D, 0x18, 0, 0, 0, 0], 0, None).is_err());
        assert_eq!(codec.decode(FrameKind::Zstd, &frame, 500, None).unwrap(), [9; 500]);
    }

    #[test]
    fn the_level_follows_the_sample() {
        let mut codec = Codec::new().unwrap();
        assert_eq!(codec.choose_level(&noise(65536)).unwrap(), FAST);
        assert_eq!(codec.choose_level(b"").unwrap(), FAST);
        let words: String = (0..20_000u32).map(|i| format!("{} rows of table {}, ", i.wrapping_mul(2_654_435_761) % 977, i % 31)).collect();
        let (fast, dense) = (codec.encode_whole(words.as_bytes(), FAST).unwrap(), codec.encode_whole(words.as_bytes(), DENSE).unwrap());
        let expected = if dense.bytes.len() * 100 < fast.bytes.len() * 99 { DENSE } else { FAST };
        assert_eq!(codec.choose_level(words.as_bytes()).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn whole_frames_round_trip(runs in prop::collection::vec((any::<u8>(), 1usize..300), 0..60), level in 1i32..6) {
            let plain: Vec<u8> = runs.into_iter().flat_map(|(byte, len)| std::iter::repeat_n(byte, len)).collect();
            let mut codec = Codec::new().unwrap();
            let frame = codec.encode_whole(&plain, level).unwrap();
            prop_assert_eq!(codec.decode(frame.kind, &frame.bytes, plain.len(), None).unwrap(), plain);
        }

        #[test]
        fn damaged_frames_are_refused_or_have_the_length(at: prop::sample::Index, flip in 1u8.., cut: Option<prop::sample::Index>) {
            let plain: Vec<u8> = (0..4000u32).map(|i| (i / 7 % 13) as u8).collect();
            let mut codec = Codec::new().unwrap();
            let mut frame = codec.encode_whole(&plain, DENSE).unwrap().bytes;
            let at = at.index(frame.len());
            frame[at] ^= flip;
            if let Some(cut) = cut {
                frame.truncate(cut.index(frame.len()));
            }
            if let Ok(read) = codec.decode(FrameKind::Zstd, &frame, plain.len(), None) {
                prop_assert_eq!(read.len(), plain.len());
            }
            // The context is fit for the next frame.
            let good = codec.encode_whole(&plain, FAST).unwrap();
            prop_assert_eq!(codec.decode(good.kind, &good.bytes, plain.len(), None).unwrap(), plain);
        }
    }
}
