//! Tries hosts, the addresses of each, and TLS or not, in libpq's order (`PQconnectPoll` in fe-connect.c).
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use tokio_postgres::Config;
use tokio_postgres::config::{self, SslMode as Crate, SslNegotiation};

use super::session::{Failed, Session};
use super::tls::ClientTls;
use super::wait::{Waited, wait_for};
use super::wire::{Encryption, Place, Route};
use super::{ConnectOptions, Connection, PgConnError, Warnings};
use crate::pg::conninfo::{ChannelBinding, Conninfo, Endpoint, Host, Negotiation, SslMode, Target};

/// A session with the first server that is of the kind that is wanted.
pub(super) fn open(conninfo: &Conninfo, options: &ConnectOptions) -> Result<Connection, PgConnError> {
    let mut endpoints = conninfo.endpoints.clone();
    if conninfo.shuffle {
        shuffle(&mut endpoints);
    }
    let opening = Opening { conninfo, options, endpoints };
    if conninfo.target == Target::PreferStandby {
        match opening.first(Target::Standby) {
            Err(error) if error.some_server_did_not_fit() => {}
            decided => return decided,
        }
    }
    opening.first(conninfo.target)
}

struct Opening<'a> {
    conninfo: &'a Conninfo,
    options: &'a ConnectOptions,
    endpoints: Vec<Endpoint>,
}

