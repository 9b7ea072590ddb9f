//! Patches: the pages in which a plain form differs from an older one, its *reference*, which is stored whole.
//!
//! | offset | length | content |
//! |---|---|---|
//! | 0 | 1 | flags: 1 against old images, 2 the list is gaps (else a bitmap); the others are zero |
//! | 1 | 1 | page shift, 9 to 16: pages of 2^shift bytes |
//! | 2 | … | list of the pages that are stored here (`pages.rs`) |
//! | … | rest | these pages, one behind the other, as one zstd frame; nothing, if there are none |
//!
//! Page *i* of a byte string is what it has between *i* · size and (*i* + 1) · size; the last may be shorter. A page that
//! is not listed is the reference's bytes at the same place, which must all be there. *Against old images*, the zstd frame
//! has a prefix: eight zero bytes (so that no dictionary interface takes it for a structured dictionary), then, for each
//! listed page, what the reference has of the page with that number.
//!
//! The prefix finds what a page had in common with its old image, mostly all but a few tuples. The price is that the old
//! images must be read and decoded; pages *alone* can be made without (by a host that can't read, or where reading the
//! reference costs more than the bytes saved).

use super::pages::{ListForm, read_list, write_list};
use super::{Codec, CodecError, DENSE, Frame, FrameKind, MAX_PLAIN};
use std::ops::Range;

/// The longest plain form and the longest reference that the encoder patches. Policy: zstd's window and tables must reach
/// from a page to its old image, and of 8 MiB against 8 MiB level 3 made ten times as much, without an error.
pub const MAX_PATCHED: usize = 256 << 10;

/// A patch is worth it up to this part of the whole form; a larger one costs more to read than it saves, and the whole
/// form is the better next reference. Policy.
const WORTH: usize = 3;

/// What a prefix begins with.
const LEAD: [u8; 8] = [0; 8];

const AGAINST_OLD: u8 = 1;
const GAPS: u8 = 2;

/// How changed pages are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// With their old images as prefix.
    AgainstOld,
    /// For themselves.
    Alone,
}

/// How a patch is to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patching {
    /// The page size, in bytes: a power of two from 512 to 65536.
    pub page_size: usize,
    /// How the changed pages are written.
    pub way: Way,
    /// zstd's level; against old images at least [`DENSE`] is taken, since level 1's table forgets half of an extent.
    pub level: i32,
    /// The length that the whole form's frame has, or about: a patch longer than a third of it is not made.
    pub whole_len: usize,
}

/// What a patch says without its reference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PatchOutline {
    /// The page size, in bytes.
    pub page_size: usize,
    /// How the pages in it are written: [`Way::AgainstOld`] needs their old images, too.
    pub way: Way,
    /// The numbers of the pages in it, ascending; the others are the reference's.
    pub pages: Vec<u32>,
}

/// A page that a patch stores alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredPage {
    /// Its number, counted in pages from the start of the plain form.
    pub number: u32,
    /// Its bytes: a page, or less at the end.
    pub bytes: Vec<u8>,
}

impl PatchOutline {
    /// Reads a patch's header. `plain_len` is the length of its plain form.
    pub fn read(frame: &[u8], plain_len: usize) -> Result<Self, CodecError> {
        Self::split(frame, plain_len).map(|(outline, _)| outline)
    }

    /// The header, and the zstd frame behind it.
    fn split(frame: &[u8], plain_len: usize) -> Result<(Self, &[u8]), CodecError> {
        if plain_len > MAX_PLAIN {
            return Err(CodecError::TooLong { len: plain_len, max: MAX_PLAIN });
        }
        let [flags, shift, rest @ ..] = frame else { return Err(damaged("its header is cut off")) };
        if flags & !(AGAINST_OLD | GAPS) != 0 {
            return Err(damaged("unknown flags"));
        }
        if !(9..=16).contains(shift) {
            return Err(damaged("no page size"));
        }
        let page_size = 1 << shift;
        let way = if flags & AGAINST_OLD != 0 { Way::AgainstOld } else { Way::Alone };
        let form = if flags & GAPS != 0 { ListForm::Gaps } else { ListForm::Bitmap };
        let (pages, body) = read_list(form, page_count(plain_len, page_size), rest).ok_or_else(|| damaged("no list of pages"))?;
        if pages.is_empty() && !body.is_empty() {
            return Err(damaged("bytes follow an empty list of pages"));
        }
        Ok((PatchOutline { page_size, way, pages }, body))
    }

