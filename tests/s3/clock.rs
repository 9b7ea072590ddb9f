//! A host whose clock is wrong, and connections that the service has ended while nothing was asked.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use jiff::SignedDuration;

use crate::support::s3::{S3, on};
use crate::world::{Cluster, World, digest};

/// Backup, push, get, restore; what comes back is what there was.
#[track_caller]
fn whole_road(world: &World, cluster: &Cluster) {
    let data = world.data(cluster, "data");
    let wanted = digest(&data);
    let snapshot = world.backup(&data).ok().json()["id"].as_str().unwrap().to_owned();
    world.push(&data, &cluster.wal[0]).ok();
    let (outcome, bytes) = world.get(cluster.name(0));
    outcome.ok();
    assert!(bytes == std::fs::read(&cluster.wal[0]).ok());
    world.restores(&snapshot, &wanted);
}

/// The service refuses what was signed for another time, and says its own: that is enough for each command.
#[test]
fn a_host_whose_clock_is_wrong_is_served() {
    on(18, |pg, s3: &S3| {
        let service = s3.seaweed();
        let cluster = Cluster::build(pg, 1);
        let world = World::before_init(&service, "5s");
        world.proxy.clock(SignedDuration::from_mins(8));
        world.init().ok();
        whole_road(&world, &cluster);
        let records = world.proxy.records();
        let skewed = records.iter().filter(|r| r.served.is_none() && r.status == Some(403)).count();
        // The first of each of five processes, and those that were under way with it.
        assert!(skewed >= 5 && skewed * 3 < records.len(), "{skewed} of {}", records.len());
    });
}

#[test]
fn idle_connections_that_have_died_are_in_nobody_s_way() {
    on(18, |pg, s3: &S3| {
        let service = s3.seaweed();
        let cluster = Cluster::build(pg, 1);
        let world = World::new(&service, "60s");
        // So that there is time between two requests.
        world.proxy.latency(Duration::from_millis(2), Duration::from_millis(8));
        let (done, dropped) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    dropped.fetch_add(world.proxy.drop_idle_connections(), Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(4));
                }
            });
            let road = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                whole_road(&world, &cluster);
            }));
            done.store(true, Ordering::SeqCst);
            if let Err(panic) = road {
                std::panic::resume_unwind(panic);
            }
        });
        assert!(dropped.load(Ordering::SeqCst) >= 5, "{dropped:?}");
    });
}
