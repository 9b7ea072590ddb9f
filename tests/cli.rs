//! The command line as scripts know it: what is printed where, and with which exit code a command ends.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use support::{Host, Outcome, Server, ordinary, wait_until};

const REPO: [&str; 2] = ["--repo", "repo"];

/// A host with a passphrase in `pw`, and a repository under it in `repo`.
fn with_repository() -> Host {
    let host = Host::new();
    std::fs::write(host.home().join("pw"), "correct horse\n").unwrap();
    init(&host).ok();
    host
}

fn init(host: &Host) -> Outcome {
    host.pgcairn(["init", "--repo", "repo", "--passphrase-file", "pw", "--test-kdf"])
}

/// The value of a line of postgresql.conf, as the server reads it.
fn setting(line: &str) -> String {
    let value = line.split_once(" = '").and_then(|(_, v)| v.strip_suffix('\'')).unwrap();
    value.replace("''", "'").replace(r"\\", r"\")
}

/// Runs a line as the server does, with nothing in its environment.
fn shell(line: &str, folder: &Path) -> Outcome {
    let mut shell = std::process::Command::new("/bin/sh");
    shell.arg("-c").arg(line).env_clear().current_dir(folder);
    Outcome::of(shell)
}

/// The names of what lies in a folder; none if it is not there.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_repository_is_made_under_a_passphrase_and_needs_none_afterwards() {
    ordinary(|| {
        let host = with_repository();
        let listed = host.pgcairn(["list", "--repo", "repo", "--json"]).ok();
        assert_eq!(listed.json(), serde_json::json!({"version": 1, "snapshots": []}));
        assert_eq!(listed.stderr, "");
        host.pgcairn(["list", "--repo", "repo"]).ok().says("no snapshots yet");
        init(&host).code(1).says("there is a repository at").says("already");
        host.pgcairn(["list", "--repo", "repo"]).ok();
    });
}

#[test]
fn init_prints_the_lines_for_the_server() {
    ordinary(|| {
        let host = with_repository();
        let home = host.home().to_str().unwrap();
        let odd = format!("{home}/it's 100 % odd");
        let made = host.pgcairn(["init", "--no-encryption", "--repo", &odd, "--cluster", "shop"]).ok();
        let made = made.prints("Not encrypted").prints("wal_level = replica\narchive_mode = on\n");
        let line = made.stdout.lines().find(|l| l.starts_with("archive_command = ")).unwrap();
        let value = setting(line);
        assert!(value.starts_with('/') && value.ends_with(" archive-push %p"), "{value}");
        let listing = value.replace("archive-push %p", "list").replace("%%", "%");
        shell(&listing, "/".as_ref()).ok().says("no snapshots of cluster shop yet");

        let made = host.pgcairn(["init", "--json", "--repo", "other", "--no-encryption"]).ok().json();
        assert_eq!((&made["version"], &made["encryption"], &made["maintainer"]), (&1.into(), &"none".into(), &true.into()));
        assert_eq!((&made["clusters"][0]["cluster"], &made["postgresql_conf"][1]), (&"main".into(), &"archive_mode = on".into()));
        // Sections that are added later must not lead the archive elsewhere.
        assert!(made["postgresql_conf"][2].as_str().unwrap().contains(" --cluster main "), "{made}");
        for field in ["repository", "owner_key", "host_key", "slot"] {
            assert_eq!(made[field].as_str().unwrap().len(), 32, "{field}");
        }
    });
}

#[test]
fn a_configuration_file_that_says_it_all_needs_no_flags() {
    ordinary(|| {
        let host = with_repository();
        let file = host.home().join("c.toml");
        std::fs::write(&file, "state-dir = 'state'\n[repository.a]\nurl = 'ra'\nkey-file = 'k'\n[cluster.x]\n[cluster.y]\n").unwrap();
        let made = host.pgcairn(["init", "--config", "c.toml", "--json", "--no-prune"]).ok().json();
        assert_eq!(made["maintainer"], false);
        let lines = made["clusters"].as_array().unwrap();
        assert_eq!(lines.len(), 2);
        for (line, cluster) in lines.iter().zip(["x", "y"]) {
            let rest = format!(" --config {} --cluster {cluster} archive-push %p'", file.display());
            assert!(line["postgresql_conf"][2].as_str().unwrap().ends_with(&rest), "{line}");
        }
        host.pgcairn(["list", "--config", "c.toml"]).ok();
    });
}

