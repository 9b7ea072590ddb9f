//! What can go wrong with a session.

use std::error::Error as _;
use std::io;

use tokio_postgres::error::SqlState;

use super::guard::Forbidden;
use super::session::OpenError;
use super::tls::TlsError;
use super::wire::WireError;
use crate::pg::conninfo::{Conninfo, ConninfoError, Target};
use crate::units::{Class, Explain};

/// A failure of a session. No variant holds a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PgConnError {
    /// The connection string can't be used.
    #[error(transparent)]
    Conninfo(#[from] ConninfoError),
    /// Nobody answers there.
    #[error("no PostgreSQL server answers at {endpoint}: {reason}")]
    NotReached {
        /// Where; several with their reasons if several were tried.
        endpoint: String,
        /// What the system said.
        reason: String,
    },
    /// TLS could not be agreed on, or the server's certificate isn't believed.
    #[error("connection to {endpoint}: {error}")]
    Tls {
        /// Where.
        endpoint: String,
        /// What is wrong.
        error: Box<TlsError>,
    },
    /// The server asks for a proof that isn't allowed, or can't give one that is demanded.
    #[error("connection to {endpoint}: {reason}")]
    Authentication {
        /// Where.
        endpoint: String,
        /// What is wrong.
        reason: String,
        /// What to do.
        cure: String,
    },
    /// Several failures, since several ways or servers were tried.
    #[error("{}", tried(.0))]
    Several(Vec<Attempt>),
    /// It starts up, shuts down or recovers, and takes no sessions now.
    #[error("the server at {endpoint} takes no connections now: {message}")]
    NotNow {
        /// Where.
        endpoint: String,
        /// The server's words.
        message: String,
    },
    /// All slots for sessions are taken.
    #[error("the server at {endpoint} has no free connection: {message}")]
    Full {
        /// Where.
        endpoint: String,
        /// The server's words.
        message: String,
    },
    /// The server wants a password and none is known.
    #[error("the server at {endpoint} asks for the password of {user:?}, and none is given{}", because(warnings))]
    NoPassword {
        /// Where.
        endpoint: String,
        /// The role.
        user: String,
        /// Why a password file was not used.
        warnings: Vec<String>,
    },
    /// The role, its password or the place it comes from isn't accepted.
    #[error("the server at {endpoint} does not let {user:?} in: {message}")]
    NotLetIn {
        /// Where.
        endpoint: String,
        /// The role.
        user: String,
        /// The server's words.
        message: String,
    },
    /// No such database.
    #[error("the server at {endpoint} has no database {dbname:?}")]
    NoDatabase {
        /// Where.
        endpoint: String,
        /// The database.
        dbname: String,
    },
    /// Servers answer, but none is of the kind that is wanted.
    #[error("no server at {endpoints} is what target_session_attrs={target} asks for")]
    NoneFits {
        /// Where.
        endpoints: String,
        /// What is wanted.
        target: Target,
    },
    /// The session ended.
    #[error("the session with the server was lost while {during}{}", reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default())]
    Lost {
        /// What was being done.
        during: &'static str,
        /// What the system or the server said, if anything.
        reason: Option<String>,
    },
    /// The role lacks a right.
    #[error("{during}: the server refuses: {message}")]
    NoRight {
        /// What was being done.
        during: &'static str,
        /// The server's words.
        message: String,
    },
    /// The server says that it can't be done as it is configured, or in the state that it is in.
    #[error("{during}: the server refuses: {message}{}", detail.as_ref().map(|d| format!(" ({d})")).unwrap_or_default())]
    State {
        /// What was being done.
        during: &'static str,
        /// The server's words.
        message: String,
        /// More of them.
        detail: Option<String>,
        /// Its advice.
        hint: Option<String>,
    },
    /// Any other error of the server's.
    #[error("{during}: the server says: {message} (SQLSTATE {code}){}", detail.as_ref().map(|d| format!(": {d}")).unwrap_or_default())]
    Server {
        /// What was being done.
        during: &'static str,
        /// SQLSTATE.
        code: String,
        /// The server's words.
        message: String,
        /// More of them.
        detail: Option<String>,
        /// Its advice.
        hint: Option<String>,
    },
    /// An answer that no PostgreSQL of 13 to 19 gives.
    #[error("{during}: the server's answer can't be understood: {answer}")]
    Unexpected {
        /// What was being done.
        during: &'static str,
        /// The answer, or what is wrong with it.
        answer: String,
    },
    /// Asked to stop.
    #[error("interrupted while {during}")]
    Interrupted {
        /// What was being done.
        during: &'static str,
    },
}

