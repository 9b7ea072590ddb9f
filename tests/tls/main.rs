//! Sessions with servers that speak TLS: which certificates are believed, which of ours are shown, how one logs in.

#[path = "../support/mod.rs"]
mod support;

mod backups;
mod clients;
mod hosts;
mod login;
mod modes;

use std::path::Path;

use pgcairn::pg::connection::{ConnectOptions, Connection, PgConnError};
use pgcairn::pg::conninfo::{Conninfo, Surroundings};
use pgcairn::units::Explain;
use support::certificates::{Pair, Wish};
use support::{Postgres, Server, Setup, TestDir};

/// A server with TLS, an authority, and a home for its clients.
struct Secured {
    server: Server,
    ca: Pair,
    home: TestDir,
}

impl Secured {
    /// With a certificate of `localhost` by the authority.
    fn start(pg: &Postgres, hba: &str) -> Secured {
        let ca = Wish::ca("the authority").self_signed();
        let pair = Wish::new("x").dns("localhost").ip("127.0.0.1").signed_by(&ca);
        Secured::with(pg, ca, &pair.pem(), &pair.key.serialize_pem(), hba, |setup| setup)
    }

    fn with(pg: &Postgres, ca: Pair, certificate: &str, key: &str, hba: &str, more: impl Fn(Setup) -> Setup) -> Secured {
        let setup = more(Server::build(pg).tcp().conf("ssl", "on").conf("ssl_ca_file", "ca.crt").conf("log_connections", "on"));
        let mut server = setup.create();
        let data = server.data().to_owned();
        write(&data.join("server.crt"), certificate, 0o600);
        write(&data.join("server.key"), key, 0o600);
        write(&data.join("ca.crt"), &ca.pem(), 0o600);
        write(&data.join("pg_hba.conf"), &format!("local all all trust\n{hba}\n"), 0o600);
        server.start();
        Secured { server, ca, home: TestDir::new() }
    }

    /// The server's words, by TCP; only the home's files and what `words` says count.
    fn open(&self, words: &str) -> Result<Connection, PgConnError> {
        let text = format!("host=localhost hostaddr=127.0.0.1 port={} user=postgres {words}", self.server.port());
        self.open_as_said(&text)
    }

    fn open_as_said(&self, text: &str) -> Result<Connection, PgConnError> {
        let around = Surroundings { home: Some(self.home.path().to_owned()), ..Surroundings::default() };
        Connection::open(&Conninfo::parse(text, &around).unwrap_or_else(|e| panic!("{text}: {e}")), &ConnectOptions::default())
    }

    /// `tls`, `plain`, or the error with its cure.
    fn outcome(&self, words: &str) -> String {
        match self.open(words) {
            Ok(connection) => kind(connection).to_owned(),
            Err(error) => format!("{error} -- {}", error.cure().unwrap_or_default()),
        }
    }

    #[track_caller]
    fn says(&self, words: &str, expected: &str) {
        let outcome = self.outcome(words);
        assert!(outcome.contains(expected), "{words}: {outcome:?} instead of {expected:?}\n{}", self.server.log_tail());
        assert!(matches!(expected, "tls" | "plain") == matches!(outcome.as_str(), "tls" | "plain"), "{words}: {outcome:?}");
    }

    /// Writes a file into the home; its path.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.home.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        write(&path, text, 0o600);
        path.to_str().unwrap().to_owned()
    }
}

fn kind(mut connection: Connection) -> &'static str {
    let rows = connection.query("asking", "select ssl from pg_stat_ssl where pid = pg_backend_pid()").unwrap();
    if rows[0].get::<_, bool>(0) { "tls" } else { "plain" }
}

fn write(path: &Path, text: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
