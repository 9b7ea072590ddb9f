//! Which machine this is, which boot of it, and a clock that nobody sets.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::files::{create_private_folder, read_bounded, replace};
use super::lock::FileLock;
use super::paths::StateDir;
use super::state::StateError;
use crate::units::ids::{hex, unhex};

/// What `/etc/machine-id` is hashed under: the id itself is not to be shown to others (machine-id(5)).
const MACHINE_LABEL: &str = "pgcairn 2026-01 machine id";

/// A machine: equal for all users of it, different elsewhere. Clones of a virtual machine share it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MachineId(pub [u8; 16]);

impl MachineId {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// From `/etc/machine-id`; where there is none, a random id that is kept in the state.
    pub fn of_this_machine(state: &StateDir) -> Result<Self, StateError> {
        match Self::from_file(Path::new("/etc/machine-id")) {
            Some(id) => Ok(id),
            None => Self::from_state(state),
        }
    }

    fn from_file(path: &Path) -> Option<Self> {
        let text = read_bounded(path, 256).ok()??;
        let id = unhex(std::str::from_utf8(&text).ok()?.trim_end())?;
        // All zero, "uninitialized" and the like are what images are shipped with.
        (id.len() == 16 && id.iter().any(|b| *b != 0)).then(|| Self::hashed(&id))
    }

    fn hashed(id: &[u8]) -> Self {
        let mut out = [0; 16];
        blake3::Hasher::new_derive_key(MACHINE_LABEL).update(id).finalize_xof().fill(&mut out);
        MachineId(out)
    }

    fn from_state(state: &StateDir) -> Result<Self, StateError> {
        let path = state.path().join("machine-id");
        let read = || -> Result<Option<Self>, StateError> {
            let text = read_bounded(&path, 256).map_err(|source| StateError::Io { verb: "read", path: path.clone(), source })?;
            let Some(text) = text else { return Ok(None) };
            let id = std::str::from_utf8(&text).ok().and_then(|t| unhex(t.trim_end())).and_then(|id| id.try_into().ok());
            id.map(|id| Some(MachineId(id))).ok_or_else(|| StateError::Corrupt { path: path.clone(), problem: "no id is in it".into() })
        };
        if let Some(id) = read()? {
            return Ok(id);
        }
        let write_failed = |source| StateError::Io { verb: "write", path: path.clone(), source };
        create_private_folder(state.path(), state.owner()).map_err(write_failed)?;
        let _lock = FileLock::acquire_within(&state.path().join("machine-id.lock"), Duration::from_secs(30))?;
        if let Some(id) = read()? {
            return Ok(id);
        }
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|e| StateError::Random(e.to_string()))?;
        replace(&path, format!("{}\n", hex(&id)).as_bytes(), state.owner()).map_err(write_failed)?;
        Ok(MachineId(id))
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex(&self.0))
    }
}

impl fmt::Debug for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MachineId({self})")
    }
}

/// The id of this boot; `None` where the system has none, and then times since boot can't be compared between runs.
pub fn boot_id() -> Option<String> {
    let text = read_bounded(Path::new("/proc/sys/kernel/random/boot_id"), 256).ok()??;
    let id = std::str::from_utf8(&text).ok()?.trim();
    (!id.is_empty()).then(|| id.to_owned())
}

/// Time since boot, time asleep included where the system tells: comparable between processes of one boot, and no
/// clock setting moves it.
pub fn since_boot() -> io::Result<Duration> {
    #[cfg(target_os = "linux")]
    let clock = ClockId::CLOCK_BOOTTIME;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::CLOCK_MONOTONIC;
    Ok(clock_gettime(clock).map_err(io::Error::from)?.into())
}

#[cfg(test)]
mod tests {
    use super::super::env::FixedEnv;
    use super::*;
    use crate::units::Quiet;

    #[test]
    fn the_machine_id_is_hashed_and_else_kept_in_the_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("machine-id");
        let of = |text: &str| {
            std::fs::write(&path, text).unwrap();
            MachineId::from_file(&path)
        };
        let id = of("00112233445566778899aabbccddeeff\n").unwrap();
        assert_eq!(of("00112233445566778899aabbccddeeff"), Some(id));
        assert_ne!(of("10112233445566778899aabbccddeeff\n"), Some(id));
        assert_ne!(id.to_string(), "00112233445566778899aabbccddeeff");
        for none in ["", "\n", "uninitialized\n", "00000000000000000000000000000000\n", "001122\n"] {
            assert_eq!(of(none), None, "{none:?}");
        }
        assert_eq!(MachineId::from_file(&dir.path().join("missing")), None);

        let state = StateDir::open(Some(&dir.path().join("state")), &FixedEnv::empty(dir.path()), &Quiet).unwrap();
        let kept = MachineId::from_state(&state).unwrap();
        assert_eq!(MachineId::from_state(&state).unwrap(), kept);
        std::fs::write(state.path().join("machine-id"), "x").unwrap();
        assert!(matches!(MachineId::from_state(&state), Err(StateError::Corrupt { .. })));
        MachineId::of_this_machine(&StateDir::open(Some(&dir.path().join("s2")), &FixedEnv::empty(dir.path()), &Quiet).unwrap()).unwrap();
    }

    #[test]
    fn time_since_boot_goes_on() {
        let first = since_boot().unwrap();
        assert!(first > Duration::ZERO && since_boot().unwrap() >= first);
        assert_eq!(boot_id(), boot_id());
    }
}
