//! What a host may lose or have damaged, and the ways in which it may be odd: state, cache, names, umask, output.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::disk::{Draw, Item, Tree};
use crate::support::{Host, Outcome, Postgres, Server, Stop, TestDir, full, on, verify_backup};
use crate::world::{Cluster, World, same_cluster};

fn with_one_snapshot(pg: &Postgres) -> (Cluster, World) {
    let (cluster, world) = (Cluster::build(pg), World::new());
    world.init().ok();
    world.run(world.backup_of(&cluster.states[0])).ok();
    Outcome::of(world.push(&cluster.states[0], &cluster.wal[0])).ok();
    (cluster, world)
}

/// One of a file's bits, a page, its end, or all of it.
fn damage(bytes: &[u8], draw: &mut Draw) -> (Vec<u8>, String) {
    let mut bad = bytes.to_vec();
    let spot = draw.next() as usize % bytes.len().max(1);
    let what = match draw.next() % 8 {
        0..=3 if !bad.is_empty() => {
            let bit = draw.next() % 8;
            bad[spot] ^= 1 << bit;
            format!("bit {bit} of byte {spot} flipped")
        }
        4 => {
            bad.truncate(spot);
            format!("cut off at {spot}")
        }
        5 if !bad.is_empty() => {
            let page = spot / 4096 * 4096;
            let end = bad.len().min(page + 4096);
            bad[page..end].fill(0);
            format!("zeros in {page}..{end}")
        }
        6 => {
            bad.clear();
            "emptied".to_owned()
        }
        _ => {
            bad.iter_mut().for_each(|b| *b = draw.next() as u8);
            bad.extend((0..9).map(|_| draw.next() as u8));
            "other bytes in its place".to_owned()
        }
    };
    (bad, what)
}

fn files_below(tree: &Tree, folder: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let file = |(path, item): (&PathBuf, &Item)| match item {
        Item::File(_, bytes) if path.starts_with(folder) => Some((path.clone(), bytes.clone())),
        _ => None,
    };
    tree.iter().filter_map(file).collect()
}

#[test]
fn a_damaged_cache_never_makes_a_wrong_answer() {
    on(18, |pg| {
        let (cluster, world) = with_one_snapshot(pg);
        let [first, second] = &cluster.states;
        world.run(world.backup_of(first)).ok();
        let status = world.run(["archive", "status", "--json"]).ok().stdout;
        let list = world.run(["list", "--json"]).ok().stdout;
        let before = world.scan();
        let mut files = files_below(&before, "home/.cache");
        files.retain(|(path, bytes)| !bytes.is_empty() && !path.ends_with("CACHEDIR.TAG"));
        let names: Vec<&Path> = files.iter().map(|(path, _)| path.as_path()).collect();
        for kind in ["log", "catalog.redb", "index/"] {
            assert!(names.iter().any(|name| name.to_str().unwrap().contains(kind)), "{names:?}");
        }
        let (mut draw, rounds, mut noticed) = (Draw(8), if full() { 1000 } else { 60 }, 0);
        for round in 0..rounds {
            world.set(&before);
            let (path, bytes) = &files[round % files.len()];
            let (bad, what) = damage(bytes, &mut draw);
            let case = format!("round {round}: {}: {what}", path.display());
            std::fs::write(world.path(path.to_str().unwrap()), &bad).unwrap();
            assert_eq!(world.run(["list", "--json"]).ok().stdout, list, "{case}");
            std::fs::write(world.path(path.to_str().unwrap()), &bad).unwrap();
            if round % 4 == 0 {
                assert_eq!(world.run(["archive", "status", "--json"]).ok().stdout, status, "{case}");
                std::fs::write(world.path(path.to_str().unwrap()), &bad).unwrap();
            }
            let outcome = world.run(world.backup_of(second)).ok();
            noticed += u32::from(outcome.stderr.contains("was discarded"));
            println!("{case}");
            world.restores_as(outcome.json()["id"].as_str().unwrap(), second);
        }
        println!("{rounds} places, {noticed} of them noticed by backup");
        assert!(noticed >= 5, "{noticed}");

        // Gone, and gone with its folder.
        world.set(&before);
        std::fs::remove_dir_all(world.path("home/.cache")).unwrap();
        world.run(world.backup_of(second)).ok();
        world.restores_as("latest", second);
        world.restores_as("latest~1", first);
        world.has_wal(&cluster.wal[..1]);
    });
}

