//! Any layer's error, on its way to the exit; and what the command line itself finds wrong.

use super::output::error::{Described, describe};
use crate::units::{Class, Explain};

/// An error of any layer.
pub(super) struct Failure(Box<dyn Explain>);

impl Failure {
    /// Taken apart for the user.
    pub(super) fn describe(&self) -> Described {
        describe(self.0.as_ref())
    }

    /// Wrong arguments.
    pub(super) fn usage(what: impl Into<String>, cure: impl Into<String>) -> Self {
        Said { class: Class::Usage, what: what.into(), cure: cure.into() }.into()
    }

    /// It could be done and must not be.
    pub(super) fn refused(what: impl Into<String>, cure: impl Into<String>) -> Self {
        Said { class: Class::Refused, what: what.into(), cure: cure.into() }.into()
    }

    /// A file of the user's can't be read or written.
    pub(super) fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        FileFailure { what: what.into(), source }.into()
    }
}

impl<E: Explain + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure(Box::new(error))
    }
}

/// What the command line says of its own.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct Said {
    class: Class,
    what: String,
    cure: String,
}

impl Explain for Said {
    fn class(&self) -> Class {
        self.class
    }

    fn cure(&self) -> Option<String> {
        Some(self.cure.clone())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct FileFailure {
    what: String,
    source: std::io::Error,
}

impl Explain for FileFailure {
    fn class(&self) -> Class {
        match crate::units::class_of_io(&self.source) {
            // "Not found" is an answer about snapshots.
            Class::Absent => Class::Failed,
            class => class,
        }
    }

    fn cure(&self) -> Option<String> {
        crate::units::cure_of_io(&self.source)
    }
}
