//! Zeros come back as holes: a restore needs no more room than the original had.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use crate::support::{self, Outcome, Repository, Server, Stop, TestDir};

/// On a small disk in a namespace of its own, where those are allowed; else what the files take up is measured.
#[test]
fn a_large_file_of_holes_fits_on_a_small_disk() {
    support::on(18, |pg| {
        let (of_relation, of_plain, disk) = if support::full() { (1 << 30, 5 << 30, "1g") } else { (256 << 20, 512 << 20, "128m") };
        let mut server = Server::build(pg).start();
        server.stop(Stop::Fast);
        let sparse = |data: &std::path::Path| data.join("base/1/98765");
        let plain = |data: &std::path::Path| data.join("large.bin");
        // A relation's segment, and a file that is cut by content: a block of data here and there, one of them torn over
        // the borders of extents.
        for (path, len) in [(sparse(server.data()), of_relation), (plain(server.data()), of_plain)] {
            let file = File::create(path).unwrap();
            file.set_len(len).unwrap();
            for at in [0, 8192 * 1000, (256 << 10) * 7 - 4096, len / 2, len - 8192] {
                file.write_all_at(&[7; 8192], at).unwrap();
            }
        }
        let repository = Repository::init();
        let data = server.data().to_str().unwrap().to_owned();
        // These are no pages: they are stored as they are, and it is said.
        repository.run(["backup", "--offline", "--pgdata", &data]).code(3);

        let target = TestDir::new();
        let to = target.join("data");
        repository.run(["restore", "--to", to.to_str().unwrap()]).ok();
        let blocks = |path: &std::path::Path| fs::metadata(path).unwrap().blocks() * 512;
        for name in [sparse, plain] {
            let (original, restored) = (name(server.data()), name(&to));
            assert!(blocks(&restored) <= blocks(&original), "{}: {} > {}", restored.display(), blocks(&restored), blocks(&original));
            assert_eq!(fs::metadata(&restored).unwrap().len(), fs::metadata(&original).unwrap().len());
            Outcome::of({
                let mut cmp = Command::new("cmp");
                cmp.args([&original, &restored]);
                cmp
            })
            .ok();
        }
        // In place, over a file that is full where there should be holes.
        let full = File::options().write(true).open(sparse(&to)).unwrap();
        full.write_all_at(&vec![9; 32 << 20], 64 << 20).unwrap();
        full.set_len(of_relation + 12345).unwrap();
        drop(full);
        let answer = repository.run(["restore", "--json", "--delta", "--to", to.to_str().unwrap()]).ok().json();
        assert!(blocks(&sparse(&to)) <= blocks(&sparse(server.data())) && fs::metadata(sparse(&to)).unwrap().len() == of_relation);
        assert!(answer["written_bytes"].as_u64().unwrap() < 1 << 20, "{answer}");

        let disk_at = target.folder("disk");
        let line = repository.host.shell_line(repository.arguments(["restore", "--to", disk_at.join("data").to_str().unwrap()]));
        let mut small = Command::new("unshare");
        small.args(["--user", "--map-current-user", "--keep-caps", "--mount", "sh", "-c"]);
        small.arg(format!("mount -t tmpfs -o size={disk} none '{}' && echo mounted && {line}", disk_at.display()));
        small.env_clear().envs(repository.host.environment());
        let outcome = Outcome::of(small);
        if outcome.stdout.contains("mounted") {
            outcome.ok();
        } else {
            support::skip(&format!("no small disk can be mounted here: {}", outcome.stderr.trim()));
        }
    });
}
