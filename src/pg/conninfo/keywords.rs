//! libpq's keywords (PostgreSQL 18, `PQconninfoOptions` in fe-connect.c), and what becomes of each here.

use super::ConninfoError;

/// What is done with a value.
#[derive(Clone, Copy)]
pub(super) enum Treatment {
    /// Understood.
    Used,
    /// Of no consequence without TLS, GSS or for us.
    Ignored,
    /// Would mean something that can't be done.
    Refused,
    /// Values that a connection without encryption satisfies, and values that demand more.
    OneOf { plain: &'static [&'static str], secured: &'static [&'static str] },
}

pub(super) struct Keyword {
    pub name: &'static str,
    pub variable: Option<&'static str>,
    pub treatment: Treatment,
    /// For messages about [`Treatment::OneOf`].
    pub expected: &'static str,
}

const fn plain(name: &'static str, variable: &'static str, treatment: Treatment) -> Keyword {
    let variable = if variable.is_empty() { None } else { Some(variable) };
    Keyword { name, variable, treatment, expected: "" }
}

const fn one_of(
    name: &'static str,
    variable: &'static str,
    plain: &'static [&'static str],
    secured: &'static [&'static str],
    expected: &'static str,
) -> Keyword {
    Keyword { name, variable: Some(variable), treatment: Treatment::OneOf { plain, secured }, expected }
}

use Treatment::{Ignored, Refused, Used};

pub(super) const ALL: &[Keyword] = &[
    plain("host", "PGHOST", Used),
    plain("hostaddr", "PGHOSTADDR", Used),
    plain("port", "PGPORT", Used),
    plain("user", "PGUSER", Used),
    plain("dbname", "PGDATABASE", Used),
    plain("password", "PGPASSWORD", Used),
    plain("passfile", "PGPASSFILE", Used),
    plain("connect_timeout", "PGCONNECT_TIMEOUT", Used),
    plain("application_name", "PGAPPNAME", Used),
    plain("fallback_application_name", "", Used),
    plain("options", "PGOPTIONS", Used),
    plain("target_session_attrs", "PGTARGETSESSIONATTRS", Used),
    plain("keepalives_idle", "", Used),
    plain("keepalives_interval", "", Used),
    plain("keepalives_count", "", Used),
    plain("tcp_user_timeout", "", Used),
    one_of(
        "sslmode",
        "PGSSLMODE",
        &["disable", "allow", "prefer"],
        &["require", "verify-ca", "verify-full"],
        "disable, allow, prefer, require, verify-ca or verify-full",
    ),
    one_of("sslnegotiation", "PGSSLNEGOTIATION", &["postgres"], &["direct"], "postgres or direct"),
    one_of("sslcertmode", "PGSSLCERTMODE", &["disable", "allow"], &["require"], "disable, allow or require"),
    one_of("channel_binding", "PGCHANNELBINDING", &["disable", "prefer"], &["require"], "disable, prefer or require"),
    one_of("gssencmode", "PGGSSENCMODE", &["disable", "prefer"], &["require"], "disable, prefer or require"),
    plain("sslrootcert", "PGSSLROOTCERT", Ignored),
    plain("sslcert", "PGSSLCERT", Ignored),
    plain("sslkey", "PGSSLKEY", Ignored),
    plain("sslpassword", "", Ignored),
    plain("sslcrl", "PGSSLCRL", Ignored),
    plain("sslcrldir", "PGSSLCRLDIR", Ignored),
    plain("sslsni", "PGSSLSNI", Ignored),
    plain("sslcompression", "PGSSLCOMPRESSION", Ignored),
    plain("sslkeylogfile", "", Ignored),
    plain("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", Ignored),
    plain("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", Ignored),
    plain("min_protocol_version", "PGMINPROTOCOLVERSION", Ignored),
    plain("max_protocol_version", "PGMAXPROTOCOLVERSION", Ignored),
    plain("krbsrvname", "PGKRBSRVNAME", Ignored),
    plain("gsslib", "PGGSSLIB", Ignored),
    plain("gssdelegation", "PGGSSDELEGATION", Ignored),
    plain("client_encoding", "PGCLIENTENCODING", Ignored),
    plain("load_balance_hosts", "PGLOADBALANCEHOSTS", Ignored),
    // Always on: see Keepalives.
    plain("keepalives", "", Ignored),
    plain("service", "PGSERVICE", Refused),
    plain("servicefile", "", Refused),
    plain("requirepeer", "PGREQUIREPEER", Refused),
    plain("require_auth", "PGREQUIREAUTH", Refused),
    plain("replication", "", Refused),
    plain("scram_client_key", "", Refused),
    plain("scram_server_key", "", Refused),
    plain("oauth_issuer", "", Refused),
    plain("oauth_client_id", "", Refused),
    plain("oauth_client_secret", "", Refused),
    plain("oauth_scope", "", Refused),
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
