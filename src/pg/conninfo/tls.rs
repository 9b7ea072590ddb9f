//! What a connection string says about encryption and about proving who one is.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::path::{Path, PathBuf};

use super::ConninfoError;
use super::values::Values;

/// How much protection is wanted (`sslmode`), from least to most. Not used on unix sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// TLS if the server doesn't let one in without.
    Allow,
    /// TLS if the server has it and lets one in by it.
    Prefer,
    /// TLS; the certificate is verified if there is a root certificate.
    Require,
    /// TLS, and a certificate that leads to a root.
    VerifyCa,
    /// The same, and it is of the host that was asked for.
    VerifyFull,
}

impl SslMode {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            SslMode::Disable => "disable",
            SslMode::Allow => "allow",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
    }
}

/// How TLS begins (`sslnegotiation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Negotiation {
    /// By asking the server for it.
    Postgres,
    /// At once (17 and later).
    Direct,
}

/// Whether a certificate of ours is shown (`sslcertmode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertMode {
    /// Never.
    Disable,
    /// If there is one and the server asks.
    Allow,
    /// The server has to ask, and one has to be there.
    Require,
}

/// Versions of TLS that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

/// Whether the password's proof is bound to the server's certificate (`channel_binding`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// If the server can.
    Prefer,
    /// Or not at all.
    Require,
}

/// A file that was named, or that lies in its usual place if it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// Where.
    pub path: PathBuf,
    /// Did someone name it? Then it has to be there.
    pub named: bool,
}

/// Whom to believe (`sslrootcert`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// What this system's programs believe.
    System,
    /// The certificates of a file.
    File(NamedFile),
    /// Nobody: there is no home folder in which a file could lie.
    None,
}

/// Everything about TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// How much of it.
    pub mode: SslMode,
    /// How it begins.
    pub negotiation: Negotiation,
    /// Whom to believe.
    pub roots: Roots,
    /// Our certificate.
    pub cert: Option<NamedFile>,
    /// Its key.
    pub key: Option<NamedFile>,
    /// Is ours shown?
    pub cert_mode: CertMode,
    /// Revoked certificates.
    pub crl: Option<NamedFile>,
    /// A folder of such files.
    pub crl_dir: Option<PathBuf>,
    /// Is the host's name told in clear (SNI)?
    pub sni: bool,
    /// The oldest version.
    pub min: TlsVersion,
    /// The newest version.
    pub max: TlsVersion,
}

impl TlsSettings {
    pub(super) fn decide(values: &Values, home: Option<&Path>) -> Result<TlsSettings, ConninfoError> {
        let system = values.get("sslrootcert") == Some("system");
        let settings = TlsSettings {
            mode: mode(values, system)?,
            negotiation: values.one_of("sslnegotiation", &[("postgres", Negotiation::Postgres), ("direct", Negotiation::Direct)])?,
            roots: match file(values, "sslrootcert", home, "root.crt") {
                _ if system => Roots::System,
                Some(file) => Roots::File(file),
                None => Roots::None,
            },
            cert: file(values, "sslcert", home, "postgresql.crt"),
            key: key(values, home)?,
            cert_mode: values
                .one_of("sslcertmode", &[("allow", CertMode::Allow), ("disable", CertMode::Disable), ("require", CertMode::Require)])?,
            // With a list in a folder, the usual file isn't looked for (fe-secure-openssl.c).
            crl: file(values, "sslcrl", home, "root.crl").filter(|file| file.named || values.get("sslcrldir").is_none()),
            crl_dir: values.get("sslcrldir").map(PathBuf::from),
            sni: values.flag("sslsni")?,
            min: version(values, "ssl_min_protocol_version", TlsVersion::V12)?,
            max: version(values, "ssl_max_protocol_version", TlsVersion::V13)?,
        };
        let (mode, weak) = (settings.mode, |with, strong| ConninfoError::Weak { mode: settings.mode.name(), with, strong });
        if system && mode != SslMode::VerifyFull {
            return Err(weak("sslrootcert=system", "verify-full"));
        }
        if settings.negotiation == Negotiation::Direct && mode < SslMode::Require {
            return Err(weak("sslnegotiation=direct", "require, verify-ca or verify-full"));
        }
        if settings.min > settings.max {
            return Err(ConninfoError::NoVersion);
        }
        Ok(settings)
    }
}

fn mode(values: &Values, system: bool) -> Result<SslMode, ConninfoError> {
    if values.get("sslmode").is_none() && system {
        return Ok(SslMode::VerifyFull);
    }
    use SslMode as M;
    // The first is the default.
    let all = [M::Prefer, M::Disable, M::Allow, M::Require, M::VerifyCa, M::VerifyFull].map(|mode| (mode.name(), mode));
    values.one_of("sslmode", &all)
}

fn file(values: &Values, keyword: &str, home: Option<&Path>, usual: &str) -> Option<NamedFile> {
    match values.get(keyword) {
        Some(path) => Some(NamedFile { path: PathBuf::from(path), named: true }),
        None => Some(NamedFile { path: home?.join(".postgresql").join(usual), named: false }),
    }
}

fn key(values: &Values, home: Option<&Path>) -> Result<Option<NamedFile>, ConninfoError> {
    if let Some(value) = values.get("sslkey").filter(|value| !value.starts_with(['/', '.']) && value.contains(':')) {
        let value = value.split(':').next().unwrap_or_default().to_owned() + ":...";
        let instead = "keys in cryptographic hardware can't be used: name a file";
        return Err(ConninfoError::ValueNotSupported { keyword: "sslkey", value, instead });
    }
    Ok(file(values, "sslkey", home, "postgresql.key"))
}

fn version(values: &Values, keyword: &'static str, default: TlsVersion) -> Result<TlsVersion, ConninfoError> {
    let Some(value) = values.get(keyword) else { return Ok(default) };
    match value.to_ascii_lowercase().as_str() {
        "tlsv1.2" => Ok(TlsVersion::V12),
        "tlsv1.3" => Ok(TlsVersion::V13),
        // As a lower limit they are met by 1.2.
        "tlsv1" | "tlsv1.1" if keyword == "ssl_min_protocol_version" => Ok(TlsVersion::V12),
        "tlsv1" | "tlsv1.1" => {
            let instead = "versions before TLS 1.2 are not spoken: leave it out, and see the server's ssl_min_protocol_version";
            Err(ConninfoError::ValueNotSupported { keyword, value: value.to_owned(), instead })
        }
        _ => Err(ConninfoError::BadValue { keyword, value: value.to_owned(), expected: "TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3" }),
    }
}