#[test]
fn what_has_nothing_yet_is_named_from_the_configuration() {
    ordinary(|| {
        let host = Host::new();
        let write = |text: &str| std::fs::write(host.home().join("c.toml"), text).unwrap();
        let with = |arguments: &[&str]| host.pgcairn(arguments.iter().chain(&["--config", "c.toml"]));
        write("[repository.a]\nurl = 'ra'\nkey-file = 'k'\n[cluster.x]\n");
        let made = with(&["init", "--json"]).ok().json();
        assert!(made["postgresql_conf"][2].as_str().unwrap().contains(" --cluster x "), "{made}");
        write("[repository.a]\nurl = 'ra'\nkey-file = 'k'\n[cluster.x]\n[cluster.y]\n");
        for arguments in [&["archive", "status"][..], &["show", "latest"], &["restore", "--to", "d"]] {
            with(arguments).code(2).says("several clusters are configured").says("choose with --cluster: x, y");
        }
        let status = with(&["status", "--json"]).code(3).json();
        let named: Vec<&str> = status["clusters"].as_array().unwrap().iter().map(|c| c["cluster"].as_str().unwrap()).collect();
        assert_eq!((named, &status["ok"]), (vec!["x", "y"], &false.into()), "{status}");
        with(&["status", "--nagios"]).code(2).prints("CRITICAL - x: there is no snapshot");
    });
}

#[test]
fn what_stands_in_a_wrong_place_is_told_its_own() {
    ordinary(|| {
        let host = with_repository();
        let write = |text: &str| std::fs::write(host.home().join("c.toml"), text).unwrap();
        for (text, says) in [
            ("passphrase-file = 'x'", "it belongs into a section [repository.NAME]"),
            ("[cluster.c]\nurl = 'x'", "it belongs into a section [repository.NAME]"),
            ("[repository.r]\nurl = 'x'\npgdata = 'y'", "it belongs into a section [cluster.NAME]"),
            ("[repository.r]\nurl = 'x'\npasphrase-file = 'y'", "did you mean `passphrase-file`?"),
            ("[cluster.c]\nrepositories = ['r']", "the file has no section [repository.NAME]"),
        ] {
            write(text);
            host.pgcairn(["list", "--config", "c.toml"]).code(2).says(says);
        }
        host.pgcairn(["list", "--config", "none.toml"]).code(2).says("there is no configuration file").says("correct --config");
        let mut command = host.command(["list", "--repo", "repo"]);
        command.env("PGCAIRN_CONFIG", "none.toml");
        Outcome::of(command).code(2).says("correct PGCAIRN_CONFIG");
        let mut command = host.command(["list", "--repo", "repo"]);
        command.env("PGCAIRN_PASSPHRASE", "x").env("PGCAIRN_KEY_FILE", "y");
        Outcome::of(command).code(2).says("PGCAIRN_PASSPHRASE, PGCAIRN_KEY_FILE");
        let failed = host.pgcairn(["list", "--repo", "repo", "--state-dir", "new", "--passphrase-file", "none"]).code(2);
        failed.says("cannot read the passphrase file").says("check the path");
    });
}

