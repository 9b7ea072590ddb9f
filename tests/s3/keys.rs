//! Key slots in a bucket: a removal that is cut short between the log's word and the deletion.

use crate::support::s3::ordinary;
use crate::support::s3::proxy::Operation;
use crate::world::World;

#[test]
fn a_slot_whose_deletion_was_refused_is_nobodys_way_in_and_goes_when_it_is_removed_again() {
    ordinary(|s3| {
        let service = s3.seaweed();
        let world = World::new(&service, "2s");
        let file = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        let (first, second) = (file(&world.repository.key_file()), file(&world.folder.join("second.key")));
        let added = world.run(&["key", "add", "--json", "--key-file", &second, "--with-key-file", &first]).ok().json();
        let slots = || world.run(&["key", "list", "--json"]).ok().json()["slots"].as_array().unwrap().clone();
        let id = |slot: &serde_json::Value| slot["slot"].as_str().unwrap().to_owned();
        let second_id = id(&added);
        let first_id = slots().iter().map(id).find(|id| *id != second_id).unwrap();
        let remove = |slot: &str| world.run(&["key", "remove", slot, "--with-key-file", &first, "--with-key-file", &second]);

        world.proxy.refuse(|seen| seen.operation == Operation::Delete);
        remove(&first_id).code(1).says("AccessDenied");
        world.proxy.refuse(|_| false);
        let is_going = |id: &str| slots().iter().any(|slot| slot["slot"] == *id && slot["removing"].is_u64());
        assert!(is_going(&first_id) && !is_going(&second_id));
        // Both lie in the bucket still.
        assert_eq!(world.bucket.list("pg/key/").len(), 2);
        remove(&second_id).code(1).says("such as are being removed").says("key add");
        remove(&first_id).ok();
        assert_eq!(world.bucket.list("pg/key/"), [format!("pg/key/{second_id}")]);
        let elsewhere = world.repository.host.another();
        world.repository.run_on(&elsewhere, ["--key-file", &second, "list"]).ok();
    });
}