/// One of several tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// What was different: `without TLS`. Empty for the first.
    pub how: &'static str,
    /// What came of it.
    pub error: PgConnError,
}

fn tried(attempts: &[Attempt]) -> String {
    let text = |attempt: &Attempt| match attempt.how {
        "" => attempt.error.to_string(),
        how => format!("{how}: {}", attempt.error),
    };
    attempts.iter().map(text).collect::<Vec<_>>().join("; ")
}

impl PgConnError {
    /// An error while connecting.
    pub(super) fn opening(error: OpenError, endpoint: &str, conninfo: &Conninfo, encrypted: bool) -> Self {
        let endpoint = endpoint.to_owned();
        match error {
            OpenError::Wire(WireError::Io(error)) => PgConnError::NotReached { endpoint, reason: error.to_string() },
            OpenError::Wire(WireError::Tls(error)) => PgConnError::Tls { endpoint, error: Box::new(error) },
            OpenError::Wire(error @ WireError::Peer { .. }) => PgConnError::Authentication {
                endpoint,
                reason: error.to_string(),
                cure: "see whether this is the right server, or leave requirepeer out".to_owned(),
            },
            OpenError::Login(error) => Self::logging_in(&error, endpoint, conninfo, encrypted),
        }
    }

    fn logging_in(error: &tokio_postgres::Error, endpoint: String, conninfo: &Conninfo, encrypted: bool) -> Self {
        let user = conninfo.user.clone();
        let Some(db) = error.as_db_error() else {
            let reason = reason_of(error);
            if let Some(io) = error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
                return Self::broken_off(io, endpoint, encrypted);
            }
            return match reason.as_str() {
                "password missing" => PgConnError::NoPassword { endpoint, user, warnings: Vec::new() },
                "server did not use channel binding" => Self::no_binding(endpoint, encrypted),
                _ if is_authentication(error) => PgConnError::NotLetIn { endpoint, user, message: reason },
                _ if encrypted && error.is_closed() => PgConnError::Tls { endpoint, error: closed_early() },
                _ => PgConnError::NotReached { endpoint, reason },
            };
        };
        let message = db.message().to_owned();
        match db.code() {
            &SqlState::CANNOT_CONNECT_NOW => PgConnError::NotNow { endpoint, message },
            &SqlState::TOO_MANY_CONNECTIONS => PgConnError::Full { endpoint, message },
            &SqlState::INVALID_CATALOG_NAME => PgConnError::NoDatabase { endpoint, dbname: conninfo.dbname.clone() },
            code if code.code().starts_with("28") || *code == SqlState::INSUFFICIENT_PRIVILEGE => {
                PgConnError::NotLetIn { endpoint, user, message }
            }
            _ => Self::running(error, "connecting"),
        }
    }

    /// The connection ended while logging in.
    fn broken_off(error: &io::Error, endpoint: String, encrypted: bool) -> Self {
        if let Some(forbidden) = error.get_ref().and_then(|inner| inner.downcast_ref::<Forbidden>()) {
            let cure = "see the method in the server's pg_hba.conf and password_encryption, or change require_auth".to_owned();
            return PgConnError::Authentication { endpoint, reason: forbidden.to_string(), cure };
        }
        if let Some(error) = TlsError::of_session(error) {
            return PgConnError::Tls { endpoint, error: Box::new(error) };
        }
        if encrypted {
            return PgConnError::Tls { endpoint, error: closed_early() };
        }
        PgConnError::NotReached { endpoint, reason: error.to_string() }
    }

    fn no_binding(endpoint: String, encrypted: bool) -> Self {
        let (reason, cure) = if encrypted {
            (
                "channel binding is required, and the server did not use it",
                "let the role log in by scram-sha-256 (pg_hba.conf, password_encryption), or use channel_binding=prefer",
            )
        } else {
            ("channel binding is required, and there is no TLS", "use sslmode=verify-full over TCP, or channel_binding=prefer")
        };
        PgConnError::Authentication { endpoint, reason: reason.to_owned(), cure: cure.to_owned() }
    }

    /// Was it the server that didn't let us in?
    pub(super) fn is_of_login(&self) -> bool {
        matches!(self, PgConnError::NotLetIn { .. })
    }

    /// Was it TLS that failed?
    pub(super) fn is_of_tls(&self) -> bool {
        matches!(self, PgConnError::Tls { .. })
    }

    /// Did a server answer that is of the wrong kind?
    pub(super) fn some_server_did_not_fit(&self) -> bool {
        match self {
            PgConnError::NoneFits { .. } => true,
            PgConnError::Several(attempts) => attempts.iter().any(|attempt| attempt.error.some_server_did_not_fit()),
            _ => false,
        }
    }

    /// With what came of a second try at the same server.
    pub(super) fn and_then(self, how: &'static str, second: PgConnError) -> Self {
        // Without TLS there was nothing new to learn.
        if matches!(&second, PgConnError::Tls { error, .. } if **error == TlsError::NotOffered) {
            return self;
        }
        PgConnError::Several(vec![Attempt { how: "", error: self }, Attempt { how, error: second }])
    }

    /// An error of a query.
    pub(super) fn running(error: &tokio_postgres::Error, during: &'static str) -> Self {
        let Some(db) = error.as_db_error() else {
            if error.is_closed() || error.source().is_some_and(|source| source.is::<std::io::Error>()) {
                let reason = error.source().map(ToString::to_string);
                return PgConnError::Lost { during, reason };
            }
            return Self::answer(during, error);
        };
        let message = db.message().to_owned();
        let (detail, hint) = (db.detail().map(str::to_owned), db.hint().map(str::to_owned));
        match db.code() {
            &SqlState::INSUFFICIENT_PRIVILEGE => PgConnError::NoRight { during, message },
            &SqlState::ADMIN_SHUTDOWN | &SqlState::CRASH_SHUTDOWN => PgConnError::Lost { during, reason: Some(message) },
            // object_not_in_prerequisite_state, configuration_limit_exceeded: replication slots, WAL level, promotion.
            code if matches!(code.code(), "55000" | "53400") => PgConnError::State { during, message, detail, hint },
            code => PgConnError::Server { during, code: code.code().to_owned(), message, detail, hint },
        }
    }

    /// An answer whose form is not what the query asked for.
    pub(crate) fn answer(during: &'static str, error: &tokio_postgres::Error) -> Self {
        PgConnError::Unexpected { during, answer: reason_of(error) }
    }

    /// A value that is not what it has to be.
    pub(crate) fn unexpected(during: &'static str, answer: &str) -> Self {
        PgConnError::Unexpected { during, answer: answer.chars().take(200).collect() }
    }

    /// May another endpoint do better? Not once a server has refused this user or this database.
    pub(super) fn next_may_answer(&self) -> bool {
        matches!(self, PgConnError::NotReached { .. } | PgConnError::NotNow { .. } | PgConnError::Full { .. })
    }

    /// One error for all endpoints: all that was tried, once each.
    pub(super) fn of_all(failures: Vec<PgConnError>) -> Self {
        let mut attempts: Vec<Attempt> = Vec::new();
        for error in failures {
            if !attempts.iter().any(|attempt| attempt.error == error) {
                attempts.push(Attempt { how: "", error });
            }
        }
        match attempts.len() {
            1 => attempts.swap_remove(0).error,
            _ => PgConnError::Several(attempts),
        }
    }
}