    /// How long the pages in it are together.
    fn stored_len(&self, plain_len: usize) -> usize {
        self.pages.iter().map(|page| page_range(*page, self.page_size, plain_len).len()).sum()
    }
}

fn damaged(what: &'static str) -> CodecError {
    CodecError::Damaged { kind: FrameKind::Patch, what }
}

/// How many pages, the last perhaps shorter, `len` bytes are: below 2^15 as long as `len` is at most [`MAX_PLAIN`].
fn page_count(len: usize, page_size: usize) -> u32 {
    len.div_ceil(page_size) as u32
}

/// Where page `number` lies in a byte string of `len` bytes: empty, at its end, for a page behind it.
fn page_range(number: u32, page_size: usize, len: usize) -> Range<usize> {
    let start = (number as usize).saturating_mul(page_size);
    start.min(len)..start.saturating_add(page_size).min(len)
}

/// The pages of a list, one behind the other, behind `lead`.
fn gather(of: &[u8], pages: &[u32], page_size: usize, lead: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(lead.len() + pages.len() * page_size);
    out.extend_from_slice(lead);
    for page in pages {
        out.extend_from_slice(of.get(page_range(*page, page_size, of.len())).unwrap_or_default());
    }
    out
}

/// The numbers of the pages of `new` that are not the reference's bytes at the same place.
pub fn changed_pages(new: &[u8], reference: &[u8], page_size: usize) -> Vec<u32> {
    (0..page_count(new.len(), page_size))
        .filter(|page| {
            let range = page_range(*page, page_size, new.len());
            new.get(range.clone()) != reference.get(range)
        })
        .collect()
}

impl Codec {
    /// Writes `new` as a patch of `reference`. `None`: it isn't worth it, or one of them is longer than [`MAX_PATCHED`].
    pub fn encode_patch(&mut self, new: &[u8], reference: &[u8], how: Patching) -> Result<Option<Frame>, CodecError> {
        check_page_size(how.page_size)?;
        if new.len() > MAX_PATCHED || reference.len() > MAX_PATCHED {
            return Ok(None);
        }
        let pages = changed_pages(new, reference, how.page_size);
        let prefix = match how.way {
            Way::AgainstOld => Some(gather(reference, &pages, how.page_size, &LEAD)).filter(|prefix| prefix.len() > LEAD.len()),
            Way::Alone => None,
        };
        self.write_patch(new, &pages, prefix, how)
    }

    /// Writes a patch without its reference, of pages that are known to be the only changed ones (ascending): what a
    /// host can do that remembers hashes of pages and can't read. Always [`Way::Alone`].
    ///
    /// The caller vouches that all others are the reference's, to their last byte.
    pub fn encode_pages(&mut self, new: &[u8], changed: &[u32], how: Patching) -> Result<Option<Frame>, CodecError> {
        check_page_size(how.page_size)?;
        let below = page_count(new.len(), how.page_size);
        if !changed.is_sorted_by(|a, b| a < b) || changed.last().is_some_and(|last| *last >= below) {
            return Err(CodecError::NoPatch("its pages are not ascending numbers of pages that are there"));
        }
        if new.len() > MAX_PATCHED {
            return Ok(None);
        }
        self.write_patch(new, changed, None, how)
    }

