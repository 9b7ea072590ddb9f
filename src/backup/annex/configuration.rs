//! Configuration files that lie outside the data directory, as Debian's do: found by what they name, kept in an annex.
//!
//! The server says where the main ones are (a role needs `pg_read_all_settings` for it); what they include is read out of
//! them. Keys of TLS are named and never stored, wherever they lie.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Annex, AnnexFile};
use crate::pg::config_files::{ANNEX, Include, Language, MAX_ALL, MAX_DEPTH, MAX_FILE, MAX_FILES, last_setting, references, resolve_from};
use crate::pg::connection::{Connection, PgConnError};
use crate::pg::facts::{ConfigFile, ConfigFolder, ConfigRole, ConfigurationFacts, MissingFile};
use crate::units::ids::hex;
use crate::units::{Progress, show};

/// Settings that are recorded.
const SETTINGS: &str = "SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ('data_directory', 'config_file', 'hba_file', 'ident_file', \
     'hosts_file', 'external_pid_file', 'log_directory', 'logging_collector', 'stats_temp_directory', 'shared_preload_libraries', \
     'session_preload_libraries', 'ssl', 'ssl_cert_file', 'ssl_key_file', 'ssl_ca_file', 'ssl_crl_file', 'ssl_crl_dir', \
     'ssl_dh_params_file', 'krb_server_keyfile')";
/// Those of them that name a key.
const KEYS: [&str; 2] = ["ssl_key_file", "krb_server_keyfile"];
/// Files that the server has really read; a superuser's view.
const SOURCES: &str = "SELECT DISTINCT sourcefile FROM pg_catalog.pg_file_settings WHERE sourcefile IS NOT NULL";
const ROLES: [ConfigRole; 4] = [ConfigRole::Config, ConfigRole::Hba, ConfigRole::Ident, ConfigRole::Hosts];
const AUTO_CONF: &str = "postgresql.auto.conf";

/// What there is of a configuration.
#[derive(Default)]
pub(in crate::backup) struct Configuration {
    /// For the snapshot's facts; none where all lies in the data directory.
    pub facts: Option<ConfigurationFacts>,
    /// Settings by name.
    pub settings: BTreeMap<String, String>,
    /// The files.
    pub annex: Option<Annex>,
}

/// Looks for the files. What can't be had is warned of.
pub(in crate::backup) fn gather(connection: Option<&mut Connection>, pgdata: &Path, progress: &dyn Progress) -> Configuration {
    let (settings, sources) = match connection {
        Some(connection) => match ask(connection) {
            Ok(asked) => asked,
            Err(e) => {
                progress.warn(&format!(
                    "which configuration files the server has is not known, and only what lies in its data directory is stored: {e}"
                ));
                return Configuration::default();
            }
        },
        None => (BTreeMap::new(), None),
    };
    let is_online = sources.is_some();
    if is_online && !settings.contains_key("config_file") {
        progress.warn(
            "where the configuration files lie is not known, and only what lies in the data directory is stored: the role lacks pg_read_all_settings",
        );
    }
    let mut search = Search::new(pgdata, &settings);
    for role in ROLES {
        let named = settings.get(role.setting()).filter(|path| !path.is_empty()).map(PathBuf::from);
        let named = named.or_else(|| if is_online { None } else { search.named_in_files(role) });
        let (path, how) = match named {
            Some(path) => (path, Include::File),
            None => (pgdata.join(role.default_name()), Include::IfExists),
        };
        let language = if role == ConfigRole::Config { Language::Settings } else { Language::Columns };
        search.follow(&path, How { role, language, top: true, how }, 0);
    }
    for path in sources.iter().flatten() {
        search.follow(
            Path::new(path),
            How { role: ConfigRole::Config, language: Language::Settings, top: false, how: Include::IfExists },
            MAX_DEPTH,
        );
    }
    if !is_online && !search.has_top(ConfigRole::Config) {
        progress.warn(&format!(
            "{} has no postgresql.conf: configuration files that lie elsewhere are not known of a stopped cluster, and not in the snapshot",
            pgdata.display()
        ));
    }
    search.finish(settings, progress)
}

