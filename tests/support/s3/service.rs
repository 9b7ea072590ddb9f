//! S3 services, run by `scripts/s3-server`: it waits for the first object, looks that they listen on loopback only, and kills
//! them at the end, whatever becomes of the test.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::super::certificates::{Pair, Wish};
use super::super::folder::remove_tree;
use super::super::{TestDir, temporary};
use super::bucket::{Bucket, Kind};
use super::{Client, Keys, RCLONE, S3, SEAWEED, Trust};

/// What starts them: a second run as another user may not be able to read the checkout.
const SCRIPT: &str = include_str!("../../../scripts/s3-server");

/// Who asks. SeaweedFS holds them to policies like AWS's (`scripts/s3-server`): readers read; writers add, and overwrite, but delete
/// nothing; maintainers delete, too. That a writer creates only (the condition `s3:if-none-match`) it doesn't understand: that is
/// for the proxy to refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    Admin,
    Writer,
    Reader,
    Maintainer,
    /// A valid key without any right on the test's buckets.
    Stranger,
}

impl Role {
    pub const ALL: [Role; 5] = [Role::Admin, Role::Writer, Role::Reader, Role::Maintainer, Role::Stranger];

    fn name(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Writer => "writer",
            Role::Reader => "reader",
            Role::Maintainer => "maintainer",
            Role::Stranger => "stranger",
        }
    }
}

/// A running service.
#[derive(Debug)]
pub struct Service {
    facts: serde_json::Value,
    folder: PathBuf,
    ends: Ends,
}

/// When it ends.
#[derive(Debug)]
enum Ends {
    /// When nobody holds the lock any more.
    Idle(#[allow(unused)] File),
    /// With this value.
    With { script: Child, input: Option<ChildStdin>, folder: TestDir },
}

impl S3 {
    /// A SeaweedFS that this user's tests share: started by the first that needs it (3.5 s), killed 15 s after the last.
    /// Keep the value as long as it is needed.
    #[track_caller]
    pub fn seaweed(&self) -> Service {
        let version = blake3::hash(format!("{}\n{SCRIPT}", self.seaweed.display()).as_bytes()).to_hex();
        let folder = temporary().join(format!("seaweedfs-{}", &version[..12]));
        std::fs::create_dir_all(&folder).expect("a folder");
        // One at a time looks for it and starts it.
        let starting = File::create(folder.join("starting")).expect("a lock file");
        starting.lock().expect("a lock");
        let used = File::options().create(true).append(true).open(folder.join("used")).expect("a lock file");
        used.lock_shared().expect("a lock");
        let ready = folder.join("ready");
        if let Some(facts) = std::fs::read(&ready).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
            let service = Service { facts, folder: folder.clone(), ends: Ends::Idle(used.try_clone().expect("a second handle")) };
            if service.answers() {
                return service;
            }
        }
        // Nothing is there, or what a killed one left.
        let _ = std::fs::remove_file(&ready);
        for old in std::fs::read_dir(&folder).expect("a folder").flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
            remove_tree(&old);
        }
        write_certificates(&folder);
        let mut command = self.command("seaweedfs", &folder);
        command.arg("--while-used").arg(folder.join("used")).arg("--ready").arg(&ready).stdin(Stdio::null());
        let mut script = command.spawn().expect("python3");
        let facts = facts_of(&mut script, &folder);
        // It is nobody's child any more; waiting for its end would take as long as all tests.
        Service { facts, folder, ends: Ends::Idle(used) }
    }

    /// A SeaweedFS of the test's own, ended with the value: for tests that kill it, or fill it.
    #[track_caller]
    pub fn private(&self) -> Service {
        self.start("seaweedfs", &[])
    }

    /// The same with another policy (JSON, AWS's language) for some of its identities.
    #[track_caller]
    pub fn with_policies(&self, policies: &[(Role, &str)]) -> Service {
        self.start("seaweedfs", policies)
    }

    /// rclone's `serve s3`: it overwrites where it is told to create, and knows no versions.
    #[track_caller]
    pub fn rclone(&self) -> Service {
        self.start("rclone", &[])
    }

    #[track_caller]
    fn start(&self, program: &str, policies: &[(Role, &str)]) -> Service {
        let scratch = TestDir::new();
        let folder = scratch.path().to_owned();
        write_certificates(&folder);
        let mut command = self.command(program, &folder);
        command.arg("--with-input").arg("--dir").arg(folder.join("data")).stdin(Stdio::piped());
        for (role, policy) in policies {
            let file = folder.join(format!("{}.policy", role.name()));
            std::fs::write(&file, policy).expect("a policy");
            command.arg("--policy").arg(format!("{}={}", role.name(), file.display()));
        }
        let mut script = command.spawn().expect("python3");
        let input = script.stdin.take();
        let facts = facts_of(&mut script, &folder);
        Service { facts, folder, ends: Ends::With { script, input, folder: scratch } }
    }

    fn command(&self, program: &str, folder: &Path) -> Command {
        let script = folder.join("s3-server");
        std::fs::write(&script, SCRIPT).expect("the script");
        let mut command = Command::new("python3");
        command.arg("-B").arg(script).args(["run", program, "--json", "--log"]).arg(folder.join("log"));
        if program == "seaweedfs" {
            command.arg("--certificate").arg(folder.join("server.crt")).arg("--key").arg(folder.join("server.key"));
        }
        command.env(SEAWEED, &self.seaweed).env(RCLONE, &self.rclone).env("TMPDIR", folder).current_dir(folder);
        command.stdout(Stdio::piped());
        command.stderr(File::create(folder.join("said")).expect("a file"));
        command
    }
}

