//! A real server in a folder of its own.

use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::folder::{copy_tree, remove_tree, temporary};
use super::{Host, Outcome, Postgres, TestDir};

/// What a server shall be like.
#[derive(Debug, Clone)]
pub struct Setup {
    postgres: Postgres,
    checksums: bool,
    segment_mb: u32,
    initdb: Vec<String>,
    fresh: bool,
    conf: Vec<(String, String)>,
    environment: Vec<(String, std::ffi::OsString)>,
    tcp: bool,
}

impl Setup {
    /// With page checksums (as is the case), or without.
    pub fn checksums(mut self, on: bool) -> Self {
        self.checksums = on;
        self
    }

    /// The size of WAL segments in MiB; 1 unless set: PostgreSQL's own default is 16.
    pub fn segment_mb(mut self, mb: u32) -> Self {
        self.segment_mb = mb;
        self
    }

    /// One more argument for initdb.
    pub fn initdb(mut self, argument: &str) -> Self {
        self.initdb.push(argument.to_owned());
        self
    }

    /// A system identifier of its own: all other servers of one major and the same arguments are copies of one initdb.
    pub fn fresh(mut self) -> Self {
        self.fresh = true;
        self
    }

    /// A line for postgresql.conf.
    pub fn conf(mut self, name: &str, value: &str) -> Self {
        self.conf.push((name.to_owned(), value.to_owned()));
        self
    }

    /// archive_mode on, with this command.
    pub fn archive(self, command: &str) -> Self {
        self.conf("archive_mode", "on").conf("archive_command", command)
    }

