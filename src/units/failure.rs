//! What kind of failure an error is, and what to do about it: every layer's error type answers both.

/// The classes of failure that users and scripts tell apart (`"class"` in JSON).
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Wrong arguments or configuration: exit 2.
    Usage,
    /// What was asked for is proven not to be there: exit 4.
    Absent,
    /// It could be done and must not be: a safety rule stands against it.
    Refused,
    /// The store, server or host can't be reached or does not answer (now).
    Unreachable,
    /// No right to do it: permissions, keys, roles.
    Denied,
    /// Bytes are not what they have to be.
    Corrupt,
    /// Something else is there or happening that excludes it.
    Conflict,
    /// Anything else.
    Failed,
}

/// An error that knows its class and, where it was understood, the cure.
pub trait Explain: std::error::Error {
    /// The class of failure.
    fn class(&self) -> Class;

    /// One line: what the user can do. `None` where nothing better than the cause can be said.
    fn cure(&self) -> Option<String> {
        None
    }
}

/// An error and its causes in one line; a cause that the text ends with already isn't said again.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

/// The class of an I/O error of this host.
pub fn class_of_io(error: &std::io::Error) -> Class {
    use std::io::ErrorKind as K;
    match error.kind() {
        K::NotFound => Class::Absent,
        K::PermissionDenied | K::ReadOnlyFilesystem => Class::Denied,
        K::TimedOut | K::ConnectionRefused | K::ConnectionReset | K::HostUnreachable | K::NetworkUnreachable => Class::Unreachable,
        _ => Class::Failed,
    }
}

/// What can be done about an I/O error of this host, where that is known.
pub fn cure_of_io(error: &std::io::Error) -> Option<String> {
    use std::io::ErrorKind as K;
    // "Too many open files", of this process (EMFILE) or of all (ENFILE), has no kind.
    if matches!(error.raw_os_error(), Some(nix::libc::EMFILE | nix::libc::ENFILE)) {
        return Some("allow more open files (ulimit -n)".into());
    }
    match error.kind() {
        K::StorageFull | K::QuotaExceeded => Some("make room on that disk, and run it again".into()),
        K::ReadOnlyFilesystem => Some("is that disk mounted read-only? If it was not meant, look for errors in the system's log".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_disk_lacks_has_a_cure() {
        let cure = |errno| cure_of_io(&std::io::Error::from_raw_os_error(errno)).unwrap_or_default();
        assert!(cure(nix::libc::ENOSPC).contains("make room") && cure(nix::libc::EDQUOT).contains("make room"));
        assert!(cure(nix::libc::EROFS).contains("read-only"));
        assert!(cure(nix::libc::EMFILE).contains("ulimit -n") && cure(nix::libc::ENFILE).contains("ulimit -n"));
        assert_eq!(cure(nix::libc::ENOENT), "");
    }
}
