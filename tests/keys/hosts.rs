//! Hosts by roles: what each may do, and what is left of a host that was removed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use pgcairn::crypt::ChunkRole;
use pgcairn::host::access::Opened;
use pgcairn::repo::log::{Begin, Forget, Held, Kind, LogError, PackSet, Packs, Void};
use pgcairn::units::{PackId, SessionId};

use crate::support::{Host, Outcome, ordinary};
use crate::world::{HISTORY, NEXT_SEGMENT, SEGMENTS, World, tree};
use crate::{holds, owner, restore, restores};

/// Enrols a host; it, and the grant's file.
#[track_caller]
fn enrol(world: &World, name: &str, roles: &str, clusters: &[&str]) -> (Host, String) {
    let grant = world.folder.join(format!("{name}.grant"));
    let grant = grant.to_str().unwrap().to_owned();
    let mut arguments = vec!["key", "add-host", "--role", roles, "--name", name, &grant];
    let clusters = clusters.join(",");
    if !clusters.is_empty() {
        arguments.extend(["--clusters", &clusters]);
    }
    owner(world, &arguments).ok().prints("SECRET").prints("key accept");
    assert_eq!(fs::metadata(&grant).unwrap().permissions().mode() & 0o777, 0o600);
    let host = Host::new();
    run(world, &host, &["key", "accept", &grant]).ok().prints("this host is enrolled").prints("Delete");
    (host, grant)
}

fn run(world: &World, host: &Host, arguments: &[&str]) -> Outcome {
    world.run_on(host, &world.repository(), arguments)
}

fn backup(world: &World, host: &Host, cluster: &str) -> Outcome {
    let mut arguments = world.backup_arguments();
    arguments.extend(["--cluster".to_owned(), cluster.to_owned()]);
    world.run_on(host, &world.repository(), arguments)
}

fn push(world: &World, host: &Host, name: &str) -> Outcome {
    run(world, host, &["archive-push", world.wal(name).to_str().unwrap()])
}

fn get(world: &World, host: &Host, name: &str) -> Outcome {
    let to = world.folder.folder("got").join(name);
    let _ = fs::remove_file(&to);
    run(world, host, &["archive-get", name, to.to_str().unwrap()])
}

/// Uses the library as a host does.
pub(crate) fn opened<R>(world: &World, host: &Host, use_it: impl FnOnce(&Arc<Opened>) -> R) -> R {
    use pgcairn::host::access::{Need, Place, open};
    use pgcairn::host::config::{RepositorySettings, RepositoryUrl};
    use pgcairn::host::{ProcessEnv, StateDir};
    use pgcairn::units::Quiet;
    let url = RepositoryUrl::parse(world.repository().as_os_str(), None).unwrap();
    let settings = RepositorySettings::at(url, None);
    let state = StateDir::open(Some(&host.home().join(".local/state/pgcairn")), &ProcessEnv, &Quiet).unwrap();
    let place =
        Place { watch: &pgcairn::store::s3::Watch::default(), repository: &settings, state: Some(&state), cache: None, progress: &Quiet };
    use_it(&Arc::new(open(&place, Need::Write).unwrap()))
}

fn append(opened: &Opened, kind: &Kind) -> Result<pgcairn::repo::log::Head, LogError> {
    opened.log().append(&mut opened.view(), opened.key().unwrap(), kind)
}

