//! What is given arbitrary bytes: each target reads them as one kind of thing that a repository, a server, a user or this
//! host's own files bring, behind the encryption too, since a stolen writer's keys seal anything. A target must neither
//! panic nor take long nor much memory, and checks what must hold of anything that was read: for the most part that it is
//! written again as it was.
//!
//! Compiled for tests and for `scripts/fuzz` (feature `fuzzing`). The inputs worth keeping lie in `fuzz/corpus/<target>`;
//! `cargo test` runs through them all.
//!
//! - `postgres.rs`: files of a data directory, WAL
//! - `texts.rs`: what people write: times, sizes, names, connection strings, configuration
//! - `objects.rs`: objects of a repository, as they lie there and opened
//! - `sealed.rs`: packs, WAL objects and logs made of the bytes by somebody who holds keys
//! - `tree.rs`: snapshots made likewise
//! - `own.rs`: files of this host

mod objects;
mod own;
mod postgres;
mod sealed;
mod texts;
mod tree;

/// A target, under its name.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("control_file", postgres::control_file),
    ("page", postgres::page),
    ("filenode_map", postgres::filenode_map),
    ("backup_label", postgres::backup_label),
    ("tablespace_map", postgres::tablespace_map),
    ("history", postgres::history),
    ("auto_conf", postgres::auto_conf),
    ("file_names", postgres::file_names),
    ("wal_bytes", postgres::wal_bytes),
    ("wal_records", postgres::wal_records),
    ("units", texts::units),
    ("names", texts::names),
    ("conninfo", texts::conninfo),
    ("configuration", texts::configuration),
    ("format", objects::format),
    ("slot", objects::slot),
    ("frame", objects::frame),
    ("patch", objects::patch),
    ("pack_table", objects::pack_table),
    ("node", objects::node),
    ("attributes", objects::attributes),
    ("meta", objects::meta),
    ("log_entry", objects::log_entry),
    ("log_body", objects::log_body),
    ("log_list", objects::log_list),
    ("wal_facts", objects::wal_facts),
    ("pack", sealed::pack),
    ("pack_tail", sealed::pack_tail),
    ("wal_object", sealed::wal_object),
    ("wal_meta", sealed::wal_meta),
    ("log", sealed::log),
    ("tree", tree::tree),
    ("state", own::state),
    ("index", own::index),
    ("page_hashes", own::page_hashes),
    ("kept_log", own::kept_log),
];

/// Bytes taken off the front, as many as there are.
fn take<'a>(data: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (front, rest) = data.split_at(len.min(data.len()));
    *data = rest;
    front
}

/// A number taken off the front, little-endian; zero where nothing is left.
fn number(data: &mut &[u8], bytes: usize) -> u64 {
    take(data, bytes).iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::TARGETS;

    #[test]
    fn kept_inputs_do_no_harm() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let mut inputs = 0;
        for (name, target) in TARGETS {
            target(b"");
            for entry in std::fs::read_dir(corpus.join(name)).unwrap_or_else(|e| panic!("fuzz/corpus/{name}: {e}")) {
                let path = entry.unwrap().path();
                let bytes = std::fs::read(&path).unwrap();
                if std::panic::catch_unwind(|| target(&bytes)).is_err() {
                    panic!("{} does harm", path.display());
                }
                inputs += 1;
            }
        }
        assert!(inputs > TARGETS.len() * 3, "only {inputs} inputs");
        for folder in std::fs::read_dir(&corpus).unwrap() {
            let folder = folder.unwrap().file_name();
            assert!(TARGETS.iter().any(|(name, _)| folder == *name), "fuzz/corpus/{folder:?} has no target");
        }
    }
}
