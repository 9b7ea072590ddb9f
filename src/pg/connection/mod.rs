//! One session with a server: how it is opened, what is asked of it, and how its failures are told apart.
//!
//! Every query runs on a thread of its own while the caller waits for it *or* for the cancel flag: a checkpoint may
//! take an hour, and a server that is stopped by a debugger never answers; Ctrl-C has to end both.
//!
//! - `mod.rs`: [`Connection`]: open, set up, run, interrupt
//! - `facts.rs`: typed questions: [`Facts`], LSN, clock, archiver
//! - `error.rs`: [`PgConnError`]

mod error;
mod facts;

use std::fmt;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use postgres::{CancelToken, Client, Config, NoTls, Row};

use super::conninfo::{Conninfo, Endpoint, Host, Target};
use crate::units::Cancel;

pub use error::PgConnError;
pub use facts::{Archiver, Facts, ServerVersion};

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
    client: Option<Client>,
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

/// How often a waiting caller looks at the cancel flag.
const GLANCE: Duration = Duration::from_millis(50);
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
        if conninfo.target == Target::PreferStandby {
            match Self::open_first(conninfo, Target::Standby, options) {
                Err(PgConnError::NoneFits { .. }) => {}
                decided => return decided,
            }
        }
        Self::open_first(conninfo, conninfo.target, options)
    }

    fn open_first(conninfo: &Conninfo, target: Target, options: &ConnectOptions) -> Result<Connection, PgConnError> {
        let mut failures = Vec::new();
        for endpoint in &conninfo.endpoints {
            match Self::open_at(endpoint, conninfo, options) {
                Ok(mut connection) => {
                    if connection.fits(target)? {
                        return Ok(connection);
                    }
                    failures.push(PgConnError::NoneFits { endpoints: endpoint.to_string(), target });
                }
                Err(error) if error.next_may_answer() => failures.push(error),
                Err(error) => return Err(error),
            }
        }
        Err(PgConnError::of_all(failures))
    }

    fn open_at(endpoint: &Endpoint, conninfo: &Conninfo, options: &ConnectOptions) -> Result<Connection, PgConnError> {
        let warnings = Warnings::default();
        let config = config(endpoint, conninfo, options, &warnings);
        let waited = wait_for(move || config.connect(NoTls), &options.cancel, conninfo.connect_timeout);
        let client = match waited {
            Waited::Done(Ok(client)) => client,
            Waited::Done(Err(error)) => {
                let error = PgConnError::connecting(&error, endpoint, &conninfo.user, &conninfo.dbname);
                return Err(error.with_warnings(warnings.take()));
            }
            Waited::Cancelled(_) => return Err(PgConnError::Interrupted { during: "connecting" }),
            Waited::TooLong => {
                let reason = "it does not answer in time".to_owned();
                return Err(PgConnError::NotReached { endpoint: endpoint.to_string(), reason });
            }
            Waited::NoThread(reason) => return Err(PgConnError::NotReached { endpoint: endpoint.to_string(), reason }),
        };
        let mut connection = Connection {
            client: Some(client),
            cancel: options.cancel.clone(),
            warnings,
            endpoint: endpoint.clone(),
            user: conninfo.user.clone(),
            version: ServerVersion(0),
        };
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
        self.run("looking whether the session is alive", |client| client.simple_query("")).map(|_| ())
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
        F: FnOnce(&mut Client) -> Result<T, postgres::Error> + Send + 'static,
    {
        let mut client = self.client.take().ok_or(PgConnError::Lost { during, reason: None })?;
        let token = client.cancel_token();
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
                cancel_on_server(token, &ending);
                Err(PgConnError::Interrupted { during })
            }
            Waited::TooLong => Err(PgConnError::Lost { during, reason: None }),
            Waited::NoThread(reason) => Err(PgConnError::Lost { during, reason: Some(reason) }),
        }
    }
}

/// Asks the server to end the query, and waits a while until it has: then its session ends as well. The request goes
/// over a connection of its own, on a thread of its own, since a server that hangs doesn't take it.
fn cancel_on_server<T>(token: CancelToken, ending: &Receiver<T>) {
    let request = std::thread::Builder::new().name("pg-cancel".to_owned()).spawn(move || token.cancel_query(NoTls));
    if request.is_ok() {
        let _ = ending.recv_timeout(CANCEL_PATIENCE);
    }
}

/// How a wait ended.
enum Waited<T> {
    Done(T),
    /// The flag was set; the work goes on, and its result, a client that closes when dropped, comes by this channel.
    Cancelled(Receiver<T>),
    TooLong,
    /// No thread could be started, or it died.
    NoThread(String),
}

/// Does `work` on a thread of its own, until it is done, `cancel` is set or `limit` has passed. What is left behind
/// ends by itself, and its result is dropped.
fn wait_for<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static, cancel: &Cancel, limit: Option<Duration>) -> Waited<T> {
    let (send, receive) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("pg-session".to_owned()).spawn(move || {
        // The receiver may be gone: then the result is dropped here.
        let _ = send.send(work());
    });
    if let Err(error) = thread {
        return Waited::NoThread(error.to_string());
    }
    let begun = Instant::now();
    loop {
        match receive.recv_timeout(GLANCE) {
            Ok(result) => return Waited::Done(result),
            Err(RecvTimeoutError::Disconnected) => return Waited::NoThread("the session's thread ended".to_owned()),
            Err(RecvTimeoutError::Timeout) if cancel.is_cancelled() => return Waited::Cancelled(receive),
            Err(RecvTimeoutError::Timeout) if limit.is_some_and(|limit| begun.elapsed() >= limit) => return Waited::TooLong,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn config(endpoint: &Endpoint, conninfo: &Conninfo, options: &ConnectOptions, warnings: &Warnings) -> Config {
    let mut config = Config::new();
    match &endpoint.host {
        Host::Socket(folder) => {
            config.host_path(folder);
        }
        Host::Tcp { name, addr } => {
            config.host(name);
            if let Some(addr) = addr {
                config.hostaddr(*addr);
            }
        }
    }
    config.port(endpoint.port).user(&conninfo.user).dbname(&conninfo.dbname);
    config.application_name(conninfo.application_name.as_ref().unwrap_or(&options.application_name));
    if let Some(options) = &conninfo.options {
        config.options(options);
    }
    if let Some(password) = conninfo.password(endpoint, &mut |warning| warnings.add(warning)) {
        config.password(password.expose());
    }
    if let Some(timeout) = conninfo.connect_timeout {
        config.connect_timeout(timeout);
    }
    let keep = conninfo.keepalives;
    config.keepalives(true).keepalives_idle(keep.idle).keepalives_interval(keep.interval).keepalives_retries(keep.count);
    if let Some(timeout) = keep.user_timeout {
        config.tcp_user_timeout(timeout);
    }
    let warnings = warnings.clone();
    config.notice_callback(move |notice| warnings.add(format!("the server says: {}", notice.message())));
    config
}
