//! The command line as scripts know it: what is printed where, and with which exit code a command ends.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use support::{Host, Outcome, ordinary};

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
        let line = made.stdout.lines().find_map(|l| l.strip_prefix("archive_command = ")).unwrap().to_owned();
        // As the server reads it: out of the quotes, `%p` filled in, to a shell with nothing in its environment.
        let value = line.strip_prefix('\'').and_then(|l| l.strip_suffix('\'')).unwrap().replace("''", "'").replace(r"\\", r"\");
        assert!(value.starts_with('/') && value.ends_with(" archive-push %p"), "{value}");
        let listing = value.replace("archive-push %p", "list").replace("%%", "%");
        let mut shell = std::process::Command::new("/bin/sh");
        shell.arg("-c").arg(&listing).env_clear().current_dir("/");
        Outcome::of(shell).ok().says("no snapshots of cluster shop yet");

        let made = host.pgcairn(["init", "--json", "--repo", "other", "--no-encryption"]).ok().json();
        assert_eq!((&made["version"], &made["encryption"], &made["maintainer"]), (&1.into(), &"none".into(), &true.into()));
        assert_eq!(made["clusters"][0]["cluster"], "main");
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
            assert!(line["archive_command"].as_str().unwrap().ends_with(&rest), "{line}");
        }
        host.pgcairn(["list", "--config", "c.toml"]).ok();
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
        host.pgcairn(["list", "--repo", "clear", "--state-dir", "new"]).ok();
        // The store now passes off another repository, in clear, where this host knows the encrypted one.
        std::fs::rename(host.home().join("repo"), host.home().join("away")).unwrap();
        std::fs::rename(host.home().join("clear"), host.home().join("repo")).unwrap();
        host.pgcairn(["list", "--repo", "repo"]).code(1).says("is not the one that this host knows there");
    });
}

#[test]
fn wrong_usage_is_exit_code_2() {
    ordinary(|| {
        let host = with_repository();
        host.pgcairn(["lst"]).code(2).says("lst");
        host.pgcairn(["verify", "--repo", "repo"]).code(2);
        host.pgcairn(["list", "--delta"]).code(2).says("--delta");
        host.pgcairn::<&str>([]).code(2).says("subcommand");
        host.pgcairn(["list"]).code(2).says("no repository is configured");
        host.pgcairn(["list", "--repo", "s3://bucket/x"]).code(2);
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
            assert_eq!(failed.stderr, "", "{}", failed.report());
            let value = failed.json();
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
            assert!(matches!(ended.status.code(), Some(0 | 4)) && ended.stderr.is_empty(), "{}", ended.report());
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
