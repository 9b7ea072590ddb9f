//! The folder beside a target in which WAL is kept that nobody else has.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use super::read;
use crate::restore::RestoreError;
use crate::units::Timestamp;

/// The folder's name: `DIR.wal-saved-20261124-133000`, with a number behind it where that is taken.
pub fn name_for(target: &Path, now: Timestamp) -> PathBuf {
    let time: String = now.to_string().chars().filter(char::is_ascii_digit).take(14).collect();
    let (day, hour) = time.split_at_checked(8).unwrap_or((&time, ""));
    let mut name = target.as_os_str().to_owned();
    name.push(format!(".wal-saved-{day}-{hour}"));
    PathBuf::from(name)
}

/// Copies files into a new folder beside the target, durably, for `owner` (if root does it); those that an earlier
/// restore has saved in `before` with the same bytes are not saved again. The folder, if anything was copied.
///
/// # Errors
/// Those of the operating system; nothing else was touched.
pub fn save(
    target: &Path,
    files: &[PathBuf],
    before: Option<&Path>,
    owner: Option<(u32, u32)>,
    now: Timestamp,
) -> Result<Option<PathBuf>, RestoreError> {
    let mut lacking = Vec::new();
    for file in files {
        let name = file.file_name().unwrap_or_default();
        let saved = before.map(|folder| folder.join(name)).filter(|there| there.is_file());
        if saved.is_none_or(|there| read(&there).ok() != read(file).ok()) {
            lacking.push((file, name.to_owned()));
        }
    }
    if lacking.is_empty() {
        return Ok(None);
    }
    let folder = make(&name_for(target, now), owner)?;
    for (file, name) in lacking {
        copy(file, &folder.join(name), owner)?;
    }
    let durable =
        |path: &Path| File::open(path).and_then(|f| f.sync_all()).map_err(RestoreError::io(format!("syncing {}", path.display())));
    durable(&folder)?;
    durable(folder.parent().unwrap_or(Path::new("/")))?;
    Ok(Some(folder))
}

fn make(wanted: &Path, owner: Option<(u32, u32)>) -> Result<PathBuf, RestoreError> {
    let mut folder = wanted.to_owned();
    for number in 2.. {
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => break,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let mut name: OsString = wanted.as_os_str().to_owned();
                name.push(format!("-{number}"));
                folder = PathBuf::from(name);
            }
            Err(e) => return Err(RestoreError::io(format!("making {}", folder.display()))(e)),
        }
    }
    if let Some((uid, gid)) = owner {
        let given = std::os::unix::fs::lchown(&folder, Some(uid), Some(gid));
        given.map_err(RestoreError::io(format!("giving away {}", folder.display())))?;
    }
    Ok(folder)
}

fn copy(from: &Path, to: &Path, owner: Option<(u32, u32)>) -> Result<(), RestoreError> {
    let what = || format!("saving {} in {}", from.display(), to.display());
    let nofollow = nix::libc::O_NOFOLLOW;
    let copied = || -> io::Result<()> {
        let mut source = OpenOptions::new().read(true).custom_flags(nofollow).open(from)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        io::copy(&mut source, &mut file)?;
        if let Some((uid, gid)) = owner {
            fchown(&file, Some(uid), Some(gid))?;
        }
        file.sync_all()
    };
    copied().map_err(RestoreError::io(what()))?;
    // A copy that isn't one would be found out when it is needed.
    match fs::metadata(from).and_then(|a| Ok((a.len(), fs::metadata(to)?.len()))) {
        Ok((a, b)) if a == b => Ok(()),
        Ok(_) => Err(RestoreError::io(what())(io::Error::other("it changes while it is copied"))),
        Err(e) => Err(RestoreError::io(what())(e)),
    }
}
