//! Sixteen processes append to one log at once: nothing is lost, nothing forks, and all read one order.

use std::collections::BTreeSet;
use std::time::Instant;

use pgcairn::repo::log::Head;

use crate::support::race::{Racer, take_part};
use crate::support::{Host, Repository, full, ordinary};

const PROCESSES: usize = 16;
const HOSTS: usize = 8;

#[test]
fn sixteen_processes_in_a_folder_get_one_order() {
    ordinary(|| {
        let each = if full() { 200 } else { 63 };
        let repository = Repository::init();
        let hosts: Vec<Host> = (0..HOSTS).map(|_| Host::new()).collect();
        let start = |host: &Host, name, count| Racer::start(host, &repository.url(), &repository.key_file(), name, count);
        let began = Instant::now();
        let mut racers: Vec<Racer> = (0..PROCESSES).map(|number| start(&hosts[number % HOSTS], number, each)).collect();
        let acknowledged: Vec<Head> = racers.iter_mut().flat_map(Racer::acknowledged).collect();
        println!("{} entries of {PROCESSES} processes in {:?}", acknowledged.len(), began.elapsed());
        let numbers: BTreeSet<u64> = acknowledged.iter().map(|head| head.number).collect();
        assert_eq!((acknowledged.len(), numbers.len()), (PROCESSES * each, PROCESSES * each), "each has a number of its own");
        let mut digests: BTreeSet<String> = racers.into_iter().map(Racer::digest).collect();
        // Who wasn't there reads the same.
        let mut late = start(&hosts[0], PROCESSES, 0);
        assert_eq!(late.acknowledged(), []);
        digests.insert(late.digest());
        assert_eq!(digests.len(), 1, "not all read the same: {digests:?}");
    });
}

/// What a process does: called by others.
#[test]
#[ignore = "called by others"]
fn as_a_process_of_its_own() {
    take_part();
}