    fn write_patch(&mut self, new: &[u8], pages: &[u32], prefix: Option<Vec<u8>>, how: Patching) -> Result<Option<Frame>, CodecError> {
        let mut bytes = vec![0, how.page_size.trailing_zeros() as u8];
        let form = write_list(pages, page_count(new.len(), how.page_size), &mut bytes);
        if let Some(flags) = bytes.first_mut() {
            *flags = if prefix.is_some() { AGAINST_OLD } else { 0 } | if form == ListForm::Gaps { GAPS } else { 0 };
        }
        if !pages.is_empty() {
            let level = if prefix.is_some() { how.level.max(DENSE) } else { how.level };
            bytes.extend_from_slice(self.compress(&gather(new, pages, how.page_size, &[]), prefix.as_deref(), level)?);
        }
        let worth_it = bytes.len().saturating_mul(WORTH) <= how.whole_len;
        Ok(worth_it.then_some(Frame { kind: FrameKind::Patch, bytes }))
    }

    pub(super) fn decode_patch(&mut self, frame: &[u8], plain_len: usize, reference: &[u8]) -> Result<Vec<u8>, CodecError> {
        let (outline, body) = PatchOutline::split(frame, plain_len)?;
        let prefix = match outline.way {
            Way::AgainstOld => Some(gather(reference, &outline.pages, outline.page_size, &LEAD)),
            Way::Alone => None,
        };
        let stored = self.stored(&outline, body, plain_len, prefix.as_deref())?;
        let mut stored = stored.as_slice();
        let mut listed = outline.pages.iter().peekable();
        let mut plain = Vec::with_capacity(plain_len);
        for page in 0..page_count(plain_len, outline.page_size) {
            let range = page_range(page, outline.page_size, plain_len);
            let bytes = if listed.next_if_eq(&&page).is_some() {
                let (bytes, rest) = stored.split_at_checked(range.len()).ok_or_else(|| damaged("its pages end early"))?;
                stored = rest;
                bytes
            } else {
                reference.get(range).ok_or_else(|| damaged("it refers to pages that its reference doesn't have"))?
            };
            plain.extend_from_slice(bytes);
        }
        Ok(plain)
    }

    /// The pages that a patch stores alone: what can be checked of it, or used, without its
    /// reference. `None` if they are written against their old images.
    pub fn stored_pages(&mut self, frame: &[u8], plain_len: usize) -> Result<Option<Vec<StoredPage>>, CodecError> {
        let (outline, body) = PatchOutline::split(frame, plain_len)?;
        if outline.way == Way::AgainstOld {
            return Ok(None);
        }
        let stored = self.stored(&outline, body, plain_len, None)?;
        let mut rest = stored.as_slice();
        let mut pages = Vec::with_capacity(outline.pages.len());
        for page in outline.pages {
            let len = page_range(page, outline.page_size, plain_len).len();
            let (bytes, tail) = rest.split_at_checked(len).ok_or_else(|| damaged("its pages end early"))?;
            pages.push(StoredPage { number: page, bytes: bytes.to_vec() });
            rest = tail;
        }
        Ok(Some(pages))
    }

    /// The pages that a patch stores, one behind the other.
    fn stored(&mut self, outline: &PatchOutline, body: &[u8], plain_len: usize, prefix: Option<&[u8]>) -> Result<Vec<u8>, CodecError> {
        if outline.pages.is_empty() {
            return Ok(Vec::new());
        }
        self.decompress(FrameKind::Patch, body, outline.stored_len(plain_len), prefix)
    }
}

