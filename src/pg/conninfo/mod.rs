//! Where a server is and as whom to connect: libpq's connection strings, variables and password file
//! (PostgreSQL's documentation, "libpq: Database Connection Control Functions").
//!
//! A text (words `host=... user=...`, a URL, or nothing) and the surroundings of the process (variables, user, home) go
//! in; a [`Conninfo`] in which everything is decided comes out. Only the password file is read here; nothing connects.
//!
//! - `words.rs`: `key=value` words with their quoting
//! - `url.rs`: `postgresql://` URLs
//! - `keywords.rs`: which keywords there are, their variables, and what becomes of each
//! - `password_file.rs`: `~/.pgpass`

mod keywords;
mod password_file;
mod url;
mod words;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::units::{Class, Explain};
use keywords::Treatment;

/// A word or a variable of a connection string that can't be used. No variant holds a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConninfoError {
    /// A word without `=`. Its text may be a part of a password, so only its place is told.
    #[error("the connection string has no \"=\" after the word that ends at character {at}")]
    NoEquals {
        /// Characters before it.
        at: usize,
    },
    /// A quote that isn't closed.
    #[error("the connection string has a quote that isn't closed")]
    UnclosedQuote,
    /// A URL that can't be read.
    #[error("the connection URL is malformed: {0}")]
    BadUrl(&'static str),
    /// No such keyword.
    #[error("unknown word in the connection string: {keyword:?}")]
    UnknownKeyword {
        /// As given.
        keyword: String,
        /// The one that was probably meant.
        meant: Option<&'static str>,
    },
    /// A value that isn't one of those that the keyword takes.
    #[error("{keyword} is {value:?}: {expected} is expected")]
    BadValue {
        /// The keyword.
        keyword: &'static str,
        /// As given.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// Lists of different lengths.
    #[error("the connection string names {hosts} hosts and {others} values for {keyword}")]
    Lengths {
        /// How many hosts.
        hosts: usize,
        /// `port` or `host`.
        keyword: &'static str,
        /// How many of these.
        others: usize,
    },
    /// A variable of the environment that isn't text in UTF-8.
    #[error("the environment variable {0} isn't valid UTF-8")]
    NotText(&'static str),
    /// A demand on encryption that can't be met yet: connecting without it would be worse than not connecting.
    #[error("TLS is not supported yet, and {keyword}={value} demands it")]
    TlsDemanded {
        /// The keyword that demands it.
        keyword: &'static str,
        /// Its value.
        value: String,
    },
    /// Something that libpq can and pgcairn can't.
    #[error("{keyword} is not supported in connection strings")]
    NotSupported {
        /// The keyword.
        keyword: &'static str,
    },
    /// The operating system knows no name for this user, and none is given.
    #[error("as which user to connect is not known: this system's user has no name")]
    NoUser,
}

impl Explain for ConninfoError {
    fn class(&self) -> Class {
        match self {
            ConninfoError::TlsDemanded { .. } => Class::Refused,
            _ => Class::Usage,
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            ConninfoError::NoEquals { .. } => Some("write words as key=value, and values with spaces in single quotes".into()),
            ConninfoError::UnclosedQuote => Some(r"close it, or write \' for a quote inside a value".into()),
            ConninfoError::BadUrl(_) => Some("write postgresql://user@host:port/dbname, special characters as %XX".into()),
            ConninfoError::UnknownKeyword { meant, .. } => meant.map(|meant| format!("did you mean {meant}?")),
            ConninfoError::TlsDemanded { .. } => {
                Some("connect through a unix socket (host=/var/run/postgresql), on the server's host".into())
            }
            ConninfoError::NotSupported { .. } => Some("leave it out, and name host, port, user and dbname".into()),
            ConninfoError::NoUser => Some("add user=NAME, or set PGUSER".into()),
            _ => None,
        }
    }
}

/// What a process sees around it: its variables, its user's name and home.
#[derive(Clone, Default)]
pub struct Surroundings {
    /// Values of the variables, by name.
    pub variables: HashMap<String, std::ffi::OsString>,
    /// The name of the operating system's user.
    pub user: Option<String>,
    /// Where `.pgpass` lies.
    pub home: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process. The home is looked up by user id when the environment names none (an archiver's
    /// environment may be empty).
    pub fn of_process() -> Self {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect();
        Surroundings { variables, home: home.or_else(|| user.as_ref().map(|u| u.dir.clone())), user: user.map(|u| u.name) }
    }
}

/// A password: shown by nothing, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Takes it over.
    pub fn new(text: String) -> Self {
        Password(Zeroizing::new(text))
    }

    /// The password itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}

/// One address at which the server may answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A host's name or address, or the folder of a unix socket.
    pub host: Host,
    /// The port; part of a socket's file name, too.
    pub port: u16,
}

/// What stands before the port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// The folder that holds the unix socket `.s.PGSQL.<port>`.
    Socket(PathBuf),
    /// A name to be looked up, or an address; `addr` spares the look-up (`hostaddr`).
    Tcp {
        /// The name; passwords are looked up under it.
        name: String,
        /// Where to connect, if not by name.
        addr: Option<IpAddr>,
    },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Socket(folder) => write!(f, "{}/.s.PGSQL.{}", folder.display(), self.port),
            Host::Tcp { name, .. } if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Host::Tcp { name, .. } => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Which kind of server is wanted (`target_session_attrs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Target {
    /// Any.
    #[default]
    Any,
    /// One that takes writes.
    ReadWrite,
    /// One that doesn't.
    ReadOnly,
    /// One that is not in recovery.
    Primary,
    /// One that is in recovery.
    Standby,
    /// One that is in recovery if there is one, else any.
    PreferStandby,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Target::Any => "any",
            Target::ReadWrite => "read-write",
            Target::ReadOnly => "read-only",
            Target::Primary => "primary",
            Target::Standby => "standby",
            Target::PreferStandby => "prefer-standby",
        })
    }
}

/// Everything that is needed to connect, decided.
#[derive(Debug, Clone)]
pub struct Conninfo {
    /// Tried in this order.
    pub endpoints: Vec<Endpoint>,
    /// The role.
    pub user: String,
    /// The database.
    pub dbname: String,
    /// From the string or the environment; [`Conninfo::password`] looks into the file as well.
    given_password: Option<Password>,
    /// The password file.
    passfile: Option<PathBuf>,
    /// How long to wait for each endpoint; `None` is without end (`connect_timeout=0`).
    pub connect_timeout: Option<Duration>,
    /// `application_name`, if given.
    pub application_name: Option<String>,
    /// `options`: command-line options for the server process, if given.
    pub options: Option<String>,
    /// Which kind of server is wanted.
    pub target: Target,
    /// TCP keep-alives; always on: a backup's session lasts as long as the backup.
    pub keepalives: Keepalives,
}

/// How a dead connection is noticed. Shorter than the system's defaults (two hours), since a lost session means a lost
/// backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalives {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Between probes.
    pub interval: Duration,
    /// Probes without an answer after which the connection is dead.
    pub count: u32,
    /// For how long sent data may stay unacknowledged, if given.
    pub user_timeout: Option<Duration>,
}

/// How long an endpoint is waited for unless `connect_timeout` says otherwise; libpq waits without end, which is no
/// good in a nightly job.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Where servers put their sockets: Debian's and Red Hat's packages in the first, PostgreSQL itself in the second.
const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

impl Conninfo {
    /// Reads a connection string (words, a URL, or nothing) and completes it from the surroundings.
    ///
    /// Unlike libpq, `dbname` is `postgres` when nothing names one: a backup needs no database in particular, and that
    /// one is made by initdb, while one with the user's name often doesn't exist. Without a host both usual socket
    /// folders are tried, since the place depends on who built the server.
    pub fn parse(text: &str, surroundings: &Surroundings) -> Result<Conninfo, ConninfoError> {
        let text = text.trim();
        let given = match url::without_scheme(text) {
            Some(rest) => url::parse(rest)?,
            None => words::parse(text)?,
        };
        Values::new(given, surroundings)?.decide(surroundings)
    }

    /// The same server and user, another database.
    pub fn with_dbname(&self, dbname: &str) -> Conninfo {
        Conninfo { dbname: dbname.to_owned(), ..self.clone() }
    }

    /// The password for an endpoint: the one given, else the password file's. `warn` is told why a file is not used.
    pub fn password(&self, endpoint: &Endpoint, warn: &mut dyn FnMut(String)) -> Option<Password> {
        if let Some(given) = &self.given_password {
            return Some(given.clone());
        }
        password_file::look_up(self.passfile.as_deref()?, &self.login(endpoint), warn)
    }

    fn login<'a>(&'a self, endpoint: &'a Endpoint) -> password_file::Login<'a> {
        let (host, default_socket) = match &endpoint.host {
            Host::Socket(folder) => (folder.to_str().unwrap_or_default(), is_default_socket(folder)),
            Host::Tcp { name, .. } => (name.as_str(), false),
        };
        password_file::Login { host, default_socket, port: endpoint.port, dbname: &self.dbname, user: &self.user }
    }
}

impl fmt::Display for Conninfo {
    /// For messages: where, as whom, to which database.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@", self.user)?;
        for (i, endpoint) in self.endpoints.iter().enumerate() {
            write!(f, "{}{endpoint}", if i > 0 { "," } else { "" })?;
        }
        write!(f, " database {}", self.dbname)
    }
}

fn is_default_socket(folder: &Path) -> bool {
    folder == Path::new("/run/postgresql") || SOCKET_FOLDERS.iter().any(|usual| folder == Path::new(usual))
}

/// Values by keyword: those of the string before those of the environment. An empty value in the string stands for the
/// built-in default, as in libpq; an empty variable for nothing.
struct Values(HashMap<&'static str, String>);

impl Values {
    fn new(given: Vec<(String, Zeroizing<String>)>, surroundings: &Surroundings) -> Result<Values, ConninfoError> {
        let mut values = HashMap::new();
        for keyword in keywords::ALL {
            let Some(variable) = keyword.variable else { continue };
            if let Some(value) = surroundings.variables.get(variable).filter(|value| !value.is_empty()) {
                let text = value.to_str().ok_or(ConninfoError::NotText(variable))?;
                values.insert(keyword.name, text.to_owned());
            }
        }
        for (name, value) in given {
            let keyword = keywords::find(&name)?;
            values.insert(keyword.name, value.to_string());
        }
        values.retain(|_, value| !value.is_empty());
        Ok(Values(values))
    }

    fn get(&self, keyword: &str) -> Option<&str> {
        self.0.get(keyword).map(String::as_str)
    }

    fn owned(&self, keyword: &str) -> Option<String> {
        self.get(keyword).map(str::to_owned)
    }

    fn decide(self, surroundings: &Surroundings) -> Result<Conninfo, ConninfoError> {
        let endpoints = self.endpoints()?;
        self.check_demands(endpoints.iter().any(|e| matches!(e.host, Host::Tcp { .. })))?;
        let user = self.owned("user").or_else(|| surroundings.user.clone()).ok_or(ConninfoError::NoUser)?;
        let passfile = self.get("passfile").map(PathBuf::from);
        let seconds = |keyword, default| self.number(keyword).map(|n| n.map_or(default, |n| Duration::from_secs(n.into())));
        Ok(Conninfo {
            endpoints,
            user,
            dbname: self.owned("dbname").unwrap_or_else(|| "postgres".to_owned()),
            given_password: self.owned("password").map(Password::new),
            passfile: passfile.or_else(|| surroundings.home.as_ref().map(|home| home.join(".pgpass"))),
            connect_timeout: Some(seconds("connect_timeout", CONNECT_TIMEOUT)?).filter(|timeout| !timeout.is_zero()),
            application_name: self.owned("application_name").or_else(|| self.owned("fallback_application_name")),
            options: self.owned("options"),
            target: self.target()?,
            keepalives: Keepalives {
                idle: seconds("keepalives_idle", Duration::from_secs(60))?,
                interval: seconds("keepalives_interval", Duration::from_secs(10))?,
                count: self.number("keepalives_count")?.unwrap_or(6),
                user_timeout: self.number("tcp_user_timeout")?.filter(|ms| *ms > 0).map(|ms| Duration::from_millis(ms.into())),
            },
        })
    }

    /// A number from 0; a negative one means the default, as in libpq.
    fn number(&self, keyword: &'static str) -> Result<Option<u32>, ConninfoError> {
        let Some(value) = self.get(keyword) else { return Ok(None) };
        match value.trim().parse::<i32>() {
            Ok(number) => Ok(u32::try_from(number).ok()),
            Err(_) => Err(ConninfoError::BadValue { keyword, value: value.to_owned(), expected: "a whole number" }),
        }
    }

    fn target(&self) -> Result<Target, ConninfoError> {
        Ok(match self.get("target_session_attrs").unwrap_or("any") {
            "any" => Target::Any,
            "read-write" => Target::ReadWrite,
            "read-only" => Target::ReadOnly,
            "primary" => Target::Primary,
            "standby" => Target::Standby,
            "prefer-standby" => Target::PreferStandby,
            other => {
                return Err(ConninfoError::BadValue {
                    keyword: "target_session_attrs",
                    value: other.to_owned(),
                    expected: "any, read-write, read-only, primary, standby or prefer-standby",
                });
            }
        })
    }

    /// Hosts, addresses and ports, each a list; one port goes for all.
    fn endpoints(&self) -> Result<Vec<Endpoint>, ConninfoError> {
        let list = |keyword| self.get(keyword).map(|text| text.split(',').map(str::trim).collect::<Vec<_>>());
        let (hosts, addresses) = (list("host"), list("hostaddr"));
        let count = hosts.as_ref().or(addresses.as_ref()).map_or(1, Vec::len);
        let lengths = |keyword, others| Err(ConninfoError::Lengths { hosts: count, keyword, others });
        if let Some(addresses) = addresses.as_ref().filter(|list| list.len() != count) {
            return lengths("hostaddr", addresses.len());
        }
        let ports = list("port").unwrap_or_default();
        if ports.len() > 1 && ports.len() != count {
            return lengths("port", ports.len());
        }
        let at = |list: &Option<Vec<&str>>, i: usize| list.as_ref().and_then(|list| list.get(i).copied()).unwrap_or_default().to_owned();
        let mut endpoints = Vec::new();
        for i in 0..count {
            let port = port(ports.get(i).or(ports.first()).copied().unwrap_or_default())?;
            let hosts = hosts_at(&at(&hosts, i), &at(&addresses, i))?;
            endpoints.extend(hosts.into_iter().map(|host| Endpoint { host, port }));
        }
        Ok(endpoints)
    }

    /// Refuses what asks for a protection that this program can't give.
    fn check_demands(&self, tcp: bool) -> Result<(), ConninfoError> {
        for keyword in keywords::ALL {
            let Some(value) = self.get(keyword.name) else { continue };
            match keyword.treatment {
                Treatment::Used | Treatment::Ignored => {}
                Treatment::Refused => return Err(ConninfoError::NotSupported { keyword: keyword.name }),
                Treatment::OneOf { plain, secured } => {
                    if secured.contains(&value) {
                        // A unix socket has no TLS, and libpq ignores the demand there.
                        if tcp {
                            return Err(ConninfoError::TlsDemanded { keyword: keyword.name, value: value.to_owned() });
                        }
                    } else if !plain.contains(&value) {
                        let expected = keyword.expected;
                        return Err(ConninfoError::BadValue { keyword: keyword.name, value: value.to_owned(), expected });
                    }
                }
            }
        }
        // In libpq the system's certificates imply sslmode=verify-full.
        if tcp && self.get("sslrootcert") == Some("system") {
            return Err(ConninfoError::TlsDemanded { keyword: "sslrootcert", value: "system".to_owned() });
        }
        Ok(())
    }
}

fn port(text: &str) -> Result<u16, ConninfoError> {
    if text.is_empty() {
        return Ok(5432);
    }
    // What stands in a port's place may be a piece of a password with a "/" that wasn't written as %2F.
    let value = if text.bytes().all(|b| b.is_ascii_digit()) { text } else { "no number" };
    let bad = || ConninfoError::BadValue { keyword: "port", value: value.to_owned(), expected: "a number from 1 to 65535" };
    text.parse().ok().filter(|port| *port > 0).ok_or_else(bad)
}

/// What one element of `host` and `hostaddr` stands for: several folders where nothing is named.
fn hosts_at(host: &str, address: &str) -> Result<Vec<Host>, ConninfoError> {
    let addr = match address {
        "" => None,
        text => Some(text.parse::<IpAddr>().map_err(|_| ConninfoError::BadValue {
            keyword: "hostaddr",
            value: text.to_owned(),
            expected: "an IP address",
        })?),
    };
    if addr.is_some() {
        let name = if host.is_empty() { address } else { host };
        return Ok(vec![Host::Tcp { name: name.to_owned(), addr }]);
    }
    if host.is_empty() {
        return Ok(SOCKET_FOLDERS.iter().map(|folder| Host::Socket(PathBuf::from(folder))).collect());
    }
    if host.starts_with('@') {
        let value = host.to_owned();
        return Err(ConninfoError::BadValue { keyword: "host", value, expected: "a name, an address or a socket's folder" });
    }
    if host.starts_with('/') {
        return Ok(vec![Host::Socket(PathBuf::from(host))]);
    }
    Ok(vec![Host::Tcp { name: host.to_owned(), addr: None }])
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use password_file::probe as probe_password_file;

#[cfg(test)]
mod tests;