fn closed_early() -> Box<TlsError> {
    Box::new(TlsError::RefusedUs { reason: "it closes the connection after the handshake".to_owned() })
}

/// The words of the crate's error and its cause.
fn reason_of(error: &tokio_postgres::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// The crate tells its kinds apart only by their text.
fn is_authentication(error: &tokio_postgres::Error) -> bool {
    error.to_string() == "authentication error"
}

fn because(warnings: &[String]) -> String {
    if warnings.is_empty() { String::new() } else { format!(" ({})", warnings.join("; ")) }
}

impl PgConnError {
    /// With what was found on the way to it.
    pub(super) fn with_warnings(mut self, found: Vec<String>) -> Self {
        if let PgConnError::NoPassword { warnings, .. } = &mut self {
            *warnings = found;
        }
        self
    }
}

impl Explain for PgConnError {
    fn class(&self) -> Class {
        use PgConnError as E;
        match self {
            E::Conninfo(error) => error.class(),
            E::Tls { error, .. } => error.class(),
            // Of the one that got furthest.
            E::Several(attempts) => furthest(attempts).map_or(Class::Unreachable, PgConnError::class),
            E::NotReached { .. } | E::NotNow { .. } | E::Full { .. } | E::Lost { .. } | E::NoneFits { .. } => Class::Unreachable,
            E::NoPassword { .. } | E::NotLetIn { .. } | E::Authentication { .. } | E::NoRight { .. } => Class::Denied,
            E::NoDatabase { .. } => Class::Absent,
            E::State { .. } => Class::Refused,
            E::Server { .. } | E::Unexpected { .. } | E::Interrupted { .. } => Class::Failed,
        }
    }

    fn cure(&self) -> Option<String> {
        use PgConnError as E;
        match self {
            E::Conninfo(error) => error.cure(),
            E::Tls { error, .. } => error.cure(),
            E::Authentication { cure, .. } => Some(cure.clone()),
            E::Several(attempts) => furthest(attempts).and_then(PgConnError::cure),
            E::NotReached { endpoint, .. } if endpoint.starts_with('/') => Some(
                "see whether the server runs and has its socket there (unix_socket_directories), and name its folder and port by \
                 --dsn, PGHOST and PGPORT"
                    .into(),
            ),
            E::NotReached { .. } => Some(
                "see whether the server runs on that host and takes TCP connections (listen_addresses, firewall), and name host and \
                 port by --dsn, PGHOST and PGPORT"
                    .into(),
            ),
            E::NotNow { .. } => Some("try again when it has started".into()),
            E::Full { .. } => Some("try again later, or raise max_connections".into()),
            E::NoPassword { .. } => Some("put it into ~/.pgpass (mode 0600)".into()),
            E::NotLetIn { user, message, .. } => Some(match message.as_str() {
                text if text.contains("no encryption") || text.contains("SSL off") => {
                    "ask for TLS by sslmode=require (or verify-full), or allow it without in pg_hba.conf".into()
                }
                text if text.contains("valid client certificate") || text.contains("ertificate authentication") => {
                    "name a certificate for this user, and its key, by sslcert and sslkey".into()
                }
                text if text.contains("no pg_hba.conf entry") => {
                    "add a line for this user, database and address to the server's pg_hba.conf, and reload it".into()
                }
                text if text.contains("eer authentication") => {
                    format!("run as the system's user {user:?}, or map yours to it in pg_ident.conf")
                }
                _ => "see user and password, and the server's pg_hba.conf".into(),
            }),
            E::NoDatabase { .. } => Some("name one that exists: dbname=postgres".into()),
            E::Lost { .. } => Some("see the server's log; run it again".into()),
            E::State { hint, .. } | E::Server { hint, .. } => hint.clone(),
            E::NoRight { message, .. } => Some(right_to_grant(message)),
            E::NoneFits { .. } => Some("name the other servers in host as well, or change target_session_attrs".into()),
            E::Unexpected { .. } | E::Interrupted { .. } => None,
        }
    }
}

/// What to grant, by the server's words.
fn right_to_grant(message: &str) -> String {
    let function = message.strip_prefix("permission denied for function ");
    match function {
        Some(name) => {
            let arguments = match name {
                "pg_backup_start" => "text, boolean",
                "pg_backup_stop" => "boolean",
                "pg_start_backup" => "text, boolean, boolean",
                "pg_stop_backup" => "boolean, boolean",
                _ => "...",
            };
            format!("in this database: GRANT EXECUTE ON FUNCTION {name}({arguments}) TO the role (all rights: docs/connection.md)")
        }
        None if message.contains("replication slots") => {
            "ALTER ROLE ... REPLICATION: --wal copy keeps WAL by a temporary slot (all rights: docs/connection.md)".to_owned()
        }
        None => "grant the role the right that the server names (docs/connection.md), or use a superuser".to_owned(),
    }
}

/// The failure of the try that got furthest: a server that answers tells more than one that doesn't.
fn furthest(attempts: &[Attempt]) -> Option<&PgConnError> {
    let answered = attempts.iter().rev().find(|attempt| !matches!(attempt.error, PgConnError::NotReached { .. }));
    answered.or(attempts.first()).map(|attempt| &attempt.error)
}