    /// A variable of the server's environment, which is next to empty.
    pub fn env(mut self, name: &str, value: impl Into<std::ffi::OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// The server's commands (archive_command, restore_command) run as this host's.
    pub fn host(mut self, host: &Host) -> Self {
        self.environment.extend(host.environment().into_iter().filter(|(n, _)| *n != "LC_ALL").map(|(n, v)| (n.to_owned(), v)));
        self
    }

    /// Listens on 127.0.0.1 as well.
    pub fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// A new data directory, and its server running.
    #[track_caller]
    pub fn start(self) -> Server {
        let mut server = self.create();
        server.start();
        server
    }

    /// A new data directory; the server doesn't run yet.
    #[track_caller]
    pub fn create(self) -> Server {
        let folder = TestDir::new();
        let data = folder.join("data");
        self.make_data(&data);
        Server::new(self, folder, data)
    }

    /// The server of an existing data directory (a restored one), not running yet. What it must differ in (socket
    /// folder, port) is set on its command line, so that the folder's own files stay as they are.
    #[track_caller]
    pub fn over(self, data: &Path) -> Server {
        self.write_conf(data);
        Server::new(self, TestDir::new(), data.to_owned())
    }

    /// As [`Setup::over`] for a folder that isn't a whole data directory: nothing is written into it.
    #[track_caller]
    pub fn over_unfinished(self, data: &Path) -> Server {
        Server::new(self, TestDir::new(), data.to_owned())
    }

    fn initdb_arguments(&self) -> Vec<String> {
        let mut all: Vec<String> = ["-N", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale"].map(str::to_owned).into();
        all.push(format!("--wal-segsize={}", self.segment_mb));
        match (self.checksums, self.postgres.major) {
            (true, _) => all.push("--data-checksums".to_owned()),
            (false, 18..) => all.push("--no-data-checksums".to_owned()),
            (false, _) => {}
        }
        all.extend(self.initdb.iter().cloned());
        all
    }

    fn run_initdb(&self, data: &Path) {
        let mut command = self.postgres.command("initdb");
        command.args(self.initdb_arguments()).arg("-D").arg(data);
        Outcome::of(command).ok();
    }

    /// By a copy of a cached initdb (2 s) where possible.
    fn make_data(&self, data: &Path) {
        if self.fresh {
            self.run_initdb(data);
        } else {
            copy_tree(&self.template(), data);
        }
        self.write_conf(data);
    }

    fn template(&self) -> PathBuf {
        let mut version = self.postgres.command("postgres");
        version.arg("--version");
        let text = format!("{} {:?}", Outcome::of(version).ok().stdout, self.initdb_arguments());
        let folder = temporary().join("templates");
        let _ = std::fs::create_dir(&folder);
        let name = format!("{}-{}", self.postgres.major, &blake3::hash(text.as_bytes()).to_hex()[..16]);
        let template = folder.join(&name);
        let lock = File::create(folder.join(format!("{name}.lock"))).expect("a lock file");
        lock.lock().expect("a lock");
        if !template.exists() {
            let unfinished = folder.join(format!("{name}.new"));
            remove_tree(&unfinished);
            self.run_initdb(&unfinished);
            std::fs::rename(&unfinished, &template).expect("rename");
        }
        template
    }

    fn write_conf(&self, data: &Path) {
        use std::io::Write;
        let mut lines = String::new();
        for (name, value) in &self.conf {
            lines.push_str(&format!("{name} = '{}'\n", value.replace('\\', r"\\").replace('\'', "''")));
        }
        if !lines.is_empty() {
            let file = File::options().append(true).open(data.join("postgresql.conf"));
            file.and_then(|mut f| f.write_all(lines.as_bytes())).expect("postgresql.conf");
        }
    }
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// With a shutdown checkpoint; clients are disconnected.
    Fast,
    /// At once; the next start recovers.
    Immediate,
}

/// A server of a test: on a unix socket in a private folder, stopped for certain when dropped. When the test fails, the
/// end of its log is printed and its folder is kept.
#[derive(Debug)]
pub struct Server {
    setup: Setup,
    data: PathBuf,
    sockets: PathBuf,
    port: u16,
    child: Option<Child>,
    options: Vec<(String, String)>,
    /// Shared memory that its crashes have left.
    left: Vec<String>,
    // Last: removed after the server has ended.
    folder: TestDir,
}

impl Server {
    /// A server of this PostgreSQL: checksums, segments of 1 MiB, superuser `postgres`, trust, C locale.
    pub fn build(postgres: &Postgres) -> Setup {
        Setup {
            postgres: postgres.clone(),
            checksums: true,
            segment_mb: 1,
            initdb: Vec::new(),
            fresh: false,
            conf: Vec::new(),
            environment: Vec::new(),
            tcp: false,
        }
    }

    fn new(setup: Setup, folder: TestDir, data: PathBuf) -> Server {
        let sockets = socket_folder();
        Server { setup, data, sockets, port: random_port(), child: None, options: Vec::new(), left: Vec::new(), folder }
    }

    /// Its programs.
    pub fn postgres(&self) -> &Postgres {
        &self.setup.postgres
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A folder of this server's for anything else: tablespaces, archives.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.folder.folder(name)
    }

    /// A setting on its command line, from its next start on.
    pub fn set_option(&mut self, name: &str, value: &str) {
        self.options.push((name.to_owned(), value.to_owned()));
    }

    /// Where its socket is.
    pub fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection string for a database.
    pub fn dsn(&self, database: &str) -> String {
        format!("host={} port={} user=postgres dbname={database}", self.sockets.display(), self.port)
    }

    /// Starts it, and waits until it answers (as a standby, too).
    #[track_caller]
    pub fn start(&mut self) {
        if let Err(reason) = self.try_start() {
            panic!("the server did not start: {reason}\n{}", self.log_tail());
        }
    }

    /// Starts it; an error if it ends instead of becoming ready.
    pub fn try_start(&mut self) -> Result<(), String> {
        assert!(self.child.is_none(), "the server runs");
        let setup = &self.setup;
        let mut command = setup.postgres.command("postgres");
        command.arg("-D").arg(&self.data).envs(setup.environment.iter().map(|(n, v)| (n, v)));
        if !setup.environment.iter().any(|(name, _)| name == "HOME") {
            // Not the home of whoever runs the tests.
            command.env("HOME", self.folder.path());
        }
        let listen = if setup.tcp { "127.0.0.1" } else { "" };
        for (name, value) in [
            ("port", self.port.to_string().as_str()),
            ("unix_socket_directories", &self.sockets.display().to_string()),
            ("listen_addresses", listen),
            ("logging_collector", "off"),
            ("log_destination", "stderr"),
            ("fsync", "off"),
            ("shared_buffers", "16MB"),
            ("max_connections", "30"),
        ] {
            if !setup.conf.iter().any(|(set, _)| set == name) {
                command.arg("-c").arg(format!("{name}={value}"));
            }
        }
        for (name, value) in &self.options {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.stdout(self.log_file()).stderr(self.log_file());
        self.child = Some(command.spawn().map_err(|e| format!("{command:?}: {e}"))?);
        self.await_ready()
    }

    /// As pg_ctl does: the server says in postmaster.pid how far it is (utils/pidfile.h).
    fn await_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(child) = &mut self.child {
                if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
                    self.child = None;
                    return Err(format!("it ended: {status}"));
                }
                let pidfile = std::fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
                let lines: Vec<&str> = pidfile.lines().map(str::trim).collect();
                let ours = lines.first().is_some_and(|pid| *pid == child.id().to_string());
                if ours && lines.get(7).is_some_and(|state| matches!(*state, "ready" | "standby")) {
                    return Ok(());
                }
            }
            if Instant::now() > deadline {
                return Err("it was not ready in time".to_owned());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Does it run?
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Stops it and waits for its end.
    #[track_caller]
    pub fn stop(&mut self, how: Stop) {
        let signal = if how == Stop::Fast { Signal::SIGINT } else { Signal::SIGQUIT };
        let child = self.child.as_ref().expect("the server runs");
        kill(pid(child), signal).expect("kill");
        self.await_end();
    }

    /// Waits for the end of a server that ends by itself (a recovery target with `shutdown`).
    #[track_caller]
    pub fn await_end(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().expect("the server runs");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("wait") {
                return status;
            }
            if Instant::now() > deadline {
                self.kill_tree(&mut child);
                panic!("the server did not end in time\n{}", self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it with a shutdown checkpoint, starts it again.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop(Stop::Fast);
        self.start();
    }

    /// As if its machine had lost power: all its processes are killed at once.
    pub fn crash(&mut self) {
        let mut child = self.child.take().expect("the server runs");
        self.kill_tree(&mut child);
    }

    /// Kills all its processes. The shared memory of a postmaster that can't end itself stays, as it does after a crash: it is
    /// removed with this value.
    fn kill_tree(&mut self, child: &mut Child) {
        self.left.extend(shared_memory(&self.data, child.id()));
        kill_tree(child);
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// Waits until recovery has ended and the server takes writes.
    #[track_caller]
    pub fn await_promotion(&mut self) {
        wait_until("the end of recovery", || {
            assert!(self.runs(), "the server ended\n{}", self.log_tail());
            self.try_sql("postgres", "select pg_is_in_recovery()").is_ok_and(|answer| answer == "f")
        });
    }

    /// A client program's command with this server's address in its environment.
    pub fn client(&self, program: &str, database: &str) -> Command {
        let mut command = self.setup.postgres.command(program);
        command.env("PGHOST", &self.sockets).env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
        command.env("PGDATABASE", database).env("HOME", self.folder.path());
        command
    }

    /// A value out of pg_controldata, by the end of its name: the server need not run.
    #[track_caller]
    pub fn control(&self, name: &str) -> String {
        let mut command = self.setup.postgres.command("pg_controldata");
        command.arg("-D").arg(&self.data).env("LC_ALL", "C");
        let said = Outcome::of(command).ok().stdout;
        let line = said.lines().find_map(|line| line.split_once(':').filter(|(left, _)| left.ends_with(name)));
        line.unwrap_or_else(|| panic!("{name} is not in\n{said}")).1.trim().to_owned()
    }

    /// Runs SQL by psql, each statement by itself; the unaligned rows, without the last newline. Any error is a panic.
    #[track_caller]
    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql).unwrap_or_else(|error| panic!("{sql}\n{error}\n{}", self.log_tail()))
    }

    /// As [`Server::sql`]; what psql said on an error.
    pub fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        use std::io::Write;
        let mut command = self.client("psql", database);
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("{command:?}: {e}"))?;
        if let Some(mut input) = child.stdin.take() {
            let _ = input.write_all(sql.as_bytes()); // psql may stop reading at an error
        }
        let done = child.wait_with_output().map_err(|e| e.to_string())?;
        if done.status.success() {
            Ok(String::from_utf8_lossy(&done.stdout).trim_end_matches('\n').to_owned())
        } else {
            Err(String::from_utf8_lossy(&done.stderr).into_owned())
        }
    }

    /// Fills pgbench's tables in the database `postgres`; scale 1 is 15 MB.
    #[track_caller]
    pub fn pgbench_init(&self, scale: u32) {
        self.pgbench(&["-i", "-q", "-s", &scale.to_string()]);
    }

    /// Runs pgbench on the database `postgres` to its end.
    #[track_caller]
    pub fn pgbench(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.client("pgbench", "postgres");
        command.args(arguments);
        Outcome::of(command).ok()
    }

    /// The sums by which pgbench's tables are compared: they agree with each other in any consistent state.
    #[track_caller]
    pub fn pgbench_sums(&self) -> String {
        self.sql(
            "postgres",
            "select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches),
                    (select sum(tbalance) from pgbench_tellers), (select coalesce(sum(delta), 0) from pgbench_history),
                    (select count(*) from pgbench_history)",
        )
    }

    /// Sets a setting by ALTER SYSTEM and reloads; new sessions have it on return, other processes shortly after.
    #[track_caller]
    pub fn set(&self, name: &str, value: &str) {
        let loaded = || self.sql("postgres", "select extract(epoch from pg_conf_load_time())").parse::<f64>().expect("a time");
        let before = loaded();
        let quoted = value.replace('\'', "''");
        self.sql("postgres", &format!("alter system set {name} = '{quoted}'; select pg_reload_conf();"));
        wait_until("the configuration to be loaded", || loaded() > before);
    }

    /// Ends the current WAL segment; its name. Something is written before, no transaction: a segment in which nothing
    /// is can't be ended, and would never be archived.
    #[track_caller]
    pub fn switch_wal(&self) -> String {
        self.sql("postgres", "select from pg_logical_emit_message(false, 'test', ''); select pg_walfile_name(pg_switch_wal())")
    }

    /// Waits until the archiver has taken this file of WAL (by [`Server::switch_wal`]), or a later one.
    #[track_caller]
    pub fn await_archived(&self, name: &str) {
        wait_until(&format!("{name} in the archive"), || {
            self.sql("postgres", &format!("select coalesce(last_archived_wal >= '{name}', false) from pg_stat_archiver")) == "t"
        });
    }

    /// The whole log.
    pub fn log(&self) -> String {
        std::fs::read(self.folder.join("server.log")).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// The end of the log.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(40)..];
        format!("--- server log, its end\n{}\n---", tail.join("\n"))
    }

    /// For what shall go into the log as well.
    pub(super) fn log_file(&self) -> File {
        File::options().create(true).append(true).open(self.folder.join("server.log")).expect("server.log")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            self.kill_tree(&mut child);
        }
        // The system has room for some thousand of these only, and they outlive data directories.
        for id in &self.left {
            let _ = Command::new("ipcrm").args(["-m", id]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        remove_tree(&self.sockets);
    }
}

/// For how long a server may start or stop, and any condition be awaited: long, as machines under test may be slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until a condition holds; `what` is named when it never does.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id"))
}

/// Kills the postmaster first, so that it starts no other, then its children, and waits until none is left: their
/// shared memory would stop the next start.
fn kill_tree(child: &mut Child) {
    let parent = child.id();
    let _ = kill(pid(child), Signal::SIGSTOP);
    let children = children_of(parent);
    let _ = child.kill();
    let _ = child.wait();
    for pid in &children {
        let _ = kill(*pid, Signal::SIGKILL);
    }
    let deadline = Instant::now() + PATIENCE;
    while children.iter().any(|pid| is_alive(*pid)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The id of the System V segment that this postmaster holds: the second number of line 7 of postmaster.pid
/// (utils/pidfile.h).
fn shared_memory(data: &Path, postmaster: u32) -> Option<String> {
    let pidfile = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let mut lines = pidfile.lines();
    let ours = lines.next()?.trim() == postmaster.to_string();
    let id = lines.nth(5)?.split_whitespace().nth(1)?;
    (ours && id.parse::<u32>().is_ok()).then(|| id.to_owned())
}

fn stat_of(pid: &str) -> Option<(char, u32)> {
    // "pid (name) state ppid ...", and the name may hold anything.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn children_of(parent: u32) -> Vec<Pid> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = all.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.parse::<u32>().is_ok());
    let ours = numbers.filter(|name| stat_of(name).is_some_and(|(_, ppid)| ppid == parent));
    ours.filter_map(|name| name.parse().ok().map(Pid::from_raw)).collect()
}

fn is_alive(pid: Pid) -> bool {
    stat_of(&pid.to_string()).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
}

/// A socket's path is at most 107 bytes long: a short folder of its own.
fn socket_folder() -> PathBuf {
    loop {
        let folder = PathBuf::from(format!("/tmp/pgc-{:08x}", random()));
        match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => return folder,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => panic!("{}: {e}", folder.display()),
        }
    }
}

/// A port that nobody listens on now. No test relies on 5432: a default must not be right by luck.
fn random_port() -> u16 {
    loop {
        let port = 20_000 + (random() % 40_000) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).expect("random bytes");
    u32::from_ne_bytes(bytes)
}
