//! Whose snapshots are meant where the user names no cluster.

use std::collections::BTreeSet;

use super::context::Context;
use super::failure::Failure;
use crate::host::access::Opened;
use crate::look::SnapshotName;
use crate::look::{self, Listed};
use crate::repo::log::{ClusterId, Fold, LogView};
use crate::store::{ObjectName, StoreError};
use crate::units::ids::hex;
use crate::units::{Class, Explain};

/// The snapshot that a name means: of the chosen cluster, else of the configured one if the repository has it, else of
/// the only one that the repository has. An id needs no cluster.
///
/// Where the log is damaged, what isn't found may be what was lost: then that is the error.
pub(super) fn find<'a>(context: &Context, view: &'a LogView, name: &SnapshotName) -> Result<Listed<'a>, Failure> {
    let cluster = match name {
        SnapshotName::Latest(_) => Some(one(context, &view.fold)?),
        SnapshotName::Id(_) => context.settings.chosen_cluster(),
    };
    let all = look::snapshots(&view.fold, cluster.as_deref());
    look::resolve(&all, name, cluster.as_deref()).map_err(|e| match (e.class(), view.doubt()) {
        (Class::Absent, Some(doubt)) => doubt.into(),
        _ if all.is_empty() => look::NameError::none_of(&view.fold, cluster.clone()).into(),
        _ => e.into(),
    })
}

/// The name of the one cluster that is meant.
pub(super) fn one(context: &Context, fold: &Fold) -> Result<String, Failure> {
    if let Some(name) = context.settings.chosen_cluster() {
        return Ok(name);
    }
    let known = look::clusters(fold);
    let configured = context.cluster_if_one()?.map(|c| c.name);
    match (configured, known.iter().next(), known.len()) {
        (Some(name), ..) if known.contains(name.as_str()) => Ok(name),
        (_, Some(only), 1) => Ok((*only).to_owned()),
        (Some(name), None, _) => Ok(name),
        // Several are configured, and the repository has none yet: the configuration's names are those to choose from.
        (None, None, _) => Ok(context.settings.cluster(None)?.name),
        _ => {
            let names: Vec<&str> = known.into_iter().collect();
            Err(Failure::usage(
                "the repository holds several clusters, and none is chosen",
                format!("choose with --cluster: {}", names.join(", ")),
            ))
        }
    }
}

/// The cluster whose archive is meant, with the system identifier of its newest backup; before the first, the only one
/// of which there is WAL.
pub(super) fn one_with_wal(context: &Context, opened: &Opened) -> Result<ClusterId, Failure> {
    let fold = opened.view().fold.clone();
    let name = one(context, &fold)?;
    let newest = fold.clusters.get(&name).map(|begin| begin.system_identifier);
    let system_identifier = match newest {
        Some(known) => known,
        None => only_identifier(opened, &name)?.ok_or_else(|| unknown(&name))?,
    };
    Ok(ClusterId { name, system_identifier })
}

/// Of a cluster that the repository doesn't know nothing is absent: its name may be misspelt.
pub(super) fn unknown(name: &str) -> Failure {
    Failure::refused(
        format!("the repository holds nothing of cluster {name}"),
        "check --cluster; `pgcairn list` shows which clusters have snapshots",
    )
}

/// The system identifier under which a cluster has WAL, where it is only one.
pub(super) fn only_identifier(opened: &Opened, name: &str) -> Result<Option<u64>, Failure> {
    let root = ObjectName::new(format!("wal/{}", hex(&opened.sealing.cluster_key(name)))).map_err(StoreError::from)?;
    let mut found = BTreeSet::new();
    opened.backend.list(Some(&root), &mut |listed| {
        let below = listed.name.as_str().strip_prefix(root.as_str()).and_then(|rest| rest.split('/').nth(1));
        found.extend(below.and_then(|number| number.parse::<u64>().ok()));
        Ok(())
    })?;
    match (found.first(), found.len()) {
        (Some(only), 1) => Ok(Some(*only)),
        (None, _) => Ok(None),
        _ => Err(Failure::refused(
            format!("there is WAL of several system identifiers under the name {name}"),
            "take a backup of the right one, or say --system-identifier",
        )),
    }
}
