//! Where a server may answer: hosts, addresses and ports, each a list.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::ConninfoError;
use super::values::Values;

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
        /// The name; passwords are looked up under it, and the server's certificate has to be of it.
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

/// Where servers put their sockets: Debian's and Red Hat's packages in the first, PostgreSQL itself in the second.
const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

pub(super) fn is_default_socket(folder: &Path) -> bool {
    folder == Path::new("/run/postgresql") || SOCKET_FOLDERS.iter().any(|usual| folder == Path::new(usual))
}

/// All endpoints in their order; one port goes for all.
pub(super) fn endpoints(values: &Values) -> Result<Vec<Endpoint>, ConninfoError> {
    let list = |keyword| values.get(keyword).map(|text| text.split(',').map(str::trim).collect::<Vec<_>>());
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
