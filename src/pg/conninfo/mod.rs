//! Where a server is and as whom to connect: libpq's connection strings, variables and password file
//! (PostgreSQL's documentation, "libpq: Database Connection Control Functions").
//!
//! A text (words `host=... user=...`, a URL, or nothing) and the surroundings of the process (variables, user, home) go
//! in; a [`Conninfo`] in which everything is decided comes out. Only the service file and the password file are read here;
//! nothing connects.
//!
//! - `words.rs`: `key=value` words with their quoting
//! - `url.rs`: `postgresql://` URLs
//! - `keywords.rs`: which keywords there are, their variables, and what becomes of each
//! - `values.rs`: their values, from the string, the service and the environment
//! - `service_file.rs`: `~/.pg_service.conf`
//! - `password_file.rs`: `~/.pgpass`
//! - `endpoint.rs`: hosts, addresses and ports
//! - `tls.rs`, `auth.rs`: what is asked of encryption, and of the ways to log in
//! - `error.rs`: [`ConninfoError`]
//! - `file.rs`: reads small files

mod auth;
mod endpoint;
mod error;
pub(in crate::pg) mod file;
mod keywords;
mod password_file;
mod service_file;
mod tls;
mod url;
mod values;
mod words;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use values::Values;

pub use auth::{AuthMethod, RequireAuth};
pub use endpoint::{Endpoint, Host};
pub use error::ConninfoError;
pub use tls::{CertMode, ChannelBinding, NamedFile, Negotiation, Roots, SslMode, TlsSettings, TlsVersion};

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
    /// Are the endpoints, and the addresses of each, tried in an order of chance?
    pub shuffle: bool,
    /// TCP keep-alives; on unless `keepalives=0`: a backup's session lasts as long as the backup.
    pub keepalives: Keepalives,
    /// TLS, for TCP.
    pub tls: TlsSettings,
    /// Whether the password's proof is bound to the server's certificate.
    pub channel_binding: ChannelBinding,
    /// How the server may ask who one is; any way if `None`.
    pub require_auth: Option<RequireAuth>,
    /// The user as whom the server has to run, on unix sockets (`requirepeer`).
    pub require_peer: Option<String>,
}

/// How a dead connection is noticed. Shorter than the system's defaults (two hours), since a lost session means a lost
/// backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalives {
    /// Are they sent?
    pub on: bool,
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
        decide(&Values::new(given, surroundings)?, surroundings)
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
            Host::Socket(folder) => (folder.to_str().unwrap_or_default(), endpoint::is_default_socket(folder)),
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

fn decide(values: &Values, surroundings: &Surroundings) -> Result<Conninfo, ConninfoError> {
    let home = surroundings.home.as_deref();
    let seconds = |keyword, default| values.number(keyword).map(|n| n.map_or(default, |n| Duration::from_secs(n.into())));
    let bindings = [("prefer", ChannelBinding::Prefer), ("disable", ChannelBinding::Disable), ("require", ChannelBinding::Require)];
    Ok(Conninfo {
        endpoints: endpoint::endpoints(values)?,
        user: values.owned("user").or_else(|| surroundings.user.clone()).ok_or(ConninfoError::NoUser)?,
        dbname: values.owned("dbname").unwrap_or_else(|| "postgres".to_owned()),
        given_password: values.owned("password").map(Password::new),
        passfile: values.get("passfile").map(PathBuf::from).or_else(|| home.map(|home| home.join(".pgpass"))),
        connect_timeout: Some(seconds("connect_timeout", CONNECT_TIMEOUT)?).filter(|timeout| !timeout.is_zero()),
        application_name: values.owned("application_name").or_else(|| values.owned("fallback_application_name")),
        options: values.owned("options"),
        target: target(values)?,
        shuffle: values.one_of("load_balance_hosts", &[("disable", false), ("random", true)])?,
        keepalives: Keepalives {
            on: values.flag("keepalives")?,
            idle: seconds("keepalives_idle", Duration::from_secs(60))?,
            interval: seconds("keepalives_interval", Duration::from_secs(10))?,
            count: values.number("keepalives_count")?.unwrap_or(6),
            user_timeout: values.number("tcp_user_timeout")?.filter(|ms| *ms > 0).map(|ms| Duration::from_millis(ms.into())),
        },
        tls: TlsSettings::decide(values, home)?,
        channel_binding: values.one_of("channel_binding", &bindings)?,
        require_auth: values.get("require_auth").map(RequireAuth::parse).transpose()?,
        require_peer: values.owned("requirepeer"),
    })
}

fn target(values: &Values) -> Result<Target, ConninfoError> {
    // The first is the default.
    let all = [
        ("any", Target::Any),
        ("read-write", Target::ReadWrite),
        ("read-only", Target::ReadOnly),
        ("primary", Target::Primary),
        ("standby", Target::Standby),
        ("prefer-standby", Target::PreferStandby),
    ];
    values.one_of("target_session_attrs", &all)
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use password_file::probe as probe_password_file;

#[cfg(test)]
mod tests;
