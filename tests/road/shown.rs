//! What `backup`, `list`, `show` and `restore` say: to scripts the fields of the contract, to people what they look for.

use serde_json::Value;

use crate::support::{Repository, Server, TestDir};

/// All these fields are there, whatever is in them.
fn has(value: &Value, fields: &str) {
    for field in fields.split_whitespace() {
        assert!(value.get(field).is_some(), "no field {field}: {value}");
    }
}

const SNAPSHOT: &str = "id cluster kind started_at finished_at start_lsn stop_lsn timeline pg_version system_identifier cluster_bytes \
                        read_bytes changed_bytes new_bytes files damaged_pages parent waits_for labels";

#[test]
fn scripts_and_people_read_what_was_done() {
    crate::support::on(18, |pg| {
        let repository = Repository::init();
        let server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).start();
        server.sql("postgres", "create table t as select generate_series(1, 1000) i");
        let space = server.folder("space");
        server.sql("postgres", &format!("create tablespace far location '{}'", space.display()));
        let backup = repository.backup(&server, &["--label", "why=release"]);
        has(&backup, SNAPSHOT);
        has(&backup, "version log");
        let (number, hash) = (backup["log"]["number"].as_u64().unwrap(), backup["log"]["hash"].as_str().unwrap());
        assert!(number > 1 && hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{backup}");
        let identifier = server.sql("postgres", "select system_identifier from pg_control_system()");
        assert_eq!(backup["system_identifier"], identifier.as_str());
        assert_eq!(backup["pg_version"], server.sql("postgres", "show server_version").split(' ').next().unwrap());
        let id = backup["id"].as_str().unwrap();

        let list = repository.run(["list", "--json"]).ok().json();
        assert_eq!(list["version"], 1);
        has(&list["snapshots"][0], SNAPSHOT);
        for field in SNAPSHOT.split_whitespace() {
            assert_eq!(list["snapshots"][0][field], backup[field], "{field}");
        }
        let show = repository.run(["show", id, "--json"]).ok().json();
        has(&show, SNAPSHOT);
        let name = |lsn: &Value| server.sql("postgres", &format!("select pg_walfile_name('{}')", lsn.as_str().unwrap()));
        assert_eq!(show["wal"]["first"], name(&backup["start_lsn"]).as_str());
        assert_eq!(show["wal"]["last"], name(&backup["stop_lsn"]).as_str());
        let tablespace = &show["tablespaces"][0];
        assert_eq!((&tablespace["name"], &tablespace["path"]), (&"far".into(), &space.to_str().unwrap().into()));
        assert!(tablespace["oid"].as_u64().is_some_and(|oid| oid > 16383), "{show}");

        // For people: a second one, of which next to nothing is new.
        let data = server.data().to_str().unwrap().to_owned();
        let text = repository.run(["backup", "--dsn", &server.dsn("postgres"), "--pgdata", &data, "--label", "k=v"]).ok();
        let second = text.stdout.lines().next().unwrap().to_owned();
        let shown = repository.run(["show", &second, "--json"]).ok().json();
        let lsns = [shown["start_lsn"].as_str().unwrap(), shown["stop_lsn"].as_str().unwrap()];
        let text = lsns.iter().fold(text, |text, lsn| text.prints(lsn)).prints("timeline 1").prints("(1 : ").prints("new, stored in");
        // The log's head in the form that --expect takes.
        let head = text.stdout.lines().find_map(|line| line.trim().strip_prefix("log ")).unwrap().split(' ').next().unwrap().to_owned();
        let page = repository.run(["show", &second]).ok().prints(&second).prints(lsns[0]).prints(lsns[1]).prints("k=v").prints(&identifier);
        page.prints(id).prints("far at").prints("in the archive").prints(shown["wal"]["first"].as_str().unwrap());
        let table = repository.run(["list"]).ok().prints("why=release").prints(id).prints(&second).prints(lsns[0]);
        assert!(table.stdout.find(id) < table.stdout.find(&second), "the newest is last\n{}", table.report());

        let target = TestDir::new();
        let spaces = target.join("spaces");
        let restore = |name: &str, more: &[&str]| {
            let to = target.join(name);
            let own = ["restore", "--to", to.to_str().unwrap(), "--tablespace-root", spaces.to_str().unwrap(), "--expect", &head];
            repository.run(own.iter().chain(more).copied()).ok()
        };
        let restored = restore("one", &["--json", id, "--target-immediate"]).json();
        has(&restored, "version snapshot to bytes written_bytes seconds target start_command archive_mode files");
        assert_eq!((&restored["version"], &restored["snapshot"], &restored["archive_mode"]), (&1.into(), &id.into(), &"off".into()));
        assert_eq!(restored["to"], target.join("one").to_str().unwrap());
        assert!(restored["written_bytes"].as_u64() <= restored["bytes"].as_u64() && restored["seconds"].as_f64() > Some(0.0), "{restored}");
        let start = restored["start_command"].as_str().unwrap();
        assert_eq!(start, format!("pg_ctl -D {} start", target.join("one").display()));
        let aim = &restored["target"];
        assert_eq!((&aim["type"], &aim["action"], &aim["timeline"]), (&"immediate".into(), &"pause".into(), &1.into()));

        std::fs::remove_dir_all(&spaces).unwrap();
        let text = restore("two", &["--target-lsn", shown["stop_lsn"].as_str().unwrap(), "--archive-mode", "off"]);
        let text = text.prints(&format!("restored {second}")).prints(&format!("pg_ctl -D {} start", target.join("two").display()));
        let text = text.prints("pg_wal_replay_resume").prints("tablespace far");
        let last = text.stdout.lines().last().unwrap();
        assert!(last.contains("archiving is off") && last.contains("archive_mode = off") && last.contains("turn it on"), "{last}");

        std::fs::remove_dir_all(&spaces).unwrap();
        let text = restore("three", &["--standby"]).prints("standby");
        assert!(text.stdout.lines().last().unwrap().contains("archiving is as in the cluster's own configuration"), "{}", text.report());
        assert!(target.join("three/standby.signal").exists() && !target.join("three/recovery.signal").exists());
    });
}
