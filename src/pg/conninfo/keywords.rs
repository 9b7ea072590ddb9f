//! libpq's keywords (PostgreSQL 18, `PQconninfoOptions` in fe-connect.c), and what becomes of each here. The table for
//! users is docs/connection.md; a test compares the two.

use super::ConninfoError;

/// What is done with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Treatment {
    /// As in libpq.
    Used,
    /// Of no consequence here.
    Ignored,
    /// Would mean something that can't be done; what to do instead.
    Refused(&'static str),
    /// These values are as good as none; any other would mean something that can't be done.
    Only(&'static [&'static str], &'static str),
}

pub(super) struct Keyword {
    pub name: &'static str,
    /// The variable of the environment, if there is one.
    pub variable: Option<&'static str>,
    pub treatment: Treatment,
}

const fn keyword(name: &'static str, variable: &'static str, treatment: Treatment) -> Keyword {
    let variable = if variable.is_empty() { None } else { Some(variable) };
    Keyword { name, variable, treatment }
}

use Treatment::{Ignored, Only, Refused, Used};

const NO_OAUTH: Treatment = Refused("OAuth is not supported: use a password, a client certificate or the unix socket");
const NO_KEYS: Treatment = Refused("give the password itself, best in ~/.pgpass");
const NO_REPLICATION: &str = "leave it out: a backup needs an ordinary session";
const NO_GSS: &str = "GSS encryption is not supported: use gssencmode=disable and TLS (sslmode=verify-full)";
const OLD_PROTOCOL: &str = "version 3.0 of the protocol is spoken: leave it out";

pub(super) const ALL: &[Keyword] = &[
    keyword("service", "PGSERVICE", Used),
    keyword("servicefile", "PGSERVICEFILE", Used),
    keyword("host", "PGHOST", Used),
    keyword("hostaddr", "PGHOSTADDR", Used),
    keyword("port", "PGPORT", Used),
    keyword("user", "PGUSER", Used),
    keyword("dbname", "PGDATABASE", Used),
    keyword("password", "PGPASSWORD", Used),
    keyword("passfile", "PGPASSFILE", Used),
    keyword("require_auth", "PGREQUIREAUTH", Used),
    keyword("channel_binding", "PGCHANNELBINDING", Used),
    keyword("connect_timeout", "PGCONNECT_TIMEOUT", Used),
    keyword("application_name", "PGAPPNAME", Used),
    keyword("fallback_application_name", "", Used),
    keyword("options", "PGOPTIONS", Used),
    keyword("target_session_attrs", "PGTARGETSESSIONATTRS", Used),
    keyword("load_balance_hosts", "PGLOADBALANCEHOSTS", Used),
    keyword("keepalives", "", Used),
    keyword("keepalives_idle", "", Used),
    keyword("keepalives_interval", "", Used),
    keyword("keepalives_count", "", Used),
    keyword("tcp_user_timeout", "", Used),
    keyword("requirepeer", "PGREQUIREPEER", Used),
    keyword("sslmode", "PGSSLMODE", Used),
    keyword("sslnegotiation", "PGSSLNEGOTIATION", Used),
    keyword("sslrootcert", "PGSSLROOTCERT", Used),
    keyword("sslcert", "PGSSLCERT", Used),
    keyword("sslkey", "PGSSLKEY", Used),
    keyword("sslcertmode", "PGSSLCERTMODE", Used),
    keyword("sslcrl", "PGSSLCRL", Used),
    keyword("sslcrldir", "PGSSLCRLDIR", Used),
    keyword("sslsni", "PGSSLSNI", Used),
    keyword("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", Used),
    keyword("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", Used),
    keyword("sslpassword", "", Refused("keys with a password are not supported: see sslkey in docs/connection.md")),
    keyword("sslcompression", "PGSSLCOMPRESSION", Ignored),
    keyword("sslkeylogfile", "", Ignored),
    keyword("gssencmode", "PGGSSENCMODE", Only(&["disable", "prefer"], NO_GSS)),
    keyword("krbsrvname", "PGKRBSRVNAME", Ignored),
    keyword("gsslib", "PGGSSLIB", Ignored),
    keyword("gssdelegation", "PGGSSDELEGATION", Ignored),
    keyword("client_encoding", "PGCLIENTENCODING", Ignored),
    keyword("min_protocol_version", "PGMINPROTOCOLVERSION", Only(&["3.0"], OLD_PROTOCOL)),
    keyword("max_protocol_version", "PGMAXPROTOCOLVERSION", Only(&["3.0", "3.2", "latest"], OLD_PROTOCOL)),
    keyword("replication", "", Only(&["false", "off", "no", "0"], NO_REPLICATION)),
    keyword("scram_client_key", "", NO_KEYS),
    keyword("scram_server_key", "", NO_KEYS),
    keyword("oauth_issuer", "", NO_OAUTH),
    keyword("oauth_client_id", "", NO_OAUTH),
    keyword("oauth_client_secret", "", NO_OAUTH),
    keyword("oauth_scope", "", NO_OAUTH),
];

/// The keyword of this name.
pub(super) fn find(name: &str) -> Result<&'static Keyword, ConninfoError> {
    if let Some(keyword) = ALL.iter().find(|keyword| keyword.name == name) {
        return Ok(keyword);
    }
    let distance = |keyword: &&Keyword| strsim::damerau_levenshtein(keyword.name, name);
    let nearest = ALL.iter().min_by_key(distance).filter(|keyword| distance(keyword) <= 2);
    // Anything that doesn't look like a keyword may be a piece of a password that wasn't quoted.
    let wordlike = name.len() <= 40 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let keyword = if wordlike { name.to_owned() } else { "...".to_owned() };
    Err(ConninfoError::UnknownKeyword { keyword, meant: nearest.map(|keyword| keyword.name) })
}