#[test]
fn a_lost_or_damaged_state_is_named_and_replaced() {
    on(18, |pg| {
        let (cluster, world) = with_one_snapshot(pg);
        let [first, second] = &cluster.states;
        let before = world.scan();
        let key = world.path("key");
        let with_key = |arguments: Vec<String>| [vec!["--key-file".to_owned(), key.to_str().unwrap().to_owned()], arguments].concat();

        // Lost: the host is a stranger until it is given what opens a slot.
        std::fs::remove_dir_all(world.path("home/.local")).unwrap();
        let outcome = world.run(world.backup_of(second)).code(1);
        outcome.says("--key-file");
        Outcome::of(world.push(second, &cluster.wal[1])).code(1).says("--key-file");
        let got = world.path("home/got");
        let name = cluster.wal[0].file_name().unwrap().to_str().unwrap();
        let get = world.run(["archive-get", name, got.to_str().unwrap()]);
        assert!(get.status.code().is_some_and(|code| code > 125), "{}", get.report());
        world.run(with_key(world.backup_of(second))).ok();
        // It is enrolled again and needs the key no more.
        world.run(world.backup_of(second)).ok();
        Outcome::of(world.push(second, &cluster.wal[1])).ok();
        world.has_wal(&cluster.wal[..2]);
        world.restores_as("latest", second);
        world.restores_as("latest~2", first);

        // Damaged: never anything wrong; who refuses names the file and the cure, which helps.
        let files: Vec<_> = files_below(&before, "home/.local/state").into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
        assert!(files.len() >= 3, "{files:?}");
        let (mut draw, rounds, mut refused) = (Draw(9), if full() { 300 } else { 30 }, 0);
        for round in 0..rounds {
            world.set(&before);
            let (path, bytes) = &files[round % files.len()];
            let (bad, what) = damage(bytes, &mut draw);
            let case = format!("round {round}: {}: {what}", path.display());
            std::fs::write(world.path(path.to_str().unwrap()), &bad).unwrap();
            let outcome = world.run(world.backup_of(second));
            println!("{case}: {}", outcome.status);
            match outcome.status.code() {
                Some(0) => {}
                Some(1) => {
                    refused += 1;
                    let outcome = outcome.says(path.file_name().unwrap().to_str().unwrap()).says("remove it");
                    assert_eq!(outcome.json()["error"]["class"], "corrupt", "{case}");
                    assert_eq!(std::fs::read(world.path(path.to_str().unwrap())).unwrap(), bad, "{case}: it was replaced unasked");
                    std::fs::remove_file(world.path(path.to_str().unwrap())).unwrap();
                    let again = world.run(with_key(world.backup_of(second)));
                    if !again.status.success() {
                        // What told its own sessions from a copy's is gone: somebody must say that nobody else has the key.
                        again.code(1).says("key claim-host --yes");
                        world.run(with_key(["key", "claim-host", "--yes"].map(str::to_owned).into())).ok();
                        world.run(with_key(world.backup_of(second))).ok();
                    }
                }
                _ => panic!("{case}: {}", outcome.report()),
            }
            world.restores_as("latest", second);
        }
        assert!(refused >= rounds / 2, "{refused} of {rounds}");
    });
}

