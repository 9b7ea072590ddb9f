//! A made-up cluster that goes on for a year: a data directory of a stopped server, whose pages change each day.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::segment::{self, segment};

/// Pages of a table's file.
const PAGES: u32 = 128;
/// Pages that the table grows by to which rows are added, each day.
const GROWTH: u32 = 20;
/// Its first name; others follow.
const APPENDED: u32 = 30_000;
/// Content of a day's WAL segment that can't be compressed.
const WAL: usize = 200_000;

/// Numbers that are the same in each run.
pub struct Dice(pub u64);

impl Dice {
    /// Evenly from 0 to 1 (splitmix64).
    pub fn draw(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A file of a relation.
struct Table {
    name: u32,
    /// How likely a page changes on a day.
    heat: f64,
    /// How often each page was changed.
    pages: Vec<u32>,
    bytes: Vec<u8>,
}

impl Table {
    /// Changes the page, or adds it.
    fn change(&mut self, n: usize) {
        if n == self.pages.len() {
            self.pages.push(0);
            self.bytes.extend([0; 8192]);
        }
        self.pages[n] += 1;
        self.bytes[n * 8192..][..8192].copy_from_slice(&page(self.name, n as u32, self.pages[n]));
    }
}

/// The cluster.
pub struct Cluster {
    folder: PathBuf,
    system: u64,
    tables: Vec<Table>,
    dice: Dice,
    /// The segment that begins with the last checkpoint.
    pub segment: u64,
    hashes: BTreeMap<PathBuf, blake3::Hash>,
}

impl Cluster {
    /// Of so many tables of 1 MiB. How often each is changed has a heavy tail: in a few most pages change each day, in most a
    /// page now and then.
    pub fn new(folder: &Path, tables: u32) -> Cluster {
        let table = |n: u32| {
            let heat = (1.6 / f64::from(n + 1).powf(1.2)).min(0.9);
            let mut table = Table { name: 16_384 + n, heat, pages: Vec::new(), bytes: Vec::new() };
            (0..PAGES as usize).for_each(|page| table.change(page));
            table
        };
        let fixture = control_fixture();
        let system = u64::from_le_bytes(fixture[..8].try_into().unwrap());
        let mut cluster = Cluster {
            folder: folder.to_owned(),
            system,
            tables: (0..tables).map(table).collect(),
            dice: Dice(5),
            segment: 16,
            hashes: BTreeMap::new(),
        };
        for path in ["global", "base/5", "pg_wal", "pg_tblspc"] {
            fs::create_dir_all(cluster.data().join(path)).unwrap();
        }
        cluster.write("PG_VERSION", b"18\n", 0);
        cluster.write("base/5/PG_VERSION", b"18\n", 0);
        cluster.write("postgresql.conf", b"port = 5432\n", 0);
        for at in 0..cluster.tables.len() {
            cluster.write_table(at, 0);
        }
        cluster.stop(0);
        cluster
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// What each file holds that a backup takes.
    pub fn hashes(&self) -> BTreeMap<PathBuf, blake3::Hash> {
        self.hashes.clone()
    }

    /// A day's work, ended by a clean stop at `now`; the segment that is to be archived.
    pub fn work(&mut self, now: i64) -> PathBuf {
        for at in 0..self.tables.len() {
            let (table, dice) = (&mut self.tables[at], &mut self.dice);
            let changed: Vec<usize> = (0..table.pages.len()).filter(|_| dice.draw() < table.heat).collect();
            changed.iter().for_each(|page| table.change(*page));
            if !changed.is_empty() {
                self.write_table(at, now);
            }
        }
        self.append(now);
        let name = segment::name(self.segment);
        let path = self.folder.join("wal").join(&name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, segment(self.system, self.segment, Some(&noise(self.segment, WAL)))).unwrap();
        self.segment += 1;
        self.stop(now);
        path
    }

    /// Rows are added at the end of the newest file of the table that grows.
    fn append(&mut self, now: i64) {
        let files = self.tables.iter().filter(|t| t.name >= APPENDED).count() as u32;
        let last = self.tables.last().filter(|t| t.name >= APPENDED && t.pages.len() < 4 * PAGES as usize);
        if last.is_none() {
            self.tables.push(Table { name: APPENDED + files, heat: 0.0, pages: Vec::new(), bytes: Vec::new() });
        }
        let at = self.tables.len() - 1;
        let table = &mut self.tables[at];
        (0..GROWTH).for_each(|_| table.change(table.pages.len()));
        self.write_table(at, now);
    }

    /// The state of a stopped server: its control file, and the segment with its last checkpoint.
    fn stop(&mut self, now: i64) {
        let mut control = control_fixture();
        for at in [32, 40] {
            control[at..at + 8].copy_from_slice(&segment::start(self.segment).to_le_bytes());
        }
        control[24..32].copy_from_slice(&now.to_le_bytes());
        let crc = crc32c::crc32c(&control[..292]);
        control[292..296].copy_from_slice(&crc.to_le_bytes());
        control.resize(8192, 0);
        self.write("global/pg_control", &control, now);
        let old = self.data().join("pg_wal").join(segment::name(self.segment - 1));
        if old.exists() {
            fs::remove_file(old).unwrap();
            self.hashes.remove(&Path::new("pg_wal").join(segment::name(self.segment - 1)));
        }
        let bytes = segment(self.system, self.segment, None);
        self.write(&format!("pg_wal/{}", segment::name(self.segment)), &bytes, now);
    }

    fn write_table(&mut self, at: usize, now: i64) {
        let name = format!("base/5/{}", self.tables[at].name);
        let bytes = std::mem::take(&mut self.tables[at].bytes);
        self.write(&name, &bytes, now);
        self.tables[at].bytes = bytes;
    }

    fn write(&mut self, name: &str, bytes: &[u8], now: i64) {
        let path = self.data().join(name);
        fs::write(&path, bytes).unwrap();
        let time = UNIX_EPOCH + Duration::from_secs(u64::try_from(now).unwrap());
        File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        self.hashes.insert(PathBuf::from(name), blake3::hash(bytes));
    }
}

/// A page that a server would take: half of it can't be compressed.
fn page(table: u32, n: u32, times: u32) -> Vec<u8> {
    let mut page = vec![0; 8192];
    let seed = u64::from(table) << 40 | u64::from(n) << 20 | u64::from(times);
    page[12..14].copy_from_slice(&24u16.to_le_bytes());
    page[14..16].copy_from_slice(&(8192u16 - 4096).to_le_bytes());
    page[16..18].copy_from_slice(&8192u16.to_le_bytes());
    page[18..20].copy_from_slice(&0x2004u16.to_le_bytes());
    page[4096..].copy_from_slice(&noise(seed, 4096));
    let checksum = pgcairn::pg::checksum::page_checksum(&page, n).unwrap();
    page[8..10].copy_from_slice(&checksum.to_le_bytes());
    page
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn control_fixture() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pg/18/pg_control");
    fs::read(&path).unwrap_or_else(|_| zstd::decode_all(&fs::read(path.with_added_extension("zst")).unwrap()[..]).unwrap())
}
