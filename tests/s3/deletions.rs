//! One of the deletions of a prune is refused by the service, or gets no answer, while others are under way.

use crate::support::s3::on;
use crate::support::s3::proxy::{Fault, Operation};
use crate::world::{Cluster, World, digest, noise};

#[test]
fn one_deletion_that_fails_is_named_and_the_next_prune_finishes() {
    on(18, |pg, s3| {
        let service = s3.seaweed();
        let cluster = Cluster::build(pg, 1);
        let world = World::new(&service, "2s");
        let data = world.data(&cluster, "data");
        let mut ids: Vec<String> = (0..6)
            .map(|seed| {
                std::fs::write(data.join("noise"), noise(seed, 900_000)).unwrap();
                world.backup(&data).ok().json()["id"].as_str().unwrap().to_owned()
            })
            .collect();
        let (last, wanted) = (ids.pop().unwrap(), digest(&data));
        for id in &ids {
            world.run(&["forget", "--keep-min", "0", id]).ok();
        }
        let prune = || {
            world.proxy.forget();
            world.run(&["prune", "--max-rewrite", "0"])
        };
        let deleted = || {
            let records = world.proxy.records().into_iter();
            records.filter(|r| r.seen.operation == Operation::Delete).map(|r| r.seen.key).collect::<Vec<_>>()
        };
        let packs = || world.bucket.list("pg/pack/");
        let before = packs();
        world.proxy.refuse(|seen| seen.operation.deletes());
        prune().code(1).says("403 AccessDenied");
        assert_eq!(packs(), before);
        let bad = deleted().pop().expect("a deletion");

        // One of them is refused, or never answered: the rest is deleted or left, and nothing of the live snapshot is touched.
        let name = bad.strip_prefix("pg/").unwrap().to_owned();
        let refused = bad.clone();
        world.proxy.refuse(move |seen| seen.operation.deletes() && seen.key == refused);
        prune().code(1).says(&name).says("403 AccessDenied");
        assert!(packs().contains(&bad));
        world.restores(&last, &wanted);
        world.proxy.refuse(|_| false);
        let silent = bad.clone();
        world.proxy.plan(move |seen| match seen.operation.deletes() && seen.key == silent {
            true => Fault::Error(503, "SlowDown"),
            false => Fault::None,
        });
        let outcome = prune().code(1).says(&name);
        assert!(outcome.stderr.contains("SlowDown"), "{}", outcome.stderr);
        assert!(packs().contains(&bad));
        world.restores(&last, &wanted);

        world.proxy.calm();
        prune().ok();
        let left = packs();
        assert!(!left.contains(&bad) && left.len() < before.len(), "{left:?}");
        prune().ok();
        assert!(deleted().is_empty() && packs() == left, "nothing is left to delete");
        world.restores(&last, &wanted);
        world.is_whole();
    });
}