#[test]
fn a_writer_and_reader_of_one_cluster_keeps_to_it() {
    ordinary(|| {
        let mut world = World::empty();
        world.backup();
        let (host, grant) = enrol(&world, "db2", "writer,reader", &["main", "shop"]);
        backup(&world, &host, "shop").ok();
        backup(&world, &host, "crm").code(1).says("no writer for this cluster");
        push(&world, &host, SEGMENTS[0]).ok();
        run(&world, &host, &["--cluster", "crm", "archive-push", world.wal(SEGMENTS[1]).to_str().unwrap()]).code(1);
        restores(&world, &host, &[], 0);
        let list = run(&world, &host, &["key", "list", "--json"]).ok().json();
        let own = list["hosts"].as_array().unwrap().iter().find(|h| h["this_host"] == true).unwrap();
        assert_eq!(
            (&own["name"], &own["clusters"], &own["roles"]),
            (&"db2".into(), &serde_json::json!(["main", "shop"]), &serde_json::json!(["writer", "reader"]))
        );
        // Taken twice, or by somebody else who has the file: it is the same host.
        run(&world, &host, &["key", "accept", &grant]).ok().prints("took the new keys");
        // With the file at hand the same command changes nothing.
        let entries = world.objects();
        owner(&world, &["key", "add-host", "--role", "reader,writer", "--clusters", "main,shop", "--name", "db2", &grant])
            .ok()
            .prints("already");
        assert_eq!(world.objects(), entries);
        owner(&world, &["key", "add-host", "--role", "reader,writer,maintainer", "--name", "db2", &grant]).code(1).says("is there already");
        // No secret of a host is in the store.
        let text = fs::read_to_string(&grant).unwrap();
        let seed = text.split("\"signing_seed\":\"").nth(1).unwrap()[..64].to_owned();
        assert!(!holds(&world.repository(), seed.as_bytes()));
    });
}

#[test]
fn a_reader_restores_and_commits_nothing() {
    ordinary(|| {
        let mut world = World::empty();
        world.backup();
        push(&world, &world.host, SEGMENTS[0]).ok();
        let (host, _) = enrol(&world, "restorer", "reader", &[]);
        restores(&world, &host, &[], 0);
        get(&world, &host, SEGMENTS[0]).ok();
        run(&world, &host, &["verify"]).ok();
        let before = world.objects();
        backup(&world, &host, "main").code(1).says("no writer for this cluster");
        push(&world, &host, SEGMENTS[1]).code(1);
        assert_eq!(world.objects(), before);
        run(&world, &host, &["key", "list"]).ok().prints("can read everything in the repository, and change nothing");
    });
}

#[test]
fn a_writer_alone_reads_nothing() {
    ordinary(|| {
        let mut world = World::empty();
        world.backup();
        push(&world, &world.host, SEGMENTS[0]).ok();
        let (host, _) = enrol(&world, "writer", "writer", &["main"]);
        push(&world, &host, SEGMENTS[1]).ok();
        push(&world, &host, SEGMENTS[0]).ok();
        run(&world, &host, &["list"]).ok().prints(&world.snapshots[0].0);
        restore(&world, &host, &[], &world.snapshots[0].0).0.code(1).says("can't read here");
        get(&world, &host, SEGMENTS[0]).code(193).says("can't read here");
        run(&world, &host, &["cat", &world.snapshots[0].0, "PG_VERSION"]).code(1).says("can't read here");
        run(&world, &host, &["key", "list"]).ok().prints("can read no content").prints("until its key is revoked");
        assert!(!holds(&host.home().join(".local"), b"\"content_secret\":\""));
        opened(&world, &host, |opened| assert!(opened.opening.is_none() && opened.sealing.names_content()));
        // What it archived is read by those who read.
        get(&world, &world.host, SEGMENTS[1]).ok();
    });
}

#[test]
fn a_maintainer_alone_forgets_and_condemns_and_knows_no_content() {
    ordinary(|| {
        let mut world = World::empty();
        world.backup();
        world.backup();
        let (host, _) = enrol(&world, "janitor", "maintainer", &[]);
        let whole = world.opened(|opened, _| {
            let sealing = &opened.sealing;
            (sealing.chunk_id(ChunkRole::Structure, b"x"), sealing.chunk_id(ChunkRole::Content, b"x"))
        });
        opened(&world, &host, |opened| {
            assert!(opened.opening.is_none() && !opened.sealing.names_content());
            assert_eq!(opened.sealing.chunk_id(ChunkRole::Structure, b"x"), whole.0);
            assert_ne!(opened.sealing.chunk_id(ChunkRole::Content, b"x"), whole.1, "it can't confirm a guess");
            let first = *opened.view().fold.commits.keys().next().unwrap();
            append(opened, &Kind::Forget(Forget { commit: first, window: false })).unwrap();
            let packs: PackSet = [(SessionId([5; 16]), PackId([5; 16]))].into_iter().collect();
            append(opened, &Kind::Condemn(Packs { packs: Held::Inline(packs) })).unwrap();
            let begin = Begin {
                purpose: "backup".into(),
                cluster: Some("main".into()),
                system_identifier: Some(1),
                machine: "m".into(),
                ..Begin::default()
            };
            let denied = append(opened, &Kind::Begin(begin));
            assert!(matches!(denied, Err(LogError::Void { void: Void::Right(_), .. })), "{denied:?}");
        });
        assert!(!holds(&host.home().join(".local"), b"\"id_key\""));
        restore(&world, &host, &[], &world.snapshots[1].0).0.code(1).says("can't read here");
        push(&world, &host, SEGMENTS[0]).code(1);
        run(&world, &host, &["list"]).ok().prints(&world.snapshots[1].0);
        run(&world, &host, &["key", "list"]).ok().prints("can read no content, and forget and delete");
        restores(&world, &world.host, &[], 1);
    });
}

