//! Where a repository lies, as users write it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::error::ConfigError;
use crate::store::s3::S3Settings;

/// A repository's place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RepositoryUrl {
    /// A folder of this machine, absolute.
    Local(PathBuf),
    /// A bucket, or a part of one.
    S3 {
        /// Its name.
        bucket: String,
        /// What all names in it begin with; may be empty.
        prefix: String,
        /// The service's URL, if one is set.
        endpoint: Option<String>,
    },
}

impl RepositoryUrl {
    /// Reads a path, `file:///path` or `s3://bucket/prefix`; a relative path counts from `base`.
    pub fn parse(text: &OsStr, base: Option<&Path>) -> Result<Self, ConfigError> {
        let refuse = |problem: &str| ConfigError::UnsupportedUrl { url: text.to_string_lossy().into_owned(), problem: problem.into() };
        let path = match scheme(text) {
            // Nearly a URL: a folder of that name beside the others would be a surprise.
            None if meant_as_url(text) => {
                return Err(refuse("a URL has two slashes after its colon (s3://bucket/prefix); a folder of this name is written ./NAME"));
            }
            None => PathBuf::from(text),
            Some((b"file", rest)) => {
                let rest = rest.strip_prefix(b"localhost").unwrap_or(rest);
                if rest.first() != Some(&b'/') {
                    return Err(refuse("a file URL names no other host: file:///path"));
                }
                let path = percent_decoded(rest).ok_or_else(|| refuse("a `%` is followed by two hex digits, and not by 00"))?;
                PathBuf::from(OsString::from_vec(path))
            }
            Some((b"s3", rest)) => {
                let rest = std::str::from_utf8(rest).map_err(|_| refuse("it is not UTF-8"))?;
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let prefix = prefix.trim_end_matches('/');
                let checked = S3Settings::at(bucket, prefix).map_err(|e| refuse(&e.to_string()))?;
                return Ok(RepositoryUrl::S3 { bucket: checked.bucket, prefix: checked.prefix, endpoint: None });
            }
            Some(_) => return Err(refuse("this kind of URL is not known: a path, file:///path and s3://bucket/prefix are")),
        };
        if path.as_os_str().is_empty() {
            return Err(refuse("a path is expected"));
        }
        Ok(RepositoryUrl::Local(absolute(&path, base)?))
    }

    /// The bytes under which what is remembered of this place is filed: equal for equal places.
    pub fn identity(&self) -> Vec<u8> {
        match self {
            RepositoryUrl::Local(path) => [b"file://", path.as_os_str().as_bytes()].concat(),
            RepositoryUrl::S3 { bucket, prefix, endpoint } => {
                format!("s3://{bucket}/{prefix}?{}", endpoint.as_deref().unwrap_or_default()).into_bytes()
            }
        }
    }

    /// As `--repo` takes it.
    pub fn text(&self) -> OsString {
        match self {
            RepositoryUrl::Local(path) => path.clone().into_os_string(),
            RepositoryUrl::S3 { .. } => self.to_string().into(),
        }
    }

    /// The folder, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            RepositoryUrl::Local(path) => Some(path),
            RepositoryUrl::S3 { .. } => None,
        }
    }

    /// The same place with this service, if it is in a bucket and names none.
    pub(super) fn with_endpoint(self, service: Option<&str>) -> Self {
        match self {
            RepositoryUrl::S3 { bucket, prefix, .. } => RepositoryUrl::S3 { bucket, prefix, endpoint: service.map(str::to_owned) },
            local => local,
        }
    }
}

impl fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RepositoryUrl::Local(path) => path.display().fmt(f),
            RepositoryUrl::S3 { bucket, prefix, .. } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            RepositoryUrl::S3 { bucket, prefix, .. } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// `scheme://rest` split, if it is one (RFC 3986: a letter, then letters, digits, `+`, `-`, `.`).
fn scheme(text: &OsStr) -> Option<(&[u8], &[u8])> {
    let bytes = text.as_bytes();
    let at = bytes.windows(3).position(|w| w == b"://")?;
    let (scheme, rest) = (bytes.get(..at)?, bytes.get(at + 3..)?);
    let fine = scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    fine.then_some((scheme, rest))
}

