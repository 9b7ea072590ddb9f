//! Data pages: their header (storage/bufpage.h), and what to make of a page read under a running server.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use super::bytes::{u16_at, u32_at};
use super::checksum::page_checksum;
use crate::units::Lsn;

/// The bytes of a page's header, `SizeOfPageHeaderData`.
pub const HEADER_LEN: usize = 24;

/// The newest page layout, `PG_PAGE_LAYOUT_VERSION`; the same from 8.3 to 19.
const LAYOUT_VERSION: u16 = 4;

/// A page's header as it stands on disk (`PageHeaderData`):
///
/// ```text
/// pd_lsn              0  two u32, the high half first
/// pd_checksum         8  u16
/// pd_flags           10  u16
/// pd_lower           12  u16
/// pd_upper           14  u16
/// pd_special         16  u16
/// pd_pagesize_version 18 u16, page size | layout version
/// pd_prune_xid       20  u32
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageHeader {
    /// The end of the WAL record that last changed the page.
    pub lsn: Lsn,
    /// As stored; meaningless where the cluster has no checksums.
    pub checksum: u16,
    /// `PD_*` bits.
    pub flags: u16,
    /// Where free space starts.
    pub lower: u16,
    /// Where free space ends; 0 on a page that was never initialised.
    pub upper: u16,
    /// Where the special space starts.
    pub special: u16,
    /// Page size and layout version in one.
    pub pagesize_version: u16,
    /// The oldest transaction whose leavings could be pruned.
    pub prune_xid: u32,
}

impl PageHeader {
    /// Reads the header; `None` if there are fewer than 24 bytes.
    pub fn parse(page: &[u8]) -> Option<PageHeader> {
        Some(PageHeader {
            lsn: Lsn(u64::from(u32_at(page, 0)?) << 32 | u64::from(u32_at(page, 4)?)),
            checksum: u16_at(page, 8)?,
            flags: u16_at(page, 10)?,
            lower: u16_at(page, 12)?,
            upper: u16_at(page, 14)?,
            special: u16_at(page, 16)?,
            pagesize_version: u16_at(page, 18)?,
            prune_xid: u32_at(page, 20)?,
        })
    }

    /// Never initialised (`PageIsNew`): such a page has no checksum.
    pub fn is_new(&self) -> bool {
        self.upper == 0
    }

    /// The page size in bytes that the header claims.
    pub fn page_size(&self) -> u16 {
        self.pagesize_version & 0xFF00
    }

    /// The layout version that the header claims: 4.
    pub fn layout_version(&self) -> u16 {
        self.pagesize_version & 0x00FF
    }

    /// Can this be the header of an initialised page of `page_size` bytes? What the server checks itself when it reads
    /// a page (`PageIsVerified`), and the claimed size and layout.
    pub fn is_sane(&self, page_size: usize) -> bool {
        let (lower, upper, special) = (usize::from(self.lower), usize::from(self.upper), usize::from(self.special));
        self.flags & !0x0007 == 0
            && HEADER_LEN <= lower
            && lower <= upper
            && upper <= special
            && special <= page_size
            && special.is_multiple_of(8)
            && usize::from(self.page_size()) == page_size
            && self.layout_version() <= LAYOUT_VERSION
    }
}

/// Are all bytes zero? A file is extended by such pages before the extension is logged.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    // Folding a block of bytes into one lets the compiler take vectors and still stop early.
    words.iter().all(|w| w.iter().fold(0, |all, b| all | b) == 0) && rest.iter().all(|b| *b == 0)
}

/// What is wrong with a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PageFault {
    /// The checksum doesn't fit.
    #[error("checksum {stored:04x} is stored, {computed:04x} is right")]
    Checksum {
        /// In the page.
        stored: u16,
        /// Over its bytes.
        computed: u16,
    },
    /// The header is impossible (looked at where the cluster has no checksums).
    #[error(
        "impossible header: lower {lower}, upper {upper}, special {special}, size and version {pagesize_version:04x}, flags {flags:04x}"
    )]
    Header {
        /// `pd_lower`
        lower: u16,
        /// `pd_upper`
        upper: u16,
        /// `pd_special`
        special: u16,
        /// `pd_pagesize_version`
        pagesize_version: u16,
        /// `pd_flags`
        flags: u16,
    },
    /// Not a page's length.
    #[error("{len} bytes are no page")]
    Length {
        /// How many bytes.
        len: usize,
    },
}

/// What a page is, as read while a server may be writing it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageVerdict {
    /// All bytes are zero.
    New,
    /// The checksum fits, or, without checksums, the header can be.
    Fine,
    /// Changed since the backup's start: replay writes it anew, whatever it looks like. An LSN *beyond the backup's
    /// stop* is damage all the same, which can be told only afterwards.
    Newer {
        /// The page's LSN, for the comparison with the stop LSN.
        lsn: Lsn,
    },
    /// Wrong although it is old: read it again a few times; if it stays wrong, it is damaged.
    Bad(PageFault),
    /// Not initialised, and yet not all zeros: worth a warning.
    OddNew,
}

