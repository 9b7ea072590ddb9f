//! The six modes, and which certificates are believed.

use std::process::Command;

use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

use crate::support::certificates::{Pair, Wish, pem};
use crate::support::{Outcome, Postgres, TestDir, skip};
use crate::{Secured, on_majors};

fn modes_ask_for_what_they_say(pg: &Postgres) {
    let tls = Secured::start(pg, "host all all all trust");
    let right = format!("sslrootcert={}", tls.file("right.crt", &tls.ca.pem()));
    let wrong = format!("sslrootcert={}", tls.file("wrong.crt", &Wish::ca("the authority").self_signed().pem()));
    let odd_name = "host=db.example";
    for (mode, root, outcome) in [
        ("disable", right.as_str(), "plain"),
        ("disable", "", "plain"),
        ("allow", &right, "plain"),
        ("prefer", "", "tls"),
        ("prefer", &right, "tls"),
        // As in libpq: a root that is there is used, and what it doesn't fit is gone around.
        ("prefer", &wrong, "plain"),
        ("require", "", "tls"),
        ("require", &right, "tls"),
        ("require", &wrong, "server certificate not trusted: no root certificate fits"),
        ("verify-ca", &right, "tls"),
        ("verify-ca", &wrong, "not trusted"),
        ("verify-ca", "", ".postgresql/root.crt does not exist, and sslmode=verify-ca needs one"),
        ("verify-full", &right, "tls"),
        ("verify-full", &wrong, "not trusted"),
        ("verify-full", "", "does not exist"),
        ("require", "sslrootcert=/nowhere", "/nowhere: No such file"),
        ("prefer", "sslrootcert=/nowhere", "/nowhere: No such file"),
        ("require", "sslcrl=/nowhere", "tls"),
    ] {
        tls.says(&format!("sslmode={mode} {root}"), outcome);
        if mode == "verify-full" && outcome == "tls" {
            tls.says(
                &format!("sslmode={mode} {root} {odd_name}"),
                "certificate for \"localhost\", \"127.0.0.1\" does not match host name \"db.example\"",
            );
            tls.says(&format!("sslmode={mode} {root} host=127.0.0.1"), "tls");
        } else {
            tls.says(&format!("sslmode={mode} {root} {odd_name}"), outcome);
        }
    }
    let warned = tls.open(&format!("sslmode=prefer {wrong}")).unwrap().take_warnings();
    assert!(warned.len() == 1 && warned[0].contains("not encrypted: connection to localhost"), "{warned:?}");

    // The usual place makes `require` a `verify-ca`.
    tls.file(".postgresql/root.crt", &Wish::ca("the authority").self_signed().pem());
    tls.says("sslmode=require", "not trusted");
    tls.file(".postgresql/root.crt", &tls.ca.pem());
    tls.says("sslmode=require", "tls");
    tls.says("sslmode=verify-full", "tls");
    tls.file(".postgresql/root.crt", "rubbish");
    tls.says("sslmode=require", "root.crt: it holds no certificate");
    tls.says("sslmode=prefer", "plain");
    tls.file(".postgresql/root.crt", &tls.ca.pem());
}

on_majors!(modes_ask_for_what_they_say: pg13 13, pg15 15, pg18 18);

fn servers_may_have_no_tls(pg: &Postgres) {
    let tls = Secured::start(pg, "host all all all trust");
    tls.server.set("ssl", "off");
    for (mode, outcome) in [
        ("disable", "plain"),
        ("allow", "plain"),
        ("prefer", "plain"),
        ("require", "the server does not support TLS (SSL), but it was required -- set ssl=on"),
    ] {
        tls.says(&format!("sslmode={mode}"), outcome);
    }
}

on_majors!(servers_may_have_no_tls: pg15 15, pg18 18);

fn rules_may_ask_for_tls_or_for_none(pg: &Postgres) {
    let hba = "hostssl all secure all trust\nhostnossl all plain all trust\nhost all double all trust";
    let tls = Secured::start(pg, hba);
    tls.server.sql("postgres", "create role secure login; create role plain login; create role double login");
    for (user, mode, outcome) in [
        ("secure", "disable", "ask for TLS by sslmode=require"),
        ("secure", "disable", "no encryption"),
        ("secure", "allow", "tls"),
        ("secure", "prefer", "tls"),
        ("plain", "disable", "plain"),
        ("plain", "allow", "plain"),
        ("plain", "prefer", "plain"),
        ("plain", "require", "does not let \"plain\" in: no pg_hba.conf entry"),
        ("double", "allow", "plain"),
        ("double", "prefer", "tls"),
        ("postgres", "prefer", "; without TLS: the server at localhost"),
        ("postgres", "allow", "; with TLS: the server at localhost"),
    ] {
        let outcome = if pg.major < 14 && outcome == "no encryption" { "SSL off" } else { outcome };
        tls.says(&format!("user={user} dbname=postgres sslmode={mode}"), outcome);
    }
}

on_majors!(rules_may_ask_for_tls_or_for_none: pg13 13, pg15 15, pg18 18);

