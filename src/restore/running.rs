//! Does a server run on a data directory? Settled by what the kernel knows, and never guessed: a restore under a living
//! server destroys both.
//!
//! A `postmaster.pid` alone says nothing: a killed server leaves it, its number may be another process's by now, and one
//! of a server in a container is that container's. What proves life:
//! - a process of PostgreSQL whose working folder is the data directory: each has it, and never leaves it;
//! - System V shared memory that the file names with processes attached: the server's own interlock, which holds until
//!   the last backend is gone, be the postmaster dead.
//!
//! What proves death:
//! - that very segment, made by that very process, with nobody attached: it was made in this container, on this machine,
//!   since it was started;
//! - the file is older than the machine's start;
//! - all processes of this machine can be seen, and none works there.
//!
//! Everything else is a doubt (another container, another machine with the same disk), and a doubt is a refusal.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::RestoreError;
use crate::pg::postmaster_pid::{MAX_LEN, PostmasterPid, SharedMemory};

/// The first namespace of processes, in which all are seen (`PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";
/// A start of the machine is known to about a second.
const SLACK: i64 = 5;

/// What is known of the process whose number stands in the lock file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Process {
    /// There is none.
    Gone,
    /// It works in the data directory.
    Here,
    /// It works elsewhere.
    Elsewhere,
    /// It is there, and where it works can't be seen.
    Hidden,
}

/// A shared memory segment of this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Segment {
    creator: i64,
    attached: u64,
}

/// What this host shows of the processes around a data directory.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    /// A process of PostgreSQL that works in it.
    inside: Option<i32>,
    /// That of the lock file's number.
    process: Process,
    /// The segment that the lock file names.
    segment: Option<Segment>,
    /// When this machine was started.
    booted: Option<i64>,
    /// No process of this machine escaped the look.
    all: bool,
    /// The folder lies on a file system that several machines may mount.
    shared: bool,
}

/// What follows.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Verdict {
    Runs(String),
    Dead,
    Doubt(String),
}

fn judge(pid: Option<&PostmasterPid>, seen: &Seen) -> Verdict {
    if let Some(inside) = seen.inside {
        return Verdict::Runs(format!("process {inside} of PostgreSQL works in it"));
    }
    // A server that runs on a folder without its lock file shuts itself down within a minute.
    let Some(pid) = pid else { return Verdict::Dead };
    if let Some(segment) = seen.segment {
        if segment.attached > 0 {
            return Verdict::Runs(format!("{} processes are attached to its shared memory", segment.attached));
        }
        if segment.creator == i64::from(pid.pid) {
            return Verdict::Dead;
        }
    }
    if seen.process == Process::Here {
        return Verdict::Runs(format!("process {} works in it", pid.pid));
    }
    let number = pid.pid;
    if seen.shared {
        return Verdict::Doubt(format!(
            "its postmaster.pid names process {number}, perhaps of another machine: the folder is on a network file system"
        ));
    }
    if seen.booted.zip(pid.started).is_some_and(|(booted, started)| started.saturating_add(SLACK) < booted) {
        return Verdict::Dead;
    }
    match seen.process {
        Process::Gone | Process::Elsewhere if seen.all => Verdict::Dead,
        Process::Hidden => Verdict::Doubt(format!("process {number} of its postmaster.pid is alive, and can't be looked into")),
        Process::Gone | Process::Elsewhere | Process::Here => Verdict::Doubt(format!(
            "its postmaster.pid names process {number}, which can't be seen from here: perhaps it runs in another container"
        )),
    }
}

/// Refuses a data directory on which a server runs, or may run.
///
/// # Errors
/// [`RestoreError::ServerRuns`], [`RestoreError::ServerMayRun`], or what kept it from looking.
pub fn check_stopped(data: &Path) -> Result<(), RestoreError> {
    let pid = match lock_file(data)? {
        None => None,
        Some(bytes) => match PostmasterPid::parse(&bytes) {
            Some(pid) => Some(pid),
            None => return Err(doubt(data, "its postmaster.pid can't be read".into())),
        },
    };
    let seen = look(data, pid.as_ref()).map_err(RestoreError::io(format!("looking for a server that runs on {}", data.display())))?;
    match judge(pid.as_ref(), &seen) {
        Verdict::Dead => Ok(()),
        Verdict::Runs(how) => Err(RestoreError::ServerRuns { folder: data.to_owned(), how }),
        Verdict::Doubt(why) => Err(doubt(data, why)),
    }
}

fn doubt(data: &Path, why: String) -> RestoreError {
    RestoreError::ServerMayRun { folder: data.to_owned(), why }
}