/// Does it begin as the addresses of this or of other backup tools do (`s3:host/bucket`, `file:/path`, `sftp:host:/path`)?
fn meant_as_url(text: &OsStr) -> bool {
    const SCHEMES: [&[u8]; 11] = [b"s3", b"file", b"http", b"https", b"sftp", b"ssh", b"rest", b"rclone", b"gs", b"azure", b"b2"];
    let scheme = text.as_bytes().split(|b| *b == b':').next().unwrap_or_default();
    scheme.len() < text.len() && SCHEMES.iter().any(|known| known.eq_ignore_ascii_case(scheme))
}

fn percent_decoded(bytes: &[u8]) -> Option<Vec<u8>> {
    let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    while let Some(&b) = rest.next() {
        match b {
            b'%' => {
                let value = digit(rest.next())? * 16 + digit(rest.next())?;
                out.push(u8::try_from(value).ok().filter(|b| *b != 0)?);
            }
            _ => out.push(b),
        }
    }
    Some(out)
}

/// `path` from `base`, without `.` and doubled slashes. `..` stays: what it means depends on links.
pub(super) fn absolute(path: &Path, base: Option<&Path>) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() {
        return Ok(path.components().collect());
    }
    let base = base.ok_or_else(|| ConfigError::WorkingFolder(std::io::ErrorKind::NotFound.into()))?;
    Ok(base.join(path).components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn places_are_read() {
        for (text, path) in [
            ("/srv/repo", "/srv/repo"),
            ("/srv//repo/./", "/srv/repo"),
            ("repo", "/base/repo"),
            ("./a/../b", "/base/a/../b"),
            ("file:///srv/my%20repo", "/srv/my repo"),
            ("file://localhost/srv", "/srv"),
            ("odd:name", "/base/odd:name"),
            ("./s3:/bucket/x", "/base/s3:/bucket/x"),
            ("s3", "/base/s3"),
            ("/s3:/x", "/s3:/x"),
            ("1://x", "/base/1:/x"),
        ] {
            let url = RepositoryUrl::parse(text.as_ref(), Some(Path::new("/base"))).unwrap();
            assert_eq!(url, RepositoryUrl::Local(path.into()), "{text}");
        }
        for (text, says) in [
            ("s3://Bucket/prefix", "3 to 63 characters"),
            ("s3://", "3 to 63 characters"),
            ("s3://bucket//prefix", "parts of letters"),
            ("file://host/srv", "no other host"),
            ("file:///a%0", "hex digits"),
            ("file:///a%00", "hex digits"),
            ("sftp://host/srv", "not known"),
            ("s3:/bucket/prefix", "two slashes"),
            ("s3:bucket/prefix", "two slashes"),
            ("S3:/bucket", "two slashes"),
            ("file:/srv", "two slashes"),
            ("sftp:host:/srv", "two slashes"),
            ("", "a path is expected"),
        ] {
            let error = RepositoryUrl::parse(text.as_ref(), Some(Path::new("/base"))).unwrap_err();
            assert!(matches!(error, ConfigError::UnsupportedUrl { .. }) && error.to_string().contains(says), "{text}: {error}");
        }
        for (text, bucket, prefix, shown) in [
            ("s3://bucket/prefix", "bucket", "prefix", "s3://bucket/prefix"),
            ("s3://bucket/a/b/", "bucket", "a/b", "s3://bucket/a/b"),
            ("s3://bucket", "bucket", "", "s3://bucket"),
        ] {
            let url = RepositoryUrl::parse(text.as_ref(), None).unwrap();
            assert_eq!(url, RepositoryUrl::S3 { bucket: bucket.into(), prefix: prefix.into(), endpoint: None });
            assert_eq!((url.to_string().as_str(), url.text().to_str()), (shown, Some(shown)));
            assert_ne!(url.identity(), url.clone().with_endpoint(Some("http://other")).identity());
        }
        assert!(matches!(RepositoryUrl::parse("relative".as_ref(), None), Err(ConfigError::WorkingFolder(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_place_or_refused(bytes: Vec<u8>) {
            if let Ok(RepositoryUrl::Local(path)) = RepositoryUrl::parse(OsStr::from_bytes(&bytes), Some(Path::new("/base"))) {
                prop_assert!(path.is_absolute());
            }
        }
    }
}
