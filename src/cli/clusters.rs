//! Whose snapshots are meant where the user names no cluster.

use super::context::Context;
use super::failure::Failure;
use crate::look::SnapshotName;
use crate::look::{self, Listed};
use crate::repo::log::Fold;

/// The snapshot that a name means: of the chosen cluster, else of the configured one if the repository has it, else of
/// the only one that the repository has. An id needs no cluster.
pub(super) fn find<'a>(context: &Context, fold: &'a Fold, name: &SnapshotName) -> Result<Listed<'a>, Failure> {
    let cluster = match name {
        SnapshotName::Latest(_) => Some(one(context, fold)?),
        SnapshotName::Id(_) => context.settings.chosen_cluster(),
    };
    let all = look::snapshots(fold, cluster.as_deref());
    Ok(look::resolve(&all, name, cluster.as_deref())?)
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
        _ => {
            let names: Vec<&str> = known.into_iter().collect();
            Err(Failure::usage(
                "the repository holds several clusters, and none is chosen",
                format!("choose with --cluster: {}", names.join(", ")),
            ))
        }
    }
}
