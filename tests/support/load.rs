//! Work that goes on while a test does something else.

use std::process::{Child, Stdio};

use super::Server;

/// pgbench in the background; ends when stopped or dropped.
#[derive(Debug)]
pub struct Load {
    child: Child,
}

impl Load {
    /// Runs pgbench (initialised before by [`Server::pgbench_init`]) on the database `postgres` until stopped, with
    /// further arguments such as `-c 4` or `--rate=200`. Returns once its first transactions are committed.
    pub fn start(server: &Server, arguments: &[&str]) -> Load {
        let done = || server.sql("postgres", "select count(*) from pgbench_history").parse::<u64>().expect("a count");
        let before = done();
        let mut command = server.client("pgbench", "postgres");
        command.args(["-n", "-T", "86400"]).args(arguments).stdout(Stdio::null()).stderr(server.log_file());
        let mut load = Load { child: command.spawn().expect("pgbench") };
        super::wait_until("pgbench's first transactions", || {
            if let Ok(Some(status)) = load.child.try_wait() {
                panic!("pgbench ended: {status}\n{}", server.log_tail());
            }
            done() > before
        });
        load
    }

    /// Is it still at work?
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it; its open transactions are rolled back.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
