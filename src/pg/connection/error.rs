//! What can go wrong with a session.

use std::error::Error as _;

use postgres::error::SqlState;

use crate::pg::conninfo::{ConninfoError, Endpoint, Target};
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

impl PgConnError {
    /// An error while connecting.
    pub(super) fn connecting(error: &postgres::Error, endpoint: &Endpoint, user: &str, dbname: &str) -> Self {
        let (endpoint, user) = (endpoint.to_string(), user.to_owned());
        let Some(db) = error.as_db_error() else {
            let reason = reason_of(error);
            return match reason.as_str() {
                "password missing" => PgConnError::NoPassword { endpoint, user, warnings: Vec::new() },
                _ if is_authentication(error) => PgConnError::NotLetIn { endpoint, user, message: reason },
                _ => PgConnError::NotReached { endpoint, reason },
            };
        };
        let message = db.message().to_owned();
        match db.code() {
            &SqlState::CANNOT_CONNECT_NOW => PgConnError::NotNow { endpoint, message },
            &SqlState::TOO_MANY_CONNECTIONS => PgConnError::Full { endpoint, message },
            &SqlState::INVALID_CATALOG_NAME => PgConnError::NoDatabase { endpoint, dbname: dbname.to_owned() },
            code if code.code().starts_with("28") || *code == SqlState::INSUFFICIENT_PRIVILEGE => {
                PgConnError::NotLetIn { endpoint, user, message }
            }
            _ => Self::running(error, "connecting"),
        }
    }

    /// An error of a query.
    pub(super) fn running(error: &postgres::Error, during: &'static str) -> Self {
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
    pub(crate) fn answer(during: &'static str, error: &postgres::Error) -> Self {
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

    /// One error for all endpoints: of a server that answered if there is one, else all reasons.
    pub(super) fn of_all(mut failures: Vec<PgConnError>) -> Self {
        if let Some(at) = failures.iter().position(|error| !matches!(error, PgConnError::NotReached { .. })) {
            return failures.swap_remove(at);
        }
        if failures.len() == 1 {
            return failures.swap_remove(0);
        }
        let text = |error: &PgConnError| match error {
            PgConnError::NotReached { endpoint, reason } => format!("{endpoint} ({reason})"),
            other => other.to_string(),
        };
        let endpoint = failures.iter().map(text).collect::<Vec<_>>().join(" or ");
        PgConnError::NotReached { endpoint, reason: "none of them answers".to_owned() }
    }
}

/// The words of the crate's error and its cause.
fn reason_of(error: &postgres::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// The crate tells its kinds apart only by their text.
fn is_authentication(error: &postgres::Error) -> bool {
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
            E::NotReached { .. } | E::NotNow { .. } | E::Full { .. } | E::Lost { .. } | E::NoneFits { .. } => Class::Unreachable,
            E::NoPassword { .. } | E::NotLetIn { .. } | E::NoRight { .. } => Class::Denied,
            E::NoDatabase { .. } => Class::Absent,
            E::State { .. } => Class::Refused,
            E::Server { .. } | E::Unexpected { .. } | E::Interrupted { .. } => Class::Failed,
        }
    }

    fn cure(&self) -> Option<String> {
        use PgConnError as E;
        match self {
            E::Conninfo(error) => error.cure(),
            E::NotReached { .. } => Some("see whether the server runs, and name its host and port by --dsn, PGHOST and PGPORT".into()),
            E::NotNow { .. } => Some("try again when it has started".into()),
            E::Full { .. } => Some("try again later, or raise max_connections".into()),
            E::NoPassword { .. } => Some("put it into ~/.pgpass (mode 0600)".into()),
            E::NotLetIn { user, message, .. } => Some(match message.as_str() {
                text if text.contains("no encryption") || text.contains("SSL off") => {
                    "TLS is not supported yet: connect through the unix socket, or allow it in pg_hba.conf".into()
                }
                text if text.contains("eer authentication") => {
                    format!("run as the system's user {user:?}, or map yours to it in pg_ident.conf")
                }
                _ => "see user and password, and the server's pg_hba.conf".into(),
            }),
            E::NoDatabase { .. } => Some("name one that exists: dbname=postgres".into()),
            E::Lost { .. } => Some("see the server's log; run it again".into()),
            E::State { hint, .. } | E::Server { hint, .. } => hint.clone(),
            E::NoRight { .. } => Some("grant the role EXECUTE on that function (or what the server names), or use a superuser".into()),
            E::NoneFits { .. } | E::Unexpected { .. } | E::Interrupted { .. } => None,
        }
    }
}