type Asked = (BTreeMap<String, String>, Option<Vec<String>>);

fn ask(connection: &mut Connection) -> Result<Asked, PgConnError> {
    let rows = connection.query("asking for the configuration files", SETTINGS)?;
    let pair = |row: &tokio_postgres::Row| Some((row.try_get(0).ok()?, row.try_get::<_, Option<String>>(1).ok()??));
    let settings = rows.iter().filter_map(pair).collect();
    // Without the right to it, what the files themselves name has to do.
    let sources = connection.query("asking for the configuration files", SOURCES).unwrap_or_default();
    Ok((settings, Some(sources.iter().filter_map(|row| row.try_get(0).ok()).collect())))
}

/// How a file is come to.
#[derive(Clone, Copy)]
struct How {
    role: ConfigRole,
    language: Language,
    top: bool,
    how: Include,
}

struct FoundFile {
    path: PathBuf,
    how: How,
    bytes: Vec<u8>,
    metadata: fs::Metadata,
}

struct Search<'a> {
    pgdata: &'a Path,
    real_pgdata: PathBuf,
    /// What the server calls the data directory: in a container it may lie elsewhere.
    theirs: Option<PathBuf>,
    /// Device and inode of keys.
    keys: HashSet<(u64, u64)>,
    seen: HashSet<PathBuf>,
    found: Vec<FoundFile>,
    folders: Vec<PathBuf>,
    missing: Vec<MissingFile>,
    /// Something of it lies outside the data directory.
    outside: bool,
    bytes: u64,
}

impl<'a> Search<'a> {
    fn new(pgdata: &'a Path, settings: &BTreeMap<String, String>) -> Self {
        let key = |name: &&str| settings.get(*name).and_then(|path| fs::metadata(pgdata.join(path)).ok()).map(|m| (m.dev(), m.ino()));
        Search {
            pgdata,
            real_pgdata: fs::canonicalize(pgdata).unwrap_or_else(|_| pgdata.to_owned()),
            theirs: settings.get("data_directory").map(PathBuf::from),
            keys: KEYS.iter().filter_map(key).collect(),
            seen: HashSet::new(),
            found: Vec::new(),
            folders: Vec::new(),
            missing: Vec::new(),
            outside: false,
            bytes: 0,
        }
    }

    /// Where this process finds what the server calls so.
    fn here(&self, path: &Path) -> PathBuf {
        match self.theirs.as_ref().and_then(|theirs| path.strip_prefix(theirs).ok()) {
            Some(below) => self.pgdata.join(below),
            None => path.to_owned(),
        }
    }

    /// Is it copied with the data directory: within it, and no link on the way?
    fn is_inside(&self, path: &Path) -> bool {
        let path = self.here(path);
        let is_pgdata = |folder: &&Path| fs::canonicalize(folder).is_ok_and(|real| real == self.real_pgdata);
        let Some(below) = path.ancestors().skip(1).find(is_pgdata).and_then(|folder| path.strip_prefix(folder).ok()) else { return false };
        fs::canonicalize(&path).map_or(true, |real| real.strip_prefix(&self.real_pgdata) == Ok(below))
    }

    fn has_top(&self, role: ConfigRole) -> bool {
        self.found.iter().any(|f| f.how.top && f.how.role == role)
    }

    /// Of a stopped cluster: what its files say last of where another one lies.
    fn named_in_files(&self, role: ConfigRole) -> Option<PathBuf> {
        let auto = fs::read(self.pgdata.join(AUTO_CONF)).unwrap_or_default();
        let files = self.found.iter().filter(|f| f.how.language == Language::Settings).map(|f| f.bytes.as_slice());
        let value = files.chain(std::iter::once(auto.as_slice())).filter_map(|file| last_setting(file, role.setting())).next_back()?;
        Some(self.pgdata.join(std::ffi::OsStr::from_bytes(&value)))
    }

