//! Judging pages on the way: a wrong one is read again before it counts as damaged.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::work::FileWork;
use super::{Pages, Shared};
use crate::backup::BackupError;
use crate::backup::damage::DamagedPage;
use crate::backup::source::SourceFile;
use crate::pg::page::{PageVerdict, check_page};

/// A wrong page is read again this often, at these intervals: the server may be in the middle of writing it.
pub(super) const AGAIN: [Duration; 5] = [
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
];
/// Where so many pages of a file are wrong, it is no race: each further one is read again once.
const PLENTY: u32 = 16;

/// Judges the pages of `bytes`, which were read at `offset`, a multiple of the page size; those that are right when they
/// are read again take their place.
pub(super) fn check(
    shared: &Shared<'_>,
    work: &FileWork,
    file: &dyn SourceFile,
    pages: &Pages,
    offset: u64,
    bytes: &mut [u8],
) -> Result<(), BackupError> {
    let copy = shared.copy;
    let size = copy.page_size as usize;
    for (number, page) in bytes.chunks_exact_mut(size).enumerate() {
        let in_file = offset / u64::from(copy.page_size) + number as u64;
        let block = pages.first_block.wrapping_add(in_file as u32);
        let mut verdict = check_page(page, block, copy.start_lsn, copy.checksums);
        let pauses = if work.wrong.load(Ordering::Relaxed) < PLENTY { AGAIN.as_slice() } else { &[Duration::ZERO] };
        for pause in pauses {
            if !matches!(verdict, PageVerdict::Bad(_)) {
                break;
            }
            copy.cancel.check()?;
            std::thread::sleep(*pause);
            let mut again = vec![0; size];
            if file.read_at(&mut again, in_file * u64::from(copy.page_size)).map_err(|e| work.error(e))? == size {
                page.copy_from_slice(&again);
                verdict = check_page(page, block, copy.start_lsn, copy.checksums);
            }
        }
        let damaged = |why: String| DamagedPage { path: work.job.shown.clone(), fork: pages.fork.into(), block, why };
        match verdict {
            PageVerdict::Bad(fault) => {
                work.wrong.fetch_add(1, Ordering::Relaxed);
                copy.damage.add(damaged(fault.to_string()));
            }
            PageVerdict::OddNew => copy.damage.add(damaged("it is marked as new, and is not empty".into())),
            PageVerdict::Newer { lsn } => copy.damage.claims(lsn, || damaged(format!("its LSN {lsn} lies beyond the end of WAL"))),
            PageVerdict::New | PageVerdict::Fine => {}
        }
    }
    Ok(())
}
