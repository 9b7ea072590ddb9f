//! A standby that is fed by the archive, its promotion, and what goes into the archive by it.

use super::{Marks, count, segments};
use crate::support::{self, Repository, Server, Stop, TestDir, wait_until};

#[test]
fn a_standby_follows_is_promoted_and_archives_on() {
    support::on(18, |pg| {
        let repository = Repository::init();
        let mut primary = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
        primary.pgbench_init(1);
        let marks = Marks::create(&primary);
        repository.backup(&primary, &[]);
        let target = TestDir::new();
        let to = target.join("standby");
        let said = repository
            .run(["restore", "--to", to.to_str().unwrap(), "--standby", "--recovery-option", "wal_retrieve_retry_interval=100ms"])
            .ok();
        assert!(said.stdout.lines().last().unwrap().contains("archiving is as in"), "{}", said.report());
        assert!(to.join("standby.signal").exists() && !to.join("recovery.signal").exists());
        support::verify_backup(pg, &to);
        let mut standby = Server::build(pg).host(&repository.host).over(&to);
        standby.start();
        let follows = |standby: &Server, wanted: &str| {
            wait_until("the standby to follow", || {
                standby.try_sql("postgres", "select count(*) from marks").is_ok_and(|count| count == wanted)
            });
        };
        for i in 1..=2 {
            marks.mark(i);
            marks.archived();
            follows(&standby, &i.to_string());
        }
        assert_eq!(standby.sql("postgres", "select pg_is_in_recovery(), current_setting('archive_mode')"), "t|on");

        // No backups of it yet: neither while it runs, nor stopped.
        repository.try_backup(&standby, &["--wal", "copy"]).code(1).says("standby").says("back up the primary");
        standby.stop(Stop::Fast);
        repository.run(["backup", "--offline", "--pgdata", to.to_str().unwrap()]).code(1).says("stopped standby");
        standby.start();
        // Its position is no measure for the archive.
        let status = repository.run(["archive", "status", "--json", "--dsn", &standby.dsn("postgres")]).ok().json();
        assert!(status.get("lag").is_none(), "{status}");

        // It streams what is not archived; then the primary is lost in the middle of a segment.
        standby.set("primary_conninfo", &primary.dsn("postgres"));
        wait_until("streaming", || primary.sql("postgres", "select count(*) from pg_stat_replication where state = 'streaming'") == "1");
        let three = marks.mark(3);
        follows(&standby, "3");
        // Reading sets hint bits, which are logged as well.
        let end = primary.sql("postgres", "select pg_current_wal_insert_lsn()");
        wait_until("all of it on the standby", || standby.sql("postgres", &format!("select pg_last_wal_replay_lsn() >= '{end}'")) == "t");
        let unfinished = primary.sql("postgres", &format!("select pg_walfile_name('{end}')"));
        primary.stop(Stop::Immediate);
        standby.sql("postgres", "select pg_promote()");
        standby.await_promotion();
        assert_eq!(standby.pgbench_sums(), three.sums);

        // Its history, the unfinished segment, and the label of the backup are in the archive.
        let marks = Marks { server: &standby };
        marks.archived();
        let label = std::fs::read_dir(primary.data().join("pg_wal")).unwrap().flatten();
        let label = label.map(|e| e.file_name().into_string().unwrap()).find(|name| name.ends_with(".backup")).expect("a backup's label");
        let dest = target.join("got");
        for name in ["00000002.history", &label, &format!("{unfinished}.partial")] {
            repository.run(["archive-get", name, dest.to_str().unwrap()]).ok();
            let original = std::fs::read(to.join("pg_wal").join(name)).or_else(|_| std::fs::read(primary.data().join("pg_wal").join(name)));
            assert!(std::fs::read(&dest).unwrap() == original.unwrap(), "{name} is not what was archived");
        }
        repository.run(["archive-get", &unfinished, dest.to_str().unwrap()]).code(1);
        let status = repository.run(["archive", "status", "--json"]).ok().json();
        assert_eq!((&status["timelines"][0]["live"], &status["timelines"][1]["live"]), (&false.into(), &true.into()), "{status}");

        a_gap_on_the_second_timeline(&repository, &standby, &target);
    });
}

fn a_gap_on_the_second_timeline(repository: &Repository, promoted: &Server, target: &TestDir) {
    let marks = Marks { server: promoted };
    let before = segments(repository);
    for i in 4..=6 {
        marks.mark(i);
        marks.archived();
    }
    let new: Vec<_> = segments(repository).into_iter().filter(|path| !before.contains(path)).collect();
    let lost = &new[new.len() - 2];
    let name = lost.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("00000002"), "{name}");
    std::fs::remove_file(lost).unwrap();
    let status = repository.run(["archive", "status", "--json"]).code(3).json();
    assert_eq!(status["timelines"][1]["gaps"][0]["from"], name, "{status}");
    let acknowledge = |timeline: &str, name: &str| {
        repository.run(["archive", "acknowledge", "--timeline", timeline, "--from", name, "--to", name, "--reason", "a disk was full"])
    };
    acknowledge("1", name).code(2).says("not on timeline 1");
    acknowledge("1", &name.replacen("00000002", "00000001", 1)).code(1).says("not a gap");
    repository.run(["archive", "status"]).code(3).prints(&format!("GAP on timeline 2: {name}"));
    acknowledge("2", name).ok();
    let status = repository.run(["archive", "status"]).ok();
    status.prints(&format!("known gap on timeline 2: {name}: a disk was full")).prints("take a backup now");
    repository.run(["restore", "--to", target.join("x").to_str().unwrap()]).code(1).says(name);
    repository.backup(promoted, &[]);
    assert_eq!(count(promoted), "6");
    repository.run(["restore", "--to", target.join("x").to_str().unwrap()]).ok();
}