#[test]
fn more_rights_come_by_another_file() {
    ordinary(|| {
        let mut world = World::empty();
        world.backup();
        let (host, _) = enrol(&world, "db2", "maintainer", &["main"]);
        let more = world.folder.join("more");
        let more = more.to_str().unwrap();
        owner(&world, &["key", "add-host", "--role", "reader", "--clusters", "shop", "--name", "db2", more])
            .ok()
            .prints("reader, maintainer")
            .prints("It can read all clusters of this repository");
        let other = Host::new();
        run(&world, &other, &["key", "accept", more]).code(1).says("which this host does not have");
        let (stranger, _) = enrol(&world, "db3", "reader", &[]);
        run(&world, &stranger, &["key", "accept", more]).code(1).says("already has keys").says("forget-host");
        run(&world, &host, &["key", "accept", more]).ok().prints("took the new keys as db2: reader, maintainer for main, shop");
        restores(&world, &host, &[], 0);
        // By the newest keys alone nothing is widened.
        let same = world.folder.join("same");
        owner(&world, &["key", "add-host", "--role", "reader", "--name", "db2", same.to_str().unwrap()])
            .ok()
            .prints("for main, shop already");
        // A right by the log alone is no key: nothing is written under wrong names.
        let (janitor, _) = enrol(&world, "janitor", "maintainer", &[]);
        let (before, wider) = (world.folder.join("wider"), "writer,maintainer");
        owner(&world, &["key", "add-host", "--role", wider, "--name", "janitor", before.to_str().unwrap()]).ok();
        push(&world, &janitor, SEGMENTS[0]).code(1).says("a maintainer's keys alone").says("key accept");
        backup(&world, &janitor, "main").code(1).says("a maintainer's keys alone");
        run(&world, &janitor, &["key", "accept", before.to_str().unwrap()]).ok();
        push(&world, &janitor, SEGMENTS[0]).ok();
        // Rights are not taken by a file.
        let less = world.folder.join("less");
        owner(&world, &["key", "add-host", "--role", "reader", "--clusters", "shop", "--name", "db2", less.to_str().unwrap()])
            .ok()
            .prints("reader, maintainer for main, shop already");
    });
}

#[test]
fn a_grant_is_for_its_repository_and_no_older_log() {
    ordinary(|| {
        let world = World::empty();
        let old = world.copy("old");
        let (_, grant) = enrol(&world, "db2", "reader", &[]);
        let fresh = Host::new();
        world.run_on(&fresh, &old, ["key", "accept", &grant]).code(1).says("it is not enrolled");
        let other = World::empty();
        run(&other, &fresh, &["key", "accept", &grant]).code(1).says("is not the one");
        let text = fs::read_to_string(&grant).unwrap();
        let changed = crate::file(&world, "changed", &text.replacen("reader", "writer", 1));
        run(&world, &fresh, &["key", "accept", &changed]).code(2).says("checksum");
        run(&world, &fresh, &["key", "accept", "/does/not/exist"]).code(2).says("there is no such file");
        run(&world, &fresh, &["list"]).code(1).says("this host has no key");
        owner(&world, &["key", "add-host", "--role", "writer", "--clusters", "Bad Name", "--name", "x", "/tmp/x"]).code(2);
        owner(&world, &["key", "add-host", "--role", "king", "--name", "x", "/tmp/x"]).code(2).says("writer, reader, maintainer");
        // Revoked before it was taken.
        owner(&world, &["key", "remove-host", "db2"]).ok();
        run(&world, &fresh, &["key", "accept", &grant]).code(1).says("it was revoked");
    });
}