#[test]
fn a_key_file_is_written_once() {
    ordinary(|| {
        let host = with_repository();
        let key = host.home().join("key");
        host.pgcairn(["init", "--repo", "one", "--key-file", "key"]).ok().says("a new key was written to").prints("key file");
        assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read(&key).unwrap();
        let second = host.pgcairn(["init", "--repo", "two", "--key-file", "key"]).ok();
        assert!(!second.stderr.contains("written"), "{}", second.report());
        assert_eq!(std::fs::read(&key).unwrap(), text);
        let opened = |repo: &str, key: &str| host.pgcairn(["list", "--state-dir", "elsewhere", "--repo", repo, "--key-file", key]);
        opened("one", "key").ok();
        opened("two", "key").ok();
        std::fs::write(host.home().join("bad"), "no key\n").unwrap();
        opened("one", "bad").code(1);
        host.pgcairn(["init", "--repo", "three", "--key-file", "bad"]).code(1);
        assert_eq!(names(&host.home().join("three")), Vec::<String>::new());
        assert_eq!(std::fs::read(host.home().join("bad")).unwrap(), b"no key\n", "what is there is never overwritten");
    });
}

#[test]
fn encryption_is_chosen_explicitly() {
    ordinary(|| {
        let host = with_repository();
        let refused = host.pgcairn(["init", "--repo", "new"]).code(2);
        let refused = refused.says("--passphrase-file").says("--key-file").says("--no-encryption");
        assert_eq!(refused.stdout, "");
        host.pgcairn(["init", "--repo", "new", "--no-encryption", "--passphrase-file", "pw"]).code(2);
        host.pgcairn(["init", "--repo", "new", "--key-file", "k", "--passphrase-file", "pw"]).code(2);
        std::fs::write(host.home().join("empty"), "").unwrap();
        host.pgcairn(["init", "--repo", "new", "--passphrase-file", "empty"]).code(2).says("it is empty");
        assert!(!host.home().join("new").exists() && !host.home().join("k").exists());
    });
}

#[test]
fn init_touches_nothing_that_is_not_its_own() {
    ordinary(|| {
        let host = with_repository();
        let folder = host.home().join("full");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("thesis.txt"), "years of work").unwrap();
        host.pgcairn(["init", "--repo", "full", "--no-encryption"]).code(1).says("is not empty, and no repository");
        assert_eq!(names(&folder), ["thesis.txt"]);
        std::fs::rename(host.home().join("repo"), host.home().join("away")).unwrap();
        init(&host).code(1).says("is its disk mounted?");
        host.pgcairn(["list", "--repo", "repo"]).code(4);
    });
}

#[test]
fn an_init_that_was_killed_is_finished() {
    ordinary(|| {
        let host = with_repository();
        let repo = host.home().join("repo");
        // What a kill before the first entry of the log leaves: no entry, and so no pin.
        std::fs::remove_file(repo.join("log/0")).unwrap();
        std::fs::remove_dir_all(host.home().join(".local/state/pgcairn/pins")).unwrap();
        host.pgcairn(["list", "--repo", "repo"]).code(1).says("was not finished").says("run `pgcairn init` again");
        init(&host).ok();
        host.pgcairn(["list", "--repo", "repo"]).ok();
        assert_eq!(names(&repo.join("key")).len(), 1);
    });
}

#[test]
fn with_empty_state_only_the_right_passphrase_opens() {
    ordinary(|| {
        let host = with_repository();
        let elsewhere = |passphrase: Option<&str>| {
            let mut command = host.command(["list", "--repo", "repo", "--state-dir", "new-state"]);
            if let Some(passphrase) = passphrase {
                command.env("PGCAIRN_PASSPHRASE", passphrase);
            }
            Outcome::of(command)
        };
        elsewhere(None).code(1).says("this host has no key");
        elsewhere(Some("correct horse ")).code(1).says("does not open this repository");
        elsewhere(Some("")).code(2);
        let looked = elsewhere(Some("correct horse")).ok();
        looked.says("--test-kdf").says("this host has no key of its own");
        elsewhere(None).code(1);
        assert_eq!(names(&host.home().join("repo/log")), ["0"], "who only looks enrols nothing");
        // This host's own key needs no passphrase, and a wrong one does no harm.
        std::fs::write(host.home().join("wrong"), "wrong").unwrap();
        host.pgcairn(["list", "--repo", "repo", "--passphrase-file", "wrong"]).ok();
    });
}

