//! Configuration files outside the data directory: kept, restored beside or inside, and the restored server uses the copies.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::started::{Started, picture};
use crate::support::{Host, Outcome, Postgres, Repository, Server, Stop, TestDir};

const KEY: &str = "-----BEGIN PRIVATE KEY-----\nSECRETSECRETSECRET\n-----END PRIVATE KEY-----\n";

/// A server whose configuration lies in folders of its own, as Debian's does.
struct Elsewhere {
    server: Server,
    etc: PathBuf,
    opt: PathBuf,
}

fn write(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

impl Elsewhere {
    fn start(pg: &Postgres, repository: &Repository) -> Self {
        let setup = Server::build(pg).host(&repository.host).archive(&repository.archive_command());
        let mut server = setup.create();
        let (etc, opt) = (server.folder("etc"), server.folder("opt"));
        let (data, here) = (server.data().display().to_string(), etc.display().to_string());
        let conf = fs::read_to_string(server.data().join("postgresql.conf")).unwrap();
        let run = server.folder("run");
        let places = format!(
            "data_directory = '{data}'\nhba_file = '{here}/pg_hba.conf'\nident_file = '{here}/pg_ident.conf'\n\
             external_pid_file = '{}/story.pid'\nlog_directory = '{}'\n\
             include_dir = 'conf.d'\ninclude_dir = 'empty.d'\ninclude '{}/more.conf'\ninclude_if_exists '/nowhere/x.conf'\n",
            run.display(),
            run.display(),
            opt.display()
        );
        let hosts = if pg.major < 19 { String::new() } else { format!("hosts_file = '{here}/pg_hosts.conf'\n") };
        write(&etc.join("postgresql.conf"), &(conf + &places + &hosts));
        fs::remove_file(server.data().join("postgresql.conf")).unwrap();
        write(&etc.join("conf.d/10-work.conf"), "work_mem = '7MB'\ninclude 'deeper/more.inc'\n");
        write(&etc.join("conf.d/deeper/more.inc"), "maintenance_work_mem = '17MB'\n");
        write(&etc.join("conf.d/nothing.conf"), "# nothing is set here\n");
        fs::create_dir(etc.join("empty.d")).unwrap();
        write(&opt.join("more.conf"), "vacuum_cost_limit = 321\n");
        write(&opt.join("users"), "postgres\n");
        write(&etc.join("pg_hba.conf"), &format!("local all @{}/users trust\nlocal all all reject\n", opt.display()));
        write(&etc.join("pg_ident.conf"), "story a b\n");
        if pg.major >= 19 {
            write(&etc.join("pg_hosts.conf"), "# nobody by another name\n");
            let _ = fs::remove_file(server.data().join("pg_hosts.conf"));
        }
        fs::remove_file(server.data().join("pg_hba.conf")).unwrap();
        fs::remove_file(server.data().join("pg_ident.conf")).unwrap();
        server.set_option("config_file", etc.join("postgresql.conf").to_str().unwrap());
        server.start();
        // The server doesn't read it again: it would not start with it.
        write(&etc.join("conf.d/tls.conf"), KEY);
        Elsewhere { server, etc, opt }
    }

    fn picture(&self) -> Vec<(PathBuf, Vec<u8>, std::time::SystemTime)> {
        [picture(&self.etc), picture(&self.opt)].concat()
    }
}

fn restore(repository: &Repository, to: &Path, sockets: &Path, more: &[&str]) -> (Host, Outcome) {
    let socket = format!("unix_socket_directories={}", sockets.display());
    let mut all = vec!["--json", "--recovery-option", &socket, "--recovery-option", "port=5432", "--recovery-option", "listen_addresses="];
    all.extend(more);
    repository.restore(to, &all)
}

fn check_in_force(started: &Started<'_>, below: &[&Path]) {
    let hosts = started.sql("select count(*) from pg_settings where name = 'hosts_file'") == "1";
    for (setting, value) in [("work_mem", "7MB"), ("maintenance_work_mem", "17MB"), ("vacuum_cost_limit", "321"), ("archive_mode", "off")] {
        assert_eq!(started.sql(&format!("show {setting}")), value, "{setting}");
    }
    let mut files: Vec<String> =
        ["config_file", "hba_file", "ident_file", "data_directory"].map(|name| started.sql(&format!("show {name}"))).into();
    files.extend(hosts.then(|| started.sql("show hosts_file")));
    files.extend(started.sql("select distinct sourcefile from pg_file_settings").lines().map(str::to_owned));
    files.extend(started.sql("select distinct sourcefile from pg_settings where sourcefile is not null").lines().map(str::to_owned));
    for file in &files {
        assert!(below.iter().any(|folder| Path::new(file).starts_with(folder)), "{file} is the original's: {files:?}");
    }
    assert_eq!(started.sql("select count(*) from pg_file_settings where error is not null"), "0");
    assert_eq!(started.sql("select count(*) from pg_hba_file_rules where error is null and 'postgres' = any (user_name)"), "1");
    assert_eq!(started.sql("show external_pid_file"), "");
    assert_eq!(started.sql("show log_directory"), "log");
}

/// Below the repository in clear nothing of the key may stand; packs are compressed, so the snapshot is restored and looked
/// through instead.
fn holds_no_key(folder: &Path) {
    for (path, content, _) in picture(folder) {
        assert!(!content.windows(6).any(|w| w == b"SECRET"), "{} holds a key", path.display());
    }
}

crate::on_majors!(files_elsewhere_come_back_beside_the_data: pg15 15, pg18 18, pg19 19);

fn files_elsewhere_come_back_beside_the_data(pg: &Postgres) {
    let repository = Repository::init();
    let there = Elsewhere::start(pg, &repository);
    there.server.sql("postgres", "create table t as select generate_series(1, 1000) i");
    let backed_up = repository.try_backup(&there.server, &[]).ok();
    let backed_up = backed_up.says("tls.conf is not in the snapshot: it holds a private key");
    let id = backed_up.json()["id"].as_str().unwrap().to_owned();
    there.server.await_archived(&there.server.switch_wal());
    let show: Value = repository.run(["show", &id, "--json"]).ok().json();
    let files: Vec<&str> = show["configuration"]["files"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    let expected = ["postgresql.conf", "conf.d/10-work.conf", "conf.d/deeper/more.inc", "conf.d/nothing.conf"].map(|f| there.etc.join(f));
    for file in expected.iter().chain([&there.opt.join("more.conf"), &there.opt.join("users"), &there.etc.join("pg_hba.conf")]) {
        assert!(files.contains(&file.to_str().unwrap()), "{} of {files:?}", file.display());
    }
    let hosts = there.etc.join("pg_hosts.conf");
    assert_eq!(files.contains(&hosts.to_str().unwrap()), pg.major >= 19, "{files:?}");
    assert!(show["configuration"]["missing"][0]["path"].as_str().unwrap().ends_with("conf.d/tls.conf"), "{show}");
    let before = there.picture();

    let target = TestDir::new();
    // A name that has to be quoted for both shells.
    let to = target.join("it's a data folder");
    let sockets = target.folder("s");
    let (_host, restored) = restore(&repository, &to, &sockets, &[]);
    let restored = restored.says("tls.conf is not in the snapshot").json();
    let config = target.join("it's a data folder.config");
    assert_eq!(restored["config_files"]["folder"], config.to_str().unwrap());
    crate::support::verify_backup(pg, &to);
    holds_no_key(&config);
    assert!(!to.join("postgresql.conf").exists() && config.join("restored.conf").exists());
    {
        let started = Started::by(pg, restored["start_command"].as_str().unwrap(), &to, &sockets);
        check_in_force(&started, &[&to, &config]);
        assert_eq!(started.sql("select count(*) from t"), "1000");
    }
    assert!(there.picture() == before, "the originals were touched");

    // Once more to the same place: the copies of before are kept.
    fs::remove_dir_all(&to).unwrap();
    restore(&repository, &to, &sockets, &[]);
    let names: Vec<String> = fs::read_dir(target.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name.starts_with("it's a data folder.config.old-")), "{names:?}");

    // Something else in the way is no place for them.
    fs::create_dir_all(target.join("two.config/x")).unwrap();
    let (_host, refused) = repository.try_restore(&target.join("two"), &[]);
    refused.code(1).says("--config-files");
    assert!(!target.join("two").exists() && target.join("two.config/x").exists());

    // Into the data directory: that can be moved, and is started as any other.
    let (_host, restored) = restore(&repository, &target.join("three"), &sockets, &["--config-files", "inside"]);
    let command = restored.json()["start_command"].as_str().unwrap().to_owned();
    assert_eq!(command, format!("pg_ctl -D {} start", target.join("three").display()));
    crate::support::verify_backup(pg, &target.join("three"));
    assert!(!target.join("three.config").exists());
    let moved = target.join("moved");
    fs::rename(target.join("three"), &moved).unwrap();
    {
        let started = Started::by(pg, &format!("pg_ctl -D {} start", moved.display()), &moved, &sockets);
        check_in_force(&started, &[&moved]);
    }
    assert!(there.picture() == before, "the originals were touched");
}

#[test]
fn a_backup_without_rights_says_what_it_did_not_see() {
    crate::support::on(18, |pg| {
        let repository = Repository::init();
        let there = Elsewhere::start(pg, &repository);
        let sql = |text: &str| there.server.sql("postgres", text);
        sql("create role least login");
        for function in ["pg_backup_start(text, boolean)", "pg_backup_stop(boolean)", "pg_control_system()"] {
            sql(&format!("grant execute on function {function} to least"));
        }
        sql("create database closed");
        sql("revoke connect on database closed from public");
        write(&there.opt.join("users"), "postgres\nleast\n");
        sql("select pg_reload_conf()");
        let dsn = there.server.dsn("postgres").replace("user=postgres", "user=least");
        let data = there.server.data().to_str().unwrap().to_owned();
        let backup = repository.run(["backup", "--json", "--dsn", &dsn, "--pgdata", &data]).ok();
        let id = backup.says("pg_read_all_settings").json()["id"].as_str().unwrap().to_owned();
        let show: Value = repository.run(["show", &id, "--json"]).ok().json();
        assert_eq!(show["configuration"], Value::Null);
        let databases = show["databases"].as_array().unwrap();
        let unknown = |name: &str| databases.iter().find(|d| d["name"] == name).unwrap()["unknown"].clone();
        assert_eq!((unknown("closed"), unknown("template0")), ("denied".into(), "no-connections".into()));
        assert_eq!(unknown("postgres"), Value::Null);
    });
}

#[test]
fn a_stopped_cluster_keeps_what_its_own_files_name() {
    crate::support::on(15, |pg| {
        let repository = Repository::init();
        let mut server = Server::build(pg).create();
        let etc = server.folder("etc");
        write(&etc.join("hba.conf"), "local all all trust\n");
        write(&etc.join("more.conf"), "work_mem = '7MB'\n");
        let conf = server.data().join("postgresql.conf");
        let text = fs::read_to_string(&conf).unwrap();
        let more = format!("hba_file = '{0}/hba.conf'\ninclude '{0}/more.conf'\n", etc.display());
        fs::write(&conf, text + &more).unwrap();
        server.start();
        server.stop(Stop::Fast);
        let data = server.data().to_str().unwrap().to_owned();
        repository.run(["backup", "--offline", "--pgdata", &data]).ok();
        fs::remove_dir_all(&etc).unwrap();
        let target = TestDir::new();
        let (to, sockets) = (target.join("data"), target.folder("s"));
        let (_host, restored) = restore(&repository, &to, &sockets, &[]);
        let started = Started::by(pg, restored.json()["start_command"].as_str().unwrap(), &to, &sockets);
        assert_eq!(started.sql("show work_mem"), "7MB");
        assert!(started.sql("show hba_file").starts_with(to.to_str().unwrap()));
        drop(started);

        // Without its postgresql.conf nothing more can be known.
        fs::remove_file(&conf).unwrap();
        repository.run(["backup", "--offline", "--pgdata", &data]).ok().says("has no postgresql.conf");
    });
}
