//! Retention on real servers: what goes by policy and by id, what is held, and that all that stays restores.

#[path = "../support/mod.rs"]
mod support;

use serde_json::Value;
use support::{Host, Outcome, Postgres, Repository, Server, TestDir, verify_backup, wait_until};

/// A cluster with an archive, backed up so many times with a mark before each.
struct World {
    repository: Repository,
    server: Server,
    ids: Vec<String>,
}

impl World {
    fn new(pg: &Postgres, backups: usize) -> World {
        let repository = Repository::init();
        let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
        server.sql("postgres", "create table marks as select i, md5(i::text) from generate_series(-20000, 0) i");
        let mut world = World { repository, server, ids: Vec::new() };
        (0..backups).for_each(|_| world.backup(&[]));
        world
    }

    fn backup(&mut self, more: &[&str]) {
        self.server.sql("postgres", &format!("insert into marks values ({})", self.ids.len() + 1));
        let snapshot = self.repository.backup(&self.server, more);
        self.ids.push(snapshot["id"].as_str().unwrap().to_owned());
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        self.repository.run(arguments)
    }

    /// The numbers of the snapshots that are there, by the order in which they were taken.
    fn there(&self) -> Vec<usize> {
        let listed = self.run(&["list", "--json"]).ok().json();
        let all = listed["snapshots"].as_array().unwrap();
        all.iter().map(|s| self.ids.iter().position(|id| s["id"] == id.as_str()).unwrap()).collect()
    }

    fn entries(&self) -> usize {
        std::fs::read_dir(self.repository.path().join("log")).unwrap().count()
    }

    /// Each that is there comes back as it was.
    fn all_restore(&self, pg: &Postgres) {
        for n in self.there() {
            let target = TestDir::new();
            let to = target.join("data");
            let (host, outcome) = self.repository.try_restore(&to, &[&self.ids[n], "--target-immediate", "--target-action", "promote"]);
            outcome.ok();
            verify_backup(pg, &to);
            let mut restored = Server::build(pg).host(&host).over(&to);
            restored.start();
            wait_until("the end of recovery", || restored.sql("postgres", "select pg_is_in_recovery()") == "f");
            assert_eq!(restored.sql("postgres", "select max(i) from marks"), (n + 1).to_string());
        }
    }
}

fn snapshots(answer: &Value) -> Vec<(bool, Vec<String>)> {
    let texts = |value: &Value| value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect();
    answer["clusters"][0]["snapshots"].as_array().unwrap().iter().map(|s| (s["action"] == "keep", texts(&s["reasons"]))).collect()
}