#[test]
fn a_slot_in_clear_is_opened_only_where_nothing_is_known() {
    ordinary(|| {
        let host = with_repository();
        host.pgcairn(["init", "--repo", "clear", "--no-encryption"]).ok().prints("in clear").prints("Not encrypted");
        // Whoever looked at it once can look again, and at another place.
        let look = |place| host.pgcairn(["list", "--repo", place, "--state-dir", "new"]);
        look("clear").ok();
        look("clear").ok();
        std::fs::rename(host.home().join("clear"), host.home().join("moved")).unwrap();
        look("moved").ok();
        std::fs::rename(host.home().join("moved"), host.home().join("clear")).unwrap();
        // Another's, in clear, is not what was seen there.
        let second = Host::new();
        second.pgcairn(["init", "--repo", "clear", "--no-encryption"]).ok();
        std::fs::rename(host.home().join("clear"), host.home().join("ours")).unwrap();
        std::fs::rename(second.home().join("clear"), host.home().join("clear")).unwrap();
        look("clear").code(1).says("is not the one that this host knows there");
        // The store now passes off another repository, in clear, where this host knows the encrypted one.
        std::fs::rename(host.home().join("repo"), host.home().join("away")).unwrap();
        std::fs::rename(host.home().join("ours"), host.home().join("repo")).unwrap();
        host.pgcairn(["list", "--repo", "repo"]).code(1).says("is not the one that this host knows there");
    });
}

#[test]
fn wrong_usage_is_exit_code_2() {
    ordinary(|| {
        let host = with_repository();
        host.pgcairn(["lst"]).code(2).says("lst");
        host.pgcairn(["forget", "--repo", "repo"]).code(2);
        host.pgcairn(["list", "--delta"]).code(2).says("--delta");
        host.pgcairn::<&str>([]).code(2).says("subcommand");
        host.pgcairn(["list"]).code(2).says("no repository is configured");
        host.pgcairn(["list", "--repo", "sftp://host/x"]).code(2);
        host.pgcairn(["list", "--repo", "s3://bucket/x"]).code(2).says("no region is set");
        host.pgcairn(["list", "--repo", "repo", "--cluster", "A B"]).code(2);
        host.pgcairn(["list", "--repo", "repo", "--config", "none.toml"]).code(2);
        std::fs::write(host.home().join("c.toml"), "jsn = true").unwrap();
        host.pgcairn(["list", "--config", "c.toml"]).code(2).says("did you mean `json`?");
        host.pgcairn(["show"].into_iter().chain(REPO)).code(2);
    });
}

#[test]
fn what_is_not_there_is_exit_code_4() {
    ordinary(|| {
        let host = with_repository();
        host.pgcairn(["list", "--repo", "nowhere"]).code(4).says("there is no repository at");
        host.pgcairn(["show", "latest", "--repo", "repo"]).code(4).says("there is no snapshot yet");
        host.pgcairn(["show", "20261124", "--repo", "repo"]).code(4);
    });
}

#[test]
fn errors_are_json_on_request() {
    ordinary(|| {
        let host = with_repository();
        let error = |arguments: &[&str], code: i32| {
            let failed = host.pgcairn(arguments).code(code);
            let value = failed.json();
            assert!(failed.stderr.contains(value["error"]["what"].as_str().unwrap()), "{}", failed.report());
            assert_eq!(value["version"], 1);
            assert_eq!(value["error"]["exit"], code);
            assert!(value["error"]["what"].is_string() && value["error"]["why"].is_array(), "{value}");
            value["error"]["class"].as_str().unwrap().to_owned()
        };
        assert_eq!(error(&["show", "latest", "--repo", "repo", "--json"], 4), "absent");
        assert_eq!(error(&["--json", "lst"], 2), "usage");
        assert_eq!(error(&["--json", "list"], 2), "usage");
        assert_eq!(error(&["--json", "list", "--repo", "repo", "--state-dir", "new"], 1), "denied");
        std::fs::write(host.home().join("repo/pgcairn"), "rot").unwrap();
        assert_eq!(error(&["--json", "list", "--repo", "repo"], 1), "corrupt");
    });
}

