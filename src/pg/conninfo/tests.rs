use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

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
        ("service=x", |e| *e == E::NotSupported { keyword: "service" }),
        ("replication=true", |e| *e == E::NotSupported { keyword: "replication" }),
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
fn demands_for_encryption_are_refused_over_tcp_only() {
    for text in [
        "host=h sslmode=require",
        "host=h sslmode=verify-full",
        "host=h sslrootcert=system",
        "hostaddr=127.0.0.1 channel_binding=require",
        "host=/s,h sslmode=verify-ca",
        "host=h gssencmode=require",
        "host=h sslnegotiation=direct",
        "postgresql://h/?ssl=true",
    ] {
        let error = parse(text).expect_err(text);
        assert!(matches!(error, ConninfoError::TlsDemanded { .. }), "{text}: {error:?}");
        assert_eq!(error.class(), Class::Refused);
        assert!(error.to_string().starts_with("TLS is not supported yet"));
    }
    for text in ["host=/s sslmode=require", "host=h sslmode=prefer", "host=h sslmode=disable sslcert=x", "host=h sslrootcert=/x"] {
        assert!(parse(text).is_ok(), "{text}");
    }
    assert!(Conninfo::parse("host=h", &around(&[("PGSSLMODE", "require")])).is_err());
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
