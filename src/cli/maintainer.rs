//! Whose key signs what only a maintainer may do: this host's, if it has the right, else the owner's out of a slot.

use super::context::{Context, Here};
use super::failure::Failure;
use crate::crypt::sign::SigningKey;
use crate::host::HostError;
use crate::host::access::{self, Opened};
use crate::repo::log::Role;

/// A key that may.
pub(super) enum Maintainer<'a> {
    /// This host's own.
    Host(&'a SigningKey),
    /// The owner's.
    Owner(Box<SigningKey>),
}

impl<'a> Maintainer<'a> {
    /// For these clusters.
    ///
    /// # Errors
    /// If this host is no maintainer, and no slot with the owner's key can be opened.
    pub fn of(context: &Context, here: &Here, opened: &'a Opened, clusters: &[&str]) -> Result<Self, Failure> {
        let may = |key: &SigningKey| {
            let view = opened.view();
            let known = view.fold.keys.get(&key.id());
            known.is_some_and(|known| known.may(Role::Maintainer, None) && clusters.iter().all(|c| known.may(Role::Maintainer, Some(c))))
        };
        if let Some(key) = opened.signer.as_ref().filter(|key| may(key)) {
            return Ok(Maintainer::Host(key));
        }
        match access::owner_key(&here.place(&context.reporter), opened) {
            Ok(Some(owner)) => Ok(Maintainer::Owner(Box::new(owner))),
            Ok(None) => Err(NoMaintainer.into()),
            Err(HostError::NoKey { .. }) => Err(NoMaintainer.into()),
            Err(e) => Err(e.into()),
        }
    }

    /// The key itself.
    pub fn key(&self) -> &SigningKey {
        match self {
            Maintainer::Host(key) => key,
            Maintainer::Owner(key) => key,
        }
    }
}

/// The right is missing.
#[derive(Debug, thiserror::Error)]
#[error("this host's key is no maintainer's: it may neither forget nor hold")]
struct NoMaintainer;

impl crate::units::Explain for NoMaintainer {
    fn class(&self) -> crate::units::Class {
        crate::units::Class::Denied
    }

    fn cure(&self) -> Option<String> {
        Some(
            "run it on a maintainer's host, or give the owner's slot: --passphrase-file FILE (or PGCAIRN_PASSPHRASE), or --key-file FILE"
                .into(),
        )
    }
}
