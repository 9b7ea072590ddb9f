use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;
use crate::units::{Class, Explain};

fn around(variables: &[(&str, &str)]) -> Surroundings {
    Surroundings {
        variables: variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect(),
        user: Some("osuser".to_owned()),
        home: None,
    }
}

fn parse(text: &str) -> Result<Conninfo, ConninfoError> {
    Conninfo::parse(text, &around(&[]))
}

/// Everything that decides where a connection goes, in one line.
fn summary(info: &Conninfo) -> String {
    let password = info.given_password.as_ref().map_or("-", Password::expose);
    format!("{info} password {password}")
}

#[test]
fn strings_are_read_as_libpq_reads_them() {
    for (text, expected) in [
        ("", "osuser@/var/run/postgresql/.s.PGSQL.5432,/tmp/.s.PGSQL.5432 database postgres password -"),
        ("host=db.example port=5433 user=backup dbname=x", "backup@db.example:5433 database x password -"),
        ("  host = db.example\tport= 5433\n", "osuser@db.example:5433 database postgres password -"),
        (r"host='/a b' password='it\'s \\ here'", r"osuser@/a b/.s.PGSQL.5432 database postgres password it's \ here"),
        (r"password=a\ b user=''", "osuser@/var/run/postgresql/.s.PGSQL.5432,/tmp/.s.PGSQL.5432 database postgres password a b"),
        ("host=a,b,/s port=1,2,3", "osuser@a:1,b:2,/s/.s.PGSQL.3 database postgres password -"),
        ("host=a,b port=7", "osuser@a:7,b:7 database postgres password -"),
        ("hostaddr=::1", "osuser@[::1]:5432 database postgres password -"),
        ("host=a host=b", "osuser@b:5432 database postgres password -"),
        ("postgresql://", "osuser@/var/run/postgresql/.s.PGSQL.5432,/tmp/.s.PGSQL.5432 database postgres password -"),
        ("postgres://h", "osuser@h:5432 database postgres password -"),
        ("postgresql://u:p%40s%2F@h:5433/d%20b?connect_timeout=3", "u@h:5433 database d b password p@s/"),
        ("postgresql://u:p?q@h/d", "u@h:5432 database d password p?q"),
        ("postgresql://u@[2001:db8::1]:5433,h2/d", "u@[2001:db8::1]:5433,h2:5432 database d password -"),
        ("postgresql:///d?host=/run/x&port=1", "osuser@/run/x/.s.PGSQL.1 database d password -"),
        ("postgresql://%2Frun%2Fx/d", "osuser@/run/x/.s.PGSQL.5432 database d password -"),
        ("postgresql://u@/d", "u@/var/run/postgresql/.s.PGSQL.5432,/tmp/.s.PGSQL.5432 database d password -"),
    ] {
        assert_eq!(parse(text).map(|info| summary(&info)).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn the_environment_fills_what_is_not_given() {
    let all = around(&[
        ("PGHOST", "envhost"),
        ("PGPORT", "6000"),
        ("PGUSER", "envuser"),
        ("PGDATABASE", "envdb"),
        ("PGPASSWORD", "envpass"),
        ("PGAPPNAME", "envapp"),
        ("PGOPTIONS", "-c x.y=1"),
        ("PGCONNECT_TIMEOUT", "7"),
        ("PGSSLMODE", ""),
    ]);
    let info = Conninfo::parse("", &all).unwrap();
    assert_eq!(summary(&info), "envuser@envhost:6000 database envdb password envpass");
    assert_eq!((info.application_name.as_deref(), info.options.as_deref()), (Some("envapp"), Some("-c x.y=1")));
    assert_eq!(info.connect_timeout, Some(Duration::from_secs(7)));
    let info = Conninfo::parse("host='' user=u connect_timeout=0", &all).unwrap();
    assert_eq!(summary(&info), "u@/var/run/postgresql/.s.PGSQL.6000,/tmp/.s.PGSQL.6000 database envdb password envpass");
    assert_eq!(info.connect_timeout, None);
    assert_eq!(parse("").unwrap().connect_timeout, Some(Duration::from_secs(30)));
    assert_eq!(info.with_dbname("other").dbname, "other");

    let nobody = Surroundings::default();
    assert_eq!(Conninfo::parse("", &nobody).unwrap_err(), ConninfoError::NoUser);
    let mut odd = around(&[]);
    odd.variables.insert("PGUSER".to_owned(), std::os::unix::ffi::OsStringExt::from_vec(vec![0xff]));
    assert_eq!(Conninfo::parse("", &odd).unwrap_err(), ConninfoError::NotText("PGUSER"));
}

#[test]
fn what_cannot_be_meant_is_refused() {
    use ConninfoError as E;
    type Check = fn(&ConninfoError) -> bool;
    let cases: Vec<(&str, Check)> = vec![
        ("host", |e| *e == E::NoEquals { at: 4 }),
        ("host=a b", |e| *e == E::NoEquals { at: 8 }),
        ("password='x", |e| *e == E::UnclosedQuote),
        ("hots=a", |e| matches!(e, E::UnknownKeyword { meant: Some("host"), .. })),
        ("frobnicate=a", |e| matches!(e, E::UnknownKeyword { keyword, meant: None } if keyword == "frobnicate")),
        ("port=0", |e| matches!(e, E::BadValue { keyword: "port", .. })),
        ("port=65536", |e| matches!(e, E::BadValue { keyword: "port", .. })),
        ("hostaddr=name", |e| matches!(e, E::BadValue { keyword: "hostaddr", .. })),
        ("host=@abstract", |e| matches!(e, E::BadValue { keyword: "host", .. })),
        ("connect_timeout=soon", |e| matches!(e, E::BadValue { keyword: "connect_timeout", .. })),
        ("target_session_attrs=x", |e| matches!(e, E::BadValue { keyword: "target_session_attrs", .. })),
        ("sslmode=x", |e| matches!(e, E::BadValue { keyword: "sslmode", .. })),
        ("host=a,b port=1,2,3", |e| *e == E::Lengths { hosts: 2, keyword: "port", others: 3 }),
        ("host=a,b hostaddr=::1", |e| *e == E::Lengths { hosts: 2, keyword: "hostaddr", others: 1 }),
        ("service=x", |e| matches!(e, E::NoService { service, files } if service == "x" && files.is_empty())),
        ("servicefile=/nowhere/at/all service=x", |e| matches!(e, E::ServiceFile { line: None, .. })),
        ("replication=true", |e| matches!(e, E::ValueNotSupported { keyword: "replication", .. })),
        ("gssencmode=require", |e| matches!(e, E::ValueNotSupported { keyword: "gssencmode", .. })),
        ("min_protocol_version=3.2", |e| matches!(e, E::ValueNotSupported { keyword: "min_protocol_version", .. })),
        ("max_protocol_version=2.0", |e| matches!(e, E::ValueNotSupported { keyword: "max_protocol_version", .. })),
        ("sslpassword=x", |e| matches!(e, E::NotSupported { keyword: "sslpassword", .. })),
        ("oauth_issuer=x", |e| matches!(e, E::NotSupported { keyword: "oauth_issuer", .. })),
        (
            "sslkey=pkcs11:token=x;pin-value=1",
            |e| matches!(e, E::ValueNotSupported { keyword: "sslkey", value, .. } if value == "pkcs11:..."),
        ),
        ("sslnegotiation=x", |e| matches!(e, E::BadValue { keyword: "sslnegotiation", .. })),
        ("sslnegotiation=direct", |e| matches!(e, E::Weak { mode: "prefer", with: "sslnegotiation=direct", .. })),
        ("sslrootcert=system sslmode=require", |e| matches!(e, E::Weak { mode: "require", with: "sslrootcert=system", .. })),
        ("sslcertmode=x", |e| matches!(e, E::BadValue { keyword: "sslcertmode", .. })),
        ("channel_binding=x", |e| matches!(e, E::BadValue { keyword: "channel_binding", .. })),
        ("load_balance_hosts=x", |e| matches!(e, E::BadValue { keyword: "load_balance_hosts", .. })),
        ("sslsni=2", |e| matches!(e, E::BadValue { keyword: "sslsni", .. })),
        ("keepalives=x", |e| matches!(e, E::BadValue { keyword: "keepalives", .. })),
        ("ssl_min_protocol_version=x", |e| matches!(e, E::BadValue { keyword: "ssl_min_protocol_version", .. })),
        ("ssl_max_protocol_version=TLSv1.1", |e| matches!(e, E::ValueNotSupported { keyword: "ssl_max_protocol_version", .. })),
        ("ssl_max_protocol_version=TLSv1.2 ssl_min_protocol_version=TLSv1.3", |e| *e == E::NoVersion),
        ("require_auth=x", |e| matches!(e, E::BadValue { keyword: "require_auth", .. })),
        ("require_auth=md5,!none", |e| matches!(e, E::BadValue { keyword: "require_auth", .. })),
        ("require_auth=md5,md5", |e| matches!(e, E::BadValue { keyword: "require_auth", .. })),
        ("postgresql://[::1", |e| matches!(e, E::BadUrl(_))),
        ("postgresql://[::1]x", |e| matches!(e, E::BadUrl(_))),
        ("postgresql://h/%zz", |e| matches!(e, E::BadUrl(_))),
        ("postgresql://h/%0", |e| matches!(e, E::BadUrl(_))),
        ("postgresql://h/%00", |e| matches!(e, E::BadUrl(_))),
        ("postgresql://h/%ff", |e| matches!(e, E::BadUrl(_))),
        ("postgresql://h/?port", |e| matches!(e, E::BadUrl(_))),
        ("postgresql://h/?port=1=2", |e| matches!(e, E::BadUrl(_))),
        ("postgresql://h/?prot=1", |e| matches!(e, E::UnknownKeyword { meant: Some("port"), .. })),
    ];
    for (text, fits) in cases {
        let error = parse(text).expect_err(text);
        assert!(fits(&error), "{text}: {error:?}");
        assert_eq!(error.class(), Class::Usage, "{text}");
    }
}

#[test]
fn encryption_is_decided_as_libpq_decides_it() {
    let tls = |text: &str| parse(text).unwrap().tls;
    assert_eq!((tls("").mode, tls("").negotiation, tls("").roots), (SslMode::Prefer, Negotiation::Postgres, Roots::None));
    for (text, mode) in [
        ("sslmode=disable", SslMode::Disable),
        ("sslmode=allow", SslMode::Allow),
        ("sslmode=require sslnegotiation=direct", SslMode::Require),
        ("sslmode=verify-ca", SslMode::VerifyCa),
        ("postgresql://h/?ssl=true", SslMode::Require),
        ("sslrootcert=system", SslMode::VerifyFull),
        ("sslrootcert=system sslmode=verify-full", SslMode::VerifyFull),
        ("host=/s gssencmode=prefer krbsrvname=x max_protocol_version=latest replication=false", SslMode::Prefer),
    ] {
        assert_eq!(tls(text).mode, mode, "{text}");
    }
    let of = |variables: &[(&str, &str)]| Conninfo::parse("", &around(variables)).unwrap().tls.mode;
    assert_eq!(of(&[("PGSSLMODE", "verify-full")]), SslMode::VerifyFull);
    assert_eq!(of(&[("PGREQUIRESSL", "1")]), SslMode::Require);
    assert_eq!(of(&[("PGREQUIRESSL", "0")]), SslMode::Prefer);
    assert_eq!(of(&[("PGREQUIRESSL", "1"), ("PGSSLMODE", "disable")]), SslMode::Disable);

    let mut home = around(&[]);
    home.home = Some("/home/u".into());
    let usual = Conninfo::parse("", &home).unwrap().tls;
    let file = |name: &str| NamedFile { path: format!("/home/u/.postgresql/{name}").into(), named: false };
    assert_eq!(usual.roots, Roots::File(file("root.crt")));
    let found = [usual.cert, usual.key, usual.crl];
    assert_eq!(found, ["postgresql.crt", "postgresql.key", "root.crl"].map(|name| Some(file(name))));
    let named =
        Conninfo::parse("sslcert=/c sslkey=/k sslcrl=/l sslrootcert=/r sslsni=0 ssl_min_protocol_version=TLSv1.3", &home).unwrap().tls;
    let file = |path: &str| NamedFile { path: path.into(), named: true };
    assert_eq!((named.cert, named.key, named.crl), (Some(file("/c")), Some(file("/k")), Some(file("/l"))));
    assert_eq!((named.roots, named.sni, named.min), (Roots::File(file("/r")), false, TlsVersion::V13));
    let folder = Conninfo::parse("sslcrldir=/d", &home).unwrap().tls;
    assert_eq!((folder.crl, folder.crl_dir), (None, Some("/d".into())));
}

#[test]
fn services_stand_between_the_string_and_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let system = tempfile::tempdir().unwrap();
    let mine = "# mine\n[other]\nhost=wrong\n\n [one] \n# a comment\nhost = service.example\nport=1111\nport=2222\nuser=\n[one]\nhost=late\n\
                [odd]\nnonsense\n[nested]\nservice=one\n[ldap]\nldap://x\n[unknown]\nhots=a\n";
    std::fs::write(folder.path().join(".pg_service.conf"), mine).unwrap();
    std::fs::write(system.path().join("pg_service.conf"), "[one]\nhost=wrong\n[two]\nhost=two\n").unwrap();
    std::fs::write(folder.path().join("other"), "[three]\nhost=three\n").unwrap();
    let around = |variables: &[(&str, &str)]| {
        let mut surroundings = around(variables);
        surroundings.variables.insert("PGSYSCONFDIR".to_owned(), system.path().into());
        surroundings.home = Some(folder.path().to_owned());
        surroundings
    };
    let other = folder.path().join("other").to_str().unwrap().to_owned();
    for (text, variables, expected) in [
        ("service=one", vec![], "osuser@service.example:1111 database postgres"),
        ("service=one host=h", vec![("PGPORT", "7"), ("PGDATABASE", "d")], "osuser@h:1111 database d"),
        ("postgresql:///?service=one", vec![], "osuser@service.example:1111 database postgres"),
        ("port=3", vec![("PGSERVICE", "one")], "osuser@service.example:3 database postgres"),
        ("service=two", vec![], "osuser@two:5432 database postgres"),
        (&format!("service=three servicefile={other}"), vec![], "osuser@three:5432 database postgres"),
        ("service=three", vec![("PGSERVICEFILE", other.as_str())], "osuser@three:5432 database postgres"),
        // The system's file comes behind a named one as well.
        ("service=two", vec![("PGSERVICEFILE", other.as_str())], "osuser@two:5432 database postgres"),
    ] {
        let info = Conninfo::parse(text, &around(&variables)).unwrap();
        assert_eq!(info.to_string(), expected, "{text} {variables:?}");
    }
    for (text, words) in [
        ("service=none", "definition of service \"none\" not found in "),
        ("service=odd", "line 14: a line has no \"=\""),
        ("service=nested", "line 16: service may not stand in a service file"),
        ("service=ldap", "line 18: services in LDAP are not supported"),
        ("service=unknown", "line 20: unknown word in a service: \"hots\""),
        ("service=one servicefile=/nowhere/at/all", "service file /nowhere/at/all: No such file"),
    ] {
        let error = Conninfo::parse(text, &around(&[])).unwrap_err();
        assert!(error.to_string().contains(words), "{text}: {error}");
    }
    assert!(Conninfo::parse("service=one", &around(&[("PGSERVICEFILE", other.as_str())])).unwrap().to_string().contains("wrong"));
}

#[test]
fn the_document_has_every_keyword() {
    let document = include_str!("../../../docs/connection.md");
    for keyword in keywords::ALL {
        let row = format!("| `{}` | {} | ", keyword.name, keyword.variable.map_or("–".to_owned(), |variable| format!("`{variable}`")));
        let rows: Vec<&str> = document.lines().filter(|line| line.starts_with(&row)).collect();
        assert_eq!(rows.len(), 1, "{row}");
        let said = rows[0][row.len()..].split(" |").next().unwrap();
        let fits = match keyword.treatment {
            keywords::Treatment::Used => said == "used",
            keywords::Treatment::Ignored => said == "ignored",
            keywords::Treatment::Refused(_) => said == "refused",
            keywords::Treatment::Only(values, _) => said.ends_with("refused") || values.iter().all(|value| said.contains(value)),
        };
        assert!(fits, "{}: {said}", keyword.name);
    }
    let words = document.lines().filter(|line| line.starts_with("| `") && line.matches(" | ").count() >= 3).count();
    // The table of modes has three columns.
    assert_eq!(words, keywords::ALL.len());
}

fn with_file(text: &str, mode: u32, conninfo: &str) -> (Option<String>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(".pgpass");
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    let mut surroundings = around(&[]);
    surroundings.home = Some(folder.path().to_owned());
    let info = Conninfo::parse(conninfo, &surroundings).unwrap();
    let mut warnings = Vec::new();
    let password = info.password(&info.endpoints[0], &mut |warning| warnings.push(warning));
    (password.map(|p| p.expose().to_owned()), warnings)
}

#[test]
fn the_password_file_follows_libpq() {
    let file = "# h:5432:*:*:comment\nshort:line\nh:5432:d:u:first\nh:*:*:*:second\r\n*:*:*:u\\:x:a\\:b\\\\c:rest\nlocalhost:*:*:*:local\n\
                /own:*:*:*:socket\n\\*:*:*:*:star\nback:*:*:*:slash\\";
    for (conninfo, expected) in [
        ("host=h dbname=d user=u", Some("first")),
        ("host=h dbname=e user=u", Some("second")),
        ("host=h port=1", Some("second")),
        ("host=x user=u:x", Some(r"a:b\c")),
        ("host=x", None),
        ("", Some("local")),
        ("host=/tmp", Some("local")),
        ("host=localhost", Some("local")),
        ("host=/own", Some("socket")),
        ("host=/other", None),
        ("host=*", Some("star")),
        ("host=back", Some(r"slash\")),
        ("host=h password=given", Some("given")),
        ("host=h hostaddr=127.0.0.1", Some("second")),
    ] {
        let (password, warnings) = with_file(file, 0o600, conninfo);
        assert_eq!(password.as_deref(), expected, "{conninfo}");
        assert_eq!(warnings, [""; 0], "{conninfo}");
    }
}

#[test]
fn a_password_file_that_others_may_read_is_not_used() {
    for mode in [0o640, 0o604, 0o620, 0o666] {
        let (password, warnings) = with_file("*:*:*:*:secret", mode, "host=h");
        assert_eq!(password, None);
        assert!(warnings.len() == 1 && warnings[0].contains("chmod 0600"), "{warnings:?}");
        assert!(!warnings[0].contains("secret"));
    }
    assert_eq!(with_file("*:*:*:*:secret", 0o400, "host=h").0.as_deref(), Some("secret"));
    let info = parse("host=h passfile=/").unwrap();
    let mut warnings = 0;
    assert_eq!(info.password(&info.endpoints[0], &mut |_| warnings += 1), None);
    assert_eq!(warnings, 1);
    let info = parse("host=h passfile=/nowhere/at/all").unwrap();
    assert_eq!(info.password(&info.endpoints[0], &mut |warning| panic!("{warning}")), None);
}

#[test]
fn passwords_are_shown_nowhere() {
    let info = parse("host=h password=s3cret").unwrap();
    assert!(!format!("{info:?} {info}").contains("s3cret"));
    for text in [
        "password=my s3cret",
        "password='s3cret",
        "host=h password=s3cret port=x",
        "postgresql://u:s3cret%zz@h",
        "postgresql://u:a/s3cret?b",
    ] {
        let error = parse(text).expect_err(text);
        let shown = format!("{error} {error:?} {:?}", error.cure());
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
        let _ = parse(&text);
        let _ = parse(&format!("postgresql://{text}"));
    }

    #[test]
    fn quoted_words_come_back(password in "\\PC{1,20}", dbname in "\\PC{1,20}") {
        let quote = |text: &str| format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"));
        let info = parse(&format!("dbname={} password={} host=h", quote(&dbname), quote(&password))).unwrap();
        prop_assert_eq!(&info.dbname, &dbname);
        prop_assert_eq!(info.given_password.as_ref().map(Password::expose), Some(password.as_str()));
    }

    #[test]
    fn encoded_urls_come_back(password in "\\PC{1,20}", dbname in "\\PC{1,20}") {
        let encode = |text: &str| text.bytes().map(|b| format!("%{b:02X}")).collect::<String>();
        let info = parse(&format!("postgresql://u:{}@h/{}", encode(&password), encode(&dbname))).unwrap();
        prop_assert_eq!(&info.dbname, &dbname);
        prop_assert_eq!(info.given_password.as_ref().map(Password::expose), Some(password.as_str()));
    }
}
