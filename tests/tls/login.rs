//! How one logs in: bound to the server's certificate, and by allowed ways only.

use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

use crate::support::certificates::Wish;
use crate::support::{Postgres, Server};
use crate::{Secured, on_majors};

fn passwords_are_bound_to_certificates(pg: &Postgres) {
    for (algorithm, binds) in [(None, true), (Some(&PKCS_ECDSA_P384_SHA384), true), (Some(&PKCS_ED25519), false)] {
        // Bound by the hash of the signature's algorithm: the authority's.
        let key = algorithm.map_or_else(|| KeyPair::generate().unwrap(), |algorithm| KeyPair::generate_for(algorithm).unwrap());
        let ca = Wish::ca("the authority").self_signed_with(key);
        let pair = Wish::new("localhost").signed_by(&ca);
        let hba = "host all scrambled all scram-sha-256\nhost all hashed all md5\nhost all clear all password\nhost all free all trust";
        let tls =
            Secured::with(pg, ca, &pair.pem(), &pair.key.serialize_pem(), hba, |setup| setup.conf("password_encryption", "scram-sha-256"));
        tls.server.sql(
            "postgres",
            "create role scrambled login password 'sesame'; create role clear login password 'sesame'; create role free login;
             set password_encryption = 'md5'; create role hashed login password 'sesame'",
        );
        let root = format!("dbname=postgres password=sesame sslrootcert={}", tls.file("root.crt", &tls.ca.pem()));
        for version in ["TLSv1.2", "TLSv1.3"] {
            let words = format!("{root} ssl_min_protocol_version={version} ssl_max_protocol_version={version} sslmode=verify-full");
            let unbound = "channel binding is required, and the server did not use it -- let the role log in by scram-sha-256";
            for (user, binding, outcome) in [
                ("scrambled", "require", if binds { "tls" } else { unbound }),
                ("scrambled", "prefer", "tls"),
                ("scrambled", "disable", "tls"),
                ("hashed", "prefer", "tls"),
                ("hashed", "require", unbound),
                ("clear", "prefer", "tls"),
                ("clear", "require", unbound),
                ("free", "require", unbound),
            ] {
                tls.says(&format!("{words} user={user} channel_binding={binding}"), outcome);
            }
        }
        tls.says(&format!("{root} user=scrambled sslmode=disable"), "plain");
        tls.says(
            &format!("{root} user=scrambled sslmode=disable channel_binding=require"),
            "channel binding is required, and there is no TLS",
        );
        tls.says(
            &format!("{root} user=scrambled sslmode=verify-full password=wrong channel_binding=prefer"),
            "password authentication failed",
        );
    }
}

on_majors!(passwords_are_bound_to_certificates: pg15 15, pg18 18);

fn only_allowed_ways_are_answered(pg: &Postgres) {
    let hba = "host all scrambled all scram-sha-256\nhost all hashed all md5\nhost all clear all password\nhost all free all trust";
    let tls = Secured::start(pg, hba);
    tls.server.sql(
        "postgres",
        "set password_encryption = 'scram-sha-256';
         create role scrambled login password 'sesame'; create role clear login password 'sesame'; create role free login;
         set password_encryption = 'md5'; create role hashed login password 'sesame'",
    );
    for mode in ["require", "disable"] {
        let fine = if mode == "require" { "tls" } else { "plain" };
        for (user, allowed, refused) in [
            ("scrambled", "scram-sha-256", "!scram-sha-256"),
            ("hashed", "md5,password", "password"),
            ("clear", "password", "scram-sha-256,md5"),
            ("free", "none", "!none"),
            ("free", "!password", "scram-sha-256"),
        ] {
            let words = format!("dbname=postgres password=sesame sslmode={mode} user={user} require_auth");
            tls.says(&format!("{words}={allowed}"), fine);
            tls.says(&format!("{words}={refused}"), &format!("require_auth={refused} does not allow that -- see the method"));
        }
    }
    // The password never left us.
    tls.says("dbname=postgres password=wrong user=clear require_auth=scram-sha-256", "the server asks for authentication by password");
    assert!(!tls.server.log().contains("password authentication failed"), "{}", tls.server.log_tail());

    // On the unix socket the same, and who runs the server.
    let socket = format!("host={} port={} user=postgres", tls.server.sockets().display(), tls.server.port());
    let here = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
    tls.open_as_said(&format!("{socket} requirepeer={here} require_auth=none sslmode=verify-full")).unwrap();
    let error = tls.open_as_said(&format!("{socket} requirepeer=root")).unwrap_err().to_string();
    assert!(error.contains(&format!("the server runs as user {here}, and requirepeer=root asks for another")), "{error}");
    let error = tls.open_as_said(&format!("{socket} require_auth=scram-sha-256")).unwrap_err().to_string();
    assert!(error.contains("asks for authentication by none"), "{error}");
}

