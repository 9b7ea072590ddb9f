//! `verify --read-data` where many reads run at once: all that is damaged is named, and all that isn't is read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::support::s3::on;
use crate::support::s3::proxy::Operation;
use crate::world::{Cluster, World, noise};

#[test]
fn damage_in_several_packs_is_named_with_its_snapshots_however_late_the_store_answers() {
    on(18, |pg, s3| {
        let service = s3.seaweed();
        let cluster = Cluster::build(pg, 1);
        let world = World::new(&service, "20s");
        let data = world.data(&cluster, "data");
        let mut known = BTreeSet::new();
        // By the snapshot that stored them, the largest first.
        let snapshots: Vec<(String, Vec<String>)> = (0..5)
            .map(|seed| {
                std::fs::write(data.join("noise"), noise(seed, 900_000)).unwrap();
                let id = world.backup(&data).ok().json()["id"].as_str().unwrap().to_owned();
                let mut new: Vec<String> = world.bucket.list("pg/pack/").into_iter().filter(|key| known.insert(key.clone())).collect();
                new.sort_by_key(|key| std::cmp::Reverse(world.bucket.get(key).unwrap().len()));
                (id, new)
            })
            .collect();
        let pack = |n: usize| snapshots[n].1.first().expect("a pack").clone();
        let id = |n: usize| snapshots[n].0.as_str();
        world.is_whole();

        // What all rely on; what the second stored; all of the third's; the table of the fourth's.
        let change = |key: &str, places: fn(usize) -> Vec<usize>| {
            let mut bytes = world.bucket.get(key).unwrap();
            places(bytes.len()).into_iter().for_each(|at| bytes[at] ^= 4);
            world.bucket.put(key, bytes);
        };
        change(&pack(0), |len| (0..len * 4 / 5).step_by(10_000).collect());
        change(&pack(1), |len| vec![len / 3]);
        world.bucket.delete(&pack(2));
        change(&pack(3), |len| vec![len - 60]);
        let hit: BTreeSet<String> = (0..4).map(|n| pack(n).strip_prefix("pg/").unwrap().to_owned()).collect();

        let mut seen: Vec<BTreeMap<String, BTreeSet<String>>> = Vec::new();
        for (latency, jitter) in [(0, 0), (40, 60)] {
            world.proxy.latency(Duration::from_millis(latency), Duration::from_millis(jitter));
            world.proxy.forget();
            let outcome = world.run(&["verify", "--read-data", "--json"]);
            let verified = outcome.code(1).json();
            assert_eq!(verified["ok"], false, "{verified}");
            let names = |value: &serde_json::Value| value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect();
            let findings = verified["errors"].as_array().unwrap();
            let found: BTreeMap<String, BTreeSet<String>> =
                findings.iter().map(|f| (f["object"].as_str().unwrap().to_owned(), names(&f["snapshots"]))).collect();
            assert_eq!(found.keys().cloned().collect::<BTreeSet<_>>(), hit, "{verified}");
            let of = |n: usize| &found[pack(n).strip_prefix("pg/").unwrap()];
            for (n, snapshot) in [(1, id(1)), (2, id(2)), (3, id(3))] {
                assert_eq!(*of(n), [snapshot.to_owned()].into(), "{verified}");
            }
            assert!(of(0).contains(id(0)) && of(0).contains(id(4)), "{verified}");
            // Nothing was passed over.
            let records = world.proxy.records().into_iter();
            let read: BTreeSet<String> = records.filter(|r| r.seen.operation == Operation::Get).map(|r| r.seen.key).collect();
            assert!(known.iter().all(|key| read.contains(key)), "{read:?}");
            seen.push(found);
        }
        assert_eq!(seen[0], seen[1]);
    });
}