fn by_policy_and_by_id(pg: &Postgres) {
    let mut world = World::new(pg, 3);
    world.backup(&["--label", "why=release"]);
    (0..2).for_each(|_| world.backup(&[]));
    // Nothing said, nothing forgotten; and a backup says so.
    world.run(&["forget"]).code(2).says("there is no policy").says("--keep-last");
    world.run(&["forget", "--keep-min", "2"]).code(2);
    world.run(&["forget", "--keep-within", "14"]).code(2).says("14d");
    world.run(&["forget", "latest", "--keep-last", "2"]).code(2);
    world.run(&["forget", "20991231"]).code(4);
    world.repository.try_backup(&world.server, &["--label", "x"]).code(2);

    // A dry run says it all and changes nothing, on a host without rights too.
    let before = world.entries();
    let arguments = ["forget", "--keep-last", "2", "--keep-label", "why=release", "--dry-run", "--json"];
    let dry = world.run(&[&arguments[..], &["--exact"]].concat()).ok().json();
    assert_eq!((&dry["version"], &dry["dry_run"]), (&1.into(), &true.into()));
    let none = Vec::<String>::new;
    let decided = snapshots(&dry);
    assert_eq!(decided[..3], [(false, none()), (false, none()), (false, none())], "{dry}");
    assert_eq!(decided[3], (true, vec!["label why=release".to_owned()]));
    assert_eq!(decided[5], (true, vec!["last 2".to_owned(), "keep-min 1".to_owned()]));
    let cluster = &dry["clusters"][0];
    assert_eq!(
        (&cluster["kept"], &cluster["forgotten"], &cluster["policy"]),
        (&3.into(), &3.into(), &"keep-last 2, keep-label why=release, keep-min 1".into())
    );
    assert_eq!(cluster["restorable"].as_array().unwrap().len(), 3, "{dry}");
    assert!(dry["freed"]["wal"].as_u64() > Some(0) && dry["freed"]["exact"].is_u64() && dry["freed"]["packs"].is_u64(), "{dry}");
    let key = world.repository.key_file();
    let stranger = Host::new();
    let as_stranger = ["--key-file", key.to_str().unwrap()].into_iter().chain(arguments);
    assert_eq!(snapshots(&world.repository.run_on(&stranger, as_stranger).ok().json()), decided);
    assert_eq!((world.entries(), world.there().len()), (before, 6));
    world.run(&arguments[..6]).ok().prints("label why=release").prints("would go").prints("no rule keeps it").prints("restorable from");

    // Held ones stay.
    world.run(&["hold", "add", &world.ids[0]]).code(2);
    world.run(&["hold", "add", &world.ids[0], "--reason", "lawsuit"]).ok().prints("is held");
    world.run(&["hold", "list"]).ok().prints(&world.ids[0]).prints("lawsuit");
    assert_eq!(world.run(&["hold", "list", "--json"]).ok().json()["holds"][0]["reason"], "lawsuit");
    world.run(&["forget", &world.ids[0]]).code(1).says("is held: lawsuit").says("hold remove");
    let done = world.run(&arguments[..5]).ok().prints("2 forgotten").prints("prune gives back");
    assert!(!done.stdout.contains("\nkeep "), "only what changes is shown\n{}", done.report());
    assert_eq!(world.there(), [0, 3, 4, 5]);
    let again = world.entries();
    world.run(&arguments[..5]).ok();
    assert_eq!(world.entries(), again, "a second run has nothing to do");
    assert_eq!(world.run(&["show", &world.ids[0], "--json"]).ok().json()["held"], "lawsuit");
    world.run(&["hold", "remove", &world.ids[0]]).ok().prints("no longer held");
    world.run(&["hold", "remove", &world.ids[0]]).ok().prints("is not held");
    world.run(&["forget", &world.ids[0]]).ok();
    assert_eq!(world.there(), [3, 4, 5]);

    // By id nothing goes below keep-min, nor the last one that was proven.
    world.run(&["forget", "latest", "latest~1", "latest~2"]).code(1).says("keep-min is 1");
    world.run(&["forget", "latest", "--keep-min", "3"]).code(1).says("2 good snapshots");
    world.run(&["verify", "--read-data"]).ok();
    world.backup(&[]);
    world.run(&["forget", &world.ids[3], &world.ids[4], &world.ids[5]]).code(1).says("verify of all data");
    assert_eq!(world.run(&["forget", "--keep-last", "1", "--json"]).ok().json()["clusters"][0]["forgotten"], 2);
    assert_eq!(world.there(), [5, 6], "the last proven one, and the newest");
    world.all_restore(pg);
    world.run(&["verify", "--read-data"]).ok();
}

on_majors!(by_policy_and_by_id: pg15 15, pg18 18);

/// Older snapshots keep just the WAL that makes them consistent, and restore as themselves.
fn a_window_is_shortened(pg: &Postgres) {
    let mut world = World::new(pg, 2);
    let config = world.repository.host.home().join("c.toml");
    let write = |text: &str| std::fs::write(&config, format!("[cluster.main]\n{text}")).unwrap();
    // The third is the newest that is older than the window.
    world.backup(&[]);
    std::thread::sleep(std::time::Duration::from_secs(4));
    world.backup(&[]);
    write("pitr-window = '3s'\nkeep-last = 9\n");
    let file = ["--config", config.to_str().unwrap(), "forget", "--json"];
    let done = world.run(&file).ok().json();
    let wal: Vec<&str> = done["clusters"][0]["snapshots"].as_array().unwrap().iter().map(|s| s["wal"].as_str().unwrap()).collect();
    assert_eq!((&done["clusters"][0]["narrowed"], &done["clusters"][0]["forgotten"]), (&2.into(), &0.into()), "{done}");
    assert_eq!(wal, ["window", "window", "full", "full"]);
    let windows = done["clusters"][0]["restorable"].as_array().unwrap();
    assert!(windows[..2].iter().all(|w| w["to_lsn"] == w["from_lsn"]) && windows[2]["to_lsn"] != windows[2]["from_lsn"], "{done}");
    assert_eq!(world.run(&file).ok().json()["clusters"][0]["narrowed"], 0);
    world.run(&file[..3]).ok().prints("0 forgotten, 4 stay");
    world.all_restore(pg);
    // A policy that keeps one keeps the base of the window as well.
    write("pitr-window = '1h'\nkeep-last = 1\n");
    world.run(&file).ok();
    assert_eq!(world.there(), [3], "none is an hour old: there is no base");
    world.all_restore(pg);
}