#[test]
fn wrong_secrets_and_servers_are_told_apart() {
    on(18, |pg| {
        let folder = TestDir::new();
        let (right, wrong, empty) = (folder.join("right"), folder.join("wrong"), folder.join("empty"));
        std::fs::write(&right, "correct horse\n").unwrap();
        std::fs::write(&wrong, "battery staple\n").unwrap();
        std::fs::write(&empty, "\n").unwrap();
        let at = folder.join("repository");
        let (host, other) = (Host::new(), Host::new());
        let run = |host: &Host, file: &Path, arguments: &[&str]| {
            let all = ["--repo", at.to_str().unwrap(), "--passphrase-file", file.to_str().unwrap()];
            host.pgcairn(all.into_iter().chain(arguments.iter().copied()))
        };
        run(&host, &empty, &["init", "--test-kdf"]).code(2).says("passphrase");
        assert!(!at.join("pgcairn").exists());
        run(&host, &right, &["init", "--test-kdf"]).ok();
        for arguments in [&["list"][..], &["restore", "--to", "/nowhere/at/all"], &["archive", "status"]] {
            let outcome = run(&other, &wrong, &[&["--json"], arguments].concat()).code(1);
            assert_eq!(outcome.json()["error"]["class"], "denied", "{}", outcome.report());
            outcome.says("passphrase");
        }
        run(&other, &folder.join("absent"), &["list"]).says("absent");
        assert_eq!(std::fs::read_dir(other.home().join(".local/state/pgcairn")).map_or(0, Iterator::count), 0);
        run(&other, &right, &["list"]).ok();

        let mut server = Server::build(pg).conf("archive_mode", "on").conf("archive_command", "true").start();
        let data = server.data().to_str().unwrap().to_owned();
        let backup = |dsn: &str| run(&host, &right, &["backup", "--json", "--pgdata", &data, "--dsn", dsn]);
        let (sockets, port) = (server.sockets().display().to_string(), server.port());
        for (dsn, code, class, says) in [
            ("hsot=/tmp", 2, "usage", "hsot"),
            ("port=notanumber", 2, "usage", "port"),
            ("host=/nowhere user=postgres", 1, "unreachable", "/nowhere"),
            (&format!("host={sockets} port=1 user=postgres"), 1, "unreachable", ".s.PGSQL.1"),
            (&format!("host={sockets} port={port} user=nobody_here"), 1, "", "nobody_here"),
            (&format!("host={sockets} port={port} user=postgres dbname=no_such_db"), 4, "absent", "no_such_db"),
        ] {
            let outcome = backup(dsn).code(code).says(says);
            if !class.is_empty() {
                assert_eq!(outcome.json()["error"]["class"], class, "{dsn}: {}", outcome.report());
            }
        }
        // The right server of other data.
        let foreign = Server::build(pg).fresh().create();
        let dsn = server.dsn("postgres");
        let there = foreign.data().to_str().unwrap();
        run(&host, &right, &["backup", "--json", "--pgdata", there, "--dsn", &dsn]).code(1).says(there);
        server.stop(Stop::Fast);
        backup(&dsn).code(1).says(".s.PGSQL");
        let list = run(&host, &right, &["list", "--json"]).ok().json();
        assert_eq!(list["snapshots"].as_array().unwrap().len(), 0);
    });
}

#[test]
fn nothing_private_is_open_under_any_umask() {
    on(18, |pg| {
        let cluster = Cluster::build(pg);
        let modes = |umask: &str| {
            let world = World::new();
            let masked = |command: Command| {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"]).arg(command.get_program()).args(command.get_args());
                shell.env_clear().envs(command.get_envs().filter_map(|(n, v)| Some((n, v?))));
                shell.current_dir(command.get_current_dir().unwrap());
                Outcome::of(shell).ok();
            };
            let to = world.path("server/data");
            masked(world.command([OsStr::new("init"), OsStr::new("--key-file"), world.path("key").as_os_str()]));
            masked(world.command(world.backup_of(&cluster.states[0])));
            masked(world.push(&cluster.states[0], &cluster.wal[0]));
            masked(world.command(world.backup_of(&cluster.states[1])));
            masked(world.command(["restore", "--standby", "--archive-mode", "off", "--to", to.to_str().unwrap()]));
            let mut all = Vec::new();
            for (path, item) in world.scan() {
                let (Item::Folder(mode) | Item::File(mode, _)) = item else { continue };
                assert!(path == Path::new("home") || mode & 0o077 == 0, "umask {umask}: {} has mode {mode:o}", path.display());
                if path.starts_with("server") {
                    all.push((path, mode));
                }
            }
            assert!(all.len() > 100, "{all:?}");
            all
        };
        assert_eq!(modes("000"), modes("077"), "what is restored depends on the umask");
    });
}