fn lock_file(data: &Path) -> Result<Option<Vec<u8>>, RestoreError> {
    let path = data.join("postmaster.pid");
    match super::folders::read_small(&path, MAX_LEN) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(RestoreError::io(format!("reading {}", path.display()))(e)),
    }
}

fn look(data: &Path, pid: Option<&PostmasterPid>) -> io::Result<Seen> {
    let m = fs::metadata(data)?;
    let here = (m.dev(), m.ino());
    let owner = m.uid();
    let mut seen = Seen {
        inside: None,
        process: Process::Gone,
        segment: pid.and_then(|pid| segment(pid.shared_memory?)),
        booted: booted(),
        all: fs::read_link("/proc/self/ns/pid").is_ok_and(|ns| ns.as_os_str() == FIRST_PID_NAMESPACE),
        shared: is_shared(data),
    };
    let processes = match fs::read_dir("/proc") {
        Ok(processes) => processes,
        Err(_) => {
            (seen.all, seen.process) = (false, Process::Hidden);
            return Ok(seen);
        }
    };
    for process in processes.flatten() {
        let Some(number) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let works = works_in(&process.path(), here);
        let is_it = pid.is_some_and(|pid| pid.pid == number);
        // A server runs as the owner of its data directory, or not at all.
        let may_be_it = fs::metadata(process.path()).is_ok_and(|m| m.uid() == owner);
        if works == Process::Here && is_server(&process.path()) {
            seen.inside = Some(number);
        }
        if is_it {
            seen.process = works;
        }
        if works == Process::Hidden && may_be_it {
            seen.all = false;
        }
    }
    Ok(seen)
}

/// Where does a process work? By the folder itself and not by its name, which differs from one mount namespace to the next.
fn works_in(process: &Path, here: (u64, u64)) -> Process {
    match fs::metadata(process.join("cwd")) {
        Ok(m) if (m.dev(), m.ino()) == here => Process::Here,
        Ok(_) => Process::Elsewhere,
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Process::Hidden,
        // A zombie has none any more, nor has a process in a folder that was removed.
        Err(_) => Process::Gone,
    }
}

/// Somebody's shell may stand in the data directory: it is no server.
fn is_server(process: &Path) -> bool {
    let named = |name: &[u8]| name.windows(8).any(|w| w == b"postgres") || name.windows(10).any(|w| w == b"postmaster");
    let comm = fs::read(process.join("comm")).unwrap_or_default();
    let program = fs::read_link(process.join("exe")).unwrap_or_default();
    // psql and pg_ctl lie in folders that are named after PostgreSQL: the last name counts.
    named(&comm) || program.file_name().is_some_and(|name| named(name.as_bytes()))
}

/// The segment of this key and id, as `ipcs -m` shows it: key shmid perms size cpid lpid nattch ...
fn segment(named: SharedMemory) -> Option<Segment> {
    find_segment(&fs::read_to_string("/proc/sysvipc/shm").ok()?, named)
}

fn find_segment(table: &str, named: SharedMemory) -> Option<Segment> {
    table.lines().find_map(|line| {
        let columns: Vec<i64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
        match columns.as_slice() {
            [key, id, _, _, creator, _, attached, ..] if (*key, *id) == (named.key.into(), named.id.into()) => {
                Some(Segment { creator: *creator, attached: u64::try_from(*attached).unwrap_or(u64::MAX) })
            }
            _ => None,
        }
    })
}

