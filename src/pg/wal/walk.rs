//! From WAL pages to records: page after page in order, over any number of segments.
//!
//! Every length is checked against its bounds before it is followed, every whole record's CRC is verified, and the
//! memory held is what an unfinished record's meaning needs. The rules are those of the server's own reader
//! (access/transam/xlogreader.c): what it would take for the end of WAL stops the walk here, too.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use super::header::{ALL_FLAGS, LONG, OVERWRITE_CONTRECORD, SegmentHeader, WalPageHeader};
use super::record::{CRC_AT, MAX_RECORD, Meaning, RECORD_HEADER, RecordHeader, meaning};
use crate::pg::bytes::u32_at;
use crate::units::{Lsn, SegmentSize, TimelineId};

/// Why WAL ends where it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WalFault {
    /// Fewer bytes than a segment has.
    #[error("the file ends")]
    Truncated,
    /// Zeros where a record or a page should begin: the server has written no further.
    #[error("only zeros follow")]
    Zeros,
    /// A page that begins with another major's magic, or with none.
    #[error("the page begins with {found:04X}, not {expected:04X}")]
    Magic {
        /// The magic of the first page.
        expected: u16,
        /// This page's.
        found: u16,
    },
    /// A page from elsewhere, such as the former content of a recycled segment.
    #[error("the page says that it lies at {found}")]
    Address {
        /// `xlp_pageaddr`
        found: Lsn,
    },
    /// Flags that the page can't have.
    #[error("the page has the impossible flags {found:04x}")]
    Flags {
        /// `xlp_info`
        found: u16,
    },
    /// A page of an older timeline behind one of a newer.
    #[error("the page belongs to timeline {found}, the one before to {before}")]
    Timeline {
        /// The timeline of the page before.
        before: TimelineId,
        /// This page's.
        found: TimelineId,
    },
    /// The page doesn't go on with the record that the page before left unfinished.
    #[error("{expected} bytes of a record are missing, and the page continues one with {found}")]
    Continuation {
        /// Bytes that are missing; 0 if no record is open.
        expected: u32,
        /// Bytes that the page announces; 0 if it continues none.
        found: u32,
    },
    /// A length that no record has.
    #[error("a record of {found} bytes")]
    Length {
        /// `xl_tot_len`
        found: u32,
    },
    /// The record's link to the one before is wrong: a leftover.
    #[error("the record names {found} as the one before it")]
    Previous {
        /// `xl_prev`
        found: Lsn,
    },
    /// The record's CRC is wrong.
    #[error("the record's CRC-32C is {stored:08x}, computed {computed:08x}")]
    Crc {
        /// In its header.
        stored: u32,
        /// Over its bytes.
        computed: u32,
    },
}

/// Where a walk ended, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("at {at}: {why}")]
pub struct WalStop {
    /// The start of the record, or the page, that is not valid.
    pub at: Lsn,
    /// What is wrong there.
    pub why: WalFault,
}

/// What a walk meets.
pub(super) enum Event<'a> {
    /// The rest of a record that began before the walk did.
    ContinuationEnds(Lsn),
    /// A whole record whose CRC is right.
    Record(Record<'a>),
}

/// A whole record.
pub(super) struct Record<'a> {
    pub header: RecordHeader,
    pub start: Lsn,
    /// Where the next record can start: the end, rounded up to 8; after a switch the segment's end.
    pub end: Lsn,
    payload: &'a [u8],
    major: u16,
}

impl Record<'_> {
    pub fn meaning(&self) -> Meaning {
        meaning(&self.header, self.payload, self.major)
    }
}

/// A record of which the end is still to come.
pub(super) struct OpenRecord {
    pub start: Lsn,
    /// Known once its 24 bytes are there.
    pub header: Option<RecordHeader>,
    total: u32,
    have: u32,
    head: [u8; RECORD_HEADER],
    crc: u32,
    payload: Vec<u8>,
}

impl OpenRecord {
    fn left(&self) -> u32 {
        self.total.saturating_sub(self.have)
    }
}

enum State {
    /// At a record's start.
    Between,
    /// In a record of which the walk has not seen the beginning; so many bytes are left.
    Rest(u32),
    /// In a record.
    Within(Box<OpenRecord>),
    /// Behind a switch: nothing up to the segment's end counts.
    Void,
}

/// A walk over pages.
pub(super) struct Walk {
    magic: u16,
    major: u16,
    page_size: usize,
    segment_size: SegmentSize,
    /// Where the next page lies.
    next: Lsn,
    timeline: TimelineId,
    /// Where the last valid record starts and ends.
    last: Option<Lsn>,
    last_end: Lsn,
    state: State,
}