#[test]
fn any_bytes_may_stand_in_paths() {
    on(18, |pg| {
        let cluster = Cluster::build(pg);
        let scratch = TestDir::new();
        for (at, name) in
            [&b"with space"[..], "\u{fc}ml\u{e4}ut \u{1f4e6}".as_bytes(), b"it's \"$HOME\" `x` \\ %p %%", b"odd\xff\xfe\nbytes"]
                .into_iter()
                .enumerate()
        {
            let folder = scratch.folder(OsStr::from_bytes(&[format!("{at} ").as_bytes(), name].concat()));
            let path = |name: &str| folder.join(name);
            let data = path("data");
            crate::support::copy_tree(&cluster.states[0], &data);
            std::fs::create_dir(path("home")).unwrap();
            let run = |arguments: &[&OsStr]| {
                let mut command = Command::new(Host::new().program());
                command.arg("--repo").arg(path("repository")).args(arguments).env_clear().env("HOME", path("home"));
                command.env("LC_ALL", "C.UTF-8").env("PATH", std::env::var_os("PATH").unwrap()).current_dir(&data).stdin(Stdio::null());
                Outcome::of(command)
            };
            let word = |text: &'static str| OsStr::new(text);
            run(&[word("init"), word("--key-file"), path("key").as_os_str()]).ok();
            run(&[word("backup"), word("--offline"), word("--pgdata"), data.as_os_str()]).ok();
            run(&[word("archive-push"), cluster.wal[0].as_os_str()]).ok();
            run(&[word("archive-get"), cluster.wal[0].file_name().unwrap(), path("got").as_os_str()]).ok();
            assert!(std::fs::read(path("got")).unwrap() == std::fs::read(&cluster.wal[0]).unwrap());
            run(&[word("list")]).ok();
            let to = path("restored");
            run(&[word("restore"), word("--no-recovery"), word("--to"), to.as_os_str()]).ok();
            same_cluster(&cluster.states[0], &to);
            // What fails names them so that they can be read.
            let outcome = run(&[word("restore"), word("--no-recovery"), word("--to"), to.as_os_str()]).code(1);
            outcome.says("not empty");
        }
    });
}

/// The lines that init prints, run by a server, where names are odd.
#[test]
fn servers_archive_and_recover_where_names_are_odd() {
    on(18, |pg| {
        let scratch = TestDir::new();
        let odd = scratch.folder("it's \u{fc} \"here\" $HOME %p");
        let host = Host::new();
        let run = |arguments: &[&OsStr]| {
            let mut command = host.command([OsStr::new("--repo"), odd.join("repository").as_os_str()]);
            command.args(arguments);
            Outcome::of(command)
        };
        let key = odd.join("key");
        let made = run(&["init".as_ref(), "--json".as_ref(), "--key-file".as_ref(), key.as_os_str()]).ok().json();
        let mut template = Server::build(pg).host(&host).create();
        let data = odd.join("data");
        crate::support::copy_tree(template.data(), &data);
        let lines: Vec<String> = made["postgresql_conf"].as_array().unwrap().iter().map(|l| l.as_str().unwrap().to_owned()).collect();
        let mut file = std::fs::File::options().append(true).open(data.join("postgresql.conf")).unwrap();
        std::io::Write::write_all(&mut file, lines.join("\n").as_bytes()).unwrap();
        assert!(!template.runs());
        let mut server = Server::build(pg).host(&host).over(&data);
        server.start();
        server.sql("postgres", "create table t as select i from generate_series(1, 1000) i");
        let dsn = server.dsn("postgres");
        run(&["backup".as_ref(), "--pgdata".as_ref(), data.as_os_str(), "--dsn".as_ref(), dsn.as_ref()]).ok();
        server.sql("postgres", "insert into t values (0)");
        let last = server.switch_wal();
        server.await_archived(&last);
        server.stop(Stop::Fast);
        let to = odd.join("restored");
        run(&["restore".as_ref(), "--to".as_ref(), to.as_os_str()]).ok();
        verify_backup(pg, &to);
        let mut restored = Server::build(pg).host(&host).over(&to);
        restored.start();
        restored.await_promotion();
        assert_eq!(restored.sql("postgres", "select count(*) from t"), "1001");
    });
}

