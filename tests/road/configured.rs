//! A configuration file that says it all, and no flags.

use crate::support::{Host, Server, Stop, TestDir, verify_backup, wait_until};

/// A cluster without page checksums, cut by FastCDC, under a name of its own; every command knows it from the file.
#[test]
fn every_command_stands_on_the_configuration_file() {
    crate::support::on(18, |pg| {
        let host = Host::new();
        let place = TestDir::new();
        let line = host.shell_line(["archive-push", "%p"]);
        let mut server = Server::build(pg).checksums(false).host(&host).archive(&line).start();
        let data = server.data().to_owned();
        let folder = host.home().join(".config/pgcairn");
        std::fs::create_dir_all(&folder).unwrap();
        let text = format!(
            "[repository.local]\nurl = '{}'\nkey-file = '{}'\n\n\
             [cluster.shop]\npgdata = '{}'\ndsn = '{}'\nrepositories = ['local']\nchunker = 'cdc'\nwal-timeout = '2min'\n",
            place.join("repository").display(),
            place.join("key").display(),
            data.display(),
            server.dsn("postgres")
        );
        let file = folder.join("config.toml");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write(&text);
        host.pgcairn(["init"]).ok().prints("archive_command");
        server.pgbench_init(1);
        let first = host.pgcairn(["backup", "--json"]).ok().json();
        assert_eq!(
            (&first["cluster"], &first["waits_for"], &first["damaged_pages"]),
            (&"shop".into(), &serde_json::Value::Null, &0.into())
        );
        server.pgbench(&["-n", "-c", "1", "-t", "50"]);
        let second = host.pgcairn(["backup", "--json"]).ok().json();
        assert_eq!(second["parent"], first["id"]);
        assert!(second["new_bytes"].as_u64() < first["new_bytes"].as_u64(), "{second} after {first}");
        server.pgbench(&["-n", "-c", "1", "-t", "50"]);
        let (sums, last) = (server.pgbench_sums(), server.switch_wal());
        server.await_archived(&last);

        let listed = host.pgcairn(["list"]).ok().prints("shop");
        assert_eq!(listed.stdout.lines().count(), 3, "{}", listed.report());
        host.pgcairn(["show", "latest"]).ok().prints("shop").prints(second["id"].as_str().unwrap());
        let status = host.pgcairn(["archive", "status", "--json"]).ok().json();
        assert_eq!((&status["cluster"], &status["timelines"][0]["last"]), (&"shop".into(), &last.as_str().into()));
        assert!(status["lag"]["bytes"].is_u64(), "the server of the file was not asked: {status}");
        let dest = place.join("segment");
        host.pgcairn(["archive-get", &last, dest.to_str().unwrap()]).ok();
        assert!(dest.exists());

        // A typing error is found by every command, and what was meant is named.
        write(&text.replace("pgdata", "pgdta"));
        let (to, got) = (place.join("x").display().to_string(), place.join("got").display().to_string());
        let push = format!("pg_wal/{last}");
        for arguments in [&["backup"][..], &["list"], &["show", "latest"], &["archive", "status"], &["restore", "--to", &to], &["init"]] {
            host.pgcairn(arguments).code(2).says("unknown key `pgdta`").says("did you mean `pgdata`?");
        }
        host.pgcairn(["archive-push", &push]).code(2).says("did you mean `pgdata`?");
        let failed = host.pgcairn(["archive-get", &last, &got]);
        assert!(failed.status.code().is_some_and(|code| code > 125), "{}", failed.report());
        write(&text.replace("chunker = 'cdc'", "chunker = 'cbc'"));
        host.pgcairn(["backup"]).code(2).says("chunker");
        write(&text);

        // Back to its own place: it is the cluster again, and goes on archiving.
        server.stop(Stop::Fast);
        std::fs::rename(&data, place.join("lost")).unwrap();
        let restored = host.pgcairn(["restore", "--to", data.to_str().unwrap()]).ok();
        assert!(restored.stdout.lines().last().unwrap().contains("archiving is as in the cluster's own configuration"));
        verify_backup(pg, &data);
        server.start();
        server.await_promotion();
        assert_eq!((server.pgbench_sums(), server.sql("postgres", "show archive_mode")), (sums, "on".to_owned()));
        assert_eq!(server.sql("postgres", "show data_checksums"), "off");
        let next = server.switch_wal();
        wait_until("the new timeline in the archive", || {
            let status = host.pgcairn(["archive", "status", "--json"]).ok().json();
            status["timelines"][1]["last"].as_str().is_some_and(|last| last >= next.as_str())
        });
    });
}
