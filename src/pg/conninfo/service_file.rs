//! The service file: `[name]` and below it `key=value` a line (`parseServiceInfo` in fe-connect.c).
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{ConninfoError, Surroundings, file, keywords};

/// Where the system's file lies unless `PGSYSCONFDIR` says so: what Debian's and Red Hat's packages are built with.
const SYSTEM_FOLDERS: [&str; 2] = ["/etc/postgresql-common", "/etc/sysconfig/pgsql"];

/// Pairs of a service. With a file named (`servicefile`, `PGSERVICEFILE`) the user's own isn't read; the system's is
/// looked into wherever the first lacks the service.
pub(super) fn look_up(
    service: &str,
    named: Option<&Path>,
    surroundings: &Surroundings,
) -> Result<Vec<(String, Zeroizing<String>)>, ConninfoError> {
    let mut files = Vec::new();
    if let Some(path) = named {
        files.push((path.to_owned(), true));
    } else if let Some(home) = &surroundings.home {
        files.push((home.join(".pg_service.conf"), false));
    }
    match surroundings.variables.get("PGSYSCONFDIR").filter(|folder| !folder.is_empty()) {
        Some(folder) => files.push((Path::new(folder).join("pg_service.conf"), false)),
        None => files.extend(SYSTEM_FOLDERS.map(|folder| (Path::new(folder).join("pg_service.conf"), false))),
    }
    let mut looked = Vec::new();
    for (path, must_be) in files {
        let text = match file::read(&path) {
            Ok((bytes, _)) => Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if file::is_absent(&error) && !must_be => continue,
            Err(error) => return Err(ConninfoError::ServiceFile { path, line: None, reason: error.to_string() }),
        };
        if let Some(pairs) = find(&text, service, &path)? {
            return Ok(pairs);
        }
        looked.push(path);
    }
    Err(ConninfoError::NoService { service: service.to_owned(), files: looked })
}

type Pairs = Vec<(String, Zeroizing<String>)>;

/// The pairs below the first `[service]`; of a key that comes twice, the first counts.
fn find(text: &str, service: &str, path: &Path) -> Result<Option<Pairs>, ConninfoError> {
    let mut found: Option<Pairs> = None;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if header.strip_suffix(']') == Some(service) {
                found = Some(Vec::new());
            }
            continue;
        }
        let Some(pairs) = &mut found else { continue };
        let pair = pair(line).map_err(|reason| ConninfoError::ServiceFile { path: path.to_owned(), line: Some(at + 1), reason })?;
        if !pairs.iter().any(|(key, _)| *key == pair.0) {
            pairs.push(pair);
        }
    }
    Ok(found)
}

fn pair(line: &str) -> Result<(String, Zeroizing<String>), String> {
    if line.starts_with("ldap:") || line.starts_with("ldaps:") {
        return Err("services in LDAP are not supported: write host, port, user and dbname into the file".to_owned());
    }
    let (key, value) = line.split_once('=').ok_or("a line has no \"=\"")?;
    let key = key.trim();
    if matches!(key, "service" | "servicefile") {
        return Err(format!("{key} may not stand in a service file"));
    }
    let keyword = keywords::find(key).map_err(|error| error.to_string().replace("in the connection string", "in a service"))?;
    Ok((keyword.name.to_owned(), Zeroizing::new(value.trim().to_owned())))
}

/// The file that is named by the string or by the environment.
pub(super) fn named(given: Option<&str>, surroundings: &Surroundings) -> Option<PathBuf> {
    let variable = || surroundings.variables.get("PGSERVICEFILE").filter(|path| !path.is_empty()).map(PathBuf::from);
    given.filter(|path| !path.is_empty()).map(PathBuf::from).or_else(variable)
}