fn check_page_size(page_size: usize) -> Result<(), CodecError> {
    if page_size.is_power_of_two() && (1 << 9..=1 << 16).contains(&page_size) {
        Ok(())
    } else {
        Err(CodecError::NoPatch("pages are powers of two from 512 to 65536 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::FAST;
    use super::*;
    use proptest::prelude::*;

    const EVEN_IF_LARGE: usize = usize::MAX;

    fn how(page_size: usize, way: Way) -> Patching {
        Patching { page_size, way, level: DENSE, whole_len: EVEN_IF_LARGE }
    }

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }

    /// Patches and reads back; the patch's length and pages.
    fn round_trip(new: &[u8], reference: &[u8], how: Patching) -> (usize, Vec<u32>) {
        let mut codec = Codec::new().unwrap();
        let frame = codec.encode_patch(new, reference, how).unwrap().unwrap();
        assert_eq!(frame.kind, FrameKind::Patch);
        assert!(codec.decode(frame.kind, &frame.bytes, new.len(), Some(reference)).unwrap() == new);
        let outline = PatchOutline::read(&frame.bytes, new.len()).unwrap();
        assert_eq!(outline.page_size, how.page_size);
        if let Some(pages) = codec.stored_pages(&frame.bytes, new.len()).unwrap() {
            assert!(pages.iter().map(|page| page.number).eq(outline.pages.iter().copied()));
            for page in pages {
                assert_eq!(page.bytes, new[page_range(page.number, how.page_size, new.len())]);
            }
        } else {
            assert_eq!(outline.way, Way::AgainstOld);
        }
        (frame.bytes.len(), outline.pages)
    }

    #[test]
    fn files_that_grew_shrank_or_end_oddly_are_patched() {
        let old = noise(1, 4 * 8192);
        let grown = |extra: &[u8]| [&old[..], extra].concat();
        let mut changed = old.clone();
        changed[8192] ^= 1;
        changed[3 * 8192 - 1] ^= 1;
        let table: [(&[u8], &[u8], &[u32]); 13] = [
            (&old, &old, &[]),
            (&changed, &old, &[1, 2]),
            (&grown(&[9]), &old, &[4]),
            (&grown(&[9; 8192]), &old, &[4]),
            (&grown(&[9; 8193]), &old, &[4, 5]),
            (&old[..8192], &old, &[]),
            (&old[..8193], &old, &[]),
            (&old[..1], &old, &[]),
            (b"", &old, &[]),
            (&old, b"", &[0, 1, 2, 3]),
            (&old, &old[..8193], &[1, 2, 3]),
            (&noise(2, 3 * 8192 + 1), &old, &[0, 1, 2, 3]),
            (b"", b"", &[]),
        ];
        for (i, (new, reference, pages)) in table.into_iter().enumerate() {
            for way in [Way::AgainstOld, Way::Alone] {
                assert_eq!(round_trip(new, reference, how(8192, way)).1, pages, "case {i}, {way:?}");
            }
        }
    }

    #[test]
    fn old_images_reach_over_a_whole_extent() {
        let old = noise(3, MAX_PATCHED);
        let mut new = old.clone();
        for page in new.chunks_mut(8192) {
            page[100] ^= 1;
            page[8000] ^= 1;
        }
        for level in [FAST, DENSE, 9, 19] {
            let (len, pages) = round_trip(&new, &old, Patching { level, ..how(8192, Way::AgainstOld) });
            assert_eq!(pages.len(), 32);
            assert!(len < 3000, "level {level}: {len}");
        }
        assert!(round_trip(&new, &old, how(8192, Way::Alone)).0 > MAX_PATCHED);
    }

    #[test]
    fn a_prefix_that_looks_like_a_dictionary_is_only_a_prefix() {
        let mut old = noise(4, 8192);
        old[..4].copy_from_slice(&[0x37, 0xA4, 0x30, 0xEC]);
        let mut new = old.clone();
        new[5000] ^= 1;
        assert!(round_trip(&new, &old, how(8192, Way::AgainstOld)).0 < 200);
    }

    #[test]
    fn a_patch_that_is_not_worth_it_is_not_made() {
        let mut codec = Codec::new().unwrap();
        let old = noise(5, 32 * 8192);
        let mut new = old.clone();
        new[..8192].copy_from_slice(&noise(6, 8192));
        let at = |whole_len| Patching { whole_len, ..how(8192, Way::Alone) };
        let len = codec.encode_patch(&new, &old, at(old.len())).unwrap().unwrap().bytes.len();
        assert!(codec.encode_patch(&new, &old, at(3 * len)).unwrap().is_some());
        assert!(codec.encode_patch(&new, &old, at(3 * len - 1)).unwrap().is_none());
        let long = noise(7, MAX_PATCHED + 1);
        assert!(codec.encode_patch(&long, &long, at(EVEN_IF_LARGE)).unwrap().is_none());
        assert!(codec.encode_patch(b"", &long, at(EVEN_IF_LARGE)).unwrap().is_none());
        for page_size in [0, 1, 256, 8191, 12288, 1 << 17] {
            assert!(matches!(codec.encode_patch(&new, &old, how(page_size, Way::Alone)), Err(CodecError::NoPatch(_))));
        }
    }

    #[test]
    fn pages_can_be_written_without_the_reference() {
        let mut codec = Codec::new().unwrap();
        let old = noise(8, 5 * 8192);
        let mut new = old.clone();
        new[4 * 8192] ^= 1;
        let frame = codec.encode_pages(&new, &[4], how(8192, Way::Alone)).unwrap().unwrap();
        assert!(codec.decode(FrameKind::Patch, &frame.bytes, new.len(), Some(&old)).unwrap() == new);
        for bad in [&[5][..], &[1, 1], &[2, 1]] {
            assert!(matches!(codec.encode_pages(&new, bad, how(8192, Way::Alone)), Err(CodecError::NoPatch(_))));
        }
    }

    #[test]
    fn a_reference_too_short_is_noticed() {
        let mut codec = Codec::new().unwrap();
        let old = noise(9, 5 * 8192);
        let frame = codec.encode_patch(&old, &old, how(8192, Way::AgainstOld)).unwrap().unwrap();
        assert!(matches!(codec.decode(FrameKind::Patch, &frame.bytes, old.len(), Some(&old[1..])), Err(CodecError::Damaged { .. })));
    }

    /// An old form, and a new one made from it by changed bytes and another length.
    fn forms() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12);
        (any::<u64>(), 0usize..9000, edits, 0usize..9000, any::<bool>()).prop_map(|(seed, len, edits, new_len, same_len)| {
            let old = noise(seed, len);
            let mut new = old.clone();
            if !same_len {
                new.resize(new_len, 7);
            }
            for (at, byte) in edits.into_iter().filter(|_| !new.is_empty()).collect::<Vec<_>>() {
                let at = at.index(new.len());
                new[at] = byte;
            }
            (old, new)
        })
    }

    proptest! {
        #[test]
        fn patches_round_trip((old, new) in forms(), shift in 9u32..=13, alone: bool, level in 1i32..5) {
            let way = if alone { Way::Alone } else { Way::AgainstOld };
            round_trip(&new, &old, Patching { level, ..how(1 << shift, way) });
        }

        #[test]
        fn damaged_patches_are_refused_or_have_the_length(
            (old, new) in forms(),
            flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
            cut: Option<prop::sample::Index>,
            tail in prop::collection::vec(any::<u8>(), 0..4),
            len in prop::option::of(0usize..20000),
        ) {
            let mut codec = Codec::new().unwrap();
            let mut frame = codec.encode_patch(&new, &old, how(512, Way::AgainstOld)).unwrap().unwrap().bytes;
            for (at, flip) in flips {
                let at = at.index(frame.len());
                frame[at] ^= flip;
            }
            if let Some(cut) = cut {
                frame.truncate(cut.index(frame.len()));
            }
            frame.extend(tail);
            let len = len.unwrap_or(new.len());
            for reference in [&old[..], &new[..new.len() / 2]] {
                if let Ok(plain) = codec.decode(FrameKind::Patch, &frame, len, Some(reference)) {
                    prop_assert_eq!(plain.len(), len);
                }
            }
            let _ = codec.stored_pages(&frame, len);
        }
    }
}