#[test]
fn output_that_is_closed_or_full_changes_nothing() {
    on(18, |pg| {
        let (cluster, world) = with_one_snapshot(pg);
        let second = &cluster.states[1];
        let shell = |command: &Command, after: &str| {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("\"$@\" {after}"), "sh"]).arg(command.get_program()).args(command.get_args());
            shell.env_clear().envs(command.get_envs().filter_map(|(n, v)| Some((n, v?)))).env_remove("LD_PRELOAD");
            shell.current_dir(command.get_current_dir().unwrap());
            Outcome::of(shell)
        };
        let quiet = |outcome: Outcome| {
            let outcome = outcome.ok();
            assert!(!outcome.stderr.contains("panicked") && !outcome.stderr.contains("Broken pipe"), "{}", outcome.report());
        };
        let (list, json) = (world.command(["list"]), world.command(["list", "--json"]));
        for after in ["| true", "| head -n 0", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"] {
            quiet(shell(&list, after));
            quiet(shell(&json, after));
        }
        for after in [">/dev/full", "2>/dev/full >/dev/full"] {
            shell(&json, after).code(1);
        }
        // The snapshot counts, however little of the answer could be said.
        for (at, after) in [">&-", "2>&-", "| true", ">/dev/full", "2>/dev/full", "<&- >&- 2>&-"].into_iter().enumerate() {
            let outcome = shell(&world.command(world.backup_of(second)), after);
            assert!(outcome.status.success() || after == ">/dev/full", "{after}: {}", outcome.report());
            assert_eq!(world.snapshots().len(), at + 2, "{after}");
        }
        world.restores_as("latest", second);
        // A server without output: what archives goes on.
        for (file, after) in cluster.wal[1..].iter().zip([">&- 2>&-", ">/dev/full 2>/dev/full"]) {
            shell(&world.push(second, file), after).ok();
        }
        world.has_wal(&cluster.wal[..3]);
        let to = world.path("server/data");
        shell(&world.command(["restore", "--no-recovery", "--to", to.to_str().unwrap()]), ">&- 2>&-").ok();
        same_cluster(second, &to);
    });
}

#[test]
fn two_at_once_never_both_win() {
    on(18, |pg| {
        let cluster = Cluster::build(pg);
        let [first, second] = &cluster.states;
        let at_once = |commands: Vec<Command>| -> Vec<Outcome> {
            std::thread::scope(|scope| {
                let all: Vec<_> = commands.into_iter().map(|c| scope.spawn(move || Outcome::of(c))).collect();
                all.into_iter().map(|t| t.join().unwrap()).collect()
            })
        };
        let succeeded = |all: &[Outcome]| all.iter().filter(|o| o.status.success()).count();
        for round in 0..if full() { 20 } else { 4 } {
            let world = World::new();
            // One repository comes of it, or none, and then another init makes one.
            let init = || world.command([OsStr::new("init"), OsStr::new("--key-file"), world.path("key").as_os_str()]);
            let inits = at_once((0..3).map(|_| init()).collect());
            assert!(succeeded(&inits) <= 1, "{}", inits.iter().map(Outcome::report).collect::<String>());
            if succeeded(&inits) == 0 {
                println!("round {round}: no init won");
                std::fs::remove_dir_all(world.path("repository")).unwrap();
                std::fs::remove_dir_all(world.path("home")).unwrap();
                std::fs::create_dir(world.path("home")).unwrap();
                world.init().ok();
            }
            let backups = at_once((0..2).map(|_| world.command(world.backup_of(first))).collect());
            assert_eq!(succeeded(&backups), 2, "{}", backups.iter().map(Outcome::report).collect::<String>());
            let pushes = at_once((0..3).map(|_| world.push(first, &cluster.wal[0])).collect());
            assert_eq!(succeeded(&pushes), 3, "{}", pushes.iter().map(Outcome::report).collect::<String>());
            // Other bytes under one name, at the same time: one of them, and who is told no is told so.
            let twins = [world.elsewhere("a"), world.elsewhere("b")].map(|folder| folder.join(cluster.wal[1].file_name().unwrap()));
            let mut bytes = std::fs::read(&cluster.wal[1]).unwrap();
            std::fs::write(&twins[0], &bytes).unwrap();
            let end = bytes.len() - 8000;
            bytes[end..end + 8].copy_from_slice(b"otherwis");
            std::fs::write(&twins[1], &bytes).unwrap();
            let pushes = at_once(twins.iter().map(|twin| world.push(first, twin)).collect());
            assert_eq!(succeeded(&pushes), 1, "{}", pushes.iter().map(Outcome::report).collect::<String>());
            let won = pushes.iter().position(|o| o.status.success()).unwrap();
            world.has_wal(&[cluster.wal[0].clone(), twins[won].clone()]);
            let to = world.path("server/data");
            let restore = || world.command(["restore", "latest", "--no-recovery", "--to", to.to_str().unwrap()]);
            let restores = at_once((0..2).map(|_| restore()).collect());
            assert!(succeeded(&restores) >= 1, "{}", restores.iter().map(Outcome::report).collect::<String>());
            assert_eq!(succeeded(&restores), 1, "both restored into one folder");
            same_cluster(first, &to);
            world.run(world.backup_of(second)).ok();
            world.is_sound();
            world.snapshots().iter().zip([first, first, second]).for_each(|(id, data)| world.restores_as(id, data));
        }
    });
}
