//! The headers of WAL pages (access/xlog_internal.h), and whether a file is the segment that its name says.
//!
//! ```text
//! xlp_magic     u16   0   names the major
//! xlp_info      u16   2
//! xlp_tli       u32   4
//! xlp_pageaddr  u64   8
//! xlp_rem_len   u32  16   of the record that began before this page
//! (padding)     u32  20
//! xlp_sysid     u64  24   long headers only: a segment's first page
//! xlp_seg_size  u32  32
//! xlp_xlog_blcksz u32 36
//! ```
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use crate::pg::bytes::{u16_at, u32_at, u64_at};
use crate::units::{Class, Explain, Lsn, SegmentName, SegmentSize, TimelineId};

/// The length of the header of a segment's first page.
pub const LONG_HEADER: usize = 40;
/// The length of the header of all other pages.
pub const SHORT_HEADER: usize = 24;

/// `XLP_FIRST_IS_CONTRECORD`: the page begins with the rest of a record.
pub(super) const FIRST_IS_CONTRECORD: u16 = 1;
/// `XLP_LONG_HEADER`
pub(super) const LONG: u16 = 2;
/// `XLP_FIRST_IS_OVERWRITE_CONTRECORD`: the record begun before this page was given up.
pub(super) const OVERWRITE_CONTRECORD: u16 = 8;
/// `XLP_ALL_FLAGS`
pub(super) const ALL_FLAGS: u16 = 15;

const MAGICS: [(u16, u16); 7] = [(0xD106, 13), (0xD10D, 14), (0xD110, 15), (0xD113, 16), (0xD116, 17), (0xD118, 18), (0xD122, 19)];

/// The major version whose WAL pages begin with `magic`; `None` for betas, forks, and what is no WAL.
pub fn major_of_magic(magic: u16) -> Option<u16> {
    MAGICS.iter().find(|(m, _)| *m == magic).map(|(_, major)| *major)
}

/// The header of a WAL page as it stands there; nothing is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalPageHeader {
    /// `XLOG_PAGE_MAGIC` of the major.
    pub magic: u16,
    /// Flags.
    pub info: u16,
    /// The timeline of the first record on the page.
    pub timeline: TimelineId,
    /// Where in WAL the page lies.
    pub page_addr: Lsn,
    /// Bytes that are still missing of the record that began before this page.
    pub rem_len: u32,
}

impl WalPageHeader {
    /// Reads the 24 bytes that all pages have; `None` if there are fewer.
    pub fn parse(page: &[u8]) -> Option<Self> {
        Some(WalPageHeader {
            magic: u16_at(page, 0)?,
            info: u16_at(page, 2)?,
            timeline: TimelineId(u32_at(page, 4)?),
            page_addr: Lsn(u64_at(page, 8)?),
            rem_len: u32_at(page, 16)?,
        })
    }

    /// Does the page begin with the rest of a record?
    pub fn is_continuation(&self) -> bool {
        self.info & FIRST_IS_CONTRECORD != 0
    }

    /// Where the first record, or the rest of one, begins.
    pub(super) fn len(&self) -> usize {
        if self.info & LONG != 0 { LONG_HEADER } else { SHORT_HEADER }
    }
}

/// What the first page of a segment says, checked to be possible.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The server's major version.
    pub major: u16,
    /// The page's header.
    pub page: WalPageHeader,
    /// The cluster that wrote it.
    pub system_identifier: u64,
    /// The size of the cluster's segments.
    pub segment_size: SegmentSize,
    /// The size of WAL pages in bytes: a power of two from 1 KiB to 64 KiB.
    pub page_size: u32,
}

impl SegmentHeader {
    /// The position of the segment's first byte.
    pub fn start(&self) -> Lsn {
        self.page.page_addr
    }

    /// The timeline in the header. In a timeline's first segment it is the parent's: the segment starts as a copy.
    pub fn timeline(&self) -> TimelineId {
        self.page.timeline
    }

    /// Reads the first page of a segment, of which 40 bytes are enough.
    ///
    /// # Errors
    /// See [`SegmentError`].
    pub fn parse(first_page: &[u8]) -> Result<SegmentHeader, SegmentError> {
        let short = SegmentError::Short { len: first_page.len() as u64 };
        let page = WalPageHeader::parse(first_page).ok_or(short.clone())?;
        let (Some(system_identifier), Some(size), Some(page_size)) =
            (u64_at(first_page, 24), u32_at(first_page, 32), u32_at(first_page, 36))
        else {
            return Err(short);
        };
        let Some(major) = major_of_magic(page.magic) else {
            return Err(match major_of_magic(page.magic.swap_bytes()) {
                Some(_) => SegmentError::ByteSwapped,
                None => SegmentError::Magic { found: page.magic },
            });
        };
        if page.info & LONG == 0 || page.info & !ALL_FLAGS != 0 {
            return Err(SegmentError::Flags { found: page.info });
        }
        let segment_size = SegmentSize::new(size).ok_or(SegmentError::SegmentSize { found: size })?;
        if !page_size.is_power_of_two() || !(1 << 10..=1 << 16).contains(&page_size) {
            return Err(SegmentError::PageSize { found: page_size });
        }
        if page.timeline.0 == 0 {
            return Err(SegmentError::NoTimeline);
        }
        if !page.page_addr.0.is_multiple_of(u64::from(size)) {
            return Err(SegmentError::Boundary { found: page.page_addr });
        }
        Ok(SegmentHeader { major, page, system_identifier, segment_size, page_size })
    }
}