on_majors!(a_window_is_shortened: pg15 15, pg18 18);

/// What cannot be counted on does not count; and what verify says is seen.
#[test]
fn only_good_ones_count() {
    support::on(18, |pg| {
        let mut world = World::new(pg, 1);
        // The archive is broken for two backups: neither can be restored.
        let archive = world.server.sql("postgres", "show archive_command");
        world.server.sql("postgres", "alter system set archive_command = 'false'");
        world.server.sql("postgres", "select pg_reload_conf()");
        for _ in 0..2 {
            world.server.sql("postgres", "insert into marks values (0)");
            let snapshot = world.repository.try_backup(&world.server, &["--wal-timeout", "1s"]).code(3).json();
            world.ids.push(snapshot["id"].as_str().unwrap().to_owned());
        }
        let dry = world.run(&["forget", "--keep-last", "1", "--dry-run", "--json"]).ok().json();
        assert_eq!(dry["clusters"][0]["snapshots"][2]["good"], false, "{dry}");
        world.run(&["forget", &world.ids[0]]).code(1).says("0 good snapshots");
        world.run(&["forget", "--keep-last", "1"]).ok().prints("no rule keeps it; not good: it waits for");
        assert_eq!(world.there(), [0, 2]);
        // Verify notes that it is bad; once its WAL has come, that it is good.
        world.run(&["verify"]).code(1);
        let evidence = |n: usize| world.run(&["show", &world.ids[n], "--json"]).ok().json()["evidence"].clone();
        if evidence(2)["ok"] != false {
            panic!("{}", evidence(2));
        }
        world.server.sql("postgres", &format!("alter system set archive_command = '{}'", archive.replace('\'', "''")));
        world.server.sql("postgres", "select pg_reload_conf()");
        let segment = world.server.switch_wal();
        world.server.await_archived(&segment);
        world.run(&["verify"]).ok();
        assert_eq!(
            (&evidence(2)["ok"], &evidence(2)["detail"], &evidence(2)["what"]),
            (&true.into(), &"objects only".into(), &"verify".into())
        );
        let entries = world.entries();
        world.run(&["verify"]).ok();
        assert_eq!(world.entries(), entries, "the same, so soon, is not noted again");
        world.run(&["verify", "--read-data"]).ok();
        assert_eq!(evidence(2)["detail"], "read 100 %");
        world.run(&["verify"]).ok();
        assert!(evidence(2)["detail"].as_str().unwrap().starts_with("objects only; read 100 % in log/"), "{}", evidence(2));
        world.run(&["list"]).ok().prints("good 20");
        world.run(&["show", "latest"]).ok().prints("verified ");
        // A damaged pack: what relies on it is bad, and that nobody has read since doesn't make it good.
        let packs = files(&world.repository.path().join("pack"));
        let largest = packs.iter().max_by_key(|p| p.metadata().unwrap().len()).unwrap();
        let whole = std::fs::read(largest).unwrap();
        let mut rotten = whole.clone();
        let middle = rotten.len() / 2;
        rotten[middle] ^= 1;
        std::fs::write(largest, &rotten).unwrap();
        world.run(&["verify", "--read-data"]).code(1);
        assert_eq!(evidence(0)["ok"], false, "{}", evidence(0));
        world.run(&["list"]).ok().prints("BAD 20");
        world.run(&["verify"]).ok();
        assert_eq!(evidence(0)["ok"], false, "{}", evidence(0));
        std::fs::write(largest, &whole).unwrap();
        // The log lists the place as damaged, and goes on doing so; what was brought back and read is good all the same.
        let good = || {
            let dry = world.run(&["forget", "--keep-last", "9", "--dry-run", "--json"]).ok().json();
            dry["clusters"][0]["snapshots"].as_array().unwrap().iter().map(|s| s["good"] == true).collect::<Vec<_>>()
        };
        world.run(&["verify"]).ok();
        assert!(good().contains(&false), "nobody has read it yet");
        world.run(&["verify", "--read-data"]).ok();
        assert_eq!(evidence(0)["ok"], true, "{}", evidence(0));
        assert!(!good().contains(&false), "{:?}", good());
        // Behind a log that has rotted nothing is written.
        let newest = world.repository.path().join(format!("log/{}", world.entries() - 1));
        let mut bytes = std::fs::read(&newest).unwrap();
        bytes[150] ^= 1;
        let good = std::fs::read(&newest).unwrap();
        std::fs::write(&newest, bytes).unwrap();
        let entries = world.entries();
        world.run(&["verify"]).code(1);
        assert_eq!(world.entries(), entries);
        std::fs::write(&newest, good).unwrap();
        world.run(&["verify"]).ok();
    });
}

