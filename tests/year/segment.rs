//! WAL segments of 1 MiB that a server could have written: records whose lengths, links and checksums fit.

/// Bytes of a segment.
pub const SIZE: u64 = 1 << 20;
/// `XLOG_PAGE_MAGIC` of PostgreSQL 18.
const MAGIC: u16 = 0xD118;
const PAGE: usize = 8192;
/// The header of a segment's first page, and of another.
const LONG: usize = 40;
const SHORT: usize = 24;
/// Info bits of a page: it begins with the rest of a record; its header is the long one.
const CONTINUED: u16 = 1;
const IS_LONG: u16 = 2;
/// `XLOG_CHECKPOINT_SHUTDOWN`, `XLOG_NOOP`, `XLOG_SWITCH`
const CHECKPOINT: u8 = 0x00;
const NOOP: u8 = 0x20;
const SWITCH: u8 = 0x40;

/// Where the checkpoint lies that a segment begins with.
pub fn start(no: u64) -> u64 {
    no * SIZE + LONG as u64
}

/// Segment `no`: a shutdown checkpoint, then a record with this content, then the switch to the next. Without content it
/// ends behind the checkpoint, as of a server that is stopped.
pub fn segment(system: u64, no: u64, content: Option<&[u8]>) -> Vec<u8> {
    let mut writing = Writing { bytes: vec![0; SIZE as usize], system, no, at: 0, left: 0 };
    let before = start(no.saturating_sub(1));
    let checkpoint = writing.record(before, CHECKPOINT, &[7; 88]);
    if let Some(content) = content {
        let noop = writing.record(checkpoint, NOOP, content);
        writing.record(noop, SWITCH, &[]);
        while writing.at < SIZE as usize {
            writing.left = 0;
            writing.at = writing.at.next_multiple_of(PAGE);
            if writing.at < SIZE as usize {
                writing.page();
            }
        }
    }
    writing.bytes
}

/// The file's name on timeline 1.
pub fn name(no: u64) -> String {
    format!("00000001{:08X}{:08X}", no >> 12, no & 0xFFF)
}

struct Writing {
    bytes: Vec<u8>,
    system: u64,
    no: u64,
    at: usize,
    /// What is left of the record under way.
    left: usize,
}

impl Writing {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The header of the page that begins here.
    fn page(&mut self) {
        let (at, first) = (self.at, self.at == 0);
        let info = if first { IS_LONG } else { 0 } | if self.left > 0 { CONTINUED } else { 0 };
        self.put(at, &MAGIC.to_le_bytes());
        self.put(at + 2, &info.to_le_bytes());
        self.put(at + 4, &1u32.to_le_bytes());
        self.put(at + 8, &(self.no * SIZE + at as u64).to_le_bytes());
        self.put(at + 16, &(self.left as u32).to_le_bytes());
        if first {
            self.put(at + 24, &self.system.to_le_bytes());
            self.put(at + 32, &(SIZE as u32).to_le_bytes());
            self.put(at + 36, &(PAGE as u32).to_le_bytes());
        }
        self.at += if first { LONG } else { SHORT };
    }

    /// A record of the resource manager of XLOG; where it starts.
    fn record(&mut self, before: u64, info: u8, data: &[u8]) -> u64 {
        let mut record = vec![0; 24];
        if !data.is_empty() {
            match u8::try_from(data.len()) {
                Ok(len) => record.extend([255, len]),
                Err(_) => {
                    record.push(254);
                    record.extend((data.len() as u32).to_le_bytes());
                }
            }
            record.extend(data);
        }
        let len = record.len() as u32;
        record[..4].copy_from_slice(&len.to_le_bytes());
        record[8..16].copy_from_slice(&before.to_le_bytes());
        record[16] = info;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&record[24..]), &record[..20]);
        record[20..24].copy_from_slice(&crc.to_le_bytes());
        if self.at == 0 {
            self.page();
        }
        self.at = self.at.next_multiple_of(8);
        let start = self.no * SIZE + self.at as u64;
        let mut rest = &record[..];
        while !rest.is_empty() {
            if self.at.is_multiple_of(PAGE) {
                self.left = rest.len();
                self.page();
            }
            let now = rest.len().min(PAGE - self.at % PAGE);
            let at = self.at;
            self.put(at, &rest[..now]);
            self.at += now;
            rest = &rest[now..];
        }
        self.left = 0;
        start
    }
}