    fn follow(&mut self, path: &Path, how: How, depth: usize) {
        if path.parent() == Some(self.pgdata) && path.file_name().is_some_and(|name| name == AUTO_CONF)
            || !self.seen.insert(path.to_owned())
        {
            return;
        }
        if how.how == Include::Folder {
            return self.folder(path, how, depth);
        }
        match self.read(path) {
            Ok((bytes, metadata)) => {
                self.outside |= !self.is_inside(path);
                self.bytes += bytes.len() as u64;
                let named = references(how.language, &bytes);
                self.found.push(FoundFile { path: path.to_owned(), how, bytes, metadata });
                if depth < MAX_DEPTH {
                    for reference in named {
                        let language = if reference.how == Include::Names { Language::Names } else { how.language };
                        let how = How { role: how.role, language, top: false, how: reference.how };
                        self.follow(&resolve_from(path, &reference.path), how, depth + 1);
                    }
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound && how.how == Include::IfExists => {}
            Err(e) => self.miss(path, why(&e)),
        }
    }

    /// As `GetConfFilesInDir`: names that end in `.conf` and don't begin with a dot, in the order of their bytes.
    fn folder(&mut self, path: &Path, how: How, depth: usize) {
        let entries = match fs::read_dir(self.here(path)) {
            Ok(entries) => entries,
            Err(e) => return self.miss(path, why(&e)),
        };
        self.outside |= !self.is_inside(path);
        self.folders.push(path.to_owned());
        let mut names: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
        names.retain(|name| name.as_bytes().ends_with(b".conf") && !name.as_bytes().starts_with(b"."));
        names.sort_unstable();
        for name in names {
            let file = path.join(name);
            if !self.here(&file).is_dir() {
                self.follow(&file, How { how: Include::File, ..how }, depth);
            }
        }
    }

    fn miss(&mut self, path: &Path, why: String) {
        self.outside |= !self.is_inside(path);
        self.missing.push(MissingFile { path: show(path.as_os_str().as_bytes()), why });
    }

    fn read(&self, path: &Path) -> io::Result<(Vec<u8>, fs::Metadata)> {
        let refuse = |why: &str| Err(io::Error::other(why.to_owned()));
        // Never waits for the other end of a fifo.
        let file = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC).open(self.here(path))?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return refuse("it is no regular file");
        }
        if self.keys.contains(&(metadata.dev(), metadata.ino())) {
            return refuse("it is a key: keys are never stored");
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE || self.found.len() >= MAX_FILES || self.bytes + bytes.len() as u64 > MAX_ALL {
            return refuse("it is too large, or one of too many");
        }
        if holds_key(&bytes) {
            return refuse("it holds a private key: keys are never stored");
        }
        Ok((bytes, metadata))
    }

    fn finish(self, settings: BTreeMap<String, String>, progress: &dyn Progress) -> Configuration {
        if !self.outside {
            return Configuration { facts: None, settings, annex: None };
        }
        for file in &self.missing {
            progress.warn(&format!("the configuration file {} is not in the snapshot: {}", file.path, file.why));
        }
        let (mut files, mut annex) = (Vec::new(), Vec::new());
        for (number, found) in self.found.into_iter().enumerate() {
            let file = format!("{number:04}");
            let (shown, path_bytes) = shown(&found.path);
            files.push(ConfigFile {
                file: file.clone(),
                path: shown,
                path_bytes,
                role: found.how.role,
                top: found.how.top,
                names: found.how.language == Language::Names,
            });
            let m = &found.metadata;
            let mtime = m.mtime().saturating_mul(1_000_000_000).saturating_add(m.mtime_nsec());
            annex.push(AnnexFile { name: file, bytes: found.bytes, mode: m.mode() & 0o7777, owner: (m.uid(), m.gid()), mtime });
        }
        let annex = (!annex.is_empty()).then_some(Annex { name: ANNEX, files: annex });
        let folder = |path: &PathBuf| {
            let (path, path_bytes) = shown(path);
            ConfigFolder { path, path_bytes }
        };
        let folders = self.folders.iter().map(folder).collect();
        Configuration { facts: Some(ConfigurationFacts { files, folders, missing: self.missing }), settings, annex }
    }
}

/// For people, and in hex where that isn't the same.
fn shown(path: &Path) -> (String, Option<String>) {
    let bytes = path.as_os_str().as_bytes();
    (show(bytes), path.to_str().is_none().then(|| hex(bytes)))
}

/// `-----BEGIN PRIVATE KEY-----`, `-----BEGIN ENCRYPTED PRIVATE KEY-----`, `-----BEGIN RSA PRIVATE KEY-----`, ...
fn holds_key(bytes: &[u8]) -> bool {
    bytes.split(|b| *b == b'\n').any(|line| {
        let line = line.trim_ascii();
        line.starts_with(b"-----BEGIN ") && line.ends_with(b"PRIVATE KEY-----")
    })
}

fn why(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::NotFound => "it is not there".into(),
        io::ErrorKind::PermissionDenied => "the user who took the backup may not read it".into(),
        _ => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Event, Level};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::Mutex;

