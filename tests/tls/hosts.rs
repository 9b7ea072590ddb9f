//! Several hosts, services, and what is said when there is no way.

use std::net::TcpListener;

use pgcairn::pg::connection::{ConnectOptions, Connection, PgConnError};
use pgcairn::pg::conninfo::{Conninfo, Surroundings};
use pgcairn::units::{Class, Explain};

use crate::support::{self, Postgres, Server, TestDir, copy_tree};
use crate::{Secured, on_majors, write};

fn port_of(connection: &mut Connection) -> String {
    connection.setting("port").unwrap().unwrap()
}

fn the_right_one_of_several_is_found(pg: &Postgres) {
    let mut primary = Server::build(pg).tcp().start();
    primary.sql("postgres", "create role saver login password 'sesame'");
    primary.stop(support::Stop::Fast);
    let folder = TestDir::new();
    let copy = folder.join("standby");
    copy_tree(primary.data(), &copy);
    write(&copy.join("standby.signal"), "", 0o600);
    primary.start();
    let mut standby = Server::build(pg).tcp().over(&copy);
    standby.start();
    let (p, s) = (primary.port().to_string(), standby.port().to_string());

    // A port on which nobody listens, and one on which nobody speaks.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap().port();
    let open = |hosts: usize, ports: &str, words: &str| {
        let host = vec!["127.0.0.1"; hosts].join(",");
        let text = format!("host={host} port={ports} user=postgres connect_timeout=2 {words}");
        Connection::open(&Conninfo::parse(&text, &Surroundings::default()).unwrap(), &ConnectOptions::default())
    };
    for (ports, words, found) in [
        (format!("1,{silent},{p}"), "", &p),
        (format!("1,{s},{p}"), "target_session_attrs=any", &s),
        (format!("{s},{p},1"), "target_session_attrs=primary", &p),
        (format!("{s},{p},1"), "target_session_attrs=read-write", &p),
        (format!("{p},1,{s}"), "target_session_attrs=standby", &s),
        (format!("{p},{s},1"), "target_session_attrs=read-only", &s),
        (format!("1,{p},{s}"), "target_session_attrs=prefer-standby", &s),
        (format!("1,{p},{p}"), "target_session_attrs=prefer-standby", &p),
        (format!("{s},{p},1"), "target_session_attrs=primary load_balance_hosts=random", &p),
    ] {
        let mut connection = open(3, &ports, words).unwrap_or_else(|error| panic!("{ports} {words}: {error}"));
        assert_eq!(port_of(&mut connection), *found, "{ports} {words}");
    }
    // By chance each is found in the end.
    let mut found = std::collections::HashSet::new();
    for _ in 0..60 {
        found.insert(port_of(&mut open(2, &format!("{p},{s}"), "load_balance_hosts=random").unwrap()));
    }
    assert_eq!(found.len(), 2, "{found:?}");

    // All that was tried is told.
    let error = open(3, &format!("1,{s},2"), "target_session_attrs=primary").unwrap_err();
    let said = error.to_string();
    assert_eq!(error.class(), Class::Unreachable, "{said}");
    for words in [
        "no PostgreSQL server answers at 127.0.0.1:1: Connection refused",
        &format!("no server at 127.0.0.1:{s} is what target_session_attrs=primary asks for"),
        "127.0.0.1:2: ",
    ] {
        assert!(said.contains(words), "{said}");
    }
    assert!(error.cure().unwrap().contains("target_session_attrs"), "{error:?}");
    // A server that refuses the user ends the search.
    std::fs::write(standby.data().join("pg_hba.conf"), "local all all trust\nhost all all all reject\n").unwrap();
    standby.restart();
    let error = open(2, &format!("{s},{p}"), "").unwrap_err();
    assert!(matches!(error, PgConnError::NotLetIn { .. }), "{error:?}");
}

on_majors!(the_right_one_of_several_is_found: pg15 15, pg18 18);

fn services_and_password_files_lead_there(pg: &Postgres) {
    let tls = Secured::start(pg, "hostssl all saver all scram-sha-256");
    tls.server.sql("postgres", "set password_encryption = 'scram-sha-256'; create role saver login password 'se:same'");
    let port = tls.server.port();
    tls.file(".postgresql/root.crt", &tls.ca.pem());
    tls.file(
        ".pg_service.conf",
        &format!("[here]\nhost=localhost\nhostaddr=127.0.0.1\nport={port}\nuser=saver\ndbname=postgres\nsslmode=verify-full\nchannel_binding=require\n"),
    );
    tls.file(".pgpass", &format!("localhost:{port}:*:saver:se\\:same\n"));
    assert_eq!(crate::kind(tls.open_as_said("service=here").unwrap()), "tls");
    let around = Surroundings {
        home: Some(tls.home.path().to_owned()),
        variables: [("PGSERVICE".to_owned(), "here".into())].into(),
        ..Surroundings::default()
    };
    let mut connection = Connection::open(&Conninfo::parse("", &around).unwrap(), &ConnectOptions::default()).unwrap();
    assert_eq!(connection.setting("application_name").unwrap().as_deref(), Some("pgcairn"));
    let words = "service=here application_name=mine options='-c work_mem=7MB' keepalives_idle=7 keepalives_interval=8 keepalives_count=9 \
                 tcp_user_timeout=12000";
    let mut connection = tls.open_as_said(words).unwrap();
    assert_eq!(connection.setting("application_name").unwrap().as_deref(), Some("mine"));
    assert_eq!(connection.setting("work_mem").unwrap().as_deref(), Some("7MB"));
    // Names are looked up, and all addresses of one are tried: ::1 has no server here.
    let connection = tls.open_as_said(&format!("service=here hostaddr='' host=localhost port={port}")).unwrap();
    assert_eq!(crate::kind(connection), "tls");
}

on_majors!(services_and_password_files_lead_there: pg13 13, pg15 15, pg18 18);

#[test]
fn failures_name_the_place_and_the_cure() {
    let around = Surroundings { user: Some("u".into()), ..Surroundings::default() };
    for (text, said, cure) in [
        ("host=127.0.0.1 port=1", "no PostgreSQL server answers at 127.0.0.1:1: Connection refused", "takes TCP connections"),
        ("host=db hostaddr=127.0.0.1 port=1", "no PostgreSQL server answers at db:1 (127.0.0.1): Connection refused", "firewall"),
        ("host=/nowhere port=7", "no PostgreSQL server answers at /nowhere/.s.PGSQL.7: No such file", "unix_socket_directories"),
        ("host=nowhere.invalid", "at nowhere.invalid:5432: its name can't be resolved: ", "PGHOST"),
    ] {
        let error = Connection::open(&Conninfo::parse(text, &around).unwrap(), &ConnectOptions::default()).unwrap_err();
        assert!(error.to_string().contains(said), "{text}: {error}");
        assert!(error.cure().unwrap().contains(cure), "{text}: {:?}", error.cure());
        assert_eq!(error.class(), Class::Unreachable, "{text}");
    }
    // Something else that listens there.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let speaking = std::thread::spawn(move || {
        use std::io::Write;
        for _ in 0..2 {
            let (mut stream, _) = other.accept().unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        }
    });
    for mode in ["require", "prefer"] {
        let text = format!("host=127.0.0.1 port={port} sslmode={mode}");
        let error = Connection::open(&Conninfo::parse(&text, &around).unwrap(), &ConnectOptions::default()).unwrap_err();
        assert!(error.to_string().contains("what answers there is no PostgreSQL server"), "{error}");
    }
    speaking.join().unwrap();
}
