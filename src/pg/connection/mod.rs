//! One session with a server: how it is opened, what is asked of it, and how its failures are told apart.
//!
//! Every query runs on a thread of its own while the caller waits for it *or* for the cancel flag: a checkpoint may
//! take an hour, and a server that is stopped by a debugger never answers; Ctrl-C has to end both.
//!
//! - `mod.rs`: [`Connection`]: set up, run, interrupt
//! - `open.rs`: tries hosts, addresses, and TLS or not, in libpq's order
//! - `wire.rs`, `guard.rs`: sockets with TLS over them, and which ways to log in are allowed
//! - `tls/`: TLS, certificates and names
//! - `session.rs`: tokio-postgres on the caller's thread: the only place, with the two before it, that is asynchronous
//! - `wait.rs`: waiting that can be ended
//! - `facts.rs`: typed questions: [`Facts`], LSN, clock, archiver
//! - `error.rs`: [`PgConnError`]

mod error;
mod facts;
mod guard;
mod open;
mod session;
mod tls;
mod wait;
mod wire;

use std::fmt;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_postgres::Row;

use super::conninfo::{Conninfo, Endpoint, Target};
use crate::units::Cancel;
use session::{CancelQuery, Session};
use wait::{Waited, wait_for};

pub use error::{Attempt, PgConnError};
pub use facts::{Archiver, Facts, ServerVersion};
pub use tls::TlsError;

/// How to be known to the server, and how to be interrupted.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// `application_name` unless the conninfo has one.
    pub application_name: String,
    /// Ends every wait of this connection, which is closed by it.
    pub cancel: Cancel,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        ConnectOptions { application_name: "pgcairn".to_owned(), cancel: Cancel::new() }
    }
}

/// A session. Dropping it closes it, and with it whatever lives as long as it: a backup that isn't stopped, temporary
/// slots.
pub struct Connection {
    /// `None` once it is lost, interrupted or closed.
    client: Option<Session>,
    cancel: Cancel,
    warnings: Warnings,
    endpoint: Endpoint,
    user: String,
    version: ServerVersion,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("endpoint", &self.endpoint).field("user", &self.user).finish_non_exhaustive()
    }
}

/// What the server, or the password file, had to say; the newest hundred.
#[derive(Debug, Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    fn add(&self, text: String) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() < 100 {
            list.push(text);
        }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// For how long a cancelled query may take to end before its thread is left behind.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);

/// No time-outs: a statement of ours may rightly wait for long, and the session lies idle while files are copied.
/// Names resolve in pg_catalog alone, whatever a database's owner has put before it.
const SET_UP: &str = "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
     SET search_path = pg_catalog; SET client_min_messages = warning; SET default_transaction_isolation = 'read committed'";

impl Connection {
    /// Tries the endpoints in their order, and sets the session up. The first server that answers decides: if it
    /// refuses this user, no other is asked (as libpq does).
    pub fn open(conninfo: &Conninfo, options: &ConnectOptions) -> Result<Connection, PgConnError> {
        open::open(conninfo, options)
    }

    /// A session as it is after logging in, made ready.
    fn new(client: Session, endpoint: &Endpoint, user: &str, cancel: &Cancel, warnings: Warnings) -> Result<Connection, PgConnError> {
        let (endpoint, user) = (endpoint.clone(), user.to_owned());
        let version = ServerVersion(0);
        let mut connection = Connection { client: Some(client), cancel: cancel.clone(), warnings, endpoint, user, version };
        connection.set_up()?;
        Ok(connection)
    }

    fn set_up(&mut self) -> Result<(), PgConnError> {
        self.run("setting the session up", |client| client.batch_execute(SET_UP))?;
        let version = self.one_text("asking for the version", "SELECT pg_catalog.current_setting('server_version_num')")?;
        self.version = ServerVersion(version.parse().map_err(|_| PgConnError::unexpected("asking for the version", &version))?);
        let newer = [(14, "SET idle_session_timeout = 0"), (17, "SET transaction_timeout = 0")];
        let major = self.version.major();
        for (_, sql) in newer.into_iter().filter(|(since, _)| major >= *since) {
            self.run("setting the session up", move |client| client.batch_execute(sql))?;
        }
        Ok(())
    }

    fn fits(&mut self, target: Target) -> Result<bool, PgConnError> {
        Ok(match target {
            Target::Any | Target::PreferStandby => true,
            Target::Primary => !self.is_in_recovery()?,
            Target::Standby => self.is_in_recovery()?,
            Target::ReadWrite | Target::ReadOnly => {
                let sql = "SELECT pg_catalog.current_setting('transaction_read_only')";
                let read_only = self.is_in_recovery()? || self.one_text("asking for the mode", sql)? == "on";
                read_only == (target == Target::ReadOnly)
            }
        })
    }

    /// The server's version.
    pub fn version(&self) -> ServerVersion {
        self.version
    }

    /// Where the server is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The role that this session has logged in as.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// What the server warned of, and why a password file was not used, since the last call.
    pub fn take_warnings(&self) -> Vec<String> {
        self.warnings.take()
    }

    /// Is the session still there? By asking the server.
    pub fn check(&mut self) -> Result<(), PgConnError> {
        self.run("looking whether the session is alive", |client| client.batch_execute(""))
    }

    /// Ends the session.
    pub fn close(self) {}

    /// The rows of a query without parameters. `during` says in errors what was being done.
    pub fn query(&mut self, during: &'static str, sql: &str) -> Result<Vec<Row>, PgConnError> {
        let sql = sql.to_owned();
        self.run(during, move |client| client.query(&sql, &[]))
    }

    /// The one value of a query's one row, a text.
    pub(super) fn one_text(&mut self, during: &'static str, sql: &'static str) -> Result<String, PgConnError> {
        let row = self.run(during, move |client| client.query_one(sql, &[]))?;
        row.try_get(0).map_err(|error| PgConnError::answer(during, &error))
    }

    /// Runs something with the client, interruptibly: once the flag is set the query is cancelled on the server and
    /// the connection is closed.
    pub(super) fn run<T, F>(&mut self, during: &'static str, query: F) -> Result<T, PgConnError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Session) -> Result<T, tokio_postgres::Error> + Send + 'static,
    {
        let mut client = self.client.take().ok_or(PgConnError::Lost { during, reason: None })?;
        let request = client.cancel();
        let work = move || {
            let result = query(&mut client);
            (client, result)
        };
        match wait_for(work, &self.cancel, None) {
            Waited::Done((client, Ok(value))) => {
                self.client = Some(client);
                Ok(value)
            }
            Waited::Done((client, Err(error))) => {
                if !client.is_closed() {
                    self.client = Some(client);
                }
                Err(PgConnError::running(&error, during))
            }
            Waited::Cancelled(ending) => {
                cancel_on_server(request, &ending);
                Err(PgConnError::Interrupted { during })
            }
            Waited::TooLong => Err(PgConnError::Lost { during, reason: None }),
            Waited::NoThread(reason) => Err(PgConnError::Lost { during, reason: Some(reason) }),
        }
    }
}

/// Asks the server to end the query, and waits a while until it has: then its session ends as well. The request goes
/// over a connection of its own, on a thread of its own, since a server that hangs doesn't take it.
fn cancel_on_server<T>(request: CancelQuery, ending: &Receiver<T>) {
    let request = std::thread::Builder::new().name("pg-cancel".to_owned()).spawn(move || request.send());
    if request.is_ok() {
        let _ = ending.recv_timeout(CANCEL_PATIENCE);
    }
}