/// Judges one page, block `block` of its fork, in the order in which pg_basebackup does: new, newer than `start_lsn`,
/// checksum. `start_lsn` is the backup's start; of a stopped server take [`Lsn`]`(u64::MAX)`, so that nothing passes
/// as newer. `checksums_on` is what the control file says, not a setting.
pub fn check_page(page: &[u8], block: u32, start_lsn: Lsn, checksums_on: bool) -> PageVerdict {
    let Some(header) = PageHeader::parse(page) else { return PageVerdict::Bad(PageFault::Length { len: page.len() }) };
    if header.is_new() {
        return if is_zero(page) { PageVerdict::New } else { PageVerdict::OddNew };
    }
    if header.lsn >= start_lsn {
        return PageVerdict::Newer { lsn: header.lsn };
    }
    if !checksums_on {
        return match header.is_sane(page.len()) {
            true => PageVerdict::Fine,
            false => PageVerdict::Bad(PageFault::Header {
                lower: header.lower,
                upper: header.upper,
                special: header.special,
                pagesize_version: header.pagesize_version,
                flags: header.flags,
            }),
        };
    }
    match page_checksum(page, block) {
        Some(computed) if computed == header.checksum => PageVerdict::Fine,
        Some(computed) => PageVerdict::Bad(PageFault::Checksum { stored: header.checksum, computed }),
        None => PageVerdict::Bad(PageFault::Length { len: page.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::fixtures;
    use proptest::prelude::*;

    const LATE: Lsn = Lsn(u64::MAX);

    fn page() -> Vec<u8> {
        fixtures::file(15, "page3")
    }

    #[test]
    fn pages_of_real_servers_are_fine_at_their_place_only() {
        for major in [15, 18] {
            for (name, block) in [("page0", 0), ("page3", 3)] {
                let page = fixtures::file(major, name);
                assert_eq!(check_page(&page, block, LATE, true), PageVerdict::Fine, "{major} {name}");
                assert_eq!(check_page(&page, block, LATE, false), PageVerdict::Fine, "{major} {name}");
                assert!(matches!(check_page(&page, block + 1, LATE, true), PageVerdict::Bad(PageFault::Checksum { .. })));
            }
        }
    }

    #[test]
    fn the_rules_hold_in_their_order() {
        let lsn = PageHeader::parse(&page()).unwrap().lsn;
        let mut damaged = page();
        damaged[100] ^= 1;
        // Newer comes before the checksum: a page being written may look like anything.
        assert_eq!(check_page(&damaged, 3, lsn, true), PageVerdict::Newer { lsn });
        assert!(matches!(check_page(&damaged, 3, Lsn(lsn.0 + 1), true), PageVerdict::Bad(PageFault::Checksum { .. })));
        assert_eq!(check_page(&damaged, 3, Lsn(lsn.0 + 1), false), PageVerdict::Fine);
        // New comes before newer.
        assert_eq!(check_page(&[0; 8192], 3, Lsn(0), true), PageVerdict::New);
        let mut odd = [0; 8192];
        odd[8191] = 1;
        assert_eq!(check_page(&odd, 3, Lsn(0), true), PageVerdict::OddNew);
        for len in [0, 23, 24, 100] {
            let short = &page()[..len];
            assert_eq!(check_page(short, 3, LATE, true), PageVerdict::Bad(PageFault::Length { len }));
        }
    }

    #[test]
    fn headers_that_can_not_be_are_bad_without_checksums() {
        for (at, value) in [(12, 23u16), (12, 0x2000), (14, 1), (16, 8193), (16, 8191), (18, 0x1004), (18, 0x2005), (10, 8)] {
            let mut page = page();
            page[at..at + 2].copy_from_slice(&value.to_le_bytes());
            assert!(matches!(check_page(&page, 3, LATE, false), PageVerdict::Bad(PageFault::Header { .. })), "{at} {value}");
        }
    }

    proptest! {
        #[test]
        fn zero_means_all_of_it(len in 0usize..300, at in 0usize..300) {
            let mut bytes = vec![0; len];
            prop_assert!(is_zero(&bytes));
            if at < len {
                bytes[at] = 0x80;
                prop_assert!(!is_zero(&bytes));
            }
        }

        #[test]
        fn any_page_is_judged_without_a_panic(page in proptest::collection::vec(any::<u8>(), 0..600), on: bool) {
            let _ = check_page(&page, 0, LATE, on);
        }
    }
}
