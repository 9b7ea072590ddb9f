//! Certificates of ours.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::support::certificates::{Wish, pem};
use crate::support::{Outcome, Postgres};
use crate::{Secured, on_majors};

fn certificates_log_in(pg: &Postgres) {
    let tls = Secured::start(pg, "hostssl all certified all cert\nhostssl all double all scram-sha-256 clientcert=verify-full");
    tls.server.sql(
        "postgres",
        "set password_encryption = 'scram-sha-256'; create role certified login; create role double login password 'sesame'",
    );
    let root = format!("sslmode=verify-full dbname=postgres sslrootcert={}", tls.file("root.crt", &tls.ca.pem()));
    let home = tls.home.path().to_owned();
    let home = home.as_path();
    Wish::new("certified").signed_by(&tls.ca).write(home, "certified");
    Wish::new("double").v1().signed_by(&tls.ca).write(home, "double");
    Wish::new("certified").signed_by(&Wish::ca("the authority").self_signed()).write(home, "foreign");
    let ours = |cert: &str, key: &str| format!("{root} sslcert={0}/{cert}.crt sslkey={0}/{key}", home.display());

    tls.says(&format!("{} user=certified", ours("certified", "certified.key")), "tls");
    tls.says(&format!("{} user=double password=sesame", ours("double", "double.key")), "tls");
    tls.says(&format!("{} user=double", ours("double", "double.key")), "asks for the password of \"double\"");
    // Whose it is, and by whom, is for the server to say.
    tls.says(&format!("{} user=double password=sesame", ours("certified", "certified.key")), "does not let \"double\" in");
    for version in ["TLSv1.2", "TLSv1.3"] {
        let words = format!("ssl_min_protocol_version={version} ssl_max_protocol_version={version} user=certified");
        tls.says(&format!("{} {words}", ours("foreign", "foreign.key")), "by sslcert and sslkey");
        tls.says(&format!("{root} {words}"), "by sslcert and sslkey");
        tls.says(&format!("{root} {words} user=double password=sesame"), "by sslcert and sslkey");
    }
    tls.says(&format!("{} user=certified sslcertmode=disable", ours("certified", "certified.key")), "by sslcert and sslkey");
    tls.says(&format!("{} user=certified sslcertmode=require", ours("certified", "certified.key")), "tls");
    tls.says(&format!("{root} user=certified sslcertmode=require"), "there is no client certificate");

    // The usual places.
    for kind in ["crt", "key"] {
        std::fs::create_dir_all(home.join(".postgresql")).unwrap();
        std::fs::copy(home.join(format!("certified.{kind}")), home.join(format!(".postgresql/postgresql.{kind}"))).unwrap();
    }
    tls.says(&format!("{root} user=certified"), "tls");
    std::fs::remove_file(home.join(".postgresql/postgresql.key")).unwrap();
    tls.says(&format!("{root} user=certified"), "postgresql.key: it does not exist, but its certificate");
    std::fs::remove_dir_all(home.join(".postgresql")).unwrap();

    // A server that has no authority never asks.
    tls.server.sql("postgres", "alter system set ssl_ca_file = ''");
    let mut tls = tls;
    std::fs::write(tls.server.data().join("pg_hba.conf"), "local all all trust\nhost all all all trust\n").unwrap();
    tls.server.restart();
    tls.says(&format!("{} sslcertmode=require", ours("certified", "certified.key")), "did not ask for a client certificate");
    tls.says(&ours("certified", "certified.key"), "tls");
}

on_majors!(certificates_log_in: pg13 13, pg15 15, pg18 18);

fn keys_are_read_in_all_forms(pg: &Postgres) {
    let tls = Secured::start(pg, "hostssl all postgres all cert");
    let root = format!("sslmode=verify-full sslrootcert={}", tls.file("root.crt", &tls.ca.pem()));
    let home = tls.home.path();
    let pair = Wish::new("postgres").signed_by(&tls.ca);
    pair.write(home, "a");
    let ours = |key: &str| format!("{root} sslcert={0}/a.crt sslkey={0}/{key}", home.display());
    let mode = |mode: u32| std::fs::set_permissions(home.join("a.key"), std::fs::Permissions::from_mode(mode)).unwrap();
    let der = home.join("a.der");
    std::fs::write(&der, pair.key.serialize_der()).unwrap();
    std::fs::set_permissions(&der, std::fs::Permissions::from_mode(0o400)).unwrap();
    for key in ["a.key", "a.der"] {
        tls.says(&ours(key), "tls");
    }
    for let_in in [0o640, 0o604, 0o660] {
        mode(let_in);
        tls.says(&ours("a.key"), &format!("a.key: its mode {let_in:04o} lets others in -- chmod 0600 "));
    }
    mode(0o600);
    tls.says(&ours("missing"), "missing: No such file");
    Wish::new("postgres").signed_by(&tls.ca).write(home, "b");
    tls.says(&ours("b.key"), "b.key: it is not the key of the certificate");
    tls.file("rubbish", "rubbish");
    tls.says(&ours("rubbish"), "it holds no key in PEM or DER form");
    tls.file("encrypted", &pem("ENCRYPTED PRIVATE KEY", b"x"));
    tls.says(&ours("encrypted"), "encrypted with a password, which is not supported -- write it without: openssl pkey -in ");
    tls.says(&format!("{root} sslcert={}", tls.file("empty", "")), "empty: it holds no certificate");

    // RSA, and the older forms.
    if Command::new("openssl").arg("version").output().is_err() {
        return crate::support::skip("openssl can't be had");
    }
    let openssl = |line: &str| {
        let mut command = Command::new("openssl");
        command.args(line.split(' ')).current_dir(home);
        Outcome::of(command).ok();
    };
    openssl("ec -in a.key -out a.sec1");
    tls.says(&ours("a.sec1"), "tls");
    openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.key");
    openssl("rsa -in rsa.key -traditional -out rsa.pkcs1");
    openssl("pkcs8 -topk8 -in rsa.key -passout pass:x -out rsa.encrypted");
    openssl("rsa -in rsa.key -aes128 -traditional -passout pass:x -out rsa.oldencrypted");
    let key = rcgen::KeyPair::from_pem(&std::fs::read_to_string(home.join("rsa.key")).unwrap()).unwrap();
    std::fs::write(home.join("a.crt"), Wish::new("postgres").signed_by_with(&tls.ca, key).pem()).unwrap();
    for key in ["rsa.key", "rsa.pkcs1", "rsa.encrypted", "rsa.oldencrypted"] {
        let path = home.join(key);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        tls.says(&ours(key), if key.ends_with("encrypted") { "encrypted with a password" } else { "tls" });
    }
}

on_majors!(keys_are_read_in_all_forms: pg18 18);