impl Opening<'_> {
    fn first(&self, target: Target) -> Result<Connection, PgConnError> {
        let mut failures = Vec::new();
        for endpoint in &self.endpoints {
            let places = match self.places(endpoint) {
                Ok(places) => places,
                Err(error) if error.next_may_answer() => {
                    failures.push(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            for place in places {
                match self.at(endpoint, &place) {
                    Ok(mut connection) => {
                        if connection.fits(target)? {
                            return Ok(connection);
                        }
                        failures.push(PgConnError::NoneFits { endpoints: endpoint.to_string(), target });
                        // Another address of the same name may be another server.
                    }
                    Err(error) if error.next_may_answer() => failures.push(error),
                    Err(error) => return Err(error),
                }
            }
        }
        Err(PgConnError::of_all(failures))
    }

    /// The addresses of an endpoint; a name may have several.
    fn places(&self, endpoint: &Endpoint) -> Result<Vec<Place>, PgConnError> {
        let (name, port) = match &endpoint.host {
            Host::Socket(folder) => {
                let path = folder.join(format!(".s.PGSQL.{}", endpoint.port));
                return Ok(vec![Place::Unix { path, peer: self.conninfo.require_peer.clone() }]);
            }
            Host::Tcp { addr: Some(addr), .. } => return Ok(vec![self.tcp(SocketAddr::new(*addr, endpoint.port))]),
            Host::Tcp { name, addr: None } => (name.clone(), endpoint.port),
        };
        let not_reached = |reason: String| PgConnError::NotReached { endpoint: endpoint.to_string(), reason };
        let look_up = move || (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        let mut found = match wait_for(look_up, &self.options.cancel, self.conninfo.connect_timeout) {
            Waited::Done(Ok(found)) => found,
            Waited::Done(Err(error)) => return Err(not_reached(format!("its name can't be resolved: {error}"))),
            Waited::Cancelled(_) => return Err(PgConnError::Interrupted { during: "looking up the server's address" }),
            Waited::TooLong => return Err(not_reached("its name is not resolved in time".to_owned())),
            Waited::NoThread(reason) => return Err(not_reached(reason)),
        };
        if found.is_empty() {
            return Err(not_reached("its name has no address".to_owned()));
        }
        if self.conninfo.shuffle {
            shuffle(&mut found);
        }
        Ok(found.into_iter().map(|address| self.tcp(address)).collect())
    }

    fn tcp(&self, address: SocketAddr) -> Place {
        Place::Tcp { address, keepalives: self.conninfo.keepalives }
    }

    /// One address: with TLS, without, or the one after the other, as `sslmode` says.
    fn at(&self, endpoint: &Endpoint, place: &Place) -> Result<Connection, PgConnError> {
        let try_one = |tls| self.attempt(endpoint, place, tls);
        let Place::Tcp { .. } = place else { return try_one(Encryption::Never).map_err(|failed| failed.error) };
        match self.conninfo.tls.mode {
            SslMode::Disable => try_one(Encryption::Never).map_err(|failed| failed.error),
            SslMode::Allow => match try_one(Encryption::Never) {
                Err(first) if first.error.is_of_login() => {
                    let tls = self.client_tls(endpoint)?;
                    try_one(Encryption::Asked(tls)).map_err(|second| first.error.and_then("with TLS", second.error))
                }
                decided => decided.map_err(|failed| failed.error),
            },
            SslMode::Prefer => self.prefer(endpoint, place),
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
                let tls = self.client_tls(endpoint)?;
                let encryption = match self.conninfo.tls.negotiation {
                    Negotiation::Postgres => Encryption::Asked(tls),
                    Negotiation::Direct => Encryption::Direct(tls),
                };
                try_one(encryption).map_err(|failed| failed.error)
            }
        }
    }

    /// TLS if the server has it; without it if that fails, or if nobody is let in that way.
    fn prefer(&self, endpoint: &Endpoint, place: &Place) -> Result<Connection, PgConnError> {
        let first = match self.client_tls(endpoint) {
            Ok(tls) => match self.attempt(endpoint, place, Encryption::IfOffered(tls)) {
                Err(failed) if failed.encrypted && failed.error.is_of_login() || failed.error.is_of_tls() => failed.error,
                decided => return decided.map_err(|failed| failed.error),
            },
            Err(PgConnError::Tls { error, .. }) if error.is_of_a_named_file() => {
                return Err(PgConnError::Tls { endpoint: endpoint.to_string(), error });
            }
            Err(error) => error,
        };
        match self.attempt(endpoint, place, Encryption::Never) {
            Ok(connection) => {
                if first.is_of_tls() {
                    connection.warnings.add(format!("the connection is not encrypted: {first}"));
                }
                Ok(connection)
            }
            Err(second) => Err(first.and_then("without TLS", second.error)),
        }
    }

    fn client_tls(&self, endpoint: &Endpoint) -> Result<Arc<ClientTls>, PgConnError> {
        let host = match &endpoint.host {
            Host::Tcp { name, .. } => name.as_str(),
            Host::Socket(_) => "",
        };
        let wrong = |error| PgConnError::Tls { endpoint: endpoint.to_string(), error: Box::new(error) };
        ClientTls::new(&self.conninfo.tls, host).map(Arc::new).map_err(wrong)
    }

    /// One try over one way.
    fn attempt(&self, endpoint: &Endpoint, place: &Place, tls: Encryption) -> Result<Connection, AttemptFailed> {
        let Opening { conninfo, options, .. } = self;
        let warnings = Warnings::default();
        let config = config(endpoint, conninfo, options, &warnings);
        let route = Route { place: place.clone(), tls, require_auth: conninfo.require_auth.clone() };
        let shown = shown(endpoint, place);
        let plain = |error| AttemptFailed { error, encrypted: false };
        let not_reached = |reason| plain(PgConnError::NotReached { endpoint: shown.clone(), reason });
        let noted = warnings.clone();
        let session = match wait_for(move || Session::open(route, &config, noted), &options.cancel, conninfo.connect_timeout) {
            Waited::Done(Ok(session)) => session,
            Waited::Done(Err(Failed { error, encrypted })) => {
                let error = PgConnError::opening(error, &shown, conninfo, encrypted).with_warnings(warnings.take());
                return Err(AttemptFailed { error, encrypted });
            }
            Waited::Cancelled(_) => return Err(plain(PgConnError::Interrupted { during: "connecting" })),
            Waited::TooLong => return Err(not_reached("it does not answer in time (connect_timeout)".to_owned())),
            Waited::NoThread(reason) => return Err(not_reached(reason)),
        };
        Connection::new(session, endpoint, &conninfo.user, &options.cancel, warnings).map_err(plain)
    }
}

/// How one try failed, and whether it was over TLS.
struct AttemptFailed {
    error: PgConnError,
    encrypted: bool,
}

/// The endpoint, with the address that a name stood for.
fn shown(endpoint: &Endpoint, place: &Place) -> String {
    match (&endpoint.host, place) {
        (Host::Tcp { name, .. }, Place::Tcp { address, .. }) if *name != address.ip().to_string() => {
            format!("{endpoint} ({})", address.ip())
        }
        _ => endpoint.to_string(),
    }
}

fn config(endpoint: &Endpoint, conninfo: &Conninfo, options: &ConnectOptions, warnings: &Warnings) -> Config {
    let mut config = Config::new();
    config.user(&conninfo.user).dbname(&conninfo.dbname);
    // The crate finds TLS settled: whatever it is handed is "TLS", at once.
    config.ssl_mode(Crate::Require).ssl_negotiation(SslNegotiation::Direct);
    config.channel_binding(match conninfo.channel_binding {
        ChannelBinding::Disable => config::ChannelBinding::Disable,
        ChannelBinding::Prefer => config::ChannelBinding::Prefer,
        ChannelBinding::Require => config::ChannelBinding::Require,
    });
    config.application_name(conninfo.application_name.as_ref().unwrap_or(&options.application_name));
    if let Some(options) = &conninfo.options {
        config.options(options);
    }
    if let Some(password) = conninfo.password(endpoint, &mut |warning| warnings.add(warning)) {
        config.password(password.expose());
    }
    config
}

/// In an order of chance. It spreads load and protects nothing: where the system gives no random bytes, the order stays.
fn shuffle<T>(list: &mut [T]) {
    for last in (1..list.len()).rev() {
        let mut bytes = [0; 8];
        if getrandom::fill(&mut bytes).is_ok() {
            let chosen = u64::from_ne_bytes(bytes) % (last as u64 + 1);
            list.swap(last, usize::try_from(chosen).unwrap_or(last));
        }
    }
}