fn booted() -> Option<i64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// NFS, SMB, CIFS, Ceph, 9p, AFS, GFS2, OCFS2, Lustre.
fn is_shared(data: &Path) -> bool {
    const KINDS: [u32; 10] =
        [0x6969, 0x517B, 0xFF53_4D42, 0xFE53_4D42, 0x00C3_6400, 0x0102_1997, 0x5346_414F, 0x0116_1970, 0x7461_636F, 0x0BD0_0BD0];
    nix::sys::statfs::statfs(data).is_ok_and(|s| KINDS.contains(&(s.filesystem_type().0 as u32)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Class, Explain};

    #[test]
    fn life_and_death_are_proven_and_doubts_are_doubts() {
        use Process::{Elsewhere, Gone, Here, Hidden};
        let pid = PostmasterPid { pid: 42, started: Some(1000), shared_memory: Some(SharedMemory { key: 1, id: 2 }) };
        let nothing = Seen { inside: None, process: Gone, segment: None, booted: Some(900), all: false, shared: false };
        let with = |creator, attached| Some(Segment { creator, attached });
        let cases: Vec<(&str, Seen, &str)> = vec![
            ("works inside", Seen { inside: Some(7), ..nothing.clone() }, "runs"),
            ("works inside, whatever else", Seen { inside: Some(7), segment: with(42, 0), booted: Some(2000), ..nothing.clone() }, "runs"),
            ("attached", Seen { segment: with(42, 3), ..nothing.clone() }, "runs"),
            ("attached, of another container's number", Seen { segment: with(0, 3), ..nothing.clone() }, "runs"),
            ("attached, in spite of a later start", Seen { segment: with(42, 1), booted: Some(2000), ..nothing.clone() }, "runs"),
            ("its process", Seen { process: Here, ..nothing.clone() }, "runs"),
            ("left behind", Seen { segment: with(42, 0), ..nothing.clone() }, "dead"),
            ("left behind, its number is another's now", Seen { segment: with(42, 0), process: Hidden, ..nothing.clone() }, "dead"),
            ("left behind on a network disk", Seen { segment: with(42, 0), shared: true, ..nothing.clone() }, "dead"),
            ("somebody else's segment", Seen { segment: with(43, 0), ..nothing.clone() }, "doubt"),
            ("machine restarted", Seen { booted: Some(2000), ..nothing.clone() }, "dead"),
            ("just after the machine's start", Seen { booted: Some(1003), ..nothing.clone() }, "doubt"),
            ("machine restarted, network disk", Seen { booted: Some(2000), shared: true, ..nothing.clone() }, "doubt"),
            ("all seen", Seen { all: true, ..nothing.clone() }, "dead"),
            ("all seen, number of another", Seen { all: true, process: Elsewhere, ..nothing.clone() }, "dead"),
            ("a container", nothing.clone(), "doubt"),
            ("a container, number of another", Seen { process: Elsewhere, ..nothing.clone() }, "doubt"),
            ("hidden", Seen { process: Hidden, all: true, ..nothing.clone() }, "doubt"),
        ];
        let word = |verdict| match verdict {
            Verdict::Runs(_) => "runs",
            Verdict::Dead => "dead",
            Verdict::Doubt(_) => "doubt",
        };
        for (what, seen, expected) in cases {
            assert_eq!(word(judge(Some(&pid), &seen)), expected, "{what}");
        }
        // Without its number and its time nothing is older than anything.
        let young = PostmasterPid { started: None, ..pid };
        assert_eq!(word(judge(Some(&young), &Seen { booted: Some(2000), ..nothing.clone() })), "doubt");
        assert_eq!(judge(None, &nothing), Verdict::Dead);
        assert_eq!(word(judge(None, &Seen { inside: Some(7), ..nothing })), "runs");
    }

    #[test]
    fn segments_are_found_by_key_and_id() {
        let table = "       key      shmid perms                  size  cpid  lpid nattch   uid\n  10487261     196609   600                    56 30099 30105      2   999\n        -1     196610   600                    56 30100 30105      0   999\n";
        let find = |key, id| find_segment(table, SharedMemory { key, id });
        assert_eq!(find(10_487_261, 196_609), Some(Segment { creator: 30099, attached: 2 }));
        assert_eq!(find(-1, 196_610), Some(Segment { creator: 30100, attached: 0 }));
        assert_eq!((find(10_487_261, 196_610), find(1, 196_609)), (None, None));
    }

    #[test]
    fn a_lock_file_that_says_nothing_is_a_doubt() {
        let scratch = tempfile::tempdir().unwrap();
        check_stopped(scratch.path()).unwrap();
        fs::write(scratch.path().join("postmaster.pid"), "rubbish").unwrap();
        let error = check_stopped(scratch.path()).unwrap_err();
        assert!(matches!(error, RestoreError::ServerMayRun { .. }) && error.class() == Class::Refused, "{error}");
        assert!(error.cure().unwrap().contains("postmaster.pid"));
        // A link in its place is not followed.
        fs::remove_file(scratch.path().join("postmaster.pid")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", scratch.path().join("postmaster.pid")).unwrap();
        assert!(check_stopped(scratch.path()).is_err());
    }

    #[test]
    fn who_works_in_the_folder_is_seen() {
        let scratch = tempfile::tempdir().unwrap();
        // The name of a server's program is enough; a shell is none.
        let program = scratch.path().join("postgres");
        std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
        let data = scratch.path().join("data");
        fs::create_dir(&data).unwrap();
        let run = |program: &Path| std::process::Command::new(program).arg("1000").current_dir(&data).spawn().unwrap();
        let mut shell = run(Path::new("/bin/sleep"));
        assert!(check_stopped(&data).is_ok());
        let mut server = run(&program);
        let error = check_stopped(&data).unwrap_err();
        assert!(matches!(&error, RestoreError::ServerRuns { how, .. } if how.contains(&server.id().to_string())), "{error}");
        for child in [&mut shell, &mut server] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        check_stopped(&data).unwrap();
    }
}
