//! What can go wrong with a frame.

use super::FrameKind;
use crate::units::{ByteSize, Class, Explain};

/// A frame can't be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// No program of this version reads frames of this kind.
    #[error("frames of kind {0} are unknown to this version of pgcairn")]
    UnknownKind(u8),
    /// The plain form is longer than a frame's can be.
    #[error("{len} are more than the {max} that fit into a frame", len = ByteSize(*.len as u64), max = ByteSize(*.max as u64))]
    TooLong {
        /// Its length.
        len: usize,
        /// What is allowed.
        max: usize,
    },
    /// The frame is not what its kind demands.
    #[error("a frame is damaged ({kind:?}): {what}")]
    Damaged {
        /// What it should be.
        kind: FrameKind,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A patch was to be read without what it patches.
    #[error("a patch was to be read without its reference")]
    NoReference,
    /// A patch against pages that can't be: sizes that are no page sizes, numbers out of order.
    #[error("no patch can be made: {0}")]
    NoPatch(&'static str),
    /// zstd couldn't compress.
    #[error("zstd: {0}")]
    Compress(&'static str),
    /// No memory for zstd's tables.
    #[error("no memory for zstd")]
    NoMemory,
}

impl Explain for CodecError {
    fn class(&self) -> Class {
        match self {
            CodecError::Damaged { .. } => Class::Corrupt,
            // Whether a length comes from outside is known to the caller; here it is what can't be right.
            CodecError::TooLong { .. } => Class::Corrupt,
            CodecError::UnknownKind(_)
            | CodecError::NoReference
            | CodecError::NoPatch(_)
            | CodecError::Compress(_)
            | CodecError::NoMemory => Class::Failed,
        }
    }

    fn cure(&self) -> Option<String> {
        match self {
            CodecError::UnknownKind(_) => Some("a newer version wrote it: use that, or one still newer".to_owned()),
            _ => None,
        }
    }
}
