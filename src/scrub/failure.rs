//! What is damage, and goes on; and what ends a verify, because it says nothing about what is stored.

use crate::repo::RepoError;
use crate::store::StoreError;
use crate::units::with_causes;

/// Why nothing can be said: this host can't, the log can't be read at all, the store failed.
pub use crate::host::RepositoryError as ScrubError;

/// An object, and what is wrong with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Damage {
    pub object: String,
    pub problem: String,
}

impl Damage {
    pub fn new(object: impl Into<String>, problem: impl Into<String>) -> Self {
        Damage { object: object.into(), problem: problem.into() }
    }
}

/// The damage that an error tells of. `object` is what was read; the error may know better.
///
/// # Errors
/// The error itself, if it says nothing about what is stored: the store can't be reached, we may not read it, this host
/// lacks something.
pub(super) fn damage(error: RepoError, object: &str) -> Result<Damage, RepoError> {
    match &error {
        RepoError::Store(StoreError::Absent { name, .. }) => Ok(Damage::new(name.as_str(), "it is not there")),
        RepoError::Store(e @ (StoreError::Short { name, .. } | StoreError::TooLarge { name, .. })) => {
            Ok(Damage::new(name.as_str(), e.to_string()))
        }
        // A disk that can't read a sector: the next one may be readable.
        RepoError::Store(StoreError::NotAFile { .. } | StoreError::Io { .. }) => Ok(Damage::new(object, with_causes(&error))),
        RepoError::Crypt { source: crate::crypt::CryptError::System(_), .. } => Err(error),
        RepoError::Codec { source: crate::codec::CodecError::NoMemory, .. } => Err(error),
        RepoError::Crypt { object: named, .. } | RepoError::Codec { object: named, .. } | RepoError::Corrupt { object: named, .. } => {
            // Nodes and the like are called so where their pack isn't known.
            let object = if named.contains('/') { named } else { object };
            let problem = match &error {
                RepoError::Corrupt { why, .. } if named == object => why.clone(),
                RepoError::Crypt { source, .. } => source.to_string(),
                RepoError::Codec { source, .. } => source.to_string(),
                _ => with_causes(&error),
            };
            Ok(Damage::new(object, problem))
        }
        RepoError::UnknownPack { .. } => Ok(Damage::new(object, with_causes(&error))),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ObjectName;
    use crate::units::{Cancelled, Class, Explain};
    use std::io;

    #[test]
    fn damage_is_told_from_a_store_that_is_away() {
        let name: ObjectName = "pack/a/b".parse().unwrap();
        let io = |kind| io::Error::from(kind);
        let what = "reading it".to_owned();
        let gone = RepoError::Store(StoreError::Absent { store: "x".into(), name: name.clone() });
        assert_eq!(damage(gone, "y").unwrap(), Damage::new("pack/a/b", "it is not there"));
        let sector = RepoError::Store(StoreError::Io { what: what.clone(), source: io(io::ErrorKind::Other) });
        assert_eq!(damage(sector, "pack/a/b").unwrap().object, "pack/a/b");
        let node = RepoError::Corrupt { object: "a structure node".into(), why: "too short".into() };
        assert_eq!(damage(node, "pack/a/b").unwrap(), Damage::new("pack/a/b", "a structure node is damaged: too short"));
        assert_eq!(damage(RepoError::corrupt(&name, "bad"), "y").unwrap(), Damage::new("pack/a/b", "bad"));
        let away = RepoError::Store(StoreError::Unreachable { what: what.clone(), source: io(io::ErrorKind::TimedOut) });
        assert_eq!(damage(away, "y").unwrap_err().class(), Class::Unreachable);
        let denied = RepoError::Store(StoreError::Denied { what, source: io(io::ErrorKind::PermissionDenied) });
        assert_eq!(damage(denied, "y").unwrap_err().class(), Class::Denied);
        assert!(damage(Cancelled.into(), "y").is_err());
    }
}