#[test]
fn what_a_removed_host_wrote_stays_and_what_it_writes_is_void() {
    ordinary(|| {
        let mut world = World::empty();
        let (host, _) = enrol(&world, "db2", "writer,reader", &[]);
        let made = backup(&world, &host, "main").ok().json();
        world.snapshots.push((made["id"].as_str().unwrap().to_owned(), tree(&world.data())));
        push(&world, &host, SEGMENTS[0]).ok();
        push(&world, &host, HISTORY).ok();
        let stolen = crate::stolen(&host);
        // Somebody holds the log back from it: it doesn't know of its end.
        let yesterday = world.copy("yesterday");
        let removed = owner(&world, &["key", "remove-host", "db2", "--json"]).ok().json();
        assert_eq!(removed["accepted"].as_array().unwrap().len(), 2, "{removed}");
        assert!(removed["accepted"].as_array().unwrap().iter().any(|end| end["last"] == SEGMENTS[0]), "{removed}");
        owner(&world, &["key", "remove-host", "db2"]).ok().prints("key rotate");
        backup(&world, &host, "main").code(1).says("it was revoked");
        push(&world, &host, SEGMENTS[1]).code(1).says("revoked");
        // Its entry and its segment all the same: void.
        let to = world.run_on(&host, &yesterday, ["archive-push", world.wal(SEGMENTS[1]).to_str().unwrap()]);
        to.code(1).says("set back");
        let object = world.objects().into_iter().find(|o| o.ends_with(SEGMENTS[0])).unwrap();
        world.run_on(&stolen, &yesterday, ["archive-push", world.wal(SEGMENTS[1]).to_str().unwrap()]).ok();
        let planted = object.replace(SEGMENTS[0], SEGMENTS[1]);
        fs::copy(yesterday.join(&planted), world.repository().join(&planted)).unwrap();
        get(&world, &world.host, SEGMENTS[1]).code(193).says("is missing from the archive");
        get(&world, &world.host, SEGMENTS[0]).ok();
        get(&world, &world.host, HISTORY).ok();
        push(&world, &world.host, SEGMENTS[1]).ok();
        get(&world, &world.host, SEGMENTS[1]).ok();
        push(&world, &world.host, NEXT_SEGMENT).ok();
        restores(&world, &world.host, &[], 0);
        restores(&world, &Host::new(), &[("PGCAIRN_KEY_FILE", world.key().as_os_str())], 0);
        run(&world, &world.host, &["key", "list"]).ok().prints("revoked by entry");
        // A new host of the old name is another one.
        let file = world.folder.join("db2.grant");
        let twice = ["key", "add-host", "--role", "reader", "--name", "db2", file.to_str().unwrap()];
        owner(&world, &twice).code(1).says("the key in it was revoked").says("delete it");
        fs::remove_file(file).unwrap();
        let (again, _) = enrol(&world, "db2", "reader", &[]);
        restores(&world, &again, &[], 0);
    });
}

#[test]
fn the_last_of_its_kind_and_oneself_are_removed_only_if_it_is_said_twice() {
    ordinary(|| {
        let world = World::empty();
        let name = {
            let list = world.run(["key", "list", "--json"]).ok().json();
            list["hosts"][0]["key"].as_str().unwrap().to_owned()
        };
        owner(&world, &["key", "remove-host", &name]).code(1).says("is this host").says("--yes");
        let admin = Host::new();
        let key = world.key();
        let by = [("PGCAIRN_KEY_FILE", key.as_os_str())];
        crate::with(&world, &admin, &by, &["key", "remove-host", &name[..8]]).code(1).says("last host that is writer, maintainer");
        enrol(&world, "db2", "writer,maintainer", &[]);
        crate::with(&world, &admin, &by, &["key", "remove-host", &name[..8]]).ok();
        owner(&world, &["key", "remove-host", "db2", "--yes"]).ok();
        owner(&world, &["key", "remove-host", "nobody"]).code(4).says("there is no host nobody");
        let list = crate::with(&world, &admin, &by, &["key", "list", "--json"]).ok().json();
        assert!(list["hosts"].as_array().unwrap().iter().all(|h| h["revoked"].is_u64() && h["wal_ended"] == true), "{list}");
    });
}