on_majors!(only_allowed_ways_are_answered: pg13 13, pg15 15, pg18 18);

fn tls_may_begin_directly(pg: &Postgres) {
    let tls = Secured::start(pg, "host all all all trust");
    let root = format!("sslnegotiation=direct sslrootcert={}", tls.file("root.crt", &tls.ca.pem()));
    for mode in ["require", "verify-ca", "verify-full"] {
        let words = format!("{root} sslmode={mode}");
        tls.says(&words, if pg.major >= 17 { "tls" } else { "the server does not take TLS directly" });
    }
    if pg.major >= 17 {
        tls.says(&format!("{root} sslmode=verify-full host=other"), "does not match host name");
    } else {
        tls.says(&format!("{root} sslmode=require"), "-- leave sslnegotiation out: direct needs PostgreSQL 17");
    }
}

on_majors!(tls_may_begin_directly: pg15 15, pg17 17, pg18 18, pg19 19);

/// A query is cancelled over TLS as well: a server may take no requests without.
fn queries_are_cancelled_over_tls(pg: &Postgres) {
    use pgcairn::pg::backup_api::BackupSession;
    use pgcairn::pg::connection::{ConnectOptions, Connection, PgConnError};
    use pgcairn::pg::conninfo::{Conninfo, Surroundings};
    use pgcairn::units::Cancel;

    let ca = Wish::ca("the authority").self_signed();
    let pair = Wish::new("localhost").signed_by(&ca);
    let tls = Secured::with(pg, ca, &pair.pem(), &pair.key.serialize_pem(), "hostssl all all all trust", |setup| {
        setup.conf("checkpoint_timeout", "1h").conf("checkpoint_completion_target", "1.0").conf("max_wal_size", "10GB")
    });
    tls.server.sql("postgres", "create table t as select generate_series(1, 100000)");
    let cancel = Cancel::new();
    let options = ConnectOptions { cancel: cancel.clone(), ..ConnectOptions::default() };
    let text = format!("host=localhost hostaddr=127.0.0.1 port={} user=postgres sslmode=require", tls.server.port());
    let connection = Connection::open(&Conninfo::parse(&text, &Surroundings::default()).unwrap(), &options).unwrap();
    let waiting = |server: &Server| {
        server.sql(
            "postgres",
            "select count(*) from pg_stat_activity where application_name = 'pgcairn' and state = 'active' and wait_event is not null",
        ) == "1"
    };
    let error = std::thread::scope(|scope| {
        let start = scope.spawn(|| BackupSession::start(connection, "slow", false));
        crate::support::wait_until("the start to wait", || start.is_finished() || waiting(&tls.server));
        cancel.cancel();
        start.join().unwrap().unwrap_err()
    });
    assert!(matches!(error, PgConnError::Interrupted { .. }), "{error:?}");
    crate::support::wait_until("the cancelling", || tls.server.log().contains("canceling statement due to user request"));
}

on_majors!(queries_are_cancelled_over_tls: pg18 18);