    #[derive(Default)]
    struct Warnings(Mutex<Vec<String>>);

    impl Progress for Warnings {
        fn event(&self, event: Event<'_>) {
            if let Event::Message(Level::Warning, text) = event {
                self.0.lock().unwrap().push(text.into());
            }
        }
    }

    struct Host {
        _folder: tempfile::TempDir,
        root: PathBuf,
    }

    impl Host {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let root = fs::canonicalize(folder.path()).unwrap();
            Host { _folder: folder, root }
        }

        fn write(&self, path: &str, content: &str) {
            let path = self.root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        /// Of a stopped cluster: (paths below the root, missing, warnings).
        fn stopped(&self) -> (Vec<String>, Vec<(String, String)>, Vec<String>) {
            let warnings = Warnings::default();
            let gathered = gather(None, &self.root.join("data"), &warnings);
            let below = |path: &str| path.strip_prefix(self.root.to_str().unwrap()).unwrap_or(path).trim_start_matches('/').to_owned();
            let facts = gathered.facts.unwrap_or_default();
            assert_eq!(facts.files.len(), gathered.annex.map_or(0, |a| a.files.len()));
            let files = facts.files.iter().map(|f| below(&f.path)).collect();
            let missing = facts.missing.into_iter().map(|m| (below(&m.path), m.why)).collect();
            (files, missing, warnings.0.into_inner().unwrap())
        }
    }

    #[test]
    fn nothing_is_kept_where_all_lies_in_the_data_directory() {
        let host = Host::new();
        host.write("data/postgresql.conf", "include_dir 'conf.d'\ninclude_if_exists 'absent.conf'\n");
        host.write("data/conf.d/a.conf", "port = 1\n");
        host.write("data/pg_hba.conf", "local all @users peer\n");
        host.write("data/users", "a\n");
        assert_eq!(host.stopped(), (vec![], vec![], vec![]));
    }

    #[test]
    fn all_is_kept_where_something_lies_outside() {
        let host = Host::new();
        host.write("data/postgresql.conf", "include_dir '../etc/conf.d'\nhba_file = 'x'\n");
        host.write("data/postgresql.auto.conf", &format!("hba_file = '{}/etc/hba.conf'\n", host.root.display()));
        host.write("etc/conf.d/b.conf", "include '../more.conf'\n");
        host.write("etc/conf.d/a.conf", "");
        host.write("etc/conf.d/.hidden.conf", "");
        host.write("etc/conf.d/c.txt", "");
        host.write("etc/more.conf", "include '../data/postgresql.conf'\n");
        host.write("etc/hba.conf", "local all @lists/users peer\n");
        host.write("etc/lists/users", "a\n");
        let expected =
            ["data/postgresql.conf", "etc/conf.d/a.conf", "etc/conf.d/b.conf", "etc/more.conf", "etc/hba.conf", "etc/lists/users"];
        assert_eq!(host.stopped(), (expected.map(str::to_owned).to_vec(), vec![], vec![]));
    }

