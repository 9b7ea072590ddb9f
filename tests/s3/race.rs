//! Sixteen processes append to one log in a bucket at once, and answers are lost: nothing is lost, nothing forks, and all read
//! one order.

use std::collections::BTreeSet;
use std::time::Instant;

use pgcairn::repo::log::Head;

use crate::support::race::{Racer, take_part};
use crate::support::s3::ordinary;
use crate::support::s3::proxy::{Fault, Operation};
use crate::support::{Host, full};
use crate::world::World;

const PROCESSES: usize = 16;

#[test]
fn sixteen_processes_get_one_order() {
    ordinary(|s3| {
        let service = s3.seaweed();
        let world = World::new(&service, "300s");
        // Now and then an answer is lost, or a create meets another.
        world.proxy.plan(|seen| match (seen.operation, seen.index % 60) {
            (Operation::Create, 7) => Fault::ResetAfterRequest,
            (Operation::Create, 17) => Fault::ErrorAfter(500, "InternalError"),
            (Operation::Create, 27) => Fault::Error(409, "ConditionalRequestConflict"),
            (Operation::Create, 37) => Fault::Twice,
            _ => Fault::None,
        });
        let each = if full() { 63 } else { 6 };
        let hosts: Vec<Host> = (0..4).map(|_| world.repository.host.another()).collect();
        let start = |host: &Host, name, count| Racer::start(host, &world.repository.url(), &world.repository.key_file(), name, count);
        let began = Instant::now();
        let mut racers: Vec<Racer> = (0..PROCESSES).map(|n| start(&hosts[n % hosts.len()], n, each)).collect();
        let acknowledged: Vec<Head> = racers.iter_mut().flat_map(Racer::acknowledged).collect();
        let took = began.elapsed();
        let numbers: BTreeSet<u64> = acknowledged.iter().map(|head| head.number).collect();
        assert_eq!((acknowledged.len(), numbers.len()), (PROCESSES * each, PROCESSES * each), "each has a number of its own");
        let mut digests: BTreeSet<String> = racers.into_iter().map(Racer::digest).collect();
        let elsewhere = world.repository.host.another();
        let mut stranger = start(&elsewhere, PROCESSES, 0);
        assert_eq!(stranger.acknowledged(), []);
        digests.insert(stranger.digest());
        assert_eq!(digests.len(), 1, "not all read the same: {digests:?}");
        let (creates, total) = (world.proxy.counts().of_operation(Operation::Create), world.proxy.counts().total());
        println!("{} entries in {took:?}: {creates} creates, {total} requests", acknowledged.len());
        // What the service lists is one line without a hole; the hosts' enrolments are in it.
        let mut log: Vec<u64> = world.bucket.list("pg/log/").iter().map(|key| key["pg/log/".len()..].parse().unwrap()).collect();
        log.sort();
        assert_eq!(log, (0..log.len() as u64).collect::<Vec<_>>());
        assert!(log.len() > acknowledged.len() + hosts.len());
    });
}

/// What a process does: called by others.
#[test]
#[ignore = "called by others"]
fn as_a_process_of_its_own() {
    take_part();
}