#[test]
fn a_closed_pipe_ends_quietly() {
    ordinary(|| {
        let host = with_repository();
        for arguments in [&["list", "--repo", "repo", "--json"][..], &["--help"], &["show", "x", "--repo", "repo", "--json"]] {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let mut command = host.command(arguments);
            command.stdout(Stdio::from(writer));
            let ended = Outcome::of(command);
            assert!(matches!(ended.status.code(), Some(0 | 4)) && !ended.stderr.contains("pipe"), "{}", ended.report());
        }
    });
}

#[test]
fn nobody_else_can_read_what_is_written() {
    ordinary(|| {
        let host = with_repository();
        let mut folders = vec![host.home().join("repo"), host.home().join(".local/state/pgcairn"), host.home().join(".cache/pgcairn")];
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let entry = entry.unwrap();
                assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
                seen += 1;
                if entry.path().is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        assert!(seen > 8);
    });
}

/// Segments 18 to 1C (hex) of a server of 18, of 1 MB each.
const SEGMENTS: [(&str, &[u8]); 5] = [
    ("000000010000000000000018", include_bytes!("fixtures/pg/18/000000010000000000000018.zst")),
    ("000000010000000000000019", include_bytes!("fixtures/pg/18/000000010000000000000019.zst")),
    ("00000001000000000000001A", include_bytes!("fixtures/pg/18/00000001000000000000001A.zst")),
    ("00000001000000000000001B", include_bytes!("fixtures/pg/18/00000001000000000000001B.zst")),
    ("00000001000000000000001C", include_bytes!("fixtures/pg/18/00000001000000000000001C.zst")),
];

/// What archive_command and restore_command see of a data directory: `data` in the host's home.
fn data_directory(host: &Host) -> std::path::PathBuf {
    let data = host.home().join("data");
    std::fs::create_dir_all(data.join("global")).unwrap();
    std::fs::create_dir_all(data.join("pg_wal")).unwrap();
    let mut control = include_bytes!("fixtures/pg/18/pg_control").to_vec();
    control.resize(8192, 0);
    std::fs::write(data.join("global/pg_control"), control).unwrap();
    for (name, zstd) in SEGMENTS {
        std::fs::write(data.join("pg_wal").join(name), zstd::decode_all(zstd).unwrap()).unwrap();
    }
    data
}

/// Runs the program in the data directory, as the server does.
fn in_data<A: AsRef<std::ffi::OsStr>>(host: &Host, arguments: impl IntoIterator<Item = A>) -> Outcome {
    let mut command = host.command(["--repo", "../repo"]);
    command.args(arguments).current_dir(host.home().join("data"));
    Outcome::of(command)
}

fn push(host: &Host, segment: usize) -> Outcome {
    in_data(host, ["archive-push", &format!("pg_wal/{}", SEGMENTS[segment].0)])
}

fn get(host: &Host, segment: usize) -> Outcome {
    in_data(host, ["archive-get", SEGMENTS[segment].0, "pg_wal/RECOVERYXLOG"])
}

/// It must have failed in a way that a server doesn't take for the end of WAL.
#[track_caller]
fn above_125(outcome: Outcome) -> Outcome {
    assert!(outcome.status.code().is_some_and(|code| code > 125), "{}", outcome.report());
    outcome
}

#[test]
fn wal_goes_in_and_out() {
    ordinary(|| {
        let host = with_repository();
        let data = data_directory(&host);
        let made = host.pgcairn(["init", "--repo", "by line", "--no-encryption", "--json"]).ok().json();
        let line = setting(made["postgresql_conf"][2].as_str().unwrap());
        shell(&line.replace("%p", "pg_wal/000000010000000000000018"), &data).ok();

        let pushed = push(&host, 0).ok();
        assert_eq!((pushed.stdout.as_str(), pushed.stderr.as_str()), ("", ""), "an archiver's log stays empty");
        push(&host, 0).ok();
        get(&host, 0).ok();
        let segment = std::fs::read(data.join("pg_wal").join(SEGMENTS[0].0)).unwrap();
        assert_eq!(std::fs::read(data.join("pg_wal/RECOVERYXLOG")).unwrap(), segment);

        // Behind the last one there is nothing, and that is proven.
        std::fs::remove_file(data.join("pg_wal/RECOVERYXLOG")).unwrap();
        get(&host, 1).code(1);
        in_data(&host, ["archive-get", "--rewind", "00000002.history", "pg_wal/RECOVERYHISTORY"]).code(1);
        assert!(!data.join("pg_wal/RECOVERYXLOG").exists() && !data.join("pg_wal/RECOVERYHISTORY").exists());
    });
}