/// Why a file is no segment, or not the one that its name says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// Not even a header.
    #[error("{len} bytes are too few for a WAL segment")]
    Short {
        /// How many bytes there are.
        len: u64,
    },
    /// Written by a server of the other byte order.
    #[error("the segment is big-endian: it was written by a server of the other byte order")]
    ByteSwapped,
    /// No known major's WAL.
    #[error("the segment begins with {found:04X}, which no release from 13 to 19 writes")]
    Magic {
        /// The magic number found.
        found: u16,
    },
    /// Flags that a segment's first page can't have.
    #[error("the segment's first page has the impossible flags {found:04x}")]
    Flags {
        /// `xlp_info`
        found: u16,
    },
    /// Timeline 0 in the header.
    #[error("the segment's header names timeline 0")]
    NoTimeline,
    /// An impossible segment size in the header.
    #[error("the segment's header says that segments have {found} bytes")]
    SegmentSize {
        /// `xlp_seg_size`
        found: u32,
    },
    /// An impossible page size in the header.
    #[error("the segment's header says that WAL pages have {found} bytes")]
    PageSize {
        /// `xlp_xlog_blcksz`
        found: u32,
    },
    /// A position that is no multiple of the segment size.
    #[error("the segment's header says that it starts at {found}, which is no boundary of segments")]
    Boundary {
        /// `xlp_pageaddr`
        found: Lsn,
    },
    /// The file is shorter or longer than its header says.
    #[error("the file has {found} bytes, a segment of this cluster {expected}")]
    Length {
        /// The size in the header.
        expected: u32,
        /// The file's length.
        found: u64,
    },
    /// No segment of this size has such a name.
    #[error("{name} names no segment of {size} bytes")]
    Name {
        /// The file's name.
        name: SegmentName,
        /// The segment size in the header.
        size: u32,
    },
    /// Content of another segment: a recycled file that was not yet written, or renamed by hand.
    #[error("the file is called {name}, which starts at {expected}, and holds WAL that starts at {found}")]
    Position {
        /// The file's name.
        name: SegmentName,
        /// Where such a segment starts.
        expected: Lsn,
        /// Where the header says that it starts.
        found: Lsn,
    },
    /// A timeline in the header that is younger than the name's.
    #[error("the file is called {name}, and its header names the later timeline {found}")]
    Timeline {
        /// The file's name.
        name: SegmentName,
        /// The header's timeline.
        found: TimelineId,
    },
    /// Another cluster's WAL: mostly an archive_command that a copy of the cluster kept.
    #[error("the segment belongs to the cluster with system identifier {found}, not to {expected}")]
    Identifier {
        /// The cluster's that it should belong to.
        expected: u64,
        /// The header's.
        found: u64,
    },
}

impl Explain for SegmentError {
    fn class(&self) -> Class {
        match self {
            Self::Magic { .. } | Self::ByteSwapped | Self::Identifier { .. } => Class::Refused,
            Self::Short { .. }
            | Self::Flags { .. }
            | Self::NoTimeline
            | Self::SegmentSize { .. }
            | Self::PageSize { .. }
            | Self::Boundary { .. }
            | Self::Length { .. }
            | Self::Name { .. }
            | Self::Position { .. }
            | Self::Timeline { .. } => Class::Corrupt,
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            Self::Identifier { .. } => Some(
                "does a copy of the cluster still have its archive_command? Each cluster needs its own name in the repository".to_owned(),
            ),
            Self::ByteSwapped => Some("run pgcairn on a machine with the server's byte order".to_owned()),
            Self::Magic { found: 0 } => Some(
                "it begins with zeros: the server never wrote it, or its disk lost it; look for disk errors in the system's log".to_owned(),
            ),
            Self::Magic { .. } => Some("use a release of pgcairn that knows this major version".to_owned()),
            _ => None,
        }
    }
}