    #[test]
    fn a_link_out_of_the_data_directory_lies_outside() {
        let host = Host::new();
        host.write("etc/postgresql.conf", "port = 1\n");
        fs::create_dir(host.root.join("data")).unwrap();
        symlink(host.root.join("etc/postgresql.conf"), host.root.join("data/postgresql.conf")).unwrap();
        assert_eq!(host.stopped().0, ["data/postgresql.conf"]);
    }

    #[test]
    fn keys_are_never_kept() {
        let host = Host::new();
        host.write("data/postgresql.conf", "include_dir '../etc'\n");
        host.write("etc/a.conf", "port = 1\n");
        host.write("etc/tls.conf", "x\n-----BEGIN EC PRIVATE KEY-----\nabc\n-----END EC PRIVATE KEY-----\n");
        host.write("etc/raw.conf", "binary");
        let settings = [("ssl_key_file".to_owned(), host.root.join("etc/raw.conf").to_str().unwrap().to_owned())].into();
        let data = host.root.join("data");
        let mut search = Search::new(&data, &settings);
        let how = How { role: ConfigRole::Config, language: Language::Settings, top: true, how: Include::File };
        search.follow(&data.join("postgresql.conf"), how, 0);
        let gathered = search.finish(settings, &Warnings::default());
        let annex = gathered.annex.unwrap();
        assert!(annex.files.iter().all(|f| !f.bytes.windows(7).any(|w| w == b"PRIVATE") && f.bytes != b"binary"));
        let facts = gathered.facts.unwrap();
        assert_eq!((facts.files.len(), facts.missing.len()), (2, 2));
        assert!(facts.missing.iter().all(|m| m.why.contains("never stored")), "{facts:?}");
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        let host = Host::new();
        host.write(
            "data/postgresql.conf",
            "include '../etc/absent.conf'\ninclude '../etc/large.conf'\ninclude '../etc/fifo.conf'\ninclude '../etc/loop.conf'\n",
        );
        host.write("etc/large.conf", &"#".repeat(MAX_FILE as usize + 1));
        host.write("etc/loop.conf", "include 'loop.conf'\ninclude '../data/postgresql.conf'\n");
        nix::unistd::mkfifo(&host.root.join("etc/fifo.conf"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (files, missing, warnings) = host.stopped();
        assert_eq!(files, ["data/postgresql.conf", "etc/loop.conf"]);
        let reasons: Vec<&str> = missing.iter().map(|(_, why)| why.as_str()).collect();
        assert_eq!(reasons, ["it is not there", "it is too large, or one of too many", "it is no regular file"]);
        assert!(warnings.len() == 3 && warnings[0].contains("etc/absent.conf is not in the snapshot"), "{warnings:?}");
        if !nix::unistd::geteuid().is_root() {
            host.write("etc/large.conf", "");
            fs::set_permissions(host.root.join("etc/large.conf"), fs::Permissions::from_mode(0o000)).unwrap();
            assert!(host.stopped().1.iter().any(|(_, why)| why.contains("may not read it")));
        }
    }

    #[test]
    fn a_stopped_cluster_without_its_configuration_is_warned_of() {
        let host = Host::new();
        fs::create_dir(host.root.join("data")).unwrap();
        let (files, missing, warnings) = host.stopped();
        assert!(files.is_empty() && missing.is_empty());
        assert!(warnings.len() == 1 && warnings[0].contains("has no postgresql.conf"), "{warnings:?}");
    }
}