#[test]
fn a_push_fails_with_a_code_that_an_archiver_survives() {
    ordinary(|| {
        let host = with_repository();
        let data = data_directory(&host);
        push(&host, 0).ok();
        let mut other = std::fs::read(data.join("pg_wal").join(SEGMENTS[0].0)).unwrap();
        *other.last_mut().unwrap() ^= 1;
        std::fs::create_dir(data.join("other")).unwrap();
        std::fs::write(data.join("other").join(SEGMENTS[0].0), other).unwrap();
        in_data(&host, ["archive-push", &format!("other/{}", SEGMENTS[0].0)]).code(1).says("other bytes");
        for arguments in [
            &["archive-push"][..],
            &["archive-push", "--bad", "x"],
            &["archive-push", "-h", "pg_wal/x"],
            &["archive-push", "pg_wal/no-segment"],
            &["archive-push", "pg_wal/000000010000000000000077"],
            &["archive-push", "--repo", "/nowhere", "pg_wal/000000010000000000000018"],
            &["archive-push", "--config", "none", "pg_wal/000000010000000000000018"],
            &["archive-push", "--state-dir", "new", "pg_wal/000000010000000000000018"],
        ] {
            let code = in_data(&host, arguments).status.code();
            assert!(code.is_some_and(|code| (1..=125).contains(&code)), "{arguments:?}: {code:?}");
        }
        host.pgcairn(["archive-push", "--help"]).ok();
    });
}

#[test]
fn nothing_but_proven_absence_ends_a_recovery() {
    ordinary(|| {
        let host = with_repository();
        let data = data_directory(&host);
        for n in [0, 1, 3] {
            push(&host, n).ok();
        }
        above_125(get(&host, 2)).says("is missing from the archive");
        get(&host, 4).code(1);
        let name = SEGMENTS[4].0;
        let dest = "pg_wal/RECOVERYXLOG";
        let fails = |arguments: &[&str]| drop(above_125(in_data(&host, arguments)));
        // Wrong usage, also in ways that print help.
        fails(&["archive-get"]);
        fails(&["archive-get", name]);
        fails(&["archive-get", "--bad", name, dest]);
        fails(&["archive-get", "-h", name, dest]);
        fails(&["--version", "archive-get", name, dest]);
        fails(&["archive-get", "no-segment", dest]);
        fails(&["archive-get", "--jobs", "none", name, dest]);
        use std::os::unix::ffi::OsStrExt;
        above_125(in_data(&host, ["archive-get".as_ref(), std::ffi::OsStr::from_bytes(b"\xff"), dest.as_ref()]));
        // Wrong configuration: file, repository, cluster, system identifier.
        fails(&["archive-get", "--config", "none", name, dest]);
        std::fs::write(data.join("bad.toml"), "x = [").unwrap();
        fails(&["archive-get", "--config", "bad.toml", name, dest]);
        fails(&["archive-get", "--repo", "/nowhere", name, dest]);
        fails(&["archive-get", "--repo", "..", name, dest]);
        fails(&["archive-get", "--cluster", "mian", name, dest]);
        fails(&["archive-get", "--cluster", "A B", name, dest]);
        fails(&["archive-get", "--system-identifier", "42", name, dest]);
        // No key, a wrong key.
        fails(&["archive-get", "--state-dir", "new", name, dest]);
        std::fs::write(data.join("wrong"), "wrong").unwrap();
        fails(&["archive-get", "--state-dir", "new", "--passphrase-file", "wrong", name, dest]);
        fails(&["archive-get", "--state-dir", "new", "--passphrase-file", "/nowhere", name, dest]);
        // A destination that can't be written.
        fails(&["archive-get", SEGMENTS[0].0, "no/such/folder"]);
        // With the passphrase alone, without a state that it could keep anything in.
        in_data(&host, ["archive-get", "--state-dir", "/proc/x", "--passphrase-file", "../pw", SEGMENTS[0].0, dest]).ok();
        assert_eq!(names(&host.home().join("repo/log")), ["0"]);
        // Errors as JSON keep the code.
        let error = above_125(in_data(&host, ["archive-get", "--json", SEGMENTS[2].0, dest])).json();
        assert!(error["error"]["exit"].as_u64().unwrap() > 125);
    });
}

