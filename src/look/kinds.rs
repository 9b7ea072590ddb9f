//! Of what kind a file of a data directory is, for those who ask where the space goes.

use super::tree::{name_of, parent_of};
use crate::pg::layout::{Fork, RelationFile};
use crate::pg::relations::RelationNames;

/// `table`, `index`, `toast`, `sequence`, `matview` where names were recorded, else `main`; `fsm`, `vm`, `init` of
/// whatever relation; `wal` of what lies in the snapshot's own pg_wal; `other`.
pub(super) fn kind_of(path: &[u8], names: &RelationNames) -> &'static str {
    if path.starts_with(b"pg_wal/") {
        return "wal";
    }
    let folder = parent_of(path);
    let of_relations = folder == b"global" || folder.starts_with(b"base/") || folder.starts_with(b"pg_tblspc/");
    match RelationFile::parse(name_of(path)).filter(|_| of_relations) {
        None => "other",
        Some(RelationFile { fork: Fork::Fsm, .. }) => "fsm",
        Some(RelationFile { fork: Fork::Vm, .. }) => "vm",
        Some(RelationFile { fork: Fork::Init, .. }) => "init",
        Some(RelationFile { fork: Fork::Main, .. }) => names.lookup(path).map_or("main", |relation| relation.kind.word()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_kinds() {
        let names = RelationNames::default();
        for (path, kind) in [
            ("base/5/16384", "main"),
            ("base/5/16384.1", "main"),
            ("base/5/16384_fsm", "fsm"),
            ("global/1262_vm", "vm"),
            ("base/5/16384_init", "init"),
            ("pg_tblspc/16390/PG_18_202506291/5/16391", "main"),
            ("base/5/PG_VERSION", "other"),
            ("pg_wal/000000010000000000000001", "wal"),
            ("pg_xact/0000", "other"),
            ("16384", "other"),
            ("postgresql.conf", "other"),
        ] {
            assert_eq!(kind_of(path.as_bytes(), &names), kind, "{path}");
        }
    }
}
