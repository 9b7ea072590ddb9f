//! `ls`, `cat`, `diff`, `stats`: what a snapshot holds, what changed, and where the space goes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::on_majors;
use crate::support::{Outcome, Postgres, Repository, Server, TestDir, bytes_below};

fn path_of(server: &Server, database: &str, relation: &str) -> String {
    server.sql(database, &format!("select pg_relation_filepath('{relation}')"))
}

fn entries(answer: &Value) -> BTreeMap<String, Value> {
    let path = |entry: &Value| entry["path"].as_str().unwrap().to_owned();
    answer["entries"].as_array().unwrap().iter().map(|entry| (path(entry), entry.clone())).collect()
}

/// All files of a restored data directory that a snapshot has, by their paths.
fn files_below(folder: &Path, prefix: &str, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        if std::fs::metadata(entry.path()).unwrap().is_dir() {
            files_below(&entry.path(), &format!("{path}/"), found);
        } else {
            found.insert(path, std::fs::read(entry.path()).unwrap());
        }
    }
}

fn looks_into_snapshots(pg: &Postgres) {
    let repository = Repository::init();
    let mut server = Server::build(pg).host(&repository.host).archive(&repository.archive_command()).create();
    // A configuration file that lies elsewhere, as Debian's do.
    let hba = server.folder("etc").join("pg_hba.conf");
    std::fs::rename(server.data().join("pg_hba.conf"), &hba).unwrap();
    let conf = server.data().join("postgresql.conf");
    let settings = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, format!("{settings}\nhba_file = '{}'\n", hba.display())).unwrap();
    server.start();
    let space = server.folder("space");
    server.sql("postgres", &format!("create tablespace far location '{}'", space.display()));
    server.sql("postgres", "create table t as select i, md5(i::text) v from generate_series(1, 90000) i");
    // Else whoever looks at a row first changes its page.
    server.sql("postgres", "vacuum freeze t");
    server.sql("postgres", "create table gone as select 1 i");
    server.sql("postgres", "create table far tablespace far as select i from generate_series(1, 1000) i");
    std::fs::write(server.data().join("odd\u{e9} name"), b"odd").unwrap();
    std::fs::write(server.data().join(OsStr::from_bytes(b"x\xff\n")), b"odder").unwrap();
    let first = repository.backup(&server, &[]);
    let id = first["id"].as_str().unwrap().to_owned();
    let (t, gone, far) = (path_of(&server, "postgres", "t"), path_of(&server, "postgres", "gone"), path_of(&server, "postgres", "far"));

    // One folder: what lies in it, folders without what is in them.
    let look = |arguments: &[&str]| repository.run(arguments.iter().copied());
    let top = entries(&look(&["ls", &id, "--json"]).ok().json());
    for (path, kind) in
        [("base", "folder"), ("PG_VERSION", "file"), ("global", "folder"), ("backup_label", "file"), ("odd\u{e9} name", "file")]
    {
        assert_eq!(top[path]["type"], kind, "{top:?}");
    }
    assert!(top.keys().all(|path| !path.contains('/')), "{top:?}");
    let strange = &top["x\\xff\\x0a"];
    assert_eq!((&strange["path_bytes"], &strange["size"]), (&"78ff0a".into(), &5.into()), "{strange}");
    assert!(top["PG_VERSION"]["mtime"].as_str().unwrap().ends_with('Z'), "{top:?}");
    let folder = t.rsplit_once('/').unwrap().0;
    let base = entries(&look(&["ls", &id, folder, "--json"]).ok().json());
    assert_eq!(base[&t]["relation"], "postgres.public.t", "{}", base[&t]);
    assert_eq!(base[&t]["size"], std::fs::metadata(server.data().join(&t)).unwrap().len());
    assert_eq!(entries(&look(&["ls", "latest", &t, "--json"]).ok().json()).len(), 1);
    // All of it: as many files as the snapshot counts, and those that a restore makes.
    let all = entries(&look(&["ls", &id, "-R", "--json"]).ok().json());
    let files = all.iter().filter(|(path, e)| e["type"] == "file" && !path.starts_with("(configuration)/")).count() as u64;
    assert_eq!(files, first["files"].as_u64().unwrap() + 2, "backup_label and pg_control are made");
    assert!(all[&far]["relation"] == "postgres.public.far" && far.starts_with("pg_tblspc/"), "{far}");
    let text = look(&["ls", &id, "-R"]).ok().prints(&format!("{t}  postgres.public.t")).prints("base/\n").prints("x\\xff\\x0a");
    assert_eq!(text.stdout.lines().count(), all.len());
    look(&["ls", &id, "nowhere"]).code(4).says("no file or folder nowhere");
    look(&["ls", "nothing"]).code(4);

    // Every file, byte for byte as a restore gives it.
    let target = TestDir::new();
    let (to, spaces) = (target.join("to"), target.join("spaces"));
    let more = [id.as_str(), "--no-recovery", "--archive-mode", "preserve", "--tablespace-root", spaces.to_str().unwrap()];
    repository.restore(&to, &more);
    let mut restored = BTreeMap::new();
    files_below(&to.join("global"), "global/", &mut restored);
    files_below(&to.join("pg_tblspc"), "pg_tblspc/", &mut restored);
    for path in [t.as_str(), "PG_VERSION", "backup_label", "pg_xact/0000"] {
        restored.insert(path.to_owned(), std::fs::read(to.join(path)).unwrap());
    }
    for (path, bytes) in &restored {
        let mut command = repository.host.command(repository.arguments(["cat", &id, path]));
        let got = command.stderr(Stdio::inherit()).output().unwrap();
        assert!(got.status.success() && got.stdout == *bytes, "{path}: {} of {} bytes", got.stdout.len(), bytes.len());
    }
    assert!(restored.contains_key("global/pg_control"));
    look(&["cat", &id, "x\\xff\\x0a"]).ok().prints("odder");
    look(&["cat", &id, "/odd\u{e9} name"]).ok().prints("odd");
    look(&["cat", &id, folder]).code(2).says("is a folder");
    look(&["cat", &id, ""]).code(2).says("the data directory");
    look(&["cat", &id, "base/5/nothing"]).code(4);

    let elsewhere = format!("(configuration){}", hba.display());
    assert!(all.contains_key(&elsewhere), "{elsewhere}");
    assert_eq!(look(&["cat", &id, &elsewhere]).ok().stdout, std::fs::read_to_string(&hba).unwrap());

    // What changed: nothing between a snapshot and itself, and what was done between two.
    let same = look(&["diff", &id, &id, "--json"]).ok().json();
    assert!(["changed", "added", "removed"].iter().all(|list| same[*list] == Value::Array(vec![])), "{same}");
    server.sql("postgres", "update t set v = 'x' where i = 7");
    server.sql("postgres", "drop table gone");
    server.sql("postgres", "create table fresh as select 1 i");
    server.sql("postgres", "checkpoint");
    std::fs::write(&hba, std::fs::read_to_string(&hba).unwrap() + "# changed\n").unwrap();
    let second = repository.backup(&server, &[])["id"].as_str().unwrap().to_owned();
    let fresh = path_of(&server, "postgres", "fresh");
    let diff = look(&["diff", "latest~1", "latest", "--json"]).ok().json();
    let of = |list: &str, path: &str| diff[list].as_array().unwrap().iter().find(|e| e["path"] == path).cloned();
    let changed = of("changed", &t).unwrap_or_else(|| panic!("{diff}"));
    let bytes = changed["bytes"].as_u64().unwrap();
    assert_eq!(changed["relation"], "postgres.public.t");
    // The old page and the new one, in extents of 256 KiB.
    assert!((8192..=3 * 262_144).contains(&bytes) && bytes < changed["size_after"].as_u64().unwrap() / 4, "{changed}");
    assert_eq!(of("added", &fresh).unwrap()["relation"], "postgres.public.fresh");
    let removed = of("removed", &gone).unwrap();
    assert_eq!(
        (&removed["relation"], &removed["bytes"], &removed["size_after"]),
        (&"postgres.public.gone".into(), &8192.into(), &0.into())
    );
    assert!(of("changed", &elsewhere).unwrap()["bytes"].as_u64() > Some(0), "{diff}");
    for untouched in ["PG_VERSION", far.as_str(), "odd\u{e9} name"] {
        assert!(of("changed", untouched).is_none(), "{diff}");
    }
    look(&["diff", &id, &second])
        .ok()
        .prints(&format!("{t}  postgres.public.t"))
        .prints(&format!("{id} to {second}: "))
        .prints("most changed");
    // The other way round.
    let back = look(&["diff", &second, &id, "--json"]).ok().json();
    assert!(back["added"].as_array().unwrap().iter().any(|e| e["path"] == gone.as_str()), "{back}");

    // Where the space goes adds up to what is there.
    let name = server.switch_wal();
    server.await_archived(&name);
    let stats = look(&["stats", "--json"]).ok().json();
    let sum: u64 = stats["stored"].as_object().unwrap().values().map(|v| v.as_u64().unwrap()).sum();
    assert_eq!(sum, bytes_below(&repository.path()), "{stats}");
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{stats}"));
    let packs = number(&stats["stored"]["chunks"]) + number(&stats["stored"]["structure"]);
    assert_eq!(packs, bytes_below(&repository.path().join("pack")), "{stats}");
    assert_eq!((number(&stats["live"]), number(&stats["dead"]), number(&stats["reclaimable"])), (packs, 0, 0), "{stats}");
    let codecs: u64 = stats["by_codec"].as_object().unwrap().values().map(|v| number(&v["stored"])).sum();
    assert_eq!(codecs, number(&stats["stored"]["chunks"]), "{stats}");
    assert!(stats["by_codec"]["patch"]["raw"].as_u64() > stats["by_codec"]["patch"]["stored"].as_u64(), "{stats}");
    let kinds: u64 = stats["by_relation_kind"].as_object().unwrap().values().map(|v| number(&v["stored"])).sum();
    assert_eq!(kinds + number(&stats["unneeded"]), codecs, "{stats}");
    for kind in ["table", "index", "other"] {
        assert!(stats["by_relation_kind"][kind]["raw"].as_u64() > Some(0), "{kind}: {stats}");
    }
    assert!(stats["ratio"].as_f64() > Some(1.0) && number(&stats["raw"]["wal"]) >= number(&stats["stored"]["wal"]), "{stats}");
    let own = &stats["by_cluster"]["main"];
    assert_eq!((number(&own["packs"]), number(&own["wal"])), (packs, number(&stats["stored"]["wal"])), "{stats}");
    assert_eq!((&stats["snapshots"]["count"], &stats["warnings"]), (&2.into(), &Value::Array(vec![])), "{stats}");
    look(&["stats"]).ok().prints("table").prints("live").prints("patch");

    closed_pipes_end_quietly(&repository, &id, &t);
}

on_majors!(looks_into_snapshots: pg15 15, pg18 18);

/// A reader that has seen enough.
fn closed_pipes_end_quietly(repository: &Repository, id: &str, large: &str) {
    for arguments in [
        vec!["list"],
        vec!["ls", id, "-R"],
        vec!["ls", id, "-R", "--json"],
        vec!["cat", id, large],
        vec!["stats"],
        vec!["verify"],
        vec!["show", id],
    ] {
        for read in [0, 1] {
            let mut command = repository.host.command(repository.arguments(&arguments));
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let mut stdout = child.stdout.take().unwrap();
            let mut byte = vec![0; read];
            stdout.read_exact(&mut byte).unwrap();
            drop(stdout);
            let outcome = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&outcome.stderr).into_owned();
            assert!(outcome.status.code() == Some(0) && said.is_empty(), "{arguments:?}: {:?} {said}", outcome.status);
        }
    }
    // With a shell's own pipe.
    let line = repository.host.shell_line(repository.arguments(["cat", id, large]));
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", &format!("set -o pipefail; {line} | head -c 100 | wc -c")]).env_clear().envs(repository.host.environment());
    assert_eq!(Outcome::of(shell).ok().stdout.trim(), "100");
}
