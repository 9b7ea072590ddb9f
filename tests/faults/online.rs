//! A server at work whose backups and pushes are killed again and again.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use crate::disk::Draw;
use crate::support::{Load, Outcome, Postgres, Repository, Server, Stop, TestDir, amcheck, full, shell_quote, verify_backup, wait_until};
use crate::trace::{Under, library};

/// The archive_command, one time in six killed before a step that is drawn, with all of its processes, while `calm` isn't
/// there. (More often, and the server would make a pause of a minute after three failures.) `setsid`: not the server with it.
fn dying_archive_command(repository: &Repository, deaths: &Path, calm: &Path) -> String {
    let push = repository.archive_command();
    let quoted = |path: &Path| shell_quote(path.to_str().unwrap());
    format!(
        "test -e {calm} && exec {push}; N=$(od -An -N1 -tu1 /dev/urandom); \
         env LD_PRELOAD={shim} SHIM_ROOTS={root} SHIM_KILL=$((N %% 128 + 1)) setsid -w {push} || {{ echo $N >>{deaths}; exit 1; }}",
        calm = quoted(calm),
        shim = quoted(&library()),
        root = quoted(&repository.path()),
        deaths = quoted(deaths),
    )
}

fn killed_backups_and_pushes_lose_nothing(pg: &Postgres) {
    let repository = Repository::init();
    let scratch = TestDir::new();
    let (deaths, calm) = (scratch.join("deaths"), scratch.join("calm"));
    let server = Server::build(pg).host(&repository.host).archive(&dying_archive_command(&repository, &deaths, &calm)).start();
    server.pgbench_init(1);
    let load = Load::start(&server, &["-c", "2", "--rate=50"]);
    let trace = scratch.join("trace");
    let run = |kill: Option<u64>| {
        let mut command: Command = repository.host.command(repository.arguments(repository.backup_arguments(&server, &[])));
        let roots = vec![repository.path(), repository.host.home().to_owned()];
        Under { roots, trace: Some(trace.clone()), kill, fail: String::new() }.put(&mut command);
        Outcome::of(command)
    };
    run(None).ok();
    let steps = crate::trace::read(&trace).last().expect("steps").number;
    let mut draw = Draw(18);
    let rounds = if full() { 40 } else { 6 };
    let mut committed = 1;
    for round in 0..rounds {
        let kill = 1 + draw.next() % steps;
        server.sql("postgres", "update pgbench_accounts set abalance = abalance where aid % 50 = 0");
        let outcome = run(Some(kill));
        println!("round {round}: killed before step {kill} of about {steps}: {}", outcome.status);
        wait_until("the end of backup mode", || {
            server.sql("postgres", "select count(*) from pg_stat_activity where application_name like 'pgcairn%'") == "0"
        });
        let count = || repository.run(["list", "--json"]).ok().json()["snapshots"].as_array().unwrap().len();
        let there = count();
        assert!(there == committed || there == committed + 1, "{there} snapshots, {committed} were known");
        run(None).ok();
        committed = count();
        assert_eq!(committed, there + 1);
    }
    load.stop();
    let sums = server.pgbench_sums();
    std::fs::write(&calm, "").unwrap();
    let last = server.switch_wal();
    server.await_archived(&last);
    let died = std::fs::read_to_string(&deaths).unwrap_or_default().lines().count();
    println!("{died} pushes were killed");
    assert!(died > 0, "no push was killed");
    assert_eq!(repository.run(["archive", "status", "--json"]).ok().json()["timelines"][0]["gaps"].as_array().unwrap().len(), 0);
    let mut server = server;
    server.stop(Stop::Fast);

    let list = repository.run(["list", "--json"]).ok().json();
    let ids: Vec<String> = list["snapshots"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
    let chosen: Vec<&String> = if full() { ids.iter().collect() } else { vec![&ids[0], &ids[ids.len() - 1]] };
    for id in chosen {
        let target = TestDir::new();
        let to = target.join("data");
        let words: Vec<OsString> =
            repository.arguments(["restore", id, "--to", to.to_str().unwrap()]).into_iter().map(Into::into).collect();
        repository.host.pgcairn(words).ok();
        verify_backup(pg, &to);
        let mut restored = Server::build(pg).host(&repository.host).over(&to);
        restored.start();
        restored.await_promotion();
        assert_eq!(restored.pgbench_sums(), sums, "{id}");
        amcheck(&restored);
    }
}

crate::on_majors!(killed_backups_and_pushes_lose_nothing: pg15 15, pg18 18);