/// Who may not, can't; the owner's slot can; the policies of several clusters are their own.
#[test]
fn rights_and_clusters() {
    support::on(18, |pg| {
        let mut world = World::new(pg, 2);
        let server = world.server.dsn("postgres");
        let other = ["--cluster", "other", "backup", "--wal", "copy", "--json", "--dsn", &server];
        let other_ids: Vec<String> = (0..3).map(|_| world.run(&other).ok().json()["id"].as_str().unwrap().to_owned()).collect();
        // A second host is enrolled as writer and reader: it may neither forget nor hold.
        let key = world.repository.key_file();
        let slot = ["--key-file", key.to_str().unwrap()];
        let second = Host::new();
        let of_main = ["--cluster", "main", "backup", "--json", "--dsn", &server];
        world.repository.run_on(&second, slot.iter().chain(&of_main)).ok();
        let ids = world.ids.clone();
        let forget = ["--cluster", "main", "forget", "--keep-last", "1"];
        world.repository.run_on(&second, forget).code(1).says("no maintainer's").says("--key-file");
        world.repository.run_on(&second, ["hold", "add", &ids[0], "--reason", "x"]).code(1).says("no maintainer's");
        world.repository.run_on(&second, slot.iter().chain(&forget)).ok();
        assert!(!world.run(&["list"]).ok().stdout.contains(&ids[0]));
        // Each cluster by its own policy; one without is left alone.
        let config = world.repository.host.home().join("c.toml");
        std::fs::write(&config, "[cluster.main]\n[cluster.other]\nkeep-last = 1\n").unwrap();
        let file = ["--config", config.to_str().unwrap(), "forget"];
        world.run(&[&file[..], &["--dry-run"]].concat()).ok().says("cluster main has no policy").prints("cluster other: keep-last 1");
        world.run(&file).ok();
        let left = |id: &String| {
            let listed = world.run(&["list", "--json"]).ok().json();
            listed["snapshots"].as_array().unwrap().iter().any(|s| s["id"] == id.as_str())
        };
        assert!(left(&ids[1]) && !left(&other_ids[0]) && !left(&other_ids[1]) && left(&other_ids[2]));
        std::fs::write(&config, "keep-last = 1\n[cluster.main]\n").unwrap();
        world.run(&file).ok().says("cluster other is not in the configuration");
        assert_eq!(world.run(&["list", "--json"]).ok().json()["snapshots"].as_array().unwrap().len(), 3, "one is the other host's burst");
        world.ids.clear();
        // A configured policy is not spoken of.
        let quiet = ["--config", config.to_str().unwrap(), "--cluster", "main", "backup", "--json", "--dsn", &server];
        assert!(!world.run(&quiet).ok().stderr.contains("retention"));
        world.run(&of_main).ok().says("no retention policy is configured for cluster main");
    });
}

/// Many hosts at once, each with a right to forget one: the last good one stays.
#[test]
fn forgets_at_once_leave_enough() {
    support::on(18, |pg| {
        let mut world = World::new(pg, 5);
        let spawn = |id: &String| {
            let mut command = world.repository.host.command(world.repository.arguments(["forget", id]));
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        };
        let running: Vec<_> = world.ids.iter().map(spawn).collect();
        let ended: Vec<_> = running.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
        let count = |code: i32| ended.iter().filter(|e| e.status.code() == Some(code)).count();
        assert_eq!((world.there().len(), count(0), count(1) + count(3)), (1, 4, 1), "{ended:?}");
        // And by policy: what one forgets, the others find gone.
        (0..3).for_each(|_| world.backup(&[]));
        let policy = || world.repository.host.command(world.repository.arguments(["forget", "--keep-last", "2"])).spawn().unwrap();
        let running: Vec<_> = (0..3).map(|_| policy()).collect();
        for mut child in running {
            assert!(matches!(child.wait().unwrap().code(), Some(0 | 3)));
        }
        assert_eq!(world.there(), [6, 7]);
        world.all_restore(pg);
    });
}

fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.metadata().unwrap().is_dir() { all.extend(files(&entry.path())) } else { all.push(entry.path()) }
    }
    all
}
