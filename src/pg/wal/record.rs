//! WAL records: the header that all have, and the few kinds whose meaning an archive has to know.
//!
//! ```text
//! xl_tot_len  u32   0   header and all
//! xl_xid      u32   4
//! xl_prev     u64   8   where the record before starts
//! xl_info      u8  16
//! xl_rmid      u8  17   (2 bytes of padding)
//! xl_crc      u32  20   CRC-32C over the payload, then over bytes 0 to 19
//! ```
//!
//! The payload begins with headers of blocks and of the main data; the main data stand at its end. Records that end a
//! transaction and restore points name no blocks (access/xlogrecord.h, access/xact.h).
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use crate::pg::bytes::{i64_at, u8_at, u32_at, u64_at};
use crate::units::{Lsn, Timestamp};

/// `SizeOfXLogRecord`
pub(super) const RECORD_HEADER: usize = 24;
/// Bytes of the header that the CRC covers.
pub(super) const CRC_AT: usize = 20;
/// `XLogRecordMaxSize` is 1020 MiB; older majors stop at the allocation limit of 1 GiB.
pub(super) const MAX_RECORD: u32 = 1 << 30;

const RM_XLOG: u8 = 0;
const RM_XACT: u8 = 1;

/// A record's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// Header and payload, in bytes.
    pub total_len: u32,
    /// The transaction that wrote it, or 0.
    pub xid: u32,
    /// Where the record before it starts.
    pub prev: Lsn,
    /// What kind it is, in the terms of its resource manager.
    pub info: u8,
    /// Whose record it is.
    pub rmid: u8,
    /// CRC-32C of the record.
    pub crc: u32,
}

impl RecordHeader {
    /// Reads 24 bytes; `None` if there are fewer.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Some(RecordHeader {
            total_len: u32_at(bytes, 0)?,
            xid: u32_at(bytes, 4)?,
            prev: Lsn(u64_at(bytes, 8)?),
            info: u8_at(bytes, 16)?,
            rmid: u8_at(bytes, 17)?,
            crc: u32_at(bytes, CRC_AT)?,
        })
    }

    /// `XLOG_SWITCH`: nothing but zeros follows in the segment.
    pub fn is_switch(&self) -> bool {
        self.rmid == RM_XLOG && self.info & 0xF0 == 0x40
    }

    /// `XLOG_RESTORE_POINT`
    pub fn is_restore_point(&self) -> bool {
        self.rmid == RM_XLOG && self.info & 0xF0 == 0x70
    }

    /// Does the record end a transaction: COMMIT, ABORT, COMMIT PREPARED, ROLLBACK PREPARED?
    pub fn is_end_of_transaction(&self) -> bool {
        self.rmid == RM_XACT && matches!(self.info & 0x70, 0x00 | 0x20 | 0x30 | 0x40)
    }

    /// How much of the payload has to be kept to know what the record means. The transaction of a COMMIT PREPARED
    /// stands behind its lists of files and messages.
    pub(super) fn payload_kept(&self) -> usize {
        match self.rmid == RM_XACT && matches!(self.info & 0x70, 0x30 | 0x40) {
            true => 16 << 20,
            false => 256,
        }
    }
}

/// What the archive understands of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Meaning {
    /// A transaction ends: the server can stop here for a target time or xid.
    End(TransactionEnd),
    /// `pg_create_restore_point`: the server can stop here for a target name.
    RestorePoint {
        /// At most 63 bytes; what is not UTF-8 is replaced.
        name: String,
        /// When it was made, by the server's clock.
        time: Timestamp,
    },
    /// The rest of the segment is void.
    Switch,
    /// Anything else.
    Other,
}

/// The end of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactionEnd {
    /// The top-level transaction; 0 where it has none, or could not be read.
    pub xid: u32,
    /// When it ended, by the server's clock.
    pub time: Timestamp,
    /// Committed, or rolled back?
    pub committed: bool,
}

/// What a record means. `payload` is what follows its header, or the beginning of it.
pub(super) fn meaning(header: &RecordHeader, payload: &[u8], major: u16) -> Meaning {
    if header.is_switch() {
        return Meaning::Switch;
    }
    if header.is_end_of_transaction() {
        return transaction_end(header, payload, major).map_or(Meaning::Other, Meaning::End);
    }
    if header.is_restore_point() {
        return restore_point(payload).unwrap_or(Meaning::Other);
    }
    Meaning::Other
}

/// The main data of a record that names no blocks, as far as `payload` holds them.
fn main_data(payload: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    loop {
        // XLR_BLOCK_ID_DATA_SHORT, _DATA_LONG, _ORIGIN, _TOPLEVEL_XID
        let (len, data_at) = match u8_at(payload, at)? {
            255 => (usize::from(u8_at(payload, at + 1)?), at + 2),
            254 => (usize::try_from(u32_at(payload, at + 1)?).ok()?, at + 5),
            253 => {
                at += 3;
                continue;
            }
            252 => {
                at += 5;
                continue;
            }
            _ => return None,
        };
        let data = payload.get(data_at..)?;
        return Some(data.get(..len).unwrap_or(data));
    }
}

