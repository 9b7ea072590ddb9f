//! A standby that archives, too (archive_mode = always): what its primary has pushed is not sent a second time.

use crate::support::s3::on;
use crate::support::s3::proxy::Operation;
use crate::support::{Host, Outcome};
use crate::world::{Cluster, World};

#[test]
fn a_standby_sends_only_what_its_primary_has_not() {
    on(18, |pg, s3| {
        let service = s3.seaweed();
        let cluster = Cluster::build(pg, 3);
        let world = World::new(&service, "20s");
        let primary = world.data(&cluster, "primary");
        world.backup(&primary).ok();
        // A host of its own, enrolled by its first backup.
        let (standby, host) = (world.data(&cluster, "standby"), world.repository.host.another());
        world.backup_by(&host, &standby).ok();
        std::fs::write(standby.join("standby.signal"), "").unwrap();
        let push = |host: &Host, segment: &std::path::Path| {
            world.proxy.forget();
            let words = world.repository.arguments(["archive-push", segment.to_str().unwrap()]);
            let mut command = host.command(words);
            command.current_dir(&standby);
            let outcome = Outcome::of(command);
            let counts = world.proxy.counts();
            (outcome, counts.of_operation(Operation::Create) + counts.of_operation(Operation::Put), counts.up)
        };
        world.push(&primary, &cluster.wal[0]).ok();
        let stored = world.bucket.list("pg/wal/");
        assert_eq!(stored.len(), 1, "{stored:?}");

        let (outcome, puts, up) = push(&host, &cluster.wal[0]);
        outcome.ok();
        assert_eq!((puts, up), (0, 0), "what is there was sent again");
        assert_eq!(world.bucket.list("pg/wal/"), stored);

        let (outcome, puts, up) = push(&host, &cluster.wal[1]);
        outcome.ok();
        assert!(puts == 1 && up > 0, "{puts} PUTs, {up} bytes");
        assert_eq!(world.bucket.list("pg/wal/").len(), 2);

        // Other bytes under a name that the primary has pushed: another cluster's, or a line that was left.
        let mut bytes = std::fs::read(&cluster.wal[0]).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        let other = world.folder.join(cluster.name(0));
        std::fs::write(&other, bytes).unwrap();
        let (outcome, puts, up) = push(&host, &other);
        let outcome = outcome.code(1);
        assert!(outcome.stderr.contains(cluster.name(0)) && outcome.stderr.contains("other"), "{}", outcome.stderr);
        assert_eq!((puts, up), (0, 0));
        assert_eq!(world.bucket.list("pg/wal/").len(), 2);
        let (got, bytes) = world.get(cluster.name(0));
        got.ok();
        assert!(bytes == std::fs::read(&cluster.wal[0]).ok());
        world.is_whole();
    });
}