/// An authority of the service's own, and a certificate of it for the address and `localhost`.
fn write_certificates(folder: &Path) {
    let ca: Pair = Wish::ca("an authority of S3 tests").self_signed();
    ca.write(folder, "ca");
    Wish::new("localhost").dns("localhost").ip("127.0.0.1").signed_by(&ca).write(folder, "server");
}

#[track_caller]
fn facts_of(script: &mut Child, folder: &Path) -> serde_json::Value {
    let mut line = String::new();
    let mut output = BufReader::new(script.stdout.take().expect("a pipe"));
    let _ = output.read_line(&mut line);
    serde_json::from_str(&line).unwrap_or_else(|_| {
        let said = std::fs::read_to_string(folder.join("said")).unwrap_or_default();
        panic!("the S3 service did not start: {line}{said}; see {}", folder.join("log").display())
    })
}

impl Service {
    fn fact(&self, name: &str) -> &str {
        self.facts[name].as_str().unwrap_or_else(|| panic!("{name} is not in {}", self.facts))
    }

    /// `http://127.0.0.1:port`; buckets are the first part of the path.
    pub fn endpoint(&self) -> &str {
        self.fact("endpoint")
    }

    /// `127.0.0.1:port`, for a proxy.
    pub fn address(&self) -> &str {
        self.endpoint().split_once("://").expect("a URL").1
    }

    /// `https://127.0.0.1:port` (SeaweedFS only).
    pub fn https(&self) -> &str {
        self.fact("https")
    }

    /// The certificate of the authority that vouches for [`Service::https`], in PEM form.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// The region that signatures name.
    pub fn region(&self) -> &str {
        self.fact("region")
    }

    /// The keys of an identity.
    pub fn keys(&self, role: Role) -> Keys {
        let keys = &self.facts["identities"][role.name()];
        let text = |name: &str| keys[name].as_str().expect("a key").to_owned();
        Keys { access: text("access_key"), secret: text("secret_key") }
    }

    /// The variables by which AWS's tools know an identity.
    pub fn environment(&self, role: Role) -> Vec<(&'static str, String)> {
        let Keys { access, secret } = self.keys(role);
        vec![("AWS_ACCESS_KEY_ID", access), ("AWS_SECRET_ACCESS_KEY", secret), ("AWS_REGION", self.region().to_owned())]
    }

    /// A client of this identity.
    pub fn client(&self, role: Role) -> Client {
        Client::new(self.endpoint(), self.keys(role), self.region())
    }

    /// The same over HTTPS, believing the authorities of a PEM file.
    pub fn https_client(&self, role: Role, ca_file: &Path) -> Client {
        Client::new(self.https(), self.keys(role), self.region()).trusting(Trust::file(ca_file))
    }

    /// Its process: to be killed only by who started it.
    pub fn pid(&self) -> u32 {
        self.facts["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process id")
    }

    /// Kills what started it, as a runner does to tests that take too long: the service must end all the same.
    pub fn kill_script(mut self) {
        if let Ends::With { script, .. } = &mut self.ends {
            let _ = script.kill();
        }
    }

    /// A new bucket, removed with the value.
    #[track_caller]
    pub fn bucket(&self) -> Bucket {
        Bucket::create(self.client(Role::Admin), Kind::Plain)
    }

    /// A new bucket that keeps all versions.
    #[track_caller]
    pub fn versioned_bucket(&self) -> Bucket {
        Bucket::create(self.client(Role::Admin), Kind::Versioned)
    }

    /// A new bucket in which versions can be locked; it keeps all versions.
    #[track_caller]
    pub fn locked_bucket(&self) -> Bucket {
        Bucket::create(self.client(Role::Admin), Kind::Locked)
    }

    fn answers(&self) -> bool {
        // By what it was given when it started: another one may have its port by now.
        self.client(Role::Admin).try_get("/pgcairn-ready/ready").is_ok_and(|answer| answer.text() == self.fact("name"))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Ends::With { script, input, .. } = &mut self.ends {
            drop(input.take());
            let _ = script.wait();
        }
    }
}