/// `xl_restore_point`: time, and a name of 64 bytes that ends with a zero.
fn restore_point(payload: &[u8]) -> Option<Meaning> {
    let data = main_data(payload)?;
    let time = Timestamp::from_postgres(i64_at(data, 0)?);
    let name = data.get(8..72)?.split(|b| *b == 0).next()?;
    Some(Meaning::RestorePoint { name: String::from_utf8_lossy(name).into_owned(), time })
}

/// `xl_xact_commit`, `xl_xact_abort`: the time comes first.
fn transaction_end(header: &RecordHeader, payload: &[u8], major: u16) -> Option<TransactionEnd> {
    let data = main_data(payload)?;
    let time = Timestamp::from_postgres(i64_at(data, 0)?);
    let op = header.info & 0x70;
    let prepared = matches!(op, 0x30 | 0x40);
    let xid = if prepared { prepared_xid(header.info, data, major).unwrap_or(0) } else { header.xid };
    Some(TransactionEnd { xid, time, committed: matches!(op, 0x00 | 0x30) })
}

/// The transaction that a COMMIT PREPARED or ROLLBACK PREPARED ends: `xl_xact_twophase`, behind the optional parts
/// that `xinfo` announces (ParseCommitRecord and ParseAbortRecord in access/rmgrdesc/xactdesc.c).
fn prepared_xid(info: u8, data: &[u8], major: u16) -> Option<u32> {
    const HAS_INFO: u8 = 0x80;
    const DBINFO: u32 = 1;
    const SUBXACTS: u32 = 2;
    const RELFILES: u32 = 4;
    const INVALS: u32 = 8;
    const TWOPHASE: u32 = 16;
    const DROPPED_STATS: u32 = 256;
    if info & HAS_INFO == 0 {
        return None;
    }
    let xinfo = u32_at(data, 8)?;
    let mut at: usize = 12;
    if xinfo & DBINFO != 0 {
        at += 8;
    }
    let stats_item = if major >= 18 { 16 } else { 12 };
    for (bit, item) in [(SUBXACTS, 4), (RELFILES, 12), (DROPPED_STATS, stats_item), (INVALS, 16)] {
        if xinfo & bit != 0 {
            let count = usize::try_from(u32_at(data, at)?).ok()?;
            at = count.checked_mul(item)?.checked_add(at)?.checked_add(4)?;
        }
    }
    if xinfo & TWOPHASE == 0 { None } else { u32_at(data, at) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(rmid: u8, info: u8, xid: u32) -> RecordHeader {
        RecordHeader { total_len: 0, xid, prev: Lsn(0), info, rmid, crc: 0 }
    }

    fn with_main_data(data: &[u8]) -> Vec<u8> {
        let mut payload = vec![253, 1, 0, 252, 9, 9, 9, 9, 254];
        payload.extend((data.len() as u32).to_le_bytes());
        payload.extend(data);
        payload
    }

    #[test]
    fn the_prepared_transaction_is_found_behind_the_lists() {
        for (major, stats) in [(14, None), (17, Some(12)), (18, Some(16))] {
            let mut data = 5i64.to_le_bytes().to_vec();
            let xinfo: u32 = 1 | 2 | 4 | 8 | 16 | if stats.is_some() { 256 } else { 0 };
            data.extend(xinfo.to_le_bytes());
            data.extend([0; 8]);
            for (count, item) in [(3u32, 4), (1, 12)].into_iter().chain(stats.map(|s| (2, s))).chain([(2, 16)]) {
                data.extend(count.to_le_bytes());
                data.extend(vec![0xEE; count as usize * item]);
            }
            data.extend(4711u32.to_le_bytes());
            let payload = with_main_data(&data);
            let expected = TransactionEnd { xid: 4711, time: Timestamp::from_postgres(5), committed: true };
            assert_eq!(meaning(&header(1, 0xB0, 0), &payload, major), Meaning::End(expected), "{major}");
            // Cut off in the lists the time is still known.
            let Meaning::End(end) = meaning(&header(1, 0xB0, 0), &payload[..60], major) else { panic!("no end") };
            assert_eq!((end.xid, end.time), (0, Timestamp::from_postgres(5)));
        }
    }

    #[test]
    fn records_that_lie_about_lengths_mean_nothing() {
        let mut data = 5i64.to_le_bytes().to_vec();
        data.extend((2u32 | 16).to_le_bytes());
        data.extend(u32::MAX.to_le_bytes());
        let end = TransactionEnd { xid: 0, time: Timestamp::from_postgres(5), committed: false };
        assert_eq!(meaning(&header(1, 0xC0, 0), &with_main_data(&data), 18), Meaning::End(end));
        assert_eq!(meaning(&header(1, 0, 7), &[], 18), Meaning::Other);
        assert_eq!(meaning(&header(1, 0, 7), &[255, 4, 0, 0, 0, 0], 18), Meaning::Other);
        assert_eq!(meaning(&header(0, 0x70, 0), &with_main_data(&[1; 71]), 18), Meaning::Other);
        assert_eq!(meaning(&header(0, 0x70, 0), &[253], 18), Meaning::Other);
    }

    #[test]
    fn only_four_kinds_end_a_transaction() {
        let ends: Vec<u8> = (0..8).map(|op| op << 4).filter(|info| header(1, *info, 0).is_end_of_transaction()).collect();
        assert_eq!(ends, [0x00, 0x20, 0x30, 0x40]);
        assert!(!header(2, 0, 0).is_end_of_transaction());
    }
}
