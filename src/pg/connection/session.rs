//! A session of tokio-postgres on the caller's thread: its runtime runs while something is asked.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, CancelToken, Client, Config, Error, Row};

use super::Warnings;
use super::wire::{AsItIs, Route, Wire, WireError};

/// For how long an ended session may take to say good-bye.
const GOODBYE: Duration = Duration::from_secs(2);

/// A session that has logged in.
pub(in crate::pg) struct Session {
    // Goes first: without a client the connection says good-bye to the server and ends.
    client: Client,
    driver: Driver,
    route: Route,
}

/// What moves a session's messages while something is asked.
struct Driver {
    runtime: Runtime,
    connection: tokio_postgres::Connection<Wire, Wire>,
    warnings: Warnings,
    broken: bool,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Login(Error),
}

/// How an attempt failed, and whether it was over TLS.
#[derive(Debug)]
pub(super) struct Failed {
    pub error: OpenError,
    pub encrypted: bool,
}

impl Session {
    /// Connects and logs in. What `config` says of hosts and TLS doesn't count: the route does.
    pub(super) fn open(route: Route, config: &Config, warnings: Warnings) -> Result<Session, Failed> {
        let runtime = new_runtime().map_err(|error| Failed { error: WireError::Io(error).into(), encrypted: false })?;
        let opened = runtime.block_on(async {
            let wire = route.dial().await.map_err(|error| Failed { error: error.into(), encrypted: false })?;
            let encrypted = wire.is_tls();
            config.connect_raw(wire, AsItIs).await.map_err(|error| Failed { error: OpenError::Login(error), encrypted })
        });
        let (client, connection) = opened?;
        let driver = Driver { runtime, connection, warnings, broken: false };
        Ok(Session { client, driver, route })
    }

    pub fn query(&mut self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        self.driver.drive(self.client.query(sql, parameters))
    }

    pub fn query_one(&mut self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row, Error> {
        self.driver.drive(self.client.query_one(sql, parameters))
    }

    pub fn batch_execute(&mut self, sql: &str) -> Result<(), Error> {
        self.driver.drive(self.client.batch_execute(sql))
    }

    /// Can it still be asked something?
    pub(super) fn is_closed(&self) -> bool {
        self.driver.broken || self.client.is_closed()
    }

    /// What it takes to cancel a query.
    pub(super) fn cancel(&self) -> CancelQuery {
        CancelQuery { token: self.client.cancel_token(), route: self.route.clone() }
    }
}

impl Driver {
    /// Polls the connection, which moves what is sent and received and brings notices, and then the answer.
    fn drive<T>(&mut self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let Driver { runtime, connection, warnings, broken } = self;
        let mut answer = pin!(answer);
        runtime.block_on(poll_fn(|context| {
            loop {
                match connection.poll_message(context) {
                    Poll::Ready(Some(Ok(AsyncMessage::Notice(notice)))) => warnings.add(format!("the server says: {}", notice.message())),
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(error))) => {
                        *broken = true;
                        return Poll::Ready(Err(error));
                    }
                    Poll::Ready(None) | Poll::Pending => break,
                }
            }
            answer.as_mut().poll(context)
        }))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let Driver { runtime, connection, broken, .. } = self;
        if !*broken {
            let _ = runtime.block_on(async { tokio::time::timeout(GOODBYE, connection).await });
        }
    }
}

fn new_runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_io().enable_time().build()
}

/// Asks a server to cancel what a session does, over a connection of its own.
pub(super) struct CancelQuery {
    token: CancelToken,
    route: Route,
}

impl CancelQuery {
    /// Sends the request. Whether it helped shows in the session.
    pub fn send(self) -> Result<(), OpenError> {
        let runtime = new_runtime().map_err(WireError::Io)?;
        runtime.block_on(async {
            let wire = self.route.dial().await?;
            self.token.cancel_query_raw(wire, AsItIs).await.map_err(OpenError::Login)
        })
    }
}