/// All kinds of certificates, with each version of TLS.
fn certificates_of_all_kinds_work(pg: &Postgres) {
    let ca = || Wish::ca("the authority").self_signed();
    type Make = fn(&Pair) -> Pair;
    let kinds: [(&str, Make, bool); 7] = [
        ("Debian's snakeoil", |_| Wish::new("localhost").dns("localhost").self_signed(), true),
        ("openssl req -x509", |_| Wish::like_openssl("localhost").self_signed(), true),
        ("version 1, self-signed", |_| Wish::new("localhost").v1().self_signed(), true),
        ("version 1, by the authority", |ca| Wish::new("localhost").v1().signed_by(ca), false),
        ("an authority's, by the authority", |ca| Wish::like_openssl("localhost").signed_by(ca), false),
        ("P-384", |ca| Wish::new("localhost").signed_by_with(ca, KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()), false),
        ("Ed25519", |ca| Wish::new("localhost").signed_by_with(ca, KeyPair::generate_for(&PKCS_ED25519).unwrap()), false),
    ];
    for (kind, make, own) in kinds {
        let ca = ca();
        let pair = make(&ca);
        // OpenSSL reads only the first version of PKCS #8, which has no public key behind the private one.
        let key = match pair.key.serialize_der() {
            der if kind == "Ed25519" => pem("PRIVATE KEY", &[&[0x30, 0x2e, 0x02, 0x01, 0x00], &der[5..48]].concat()),
            _ => pair.key.serialize_pem(),
        };
        let tls = Secured::with(pg, ca, &pair.pem(), &key, "host all all all trust", |setup| setup);
        let root = tls.file("root.crt", &if own { pair.pem() } else { tls.ca.pem() });
        let wrong = tls.file("wrong.crt", &make(&Wish::ca("the authority").self_signed()).pem());
        for version in ["TLSv1.2", "TLSv1.3"] {
            let words = format!("ssl_min_protocol_version={version} ssl_max_protocol_version={version} sslmode=verify-full sslrootcert");
            assert_eq!(tls.outcome(&format!("{words}={root}")), "tls", "{kind} {version}");
            let refused = tls.outcome(&format!("{words}={wrong}"));
            assert!(refused.contains("not trusted"), "{kind} {version}: {refused}");
            let refused = tls.outcome(&format!("{words}={root} host=db.example"));
            assert!(refused.contains("does not match host name"), "{kind} {version}: {refused}");
        }
    }
}

on_majors!(certificates_of_all_kinds_work: pg15 15, pg18 18);

/// What the recipe in PostgreSQL's documentation ("Creating Certificates") makes, with RSA keys.
fn the_documentations_recipe_works(pg: &Postgres) {
    let folder = TestDir::new();
    let openssl = |line: &str| {
        let mut command = Command::new("openssl");
        command.args(line.split(' ')).current_dir(folder.path());
        Outcome::of(command).ok()
    };
    if Command::new("openssl").arg("version").output().is_err() {
        return skip("openssl can't be had");
    }
    openssl("req -new -x509 -days 365 -nodes -text -out own.crt -keyout own.key -subj /CN=localhost");
    openssl("req -new -nodes -text -out root.csr -keyout root.key -subj /CN=root.example");
    let extensions = "[v3_ca]\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid:always,issuer\nbasicConstraints=critical,CA:true\n";
    std::fs::write(folder.join("extensions"), extensions).unwrap();
    openssl("x509 -req -in root.csr -text -days 3650 -extfile extensions -extensions v3_ca -signkey root.key -out root.crt");
    openssl("req -new -nodes -text -out server.csr -keyout server.key -subj /CN=localhost");
    openssl("x509 -req -in server.csr -text -days 365 -CA root.crt -CAkey root.key -CAcreateserial -out server.crt");
    openssl(
        "x509 -req -in server.csr -days 365 -CA root.crt -CAkey root.key -CAcreateserial -out pss.crt -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest -sha512",
    );
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    for (certificate, key, root) in
        [("own.crt", "own.key", "own.crt"), ("server.crt", "server.key", "root.crt"), ("pss.crt", "server.key", "root.crt")]
    {
        let hba = "host all all all scram-sha-256";
        let tls = Secured::with(pg, Wish::ca("x").self_signed(), &read(certificate), &read(key), hba, |setup| {
            setup.conf("password_encryption", "scram-sha-256")
        });
        tls.server.sql("postgres", "alter role postgres password 'sesame'");
        let words = format!("password=sesame sslmode=verify-full sslrootcert={}", tls.file("root.crt", &read(root)));
        tls.says(&words, "tls");
        tls.says(&format!("{words} channel_binding=require"), "tls");
        tls.says(&format!("{words} host=other"), "does not match host name");
    }
}

on_majors!(the_documentations_recipe_works: pg15 15, pg18 18);

fn revoked_servers_are_refused(pg: &Postgres) {
    let ca = Wish::ca("the authority").self_signed();
    let pair = Wish::new("localhost").serial(77).signed_by(&ca);
    let tls = Secured::with(pg, ca, &pair.pem(), &pair.key.serialize_pem(), "host all all all trust", |setup| setup);
    let words = format!("sslmode=verify-full sslrootcert={}", tls.file("root.crt", &tls.ca.pem()));
    let (good, bad) = (tls.file("good.crl", &tls.ca.revoking(&[78], 2090)), tls.file("lists/bad.crl", &tls.ca.revoking(&[77], 2090)));
    tls.says(&format!("{words} sslcrl={good}"), "tls");
    tls.says(&format!("{words} sslcrl={bad}"), "it is revoked");
    tls.says(&format!("{words} sslcrldir={}", tls.home.join("lists").display()), "it is revoked");
    tls.says(&format!("{words} sslcrl=/nowhere"), "the revocation list /nowhere: No such file");
    tls.file(".postgresql/root.crl", &tls.ca.revoking(&[77], 2090));
    tls.says(&words, "it is revoked");
    // Without a root certificate nothing is asked of the server, and nothing of lists.
    tls.says("sslmode=require", "tls");
}

on_majors!(revoked_servers_are_refused: pg18 18);
