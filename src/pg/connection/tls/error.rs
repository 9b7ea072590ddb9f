//! What can go wrong with TLS.

use std::io;
use std::path::PathBuf;

use rustls::{AlertDescription, CertificateError, OtherError};

use crate::units::{Class, Explain};

/// A failure of TLS, or of the files that it needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// The server has no TLS, and it is demanded.
    #[error("the server does not support TLS (SSL), but it was required")]
    NotOffered,
    /// A file that can't be read or used.
    #[error("{what} {}: {reason}", path.display())]
    File {
        /// What it should hold.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What to do.
        cure: Option<String>,
        /// Did someone name it, or does it lie in its usual place?
        named: bool,
    },
    /// `verify-ca` or `verify-full` without a root certificate.
    #[error("root certificate file {} does not exist, and sslmode={mode} needs one", path.display())]
    NoRoots {
        /// Where it was looked for.
        path: PathBuf,
        /// `verify-ca` or `verify-full`.
        mode: &'static str,
    },
    /// `sslcertmode=require` without a certificate.
    #[error("sslcertmode=require, and there is no client certificate")]
    NoCertificate,
    /// `sslcertmode=require`, and the server has no use for one.
    #[error("sslcertmode=require, and the server did not ask for a client certificate")]
    NotAsked,
    /// The server's certificate isn't believed.
    #[error("server certificate not trusted: {reason}")]
    Untrusted {
        /// Why not.
        reason: String,
        /// What to do.
        cure: String,
    },
    /// It is another host's.
    #[error("server certificate for {} does not match host name {host:?}", names.join(", "))]
    WrongName {
        /// The host that was asked for.
        host: String,
        /// Whose it is.
        names: Vec<String>,
    },
    /// The server does not take our certificate, or wants one.
    #[error("the server refused the TLS handshake: {reason}")]
    RefusedUs {
        /// The alert's name.
        reason: String,
    },
    /// The server has no direct negotiation (before 17).
    #[error("the server does not take TLS directly: {reason}")]
    NoDirect {
        /// Why this is thought.
        reason: String,
    },
    /// Anything else.
    #[error("the TLS handshake failed: {reason}")]
    Handshake {
        /// rustls' words, or the system's.
        reason: String,
    },
}

impl TlsError {
    /// Of a handshake that failed.
    pub(super) fn of(error: &io::Error, direct: bool) -> TlsError {
        let Some(tls) = super::rustls_error(error) else {
            let reason = error.to_string();
            return if direct { TlsError::NoDirect { reason } } else { TlsError::Handshake { reason } };
        };
        match tls {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(ours))) => {
                ours.downcast_ref::<TlsError>().cloned().unwrap_or_else(|| TlsError::Handshake { reason: ours.to_string() })
            }
            rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) | rustls::Error::NoApplicationProtocol => {
                TlsError::NoDirect { reason: "it does not agree on the protocol's name (ALPN)".to_owned() }
            }
            rustls::Error::AlertReceived(alert) => TlsError::RefusedUs { reason: format!("{alert:?}") },
            rustls::Error::InvalidMessage(_) if direct => TlsError::NoDirect { reason: tls.to_string() },
            other => TlsError::Handshake { reason: other.to_string() },
        }
    }

    /// Of an error of a session that has just begun: with TLS 1.3 a server refuses our certificate, or that there is
    /// none, only after the handshake.
    pub(in crate::pg::connection) fn of_session(error: &io::Error) -> Option<TlsError> {
        match super::rustls_error(error)? {
            rustls::Error::AlertReceived(alert) => Some(TlsError::RefusedUs { reason: format!("{alert:?}") }),
            other => Some(TlsError::Handshake { reason: other.to_string() }),
        }
    }

    /// Is a file that someone named at fault? Then connecting without TLS would not be what was meant.
    pub(in crate::pg::connection) fn is_of_a_named_file(&self) -> bool {
        matches!(self, TlsError::File { named: true, .. } | TlsError::NoCertificate)
    }
}

/// The certificate of ours is wanted, or isn't the right one.
const OURS: &str = "name a certificate that the server accepts, and its key, by sslcert and sslkey (usually \
     ~/.postgresql/postgresql.crt and .key), and see the server's log";

impl Explain for TlsError {
    fn class(&self) -> Class {
        match self {
            TlsError::File { .. } | TlsError::NoRoots { .. } | TlsError::NoCertificate => Class::Usage,
            TlsError::RefusedUs { .. } => Class::Denied,
            TlsError::Handshake { .. } => Class::Failed,
            TlsError::NotOffered
            | TlsError::NotAsked
            | TlsError::Untrusted { .. }
            | TlsError::WrongName { .. }
            | TlsError::NoDirect { .. } => Class::Refused,
        }
    }

    fn cure(&self) -> Option<String> {
        Some(match self {
            TlsError::NotOffered => "set ssl=on at the server, or allow a connection without TLS by sslmode=prefer".into(),
            TlsError::File { cure, .. } => return cure.clone(),
            TlsError::NoRoots { .. } => {
                "put the certificate of the server's CA there, name it by sslrootcert, or use the system's by sslrootcert=system".into()
            }
            TlsError::NoCertificate | TlsError::RefusedUs { .. } => OURS.into(),
            TlsError::NotAsked => "set ssl_ca_file at the server, or leave sslcertmode out".into(),
            TlsError::Untrusted { cure, .. } => cure.clone(),
            TlsError::WrongName { .. } => {
                "connect by a name in the certificate (host=NAME; hostaddr=ADDRESS spares the look-up), or use sslmode=verify-ca".into()
            }
            TlsError::NoDirect { .. } => "leave sslnegotiation out: direct needs PostgreSQL 17".into(),
            TlsError::Handshake { .. } => "see the server's log, and its ssl_min_protocol_version and ssl_max_protocol_version".into(),
        })
    }
}
