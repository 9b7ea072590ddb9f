//! Makes WAL for tests, as XLogInsert would.

use super::header::{LONG_HEADER, SHORT_HEADER};
use crate::units::Lsn;

const SEGMENT: u64 = 1 << 20;
const PAGE: u64 = 8192;

/// WAL of a made-up cluster of major 15, from the start of segment 5 of 1 MiB on.
pub(crate) struct WalBuilder {
    bytes: Vec<u8>,
    prev: u64,
}

const START: u64 = 5 * SEGMENT;

impl WalBuilder {
    pub(crate) fn new() -> Self {
        WalBuilder { bytes: Vec::new(), prev: START - 100 }
    }

    /// Where it begins.
    pub(crate) fn start(&self) -> u64 {
        START
    }

    pub(crate) fn at(&self) -> u64 {
        START + self.bytes.len() as u64
    }

    /// A page's header, if a page begins here.
    pub(crate) fn page_header(&mut self, flags: u16, rem_len: u32) {
        let at = self.at();
        if !at.is_multiple_of(PAGE) {
            return;
        }
        let long = at.is_multiple_of(SEGMENT);
        self.bytes.extend(0xD110u16.to_le_bytes());
        self.bytes.extend((flags | if long { 2 } else { 0 }).to_le_bytes());
        self.bytes.extend(1u32.to_le_bytes());
        self.bytes.extend(at.to_le_bytes());
        self.bytes.extend(rem_len.to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(77u64.to_le_bytes());
            self.bytes.extend((SEGMENT as u32).to_le_bytes());
            self.bytes.extend((PAGE as u32).to_le_bytes());
        }
        assert_eq!(self.at() - at, if long { LONG_HEADER } else { SHORT_HEADER } as u64);
    }

    /// Appends a record; returns where it starts and ends.
    pub(crate) fn record(&mut self, rmid: u8, info: u8, xid: u32, payload: &[u8]) -> (Lsn, Lsn) {
        self.page_header(0, 0);
        let start = self.at();
        let mut head = Vec::new();
        head.extend((24 + payload.len() as u32).to_le_bytes());
        head.extend(xid.to_le_bytes());
        head.extend(self.prev.to_le_bytes());
        head.extend([info, rmid, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(payload), &head);
        head.extend(crc.to_le_bytes());
        head.extend(payload);
        let mut rest = &head[..];
        while !rest.is_empty() {
            self.page_header(1, rest.len() as u32);
            let room = (PAGE - self.at() % PAGE) as usize;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(now);
            rest = later;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.prev = start;
        (Lsn(start), Lsn(self.at()))
    }

    pub(crate) fn commit(&mut self, xid: u32, time: i64) -> (Lsn, Lsn) {
        let mut payload = vec![255, 8];
        payload.extend(time.to_le_bytes());
        self.record(1, 0, xid, &payload)
    }

    pub(crate) fn restore_point(&mut self, name: &str, time: i64) -> (Lsn, Lsn) {
        let mut payload = vec![255, 72];
        payload.extend(time.to_le_bytes());
        payload.extend(name.as_bytes());
        payload.resize(2 + 72, 0);
        self.record(0, 0x70, 0, &payload)
    }

    /// Fills the segment up with records until `left` bytes, a multiple of 8 and less than a page, remain in it.
    pub(crate) fn fill_to(&mut self, left: u64) {
        let end = (self.at() + 1).next_multiple_of(SEGMENT) - left;
        while self.at() < end {
            self.page_header(0, 0);
            let page_end = (self.at() + 1).next_multiple_of(PAGE).min(end);
            self.record(10, 0, 3, &vec![0xAB; (page_end.saturating_sub(self.at() + 24)) as usize]);
        }
    }

    /// Goes to the next segment, as after a switch.
    pub(crate) fn switch(&mut self, xid: u32) -> (Lsn, Lsn) {
        let (start, _) = self.record(0, 0x40, xid, &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(SEGMENT as usize), 0);
        (start, Lsn(self.at()))
    }

    /// Drops what was written from `at` on, as a crash does.
    pub(crate) fn lose(&mut self, at: u64) {
        self.bytes.truncate((at - START) as usize);
    }

    /// The record that was written last no longer counts.
    pub(crate) fn set_prev(&mut self, prev: Lsn) {
        self.prev = prev.0;
    }

    /// All segments, the last one filled with zeros.
    pub(crate) fn segments(mut self) -> Vec<Vec<u8>> {
        self.bytes.resize(self.bytes.len().next_multiple_of(SEGMENT as usize), 0);
        self.bytes.chunks(SEGMENT as usize).map(<[u8]>::to_vec).collect()
    }
}