/// Is the file called `name`, `file_len` bytes long and beginning with `first_page`, a whole segment of that name, of
/// the cluster `expected_system_identifier` (where that is known)?
///
/// The header's timeline may be lower than the name's, never higher: a new timeline's first segment starts as a copy.
///
/// # Errors
/// The first thing that doesn't fit; another cluster's identifier before a position that doesn't fit.
pub fn check_segment(
    name: SegmentName,
    first_page: &[u8],
    file_len: u64,
    expected_system_identifier: Option<u64>,
) -> Result<SegmentHeader, SegmentError> {
    let header = SegmentHeader::parse(first_page)?;
    if let Some(expected) = expected_system_identifier.filter(|e| *e != header.system_identifier) {
        return Err(SegmentError::Identifier { expected, found: header.system_identifier });
    }
    let size = header.segment_size;
    if file_len != u64::from(size.bytes()) {
        return Err(SegmentError::Length { expected: size.bytes(), found: file_len });
    }
    let no = name.no(size).ok_or(SegmentError::Name { name, size: size.bytes() })?;
    if size.start_of(no) != header.start() {
        return Err(SegmentError::Position { name, expected: size.start_of(no), found: header.start() });
    }
    if header.timeline() > name.timeline {
        return Err(SegmentError::Timeline { name, found: header.timeline() });
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::fixtures;
    use proptest::prelude::*;

    const IDENTIFIER: u64 = 7_712_166_471_038_751_814;

    fn segment() -> Vec<u8> {
        fixtures::file(15, "000000010000000000000018")
    }

    fn name(text: &str) -> SegmentName {
        text.parse().unwrap()
    }

    fn check(bytes: &[u8], called: &str) -> Result<SegmentHeader, SegmentError> {
        check_segment(name(called), bytes.get(..8192).unwrap_or(bytes), bytes.len() as u64, Some(IDENTIFIER))
    }

    #[test]
    fn segments_of_real_servers_are_what_they_are_called() {
        for major in [15, 18, 19] {
            for seg in [0x18, 0x19, 0x1A, 0x1B, 0x1C] {
                let called = format!("0000000100000000000000{seg:02X}");
                let bytes = fixtures::file(major, &called);
                let header = check_segment(name(&called), &bytes[..40], bytes.len() as u64, None).unwrap();
                assert_eq!((header.major, header.segment_size.bytes(), header.page_size), (major, 1 << 20, 8192));
                assert_eq!((header.start(), header.timeline()), (Lsn(seg << 20), TimelineId(1)));
            }
        }
        // A promotion at a boundary: the new timeline's first segment has its own number already.
        let child = fixtures::file(15, "000000020000000000000018");
        assert_eq!(check(&child, "000000020000000000000018").unwrap().timeline(), TimelineId(2));
        assert!(check(&segment(), "000000020000000000000018").is_ok());
        assert_eq!(
            check(&child, "000000010000000000000018"),
            Err(SegmentError::Timeline { name: name("000000010000000000000018"), found: TimelineId(2) })
        );
    }

    #[test]
    fn each_lie_has_its_name() {
        let called = "000000010000000000000018";
        let changed = |at: usize, bytes: &[u8]| {
            let mut segment = segment();
            segment[at..at + bytes.len()].copy_from_slice(bytes);
            check(&segment, called)
        };
        assert!(changed(0, &[]).is_ok());
        assert_eq!(changed(0, &[0, 0]), Err(SegmentError::Magic { found: 0 }));
        let cure = |found| SegmentError::Magic { found }.cure().unwrap();
        assert!(cure(0).contains("zeros") && cure(0xD0FF).contains("a release of pgcairn"), "no release knows zeros");
        assert_eq!(changed(0, &[0xD1, 0x10]), Err(SegmentError::ByteSwapped));
        assert_eq!(changed(2, &[0]), Err(SegmentError::Flags { found: 0 }));
        assert_eq!(changed(2, &[0x12]), Err(SegmentError::Flags { found: 0x12 }));
        assert_eq!(changed(4, &[0]), Err(SegmentError::NoTimeline));
        assert_eq!(changed(8, &[1]), Err(SegmentError::Boundary { found: Lsn(0x180_0001) }));
        assert!(matches!(changed(10, &[0x90]), Err(SegmentError::Position { found: Lsn(0x190_0000), .. })));
        assert_eq!(changed(24, &[0]), Err(SegmentError::Identifier { expected: IDENTIFIER, found: IDENTIFIER & !0xFF }));
        assert_eq!(changed(34, &[0x30]), Err(SegmentError::SegmentSize { found: 3 << 20 }));
        assert_eq!(changed(34, &[0x20]), Err(SegmentError::Length { expected: 2 << 20, found: 1 << 20 }));
        assert_eq!(changed(36, &[1]), Err(SegmentError::PageSize { found: 8193 }));
        assert_eq!(check(&segment()[..39], called), Err(SegmentError::Short { len: 39 }));
        assert!(matches!(check(&segment()[..1 << 19], called), Err(SegmentError::Length { .. })));
        assert!(matches!(check(&segment(), "000000010000000000001000"), Err(SegmentError::Name { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = SegmentHeader::parse(&bytes);
        }
    }
}