#[test]
fn damage_ends_no_recovery() {
    ordinary(|| {
        let host = with_repository();
        data_directory(&host);
        push(&host, 0).ok();
        let mut found = Vec::new();
        let mut folders = vec![host.home().join("repo/wal")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        let [object] = found.as_slice() else { panic!("{found:?}") };
        let whole = std::fs::read(object).unwrap();
        let put = |bytes: &[u8]| {
            std::fs::remove_file(object).unwrap();
            std::fs::write(object, bytes).unwrap();
        };
        for at in [0, 30, 100, 300, whole.len() / 2, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            put(&bytes);
            above_125(get(&host, 0));
        }
        put(&whole[..whole.len() / 2]);
        above_125(get(&host, 0));
        put(b"");
        above_125(get(&host, 0));
        put(&whole);
        get(&host, 0).ok();
        // The log is gone, or the disk is another one.
        std::fs::remove_file(host.home().join("repo/log/0")).unwrap();
        above_125(get(&host, 1));
        std::fs::rename(host.home().join("repo"), host.home().join("away")).unwrap();
        above_125(get(&host, 1));
        std::fs::create_dir(host.home().join("repo")).unwrap();
        above_125(get(&host, 1));
    });
}

#[test]
fn a_host_enrols_itself_with_its_first_write() {
    ordinary(|| {
        let host = with_repository();
        data_directory(&host);
        let other = |passphrase: bool, arguments: &[&str]| {
            let mut command = host.command(["--repo", "../repo", "--state-dir", "../other"]);
            command.args(arguments).current_dir(host.home().join("data"));
            if passphrase {
                command.env("PGCAIRN_PASSPHRASE", "correct horse");
            }
            Outcome::of(command)
        };
        let segment = format!("pg_wal/{}", SEGMENTS[0].0);
        other(false, &["archive-push", &segment]).code(1).says("this host has no key");
        other(true, &["list"]).ok();
        other(true, &["archive-get", "00000002.history", "x"]).says("nothing is written");
        assert_eq!(names(&host.home().join("repo/log")), ["0"]);
        other(true, &["archive-push", &segment]).ok();
        assert_eq!(names(&host.home().join("repo/log")), ["0", "1"], "one KEY entry");
        other(false, &["archive-push", &segment]).ok();
        other(false, &["list"]).ok();
        other(true, &["archive-push", &segment]).ok();
        assert_eq!(names(&host.home().join("repo/log")), ["0", "1"]);
        let keys = host.home().join("other");
        let host_file = std::fs::read_dir(&keys).unwrap().map(|e| e.unwrap().path().join("host.json")).find(|p| p.is_file()).unwrap();
        assert_eq!(host_file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    });
}

#[test]
fn a_known_gap_stays_visible_and_no_longer_alarms() {
    ordinary(|| {
        let host = with_repository();
        data_directory(&host);
        let archive = |arguments: &[&str]| in_data(&host, ["archive"].iter().chain(arguments));
        archive(&["status"]).code(1).says("holds nothing of cluster main");
        push(&host, 0).ok();
        archive(&["status"]).ok().prints(SEGMENTS[0].0);
        push(&host, 1).ok();
        push(&host, 4).ok();
        archive(&["status"]).code(3).prints("GAP on timeline 1: 00000001000000000000001A to 00000001000000000000001B");
        let acknowledge = |timeline: &str, from: usize, to: usize, reason: &str| {
            let (from, to) = (SEGMENTS[from].0, SEGMENTS[to].0);
            archive(&["acknowledge", "--timeline", timeline, "--from", from, "--to", to, "--reason", reason])
        };
        acknowledge("2", 2, 3, "x").code(2).says("not on timeline 2");
        acknowledge("1", 3, 2, "x").code(2);
        acknowledge("1", 2, 3, " ").code(2);
        acknowledge("1", 1, 3, "x").code(1).says("is not a gap").says("00000001000000000000001A to 00000001000000000000001B");
        assert_eq!(names(&host.home().join("repo/log")), ["0"], "what is refused is not written");
        acknowledge("1", 2, 3, "disk full on Monday").ok();
        archive(&["status"]).ok().prints("known gap on timeline 1").prints("disk full on Monday").prints("take a backup now");
        let status = archive(&["status", "--json"]).ok().json();
        assert_eq!((&status["version"], &status["cluster"]), (&1.into(), &"main".into()));
        let timeline = &status["timelines"][0];
        assert_eq!((&timeline["segments"], &timeline["live"], &timeline["parent"]), (&3.into(), &true.into(), &serde_json::Value::Null));
        assert_eq!(timeline["gaps"][0]["acknowledged"], "disk full on Monday");
        above_125(get(&host, 2));
        above_125(get(&host, 3));
        get(&host, 4).ok();
    });
}

#[test]
fn a_restore_needs_its_wishes_to_fit_each_other() {
    ordinary(|| {
        let host = with_repository();
        let restore = |arguments: &[&str]| host.pgcairn(["restore", "--repo", "repo", "--to", "there"].iter().chain(arguments));
        restore(&["--target-time", "2026-11-24 13:30:00"]).code(2).says("2026-11-24T13:30:00Z").says("time zone");
        restore(&["--target-xid", "7", "--target-name", "x"]).code(2);
        restore(&["--target-action", "promote"]).code(2);
        restore(&["--target-immediate", "--target-action", "dance"]).code(2);
        restore(&["--standby", "--no-recovery"]).code(2);
        restore(&["--no-push"]).code(2).says("--delta");
        restore(&["--delta"]).code(4).says("there is no snapshot");
        restore(&["--tablespace", "x"]).code(2);
        restore(&["--expect", "7"]).code(2);
        restore(&["--expect", &format!("9:{}", "0".repeat(64))]).code(1).says("the repository");
        restore(&[]).code(4).says("there is no snapshot");
        host.pgcairn(["restore", "--repo", "repo"]).code(2).says("--to");
        assert!(!host.home().join("there").exists());
    });
}

#[test]
fn a_signal_ends_a_backup() {
    support::on(18, |pg| {
        let host = with_repository();
        let server = Server::build(pg).conf("archive_mode", "on").conf("archive_command", "false").start();
        let waiting = || {
            let status = std::fs::read_dir(server.data().join("pg_wal/archive_status")).unwrap();
            status.flatten().filter(|e| e.file_name().to_string_lossy().contains(".backup")).count()
        };
        for (round, signal) in ["TERM", "INT", "HUP"].into_iter().enumerate() {
            let mut command = host.command(["backup", "--repo", "repo", "--json", "--dsn", &server.dsn("postgres")]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let child = command.spawn().unwrap();
            // Its WAL never arrives: the history file of its backup says that it is waited for.
            wait_until("the end of the copy", || waiting() > round);
            let kill = std::process::Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
            assert!(kill.success());
            let ended = child.wait_with_output().unwrap();
            let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
            assert_eq!(ended.status.code(), Some(1), "{signal}: {out}{err}");
            assert!(err.contains("interrupted"), "{signal}: {err}");
        }
        let listed = host.pgcairn(["list", "--repo", "repo", "--json"]).ok().json();
        assert_eq!(listed["snapshots"].as_array().unwrap().len(), 0);
    });
}
