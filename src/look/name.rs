//! Which snapshot a user means: `latest`, `latest~2`, an id, or the beginning of one.

use std::convert::Infallible;
use std::str::FromStr;

use super::snapshots::Listed;
use crate::repo::log::Fold;
use crate::units::{Class, Explain, counted};

/// How a user names a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SnapshotName {
    /// The newest but so many: `latest` is 0.
    Latest(u64),
    /// An id, or the beginning of one.
    Id(String),
}

impl FromStr for SnapshotName {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let back = match text.strip_prefix("latest") {
            Some("") => Some(0),
            Some(rest) => rest.strip_prefix('~').filter(|n| n.bytes().all(|b| b.is_ascii_digit())).and_then(|n| n.parse().ok()),
            None => None,
        };
        Ok(back.map_or_else(|| SnapshotName::Id(text.to_owned()), SnapshotName::Latest))
    }
}

/// Why a name is no snapshot's.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// There is none at all.
    #[error("there is no snapshot yet{}", of(cluster))]
    None {
        /// The cluster asked for.
        cluster: Option<String>,
        /// Clusters of which there are snapshots.
        others: Vec<String>,
    },
    /// No id begins so.
    #[error("there is no snapshot {name:?}{}", of(cluster))]
    Absent {
        /// As given.
        name: String,
        /// The cluster asked for.
        cluster: Option<String>,
    },
    /// `latest~N` goes too far back.
    #[error("there {} only {}{}: the oldest is latest~{}", if *count == 1 { "is" } else { "are" }, counted(*count, "snapshot", "snapshots"), of(cluster), count.saturating_sub(1))]
    TooFarBack {
        /// How many there are.
        count: usize,
        /// The cluster asked for.
        cluster: Option<String>,
    },
    /// Several ids begin so.
    #[error("{name:?} is the beginning of {} snapshots", candidates.len())]
    Ambiguous {
        /// As given.
        name: String,
        /// Their ids.
        candidates: Vec<String>,
    },
}

impl NameError {
    /// There is no snapshot of this cluster, or none at all: the repository may have others, whose names are what is
    /// needed to find a slip in this one.
    pub fn none_of(fold: &Fold, cluster: Option<String>) -> Self {
        NameError::None { cluster, others: super::clusters(fold).into_iter().map(str::to_owned).collect() }
    }
}

fn of(cluster: &Option<String>) -> String {
    cluster.as_ref().map(|name| format!(" of cluster {name}")).unwrap_or_default()
}

impl Explain for NameError {
    fn class(&self) -> Class {
        match self {
            NameError::Ambiguous { .. } => Class::Usage,
            _ => Class::Absent,
        }
    }

    fn cure(&self) -> Option<String> {
        Some(match self {
            NameError::Ambiguous { candidates, .. } => {
                let shown: Vec<&str> = candidates.iter().take(5).map(String::as_str).collect();
                format!("give more of the id: {}{}", shown.join(", "), if candidates.len() > 5 { ", ..." } else { "" })
            }
            NameError::None { others, .. } if !others.is_empty() => {
                let shown: Vec<&str> = others.iter().take(10).map(String::as_str).collect();
                format!("choose with --cluster: {}{}", shown.join(", "), if others.len() > 10 { ", ..." } else { "" })
            }
            NameError::None { .. } => "is it the right repository? The first is taken by `pgcairn backup`".into(),
            _ => "`pgcairn list` shows those there are".into(),
        })
    }
}

/// Finds the snapshot among `all`, which are in the order of the log; `cluster` is whose they are, for messages.
pub fn resolve<'a>(all: &[Listed<'a>], name: &SnapshotName, cluster: Option<&str>) -> Result<Listed<'a>, NameError> {
    let cluster = || cluster.map(str::to_owned);
    if all.is_empty() {
        return Err(NameError::None { cluster: cluster(), others: Vec::new() });
    }
    let id = match name {
        SnapshotName::Latest(back) => {
            let back = usize::try_from(*back).unwrap_or(usize::MAX);
            return all.iter().rev().nth(back).copied().ok_or(NameError::TooFarBack { count: all.len(), cluster: cluster() });
        }
        SnapshotName::Id(id) => id,
    };
    if let Some(exact) = all.iter().find(|s| s.id() == id) {
        return Ok(*exact);
    }
    let candidates: Vec<_> = all.iter().filter(|s| !id.is_empty() && s.id().starts_with(id.as_str())).collect();
    match candidates.as_slice() {
        [one] => Ok(**one),
        [] => Err(NameError::Absent { name: id.chars().take(80).collect(), cluster: cluster() }),
        many => Err(NameError::Ambiguous { name: id.clone(), candidates: many.iter().map(|s| s.id().to_owned()).collect() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::look::snapshots;
    use crate::look::testing::{fold_of, snapshot};

    #[test]
    fn names_are_found() {
        let fold = fold_of([
            (3, snapshot("20261124-133000-7f3a", "main")),
            (4, snapshot("20261125-133000-0001", "main")),
            (6, snapshot("20261125-133000-00012", "main")),
        ]);
        let all = snapshots(&fold, None);
        let find = |name: &str| resolve(&all, &name.parse().unwrap(), None);
        for (name, number) in [
            ("latest", 6),
            ("latest~0", 6),
            ("latest~2", 3),
            ("20261124", 3),
            ("20261124-133000-7f3a", 3),
            ("20261125-133000-0001", 4), // exactly one, though another one begins so
            ("20261125-133000-00012", 6),
        ] {
            assert_eq!(find(name).unwrap().number, number, "{name}");
        }
        assert!(matches!(find("20261125"), Err(NameError::Ambiguous { candidates, .. }) if candidates.len() == 2));
        assert!(matches!(find("latest~3"), Err(NameError::TooFarBack { count: 3, .. })));
        for absent in ["", "x", "7f3a", "latest~", "latest~-1", "latest~x", "latest2"] {
            let error = find(absent).unwrap_err();
            assert!(matches!(error, NameError::Absent { .. }) && error.class() == Class::Absent, "{absent}");
        }
        let none = resolve(&[], &SnapshotName::Latest(0), Some("shop")).unwrap_err();
        assert_eq!(none.to_string(), "there is no snapshot yet of cluster shop");
        assert!(none.cure().unwrap().contains("is it the right repository?"));
        let slip = NameError::none_of(&fold, Some("mian".into()));
        assert_eq!(slip.cure().unwrap(), "choose with --cluster: main", "nobody who looks for a snapshot is told to take one");
    }
}