/// The next multiple of 8 (`MAXALIGN`).
fn align(at: usize) -> usize {
    at.next_multiple_of(8)
}

impl Walk {
    /// A walk that begins with the first page of the segment that has this header.
    pub fn new(header: &SegmentHeader) -> Self {
        Walk {
            magic: header.page.magic,
            major: header.major,
            page_size: header.page_size as usize,
            segment_size: header.segment_size,
            next: header.start(),
            timeline: header.timeline(),
            last: None,
            last_end: header.start(),
            state: if header.page.is_continuation() { State::Rest(header.page.rem_len) } else { State::Between },
        }
    }

    /// Where the next page lies.
    pub fn next(&self) -> Lsn {
        self.next
    }

    /// The end of the last valid record, or of the rest of one, or where the walk began.
    pub fn valid_until(&self) -> Lsn {
        self.last_end
    }

    /// The record that the last page left unfinished.
    pub fn open(&self) -> Option<&OpenRecord> {
        match &self.state {
            State::Within(open) => Some(open),
            State::Between | State::Rest(_) | State::Void => None,
        }
    }

    /// Takes the next page, of exactly the page size. After an error the walk is at its end.
    pub fn page(&mut self, page: &[u8], sink: &mut impl FnMut(Event<'_>)) -> Result<(), WalStop> {
        let page_lsn = self.next;
        let at_segment_start = page_lsn.0.is_multiple_of(u64::from(self.segment_size.bytes()));
        self.next = page_lsn.checked_add(self.page_size as u64).ok_or(WalStop { at: page_lsn, why: WalFault::Truncated })?;
        if matches!(self.state, State::Void) {
            if !at_segment_start {
                return Ok(());
            }
            self.state = State::Between;
        }
        let header = self.check_header(page, page_lsn, at_segment_start).map_err(|why| self.stop(page_lsn, why))?;
        self.check_continuation(&header).map_err(|why| self.stop(page_lsn, why))?;
        self.timeline = header.timeline;
        let mut at = header.len();
        while at < self.page_size {
            let rest = page.get(at..self.page_size).unwrap_or_default();
            let here = Lsn(page_lsn.0.saturating_add(at as u64));
            let taken = match std::mem::replace(&mut self.state, State::Between) {
                State::Between => self.begin(rest, here, sink)?,
                State::Rest(left) => self.skip(left, rest.len(), here, sink),
                State::Within(open) => self.go_on(open, rest, here, sink)?,
                State::Void => {
                    self.state = State::Void;
                    break;
                }
            };
            at = align(at.saturating_add(taken));
        }
        Ok(())
    }

    /// Where the server would say that WAL ends: at an open record's start, if there is one.
    fn stop(&self, at: Lsn, why: WalFault) -> WalStop {
        WalStop { at: self.open().map_or(at, |open| open.start), why }
    }

    fn check_header(&self, page: &[u8], lsn: Lsn, at_segment_start: bool) -> Result<WalPageHeader, WalFault> {
        let header = WalPageHeader::parse(page).ok_or(WalFault::Truncated)?;
        if header.magic != self.magic {
            let zeros = header.magic == 0 && crate::pg::page::is_zero(page);
            return Err(if zeros { WalFault::Zeros } else { WalFault::Magic { expected: self.magic, found: header.magic } });
        }
        if header.info & !ALL_FLAGS != 0 || (header.info & LONG != 0) != at_segment_start {
            return Err(WalFault::Flags { found: header.info });
        }
        if header.page_addr != lsn {
            return Err(WalFault::Address { found: header.page_addr });
        }
        if header.timeline < self.timeline {
            return Err(WalFault::Timeline { before: self.timeline, found: header.timeline });
        }
        Ok(header)
    }

    /// Does the page go on where the page before it ended?
    fn check_continuation(&mut self, header: &WalPageHeader) -> Result<(), WalFault> {
        let expected = match &self.state {
            State::Between | State::Void => 0,
            State::Rest(left) => *left,
            State::Within(open) => open.left(),
        };
        if expected > 0 && header.info & OVERWRITE_CONTRECORD != 0 && !header.is_continuation() {
            // After a crash the server gave the unfinished record up, and says so here.
            self.state = State::Between;
            return Ok(());
        }
        let found = if header.is_continuation() { header.rem_len } else { 0 };
        let nothing_continued = header.is_continuation() && found == 0;
        if found != expected || nothing_continued {
            return Err(WalFault::Continuation { expected, found });
        }
        Ok(())
    }

    /// A record begins at `here`, the first of `rest`, the page's remaining bytes: at least 8, since all is aligned.
    fn begin(&mut self, rest: &[u8], here: Lsn, sink: &mut impl FnMut(Event<'_>)) -> Result<usize, WalStop> {
        let stop = |why| WalStop { at: here, why };
        let total = u32_at(rest, 0).ok_or(stop(WalFault::Truncated))?;
        if total == 0 {
            let zeros = crate::pg::page::is_zero(rest);
            return Err(stop(if zeros { WalFault::Zeros } else { WalFault::Length { found: 0 } }));
        }
        if total < RECORD_HEADER as u32 || total > MAX_RECORD {
            return Err(stop(WalFault::Length { found: total }));
        }
        let Some(record) = rest.get(..total as usize) else {
            let open = OpenRecord { start: here, header: None, total, have: 0, head: [0; RECORD_HEADER], crc: 0, payload: Vec::new() };
            return self.go_on(Box::new(open), rest, here, sink);
        };
        // The usual case, a record that lies whole in the page, without a copy.
        let (Some((head, payload)), Some(header)) = (record.split_first_chunk::<RECORD_HEADER>(), RecordHeader::parse(record)) else {
            return Err(stop(WalFault::Truncated));
        };
        self.check_previous(&header, here).map_err(stop)?;
        let crc = crc32c::crc32c(payload);
        self.finish(header, here, crc, head, payload, Lsn(here.0.saturating_add(record.len() as u64)), sink)?;
        Ok(record.len())
    }

    fn skip(&mut self, left: u32, there: usize, here: Lsn, sink: &mut impl FnMut(Event<'_>)) -> usize {
        let taken = there.min(left as usize);
        let left = left.saturating_sub(taken as u32);
        if left > 0 {
            self.state = State::Rest(left);
        } else {
            let end = Lsn((here.0.saturating_add(taken as u64)).next_multiple_of(8));
            self.last_end = end;
            sink(Event::ContinuationEnds(end));
        }
        taken
    }

    /// Takes what `rest` holds of an open record.
    fn go_on(&mut self, mut open: Box<OpenRecord>, rest: &[u8], here: Lsn, sink: &mut impl FnMut(Event<'_>)) -> Result<usize, WalStop> {
        let taken = rest.len().min(open.left() as usize);
        let mut bytes = rest.get(..taken).unwrap_or_default();
        if open.header.is_none() {
            let have = open.have as usize;
            let wanted = bytes.len().min(RECORD_HEADER - have.min(RECORD_HEADER));
            let (head, after) = bytes.split_at(wanted);
            if let Some(place) = open.head.get_mut(have..have + wanted) {
                place.copy_from_slice(head);
            }
            bytes = after;
            if have + wanted == RECORD_HEADER {
                let header = RecordHeader::parse(&open.head);
                if let Some(header) = &header {
                    self.check_previous(header, open.start).map_err(|why| WalStop { at: open.start, why })?;
                }
                open.header = header;
            }
        }
        open.have = open.have.saturating_add(taken as u32);
        if let Some(header) = open.header {
            open.crc = crc32c::crc32c_append(open.crc, bytes);
            let room = header.payload_kept().saturating_sub(open.payload.len());
            open.payload.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
            if open.left() == 0 {
                let end = Lsn(here.0.saturating_add(taken as u64));
                self.finish(header, open.start, open.crc, &open.head, &open.payload, end, sink)?;
                return Ok(taken);
            }
        }
        self.state = State::Within(open);
        Ok(taken)
    }

    /// A record is whole: `crc` is that of its payload, `end` where its bytes end.
    #[expect(clippy::too_many_arguments, reason = "the parts of a record, from a page or from an open record")]
    fn finish(
        &mut self,
        header: RecordHeader,
        start: Lsn,
        crc: u32,
        head: &[u8; RECORD_HEADER],
        payload: &[u8],
        end: Lsn,
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), WalStop> {
        let computed = crc32c::crc32c_append(crc, head.first_chunk::<CRC_AT>().map_or(&[], |covered| covered));
        if computed != header.crc {
            return Err(WalStop { at: start, why: WalFault::Crc { stored: header.crc, computed } });
        }
        let mut end = Lsn(end.0.next_multiple_of(8));
        if header.is_switch() {
            end = self.segment_size.end_of(self.segment_size.segment_before(end));
            self.state = State::Void;
        }
        self.last = Some(start);
        self.last_end = end;
        sink(Event::Record(Record { header, start, end, payload, major: self.major }));
        Ok(())
    }

    /// The link to the record before: exact where that one was seen, else at least backwards.
    fn check_previous(&self, header: &RecordHeader, start: Lsn) -> Result<(), WalFault> {
        let fits = match self.last {
            Some(last) => header.prev == last,
            None => header.prev < start,
        };
        if fits { Ok(()) } else { Err(WalFault::Previous { found: header.prev }) }
    }
}
